"""One connection of a server, from its first byte to its end."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from contextlib import aclosing
from typing import Any, NamedTuple

import trio

from .attendant import Attendant
from .auth import admit, check_handshake, dismiss, identify, real_subprotocols
from .connection import WebSocket, lifecycle_of
from .forwarded import ForwardedError
from .guard import Visit, is_allowed_origin
from .host import current_host
from .lifecycle import Lifecycle
from .listening import enter, name_of
from .options import Options
from .protocol.deflate import Agreement, answer
from .protocol.handshake import BadRequest, ServerHandshake
from .protocol.machine import Compression
from .protocol.proxy import Address, ProxyHeaderError
from .routing import Router
from .transport import (
    HEAD_READ,
    NonblockingTransport,
    SocketTransport,
    StreamTransport,
    Transport,
    host_and_port,
)
from .types import Close, CloseCode, Content, Request, Response, Side

__all__ = ["handshake", "run_handler"]

logger = logging.getLogger("trioweb.server")


async def handshake(
    stream: trio.abc.Stream | SocketTransport,
    options: Options,
    attendant: Attendant,
    draining: trio.Event,
    scopes: set[trio.CancelScope],
    visit: Visit,
) -> WebSocket | None:
    """Turn a fresh stream into a WebSocket, or answer it; None when it is done with.

    Meanwhile its scope is among ``scopes``, which a drain cancels.
    """
    ends: Transport | None = None
    try:
        with trio.move_on_after(options.timeouts.handshake) as scope:
            scopes.add(scope)
            try:
                if options.bare and type(stream) is trio.SocketStream:
                    stream = SocketTransport.from_stream(stream)
                if isinstance(stream, SocketTransport):
                    ends = stream
                    client = _Client(stream, ends, None, "http", visit)
                else:
                    # Asked for its names now: a socket that has broken no longer tells them.
                    ends = StreamTransport(stream)
                    transport, scheme, source = await enter(
                        stream, options.ssl_context, options.proxies
                    )
                    if source is not None and options.proxies and options.proxies.header is None:
                        visit.identify(source)
                    client = _Client(transport, ends, source, scheme, visit)
                return await _Exchange(client, options, attendant, draining, scope).run()
            finally:
                scopes.discard(scope)
        if not draining.is_set():
            logger.info("%s: handshake timeout", name_of(ends))
            visit.count("timeout")
    except BaseExceptionGroup as group:
        # Of the user's nurseries: they were cancelled, and something went wrong on its way out.
        errors, others = group.split(Exception)
        if errors is not None:
            logger.exception("%s: its request failed", name_of(ends), exc_info=errors)
        if others is not None:
            raise others from None
    except ProxyHeaderError as error:
        logger.info("%s: %s", name_of(ends), error)
    except (trio.BrokenResourceError, trio.ClosedResourceError, EOFError) as error:
        cause = error.__cause__ or error
        logger.info("%s: left during the handshake: %s", name_of(ends), cause)
    return None


class _Client(NamedTuple):
    """Who asks."""

    transport: Transport
    #: What has the peer's name for the log.
    ends: Transport
    #: The address in the PROXY header.
    source: Address | None
    scheme: str
    visit: Visit


class _Acceptance(NamedTuple):
    """A request that may become a WebSocket."""

    principal: Any
    subprotocol: str | None
    #: What is agreed on, and the header that says so.
    compression: tuple[Agreement, str] | None


_SWITCHED = Response(101)
_NONE: Mapping[str, str] = {}


class _Exchange:
    """A request and its answer."""

    def __init__(
        self,
        client: _Client,
        options: Options,
        attendant: Attendant,
        draining: trio.Event,
        scope: trio.CancelScope,
    ) -> None:
        self._client = client
        transport = self._transport = client.transport
        self._nonblocking = transport if isinstance(transport, NonblockingTransport) else None
        address = client.source or host_and_port(transport.remote_address)
        self._exchange = ServerHandshake(
            options.limits, client_address=address, scheme=client.scheme
        )
        self._options = options
        self._attendant = attendant
        self._draining = draining
        self._scope = scope

    async def run(self) -> WebSocket | None:
        """Read the request, and either upgrade it or answer it and close."""
        ws: WebSocket | None = None
        try:
            ws = await self._run()
        finally:
            if ws is None:
                with trio.CancelScope(shield=True):  # else it would replace what is on its way
                    await trio.aclose_forcefully(self._transport)
        return ws

    async def _run(self) -> WebSocket | None:
        try:
            read: Request | None = None
            while read is None:
                self._exchange.feed(await self._read())
                read = self._exchange.next_request()
            request = self._as_made(read)
            self._client.visit.identify(request.client_address)
            await trio.lowlevel.checkpoint_if_cancelled()  # too late is too late, and logged so
            if self._client.visit.cut:
                logger.info("%s: cut, too many are being turned away", self._name(request))
                return None
        except BadRequest as bad:
            self._client.visit.count("request")
            await trio.lowlevel.checkpoint_if_cancelled()
            await self._answer(bad.request, bad.response, self._encode(bad.response))
            return None
        options = self._options
        if options.on_request is not None or options.authenticate is not None:
            # The request is here in time. Now the user's functions have theirs.
            time = options.timeouts.handshake + options.timeouts.auth
            self._scope.deadline = trio.current_time() + time
        try:
            decision = await self._decide(request)
            data = self._encode(decision)
        except Exception:
            # The user's check or page failed: this request only (RFC 9110, 15.6.1).
            logger.exception("%.300r from %s failed", request, self._name(request))
            decision = self._refuse("error", 500, "internal error\n")
            data = self._encode(decision)
        if isinstance(decision, Response):
            await self._answer(request, decision, data)
            return None
        await self._write(data)
        return self._open(request, decision)

    def _as_made(self, request: Request) -> Request:
        """Return a request as the client made it, who may be behind trusted proxies."""
        proxies = self._options.proxies
        if proxies is None or proxies.header is None:
            return request
        local = None if self._client.source else self._transport.local_address
        if not proxies.trusts(request.client_address, local):
            return request
        try:
            return proxies.resolve(request)
        except ForwardedError as error:
            raise BadRequest(Response.make(400, f"{error}\n"), request) from None

    async def _decide(self, request: Request) -> _Acceptance | Response:
        """Ask the user's functions what becomes of a request."""
        principal, response = await self._consider(request)
        if response is not None:
            return response
        if self._draining.is_set():  # a check may take its time
            return self._refuse("draining", 503, "going away\n")
        ours, subprotocol = self._options.subprotocols, None
        if ours:
            offered = real_subprotocols(self._options.authenticate, self._exchange.subprotocols)
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
        return self._exchange.respond(decision, current_host.get().now())

    async def _consider(self, request: Request) -> tuple[Any, Response | None]:
        """Decide: the principal of an upgrade, or a plain response."""
        options = self._options
        response = self._client.visit.refusal
        if self._draining.is_set():
            response = self._refuse("draining", 503, "going away\n")
        elif response is None and options.on_request is not None:
            response = await options.on_request(request)
        if response is not None:
            return None, response
        handler = options.handler
        if isinstance(handler, Router) and handler.find(request) is None:
            return None, self._refuse("path", 404, "not found\n")
        if not request.upgrade:
            if options.on_request is not None:
                return None, self._refuse("path", 404, "not found\n")
            headers = {"Upgrade": "websocket", "Sec-WebSocket-Version": "13"}  # RFC 6455, 4.4
            return None, self._refuse("request", 426, "this is a WebSocket\n", headers)
        # Behind a proxy loopback says nothing.
        local = None if options.proxies else host_and_port(self._transport.local_address)
        if not is_allowed_origin(request, options.origins, local_address=local):
            return None, self._refuse("origin", 403, "this origin is not allowed\n")
        if options.authenticate is None:
            return None, None
        checked = await check_handshake(options.authenticate, request, options.timeouts)
        if checked[1] is not None:
            self._client.visit.count("auth")
        return checked

    def _refuse(
        self, reason: str, status: int, text: str, headers: Mapping[str, str] = _NONE
    ) -> Response:
        """Return the answer to what is not let in, and count that."""
        self._client.visit.count(reason)
        return Response.make(status, text, headers)

    def _open(self, request: Request, acceptance: _Acceptance) -> WebSocket:
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
        subprotocol = acceptance.subprotocol
        ws = WebSocket(life, request=request, response=_SWITCHED, subprotocol=subprotocol)
        identify(ws, acceptance.principal)
        return ws

    async def _answer(self, request: Request | None, response: Response, data: bytes) -> None:
        """Send a plain response, and close so that it arrives (RFC 9112, 9.6)."""
        self._scope.deadline = math.inf  # from here on there are others
        await self._write(data)
        name = self._name(request)
        logger.info("%s: answered %s to %.300s", name, response.status, request)
        for observer in self._options.observers:
            try:
                observer.answered(request, response)
            except Exception:
                logger.exception("observer %r failed in answered", observer)
        if response.content is not None and request is not None and request.method != "HEAD":
            try:
                await self._write_content(response.content)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                raise
            except Exception:
                logger.exception("the content of the answer to %.300r failed", request)
                return  # shorter than announced, and without an orderly end
        with trio.move_on_after(self._options.timeouts.close):
            await self._transport.linger()
            await self._transport.aclose()

    def _name(self, request: Request | None) -> str:
        """Name whoever asked, for the log."""
        client = self._client
        address = client.source if request is None else request.client_address
        if not address or address == host_and_port(self._transport.remote_address):
            return name_of(client.ends)
        return f"{address} via {name_of(client.ends)}"

    async def _write_content(self, content: Content) -> None:
        """Write exactly as many bytes as were announced, a piece at a time."""
        rest = content.size
        async with aclosing(content.pieces()) as pieces:
            while rest > 0:
                try:
                    piece = await anext(pieces)
                except StopAsyncIteration:
                    raise RuntimeError(f"it ended {rest} bytes before its size") from None
                except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                    raise RuntimeError("its source broke") from error  # not the peer
                await self._write_on(memoryview(piece)[:rest])
                rest -= len(piece)

    async def _read(self) -> bytes:
        """Read; without waiting if the bytes are there, as those of a request usually are."""
        most = min(self._options.limits.read, HEAD_READ)
        data = None if self._nonblocking is None else self._nonblocking.read_nowait(most)
        return await self._transport.read(most) if data is None else data

    async def _write(self, data: bytes) -> None:
        """Write an answer; without waiting if the kernel has room, as it usually has."""
        await trio.lowlevel.checkpoint_if_cancelled()
        taken = 0 if self._nonblocking is None else self._nonblocking.write_nowait(data)
        if taken < len(data):
            await self._write_on(memoryview(data)[taken:])

    async def _write_on(self, rest: memoryview) -> None:
        """Write, however slow the peer is, as long as there is progress."""
        self._scope.deadline = math.inf
        while rest:
            with trio.move_on_after(self._options.timeouts.write) as scope:
                rest = rest[await self._transport.write(rest) :]
            if scope.cancelled_caught:
                raise trio.BrokenResourceError("write timeout")


