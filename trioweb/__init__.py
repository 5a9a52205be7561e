"""trioweb: a structured-concurrency WebSocket toolkit for Trio.

The layers, each importing only from those above it, and each file only from files above it:

0. vocabulary: `types`, `errors`, `config`, `abc`
1. `protocol`: RFC 6455 without I/O, over wsproto and h11
2. one connection: `nursery`, `transport`, `host`, `outbox`, `attendant`, `reading`,
   `heartbeat`, `lifecycle`, `connection`, `broadcast`
3. two ends: `auth`, `guard`, `routing`, `pages`, `listening`, `serving`, `server`, `client`
"""

from .auth import FirstMessage
from .broadcast import Delivery, broadcast
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
    Refused,
    TriowebError,
)
from .listening import open_listeners
from .pages import Site
from .routing import Router
from .server import Server, ServerOptions, open_server, serve
from .types import Close, CloseCode, Headers, Message, Request, Response, Side, State

__version__ = "0.1.0"

__all__ = [
    "Close",
    "CloseCode",
    "ConnectFailed",
    "ConnectionBroken",
    "ConnectionClosedByUs",
    "ConnectionEnded",
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
    "Limits",
    "Message",
    "Overflow",
    "ProtocolError",
    "Refused",
    "Request",
    "Response",
    "Router",
    "Server",
    "ServerOptions",
    "Side",
    "Site",
    "State",
    "Statistics",
    "Timeouts",
    "TriowebError",
    "WebSocket",
    "broadcast",
    "connect",
    "open_listeners",
    "open_server",
    "serve",
]
