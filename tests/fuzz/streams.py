"""What must hold for a machine and any stream of bytes, cut anywhere: one check for all fuzzers."""

from __future__ import annotations

import itertools
import tracemalloc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from trioweb.config import Deflate, Limits
from trioweb.protocol.deflate import Agreement
from trioweb.protocol.machine import (
    Failed,
    Machine,
    Pause,
    PeerClosed,
    Piece,
    Ping,
    Pong,
)
from trioweb.types import Close, Message, Side, State

from .reference import Ending, Event, judge

__all__ = ["Setup", "check_memory", "check_round_trip", "check_stream", "cut"]

#: Bytes of memory that a machine may take beside what it was fed and what it decoded: its own
#: objects, and what Python fills once (caches, free lists).
_SLACK = 2**16
#: The most that DEFLATE makes of one byte, about (RFC 1951: 258 bytes from two bits).
_RATIO = 1032
#: What a stream inflates in one go (`trioweb.protocol.framer`).
_SLICE = 2**10


@dataclass(frozen=True)
class Setup:
    """One end of a connection, small enough for its limits to be met."""

    side: Side = Side.SERVER
    max_message: int = 1024
    max_fragments: int = 8
    agreement: Agreement | None = None
    #: Whether messages are received in pieces.
    streams: bool = False

    def machine(self, *, fragment: int = 2**16) -> Machine:
        """Return a machine whose connection is open."""
        limits = Limits(
            max_message=self.max_message, max_fragments=self.max_fragments, fragment=fragment
        )
        deflate = None if self.agreement is None else (Deflate(threshold=0), self.agreement)
        masks = (number.to_bytes(4, "big") for number in itertools.count(0x55AA33CC))
        machine = Machine(self.side, limits, lambda _: next(masks), deflate)
        machine.upgraded()
        if self.streams:
            machine.stream(self.max_message)
        return machine

    def ending(self) -> Ending:
        """Say the same to the reference."""
        window, takeover = None, True
        if self.agreement is not None:
            window = self.agreement.window_bits(self.peer)
            takeover = self.agreement.takes_over(self.peer)
        fragments = 2**62 if self.streams else self.max_fragments
        server = self.side is Side.SERVER
        return Ending(server, self.max_message, fragments, window, takeover)

    @property
    def peer(self) -> Side:
        """The other end's side."""
        return Side.CLIENT if self.side is Side.SERVER else Side.SERVER


def cut(data: bytes, sizes: Sequence[int]) -> Iterator[bytes]:
    """Cut into pieces of these sizes, again and again; without sizes there is one piece."""
    at = 0
    for size in itertools.cycle(sizes or [len(data) or 1]):
        if at >= len(data):
            return
        yield data[at : at + max(size, 1)]
        at += max(size, 1)


def _kind(message: Message) -> str:
    return "text" if isinstance(message, str) else "binary"


class Observer:
    """Takes a machine's events, puts pieces together, and checks each event by itself."""

    def __init__(self, machine: Machine, limit: int) -> None:
        self.machine = machine
        self.events: list[Event] = []
        self.failure: int | None = None
        self.calls = 0
        self._limit = limit
        self._under_way: list[Message] = []

    def take(self, most: int | None = None) -> bool:
        """Take events, up to so many; return whether there may be more."""
        for _ in itertools.count() if most is None else range(most):
            self.calls += 1
            event = self.machine.next_event()
            if event is None:
                return False
            self._note(event)
        return True

    def _note(self, event: object) -> None:
        assert self.failure is None, f"an event after the failure: {event!r}"
        match event:
            case str() | bytes():
                assert not self._under_way, "a message inside a message"
                self._message(event)
            case Piece(data, last):
                assert data or last, "a piece of nothing"
                self._under_way.append(data)
                if last:
                    empty: Message = "" if isinstance(data, str) else b""
                    whole = empty.join(self._under_way)  # type: ignore[arg-type]  # all of a kind
                    self._under_way.clear()
                    self._message(whole)
            case Pause():
                pass
            case Ping(payload) | Pong(payload):
                assert len(payload) <= 125
                self.events.append(("ping" if isinstance(event, Ping) else "pong", payload))
                if isinstance(event, Ping):
                    assert event.response() == Pong(payload)
            case PeerClosed(close):
                self.events.append(("close", close.code, close.reason))
                self._end(event.response())
            case Failed(close):
                self.failure = close.code
                assert close.reason, "a failure without a word"
                self._end(event.response())
            case _:
                raise AssertionError(f"not an event: {event!r}")

    def _message(self, message: Message) -> None:
        size = len(message.encode() if isinstance(message, str) else message)
        assert size <= self._limit, f"a message of {size} bytes, limit {self._limit}"
        self.events.append((_kind(message), message))

    def _end(self, answer: Close) -> None:
        """After the end nothing is read, and the answer is a close frame that may be sent."""
        machine = self.machine
        assert not machine.reads
        assert machine.state is State.CLOSING
        machine.feed(b"\x81\x00\x89\x00")
        assert machine.next_event() is None
        frame = machine.close(answer)
        assert self.machine.state is State.CLOSED
        masked = bool(frame[1] & 0x80)
        said = judge(Ending(server=masked, max_message=1, max_fragments=1), frame)
        ((kind, code, _),) = said.events
        assert (kind, code) == ("close", answer.code)
        assert not said.failures
        machine.feed(frame)
        assert machine.next_event() is None


