"""The native framer beside the pure one: the same bytes in, the same frames out, at the same byte.

What may differ is where the pieces of a streamed message are cut, and where a framer pauses.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from trioweb.config import Limits
from trioweb.errors import ProtocolError
from trioweb.protocol import pure
from trioweb.protocol.assembler import Piece
from trioweb.protocol.deflate import Inflater
from trioweb.protocol.frames import ControlFrame, Opcode, Pause
from trioweb.types import Close, Message

from .streams import Setup, cut

try:
    from trioweb.protocol import _frame  # noqa: F401 - one without the other is of no use
    from trioweb.protocol import _framer as native
except ImportError:  # no compiler, or another Python than the one it was built for
    native = None  # type: ignore[assignment]  # a module or None

__all__ = ["NATIVE_IS_THERE", "Change", "check_both", "native"]

NATIVE_IS_THERE = native is not None

#: How a framer is read from: one by one, in bulk, and that of memory which is used again.
_WAYS = ("next", "pull", "borrow")
#: What `pull` is asked for, one after the other: bytes of memory, and messages.
_ASKED = ((2**30, 2**30), (1, 5), (0, 1), (200, 2), (1, 1))


@dataclass(frozen=True)
class Change:
    """What is asked of a framer once so many bytes are fed: pieces up to a limit, or an end."""

    at: int
    limit: float | None = None
    """None: `drop`; else `stream` with this limit."""


_Framer: TypeAlias = "pure.Framer | native.Framer"


def _framer(kind: type[_Framer], setup: Setup) -> _Framer:
    limits = Limits(max_message=setup.max_message, max_fragments=setup.max_fragments)
    inflater = None
    if setup.agreement is not None:
        inflater = Inflater(setup.agreement, setup.side, limits.max_message)
    framer = kind(setup.side, limits, inflater)
    if setup.streams:
        framer.stream(setup.max_message)
    return framer


class _Observer:
    """Feeds one framer, and takes what it has, at most so many events before the next piece."""

    def __init__(self, framer: _Framer, most: int | None, way: str) -> None:
        self.framer = framer
        #: Memory that each read goes to, whatever is still needed of the last one.
        self._shared = bytearray(2**18) if way == "borrow" else None
        #: What came; each with how much had been fed.
        self.events: list[tuple[int, object]] = []
        #: The pieces of a message whose last one has not come.
        self.pieces: list[Message] = []
        self.over = False
        self.fed = 0
        self._most = sys.maxsize if most is None else most
        self._pulls = way != "next"
        self._asked = 0

    def feed(self, data: bytes) -> None:
        self.fed += len(data)
        if self._shared is None or len(data) > len(self._shared):
            self.framer.feed(data)
            self.take(self._most)
            return
        assert not isinstance(self.framer, pure.Framer)
        self._shared[: len(data)] = data
        self.framer.feed(memoryview(self._shared)[: len(data)])
        taken = self._pull(self._most)
        self._shared[: len(data)] = b"\x82" * len(data)
        self.take(self._most - taken)

    def take(self, most: int) -> None:
        """Take what there is, at most so many events; pauses and pieces are none."""
        while most > 0:
            if self._pulls:
                most -= self._pull(most)
                if most <= 0:
                    return
            try:
                found = self.framer.next()
            except ProtocolError as error:
                self._note(("failure", int(error.code), error.reason))
                self._end()
                return
            if found is None:
                return
            if isinstance(found, Pause):
                continue
            if isinstance(found, Piece):
                assert found, "a piece of nothing"
                self.pieces.append(found.data)
                if not found.last:
                    continue
                found = self.joined()
                self.pieces.clear()
            self._note(found)
            most -= 1
            if isinstance(found, ControlFrame) and found.opcode is Opcode.CLOSE:
                assert isinstance(found.payload, Close)
                self._end()
                return

    def _pull(self, most: int) -> int:
        """Take messages in bulk; return how many."""
        assert not isinstance(self.framer, pure.Framer)
        inbox: list[Any] = []
        memory, number = _ASKED[self._asked % len(_ASKED)]
        self._asked += 1
        taken = self.framer.pull(inbox, memory, min(number, most))
        sizes = [_memory(message) for message in inbox]
        assert taken == sum(sizes), (taken, sizes)
        assert sum(sizes[:-1]) < max(memory, 1), "pulled on beyond the mark"
        assert len(inbox) <= min(number, most)
        for message in inbox:
            self._note(message)
        return len(inbox)

    def joined(self) -> Message:
        """Return what has come of the message under way."""
        empty: Message = "" if self.pieces and isinstance(self.pieces[0], str) else b""
        return empty.join(self.pieces)  # type: ignore[arg-type]  # all of a kind

    def _note(self, event: object) -> None:
        self.events.append((self.fed, event))

    def _end(self) -> None:
        """After a close or a failure there is nothing, for ever."""
        self.over = True
        for data in b"", b"\x81\x00\x89\x00\x81\x80\0\0\0\0":
            self.framer.feed(data)
            assert self.framer.next() is None
            if not isinstance(self.framer, pure.Framer):
                assert self.framer.pull([], 1000, 1000) == 0
                assert self.framer.empty


def _pieces(data: bytes, sizes: Sequence[int], changes: Sequence[Change]) -> Iterator[bytes]:
    """Cut into pieces of these sizes, and where something changes."""
    edges = sorted({0, len(data), *(min(change.at, len(data)) for change in changes)})
    for begin, end in itertools.pairwise(edges):
        yield from cut(data[begin:end], sizes)


def _observe(
    framer: _Framer,
    pieces: Sequence[bytes],
    changes: Sequence[Change],
    most: int | None,
    way: str = "next",
) -> _Observer:
    observer = _Observer(framer, most, way)
    due = sorted(changes, key=lambda change: change.at)
    for piece in (b"", *pieces):
        if observer.over:
            break
        observer.feed(piece)
        while due and due[0].at <= observer.fed and not observer.over:
            change = due.pop(0)
            if change.limit is not None:
                framer.stream(change.limit)
            else:
                framer.drop()
                observer._end()
    if not observer.over:
        observer.take(sys.maxsize)
    return observer


def _agree(one: _Observer, other: _Observer) -> bool:
    """Whether the same came; of a last message that fails, one may have passed on less."""
    if one.events != other.events:
        return False
    shorter, longer = sorted((one.joined(), other.joined()), key=len)
    if one.over:
        longer = longer[: len(shorter)]
    return len(shorter) == len(longer) and (shorter == longer or not longer)


def check_both(
    setup: Setup,
    data: bytes,
    *cuttings: Sequence[int],
    changes: Sequence[Change] = (),
    most: int | None = None,
) -> None:
    """Both framers make the same of a stream, whole and in these cuttings, whatever the way.

    With ``most`` at most so many events are taken before the next piece is fed. A message that has
    come in part must be passed on as far by both, where messages are streamed.
    """
    assert native is not None
    for sizes in ((), *cuttings):
        pieces = [*_pieces(data, sizes, changes)]
        by_pure = _observe(_framer(pure.Framer, setup), pieces, changes, most)
        for way in _WAYS:
            seen = _observe(_framer(native.Framer, setup), pieces, changes, most, way)
            assert _agree(seen, by_pure), (
                f"{setup} {changes}\n{data.hex()}\ncut {sizes}, {most} at once, by {way}\n"
                f"native {seen.events} {seen.pieces}\npure {by_pure.events} {by_pure.pieces}"
            )


def _memory(message: object) -> int:
    if isinstance(message, str) and len(message) == 1 and message < "\u0100":
        # Python has one string of each, which may hold its UTF-8 since somebody asked for that.
        return sys.getsizeof(message * 2) - 1
    return sys.getsizeof(message)
