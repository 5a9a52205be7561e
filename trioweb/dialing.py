"""How a client gets a stream of bytes to an address: TCP, TLS, and proxies before them.

Everything up to and with the last TLS handshake happens within one deadline, and what fails
leaves nothing open.
"""

from __future__ import annotations

import base64
import math
import ssl
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, cast

import trio

from .addresses import Address, Proxy
from .config import Limits
from .errors import ConnectFailed, HandshakeTimeout, ProxyError
from .host import current_host
from .protocol.http import ClientExchange, HttpError, check_host
from .tls import speak_tls
from .transport import HEAD_READ, Transport
from .types import Response

if TYPE_CHECKING:
    from python_socks.async_.trio.v2 import Proxy as SocksClient
    from python_socks.async_.trio.v2._stream import TrioSocketStream as SocksStream

__all__ = ["dial"]


async def dial(
    address: Address,
    *,
    proxy: Proxy | None,
    ssl_context: ssl.SSLContext | None,
    limits: Limits,
    seconds: float,
) -> trio.abc.Stream | Transport:
    """Return what leads to an address: TCP or a tunnel, with TLS for ``wss``, within ``seconds``.

    Raises `ConnectFailed`, its subclass `ProxyError`, or `HandshakeTimeout`.
    """
    way = f"{address.endpoint} by {proxy}" if proxy else address.endpoint
    with trio.move_on_after(seconds):
        if proxy is None:
            stream = await _open_tcp(address.host, address.port, address.endpoint, ConnectFailed)
        else:
            stream = await _open_tunnel(address, proxy, limits)
        if address.tls:
            return await _speak_tls(stream, ssl_context, (address.host, address.endpoint))
        return stream
    raise HandshakeTimeout(f"no connection to {way} within {seconds:.3g} s")


async def _open_tcp(
    host: str, port: int, where: str, failure: type[ConnectFailed]
) -> trio.abc.Stream:
    try:
        return await current_host.get().open_stream(host, port)
    except OSError as error:
        raise failure(f"no connection to {where}: {error}") from error


async def _speak_tls(
    stream: trio.abc.Stream, context: ssl.SSLContext | None, where: tuple[str, str]
) -> Transport:
    name, endpoint = where
    async with _closed_on_failure(stream):
        with _told_of_tls(endpoint, ConnectFailed):
            transport, _ = await speak_tls(stream, _context(context), server_hostname=name)
        return transport


async def _speak_tls_to_proxy(stream: trio.abc.Stream, proxy: Proxy) -> trio.abc.Stream:
    """Return a stream: what leads through the proxy takes nothing else."""
    async with _closed_on_failure(stream):
        tls = trio.SSLStream(
            stream, _context(proxy.ssl_context), server_hostname=proxy.host, https_compatible=True
        )
        with _told_of_tls(f"the proxy {proxy}", ProxyError):
            await tls.do_handshake()
        return tls


def _context(context: ssl.SSLContext | None) -> ssl.SSLContext:
    if context is None:
        context = ssl.create_default_context()
        # A server of HTTP/2 too would else have to guess (RFC 7301). Contexts of users
        # stay as they are: they may serve for other things.
        context.set_alpn_protocols(["http/1.1"])
    return context


@contextmanager
def _told_of_tls(endpoint: str, failure: type[ConnectFailed]) -> Generator[None]:
    try:
        yield
    except trio.BrokenResourceError as error:
        raise failure(f"no TLS with {endpoint}: {error.__cause__ or error}") from error


@asynccontextmanager
async def _closed_on_failure(stream: trio.abc.Stream) -> AsyncGenerator[None]:
    try:
        yield
    except BaseException:
        with trio.CancelScope(shield=True):  # what is on its way goes on
            await trio.aclose_forcefully(stream)
        raise


