"""The bounded outgoing queue of one connection, and the only writer to its transport.

A frame that finds the queue idle goes straight to a non-blocking transport. What the kernel does
not take, and everything on other transports, is left to the writer task, which starts when it is
first needed. Control frames overtake data between frames.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import Protocol, TypeAlias

import trio

from .attendant import Attendant
from .config import Limits, Timeouts
from .gone import GONE
from .lanes import OutLane, current_turns
from .parking import Parking
from .protocol.assembler import size_of
from .protocol.machine import Machine, Ping, Pong
from .transport import NonblockingTransport, Transport
from .types import Close, Message

__all__ = ["Outbox", "OutboxOwner"]

#: A message that waits for the end of another, which leaves in pieces: encoded already, or not
#: yet, for it may be compressed with what went before it.
_Waiting: TypeAlias = list[bytes] | tuple[Message, bool | None]


logger = logging.getLogger("trioweb.connection")


class OutboxOwner(Protocol):
    """What an outbox tells its connection."""

    def start(self, task: str) -> None:
        """Start the named background task in the connection's nursery."""

    def ended(self) -> bool:
        """Tell whether the connection is over, so that waiting is pointless."""
        ...

    def lost(self, error: Exception | None) -> None:
        """Hear that the transport broke."""

    def stalled(self) -> None:
        """Hear that nothing could be written for `Timeouts.write`."""