def observe(setup: Setup, pieces: Iterator[bytes], most: int | None = None) -> Observer:
    """Feed a machine; take all events of each piece, or at most so many until the end."""
    observer = Observer(setup.machine(), setup.max_message)
    fed = 0
    for piece in pieces:
        observer.machine.feed(piece)
        observer.take(most)
        fed += len(piece)
    observer.take()
    # Each call that has no end to tell has decoded something: at most one event for two bytes.
    assert observer.calls <= 2 * fed + 2 * len(observer.events) + 8
    return observer


def check_stream(
    setup: Setup, data: bytes, *cuttings: Sequence[int], most: int | None = None
) -> None:
    """A machine makes of a stream what the reference does, whole and in these cuttings.

    With ``most`` at most so many events are taken before the next piece is fed.
    """
    verdict = judge(setup.ending(), data)
    for sizes in ((), *cuttings):
        seen = observe(setup, cut(data, sizes), most)
        assert verdict.allows(seen.events, seen.failure), (
            f"{setup}\n{data.hex()}\ncut {sizes}, {most} at once\n"
            f"events {seen.events}, failure {seen.failure}\nshould be {verdict}"
        )


def check_memory(setup: Setup, pieces: Iterator[bytes], largest: int) -> int:
    """Whatever comes, a machine holds no more than a few messages; return the peak in bytes.

    ``largest`` is the size of the largest piece. Events are dropped as they come.
    """
    machine = setup.machine()
    started = not tracemalloc.is_tracing()
    if started:
        tracemalloc.start()
    try:
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        for piece in pieces:
            machine.feed(piece)
            while machine.next_event() is not None:
                pass
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        if started:
            tracemalloc.stop()
    # A message is there as bytes that came, were unmasked, inflated, decoded (a character of text
    # may take four bytes where it was one on the wire), collected, and put together; what zlib
    # remembers of the window is kept twice while it is shortened.
    window = (
        0 if setup.agreement is None else 2 * 2 ** max(setup.agreement.window_bits(setup.peer), 9)
    )
    slices = _RATIO * _SLICE if setup.streams and setup.agreement is not None else 0
    bound = 12 * (min(setup.max_message, 2**20) + largest) + 2 * window + 6 * slices + _SLACK
    assert peak <= bound, f"{setup}: {peak} bytes at the peak, {bound} allowed"
    return peak


def check_round_trip(
    agreement: Agreement | None,
    sends: Sequence[tuple[Message, bool | None]],
    *,
    side: Side,
    fragment: int,
    sizes: Sequence[int] = (),
) -> None:
    """What one end encodes is what the reference reads, and what the other end decodes."""
    limit = max((len(message) * 4 for message, _ in sends), default=1) + 64
    sender = Setup(side, agreement=agreement)
    receiver = Setup(sender.peer, limit, 2**20, agreement)
    machine = sender.machine(fragment=fragment)
    wire: list[bytes] = []
    expected: list[Event] = []
    for message, compress in sends:
        frames = machine.message(message, compress=compress)
        assert all(len(frame) <= fragment + 14 for frame in frames)
        wire += frames
        expected.append((_kind(message), message))
        if isinstance(message, bytes) and len(message) <= 125:
            wire.append(machine.control(Ping(message)))
            expected.append(("ping", message))
    wire.append(machine.close(Close(1000, "over")))
    expected.append(("close", 1000, "over"))
    data = b"".join(wire)
    verdict = judge(receiver.ending(), data)
    assert verdict.events == expected
    assert not verdict.failures
    assert not verdict.doubts
    for these in ((), sizes):
        seen = observe(receiver, cut(data, these))
        assert (seen.events, seen.failure) == (expected, None)
