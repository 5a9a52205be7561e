"""Connections in memory: two ends, and the bytes that are under way between them.

Nothing here runs by itself. Every byte carries the time of its arrival, and an end that waits
sleeps until the next one; so an idle connection costs no task, and virtual time may jump over it.
"""

from __future__ import annotations

import math
import operator
import random
from collections import deque
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Protocol

import trio

from ..transport import NonblockingTransport
from .faults import Conditions

__all__ = ["Address", "Line", "Tap", "VirtualStream", "Way", "connect_ends"]

#: A host's name and a port.
Address = tuple[str, int]

#: What arrives at once where the bandwidth is limited: about what a packet of Ethernet carries.
_PACKET = 1460


class Tap(Protocol):
    """Hears what happens on the wires, as it is put there; must not raise or change anything."""

    def connected(self, stream: VirtualStream) -> None:
        """Hear of a connection, from the end that opened it."""

    def sent(self, stream: VirtualStream, data: bytes) -> None:
        """Hear what an end has put on the wire."""

    def ended(self, stream: VirtualStream, how: str) -> None:
        """Hear that an end sent ``eof``, was ``closed``, ``reset``, or has ``vanished``."""


class Line(Protocol):
    """What the connections of one link share."""

    @property
    def taps(self) -> list[Tap]:
        """Who hears what crosses."""
        ...

    def allowance(self, size: int) -> int:
        """Return how many of so many bytes may cross before something strikes; at least 1."""
        ...

    def crossed(self, size: int) -> None:
        """Hear that so many bytes are on the wire, and strike if it is time to."""


class Way:
    """One direction of a link, with the state that its connections share."""

    def __init__(self, conditions: Conditions, chance: random.Random) -> None:
        self.conditions = conditions
        self._chance = chance
        #: When the last byte that was sent will have left, at the bandwidth.
        self._free_at = 0.0
        #: The last freeze, or what it and those that it met have come to.
        self._frozen_from = math.inf
        self._frozen_until = -math.inf

    def freeze(self, until: float) -> None:
        """Let nothing arrive from this moment on; a freeze that lasts longer stands."""
        now = trio.current_time()
        if now > self._frozen_until:
            self._frozen_from, self._frozen_until = now, until
        else:
            self._frozen_until = max(self._frozen_until, until)

    def thaw(self) -> None:
        """End a freeze now."""
        self._frozen_until = min(self._frozen_until, trio.current_time())

    def arrival(self, size: int) -> float:
        """Send so many bytes; return when they arrive."""
        conditions = self.conditions
        self._free_at = max(self._free_at, trio.current_time()) + size / conditions.bandwidth
        arrival = self._free_at + conditions.latency
        return (
            arrival + self._chance.uniform(0, conditions.jitter) if conditions.jitter else arrival
        )

    def delayed(self, arrival: float) -> float:
        """Return when that really arrives, given the last freeze."""
        return self._frozen_until if self._frozen_from <= arrival < self._frozen_until else arrival

    def piece(self, size: int) -> int:
        """Return how many of so many bytes move at once."""
        chunk = self.conditions.chunk
        return size if chunk is None else min(size, self._chance.randint(1, chunk))


