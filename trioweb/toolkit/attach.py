"""`attach`: any channel of messages gets a bounded outgoing queue with overflow policies."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import trio

from ..config import LinkLimits, Policy
from ..connection import WebSocket
from ..nursery import OwnNursery
from ..types import CloseCode, Message
from .backlog import Gap
from .ends import CodedChannel, close_channel
from .outgoing import LinkStatistics, Outgoing, SlowConsumer

__all__ = ["Link", "LinkStatistics", "attach"]


class Link(Outgoing, CodedChannel):
    """A channel of messages with a bounded outgoing queue; itself a channel. Made by `attach`.

    Any number of tasks may send; for receiving the channel's own rules hold. What is sent goes
    straight to the channel where that has room and nothing waits, else into the backlog, in order.
    No user's cancel scope ever cancels a write.

    It ends as its channel does, with the channel's exceptions. After an end by `Overflow.CLOSE` all
    raise `trio.BrokenResourceError`.
    """

    __slots__ = ("__weakref__", "_watchers", "principal")

    def __init__(
        self,
        channel: trio.abc.Channel[Message],
        nursery: trio.Nursery,
        limits: LinkLimits,
        policy: Policy,
        gap: Gap | None,
        principal: Any,
    ) -> None:
        super().__init__(channel, nursery, limits, policy, gap)
        #: Who is at the other end, as far as somebody has said so.
        self.principal: Any = principal
        self._watchers: dict[Callable[[Link], None], None] = {}

    async def wait_written(self) -> None:
        """Wait until the channel has taken all that was sent, so that nothing waits here.

        On a `WebSocket` until the transport has. Raises as `send` does.
        """
        await self.flush()
        if self.ended:
            raise self.end_error()
        if isinstance(self._channel, WebSocket):
            await self._channel.wait_written()

    async def receive(self) -> Message:
        """Return the channel's next message; raises what the channel raises."""
        try:
            return await self._channel.receive()
        except trio.ClosedResourceError:
            self._look_refused()
            raise

    async def __anext__(self) -> Message:
        # Not by `receive`: a WebSocket has a way of its own that is quicker.
        try:
            return await self._channel.__anext__()
        except trio.ClosedResourceError:
            self._look_refused()
            raise

    def _look_refused(self) -> None:
        if isinstance(self._error, SlowConsumer):
            raise self.end_error() from None

    async def aclose(self, code: int = CloseCode.NORMAL, reason: str = "") -> None:
        """Close the channel, within `LinkLimits.close` after what waits has left, or not.

        Where the channel can tell them, the peer hears ``code`` and ``reason``.
        """
        try:
            with trio.move_on_after(self._limits.close):
                await self.flush()
        finally:
            self.end(None)
            await close_channel(self._channel, code, reason)

    def watch(self, ended: Callable[[Link], None]) -> None:
        """Call a function once when the link ends: its own end, or the channel's that it met."""
        self._watchers[ended] = None

    def forget(self, ended: Callable[[Link], None]) -> None:
        """Do not call it."""
        self._watchers.pop(ended, None)

    def end(self, error: Exception | None) -> None:
        """Send no more: because of the channel's error, or since the link's time is over."""
        super().end(error)
        watchers, self._watchers = self._watchers, {}
        for ended in watchers:
            ended(self)

    @property
    def channel(self) -> trio.abc.Channel[Message]:
        """What it is attached to."""
        return self._channel

    def __repr__(self) -> str:
        return f"<Link {self.principal!r:.40} of {self._channel!r:.100}>"


@asynccontextmanager
async def attach(
    channel: trio.abc.Channel[Message],
    *,
    limits: LinkLimits = LinkLimits(),
    policy: Policy = Policy(),
    gap: Gap | None = None,
    principal: Any = None,
) -> AsyncGenerator[Link]:
    """Give a channel a bounded outgoing queue for the length of a block, which gets the link.

    The channel stays the caller's: the block does not close it. At the block's normal end what
    waits may leave within `LinkLimits.close`; at an exception or a cancellation it is discarded.
    The block's exception comes out as it is.

    ``policy`` is for messages that are sent without one of their own. ``gap``, called with a count,
    makes the message that tells the receiver how many messages are missing in its place.
    ``principal`` is whatever the application knows of the other end; None: a WebSocket's own.
    """
    if principal is None and isinstance(channel, WebSocket):
        principal = channel.principal
    async with OwnNursery() as nursery:
        link = Link(channel, nursery, limits, policy, gap, principal)
        try:
            yield link
            with trio.move_on_after(limits.close):
                await link.flush()
        finally:
            link.end(None)
