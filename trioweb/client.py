"""Clients: `connect` to a server."""

from __future__ import annotations

import ssl
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Literal, NamedTuple
from urllib.parse import urljoin

import trio

from .abc import Observer
from .addresses import Address, Proxy, Via, check_context, choose_proxy
from .config import Deflate, Heartbeat, Limits, Timeouts
from .connection import WebSocket
from .dialing import dial
from .errors import HandshakeInvalid, HandshakeRejected, HandshakeTimeout
from .host import current_host
from .lifecycle import Lifecycle
from .protocol.deflate import check_answer, offer
from .protocol.handshake import Accepted, ClientHandshake
from .protocol.machine import Compression
from .transport import HEAD_READ, Transport, adapt, host_and_port
from .types import Headers, Request, Response, Side

__all__ = ["connect"]

#: Those that lead elsewhere (RFC 9110, 15.4); a handshake is a GET, so all mean the same.
_REDIRECTS = frozenset({301, 302, 303, 307, 308})

#: The headers of the user's that may go to another origin. Any other may be a key, whatever its
#: name: X-Api-Key is on no list of credentials.
_HARMLESS = frozenset({"accept-language", "origin", "user-agent"})


@asynccontextmanager
async def connect(
    url: str,
    *,
    stream: trio.abc.Stream | None = None,
    ssl_context: ssl.SSLContext | None = None,
    proxy: str | Proxy | Literal[True] | None = None,
    redirects: int = 5,
    subprotocols: Sequence[str] = (),
    headers: Mapping[str, str] | Sequence[tuple[str, str]] = (),
    limits: Limits = Limits(),
    timeouts: Timeouts = Timeouts(),
    heartbeat: Heartbeat | None = Heartbeat(),
    deflate: Deflate | None = Deflate(),
    observers: Sequence[Observer] = (),
) -> AsyncGenerator[WebSocket]:
    """Connect to a ``ws://`` or ``wss://`` URL for the length of a block, which gets the WebSocket.

    ``stream`` is used instead of a connection to the URL's host, as it is (TLS is then yours), and
    closed at the end, unless there was a `ValueError`. ``ssl_context`` is the default one for
    ``wss``, with ALPN ``http/1.1``, unless given, and then used as it is. ``headers`` go with the
    request. ``deflate`` offers compression, None none. A normal exit closes with 1000, within
    `Timeouts.close`, and so does one by nothing but the connection's own end; an exit by another
    exception sends 1001 without waiting. What the block raises comes out as it is.

    ``proxy`` is a URL or a `Proxy`; True takes it from the environment, default None: no proxy,
    for a library reads no environment unless told to.

    ``redirects`` is how many of them are followed, 0 none; 5 are what RFC 2068, 10.3 advised,
    and more than a change of scheme, host and path needs. All of them together have the time of one
    connection. To another origin only ``User-Agent``, ``Origin`` and ``Accept-Language`` of the
    headers go along, and where ``subprotocols`` were given it is not followed, for some hold
    tokens; nor is one from ``wss`` to ``ws``, nor any with ``stream``. `WebSocket.request` is the
    last request. A client certificate in ``ssl_context`` is shown to whoever asks for it there.

    Raises `ValueError` for a URL, headers or a proxy that make no sense, `ConnectFailed` if there
    is no connection (`ProxyError`: because of the proxy), `HandshakeRejected` if the server
    answered otherwise, or with a redirect that is not followed, `HandshakeInvalid` if it does not
    speak WebSocket, `HandshakeTimeout` after `Timeouts.connect` or `Timeouts.handshake`,
    `ImportError` for a SOCKS proxy without python-socks.
    """
    check_context(ssl_context)
    if stream is not None and proxy is not None:
        raise ValueError("a stream of your own is already connected: proxy= has no use")
    if redirects < 0:
        raise ValueError(f"redirects must not be negative: {redirects}")
    asked = _Asked(Address.parse(url), Headers(headers).pairs(), subprotocols)
    options = _Options(stream, ssl_context, proxy, redirects, limits, timeouts, deflate)
    opened = await _open(asked, options)
    life = Lifecycle(
        opened.transport,
        Side.CLIENT,
        trailing_data=opened.trailing_data,
        compression=opened.compression,
        limits=limits,
        timeouts=timeouts,
        heartbeat=heartbeat,
        observers=observers,
    )
    ws = WebSocket(
        life,
        request=opened.asked.request(opened.transport.local_address),
        response=Response(101, opened.accepted.headers),
        subprotocol=opened.accepted.subprotocol,
    )
    async with life:
        yield ws


class _Asked(NamedTuple):
    """What a client asks for, and where. Each redirect makes another one."""

    address: Address
    lines: tuple[tuple[str, str], ...]
    subprotocols: Sequence[str]

    def request(self, local_address: object) -> Request:
        lines = [("Host", self.address.authority), *self.lines]
        return Request(
            self.address.target, Headers(lines), client_address=host_and_port(local_address)
        )


