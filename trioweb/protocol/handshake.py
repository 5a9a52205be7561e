"""The opening handshake, both ends, without I/O (RFC 6455, 4).

wsproto's own handshake takes some wrong requests for right and some right ones for wrong, and
raises UnicodeError on others, so the checks are ours; the accept token is wsproto's. Which
origins, paths and users may connect is decided by whoever asked for the request.
"""

from __future__ import annotations

import base64
import re
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from wsproto.utilities import generate_accept_token

from ..config import Limits
from ..errors import HandshakeError, HandshakeInvalid, HandshakeRejected
from ..types import Headers, Request, Response
from .http import (
    ClientExchange,
    HttpError,
    Lines,
    ResponseHead,
    ServerExchange,
    announces_body,
    check_host,
    check_lines,
    check_target,
    elements,
)

__all__ = ["Accepted", "BadRequest", "ClientHandshake", "ServerHandshake"]

_VERSION = "13"
# What base64 makes of 16 bytes (RFC 6455, 4.2.1).
_KEY = re.compile(r"[+/0-9A-Za-z]{22}==")
_TOKEN = re.compile(r"[-!#$%&'*+.^_`|~0-9A-Za-z]+")

#: What the handshake is read from. Python counts NO-BREAK SPACE and some controls as white
#: space to strip, so the check comes before any of these is taken apart.
_READ = {
    "host": "Host",
    "connection": "Connection",
    "upgrade": "Upgrade",
    "sec-websocket-accept": "Sec-WebSocket-Accept",
    "sec-websocket-extensions": "Sec-WebSocket-Extensions",
    "sec-websocket-key": "Sec-WebSocket-Key",
    "sec-websocket-protocol": "Sec-WebSocket-Protocol",
    "sec-websocket-version": "Sec-WebSocket-Version",
}

#: What users may not set: the handshake does (and all of Sec-WebSocket-*), or it has no body.
_RESERVED = frozenset({"host", "connection", "upgrade", "content-length", "transfer-encoding"})

#: Headers that a status must come with (RFC 9110, 15.5.6 and 15.5.22; RFC 6455, 4.4).
_WITH_STATUS = {
    405: {"Allow": "GET"},
    426: {"Upgrade": "websocket", "Sec-WebSocket-Version": _VERSION},
}


class BadRequest(Exception):
    """A request that cannot be served; ``response`` is the answer that says so.

    ``request`` is what was understood of it, for the log; None if it was not fit to be shown.
    """

    def __init__(self, response: Response, request: Request | None = None) -> None:
        super().__init__(f"{response.status}: {response.body.decode().strip()}")
        self.response = response
        self.request = request


@dataclass(frozen=True, slots=True)
class Accepted:
    """The server's 101: what it chose, and all its headers."""

    headers: Headers
    subprotocol: str | None
    extensions: tuple[str, ...] = ()
    status: int = 101


