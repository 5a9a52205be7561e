"""What a session has to say, while there may be nobody to say it to: `Outgoing`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from ..config import LinkLimits, Overflow, Policy, SessionLimits
from ..parking import Parking
from ..protocol.assembler import size_of
from ..types import Message
from .backlog import Backlog

__all__ = ["Outgoing"]


class Outgoing:
    """A bounded queue of messages that outlives its connections; one of them at a time sends.

    A message leaves the queue when the connection has taken it. Whether the peer gets it, nobody
    knows who asks for no answer.
    """

    def __init__(self, limits: SessionLimits) -> None:
        marks = LinkLimits(messages=limits.queue_messages, bytes=limits.queue_bytes)
        self._backlog = Backlog(marks)
        #: What was taken out and is being sent.
        self._in_hand: Message | None = None
        self._work = Parking()
        #: Those who wait for room, or for the end of all.
        self._waiting = Parking()
        self._turnstile = trio.StrictFIFOLock()
        self._error: Callable[[], Exception] | None = None
        #: Messages that were still here at the end.
        self.discarded = 0

    def __len__(self) -> int:
        return self._backlog.messages + (self._in_hand is not None)

    @property
    def size(self) -> int:
        """The bytes of what waits."""
        return self._backlog.bytes + (0 if self._in_hand is None else size_of(self._in_hand))

    @property
    def dropped(self) -> int:
        """Messages that were left out by an overflow policy."""
        return self._backlog.dropped

    @property
    def coalesced(self) -> int:
        """Messages that a newer one of their key has replaced."""
        return self._backlog.coalesced

    async def put(self, message: Message, policy: Policy) -> bool:
        """Queue a message; return False if it was dropped.

        Raises `trio.TooSlowError` if there was no room within ``policy.timeout``, for
        `Overflow.WAIT`; not queued then, and neither when cancelled.
        """
        await trio.lowlevel.checkpoint()
        if policy.overflow is not Overflow.WAIT:
            return self.put_nowait(message, policy)
        if self._turnstile.locked() or not self._backlog.make_room():
            with trio.fail_after(policy.timeout):
                async with self._turnstile:
                    while self._error is None and not self._backlog.make_room():
                        await self._waiting.park()
        return self._put(message, policy)

    def put_nowait(self, message: Message, policy: Policy) -> bool:
        """Queue a message as `put` does, or raise `trio.WouldBlock` where that would wait."""
        if policy.overflow is Overflow.WAIT and (
            self._turnstile.locked() or not self._backlog.make_room()
        ):
            raise trio.WouldBlock
        return self._put(message, policy)

    def _put(self, message: Message, policy: Policy) -> bool:
        if self._error is not None:
            raise self._error()
        taken = self._backlog.put(message, policy)
        self._work.unpark_all()
        return taken

    async def run(self, send: Callable[[Message], Awaitable[object]]) -> None:
        """Send what is queued, in order, until cancelled or ``send`` raises.

        What it was sending then is not lost, but stays the first.
        """
        while True:
            if self._in_hand is None:
                self._in_hand = self._backlog.take()
            if self._in_hand is None:
                self._waiting.unpark_all()
                await self._work.park()
                continue
            await send(self._in_hand)
            self._in_hand = None
            self._waiting.unpark_all()

    async def flush(self) -> None:
        """Wait until nothing is queued."""
        await trio.lowlevel.checkpoint()
        while len(self) and self._error is None:
            await self._waiting.park()

    def end(self, error: Callable[[], Exception]) -> None:
        """Take no more, and discard what waits."""
        if self._error is None:
            self._error = error
            self.discarded = len(self)
            self._backlog.clear()
            self._in_hand = None
            self._waiting.unpark_all()
