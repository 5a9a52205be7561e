"""The vocabulary of trioweb: messages, close codes, headers, requests and responses.

Nothing here does I/O or knows a connection; every other module may import it.
"""

from __future__ import annotations

import enum
import re
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias, cast, overload
from urllib.parse import parse_qsl, unquote

__all__ = [
    "Close",
    "CloseCode",
    "Content",
    "Headers",
    "Message",
    "Request",
    "Response",
    "Side",
    "State",
]

#: One WebSocket message: ``str`` is a text message, ``bytes`` a binary one (RFC 6455, 5.6).
Message: TypeAlias = str | bytes


class Side(enum.Enum):
    """Which end of the connection we are: it decides who masks (RFC 6455, 5.1)."""

    CLIENT = "client"
    SERVER = "server"


class State(enum.Enum):
    """Where a connection is in its life.

    The way from one to the next stands in one table, in `trioweb.protocol.machine`.
    """

    #: The opening handshake is under way.
    CONNECTING = "connecting"
    #: Messages may be sent and received.
    OPEN = "open"
    #: One close frame has gone: ours is out, or the peer's came and ours is still due.
    CLOSING = "closing"
    #: Both close frames have gone, or the connection failed.
    CLOSED = "closed"


class CloseCode(enum.IntEnum):
    """Registered close codes (RFC 6455, 7.4.1, and the IANA registry).

    3000 to 3999 are registered by libraries, 4000 to 4999 are for private use: plain integers
    serve for those.
    """

    #: The purpose of the connection is fulfilled.
    NORMAL = 1000
    #: The end goes away: a server stops, a browser leaves the page.
    GOING_AWAY = 1001
    #: The peer broke the protocol.
    PROTOCOL_ERROR = 1002
    #: A kind of data that this end cannot take (binary where only text is understood).
    UNSUPPORTED_DATA = 1003
    #: Reported only: the close frame had no code.
    NO_STATUS = 1005
    #: Reported only: the connection ended without a close frame.
    ABNORMAL = 1006
    #: The data does not fit its type, such as text that is not UTF-8.
    INVALID_DATA = 1007
    #: A message broke the policy of this end; the code when no other fits.
    POLICY_VIOLATION = 1008
    #: A message is too big.
    MESSAGE_TOO_BIG = 1009
    #: The client needs an extension that the server did not accept.
    MANDATORY_EXTENSION = 1010
    #: The server met an unexpected condition.
    INTERNAL_ERROR = 1011
    #: The service restarts; come back after a random 5 to 30 seconds.
    SERVICE_RESTART = 1012
    #: The service is overloaded; come back later.
    TRY_AGAIN_LATER = 1013
    #: A gateway got an invalid answer from the server behind it.
    BAD_GATEWAY = 1014
    #: Reported only: the TLS handshake failed.
    TLS_HANDSHAKE = 1015

    @property
    def sendable(self) -> bool:
        """Whether the code may stand in a close frame (1005, 1006 and 1015 may not)."""
        return self not in (CloseCode.NO_STATUS, CloseCode.ABNORMAL, CloseCode.TLS_HANDSHAKE)


@dataclass(frozen=True, slots=True)
class Close:
    """How a connection ended (RFC 6455, 7.1.5 and 7.1.6).

    ``code`` is 1005 when the close frame had none, 1006 when there was no close frame.
    """

    code: int
    reason: str = ""
    #: Whether the close frame came from the peer first.
    by_peer: bool = False

    def __str__(self) -> str:
        """Return the code, its name where it has one, and the reason."""
        try:
            name = f" ({CloseCode(self.code).name.lower().replace('_', ' ')})"
        except ValueError:
            name = ""
        return f"{self.code}{name}{': ' + self.reason if self.reason else ''}"


