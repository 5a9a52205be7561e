"""Everything that trioweb raises on purpose.

::

    TriowebError
    |-- ConnectionEnded             .code, .reason: the connection is over
    |   |-- EndOfChannel            also trio.EndOfChannel: a clean end
    |   |-- ConnectionBroken        also trio.BrokenResourceError: any other end
    |   `-- ConnectionClosedByUs    also trio.ClosedResourceError: after our own aclose()
    |-- HandshakeError              there was no connection
    |   |-- HandshakeRejected       .status, .headers, .body: the server said no
    |   |-- HandshakeInvalid        the other end does not speak WebSocket properly
    |   `-- HandshakeTimeout        also trio.TooSlowError: a deadline passed
    |-- ConnectFailed               also OSError: no connection to the address, or no TLS on it
    |   `-- ProxyError              .response: the proxy does not lead there
    |-- ProtocolError               .code, .reason: the peer broke the protocol
    |-- StoreFailed                 a store could not do its work; the cause is chained
    |-- BrokerFailed                a broker did not take a message; the cause is chained
    |-- InvalidMessage              also ValueError: .path, .message, .code: not what its type says
    |-- CallError                   .code, .message, .path, .data: a call has failed
    |   |-- CallTimeout             also trio.TooSlowError: its time has passed
    |   `-- CallLost                also trio.BrokenResourceError: .sent: the link broke first
    |-- RoomFull                    .room, .limit: a room has as many members as it may
    |-- SessionEnded                also trio.BrokenResourceError: no connection comes any more
    `-- Refused                     raised by *your* check: .status, .reason
        `-- NoCredentials           there was nothing to check

Whoever writes for any `trio.abc.Channel` catches Trio's three; whoever wants the close code
catches `ConnectionEnded`. A message of the wrong type is a plain `TypeError`, a close code that
may not be sent a `ValueError`.
"""

from __future__ import annotations

from typing import Any

import trio

from .types import Close, Headers, Response

__all__ = [
    "BrokerFailed",
    "CallError",
    "CallLost",
    "CallTimeout",
    "ConnectFailed",
    "ConnectionBroken",
    "ConnectionClosedByUs",
    "ConnectionEnded",
    "EndOfChannel",
    "HandshakeError",
    "HandshakeInvalid",
    "HandshakeRejected",
    "HandshakeTimeout",
    "InvalidMessage",
    "NoCredentials",
    "ProtocolError",
    "ProxyError",
    "Refused",
    "RoomFull",
    "SessionEnded",
    "StoreFailed",
    "TriowebError",
]


class TriowebError(Exception):
    """The base of every error of trioweb."""


class ConnectionEnded(TriowebError):
    """The connection is over; ``close`` says how, ``code`` and ``reason`` are its parts."""

    def __init__(self, close: Close) -> None:
        super().__init__(str(close))
        self.close = close

    @property
    def code(self) -> int:
        """The close code; 1005 for a close frame without one, 1006 for no close frame."""
        return self.close.code

    @property
    def reason(self) -> str:
        """The reason in the close frame, or our own words for an end without one."""
        return self.close.reason


class EndOfChannel(ConnectionEnded, trio.EndOfChannel):
    """`receive` after a clean end: the peer's 1000, 1001 or no code, or our own drain."""


class ConnectionBroken(ConnectionEnded, trio.BrokenResourceError):
    """`receive` after any other end; `send` and `ping` after any end that was not our aclose."""


class ConnectionClosedByUs(ConnectionEnded, trio.ClosedResourceError):
    """Any use of a WebSocket after its own `aclose`."""


class HandshakeError(TriowebError):
    """The opening handshake did not lead to a connection (RFC 6455, 4)."""


class HandshakeRejected(HandshakeError):
    """The server answered the upgrade with a plain response.

    ``body`` holds the first bytes of it (`Limits.max_response_body`, 4 KiB by default). ``why``
    says, for a redirect, why it was not followed.
    """

    def __init__(self, status: int, headers: Headers, body: bytes = b"", why: str = "") -> None:
        # One line, whatever the server wrote: the message ends up in logs and on terminals.
        text = " ".join(body[:200].decode("utf-8", "replace").split())
        text = why[:200] or "".join(one if one.isprintable() else "\ufffd" for one in text)
        super().__init__(f"server answered {status}{': ' + text if text else ''}")
        self.status = status
        self.headers = headers
        self.body = body