async def run_handler(
    ws: WebSocket, options: Options, visit: Visit, admitted: Callable[[WebSocket], None]
) -> None:
    """Admit the peer, run the handler on its connection, and close that when it ends."""
    life = lifecycle_of(ws)
    async with life:
        try:
            if await admit(ws, options.authenticate, options.timeouts):
                visit.admitted(ws.principal)
                admitted(ws)
                await options.handler(ws)
            else:
                visit.count("auth")
        except Exception as error:  # noqa: BLE001 - _report logs it
            if life.is_own_end(error):
                return
            _report(ws, options, error)
            await life.end(Close(CloseCode.INTERNAL_ERROR, "internal error"))
        except BaseExceptionGroup as group:
            # Cancelled, and what went wrong on the way out: only the first goes on.
            errors, others = group.split(Exception)
            if errors is not None and not life.is_own_end(errors):
                _report(ws, options, errors)
            if others is not None:
                raise others from None
        finally:
            dismiss(ws)


def _report(ws: WebSocket, options: Options, error: Exception) -> None:
    """Log what a handler raised, and tell the observers."""
    logger.error("%s: the handler failed", ws.id, exc_info=error)
    for observer in options.observers:
        try:
            observer.handler_failed(ws, error)
        except Exception:
            logger.exception("%s: observer %r failed", ws.id, observer)
