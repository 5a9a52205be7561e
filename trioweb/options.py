"""What servers can be told: the options of `serve` and `open_server`."""

from __future__ import annotations

import signal
import ssl
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypedDict

import trio

from .abc import Observer
from .auth import Authenticate, check_ways
from .config import Deflate, Heartbeat, Limits, Timeouts
from .forwarded import TrustedProxies
from .guard import Guard
from .listening import default_room
from .pages import OnRequest
from .routing import Handler

__all__ = ["Options", "ServerOptions", "check_options"]


class ServerOptions(TypedDict, total=False):
    """The options of `serve` and `open_server`, all of them optional."""

    #: The name or address to listen on; None is every address. Default ``"localhost"``: loopback.
    host: str | None
    #: Serve TLS (``wss``) with this context. Default None: plain TCP.
    ssl_context: ssl.SSLContext | None
    #: Serve on these, and close them at the end; ``port`` then means nothing, and ``host`` only
    #: whether `Server.url` says ``localhost``.
    listeners: Sequence[trio.abc.Listener[trio.abc.Stream]] | None
    #: Names this server speaks, its favourite first, or a function from the names offered to one
    #: of them or None. Default: none.
    subprotocols: Sequence[str] | Callable[[Sequence[str]], str | None]
    #: The origins whose pages may connect beside the server's own host, such as
    #: ``https://example.org``; others get 403. None: every page. Default: none but its own.
    #: Clients that are no browsers send no Origin and pass.
    origins: Sequence[str] | None
    #: Who may connect (see `trioweb.auth`). Must be written out off loopback, be it as None.
    authenticate: Authenticate
    #: Asked before every upgrade and for every plain request; a response that it returns is sent
    #: instead of the upgrade. Default None: plain requests get 426.
    on_request: OnRequest | None
    #: The proxies in front of the server, and how they name the client. Default None: there is
    #: none. With it, other machines can reach the server, be it on loopback or not.
    proxies: TrustedProxies | None
    #: Connections at a time, their handshakes included; who comes on top gets 503 with
    #: ``Retry-After``, and whoever is there is served on. Default: 10,000, which idle hold about
    #: 140 MB, and no more than three quarters of the file descriptors that the process may open
    #: (``ulimit -n``), so that some are left to say no with, and for files.
    max_connections: int
    #: What each client may have: connections, handshakes, messages in a time (see
    #: `trioweb.guard`). Default ``Guard()``: as much as it likes.
    guard: Guard
    #: Sizes and counts of one connection. Default ``Limits()``.
    limits: Limits
    #: Deadlines. Default ``Timeouts()``.
    timeouts: Timeouts
    #: Pings to silent peers. Default ``Heartbeat()``; None: none.
    heartbeat: Heartbeat | None
    #: Compression for clients that offer it (RFC 7692). Default ``Deflate()``; None: none.
    deflate: Deflate | None
    #: Signals that drain the server; a second one cancels the handlers. Default: none, so that
    #: an embedding application keeps its own handling.
    signals: Iterable[signal.Signals]
    #: Hooks on connections. Default: none.
    observers: Sequence[Observer]


@dataclass(frozen=True, slots=True)
class Options:
    """What `serve` was told."""

    handler: Handler
    ssl_context: ssl.SSLContext | None
    subprotocols: Sequence[str] | Callable[[Sequence[str]], str | None]
    origins: Sequence[str] | None
    authenticate: Authenticate
    on_request: OnRequest | None
    proxies: TrustedProxies | None
    max_connections: int
    guard: Guard
    limits: Limits
    timeouts: Timeouts
    heartbeat: Heartbeat | None
    deflate: Deflate | None
    observers: Sequence[Observer]

    @classmethod
    def of(cls, handler: Handler, options: ServerOptions) -> Options:
        """Put the defaults where nothing is given."""
        return cls(
            handler=handler,
            ssl_context=options.get("ssl_context"),
            subprotocols=options.get("subprotocols", ()),
            origins=options.get("origins", ()),
            authenticate=options.get("authenticate"),
            on_request=options.get("on_request"),
            proxies=options.get("proxies"),
            max_connections=options.get("max_connections") or default_room(),
            guard=options.get("guard", Guard()),
            limits=options.get("limits", Limits()),
            timeouts=options.get("timeouts", Timeouts()),
            heartbeat=options.get("heartbeat", Heartbeat()),
            deflate=options.get("deflate", Deflate()),
            observers=options.get("observers", ()),
        )

    @property
    def bare(self) -> bool:
        """Whether HTTP begins on the socket itself: no TLS is ours, no PROXY header is due."""
        return self.ssl_context is None and not (self.proxies and self.proxies.proxy_protocol)


def check_options(options: ServerOptions) -> None:
    """Raise `ValueError` for options that make no sense, `TypeError` for unknown ones."""
    unknown = options.keys() - ServerOptions.__annotations__.keys()
    if unknown:
        raise TypeError(f"unknown options: {', '.join(sorted(unknown))}")
    context = options.get("ssl_context")
    if context is not None and context.protocol is ssl.PROTOCOL_TLS_CLIENT:
        raise ValueError("ssl_context is a client's: use create_default_context(CLIENT_AUTH)")
    for name in ("origins", "subprotocols"):
        if isinstance(options.get(name), str):  # which is a sequence, of letters
            raise ValueError(f"{name} is a list of strings, not one string")  # noqa: TRY004 - like every other wrong option
    room = options.get("max_connections")
    if room is not None and room < 1:
        raise ValueError(f"max_connections must be positive, not {room}")
    check_ways(
        options.get("authenticate"), options.get("origins", ()), options.get("subprotocols", ())
    )