class HandshakeInvalid(HandshakeError):
    """The answer to our upgrade is not what RFC 6455, 4.1 asks for."""


class HandshakeTimeout(HandshakeError, trio.TooSlowError):
    """`Timeouts.connect` or `Timeouts.handshake` passed before the connection was open."""


class ConnectFailed(TriowebError, OSError):
    """No TCP or TLS connection to the address; the cause is chained."""


class ProxyError(ConnectFailed):
    """The proxy cannot be reached, or does not lead to the address.

    ``response`` is what an HTTP proxy answered to CONNECT (407: it wants other credentials), with
    the first bytes of its body; None where there was no answer, and for SOCKS.
    """

    def __init__(self, message: str, response: Response | None = None) -> None:
        super().__init__(message)
        self.response = response


class ProtocolError(TriowebError):
    """The peer broke the protocol; ``code`` is the close code that says so."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{code}: {reason}")
        self.code = code
        self.reason = reason


class StoreFailed(TriowebError):
    """A `trioweb.abc.Store` could not do its work: no room, no database. The cause is chained."""


class BrokerFailed(TriowebError):
    """A `trioweb.abc.Broker` did not take a message, or may not have. The cause is chained."""


class InvalidMessage(TriowebError, ValueError):
    """A message does not validate: raised by the `decode` of a codec, and by what stands on one.

    ``path`` says where it is wrong, as ``$.rooms[3].name`` (``$`` is the whole message), and
    ``message`` what is, in one short line. ``code`` is what the wire protocol calls it: "invalid",
    or "unknown-type" for a type of message that nobody handles.
    """

    def __init__(self, message: str, *, path: str = "$", code: str = "invalid") -> None:
        super().__init__(f"{message} - at {path}")
        self.message = message
        self.path = path
        self.code = code


class CallError(TriowebError):
    """A call has failed. Raise it in a method to answer with it.

    ``code`` is one of the wire protocol's or of the application's own, ``message`` is for people.
    ``path`` says where the message or its params are wrong, as ``$.params.name``; ``data`` is
    whatever the code comes with.
    """

    def __init__(
        self, code: str, message: str = "", *, path: str | None = None, data: Any = None
    ) -> None:
        # One line, whatever a peer wrote: it ends up in logs and on terminals.
        text = ": ".join(filter(None, (code[:80], " ".join(message[:200].split()))))
        super().__init__("".join(one if one.isprintable() else "\ufffd" for one in text))
        self.code = code
        self.message = message
        self.path = path
        self.data = data


class CallTimeout(CallError, trio.TooSlowError):
    """The time of a call has passed, here or at the peer; its code is "timeout"."""

    def __init__(self, message: str = "") -> None:
        super().__init__("timeout", message)


class CallLost(CallError, trio.BrokenResourceError):
    """The link broke, or was closed, before the answer came; the code is "lost".

    ``sent`` is False where the call did not even leave, so that the method surely has not run.
    """

    def __init__(self, message: str = "", *, sent: bool) -> None:
        super().__init__("lost", message)
        self.sent = sent


class RoomFull(TriowebError):
    """A room of the toolkit has ``limit`` members, and takes no more."""

    def __init__(self, room: str, limit: int) -> None:
        super().__init__(f"the room {room!r:.80} is full: {limit} members")
        self.room = room
        self.limit = limit


class SessionEnded(TriowebError, trio.BrokenResourceError):
    """The session is over: there will be no connection any more. The cause is chained."""


class Refused(TriowebError):
    """Raise it in an authentication check to turn a peer away.

    Before the upgrade the peer gets ``status`` (401 by default, 403 for someone known but not
    allowed) with the reason as its body. After the upgrade it gets a close frame with the
    check's code and the reason, which must then fit 123 bytes of UTF-8 and is cut to them.
    """

    def __init__(
        self, reason: str = "", *, status: int = 401, headers: Headers | None = None
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.status = status
        self.headers = headers or Headers()


class NoCredentials(Refused):
    """Nothing was there to check, so that `AnyOf` goes on to the next way, a first message too."""
