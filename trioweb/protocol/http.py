"""One HTTP/1.1 exchange, on either end: a request, and the answer to it (RFC 9110, RFC 9112).

h11 parses and writes. What it leaves to us is here: limits on a head that comes whole in one
read (h11 bounds only incomplete ones), the forms of Host and of the request target, and lines
that are legal only for the robust. Nothing here knows about WebSocket.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus
from typing import TypeAlias, cast

import h11

from ..config import Limits
from ..types import Headers, Request, Response

__all__ = [
    "ClientExchange",
    "HttpError",
    "Lines",
    "ResponseHead",
    "ServerExchange",
    "announces_body",
    "check_host",
    "check_lines",
    "check_target",
    "elements",
]

#: The values of a message's header lines, by their names in lower case: see `Headers.by_name`.
Lines: TypeAlias = Mapping[str, Sequence[str]]

_REQUEST_LINE = re.compile(rb"[!-~]+ [!-~]+ HTTP/[0-9]\.[0-9]\r?")
_STATUS_LINE = re.compile(rb"HTTP/[0-9]\.[0-9] [0-9]{3}(?: .*)?\r?")
# A line may end in LF alone (RFC 9112, 2.2); h11 reads it so too, and both must agree.
_BLANK_LINE = re.compile(rb"\n\r?\n")
_FOLDED_LINE = re.compile(rb"\n[ \t]")

_TOKEN = re.compile(r"[-!#$%&'*+.^_`|~0-9A-Za-z]+")
# Obsolete text (above 0x7F) is legal; control characters are how lines get injected.
_FIELD_VALUE = re.compile(r"[\t -~\x80-\xff]*")
# uri-host [":" port] (RFC 9110, 7.2), without the comma that only joined duplicates have.
_HOST = re.compile(r"(?:\[[0-9A-Za-z:.%_~-]+\]|[-.~!$&'()*+;=%0-9A-Z_a-z]+)(?::[0-9]*)?")
_ORIGIN_FORM = re.compile(r"/[!-~]*")
_ABSOLUTE_FORM = re.compile(r"(?:https?|wss?)://([^/?]*)(.*)", re.IGNORECASE)

_PHRASES = {status.value: status.phrase for status in HTTPStatus}

_SWITCHING = b"HTTP/1.1 101 Switching Protocols\r\n"

#: Headers that say where a message ends: nobody but the writer of the message knows that.
_FRAMING = frozenset({"connection", "content-length", "transfer-encoding"})


class HttpError(Exception):
    """The peer's bytes are not HTTP as we take it; ``status`` is what a server answers."""

    def __init__(self, reason: str, status: int = 400) -> None:
        super().__init__(reason)
        self.reason = reason
        self.status = status


def check_host(host: str) -> None:
    """Raise `ValueError` unless ``host`` may stand in a Host header (RFC 9110, 7.2)."""
    if not _HOST.fullmatch(host):
        raise ValueError(f"not a host, or host:port, in ASCII: {host!r}")


def check_target(target: str) -> None:
    """Raise `ValueError` unless ``target`` is a path with or without a query (RFC 9112, 3.2.1)."""
    if not _ORIGIN_FORM.fullmatch(target) or "#" in target:
        # The query is left out of the message, for it may hold a token.
        raise ValueError(f"not a request target in ASCII: {target.partition('?')[0]!r}")


