"""trioweb: a structured-concurrency WebSocket toolkit for Trio.

The layers, each importing only from those above it, and each file only from files above it:

0. vocabulary: `types`, `positions`, `errors`, `config`, `abc`
1. `protocol`: RFC 6455 without I/O, over wsproto and h11
2. one connection: `nursery`, `parking`, `transport`, `host`, `lanes`, `attendant`, `outbox`,
   `buckets`, `inbox`, `idle`, `reading`, `heartbeat`, `pings`, `lifecycle`, `expiry`, `streaming`,
   `connection`, `broadcast`
3. two ends: `credentials`, `checks`, `ways`, `auth`, `principals`, `guard`, `patterns`,
   `routing`, `pages`, `forwarded`, `listening`, `options`, `serving`, `server`, `addresses`,
   `dialing`, `client`, `retrying`, `states`, `reconnect`
"""

from .addresses import Proxy
from .auth import AnyOf, FirstMessage, MessageToken
from .broadcast import Delivery, broadcast
from .buckets import Excess, Rate, RateLimit, TokenBucket
from .checks import Passwords, Tokens, same_secret
from .client import connect
from .config import (
    Backoff,
    CallLimits,
    Deflate,
    HealthCheck,
    Heartbeat,
    HubLimits,
    Limits,
    LinkLimits,
    Overflow,
    Policy,
    Retention,
    SessionLimits,
    Timeouts,
    TopicOptions,
)
from .connection import Statistics, WebSocket
from .credentials import Login, as_subprotocol
from .errors import (
    BrokerFailed,
    CallError,
    CallLost,
    CallTimeout,
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
    NoCredentials,
    ProtocolError,
    ProxyError,
    Refused,
    RoomFull,
    SessionEnded,
    StoreFailed,
    TriowebError,
)
from .expiry import Credential
from .forwarded import TrustedProxies
from .guard import Guard, ServerStatistics
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
from .ways import Basic, Bearer, CookieToken, QueryToken, SubprotocolToken

__version__ = "0.1.0"

__all__ = [
    "AnyOf",
    "Backoff",
    "Basic",
    "Bearer",
    "BrokerFailed",
    "CallError",
    "CallLimits",
    "CallLost",
    "CallTimeout",
    "Close",
    "CloseCode",
    "ConnectFailed",
    "ConnectionBroken",
    "ConnectionClosedByUs",
    "ConnectionEnded",
    "Content",
    "CookieToken",
    "Credential",
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
    "HealthCheck",
    "Heartbeat",
    "HubLimits",
    "InvalidMessage",
    "Limits",
    "LinkLimits",
    "Login",
    "Message",
    "MessageReader",
    "MessageToken",
    "MessageWriter",
    "NoCredentials",
    "Overflow",
    "Passwords",
    "Phase",
    "Policy",
    "Position",
    "ProtocolError",
    "Proxy",
    "ProxyError",
    "QueryToken",
    "Rate",
    "RateLimit",
    "Refused",
    "Request",
    "Response",
    "Retention",
    "RoomFull",
    "Router",
    "Server",
    "ServerOptions",
    "ServerStatistics",
    "SessionEnded",
    "SessionLimits",
    "Side",
    "Site",
    "State",
    "States",
    "Statistics",
    "Status",
    "StoreFailed",
    "SubprotocolToken",
    "Timeouts",
    "TokenBucket",
    "Tokens",
    "TopicOptions",
    "TriowebError",
    "TrustedProxies",
    "WebSocket",
    "as_subprotocol",
    "broadcast",
    "connect",
    "framer",
    "is_terminal",
    "open_listeners",
    "open_server",
    "open_unix_listener",
    "reconnect",
    "same_secret",
    "serve",
]
