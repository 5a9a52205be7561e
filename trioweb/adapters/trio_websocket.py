"""Connections of the library trio-websocket as channels, for the toolkit to run on.

The extra ``trio-websocket`` installs that library: ``pip install trioweb[trio-websocket]``.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import trio

from ..connection import check_message
from ..errors import ConnectionBroken, ConnectionClosedByUs, ConnectionEnded, EndOfChannel
from ..protocol.machine import check_close
from ..toolkit.ends import CodedChannel
from ..types import Close, CloseCode, Message

if TYPE_CHECKING:
    from trio_websocket import CloseReason, WebSocketConnection

__all__ = ["TrioWebSocketChannel"]

_CLEAN = frozenset({CloseCode.NORMAL, CloseCode.GOING_AWAY, CloseCode.NO_STATUS})


class TrioWebSocketChannel(CodedChannel):
    """A `trio_websocket.WebSocketConnection` as a channel of ``str`` and ``bytes``.

    It ends as a `trioweb.WebSocket` does, with the same exceptions. Any number of tasks may send;
    a second concurrent `receive` raises `trio.BusyResourceError`. The connection is closed by
    `aclose` within ``close_timeout`` seconds, whatever the peer does; it may also be left to the
    block of trio-websocket that it came from.

    A `send` that is cancelled may have written half a frame. Nothing can follow that: no more is
    sent, and `aclose` cuts the connection. `trioweb.toolkit.attach.attach` sends by a task of its
    own, which no scope of the caller's cancels.
    """

    def __init__(self, connection: WebSocketConnection, *, close_timeout: float = 10) -> None:
        # It is loaded already; here it need not be loaded by those who only read about it.
        from trio_websocket import ConnectionClosed

        if not 0 < close_timeout < math.inf:
            raise ValueError(f"close_timeout must be positive and finite, not {close_timeout!r}")
        #: What this is a channel of.
        self.connection = connection
        self._closed = ConnectionClosed
        self._close_timeout = close_timeout
        #: What our own `aclose` said.
        self._by_us: Close | None = None
        self._receiving = False
        #: Whether a write was given up half way.
        self._torn = False

    async def send(self, value: Message) -> None:
        """Send a message, waiting until the transport has taken it.

        Raises `ConnectionBroken` after the connection's end, `ConnectionClosedByUs` after `aclose`,
        `TypeError` if it is neither str nor bytes.
        """
        message = check_message(value)
        self._check()
        try:
            await self.connection.send_message(message)
        except self._closed as error:
            raise self._end(error.reason, ConnectionBroken) from None
        except trio.Cancelled:
            self._torn = True
            raise

    async def receive(self) -> Message:
        """Return the next message; cancelling this loses none.

        Raises `EndOfChannel` after the peer closed with 1000, 1001 or no code, `ConnectionBroken`
        after any other end, `ConnectionClosedByUs` after `aclose`.
        """
        if self._receiving:
            raise trio.BusyResourceError("another task is receiving")
        if self._by_us is not None:
            await trio.lowlevel.checkpoint()
            raise ConnectionClosedByUs(self._by_us)
        self._receiving = True
        try:
            return await self.connection.get_message()
        except self._closed as error:
            raise self._end(error.reason, EndOfChannel) from None
        finally:
            self._receiving = False

    async def aclose(self, code: int = CloseCode.NORMAL, reason: str = "") -> None:
        """Close: the close frame, then wait for the peer's. When cancelled, cut the connection.

        Raises `ValueError` for a code that may not be sent or a reason above 123 bytes.
        """
        close = check_close(code, reason)
        self._by_us = self._by_us or close
        with trio.move_on_after(0 if self._torn else self._close_timeout):
            await self.connection.aclose(close.code, close.reason or None)
        await trio.lowlevel.checkpoint()

    def _check(self) -> None:
        if self._by_us is not None:
            raise ConnectionClosedByUs(self._by_us)
        if self._torn:
            raise ConnectionBroken(Close(CloseCode.ABNORMAL, "a write was given up half way"))

    def _end(self, why: CloseReason | None, clean: type[ConnectionEnded]) -> ConnectionEnded:
        """Return what to raise for an end: ``clean`` for a clean one by the peer."""
        if self._by_us is not None:
            return ConnectionClosedByUs(self._by_us)
        if why is None:
            return ConnectionBroken(Close(CloseCode.ABNORMAL, "connection lost", by_peer=True))
        close = Close(why.code, why.reason or "", by_peer=True)
        return (clean if close.code in _CLEAN else ConnectionBroken)(close)