def check_lines(headers: Iterable[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    """Return a user's header lines for the wire, with the white space around values removed.

    Raises `ValueError` for a line that is not one (CR and LF above all). The message names the
    header and keeps its value, which may be a secret, to itself.
    """
    lines: list[tuple[bytes, bytes]] = []
    for name, value in headers:
        if not _TOKEN.fullmatch(name):
            raise ValueError(f"not a header name: {name!r}")
        if not _FIELD_VALUE.fullmatch(value):
            raise ValueError(f"illegal characters in the value of the header {name}")
        lines.append((name.encode("ascii"), value.strip(" \t").encode("latin-1")))
    return lines


def elements(lines: Lines, name: str) -> list[str]:
    """Return the elements of a comma-separated list header, empty ones left out."""
    if name not in lines:
        return []
    parts = [part.strip() for value in lines[name] for part in value.split(",")]
    return [part for part in parts if part]


def announces_body(request: Request) -> bool:
    """Whether content follows the head of this request (RFC 9112, 6)."""
    length = request.headers.get("Content-Length", "0")
    return "Transfer-Encoding" in request.headers or length.strip("0") != ""


class _HeadReader:
    """Cuts heads (start line, header lines, blank line) out of a stream, within limits.

    All heads of one exchange share `Limits.max_headers`: interim responses cost their sender
    as much as headers do, and cannot go on for ever.
    """

    def __init__(self, start_line: re.Pattern[bytes], limits: Limits) -> None:
        self._start_line = start_line
        self._limits = limits
        self._data = bytearray()
        self._searched = 0
        self._line_is_checked = False
        self._left = limits.max_headers
        self.ended = False

    def feed(self, data: bytes) -> None:
        if data:
            self._data += data
        else:
            self.ended = True

    @property
    def rest(self) -> bytes:
        """What came behind the last head that was taken."""
        return bytes(self._data)

    def take_rest(self) -> bytes:
        rest = self.rest
        self._data.clear()
        return rest

    def next_head(self) -> bytes | None:
        """Return the next whole head; raises `HttpError` as soon as it cannot become one."""
        self._check_start_line()
        blank = _BLANK_LINE.search(self._data, self._searched)
        size = blank.end() if blank else len(self._data)
        if size > self._left:
            raise HttpError("the headers are too large", 431)
        if blank is None:
            self._searched = max(0, size - 2)
            return None
        head = bytes(self._data[:size])
        if head.count(b"\n") - 2 > self._limits.max_header_lines:
            raise HttpError("too many header lines", 431)
        del self._data[:size]
        self._searched = 0
        self._line_is_checked = False
        self._left -= size
        return head

    def _check_start_line(self) -> None:
        # What is not HTTP at all (TLS, another protocol's banner) may never have a blank line,
        # and should hear so before the deadline.
        if self._data and self._data[0] <= 0x20:
            raise HttpError("this is not HTTP")
        if self._line_is_checked:
            return
        end = self._data.find(b"\n")
        if (len(self._data) if end < 0 else end) > self._limits.max_headers:
            raise HttpError("the first line is too long", 414)
        if end >= 0 and not self._start_line.fullmatch(self._data, 0, end):
            raise HttpError("this is not HTTP/1.1")
        self._line_is_checked = end >= 0


def _parse(connection: h11.Connection, head: bytes) -> object:
    connection.receive_data(head)
    try:
        return connection.next_event()
    except h11.RemoteProtocolError as exc:
        # h11 quotes the offending line behind a colon: as long as the peer likes, and perhaps
        # a secret. Reasons end up in logs.
        raise HttpError(str(exc).partition(": b")[0], exc.error_status_hint) from None


def _write(connection: h11.Connection, *events: h11.Event) -> bytes:
    return b"".join(connection.send(event) or b"" for event in events)


def _understand(method: str, target: str, headers: Headers, lines: Lines) -> tuple[str, Headers]:
    """Check what h11 takes as it comes: framing, host and target (RFC 9112, 3.2 and 6).

    Returns the target in origin form, and the headers with its authority as the Host.
    """
    if method == "CONNECT":
        raise HttpError("this is not a proxy", 405)
    if "transfer-encoding" in lines and "content-length" in lines:
        raise HttpError("both Content-Length and Transfer-Encoding")  # RFC 9112, 6.1
    hosts = [host for host in lines.get("host", ()) if host]
    if absolute := _ABSOLUTE_FORM.fullmatch(target):
        # The authority in the target replaces Host, which must be one all the same (RFC 9112, 3.2).
        others = (line for line in headers.pairs() if line[0].lower() != "host")
        hosts.append(absolute[1])
        headers = Headers([("Host", absolute[1]), *others])
        target = absolute[2] if absolute[2].startswith("/") else "/" + absolute[2]
    if not all(map(_HOST.fullmatch, hosts)):
        raise HttpError("the host is malformed")
    if (method, target) != ("OPTIONS", "*") and (
        not _ORIGIN_FORM.fullmatch(target) or "#" in target
    ):
        raise HttpError("the request target is malformed")
    return target, headers


class ServerExchange:
    """The server's end: read one request, then either `respond` or `switch`."""

    def __init__(
        self,
        limits: Limits,
        *,
        client_address: tuple[str, int] | None = None,
        scheme: str = "http",
        is_upgrade: Callable[[Lines], bool] = lambda _: False,
    ) -> None:
        self._h11 = h11.Connection(h11.SERVER)
        self._reader = _HeadReader(_REQUEST_LINE, limits)
        self._client_address = client_address
        self._scheme = scheme
        self._is_upgrade = is_upgrade
        self._started = False
        self._head_only = False
        #: The headers of the request.
        self.lines: Lines = {}

    def feed(self, data: bytes) -> None:
        """Take bytes from the peer; ``b""`` is the end of its stream."""
        if data and not self._started:
            # Empty lines before a request are ignored (RFC 9112, 2.2).
            data = data.lstrip(b"\r\n")
            if not data:
                return
            self._started = True
        self._reader.feed(data)

    def next_request(self) -> Request | None:
        """Return the request; None when its head is not whole yet.

        Raises `HttpError` for one that we do not take, `EOFError` when the peer has left.
        """
        head = self._reader.next_head()
        if head is None:
            if self._reader.ended:
                when = "in the middle of" if self._started else "before"
                raise EOFError(f"the peer left {when} its request")
            return None
        if _FOLDED_LINE.search(head):
            raise HttpError("a header line is folded")  # RFC 9112, 5.2
        event = cast(h11.Request, _parse(self._h11, head))
        self._head_only = event.method == b"HEAD"
        if not event.http_version.startswith(b"1."):
            raise HttpError("only HTTP/1.1 is spoken here", 505)
        method = event.method.decode("ascii")
        target = event.target.decode("ascii")
        headers = Headers.from_bytes(event.headers.raw_items())
        self.lines = headers.by_name()
        target, understood = _understand(method, target, headers, self.lines)
        if understood is not headers:
            self.lines = understood.by_name()
        upgrade = self._is_upgrade(self.lines)
        return Request(target, understood, method, self._client_address, upgrade, self._scheme)

    @property
    def http_version(self) -> bytes:
        """The version in the request line, such as ``b"1.1"``."""
        return self._h11.their_http_version or b"1.1"

    @property
    def trailing_data(self) -> bytes:
        """What came behind the head of the request."""
        return self._reader.rest

    def respond(self, response: Response, now: float | None = None) -> bytes:
        """Return a final response that ends the connection: whole, or up to its `Content`.

        Content-Length and Connection are ours; the user's are left out. ``now``, in seconds of
        the epoch, becomes the Date (RFC 9110, 6.6.1) unless the user has set one. Raises
        `ValueError` for a status or a header that cannot be sent.
        """
        if not 200 <= response.status <= 599:
            raise ValueError(f"not the status of a final response: {response.status}")
        pairs = response.headers.pairs()
        lines = check_lines(line for line in pairs if line[0].lower() not in _FRAMING)
        if now is not None and "Date" not in response.headers:
            lines.append((b"Date", formatdate(now, usegmt=True).encode("ascii")))
        body = b"" if response.status in (204, 205, 304) else response.body
        size = len(body) if response.content is None else response.content.size
        if response.status not in (204, 304):  # RFC 9110, 8.6
            lines.append((b"Content-Length", b"%d" % size))
        # Whoever sends Upgrade lists it in Connection too (RFC 9110, 7.8).
        upgrade = b"Upgrade, " if "Upgrade" in response.headers else b""
        lines.append((b"Connection", upgrade + b"close"))
        head = h11.Response(
            status_code=response.status, headers=lines, reason=_PHRASES.get(response.status, "")
        )
        if response.content is not None and not self._head_only:
            return _write(self._h11, head)
        content = [] if self._head_only or not body else [h11.Data(body)]
        return _write(self._h11, head, *content, h11.EndOfMessage())

    def switch(self, lines: list[tuple[bytes, bytes]]) -> bytes:
        """Return the 101 that ends HTTP here (RFC 9110, 15.2.2); the lines are checked already."""
        return b"".join([_SWITCHING, *[b"%s: %s\r\n" % line for line in lines], b"\r\n"])


class ClientExchange:
    """The client's end: `request`, then the heads of the answers, then the last one's body."""

    def __init__(self, limits: Limits) -> None:
        self._h11 = h11.Connection(h11.CLIENT)
        self._reader = _HeadReader(_STATUS_LINE, limits)
        self._body = bytearray()

    def request(
        self, target: str, lines: list[tuple[bytes, bytes]], *, method: str = "GET"
    ) -> bytes:
        """Return a request without a body: a GET, or a CONNECT (RFC 9110, 9.3.6)."""
        return _write(
            self._h11,
            h11.Request(method=method, target=target.encode("ascii"), headers=lines),
            h11.EndOfMessage(),
        )

    def feed(self, data: bytes) -> None:
        """Take bytes from the peer; ``b""`` is the end of its stream."""
        self._reader.feed(data)

    def next_head(self) -> ResponseHead | None:
        """Return the next head, interim ones too; None when it is not whole yet.

        Raises `HttpError` for what is not HTTP or too large, `EOFError` when the peer has left.
        """
        head = self._reader.next_head()
        if head is None:
            if self._reader.ended:
                raise EOFError("the peer left before its answer")
            return None
        event = cast(h11.Response | h11.InformationalResponse, _parse(self._h11, head))
        return ResponseHead(
            event.status_code,
            Headers.from_bytes(event.headers.raw_items()),
            bytes(event.http_version),
        )

    @property
    def body(self) -> bytes:
        """What is known of the body so far."""
        return bytes(self._body)

    def read_body(self, limit: int) -> bool:
        """Read the body of a final response; True when its end, or ``limit`` bytes, is here.

        A body that breaks off or is malformed ends there: the head is what matters.
        """
        rest = self._reader.take_rest()
        if rest:
            self._h11.receive_data(rest)
        if self._reader.ended:
            self._h11.receive_data(b"")
        while len(self._body) < limit:
            try:
                event = self._h11.next_event()
            except h11.RemoteProtocolError:
                return True
            if event is h11.NEED_DATA:
                return False
            if not isinstance(event, h11.Data):
                return True
            self._body += event.data
        del self._body[limit:]
        return True

    @property
    def trailing_data(self) -> bytes:
        """What came behind the last head."""
        return self._reader.rest


@dataclass(frozen=True, slots=True)
class ResponseHead:
    """Status line and headers of a response."""

    status: int
    headers: Headers
    http_version: bytes
