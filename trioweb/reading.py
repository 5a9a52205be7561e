"""The reading role: who reads now, what is decoded, and how the role changes hands.

Reading is a role with one holder at a time. On a non-blocking transport the task that waits in
`receive` holds it and reads by itself, which spares a wake-up for each message. When it has not
come back for one or two looks of the `Attendant`, 50 ms each, the reader task takes the role, so
that pings, pongs and closes are seen while a handler is busy; the next `receive` takes it back.
On any other transport the reader task always has it, for cancelling a read could break the stream.
"""

from __future__ import annotations

import enum
import sys
from collections import deque
from typing import Protocol

import trio

from .attendant import Attendant
from .config import Limits, Timeouts
from .lanes import InLane
from .outbox import Outbox
from .protocol.machine import Failed, Machine, Pause, PeerClosed, Piece, Ping, Pong
from .transport import NonblockingTransport, Transport
from .types import Message

__all__ = ["Reading", "ReadingOwner"]


class ReadingOwner(Protocol):
    """What the reading side tells its connection."""

    def start(self, task: str) -> None:
        """Start the named background task in the connection's nursery."""

    def ended(self) -> bool:
        """Tell whether the connection is over, so that messages are no longer wanted."""
        ...

    def lost(self, error: Exception | None) -> None:
        """Hear of the transport's end, or of the error that broke it."""

    def pong(self, payload: bytes) -> None:
        """Hear of a pong."""

    def peer_ended(self, event: PeerClosed | Failed) -> None:
        """Let a close or a failure take effect: the messages before it are taken."""


#: The first read of a connection, in bytes; a read that came full makes the next one twice as large.
_READ = 2**14


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


