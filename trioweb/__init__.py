"""trioweb: a structured-concurrency WebSocket toolkit for Trio.

The layers, each importing only from those above it, and each file only from files above it:

0. vocabulary: `types`, `errors`, `config`, `abc`
1. `protocol`: RFC 6455 without I/O, over wsproto and h11
2. one connection: `nursery`, `transport`, `host`, `lanes`, `attendant`, `outbox`, `buckets`,
   `inbox`, `reading`, `heartbeat`, `pings`, `lifecycle`, `streaming`, `connection`, `broadcast`
3. two ends: `auth`, `guard`, `routing`, `pages`, `forwarded`, `listening`, `serving`,
   `handling`, `server`, `addresses`, `dialing`, `client`
"""

from .addresses import Proxy
from .auth import FirstMessage
from .broadcast import Delivery, broadcast
from .buckets import Excess, Rate, RateLimit, TokenBucket
from .client import connect
from .config import Deflate, Heartbeat, Limits, Overflow, Timeouts
from .connection import Statistics, WebSocket
from .errors import (
    ConnectFailed,
    ConnectionBroken,
    ConnectionClosedByUs,
    ConnectionEnded,
    EndOfChannel,
    HandshakeError,
    HandshakeInvalid,
    HandshakeRejected,
    HandshakeTimeout,
    ProtocolError,
    ProxyError,
    Refused,
    TriowebError,
)
from .forwarded import TrustedProxies
from .guard import Guard, ServerStatistics
from .listening import open_listeners, open_unix_listener
from .pages import Site
from .protocol.framer import framer
from .routing import Router
from .server import Server, ServerOptions, open_server, serve
from .streaming import MessageReader, MessageWriter
from .types import Close, CloseCode, Content, Headers, Message, Request, Response, Side, State

__version__ = "0.1.0"

__all__ = [
    "Close",
    "CloseCode",
    "ConnectFailed",
    "ConnectionBroken",
    "ConnectionClosedByUs",
    "ConnectionEnded",
    "Content",
    "Deflate",
    "Delivery",
    "EndOfChannel",
    "Excess",
    "FirstMessage",
    "Guard",
    "HandshakeError",
    "HandshakeInvalid",
    "HandshakeRejected",
    "HandshakeTimeout",
    "Headers",
    "Heartbeat",
    "Limits",
    "Message",
    "MessageReader",
    "MessageWriter",
    "Overflow",
    "ProtocolError",
    "Proxy",
    "ProxyError",
    "Rate",
    "RateLimit",
    "Refused",
    "Request",
    "Response",
    "Router",
    "Server",
    "ServerOptions",
    "ServerStatistics",
    "Side",
    "Site",
    "State",
    "Statistics",
    "Timeouts",
    "TokenBucket",
    "TriowebError",
    "TrustedProxies",
    "WebSocket",
    "broadcast",
    "connect",
    "framer",
    "open_listeners",
    "open_server",
    "open_unix_listener",
    "serve",
]
