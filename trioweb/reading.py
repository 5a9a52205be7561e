"""The reading role: who reads now, and how the role changes hands.

Reading is a role with one holder at a time. On a non-blocking transport the task that waits in
`receive` holds it and reads by itself, which spares a wake-up for each message. When it has not
come back for one or two looks of the `Attendant`, 50 ms each, the reader task takes the role, so
that pings, pongs and closes are seen while a handler is busy; the next `receive` takes it back.
On any other transport the reader task always has it, for cancelling a read could break the stream.
"""

from __future__ import annotations

import enum
import math
from typing import Protocol

import trio

from .attendant import Attendant
from .config import Limits, Timeouts
from .idle import Idle, IdleOwner
from .inbox import Inbox, InboxOwner
from .outbox import Outbox
from .parking import Parking
from .protocol.machine import Machine
from .transport import NonblockingTransport, Transport

__all__ = ["Reading", "ReadingOwner"]

#: A peer is quick if its last two reads came within so many seconds. Its next message is then
#: looked for in so many turns of the loop before the task waits for the socket: a sleep of the
#: whole loop and the waking up cost more than those, and a slow peer costs no more than one.
_QUICK = 0.001
_TURNS = 3


class ReadingOwner(InboxOwner, IdleOwner, Protocol):
    """What the reading side tells its connection."""

    def start(self, task: str) -> None:
        """Start the named background task in the connection's nursery."""


class _Role(enum.Enum):
    #: A task waits in `receive`, and reads.
    ATTENDED = enum.auto()
    #: That task has left; nobody reads.
    LEFT = enum.auto()
    #: The attendant has seen it gone once.
    MISSED = enum.auto()
    #: The reader task reads.
    READER = enum.auto()


_ATTENDED, _LEFT, _MISSED, _READER = _Role


