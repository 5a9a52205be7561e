"""trioweb: a structured-concurrency WebSocket toolkit for Trio.

The layers, each importing only from those above it, and each file only from files above it:

0. vocabulary: `types`, `positions`, `errors`, `config`, `abc`
1. `protocol`: RFC 6455 without I/O, over wsproto and h11
2. one connection: `nursery`, `parking`, `transport`, `host`, `lanes`, `attendant`, `outbox`,
   `inbox`, `reading`, `heartbeat`, `pings`, `lifecycle`, `streaming`, `connection`, `broadcast`
3. two ends: `auth`, `guard`, `routing`, `pages`, `forwarded`, `listening`, `options`, `serving`,
   `server`, `addresses`, `dialing`, `client`, `retrying`, `states`, `reconnect`
"""

from .addresses import Proxy
from .auth import FirstMessage
from .broadcast import Delivery, broadcast
from .client import connect
from .config import (
    Backoff,
    Deflate,
    Heartbeat,
    Limits,
    LinkLimits,
    Overflow,
    Policy,
    Retention,
    Timeouts,
)
from .connection import Statistics, WebSocket
from .errors import (
    BrokerFailed,
    ConnectFailed,
    ConnectionBroken,
    ConnectionClosedByUs,
    ConnectionEnded,
    EndOfChannel,
    HandshakeError,
    HandshakeInvalid,
    HandshakeRejected,
    HandshakeTimeout,
    InvalidMessage,
    ProtocolError,
    ProxyError,
    Refused,
    SessionEnded,
    StoreFailed,
    TriowebError,
)
from .forwarded import TrustedProxies
from .listening import open_listeners, open_unix_listener
from .options import ServerOptions
from .pages import Site
from .positions import Position
from .protocol.framer import framer
from .reconnect import reconnect
from .retrying import is_terminal
from .routing import Router
from .server import Server, open_server, serve
from .states import Phase, States, Status
from .streaming import MessageReader, MessageWriter
from .types import Close, CloseCode, Content, Headers, Message, Request, Response, Side, State

__version__ = "0.1.0"

__all__ = [
    "Backoff",
    "BrokerFailed",
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
    "FirstMessage",
    "HandshakeError",
    "HandshakeInvalid",
    "HandshakeRejected",
    "HandshakeTimeout",
    "Headers",
    "Heartbeat",
    "InvalidMessage",
    "Limits",
    "LinkLimits",
    "Message",
    "MessageReader",
    "MessageWriter",
    "Overflow",
    "Phase",
    "Policy",
    "Position",
    "ProtocolError",
    "Proxy",
    "ProxyError",
    "Refused",
    "Request",
    "Response",
    "Retention",
    "Router",
    "Server",
    "ServerOptions",
    "SessionEnded",
    "Side",
    "Site",
    "State",
    "States",
    "Statistics",
    "Status",
    "StoreFailed",
    "Timeouts",
    "TriowebError",
    "TrustedProxies",
    "WebSocket",
    "broadcast",
    "connect",
    "framer",
    "is_terminal",
    "open_listeners",
    "open_server",
    "open_unix_listener",
    "reconnect",
    "serve",
]
