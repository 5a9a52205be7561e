"""The inbox of one connection: bytes in, messages out, as many as its mark allows.

What is read is decoded until the inbox is at its mark; the rest stays undecoded, for a small read
can hold hundreds of megabytes once inflated. Pings are answered on the way, and the peer's end is
kept until the messages before it are taken.
"""

from __future__ import annotations

import sys
from typing import Protocol

import trio

from .buckets import Meter
from .config import Limits
from .gone import GONE
from .lanes import InLane, current_turns
from .outbox import Outbox
from .parking import Parking
from .protocol.machine import Failed, Machine, Pause, PeerClosed, Piece, Ping, Pong
from .types import Close, CloseCode, Message

__all__ = ["Inbox", "InboxOwner"]

_ABOVE_LIMIT = Close(CloseCode.POLICY_VIOLATION, "rate limit")


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

    def refuse(self, close: Close) -> None:
        """Close for what the peer does."""


class Inbox(InLane):
    """What came and is not taken, and what is known of the peer by it."""

    __slots__ = (
        "_changed",
        "_heard",
        "_limits",
        "_listeners",
        "_machine",
        "_outbox",
        "_owner",
        "_parked",
        "discarded",
        "eof",
        "meter",
        "pending",
    )

    def __init__(self, machine: Machine, outbox: Outbox, limits: Limits, owner: InboxOwner) -> None:
        super().__init__(current_turns()[0], machine.framer, limits, trio.current_time())
        self._machine = machine
        self._outbox = outbox
        self._limits = limits
        self._owner = owner
        self._changed = Parking()
        self._heard = Parking()
        self._parked = self._listeners = 0
        #: The peer's close or failure, not yet in effect.
        self.pending: PeerClosed | Failed | None = None
        self.eof = False
        self.discarded = 0
        #: Holds back what is above a limit of the server's; None: there is none.
        self.meter: Meter | None = None

    @property
    def held(self) -> bool:
        """Whether messages are decoded that may not come in yet."""
        return self.meter is not None and bool(self.meter.ahead)

    @property
    def paused(self) -> bool:
        """Whether nobody reads because our own side is behind."""
        return self.is_full or self._outbox.control_full or self.held

    @property
    def deaf(self) -> bool:
        """Whether silence says nothing about the peer: we do not read, or it has closed."""
        return self.paused or self.pending is not None

    def feed(self, data: bytes | memoryview, *, borrowed: bool = False) -> None:
        """Take what was read; of what is borrowed nothing stays undecoded where it is."""
        now = trio.current_time()
        if self._listeners:
            self._heard.unpark_all()
        if not data:
            self.lost(None)
            return
        self.keep(data, now)
        if borrowed:
            self.pull_plain(now)

    def pull(self) -> None:
        """Decode until more bytes are needed, the inbox is at its mark, or the peer ended.

        Stops after `Limits.outbox_control` control frames, too: the caller lets others run.
        """
        ended = self._owner.ended()
        if not ended:
            self.release()
            if not self.held:
                self.pull_plain()
            ended = self._owner.ended()
        next_event = self._machine.next_event
        controls = self._limits.outbox_control
        most_bytes = self.most_bytes
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
                self._put(event)
                ended = self._owner.ended()  # by a limit, maybe
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

    def _put(self, event: Message | Piece) -> None:
        """Add what took the long way."""
        self.inbox.append(event)
        # Real memory, so that many empty messages count, and wide characters.
        self.inbox_size += _memory(event)
        if self.meter is not None:
            # A piece is no message: it cannot be paid for as one.
            keep = self._hold if isinstance(event, Piece) else self._meter
            keep(self.meter, len(self.inbox) - 1, trio.current_time())
        self.check_marks()

    def pull_plain(self, now: float | None = None) -> None:
        """Decode what needs no second thought, in bulk; ``now`` is the time, if that is known."""
        before = len(self.inbox)
        self.decode()
        if self.meter is not None and len(self.inbox) > before:
            self._meter(self.meter, before, trio.current_time() if now is None else now)
        self.check_marks()
        if self._parked and not self.undecoded:
            self._changed.unpark_all()

    def _meter(self, meter: Meter, start: int, now: float) -> None:
        """Keep back what is above a limit of the messages from ``start`` on."""
        if not meter.covers(self.inbox, start, now):
            self._hold(meter, start, now)

    def _hold(self, meter: Meter, start: int, now: float) -> None:
        held = self.inbox[start:]
        del self.inbox[start:]
        self.inbox_size -= sum(map(_memory, held))
        self._let_in(meter, meter.hold(held, now))

    def release(self) -> None:
        """Let in what was kept back and is due."""
        meter = self.meter
        if meter is not None and meter.ahead and meter.due <= (now := trio.current_time()):
            self._let_in(meter, meter.release(now))
            if self._parked:
                self._changed.unpark_all()

    def _let_in(self, meter: Meter, messages: list[Message | Piece]) -> None:
        self.inbox.extend(messages)
        self.inbox_size += sum(map(_memory, messages))
        if meter.broken:
            self._owner.refuse(_ABOVE_LIMIT)

    async def wait_due(self) -> None:
        """Wait until what is kept back may come in, or something changes."""
        assert self.meter is not None
        with trio.move_on_at(self.meter.due):
            await self.park()
        self.release()

    def emptied(self) -> None:
        """Let whoever paused for the inbox go on."""
        super().emptied()
        if self._parked:
            self._changed.unpark_all()

    def discard(self) -> None:
        """Drop the inbox: the user closed the connection."""
        ahead = [] if self.meter is None else self.meter.ahead
        for messages in (self.inbox, ahead):
            self.discarded += sum(not isinstance(one, Piece) or one.last for one in messages)
            messages.clear()
        self.emptied()

    def disown(self) -> None:
        """Let go of the connection, which is over."""
        self._owner = GONE

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
            elif self.held:
                await self.wait_due()
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


def _memory(message: Message | Piece) -> int:
    return sys.getsizeof(message.data if isinstance(message, Piece) else message)
