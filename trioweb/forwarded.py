"""Who the client is when proxies stand in between, and which of them are believed.

A proxy names the client in a header of the request, ``Forwarded`` (RFC 7239) or the older
``X-Forwarded-*``, or in front of the whole connection, by the PROXY protocol. Anybody can write
either, so `TrustedProxies` says whose word counts; nobody else's does.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple, TypeAlias

import trio

from .protocol.http import check_host
from .protocol.proxy import Address, ProxyHeaderError, ProxyReader, canonical
from .transport import StreamTransport, as_tls
from .types import Headers, Request

__all__ = ["ForwardedError", "TrustedProxies", "read_proxy_header"]

_Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

#: Where the client's side of a proxy was TLS: what the words for it mean.
_SCHEMES = {"http": "http", "ws": "http", "https": "https", "wss": "https"}

# Possessive (`*+`) where a peer could otherwise make the search quadratic.
_TOKEN = r"[-!#$%&'*+.^_`|~0-9A-Za-z]++"  # noqa: S105 - of HTTP, not a password
_VALUE = (
    r'"(?:[^"\\]|\\.)*+"|[^",;\\\s]++'  # colons and brackets should be quoted, and often are not
)
_PAIR = re.compile(rf"[ \t]*+(?:({_TOKEN})=({_VALUE}))?+[ \t]*+([,;]|\Z)")
_NODE = re.compile(
    r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]+)|(unknown|_[-._0-9A-Za-z]+))(?::([0-9]{1,5}|_[-._0-9A-Za-z]+))?",
    re.IGNORECASE | re.ASCII,
)


class ForwardedError(ValueError):
    """A trusted proxy's header is malformed."""