#: Names and values that most handshakes have. Nothing of a peer's is added: what is kept for all is
#: kept for ever.
_COMMON = {
    text.encode(): text
    for name in (
        *("Host", "Connection", "Upgrade", "Origin", "Cookie", "User-Agent", "Pragma"),
        *("Cache-Control", "Accept", "Accept-Encoding", "Accept-Language", "Authorization"),
        *("Sec-WebSocket-Version", "Sec-WebSocket-Key", "Sec-WebSocket-Extensions"),
        *("Sec-WebSocket-Protocol", "Sec-Fetch-Dest", "Sec-Fetch-Mode", "Sec-Fetch-Site"),
        *("X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "Forwarded"),
    )
    for text in (name, name.lower())
} | {
    text.encode(): text
    for text in (
        *("Upgrade", "upgrade", "keep-alive, Upgrade", "websocket", "13", "no-cache"),
        *("permessage-deflate", "permessage-deflate; client_max_window_bits"),
        *("gzip, deflate, br, zstd", "websocket", "empty", "same-origin", "cross-site"),
    )
}


class Headers(Mapping[str, str]):
    """HTTP headers: an immutable multi-mapping whose names compare without regard to case.

    ``headers[name]`` joins several lines of one name with ``", "`` (RFC 9110, 5.3);
    `get_all` gives them one by one, as ``Set-Cookie`` needs. Text is ISO-8859-1, the only
    reading that keeps every byte.
    """

    __slots__ = ("_items",)

    def __init__(self, items: Mapping[str, str] | Iterable[tuple[str, str]] = ()) -> None:
        pairs: Iterable[tuple[str, str]]
        if isinstance(items, Headers):
            pairs = items.pairs()  # every line, where a plain mapping would give joined ones
        elif isinstance(items, Mapping):
            pairs = cast("Mapping[str, str]", items).items()
        else:
            pairs = items
        self._items: tuple[tuple[str, str], ...] = tuple((name, value) for name, value in pairs)

    @classmethod
    def from_bytes(cls, raw: Iterable[tuple[bytes, bytes]]) -> Headers:
        """Read headers as they stand on the wire."""
        headers = cls.__new__(cls)
        # All connections share the texts that most of them have.
        headers._items = tuple(  # noqa: SLF001 - of its own class
            [
                (
                    _COMMON.get(name) or name.decode("latin-1"),
                    _COMMON.get(value) or value.decode("latin-1"),
                )
                for name, value in raw
            ]
        )
        return headers

    def to_bytes(self) -> list[tuple[bytes, bytes]]:
        """Write headers for the wire; raises `UnicodeEncodeError` outside ISO-8859-1."""
        return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in self._items]

    def __getitem__(self, name: str) -> str:
        values = self.get_all(name)
        if not values:
            raise KeyError(name)
        return ", ".join(values)

    def get_all(self, name: str) -> list[str]:
        """Return the value of every line with this name, in order."""
        wanted = name.lower()
        return [value for key, value in self._items if key.lower() == wanted]

    def by_name(self) -> dict[str, list[str]]:
        """Return the values of all lines by their names in lower case, for many questions."""
        lines: dict[str, list[str]] = {}
        for name, value in self._items:
            lines.setdefault(name.lower(), []).append(value)
        return lines

    def tokens(self, name: str) -> list[str]:
        """Return the elements of a comma-separated list header, empty ones left out."""
        parts = [part.strip() for value in self.get_all(name) for part in value.split(",")]
        return [part for part in parts if part]

    def pairs(self) -> tuple[tuple[str, str], ...]:
        """Return all lines as (name, value), in order and with their repetitions."""
        return self._items

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(key.lower() for key, _ in self._items))

    def __len__(self) -> int:
        return len({key.lower() for key, _ in self._items})

    def __contains__(self, name: object) -> bool:
        wanted = name.lower() if isinstance(name, str) else None
        return wanted in [key.lower() for key, _ in self._items]

    def __repr__(self) -> str:
        """Name the headers but not their values, which may be secrets."""
        return f"<Headers {', '.join(self)}>"


def _no_headers() -> Headers:
    return Headers()


_AUTHORITY = re.compile(r"[^/?]*//[^/?]*")


