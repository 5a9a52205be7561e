"""Where a client connects to, and by which proxy: URLs, taken apart and checked. No I/O."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from .protocol.http import check_host, check_target

__all__ = ["Address", "Proxy", "Via", "check_context", "choose_proxy"]

#: The schemes of proxies and the ports that they usually have (RFC 1928, 3 for SOCKS).
_PROXY_PORTS = {"http": 80, "https": 443, "socks5": 1080, "socks5h": 1080}

#: Where the environment names a proxy, first match first, as curl reads it.
_VARIABLES = {False: ("ws", "http", "all"), True: ("wss", "https", "all")}


def check_context(context: ssl.SSLContext | None) -> None:
    """Raise `ValueError` for a server's TLS context."""
    if context is not None and context.protocol is ssl.PROTOCOL_TLS_SERVER:
        raise ValueError("ssl_context is a server's: create_default_context() makes a client's")


def _in_brackets(host: str) -> str:
    return f"[{host}]" if ":" in host else host


class _Url(NamedTuple):
    """The parts of any URL."""

    scheme: str
    host: str
    port: int | None
    username: str | None
    password: str | None
    path: str
    query: str

    @classmethod
    def split(cls, url: str, what: str) -> _Url:
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            # Its message quotes what it took for host and port: with a slash in the password
            # that is a part of the password.
            raise ValueError(f"the host or the port of {what} is malformed") from None
        return cls(
            parts.scheme,
            # In ASCII, too, it checks the lengths that a look-up would stumble over;
            # UnicodeError is a ValueError.
            (parts.hostname or "").encode("idna").decode("ascii"),
            port,
            parts.username,
            parts.password,
            parts.path,
            parts.query,
        )


@dataclass(frozen=True, slots=True)
class Address:
    """The parts of a WebSocket URL (RFC 6455, 3)."""

    host: str
    port: int
    #: What the Host header says: without the port where that is the scheme's own.
    authority: str
    target: str
    tls: bool

    @classmethod
    def parse(cls, url: str) -> Address:
        """Take a URL apart; raises `ValueError`, whose message has neither its path nor query."""
        parts = _Url.split(url, "the URL")
        if parts.scheme not in ("ws", "wss"):
            raise ValueError(f"not a ws:// or wss:// URL: its scheme is {parts.scheme!r}")
        if not parts.host:
            raise ValueError("no host in the URL")
        if "#" in url:
            raise ValueError("a WebSocket URL has no fragment (RFC 6455, 3)")
        if parts.username is not None:
            raise ValueError("credentials belong in headers=, not in the URL")
        tls = parts.scheme == "wss"
        usual = 443 if tls else 80
        port = usual if parts.port is None else parts.port
        name = _in_brackets(parts.host)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        authority = name if port == usual else f"{name}:{port}"
        check_host(authority)
        check_target(target)
        return cls(parts.host, port, authority, target, tls)

    @property
    def origin(self) -> tuple[bool, str, int]:
        """What must be the same for credentials to go along (RFC 6454, 4)."""
        return self.tls, self.host, self.port

    @property
    def url(self) -> str:
        """The URL, in its normal form."""
        return f"{'wss' if self.tls else 'ws'}://{self.authority}{self.target}"

    @property
    def endpoint(self) -> str:
        """Host and port, for CONNECT and for errors."""
        return f"{_in_brackets(self.host)}:{self.port}"

    def __repr__(self) -> str:
        """Leave out the target, which may hold a token."""
        return f"<Address {'wss' if self.tls else 'ws'}://{self.endpoint}>"


@dataclass(frozen=True, slots=True, repr=False)
class Proxy:
    """A proxy to connect through.

    ``url`` is ``http://``, ``https://`` (TLS to the proxy), ``socks5://`` (names are looked up
    here) or ``socks5h://`` (by the proxy), with ``user:password@`` in percent escapes where the
    proxy wants them. ``ssl_context`` is for TLS to an ``https`` proxy, the default one unless
    given; it has nothing to do with TLS to the server.

    Raises `ValueError` for a URL that makes no sense; the message has no part of it but the
    scheme.
    """

    url: str
    ssl_context: ssl.SSLContext | None = None

    def __post_init__(self) -> None:
        check_context(self.ssl_context)
        parts = self._parts
        if parts.scheme not in _PROXY_PORTS:
            known = ", ".join(_PROXY_PORTS)
            # Without a scheme, what stands in its place may be a user's name.
            scheme = repr(parts.scheme) if "://" in self.url else "missing"
            raise ValueError(f"not a proxy's URL ({known}): its scheme is {scheme}")
        if not parts.host:
            raise ValueError("no host in the proxy's URL")
        check_host(_in_brackets(parts.host))
        if parts.path not in ("", "/") or parts.query or "#" in self.url:
            raise ValueError("a proxy's URL has no path (is a / in the password? %2F is that)")
        username, password = self.credentials or ("x", "x")
        if parts.scheme in ("http", "https"):
            if ":" in username:
                raise ValueError("a colon in a user name cannot be sent (RFC 7617, 2)")
        elif not all(0 < len(one) < 256 and one.isascii() for one in (username, password)):
            raise ValueError("SOCKS takes 1 to 255 ASCII characters each as user and password")

    @property
    def _parts(self) -> _Url:
        return _Url.split(self.url, "the proxy's URL")

    @property
    def scheme(self) -> str:
        """The protocol that the proxy speaks."""
        return self._parts.scheme

    @property
    def host(self) -> str:
        """The proxy's name or address."""
        return self._parts.host

    @property
    def port(self) -> int:
        """The proxy's port; unless given 80, 443 or 1080, by the scheme."""
        parts = self._parts
        return _PROXY_PORTS[parts.scheme] if parts.port is None else parts.port

    @property
    def credentials(self) -> tuple[str, str] | None:
        """User name and password, without their escapes."""
        parts = self._parts
        if parts.username is None:
            return None
        return unquote(parts.username), unquote(parts.password or "")

    def __str__(self) -> str:
        """Leave out the credentials."""
        return f"{self.scheme}://{_in_brackets(self.host)}:{self.port}"

    def __repr__(self) -> str:
        """Leave out the credentials."""
        return f"<Proxy {self}>"


#: What `connect` takes as its proxy.
Via: TypeAlias = str | Proxy | Literal[True] | None


def choose_proxy(via: Via, address: Address) -> Proxy | None:
    """Return the proxy to an address; ``True`` looks into the environment, as curl does.

    There ``wss_proxy``, ``https_proxy`` and ``all_proxy`` count for wss, ``ws_proxy``,
    ``http_proxy`` and ``all_proxy`` for ws, and ``no_proxy`` names the exceptions. A proxy
    without a scheme is an ``http`` one. On Windows and macOS the system's settings count where
    the environment has none (`urllib.request.getproxies`).
    """
    if isinstance(via, str):
        return Proxy(via)
    if via is not True:
        return via
    proxies = getproxies()
    if proxy_bypass(address.endpoint):
        return None
    found = next((proxies[name] for name in _VARIABLES[address.tls] if name in proxies), None)
    if found is None:
        return None
    return Proxy(found if "://" in found else f"http://{found}")