class Outbox(OutLane):
    """Queue and writer. Any task may put; nothing but the ``wait_`` methods and `run` awaits."""

    __slots__ = (
        "_attendant",
        "_behind",
        "_behind_size",
        "_changed",
        "_limits",
        "_machine",
        "_nonblocking",
        "_owner",
        "_retired",
        "_started",
        "_timeout",
        "_transport",
        "_turnstile",
        "_work",
        "_writing",
        "dropped",
        "streams",
    )

    def __init__(
        self,
        transport: Transport,
        machine: Machine,
        attendant: Attendant,
        limits: Limits,
        timeouts: Timeouts,
        owner: OutboxOwner,
    ) -> None:
        super().__init__(current_turns()[1], attendant.marked, limits)
        self._attendant = attendant
        self._transport = transport
        self._nonblocking = transport if isinstance(transport, NonblockingTransport) else None
        if self._nonblocking is not None:
            self.write = self._nonblocking.write_nowait
            self.write_both = self._nonblocking.write_both_nowait
        self.plain, self.token_bytes = machine.plain
        self._machine = machine
        self._limits = limits
        self._timeout = timeouts.write
        self._owner = owner
        self._writing = False
        self._started = False
        self._retired = False
        self._work = Parking()
        self._changed = Parking()
        self._turnstile: trio.StrictFIFOLock | None = None
        #: What waits for the end of a message in pieces; None while there is none.
        self._behind: deque[_Waiting] | None = None
        self._behind_size = 0
        #: Who sends a message in pieces, and behind them those who want to, in line.
        self.streams: list[object] = []
        #: Messages that waited behind one in pieces which never came to its end.
        self.dropped = 0

    @property
    def idle(self) -> bool:
        """Whether nothing is queued or being written."""
        return not (self.data or self.control or self._writing) and self.unwritten is None

    @property
    def full(self) -> bool:
        """Whether the queue is at its mark, or senders wait in line already."""
        return self._is_at_mark() or (self._turnstile is not None and self._turnstile.locked())

    def _is_at_mark(self) -> bool:
        behind = 0 if self._behind is None else len(self._behind)
        limits = self._limits
        return self.size >= limits.outbox_bytes or len(self.data) + behind >= limits.outbox_frames

    @property
    def control_full(self) -> bool:
        """Whether so many control frames wait that nobody may read more pings."""
        return len(self.control) >= self._limits.outbox_control

    @property
    def frames(self) -> int:
        """Frames queued; of a message that waits to be encoded, one."""
        count = len(self.data) + len(self.control)
        return count if self._behind is None else count + len(self._behind)

    def put(self, message: Message, *, later: bool = False, compress: bool | None = None) -> None:
        """Queue a message, whatever the marks say; ``later`` leaves the write to a later flush.

        With ``later`` false it is written at once if the queue is idle.
        """
        if self._behind is None:
            self._put_frames(self._machine.message(message, compress=compress), later=later)
        else:
            self._wait_behind((message, compress), size_of(message))

    def put_shared(self, frames: list[bytes], *, later: bool = False) -> None:
        """Queue a message that is encoded for many already; else as `put`."""
        if self._behind is None:
            # Not before they go: what is compressed until then is in front of them.
            self._machine.sent_shared(frames)
            self._put_frames(frames, later=later)
        else:
            self._wait_behind(frames, sum(map(len, frames)))

    def _put_frames(self, frames: list[bytes], *, later: bool) -> None:
        if len(frames) == 1:
            self.enqueue(frames[0], later=later)
            return
        self.messages_sent += 1
        self.data.extend(frames)
        self.size += sum(map(len, frames))
        if later and self._nonblocking is not None:
            self.mark()
        else:
            self.schedule()

    def begin_pieces(self) -> None:
        """Let every other message wait behind the one that now leaves in pieces."""
        self._behind = deque()
        self.detours += 1

    def put_piece(self, frames: list[bytes]) -> None:
        """Queue a piece of it, and write at once what the transport takes."""
        self.data.extend(frames)
        self.size += sum(map(len, frames))
        self.schedule()

    async def wait_piece_room(self) -> None:
        """Wait until a piece may be queued, whatever waits behind it, or all is over."""
        limits = self._limits
        while not self._owner.ended() and (
            self.size - self._behind_size >= limits.outbox_bytes
            or len(self.data) >= limits.outbox_frames
        ):
            await self._park()

    def end_pieces(self) -> None:
        """Let the messages that waited follow: the last piece is queued."""
        if self._behind is not None:
            self.detours -= 1
        waiting, self._behind = self._behind or (), None
        self.size -= self._behind_size
        self._behind_size = 0
        self.messages_sent += 1
        for one in waiting:
            if isinstance(one, list):
                self.put_shared(one, later=True)
            else:
                self.put(one[0], compress=one[1], later=True)

    async def wait_stream(self, who: object) -> None:
        """Wait for the first place in the line of those with messages in pieces, or the end."""
        while self.streams[0] is not who and not self._owner.ended():
            await self._park()

    def _wait_behind(self, message: _Waiting, size: int) -> None:
        assert self._behind is not None
        self._behind.append(message)
        self._behind_size += size
        self.size += size

    def _drop_behind(self) -> None:
        """Drop what waits behind a message that will not come to its end, and count it."""
        if self._behind is not None:
            self.dropped += len(self._behind)
            self.size -= self._behind_size
            self._behind_size = 0
            self._behind = None
            self.detours -= 1

    def put_control(self, event: Ping | Pong, *, now: bool = False) -> None:
        """Queue a ping or pong in front of the data; drop it when nothing may be sent."""
        if self._machine.may_send and not self.dead:
            frame = self._machine.control(event)
            self.control.append(frame)
            self.size += len(frame)
            if now or self._nonblocking is None:
                self.schedule()
            else:
                self.mark()

    def close(self, close: Close) -> None:
        """Queue the close frame behind everything else, and try to write."""
        self._drop_behind()
        if self._machine.may_send and not self.dead:
            frame = self._machine.close(close)
            self.data.append(frame)
            self.size += len(frame)
            self.schedule()

    def disown(self) -> None:
        """Let go of the connection, which is over."""
        self._owner = GONE

    def abandon(self) -> None:
        """Drop what is queued: the connection is over."""
        self._drop_behind()
        self.dead = True
        self.size = 0
        self.data.clear()
        self.control.clear()
        self.unwritten = None
        self._work.unpark_all()
        self._changed.unpark_all()

    def wake(self) -> None:
        """Let everyone who waits here look again."""
        self._changed.unpark_all()

    async def _park(self) -> None:
        self.parked += 1
        try:
            await self._changed.park()
        finally:
            self.parked -= 1

    async def wait_room(self) -> None:
        """Wait until a message may be queued, behind those who wait already, or all is over.

        The caller must queue without awaiting anything in between. Cancelled means not queued.
        """
        if self._turnstile is None:
            self._turnstile = trio.StrictFIFOLock()
        self.detours += 1
        try:
            async with self._turnstile:
                while not self._owner.ended() and self._is_at_mark():
                    await self._park()
        finally:
            self.detours -= 1

    async def wait_control_room(self) -> None:
        """Write, let others run, and wait until a control frame may be queued, or all is over."""
        self.flush()
        await trio.lowlevel.checkpoint()
        while self.control_full and not self._owner.ended():
            await self._park()

    async def wait_written(self) -> None:
        """Wait until the transport has taken everything queued, or the outbox is dead."""
        self.flush()
        while not (self.idle and not self._behind) and not self.dead:
            await self._park()

    def retire_writer(self) -> None:
        """Let the writer task begin nothing new: it is about to be cancelled."""
        self._retired = True

    async def write_last(self) -> None:
        """Write what is queued from the calling task, unless a write is stuck half way."""
        while not (self._writing or self.idle or self.dead):
            await self._write_piece()

    async def run(self) -> None:
        """Write what is left over, each step within `Timeouts.write`: the writer task."""
        while not self.dead:
            if self.idle or self._writing or self._retired:
                await self._work.park()
                continue
            with trio.move_on_after(self._timeout) as scope:
                if self._nonblocking is not None:
                    await self._nonblocking.wait_writable()
                else:
                    await self._write_piece()
            if scope.cancelled_caught:
                self._owner.stalled()
                return
            self.write_all()

    async def _write_piece(self) -> None:
        chunk = self.next_chunk()
        if chunk is None:
            return
        self._writing = True
        try:
            taken = await self._transport.write(chunk)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self._owner.lost(error)
            return
        except trio.Cancelled:
            self.abandon()  # nobody knows how much is out: nothing may follow it
            raise
        finally:
            self._writing = False
        self.took(taken)
        if taken < len(chunk):
            self.unwritten = memoryview(chunk)[taken:]
        self._changed.unpark_all()

    def left_over(self, rest: memoryview) -> None:
        """Leave what the kernel did not take to the writer task."""
        self.unwritten = rest
        self._wake_writer()

    def failed(self, error: Exception) -> None:
        """Hear of a bug in writing, which is to end this connection alone."""
        logger.error("writing failed", exc_info=error)
        self._owner.lost(error)

    def broke(self, error: Exception) -> None:
        """Hear that the transport is broken, or closed."""
        self._owner.lost(error)

    def schedule(self) -> None:
        """See that what is queued is written as soon as can be."""
        if self._nonblocking is None:
            self._wake_writer()
        else:
            self.flush()

    def call_turn(self) -> None:
        """See that what is marked is written at the next turn of the scheduler."""
        self._attendant.wake()

    @property
    def attendant(self) -> Attendant:
        """Who writes what is left to the next turn."""
        return self._attendant

    def _wake_writer(self) -> None:
        if self._started:
            self._work.unpark_all()
        else:
            self._started = True
            self._owner.start("writer")
