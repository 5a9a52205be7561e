"""`open_peer` and `serve_peer`: calls both ways over one link."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

import trio

from ..config import CallLimits
from ..errors import CallError, ProtocolError
from ..nursery import OwnNursery
from ..types import CloseCode, Message
from .answering import Answering
from .attach import Link, attach
from .calling import Calls
from .methods import Invocation, Methods, Middleware, Reply
from .once import Once
from .peer import Peer, PeerStatistics, Tally
from .postbox import ENDED, Postbox
from .streams import Items
from .wire import (
    JSON,
    MSGPACK,
    Call,
    Cancel,
    Error,
    Event,
    Format,
    Item,
    Malformed,
    More,
    Notify,
    Result,
)

__all__ = [
    "JSON",
    "MSGPACK",
    "Event",
    "Format",
    "Invocation",
    "Items",
    "Methods",
    "Middleware",
    "Once",
    "Peer",
    "PeerStatistics",
    "Reply",
    "open_peer",
    "serve_peer",
]

logger = logging.getLogger("trioweb.rpc")

#: What is called with each event, in order with all else.
OnEvent = Callable[[Event], object]


@asynccontextmanager
async def open_peer(
    channel: trio.abc.Channel[Message],
    methods: Methods | None = None,
    *,
    format: Format = JSON,  # noqa: A002 - nothing else says it
    limits: CallLimits = CallLimits(),
    on_event: OnEvent | None = None,
    principal: Any = None,
) -> AsyncGenerator[Peer]:
    """Speak the wire protocol on a channel for the length of a block, which gets the `Peer`.

    ``methods`` are those that the peer may call. ``on_event`` is called with each `Event`, in the
    reader's task: it must be quick, and may not wait. Messages are written in ``format`` and
    understood in both. ``principal`` is as in `attach`; a `Link` is used as it is.

    When the block is left the methods that run are cancelled, with "cancelled" for an answer, and
    the calls of other tasks fail with `CallLost`. At the link's end the same happens, and the block
    goes on until its own. The channel stays the caller's, but for a peer that breaks the protocol:
    after `CallLimits.malformed` messages it is closed with 1007, after `CallLimits.refusals`
    calls whose answers are not read with 1013. The block's exception comes out as it is.
    """
    async with _linked(channel, principal) as link, OwnNursery() as nursery:
        reader = _Reader(link, methods or Methods(), format, limits, on_event, nursery)
        nursery.start_soon(reader.run_quietly, name="peer's reader")
        try:
            yield reader.peer
        finally:
            reader.leave()


async def serve_peer(
    channel: trio.abc.Channel[Message],
    methods: Methods | None = None,
    *,
    format: Format = JSON,  # noqa: A002 - nothing else says it
    limits: CallLimits = CallLimits(),
    on_event: OnEvent | None = None,
    principal: Any = None,
) -> None:
    """Answer a peer's calls until the channel ends; all else is as for `open_peer`.

    A server's handler as it stands. Returns at a clean end, or when it has closed the channel for a
    peer that breaks the protocol; raises what the channel does at any other end.
    """
    async with _linked(channel, principal) as link, OwnNursery() as nursery:
        reader = _Reader(link, methods or Methods(), format, limits, on_event, nursery)
        try:
            await reader.run()
        finally:
            reader.leave()


@asynccontextmanager
async def _linked(channel: trio.abc.Channel[Message], principal: Any) -> AsyncGenerator[Link]:
    if isinstance(channel, Link):
        yield channel
    else:
        async with attach(channel, principal=principal) as link:
            yield link


class _Reader:
    """Reads what a peer sends, and gives it to those whom it concerns. It never waits for them."""

    def __init__(
        self,
        link: Link,
        methods: Methods,
        format_: Format,
        limits: CallLimits,
        on_event: OnEvent | None,
        nursery: trio.Nursery,
    ) -> None:
        postbox = Postbox(link, format_, nursery)
        self._calls = calls = Calls(postbox, limits)
        self._tally = Tally()
        self.peer = Peer(link, format_, calls, limits, self._tally)
        self._link = link
        self._decode = format_.decode
        self._limits = limits
        self._on_event = on_event
        self._answering = answering = Answering(
            self.peer, self._tally, methods, postbox, limits, nursery
        )
        self._misunderstood = False
        self._takers: Mapping[type, Callable[[Any], None]] = {
            Call: answering.take_call,
            Cancel: answering.take_cancel,
            More: answering.take_more,
            Notify: answering.take_notify,
            Result: calls.take_end,
            Item: calls.take_item,
            Error: self._take_error,
            Event: self._take_event,
        }

    async def run(self) -> None:
        """Read until the channel ends; raises what it does, if that was not clean."""
        try:
            async for message in self._link:
                self._take(message)
        except ENDED as error:
            self._end(error)
            raise
        except ProtocolError as error:
            logger.info("closed a peer: %s", error)
            self._end(error)
            await self._link.aclose(error.code, error.reason)
        else:
            self._end(None)

    async def run_quietly(self) -> None:
        """Read until the channel ends, whichever way."""
        with suppress(*ENDED):  # the calls have failed with it
            await self.run()

    def leave(self) -> None:
        """Say that the methods will be cancelled, and end the calls."""
        self._answering.leave()
        self._calls.end(None)

    def _end(self, error: Exception | None) -> None:
        self._link.end(error)
        self._calls.end(error)
        self._answering.end()

    def _take(self, message: Message) -> None:
        try:
            value = self._decode(message)
            self._takers[type(value)](value)
        except Malformed as error:
            self._tally.malformed += 1
            if error.call is not None:
                self._calls.fail(error.call, CallError("invalid-result", str(error)))
            if self._tally.malformed > self._limits.malformed:
                raise ProtocolError(CloseCode.INVALID_DATA, "too many malformed messages") from None
            self._answering.refuse(error.answer)

    def _take_error(self, error: Error) -> None:
        if error.id is not None:
            self._calls.take_end(error)
        elif not self._misunderstood:  # one line is enough, however many it sends
            self._misunderstood = True
            logger.warning("a peer did not understand us: %.200r %.200r", error.code, error.message)

    def _take_event(self, event: Event) -> None:
        if self._on_event is not None:
            try:
                self._on_event(event)
            except Exception:
                logger.exception("on_event failed")