class Reading(Inbox):
    """An inbox, and who fills it."""

    __slots__ = (
        "_attendant",
        "_idle",
        "_nonblocking",
        "_owner",
        "_role",
        "_scope",
        "_started",
        "_timeouts",
        "_transport",
        "_waiting",
        "_work",
        "listed",
    )

    def __init__(
        self,
        transport: Transport,
        machine: Machine,
        outbox: Outbox,
        limits: Limits,
        timeouts: Timeouts,
        attendant: Attendant,
        owner: ReadingOwner,
    ) -> None:
        super().__init__(machine, outbox, limits, owner)
        self._transport = transport
        self._nonblocking = transport if isinstance(transport, NonblockingTransport) else None
        self._timeouts = timeouts
        self._attendant = attendant
        self._owner: ReadingOwner = owner
        self._role = _LEFT
        self._started = False
        self._waiting = False
        self._scope: trio.CancelScope | None = None
        self._work = Parking()  # the reader task
        self.listed = False
        self._idle: Idle | None = None

    def begin(self) -> None:
        """Start: the reader task at once where it always reads, else by the attendant's look."""
        seconds = self._timeouts.idle
        if seconds < math.inf and not self._owner.ended():
            self._idle = Idle(self._attendant, self, self._outbox, self._owner, seconds)
        if self._nonblocking is None:
            self.wake_reader()
        else:
            self._leave()

    async def wait_message(self) -> None:
        """Wait until the inbox has a message or the connection is over: the slow `receive`.

        Delivers a pending cancellation before anything is taken; cancelling it loses nothing.
        """
        if self._waiting:
            raise trio.BusyResourceError("another task is receiving from this WebSocket")
        self._waiting = True
        try:
            self._attend()
            inbox, outbox = self.inbox, self._outbox
            # What we answered must be out before we wait for more; and one turn of the loop
            # later the next message is often there, which spares the wait on the socket.
            if outbox.data or outbox.control:
                outbox.flush()
            await trio.lowlevel.checkpoint()
            self.turn.taken()
            looks = _TURNS if self.pace < _QUICK else 1
            while not inbox and outbox.open:
                if self.meter is not None and self.held:
                    await self.wait_due()
                elif self.undecoded:
                    self.pull()
                    if not inbox and self.pending is None:
                        # Control frames, or a part of a message: they must not keep the thread.
                        await outbox.wait_control_room()
                elif self.pending is not None:
                    self._owner.peer_ended(self.pending)
                elif self._nonblocking is None:
                    await self.park()
                elif outbox.control and outbox.control_full:
                    await outbox.wait_control_room()
                elif not self._read_nowait(self._nonblocking) and not self.eof:
                    outbox.flush()
                    looks -= 1
                    if looks > 0:
                        await trio.lowlevel.checkpoint()
                    else:
                        await self._nonblocking.wait_readable()
        finally:
            self._waiting = False
            self._leave()

    def receive_nowait(self) -> None:
        """Fill the inbox with what one read gives without waiting."""
        if self._waiting:
            raise trio.BusyResourceError("another task is receiving from this WebSocket")
        if self.inbox or self._owner.ended():
            return
        self.pull()
        behind = self.inbox or self.pending or self.paused or self.undecoded
        if self._nonblocking is not None and not behind and self._read_nowait(self._nonblocking):
            self.pull()
        if self.pending is not None and not (self.inbox or self._owner.ended()):
            self._owner.peer_ended(self.pending)

    def wake(self) -> None:
        """Let everyone look again: the connection is over, and the reader reads to its end."""
        if self._idle is not None:
            self._idle.end()
            self._idle = None
        if self._nonblocking is not None:
            self._nonblocking.interrupt()
        self._heard.unpark_all()
        self._changed.unpark_all()
        if not self.eof:
            self.wake_reader()

    def wake_reader(self) -> None:
        """Give the role to the reader task, unless somebody waits in `receive`."""
        if self._role is not _ATTENDED:
            self._role = _READER
        if self._started:
            self._work.unpark_all()
        else:
            self._started = True
            self._owner.start("reader")

    def look(self) -> bool:
        """Hear the attendant's look; return whether it should look again."""
        if self._role is _LEFT and not self.eof:
            self._role = _MISSED
            return True
        if self._role is _MISSED and not self.eof:
            self.wake_reader()
        self.listed = False
        return False

    async def wait_peer_closed(self) -> None:
        """Wait for the peer's close frame, its failure, or the end of the transport."""
        while self._machine.reads and not self.eof:
            await self.park()

    async def wait_eof(self) -> None:
        """Wait for the end of the transport."""
        while not self.eof:
            await self.park()

    async def wait_quiet(self, seconds: float) -> None:
        """Wait until nothing came for so long, or for the end of the transport."""
        while not self.eof:
            with trio.move_on_after(seconds) as scope:
                await self.wait_heard()
            if scope.cancelled_caught:
                return

    async def run(self) -> None:
        """Read while the role is ours: the reader task."""
        while not self.eof:
            ended = self._owner.ended()
            if not ended and self.pending is not None:
                await self._close_in_time()
            elif not ended and self._role is not _READER:
                await self._work.park()
            elif not ended and self.paused:
                await self.wait_unpaused()
            elif self.undecoded:
                await trio.lowlevel.checkpoint()
                self.pull()
                self._outbox.flush()
            else:
                with trio.CancelScope() as self._scope:
                    await self._read()
                self._scope = None

    async def _read(self) -> None:
        try:
            data = await self._transport.read(self.read_size)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self.lost(error)
            return
        self.feed(data)

    async def _close_in_time(self) -> None:
        """Let a pending end take effect if the handler asks for no message for so long."""
        with trio.move_on_after(self._timeouts.close):
            while not self._owner.ended():
                await self._work.park()
        if self.pending is not None:
            self._owner.peer_ended(self.pending)

    def _attend(self) -> None:
        if self._nonblocking is not None:
            self._role = _ATTENDED
            if self._scope is not None:
                self._scope.cancel()

    def _leave(self) -> None:
        if self._nonblocking is not None:
            self._role = _LEFT
            if not self._outbox.open:
                if not self.eof:
                    self.wake_reader()
            elif not self.listed:
                self.listed = True
                self._attendant.look_after(self)

    def _read_nowait(self, transport: NonblockingTransport) -> bool:
        """Take what is there, if anything is, and decode what needs no second thought."""
        try:
            data = transport.borrow_nowait(self.read_size)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self.lost(error)
            return False
        if data is None:
            return False
        try:
            self.feed(data, borrowed=True)
        except BaseException:
            # A KeyboardInterrupt, say: what was borrowed is looked at no more, and so is the rest.
            self.framer.drop()
            self.lost(None)
            raise
        return True
