"""One connection of a server, from its first byte to its end."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ssl import SSLContext
from typing import Any, cast

import trio

from .abc import Observer
from .attendant import Attendant
from .auth import Authenticate, FirstMessage, check_handshake
from .config import Deflate, Heartbeat, Limits, Timeouts
from .connection import WebSocket
from .errors import ConnectionEnded
from .guard import is_allowed_origin
from .lifecycle import Lifecycle
from .pages import OnRequest
from .protocol.deflate import Agreement, answer
from .protocol.handshake import BadRequest, ServerHandshake
from .protocol.machine import Compression
from .routing import Handler, Router
from .transport import StreamTransport, Transport, adapt, as_tls
from .types import Close, CloseCode, Headers, Request, Response, Side

__all__ = ["Options", "Upgraded", "handshake", "run_handler"]

logger = logging.getLogger("trioweb.server")


@dataclass(frozen=True, slots=True)
class Options:
    """What `serve` was told."""

    handler: Handler
    ssl_context: SSLContext | None
    subprotocols: Sequence[str] | Callable[[Sequence[str]], str | None]
    origins: Sequence[str] | None
    authenticate: Authenticate
    on_request: OnRequest | None
    limits: Limits
    timeouts: Timeouts
    heartbeat: Heartbeat | None
    deflate: Deflate | None
    observers: Sequence[Observer]


@dataclass(frozen=True, slots=True)
class Upgraded:
    """A connection that became a WebSocket."""

    ws: WebSocket
    life: Lifecycle


async def handshake(
    stream: trio.abc.Stream, options: Options, attendant: Attendant, draining: trio.Event
) -> Upgraded | None:
    """Turn a fresh stream into a WebSocket, or answer it; None when it is done with."""
    peer = _peer(stream)
    if options.ssl_context is not None:
        stream = trio.SSLStream(stream, options.ssl_context, server_side=True)
    try:
        with trio.move_on_after(options.timeouts.handshake) as scope:
            if (tls := as_tls(stream)) is not None:
                await tls.do_handshake()
            transport = adapt(stream)
            exchange = ServerHandshake(options.limits, client_address=transport.remote_address)
            return await _Exchange(transport, exchange, options, attendant, draining, scope).run()
        logger.info("%s: handshake timeout", peer)
    except (trio.BrokenResourceError, trio.ClosedResourceError, EOFError) as error:
        logger.info("%s: left during the handshake: %s", peer, error)
    return None


@dataclass(frozen=True, slots=True)
class _Acceptance:
    """A request that may become a WebSocket."""

    principal: Any
    subprotocol: str | None
    #: What is agreed on, and the header that says so.
    compression: tuple[Agreement, str] | None


_GOING_AWAY = Response.make(503, "going away\n")


class _Exchange:
    """A request and its answer."""

    def __init__(
        self,
        transport: Transport,
        exchange: ServerHandshake,
        options: Options,
        attendant: Attendant,
        draining: trio.Event,
        scope: trio.CancelScope,
    ) -> None:
        self._scope = scope
        self._transport = transport
        self._exchange = exchange
        self._options = options
        self._attendant = attendant
        self._draining = draining

    async def run(self) -> Upgraded | None:
        """Read the request, and either upgrade it or answer it and close."""
        upgraded: Upgraded | None = None
        try:
            upgraded = await self._run()
        finally:
            if upgraded is None:
                await trio.aclose_forcefully(self._transport)
        return upgraded

    async def _run(self) -> Upgraded | None:
        try:
            while (request := self._exchange.next_request()) is None:
                self._exchange.feed(await self._transport.read(self._options.limits.read))
        except BadRequest as bad:
            await self._answer(bad.request, bad.response, self._exchange.respond(bad.response))
            return None
        # The request is here in time. Now the user's functions, and then the answer, have theirs.
        timeouts = self._options.timeouts
        self._scope.deadline = trio.current_time() + timeouts.handshake + timeouts.auth
        try:
            decision = await self._decide(request)
            data = self._encode(decision)
        except Exception:
            # The user's check or page failed: this request only (RFC 9110, 15.6.1).
            logger.exception("%r from %s failed", request, self._transport.remote_address)
            decision = Response.make(500, "internal error\n")
            data = self._encode(decision)
        if isinstance(decision, Response):
            await self._answer(request, decision, data)
            return None
        await self._write(data)
        return self._open(request, decision)

    async def _decide(self, request: Request) -> _Acceptance | Response:
        """Ask the user's functions what becomes of a request."""
        principal, response = await self._consider(request)
        if response is not None:
            return response
        if self._draining.is_set():  # a check may take its time
            return _GOING_AWAY
        offered, ours = self._exchange.subprotocols, self._options.subprotocols
        if callable(ours):
            subprotocol = ours(offered)
        else:
            subprotocol = next((name for name in ours if name in offered), None)
        deflate = self._options.deflate
        compression = None if deflate is None else answer(self._exchange.extensions, deflate)
        return _Acceptance(principal, subprotocol, compression)

    def _encode(self, decision: _Acceptance | Response) -> bytes:
        if isinstance(decision, _Acceptance):
            chosen = () if decision.compression is None else (decision.compression[1],)
            return self._exchange.accept(subprotocol=decision.subprotocol, extensions=chosen)
        return self._exchange.respond(decision)

    async def _consider(self, request: Request) -> tuple[Any, Response | None]:
        """Decide: the principal of an upgrade, or a plain response."""
        options = self._options
        if self._draining.is_set():
            return None, _GOING_AWAY
        if options.on_request is not None:
            response = await options.on_request(request)
            if response is not None:
                return None, response
        handler = options.handler
        if isinstance(handler, Router) and handler.find(request) is None:
            return None, Response.make(404, "not found\n")
        if not request.upgrade:
            if options.on_request is not None:
                return None, Response.make(404, "not found\n")
            headers = Headers({"Upgrade": "websocket", "Content-Type": "text/plain"})
            return None, Response(426, headers, b"this is a WebSocket\n")
        if not is_allowed_origin(request, options.origins):
            return None, Response.make(403, "this origin is not allowed\n")
        if options.authenticate is None or isinstance(options.authenticate, FirstMessage):
            return None, None
        return await check_handshake(options.authenticate, request, options.timeouts)

    def _open(self, request: Request, acceptance: _Acceptance) -> Upgraded:
        options = self._options
        compression: Compression | None = None
        if options.deflate is not None and acceptance.compression is not None:
            compression = options.deflate, acceptance.compression[0]
        life = Lifecycle(
            self._transport,
            Side.SERVER,
            trailing_data=self._exchange.trailing_data,
            compression=compression,
            attendant=self._attendant,
            limits=options.limits,
            timeouts=options.timeouts,
            heartbeat=options.heartbeat,
            observers=options.observers,
        )
        ws = WebSocket(
            life,
            request=request,
            response=Response(101),
            subprotocol=acceptance.subprotocol,
            principal=acceptance.principal,
        )
        return Upgraded(ws, life)

    async def _answer(self, request: Request | None, response: Response, data: bytes) -> None:
        """Send a plain response, and close so that it arrives (RFC 9112, 9.6)."""
        logger.info(
            "%s: answered %s to %s", self._transport.remote_address, response.status, request
        )
        for observer in self._options.observers:
            try:
                observer.answered(request, response)
            except Exception:
                logger.exception("observer %r failed in answered", observer)
        await self._write(data)
        # Closing on unread bytes would reset the link and overtake the answer: read to the end.
        await self._transport.send_eof()
        if self._transport.half_closes:
            with trio.move_on_after(self._options.timeouts.close):
                while await self._transport.read(self._options.limits.read):
                    pass
        else:
            with trio.move_on_after(self._options.timeouts.close):
                await self._transport.aclose()

    async def _write(self, data: bytes) -> None:
        """Write the answer, however slow the peer is, as long as there is progress."""
        self._scope.deadline = math.inf
        rest = memoryview(data)
        while rest:
            with trio.move_on_after(self._options.timeouts.write) as scope:
                rest = rest[await self._transport.write(rest) :]
            if scope.cancelled_caught:
                raise trio.BrokenResourceError("write timeout")