@dataclass(frozen=True, slots=True)
class Request:
    """An HTTP request, as `on_request`, `authenticate` and handlers see it."""

    #: The request target as sent, such as ``/chat/7?token=x``.
    target: str
    headers: Headers = field(default_factory=_no_headers)
    method: str = "GET"
    #: The peer's ``(host, port)``; behind a trusted proxy the client's, as that says, with port 0
    #: if it does not. None for the peer of a Unix socket.
    client_address: tuple[str, int] | None = None
    #: True when the request asks to become a WebSocket.
    upgrade: bool = True
    #: ``https`` if the client's connection is TLS, as far as a server can know, else ``http``.
    scheme: str = "http"

    @property
    def path(self) -> str:
        """The path of the target, with its percent escapes decoded."""
        return unquote(self._split()[0])

    @property
    def raw_path(self) -> str:
        """The path of the target as sent, in which ``%2F`` is no slash between two segments."""
        return self._split()[0]

    @property
    def query(self) -> Mapping[str, str]:
        """The query parameters; of a repeated one the last value."""
        return dict(parse_qsl(self._split()[1], keep_blank_values=True))

    @property
    def cookies(self) -> Mapping[str, str]:
        """The cookies of the ``Cookie`` header; pieces without ``=`` are left out."""
        pairs = (part.strip().partition("=") for part in self.headers.get("Cookie", "").split(";"))
        return {name: value.strip('"') for name, equals, value in pairs if equals}

    def _split(self) -> tuple[str, str]:
        target = self.target
        if not target.startswith("/"):  # absolute form, as proxies get it (RFC 9112, 3.2.2)
            target = _AUTHORITY.sub("", target, count=1)
        path, _, query = target.partition("?")
        return path or "/", query

    def __repr__(self) -> str:
        """Leave out the query, which may hold a token."""
        return f"<Request {self.method} {self._split()[0]!r}>"


@dataclass(frozen=True, slots=True)
class Content:
    """The body of a response that is too large for memory: it is read while it is sent."""

    #: Bytes in all; what ``pieces`` gives beyond them is left out. If it gives fewer, or raises
    #: an `Exception`, that is logged, and the connection breaks off, so that the client knows.
    size: int
    #: Called when the body is sent, which for a HEAD is never. Each piece is in memory until the
    #: peer has taken it; the generator is closed when the last one is, or the peer has gone.
    pieces: Callable[[], AsyncGenerator[bytes, None]]


@dataclass(frozen=True, slots=True)
class Response:
    """A plain HTTP response: the answer to a request that does not become a WebSocket.

    ``Content-Length``, ``Connection: close`` and ``Date`` are added when it is sent; for text,
    `Response.make` adds ``Content-Type``. Raises `ValueError` for a `Content` beside a body, or
    with a status that has none.
    """

    status: int = 200
    headers: Headers = field(default_factory=_no_headers)
    body: bytes = b""
    #: Instead of ``body``: what is sent in pieces.
    content: Content | None = None

    def __post_init__(self) -> None:
        if self.content is not None and (self.body or self.status in (204, 205, 304)):
            raise ValueError(f"content beside a body, or with the status {self.status}")
        if not isinstance(self.body, bytes):  # pyright: ignore[reportUnnecessaryIsInstance]  # said here, not deep inside the server
            raise TypeError(f"a body is bytes, not {type(self.body).__name__}: see Response.make")

    @overload
    @classmethod
    def make(cls, status: int, body: str, headers: Mapping[str, str] = ...) -> Response: ...
    @overload
    @classmethod
    def make(
        cls, status: int, body: bytes, headers: Mapping[str, str] = ..., *, content_type: str
    ) -> Response: ...
    @classmethod
    def make(
        cls,
        status: int,
        body: str | bytes,
        headers: Mapping[str, str] | Sequence[tuple[str, str]] = (),
        *,
        content_type: str = "text/plain; charset=utf-8",
    ) -> Response:
        """Build a response from a body and its type; text is sent as UTF-8.

        A Content-Type among the headers counts more than ``content_type``.
        """
        given = Headers(headers)
        if "Content-Type" not in given:
            given = Headers([("Content-Type", content_type), *given.pairs()])
        return cls(status, given, body.encode() if isinstance(body, str) else body)
