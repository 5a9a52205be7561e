"""The inbox of one connection: bytes in, messages out, as many as its mark allows.

What is read is decoded until the inbox is at its mark; the rest stays undecoded, for a small read
can hold hundreds of megabytes once inflated. Pings are answered on the way, and the peer's end is
kept until the messages before it are taken.
"""

from __future__ import annotations

import math
import sys
from typing import Protocol

import trio

from .config import Limits
from .lanes import InLane, current_turns
from .outbox import Outbox
from .parking import Parking
from .protocol.machine import Failed, Machine, Pause, PeerClosed, Piece, Ping, Pong
from .types import Message

__all__ = ["Inbox", "InboxOwner"]

#: The first read of a connection, in bytes; when one comes full the next is twice as large.
_READ = 2**14
_UNBOUNDED = 2**62


class InboxOwner(Protocol):
    """What an inbox tells its connection."""

    def ended(self) -> bool:
        """Tell whether the connection is over, so that messages are no longer wanted."""
        ...

    def lost(self, error: Exception | None) -> None:
        """Hear of the transport's end, or of the error that broke it."""

    def pong(self, payload: bytes) -> None:
        """Hear of a pong."""

    def peer_ended(self, event: PeerClosed | Failed) -> None:
        """Let a close or a failure take effect: the messages before it are taken."""


class Inbox(InLane):
    """What came and is not taken, and what is known of the peer by it."""

    __slots__ = (
        "_changed",
        "_framer",
        "_heard",
        "_limits",
        "_listeners",
        "_machine",
        "_outbox",
        "_owner",
        "_parked",
        "bytes_received",
        "discarded",
        "eof",
        "last_heard",
        "messages_received",
        "pace",
        "pending",
        "read_size",
        "undecoded",
    )

    def __init__(self, machine: Machine, outbox: Outbox, limits: Limits, owner: InboxOwner) -> None:
        super().__init__(current_turns()[0])
        self._machine = machine
        self._framer = machine.framer
        self._outbox = outbox
        self._limits = limits
        self._owner = owner
        self._changed = Parking()
        self._heard = Parking()
        self._parked = self._listeners = 0
        #: How much to read next.
        self.read_size = min(_READ, limits.read)
        #: Whether there may be more to decode; the handshake may have brought the first frames.
        self.undecoded = True
        #: The peer's close or failure, not yet in effect.
        self.pending: PeerClosed | Failed | None = None
        self.eof = False
        self.last_heard = trio.current_time()
        #: Seconds between the last two reads.
        self.pace = math.inf
        self.bytes_received = 0
        self.messages_received = 0
        self.discarded = 0

    @property
    def paused(self) -> bool:
        """Whether nobody reads because our own side is behind."""
        return self.is_full or self._outbox.control_full

    @property
    def deaf(self) -> bool:
        """Whether silence says nothing about the peer: we do not read, or it has closed."""
        return self.paused or self.pending is not None

    def feed(self, data: bytes | memoryview) -> None:
        """Take what was read; `pull_plain` must follow before others run, if it was borrowed."""
        size = len(data)
        now = trio.current_time()
        self.pace = now - self.last_heard
        self.last_heard = now
        if self._listeners:
            self._heard.unpark_all()
        if not size:
            self.lost(None)
            return
        self.bytes_received += size
        self.undecoded = True
        self._framer.feed(data)
        if size >= self.read_size:
            self.read_size = min(2 * size, self._limits.read)
        elif self.read_size > _READ and 4 * size < self.read_size:
            self.read_size //= 2

    def pull(self) -> None:
        """Decode until more bytes are needed, the inbox is at its mark, or the peer ended.

        Stops after `Limits.outbox_control` control frames, too: the caller lets others run.
        """
        ended = self._owner.ended()
        if not ended:
            self.pull_plain()
        inbox, next_event = self.inbox, self._machine.next_event
        controls = self._limits.outbox_control
        most_bytes, most_messages = self._limits.inbox_bytes, self._limits.inbox_messages
        while self.undecoded and controls and not (self.paused and not ended):
            event = next_event()
            if event is None:
                self.undecoded = False
            elif isinstance(event, (str, bytes, Piece)):
                data, last = (event.data, event.last) if isinstance(event, Piece) else (event, True)
                self.messages_received += last
                if ended:
                    self.discarded += last
                    most_bytes -= sys.getsizeof(data)
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
                self.undecoded = False
        if self._parked:
            self._changed.unpark_all()

    def pull_plain(self) -> None:
        """Decode what needs no second thought, in bulk."""
        inbox, limits = self.inbox, self._limits
        before = len(inbox)
        room = min(limits.inbox_bytes, _UNBOUNDED) - self.inbox_size
        most = min(limits.inbox_messages, _UNBOUNDED) - before
        self.inbox_size += self._framer.pull(inbox, int(room), int(most))
        self.messages_received += len(inbox) - before
        if self._framer.empty:
            self.undecoded = False
            if self._parked:
                self._changed.unpark_all()
        if self.inbox_size >= limits.inbox_bytes or len(inbox) >= limits.inbox_messages:
            self.is_full = True

    def pop(self) -> Message | Piece:
        """Take the first message out of the inbox, or piece of one, whatever is due."""
        message = self.inbox.pop(0)
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

    async def wait_heard(self) -> None:
        """Wait for the next bytes from the peer, whatever they are."""
        self._listeners += 1
        try:
            await self._heard.park()
        finally:
            self._listeners -= 1

    async def wait_unpaused(self) -> None:
        """Wait until our side reads again, or the peer turns out to have ended."""
        while self.paused and self.pending is None and not self._owner.ended():
            if self._outbox.control_full:
                await self._outbox.wait_control_room()
            else:
                await self.park()

    async def park(self) -> None:
        """Wait until something here changes."""
        self._parked += 1
        try:
            await self._changed.park()
        finally:
            self._parked -= 1

    def lost(self, error: Exception | None) -> None:
        """Take the end of the transport, or the error that broke it."""
        self.eof = True
        self._changed.unpark_all()
        self._owner.lost(error)