class _Pipe:
    """What is under way and unread on one direction of one connection, in order.

    Nothing overtakes what was sent before, though its own time may come earlier.
    """

    def __init__(self, way: Way) -> None:
        self.way = way
        self.size = 0
        self._segments: deque[tuple[float, memoryview]] = deque()
        self._eof_at = math.inf

    def put(self, data: bytes | memoryview) -> None:
        rest = memoryview(bytes(data))
        self.size += len(rest)
        # A slow link brings the first bytes of a large write long before the last.
        most = _PACKET if self.way.conditions.bandwidth < math.inf else len(rest)
        while rest:
            segment, rest = rest[:most], rest[most:]
            self._segments.append((self.way.arrival(len(segment)), segment))

    def end(self) -> None:
        self._eof_at = self.way.arrival(0)

    @property
    def next_arrival(self) -> float:
        """When there is, or was, the next byte or the end to read."""
        return self.way.delayed(self._segments[0][0] if self._segments else self._eof_at)

    @property
    def next_byte(self) -> float:
        """When there is, or was, the next byte to read."""
        return self.way.delayed(self._segments[0][0]) if self._segments else math.inf

    def take(self, max_bytes: int) -> bytes | None:
        now = trio.current_time()
        if self.next_arrival > now:
            return None
        room = self.way.piece(max_bytes)
        pieces: list[memoryview] = []
        while room and self._segments and self.way.delayed(self._segments[0][0]) <= now:
            arrival, data = self._segments.popleft()
            if len(data) > room:
                self._segments.appendleft((arrival, data[room:]))
                data = data[:room]
            pieces.append(data)
            room -= len(data)
        taken = b"".join(pieces)
        self.size -= len(taken)
        return taken