def _user_lines(headers: Iterable[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    lines = check_lines(headers)
    for name, _ in lines:
        text = name.decode("ascii")
        if text.lower() in _RESERVED or text.lower().startswith("sec-websocket-"):
            raise ValueError(f"the header {text} belongs to the handshake itself")
    return lines


def _names(extensions: Iterable[str]) -> set[str]:
    return {extension.partition(";")[0].strip() for extension in extensions}


def _tokens(lines: Lines, name: str) -> list[str]:
    return [element.lower() for element in elements(lines, name)]


def _are_subprotocols(names: Sequence[str]) -> bool:
    return len(set(names)) == len(names) and all(map(_TOKEN.fullmatch, names))


def _illegal_header(lines: Lines) -> str | None:
    """Return a header of the handshake with anything but visible ASCII in it, if there is one."""
    for name, values in lines.items():
        if name in _READ:
            text = "".join(values)
            if not text.isascii() or not text.replace("\t", " ").isprintable():
                return _READ[name]
    return None


def _is_attempt(lines: Lines) -> bool:
    """Whether a request wants to be a WebSocket, however badly it says so."""
    return "sec-websocket-key" in lines or any(
        "websocket" in value.lower() for value in lines.get("upgrade", ())
    )


def _check_upgrade(request: Request, lines: Lines, http_version: bytes) -> None:
    """Raise `HttpError` unless the request is what RFC 6455, 4.2.1 asks for."""
    if request.method != "GET":
        raise HttpError("a WebSocket handshake is a GET", 405)
    if http_version < b"1.1":
        raise HttpError("a WebSocket handshake needs HTTP/1.1")
    illegal = _illegal_header(lines)
    if illegal:
        raise HttpError(f"illegal characters in {illegal}")
    if not any(lines.get("host", ())):
        raise HttpError("Host is missing")
    # Lists in one line or in several are right (RFC 9110, 5.3), though rare.
    if "websocket" not in _tokens(lines, "upgrade"):
        raise HttpError("Upgrade does not list websocket", 426)
    if "upgrade" not in _tokens(lines, "connection"):
        raise HttpError("Connection does not list Upgrade")
    # Before the key, which the drafts of the protocol did without.
    if lines.get("sec-websocket-version") != [_VERSION]:
        raise HttpError("Sec-WebSocket-Version is not 13", 426)
    keys = lines.get("sec-websocket-key", ())
    if len(keys) != 1 or not _KEY.fullmatch(keys[0]):
        raise HttpError("Sec-WebSocket-Key is not 16 bytes in base64")
    if ("content-length" in lines or "transfer-encoding" in lines) and announces_body(request):
        # Its bytes would be taken for frames.
        raise HttpError("a WebSocket handshake has no body")
    if not _are_subprotocols(elements(lines, "sec-websocket-protocol")):
        raise HttpError("Sec-WebSocket-Protocol is not a list of different tokens")


class ServerHandshake:
    """The server's end: `feed` and `next_request`, then `accept` or `respond`, once.

    Between the request and its answer nothing more is fed: bytes stay in the transport, where
    TCP bounds them. Those that came with the request are in `trailing_data`.
    """

    def __init__(
        self,
        limits: Limits = Limits(),
        *,
        client_address: tuple[str, int] | None = None,
        scheme: str = "http",
    ) -> None:
        self._exchange = ServerExchange(
            limits, client_address=client_address, scheme=scheme, is_upgrade=_is_attempt
        )
        self._request: Request | None = None
        self._read = False
        self._answered = False

    def feed(self, data: bytes) -> None:
        """Take bytes from the peer; ``b""`` is the end of its stream."""
        if self._read:
            raise RuntimeError("the request is already here: leave other bytes in the transport")
        self._exchange.feed(data)

    def next_request(self) -> Request | None:
        """Return the request; None when it is not whole yet.

        Any legible request that does not ask for an upgrade comes with ``upgrade=False``, its
        body unread. Raises `BadRequest`, or `EOFError` when the peer left before the end.
        """
        request: Request | None = None
        try:
            request = self._exchange.next_request()
            if request is None:
                return None
            if request.upgrade:
                _check_upgrade(request, self._exchange.lines, self._exchange.http_version)
        except HttpError as error:
            self._read = True
            headers = _WITH_STATUS.get(error.status, {})
            answer = Response.make(error.status, error.reason + "\n", headers)
            raise BadRequest(answer, request) from error
        self._read = True
        self._request = request
        return request

    @property
    def subprotocols(self) -> list[str]:
        """The subprotocols that the client offers, its favourite first."""
        return elements(self._exchange.lines, "sec-websocket-protocol")

    @property
    def extensions(self) -> list[str]:
        """The extensions that the client offers, each with its parameters, as sent.

        A comma always separates: quoted values hold tokens only (RFC 6455, 9.1).
        """
        return elements(self._exchange.lines, "sec-websocket-extensions")

    @property
    def trailing_data(self) -> bytes:
        """What came behind the request in the same read: the first frames of the WebSocket."""
        return self._exchange.trailing_data

    def accept(
        self,
        *,
        subprotocol: str | None = None,
        headers: Iterable[tuple[str, str]] = (),
        extensions: Iterable[str] = (),
    ) -> bytes:
        """Return the 101 that opens the connection (RFC 6455, 4.2.2).

        ``extensions`` are the answers to what is offered, such as ``permessage-deflate``, with
        their parameters. Raises `ValueError` for a subprotocol or an extension that the client
        did not offer, and for headers that cannot be sent.
        """
        if self._answered or self._request is None or not self._request.upgrade:
            raise RuntimeError("there is no upgrade to accept, or it is already answered")
        (key,) = self._exchange.lines["sec-websocket-key"]
        lines = [
            (b"Upgrade", b"websocket"),
            (b"Connection", b"Upgrade"),
            (b"Sec-WebSocket-Accept", generate_accept_token(key.encode("ascii"))),
        ]
        if subprotocol is not None:
            if subprotocol not in self.subprotocols:
                raise ValueError(f"the client does not offer the subprotocol {subprotocol!r}")
            lines.append((b"Sec-WebSocket-Protocol", subprotocol.encode("ascii")))
        chosen = list(extensions)
        if chosen:
            if not _names(chosen) <= _names(self.extensions):
                raise ValueError(f"the client does not offer all of the extensions {chosen!r}")
            lines += check_lines([("Sec-WebSocket-Extensions", ", ".join(chosen))])
        lines += _user_lines(headers)
        self._answered = True
        return self._exchange.switch(lines)

    def respond(self, response: Response, now: float | None = None) -> bytes:
        """Return a plain answer, or what goes before its `Content`; then the connection closes.

        Content-Length and ``Connection: close`` are added, and ``now``, in seconds of the epoch,
        as the Date; a HEAD gets no body. Raises `ValueError` for a status or headers that cannot
        be sent.
        """
        if self._answered or not self._read:
            raise RuntimeError("there is no request to answer, or it is already answered")
        data = self._exchange.respond(response, now)
        self._answered = True
        return data


class ClientHandshake:
    """The client's end: send `request`, then `feed` and `next_response`.

    ``host`` is what the Host header says, ``target`` a path with or without a query, both in
    ASCII. ``extensions`` are offers with their parameters. ``nonce`` is 16 bytes, random
    unless a test wants to know them.
    """

    def __init__(
        self,
        host: str,
        target: str,
        *,
        subprotocols: Sequence[str] = (),
        headers: Iterable[tuple[str, str]] = (),
        extensions: Sequence[str] = (),
        limits: Limits = Limits(),
        nonce: bytes | None = None,
    ) -> None:
        self._host = host
        self._target = target
        self._subprotocols = subprotocols
        self._headers = headers
        self._extensions = extensions
        self._limits = limits
        nonce = secrets.token_bytes(16) if nonce is None else nonce
        if len(nonce) != 16:
            raise ValueError("the nonce has 16 bytes (RFC 6455, 4.1)")
        self._key = base64.b64encode(nonce)
        self._exchange = ClientExchange(limits)
        self._rejected: ResponseHead | None = None
        self._done = False

    def request(self) -> bytes:
        """Return the GET that asks for the upgrade (RFC 6455, 4.1); call it once.

        Raises `ValueError` for a host, target, subprotocol or header that cannot be sent, and
        for a header that the handshake sets itself.
        """
        check_host(self._host)
        check_target(self._target)
        lines = [
            (b"Host", self._host.encode("ascii")),
            (b"Upgrade", b"websocket"),
            (b"Connection", b"Upgrade"),
            (b"Sec-WebSocket-Key", self._key),
            (b"Sec-WebSocket-Version", _VERSION.encode("ascii")),
        ]
        offered = self._subprotocols
        if isinstance(offered, str) or not _are_subprotocols(offered):
            # Not shown: one of them may hold a token.
            raise ValueError("subprotocols is not a list of different tokens (RFC 9110, 5.6.2)")
        if offered:
            lines.append((b"Sec-WebSocket-Protocol", ", ".join(offered).encode("ascii")))
        if self._extensions:
            lines += check_lines([("Sec-WebSocket-Extensions", ", ".join(self._extensions))])
        lines += _user_lines(self._headers)
        return self._exchange.request(self._target, lines)

    def feed(self, data: bytes) -> None:
        """Take bytes from the peer; ``b""`` is the end of its stream."""
        if self._done:
            raise RuntimeError("the answer is already here: leave other bytes in the transport")
        self._exchange.feed(data)

    def next_response(self) -> Accepted | None:
        """Return what the server accepted; None when its answer is not whole yet.

        Interim answers (103 Early Hints) are passed over. Raises `HandshakeRejected` with the
        body up to `Limits.max_response_body`, `HandshakeInvalid` for anything else.
        """
        try:
            accepted = self._next_response()
        except (HttpError, EOFError) as error:
            self._done = True
            raise HandshakeInvalid(f"no answer to the upgrade: {error}") from error
        except HandshakeError:
            self._done = True
            raise
        self._done = accepted is not None
        return accepted

    @property
    def rejection(self) -> HandshakeRejected | None:
        """What to raise when the deadline comes while the body of a rejection is awaited."""
        return None if self._rejected is None else self._rejection(self._rejected)

    @property
    def trailing_data(self) -> bytes:
        """What came behind the answer in the same read: the first frames of the WebSocket."""
        return self._exchange.trailing_data

    def _next_response(self) -> Accepted | None:
        while self._rejected is None:
            head = self._exchange.next_head()
            if head is None:
                return None
            if head.status == 101:
                return self._check(head)
            if head.status >= 200:
                self._rejected = head
        if not self._exchange.read_body(self._limits.max_response_body):
            return None
        raise self._rejection(self._rejected)

    def _rejection(self, head: ResponseHead) -> HandshakeRejected:
        return HandshakeRejected(head.status, head.headers, self._exchange.body)

    def _check(self, head: ResponseHead) -> Accepted:
        """Raise `HandshakeInvalid` unless the 101 is what RFC 6455, 4.1 asks for."""
        lines = head.headers.by_name()
        if head.http_version != b"1.1":
            raise HandshakeInvalid("the server switched protocols in another HTTP than 1.1")
        illegal = _illegal_header(lines)
        if illegal:
            raise HandshakeInvalid(f"illegal characters in {illegal}")
        if _tokens(lines, "upgrade") != ["websocket"]:
            raise HandshakeInvalid("Upgrade is not websocket")
        if "upgrade" not in _tokens(lines, "connection"):
            raise HandshakeInvalid("Connection does not list Upgrade")
        expected = generate_accept_token(self._key).decode("ascii")
        if lines.get("sec-websocket-accept") != [expected]:
            raise HandshakeInvalid("Sec-WebSocket-Accept does not match the key")
        subprotocols = lines.get("sec-websocket-protocol", [])
        if len(subprotocols) > 1 or not set(subprotocols) <= set(self._subprotocols):
            raise HandshakeInvalid("the server chose a subprotocol that was not offered")
        extensions = elements(lines, "sec-websocket-extensions")
        names = _names(extensions)
        if len(names) != len(extensions) or not names <= _names(self._extensions):
            raise HandshakeInvalid("the server chose an extension that was not offered, or twice")
        return Accepted(head.headers, next(iter(subprotocols), None), tuple(extensions))
