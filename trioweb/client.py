"""Clients: `connect` to a server."""

from __future__ import annotations

import ssl
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

import trio

from .abc import Observer
from .config import Deflate, Heartbeat, Limits, Timeouts
from .connection import WebSocket
from .errors import ConnectFailed, HandshakeInvalid, HandshakeTimeout
from .host import current_host
from .lifecycle import Lifecycle
from .protocol.deflate import check_answer, offer
from .protocol.handshake import Accepted, ClientHandshake
from .protocol.machine import Compression
from .transport import Transport, adapt
from .types import Headers, Request, Response, Side

__all__ = ["connect"]


@dataclass(frozen=True, slots=True)
class _Address:
    """The parts of a WebSocket URL (RFC 6455, 3)."""

    host: str
    port: int
    #: What the Host header says: without the port where that is the scheme's own.
    authority: str
    target: str
    tls: bool

    @classmethod
    def parse(cls, url: str) -> _Address:
        parts = urlsplit(url)
        if parts.scheme not in ("ws", "wss"):
            raise ValueError(f"not a ws:// or wss:// URL: {url!r}")
        if not parts.hostname:
            raise ValueError(f"no host in {url!r}")
        if "#" in url:
            raise ValueError("a WebSocket URL has no fragment (RFC 6455, 3)")
        if parts.username is not None:
            raise ValueError("credentials belong in headers=, not in the URL")
        tls = parts.scheme == "wss"
        usual = 443 if tls else 80
        port = usual if parts.port is None else parts.port
        host = parts.hostname
        if not host.isascii():
            host = host.encode("idna").decode("ascii")  # UnicodeError is a ValueError
        name = f"[{host}]" if ":" in host else host
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        return cls(host, port, name if port == usual else f"{name}:{port}", target, tls)


@asynccontextmanager
async def connect(
    url: str,
    *,
    stream: trio.abc.Stream | None = None,
    ssl_context: ssl.SSLContext | None = None,
    subprotocols: Sequence[str] = (),
    headers: Mapping[str, str] | Sequence[tuple[str, str]] = (),
    limits: Limits = Limits(),
    timeouts: Timeouts = Timeouts(),
    heartbeat: Heartbeat | None = Heartbeat(),
    deflate: Deflate | None = None,
    observers: Sequence[Observer] = (),
) -> AsyncGenerator[WebSocket]:
    """Connect to a ``ws://`` or ``wss://`` URL for the length of a block, which gets the WebSocket.

    ``stream`` is used instead of a connection to the URL's host, as it is (TLS is then yours), and
    closed at the end. ``ssl_context`` is the default one for ``wss`` unless given. ``headers`` go
    with the request. ``deflate`` offers compression; default None: none. A normal exit closes with
    1000, within `Timeouts.close`; an exit by an exception sends 1001 without waiting, and what
    the block raises comes out as it is.

    Raises `ValueError` for a URL or headers that make no sense, `ConnectFailed` if there is no
    connection, `HandshakeRejected` if the server answered otherwise, `HandshakeInvalid` if it does
    not speak WebSocket, `HandshakeTimeout` after `Timeouts.connect` or `Timeouts.handshake`.
    """
    address = _Address.parse(url)
    lines = Headers(headers).pairs()
    if ssl_context is not None and ssl_context.protocol is ssl.PROTOCOL_TLS_SERVER:
        raise ValueError("ssl_context is a server's: create_default_context() makes a client's")
    exchange = ClientHandshake(
        address.authority,
        address.target,
        subprotocols=subprotocols,
        headers=lines,
        extensions=() if deflate is None else (offer(deflate),),
        limits=limits,
        nonce=current_host.get().token_bytes(16),
    )
    request = exchange.request()
    if stream is None:
        stream = await _open(address, ssl_context, timeouts)
    transport = adapt(stream)
    try:
        accepted = await _shake_hands(transport, exchange, request, limits, timeouts)
        compression = _agree(accepted, deflate)
    except BaseException:
        await trio.aclose_forcefully(transport)
        raise
    life = Lifecycle(
        transport,
        Side.CLIENT,
        trailing_data=exchange.trailing_data,
        compression=compression,
        limits=limits,
        timeouts=timeouts,
        heartbeat=heartbeat,
        observers=observers,
    )
    ws = WebSocket(
        life,
        request=Request(address.target, Headers(lines), client_address=transport.local_address),
        response=Response(101, accepted.headers),
        subprotocol=accepted.subprotocol,
    )
    async with life:
        yield ws


async def _open(
    address: _Address, ssl_context: ssl.SSLContext | None, timeouts: Timeouts
) -> trio.abc.Stream:
    where = f"{address.host}:{address.port}"
    with trio.move_on_after(timeouts.connect):
        try:
            tcp = await current_host.get().open_stream(address.host, address.port)
        except OSError as error:
            raise ConnectFailed(f"no connection to {where}: {error}") from error
        if not address.tls:
            return tcp
        context = ssl_context or ssl.create_default_context()
        tls = tcp
        try:
            tls = trio.SSLStream(tcp, context, server_hostname=address.host, https_compatible=True)
            await tls.do_handshake()
        except trio.BrokenResourceError as error:
            await trio.aclose_forcefully(tls)
            raise ConnectFailed(f"no TLS with {where}: {error.__cause__ or error}") from error
        except BaseException:
            await trio.aclose_forcefully(tls)
            raise
        return tls
    raise HandshakeTimeout(f"no connection to {where} within {timeouts.connect} s")


def _agree(accepted: Accepted, deflate: Deflate | None) -> Compression | None:
    try:
        agreement = check_answer(accepted.extensions, deflate)
    except ValueError as error:
        raise HandshakeInvalid(f"the server chose {error}") from error
    return None if agreement is None or deflate is None else (deflate, agreement)


async def _shake_hands(
    transport: Transport,
    exchange: ClientHandshake,
    request: bytes,
    limits: Limits,
    timeouts: Timeouts,
) -> Accepted:
    with trio.move_on_after(timeouts.handshake):
        try:
            rest = memoryview(request)
            while rest:
                rest = rest[await transport.write(rest) :]
            while (accepted := exchange.next_response()) is None:
                exchange.feed(await transport.read(limits.read))
        except trio.BrokenResourceError as error:
            raise HandshakeInvalid(f"the connection broke during the handshake: {error}") from error
        return accepted
    if exchange.rejection is not None:  # the body is slow, the answer is known
        raise exchange.rejection
    raise HandshakeTimeout(f"no answer to the upgrade within {timeouts.handshake} s")