@dataclass(frozen=True)
class TrustedProxies:
    """The proxies in front of a server, and how they name the client.

    ``addresses`` holds addresses and networks (``"127.0.0.1"``, ``"10.0.0.0/8"``), and ``"unix"``
    for whoever comes by a Unix socket. Raises `ValueError` for what is neither, and if nothing
    would be read.
    """

    addresses: Sequence[str]
    #: The header to read. Default None: none. The proxy must set it, or take it out of what it
    #: passes on. The client is the last hop that is not trusted, counted from our end; the ones
    #: before it may be anybody's invention and are not looked at. A malformed header is 400: the
    #: proxy's own address in its place could be one that is let in anywhere.
    header: Literal["Forwarded", "X-Forwarded-For"] | None = None
    #: What to read beside ``X-Forwarded-For``: ``"proto"`` is ``X-Forwarded-Proto``, ``"host"``
    #: ``X-Forwarded-Host``. Default: neither, for a proxy that does not set one passes the
    #: client's invention on. ``Forwarded`` has all in one.
    also: Sequence[Literal["proto", "host"]] = ()
    #: Whether every connection begins with a PROXY header, version 1 or 2. Default False. One
    #: without it, or from anybody who is not trusted, is cut: that header cannot be optional,
    #: for then anybody could write one.
    proxy_protocol: bool = False
    _networks: tuple[_Network, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if isinstance(self.addresses, str):
            raise ValueError("give a list of addresses and networks, not one string")  # noqa: TRY004 - like every other wrong option
        if self.header not in (None, "Forwarded", "X-Forwarded-For"):
            raise ValueError(f"header is Forwarded or X-Forwarded-For, not {self.header!r}")
        if not set(self.also) <= {"proto", "host"} or isinstance(self.also, str):
            raise ValueError(f"also is a list of proto and host, not {self.also!r}")
        if self.also and self.header != "X-Forwarded-For":
            raise ValueError("also= goes with header='X-Forwarded-For'")
        if not self.addresses or not (self.header or self.proxy_protocol):
            raise ValueError("name trusted proxies, and a header= or proxy_protocol=True to read")
        networks = tuple(ipaddress.ip_network(each) for each in self.addresses if each != "unix")
        object.__setattr__(self, "_networks", networks)

    def trusts(self, address: object, local: object = None) -> bool:
        """Tell whether a peer is one of the proxies, by its own address and by ours."""
        if isinstance(local, (str, bytes)):  # the path of a Unix socket: its peers have none
            return "unix" in self.addresses
        if not isinstance(address, tuple):
            return False
        return self._contain(str(address[0]))  # pyright: ignore[reportUnknownArgumentType]  # as getpeername gives it

    def _contain(self, name: str) -> bool:
        try:
            ip = ipaddress.ip_address(canonical(ipaddress.ip_address(name)))
        except ValueError:  # a name that hides the address
            return False
        return any(ip in network for network in self._networks)

    def resolve(self, request: Request) -> Request:
        """Return a trusted proxy's request as the client made it: address, scheme, host.

        The client's address is ``(host, port)``, with port 0 where it is not told, and a word
        such as ``unknown`` or ``_hidden`` for a host that a proxy keeps to itself. To be called
        for a trusted peer, if there is a ``header``. Raises `ForwardedError` for a malformed one.
        """
        client: _Hop | None = None
        told = request.headers
        hops = _forwarded(told) if self.header == "Forwarded" else _x_forwarded(told, self.also)
        for client in hops:  # the last one counts
            if not self._contain(client.address[0]):
                break
        if client is None:  # the proxy itself asks, for its health check
            return request
        scheme, headers = request.scheme, request.headers
        if client.scheme:
            scheme = _SCHEMES.get(client.scheme.lower(), "")
            if not scheme:
                raise ForwardedError("the forwarded scheme is neither http nor https")
        if client.host:
            try:
                check_host(client.host)
            except ValueError:
                raise ForwardedError("the forwarded host is malformed") from None
            others = (line for line in headers.pairs() if line[0].lower() != "host")
            headers = Headers([("Host", client.host), *others])
        return replace(request, client_address=client.address, scheme=scheme, headers=headers)


class _Hop(NamedTuple):
    """Whom a proxy had before it, and what it was asked; "" where that is not told."""

    address: Address
    scheme: str = ""
    host: str = ""


def _forwarded(headers: Headers) -> Iterator[_Hop]:
    """Yield the elements of Forwarded (RFC 7239, 4), the one nearest to us first."""
    for line in reversed(headers.get_all("Forwarded")):
        for element in reversed(_elements(line)):
            address = _node(element["for"]) if "for" in element else ("unknown", 0)
            yield _Hop(address, element.get("proto", ""), element.get("host", ""))


def _elements(line: str) -> list[dict[str, str]]:
    elements: list[dict[str, str]] = [{}]
    at, end = 0, ","
    while end:
        pair = _PAIR.match(line, at)
        if pair is None:
            raise ForwardedError("Forwarded is malformed")
        name, value, end = pair.groups()
        if name is not None:
            if name.lower() in elements[-1]:
                raise ForwardedError("Forwarded has a parameter twice")
            elements[-1][name.lower()] = _unquote(value)
        if end == ",":
            elements.append({})
        at = pair.end()
    return [element for element in elements if element]


def _unquote(value: str) -> str:
    return re.sub(r"\\(.)", r"\1", value[1:-1]) if value.startswith('"') else value


def _x_forwarded(headers: Headers, also: Sequence[str]) -> Iterator[_Hop]:
    """Yield the addresses of X-Forwarded-For, the one nearest to us first.

    Proxies add to the two other headers, or replace them: as many values as there are count
    from our end too, and the first one stands for the hops before it.
    """
    schemes = headers.tokens("X-Forwarded-Proto") if "proto" in also else []
    hosts = headers.tokens("X-Forwarded-Host") if "host" in also else []
    for index, node in enumerate(reversed(headers.tokens("X-Forwarded-For")), 1):
        yield _Hop(_node(node), _from_the_right(schemes, index), _from_the_right(hosts, index))


def _from_the_right(values: list[str], index: int) -> str:
    return values[-min(index, len(values))] if values else ""


def _node(text: str) -> Address:
    """Read a node (RFC 7239, 6): an address or a word, with or without a port."""
    match = _NODE.fullmatch(text)
    # In X-Forwarded-For, IPv6 often has no brackets. A zone could be any text at all.
    bare = "" if "%" in text else text
    v6, v4, word, port = match.groups() if match else (bare, None, None, None)
    number = int(port) if port is not None and port.isdigit() else 0
    with suppress(ValueError):
        if word is None:
            word = canonical(ipaddress.IPv4Address(v4) if v4 else ipaddress.IPv6Address(v6))
        if number <= 65535:
            return word, number
    raise ForwardedError("a forwarded address is malformed")


async def read_proxy_header(stream: trio.abc.Stream, proxies: TrustedProxies) -> Address | None:
    """Read the PROXY header of a fresh stream, and not one byte more.

    None if the socket's address is the client's. Raises `ProxyHeaderError` if the peer is not
    trusted or its header malformed, `EOFError` and `trio.BrokenResourceError` when it has left.
    """
    while (tls := as_tls(stream)) is not None:  # the header comes before TLS
        stream = tls.transport_stream
    ends: Any = StreamTransport(stream)
    if not proxies.trusts(ends.remote_address, ends.local_address):
        raise ProxyHeaderError("not a trusted proxy")
    reader = ProxyReader()
    while reader.needs:
        data = await stream.receive_some(reader.needs)
        if not data:
            raise EOFError("the peer left before its PROXY header")
        reader.feed(bytes(data))
    return reader.source