async def run_handler(
    upgraded: Upgraded, options: Options, admitted: Callable[[WebSocket], None]
) -> None:
    """Admit the peer, run the handler on its connection, and close that when it ends."""
    ws, life = upgraded.ws, upgraded.life
    async with life:
        try:
            check = options.authenticate
            if not isinstance(check, FirstMessage) or await check.admit(ws, options.timeouts):
                admitted(ws)
                await options.handler(ws)
        except Exception as error:  # noqa: BLE001 - _report logs it
            if _is_own_end(error, life):
                return
            _report(upgraded, options, error)
            await life.end(Close(CloseCode.INTERNAL_ERROR, "internal error"))
        except BaseExceptionGroup as group:
            # Cancelled, and what went wrong on the way out: only the first goes on.
            errors, others = group.split(Exception)
            if errors is not None and not _is_own_end(errors, life):
                _report(upgraded, options, errors)
            if others is not None:
                raise others from None


def _report(upgraded: Upgraded, options: Options, error: Exception) -> None:
    """Log what a handler raised, and tell the observers."""
    logger.error("%s: the handler failed", upgraded.ws.id, exc_info=error)
    for observer in options.observers:
        try:
            observer.handler_failed(upgraded.ws, error)
        except Exception:
            logger.exception("%s: observer %r failed", upgraded.ws.id, observer)


def _is_own_end(error: Exception, life: Lifecycle) -> bool:
    """Tell whether an exception is nothing but the end of its own connection, or several."""
    if isinstance(error, ExceptionGroup):
        parts = cast("ExceptionGroup[Exception]", error).exceptions
        return all(_is_own_end(part, life) for part in parts)
    return isinstance(error, ConnectionEnded) and error.close is life.closed


def _peer(stream: trio.abc.Stream) -> str:
    """Name a peer that has no connection yet, for the log."""
    return str(StreamTransport(stream).remote_address or "a peer")