async def _open_tunnel(address: Address, proxy: Proxy, limits: Limits) -> trio.abc.Stream:
    socks = proxy.scheme not in ("http", "https")
    if socks:
        _socks_library()  # is it there? Before anything is opened
    stream = await _open_tcp(proxy.host, proxy.port, f"the proxy {proxy}", ProxyError)
    if proxy.scheme == "https":
        stream = await _speak_tls_to_proxy(stream, proxy)
    async with _closed_on_failure(stream):
        try:
            if socks:
                await _socks_connect(stream, address, proxy)
            else:
                await _http_connect(stream, address, proxy, limits)
        except trio.BrokenResourceError as error:
            raise ProxyError(f"the proxy {proxy} broke off: {error}") from error
    return stream


# HTTP CONNECT (RFC 9110, 9.3.6).


async def _http_connect(
    stream: trio.abc.Stream, address: Address, proxy: Proxy, limits: Limits
) -> None:
    check_host(address.endpoint)
    where = address.endpoint
    lines = [(b"Host", where.encode("ascii"))]
    if proxy.credentials:
        token = base64.b64encode(":".join(proxy.credentials).encode())
        lines.append((b"Proxy-Authorization", b"Basic " + token))
    exchange = ClientExchange(limits)
    try:
        await stream.send_all(exchange.request(where, lines, method="CONNECT"))
        while (head := exchange.next_head()) is None or head.status < 200:
            if head is None:
                exchange.feed(bytes(await stream.receive_some(min(limits.read, HEAD_READ))))
    except (HttpError, EOFError) as error:
        raise ProxyError(f"no answer to CONNECT from the proxy {proxy}: {error}") from error
    if head.status >= 300:
        exchange.read_body(limits.max_response_body)  # what is here: it is not worth a wait
        response = Response(head.status, head.headers, exchange.body)
        raise ProxyError(f"the proxy {proxy} answered {head.status} to CONNECT", response)
    if exchange.trailing_data:
        # Both TLS and WebSocket begin with the client: whoever speaks first is not the server.
        raise ProxyError(f"the proxy {proxy} sent more than its answer to CONNECT")


# SOCKS5 (RFC 1928, RFC 1929), by python-socks.


def _socks_library() -> tuple[type[SocksClient], type[Exception]]:
    """Return the client and the error of python-socks, which is an extra of trioweb."""
    try:
        from python_socks import ProxyError as SocksError
        from python_socks.async_.trio.v2 import Proxy as SocksClient
    except ImportError as error:
        raise ImportError("SOCKS needs python-socks: pip install 'trioweb[socks]'") from error
    return SocksClient, SocksError


class _Dialled:
    """Takes the place of a chained proxy of python-socks: its stream is there already.

    Without it the library opens a socket of its own, past `trioweb.host`.
    """

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream

    async def connect(self, **_where: object) -> SocksStream:
        # Not made by hand: the names of its methods are not the same in every version.
        from python_socks.async_.trio.v2._stream import TrioSocketStream

        return TrioSocketStream(cast("trio.SocketStream", self._stream))  # any stream will do


async def _socks_connect(stream: trio.abc.Stream, address: Address, proxy: Proxy) -> None:
    from python_socks import ProxyType

    client_type, socks_error = _socks_library()
    username, password = proxy.credentials or (None, None)
    client = client_type(
        ProxyType.SOCKS5,
        proxy.host,
        proxy.port,
        username,
        password,
        rdns=proxy.scheme == "socks5h",
        forward=cast("SocksClient", _Dialled(stream)),
    )
    try:
        # The deadline is ours; the library's own would be a minute.
        await client.connect(address.host, address.port, timeout=math.inf)
    except OSError as error:
        raise ConnectFailed(f"no connection to {address.endpoint}: {error}") from error
    except socks_error as error:
        text = f"the proxy {proxy} does not lead to {address.endpoint}: {error}"
        raise ProxyError(text) from error
    except ValueError as error:  # of the library's parser
        raise ProxyError(f"the answer of the proxy {proxy} is malformed") from error