class Reading(InLane):
    """The inbox of one connection and the way into it."""

    __slots__ = (
        "_attendant",
        "_changed",
        "_framer",
        "_heard",
        "_limits",
        "_listeners",
        "_machine",
        "_nonblocking",
        "_outbox",
        "_owner",
        "_parked",
        "_read_size",
        "_role",
        "_scope",
        "_started",
        "_timeouts",
        "_transport",
        "_undecoded",
        "_waiting",
        "_work",
        "bytes_received",
        "discarded",
        "eof",
        "last_heard",
        "listed",
        "messages_received",
        "pending",
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
        super().__init__(outbox.turn)
        self._transport = transport
        self._nonblocking = transport if isinstance(transport, NonblockingTransport) else None
        self._machine = machine
        self._framer = machine.framer
        self._outbox = outbox
        self._limits = limits
        self._timeouts = timeouts
        self._attendant = attendant
        self._owner = owner
        self._role = _LEFT
        self._started = False
        self._waiting = False
        self._parked = self._listeners = 0
        self._read_size = min(_READ, limits.read)
        self._scope: trio.CancelScope | None = None
        self._work = trio.lowlevel.ParkingLot()  # the reader task
        self._changed = trio.lowlevel.ParkingLot()  # everybody else
        self._heard = trio.lowlevel.ParkingLot()
        self._undecoded = True  # the handshake may have brought the first frames
        #: The peer's close or failure, not yet in effect.
        self.pending: PeerClosed | Failed | None = None
        self.eof = False
        self.listed = False
        self.last_heard = trio.current_time()
        self.bytes_received = 0
        self.messages_received = 0
        self.discarded = 0

    def begin(self) -> None:
        """Start: the reader task at once where it always reads, else by the attendant's look."""
        if self._nonblocking is None:
            self.wake_reader()
        else:
            self._leave()

    @property
    def paused(self) -> bool:
        """Whether nobody reads because our own side is behind."""
        return self.is_full or self._outbox.control_full

    @property
    def deaf(self) -> bool:
        """Whether silence says nothing about the peer: we do not read, or it has closed."""
        return self.paused or self.pending is not None

    async def wait_message(self) -> None:
        """Wait until the inbox has a message or the connection is over: the slow `receive`.

        Delivers a pending cancellation before anything is taken; cancelling it loses nothing.
        """
        if self._waiting:
            raise trio.BusyResourceError("another task is receiving from this WebSocket")
        self._waiting = True
        inbox, outbox = self.inbox, self._outbox
        self._attend()
        try:
            # What we answered must be out before we wait for more; and one turn of the loop
            # later the next message is often there, which spares the wait on the socket.
            if outbox.data or outbox.control:
                outbox.flush()
            await trio.lowlevel.checkpoint()
            self.turn.taken()
            while not inbox and outbox.open:
                if self._undecoded:
                    self.pull()
                    if not inbox and self.pending is None:
                        # Control frames, or a part of a message: they must not keep the thread.
                        await outbox.wait_control_room()
                elif self.pending is not None:
                    self._owner.peer_ended(self.pending)
                elif self._nonblocking is None:
                    await self._park()
                elif outbox.control and outbox.control_full:
                    await outbox.wait_control_room()
                elif not self._read_nowait(self._nonblocking) and not self.eof:
                    outbox.flush()
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
        if self._nonblocking is not None and not (
            self.inbox or self.pending or self.paused or self._undecoded
        ):
            if self._read_nowait(self._nonblocking):
                self.pull()
        if self.pending is not None and not (self.inbox or self._owner.ended()):
            self._owner.peer_ended(self.pending)

    def pull(self) -> None:
        """Decode until more bytes are needed, the inbox is at its mark, or the peer ended.

        Stops after `Limits.outbox_control` control frames, too: the caller lets others run.
        """
        ended = self._owner.ended()
        if not ended:
            self._pull_plain()
        inbox, next_event = self.inbox, self._machine.next_event
        controls = self._limits.outbox_control
        most_bytes, most_messages = self._limits.inbox_bytes, self._limits.inbox_messages
        while self._undecoded and controls and not (self.paused and not ended):
            event = next_event()
            if event is None:
                self._undecoded = False
            elif isinstance(event, (str, bytes, Piece)):
                data, last = (event.data, event.last) if isinstance(event, Piece) else (event, True)
                self.messages_received += last
                if ended:
                    self.discarded += last
                    most_bytes -= len(data)
                    if most_bytes <= 0:  # others have their turn
                        break
                    continue
                inbox.append(event)
                # Real memory, so that many empty messages count, and wide characters.
                self.inbox_size += sys.getsizeof(data)
                if self.inbox_size >= most_bytes or len(inbox) >= most_messages:
                    self.is_full = True
                if self.paused:
                    break
            elif isinstance(event, Ping):
                self._outbox.put_control(event.response())
                controls -= 1
                if self._outbox.control_full and not ended:
                    break
            elif isinstance(event, Pong):
                self._owner.pong(event.payload)
                controls -= 1
            elif isinstance(event, Pause):
                break
            else:
                self.pending = event
                self._undecoded = False
        if self._parked:
            self._changed.unpark_all()

    def _pull_plain(self) -> None:
        """Decode what needs no second thought, in bulk."""
        inbox, limits = self.inbox, self._limits
        before = len(inbox)
        room = limits.inbox_bytes - self.inbox_size
        self.inbox_size += self._framer.pull(inbox, room, limits.inbox_messages - before)
        self.messages_received += len(inbox) - before
        if self._framer.empty:
            self._undecoded = False
            if self._parked:
                self._changed.unpark_all()
        if self.inbox_size >= limits.inbox_bytes or len(inbox) >= limits.inbox_messages:
            self.is_full = True

    def pop(self) -> Message | Piece:
        """Take the first message out of the inbox, or piece of one, whatever is due."""
        message = self.inbox.popleft()
        if not self.inbox:
            self.emptied()
        return message

    def emptied(self) -> None:
        """Let whoever paused for the inbox go on."""
        super().emptied()
        if self._parked:
            self._changed.unpark_all()

    def discard(self) -> None:
        """Drop the inbox: the user closed the connection."""
        self.discarded += sum(not isinstance(one, Piece) or one.last for one in self.inbox)
        self.inbox.clear()
        self.emptied()

    def wake(self) -> None:
        """Let everyone look again: the connection is over, and the reader reads to its end."""
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

    async def wait_heard(self) -> None:
        """Wait for the next bytes from the peer, whatever they are."""
        self._listeners += 1
        try:
            await self._heard.park()
        finally:
            self._listeners -= 1

    async def _park(self) -> None:
        self._parked += 1
        try:
            await self._changed.park()
        finally:
            self._parked -= 1

    async def wait_unpaused(self) -> None:
        """Wait until our side reads again, or the peer turns out to have ended."""
        while self.paused and self.pending is None and not self._owner.ended():
            if self._outbox.control_full:
                await self._outbox.wait_control_room()
            else:
                await self._park()

    async def wait_peer_closed(self) -> None:
        """Wait for the peer's close frame, its failure, or the end of the transport."""
        while self._machine.reads and not self.eof:
            await self._park()

    async def wait_eof(self) -> None:
        """Wait for the end of the transport."""
        while not self.eof:
            await self._park()

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
            elif self._undecoded:
                await trio.lowlevel.checkpoint()
                self.pull()
                self._outbox.flush()
            else:
                with trio.CancelScope() as self._scope:
                    await self._read()
                self._scope = None

    async def _read(self) -> None:
        try:
            data = await self._transport.read(self._read_size)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self._lost(error)
            return
        self._feed(data)

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
            if self._owner.ended():
                if not self.eof:
                    self.wake_reader()
            elif not self.listed:
                self.listed = True
                self._attendant.look_after(self)

    def _read_nowait(self, transport: NonblockingTransport) -> bool:
        """Take what is there, if anything is, and decode what needs no second thought."""
        try:
            data = transport.read_nowait(self._read_size)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self._lost(error)
            return False
        if data is None:
            return False
        self._feed(data)
        self._pull_plain()
        return True

    def _feed(self, data: bytes) -> None:
        size = len(data)
        self.last_heard = trio.current_time()
        if self._listeners:
            self._heard.unpark_all()
        if not size:
            self._lost(None)
            return
        self.bytes_received += size
        self._undecoded = True
        self._framer.feed(data)
        if size >= self._read_size:
            self._read_size = min(2 * size, self._limits.read)
        elif self._read_size > _READ and 4 * size < self._read_size:
            self._read_size //= 2

    def _lost(self, error: Exception | None) -> None:
        self.eof = True
        self._changed.unpark_all()
        self._owner.lost(error)
