"""What one peer sends: all by its link, and what may not wait as soon as there is room."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import trio

from ..config import Overflow, Policy
from .attach import Link
from .wire import Format, WireMessage

__all__ = ["ENDED", "Make", "Postbox", "Sent"]

#: What sending raises at the link's end.
ENDED = (trio.BrokenResourceError, trio.ClosedResourceError)

#: Makes a message when there is room for it, so that those who wait hold none; it may be called
#: before, to see.
Make: TypeAlias = Callable[[], WireMessage]
#: Is called in the same step as the message is queued.
Sent: TypeAlias = Callable[[], None]

#: Answers and calls are never dropped: who sends them waits, or holds them.
_KEEP = Policy(Overflow.WAIT)


class _Late(NamedTuple):
    make: Make
    sent: Sent | None


class Postbox:
    """Sends the messages of one peer; any number of tasks may use it.

    All methods but `post` raise what the link raises at its end, and `TypeError` for what cannot be
    encoded.
    """

    __slots__ = ("_format", "_late", "_link", "_nursery")

    def __init__(self, link: Link, format_: Format, nursery: trio.Nursery) -> None:
        self._link = link
        self._format = format_
        self._nursery = nursery
        #: What waits for room, without a task of its own for each.
        self._late: deque[_Late] = deque()

    def offer(self, message: WireMessage) -> bool:
        """Send without waiting; return False if there is no room, or others wait for it."""
        try:
            return self._link.send_nowait(self._format.encode(message), _KEEP)
        except trio.WouldBlock:
            return False

    async def put(self, make: Make, sent: Sent | None = None) -> None:
        """Send, waiting for room; `trio.Cancelled` means that nothing was sent.

        No checkpoint if there is room at once.
        """
        if not self.offer(make()):
            await self._link.send_made(lambda: self._format.encode(make()))
        if sent is not None:
            sent()

    def post(self, make: Make, sent: Sent | None = None) -> None:
        """Send, now or when there is room, without waiting; at the link's end nothing is sent.

        What is posted waits here without a bound: the callers have bounds of their own.
        """
        try:
            if not self._late and self.offer(make()):
                if sent is not None:
                    sent()
                return
        except ENDED:
            return
        self._late.append(_Late(make, sent))
        if len(self._late) == 1:
            self._nursery.start_soon(self._send_late, name="late messages")

    async def _send_late(self) -> None:
        try:
            while self._late:
                await self.put(*self._late[0])
                self._late.popleft()
        except ENDED:
            self._late.clear()