class VirtualStream(NonblockingTransport, trio.abc.HalfCloseableStream):
    """One end of a connection in memory: a transport for trioweb, a stream for everybody else.

    Closing it with bytes unread resets the connection, as TCP does, and so do bytes that come
    after. One task waits to read and one writes at a time, else `trio.BusyResourceError`.
    """

    def __init__(
        self,
        local: Address,
        remote: Address,
        outgoing: _Pipe,
        incoming: _Pipe,
        line: Line,
    ) -> None:
        self.local_address: Address = local
        self.remote_address: Address = remote
        self._out = outgoing
        self._in = incoming
        self._line = line
        self._peer: VirtualStream | None = None
        self._broken: str | None = None
        self._eof_sent = False
        self._closed_at = math.inf
        self._aborted = False
        self._interrupts = 0
        self._sending = False
        self._reader = trio.lowlevel.ParkingLot()
        self._writer = trio.lowlevel.ParkingLot()

    @property
    def over(self) -> bool:
        """Whether this end is closed or broken."""
        return self._closed or self._broken is not None

    @property
    def _closed(self) -> bool:
        return self._closed_at < math.inf

    # --- the transport -----------------------------------------------------------------------

    def read_nowait(self, max_bytes: int) -> bytes | None:
        """Return bytes that have arrived, ``b""`` at the end, None where one must wait."""
        self._check()
        data = self._in.take(max_bytes)
        if data and self._peer is not None:
            self._peer._writer.unpark_all()
        return data

    async def wait_readable(self) -> None:
        """Wait until `read_nowait` may have something, or an interrupt."""
        await self._wait(self._reader, lambda: self._in.next_arrival)

    def write_nowait(self, data: bytes | memoryview) -> int:
        """Return how many of the bytes were taken, 0 where one must wait."""
        self._check()
        if self._eof_sent:
            raise trio.ClosedResourceError("nothing can be sent after send_eof")
        room = min(self._out.way.conditions.buffer - self._out.size, len(data))
        if room <= 0:
            return 0
        piece = data[: self._line.allowance(self._out.way.piece(room))]
        for tap in self._line.taps:
            tap.sent(self, bytes(piece))
        self._out.put(piece)
        if self._peer is not None:
            self._peer._reader.unpark_all()
        self._line.crossed(len(piece))
        return len(piece)

    async def wait_writable(self) -> None:
        """Wait until `write_nowait` may take something, or an interrupt."""
        await self._wait(
            self._writer,
            lambda: 0 if self._out.size < self._out.way.conditions.buffer else math.inf,
        )

    def interrupt(self) -> None:
        """Wake whoever waits here."""
        self._interrupts += 1
        self.wake()

    async def send_eof(self) -> None:
        """Send FIN: the peer reads to an end, and may go on writing."""
        with self._sender():
            if not self.over and not self._eof_sent:
                self._send_fin()
                self._tell("eof")
            await trio.lowlevel.checkpoint()

    def close(self) -> None:
        """Close at once: FIN to the peer, or RST if bytes were left unread."""
        self._close("closed")

    def abort(self) -> None:
        """Close at once with RST."""
        self._close("reset")

    # --- the stream --------------------------------------------------------------------------

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Receive as `trio.abc.ReceiveStream` does."""
        size = 2**16 if max_bytes is None else operator.index(max_bytes)
        if size < 1:
            raise ValueError("max_bytes must be at least 1")
        return await self.read(size)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send as `trio.abc.SendStream` does."""
        with self._sender():
            await trio.lowlevel.checkpoint()
            rest = memoryview(bytes(data))
            while True:
                taken = self.write_nowait(rest)  # which raises for an empty rest, too
                rest = rest[taken:]
                if not rest:
                    return
                if not taken:
                    await self.wait_writable()

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until there is room."""
        with self._sender():
            self._check()
            await self.wait_writable()
            self._check()

    # --- what befalls it ---------------------------------------------------------------------

    def fail(self, how: str) -> None:
        """Break this end at once: its unread bytes are lost."""
        if not self.over:
            self._broken = how
            self._tell(how)
        self.interrupt()

    def deafen(self) -> None:
        """Hear no more of the peer than what is under way, and reach it no more: it vanished."""
        self._peer = None

    def wake(self) -> None:
        """Let whoever waits look again: times of arrival have changed."""
        self._reader.unpark_all()
        self._writer.unpark_all()

    # --- parts -------------------------------------------------------------------------------

    @property
    def _reset_at(self) -> float:
        """When the peer's answer to bytes that it leaves unread, for it is closed, comes."""
        if self._peer is None or not self._peer._closed:
            return math.inf
        left = self._peer._closed_at
        if not self._peer._aborted:
            left = max(left, self._out.next_byte)
        return self._in.way.delayed(left + self._in.way.conditions.latency)

    def _check(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("this stream is closed")
        if self._broken is None and self._reset_at <= trio.current_time():
            self.fail("reset")
        if self._broken is not None:
            raise trio.BrokenResourceError(f"the connection was {self._broken}")

    @contextmanager
    def _sender(self) -> Generator[None]:
        if self._sending:
            raise trio.BusyResourceError("another task is sending on this stream already")
        self._sending = True
        try:
            yield
        finally:
            self._sending = False

    async def _wait(self, lot: trio.lowlevel.ParkingLot, ready_at: Callable[[], float]) -> None:
        interrupts = self._interrupts
        waited = False
        while interrupts == self._interrupts and not self.over:
            due = min(ready_at(), self._reset_at)
            if due <= trio.current_time():
                break
            if lot:
                # Whoever was woken and then cancelled must not call another one busy for it.
                await trio.lowlevel.checkpoint_if_cancelled()
                raise trio.BusyResourceError("another task is waiting for this stream already")
            with trio.CancelScope(deadline=due):
                await lot.park()
            waited = True
        if not waited:
            await trio.lowlevel.checkpoint()

    def _close(self, how: str) -> None:
        if self._closed:
            return
        if self._broken is None:
            self._aborted = how == "reset"
            self._tell(how)
            self._send_fin()
        self._closed_at = trio.current_time()
        if self._peer is not None:
            self._peer.wake()
        self.interrupt()

    def _send_fin(self) -> None:
        if not self._eof_sent:
            self._eof_sent = True
            self._out.end()
            if self._peer is not None:
                self._peer._reader.unpark_all()

    def _tell(self, how: str) -> None:
        for tap in self._line.taps:
            tap.ended(self, how)


def connect_ends(
    client: Address, server: Address, ways: tuple[Way, Way], line: Line
) -> tuple[VirtualStream, VirtualStream]:
    """Return the two ends of a new connection; ``ways`` lead to the server and back."""
    there, back = _Pipe(ways[0]), _Pipe(ways[1])
    one = VirtualStream(client, server, there, back, line)
    other = VirtualStream(server, client, back, there, line)
    one._peer, other._peer = other, one
    for tap in line.taps:
        tap.connected(one)
    return one, other