class _Options(NamedTuple):
    """How it gets there."""

    stream: trio.abc.Stream | None
    ssl_context: ssl.SSLContext | None
    proxy: Via
    redirects: int
    limits: Limits
    timeouts: Timeouts
    deflate: Deflate | None


class _Opened(NamedTuple):
    """A connection after its handshake."""

    asked: _Asked
    transport: Transport
    accepted: Accepted
    compression: Compression | None
    trailing_data: bytes


async def _open(asked: _Asked, options: _Options) -> _Opened:
    """Connect and shake hands, there and wherever redirects lead."""
    timeouts = options.timeouts
    end = trio.current_time() + timeouts.connect + timeouts.handshake
    followed: list[_Asked] = []
    while True:
        try:
            return await _try(asked, options, end)
        except HandshakeRejected as rejection:
            if rejection.status not in _REDIRECTS or not options.redirects:
                raise
            followed.append(asked)
            try:
                asked = _follow(followed, rejection, options)
            except ValueError as error:
                raise HandshakeRejected(
                    rejection.status, rejection.headers, rejection.body, f"not followed: {error}"
                ) from None


async def _try(asked: _Asked, options: _Options, end: float) -> _Opened:
    """Connect to one place and shake hands."""
    limits, timeouts = options.limits, options.timeouts
    exchange = ClientHandshake(
        asked.address.authority,
        asked.address.target,
        subprotocols=asked.subprotocols,
        headers=asked.lines,
        extensions=() if options.deflate is None else (offer(options.deflate),),
        limits=limits,
        nonce=current_host.get().token_bytes(16),
    )
    request = exchange.request()  # a ValueError comes before anything is opened
    stream: trio.abc.Stream | Transport | None = options.stream
    if stream is None:
        stream = await dial(
            asked.address,
            proxy=choose_proxy(options.proxy, asked.address),
            ssl_context=options.ssl_context,
            limits=limits,
            seconds=_at_most(timeouts.connect, end),
        )
    transport = adapt(stream)
    try:
        seconds = _at_most(timeouts.handshake, end)
        accepted = await _shake_hands(transport, exchange, request, options, seconds)
        compression = _agree(accepted, options.deflate)
    except BaseException:
        with trio.CancelScope(shield=True):  # what is on its way goes on
            await trio.aclose_forcefully(transport)
        raise
    return _Opened(asked, transport, accepted, compression, exchange.trailing_data)


def _at_most(seconds: float, end: float) -> float:
    return max(0, min(seconds, end - trio.current_time()))


def _follow(followed: Sequence[_Asked], rejection: HandshakeRejected, options: _Options) -> _Asked:
    """Decide what to ask for after a redirect (RFC 9110, 10.2.2); `ValueError` if nothing."""
    address, lines, subprotocols = followed[-1]
    if options.stream is not None:
        raise ValueError("a stream of your own leads nowhere else")
    if len(followed) > options.redirects:
        raise ValueError(f"these were more than {options.redirects} redirects")
    places = rejection.headers.get_all("Location")
    if len(places) != 1 or not places[0]:
        raise ValueError("there is no Location, or more than one")
    try:
        scheme, _, rest = urljoin(address.url, places[0]).partition(":")
    except ValueError:  # with a message that may quote more than is good for a log
        raise ValueError("its Location is malformed") from None
    scheme = {"http": "ws", "https": "wss"}.get(scheme.lower(), scheme)
    there = Address.parse(f"{scheme}:{rest.partition('#')[0]}")
    if there in [asked.address for asked in followed]:
        raise ValueError("it leads in a circle")
    if address.tls and not there.tls:
        raise ValueError("it leads from wss to ws")
    if there.origin != address.origin:
        if subprotocols:
            raise ValueError("subprotocols, which may hold a token, do not go to another origin")
        lines = tuple(line for line in lines if line[0].lower() in _HARMLESS)
    return _Asked(there, lines, subprotocols)


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
    options: _Options,
    seconds: float,
) -> Accepted:
    with trio.move_on_after(seconds):
        try:
            rest = memoryview(request)
            while rest:
                rest = rest[await transport.write(rest) :]
            while (accepted := exchange.next_response()) is None:
                rejection = exchange.rejection
                if rejection and options.redirects and rejection.status in _REDIRECTS:
                    raise rejection  # nobody wants to see its body
                exchange.feed(await transport.read(min(options.limits.read, HEAD_READ)))
        except trio.BrokenResourceError as error:
            raise HandshakeInvalid(f"the connection broke during the handshake: {error}") from error
        return accepted
    if exchange.rejection is not None:  # the body is slow, the answer is known
        raise exchange.rejection
    raise HandshakeTimeout(f"no answer to the upgrade within {seconds:.3g} s")
