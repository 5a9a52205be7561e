"""Attacks on the HTTP that comes before a WebSocket (RFC 9110, RFC 9112)."""

from __future__ import annotations

import trio

from tests.helpers import TEXT, close_frame, frame
from tests.hostile.attack import REFUSALS, SECRET, Answer, Attack, Attacker, Seen, any_of, ask

__all__ = ["HTTP"]

#: A TLS 1.2 ClientHello, of which only the start matters.
HELLO = bytes.fromhex("16030100a5010000a10303") + bytes(range(160))
LINE = f"GET /?token={SECRET} HTTP/1.1"


def refused(name: str, data: bytes, status: int, rule: str, **more: object) -> Attack:
    """Refused with a status; a server that drops what is no HTTP at all is right, too."""
    return Attack(name, "handshake", data, status, rule, REFUSALS, **more)  # type: ignore[arg-type]  # the rest of the fields by name


def accepted(name: str, request: bytes, rule: str, *also: Answer, **more: object) -> Attack:
    """Unusual and right: the connection opens, and echoes."""
    return Attack(
        name,
        "handshake",
        frame(TEXT, "hi"),
        1000,
        rule,
        frozenset(also),
        request,
        ((TEXT, b"hi"),),
        close_frame(1000),
        **more,  # type: ignore[arg-type]  # as above
    )


async def _hello_to_plain_http(attacker: Attacker) -> Seen:
    async with attacker.dial(raw=True) as line:
        await line.send(HELLO)
        await line.head()
        return await line.finish()


async def _http_to_tls(attacker: Attacker) -> Seen:
    async with attacker.dial(raw=True) as line:
        await line.send(ask())
        seen = await line.finish()
        # What comes back is an alert, which is no HTTP and no frame.
        return Seen(end=seen.end)


async def _dribbled(attacker: Attacker) -> Seen:
    async with attacker.dial() as line:
        for byte in ask():
            await line.send(bytes([byte]))
            await trio.lowlevel.checkpoint()
        await line.head()
        await attacker.echo(line, "hi")
        await line.send(close_frame(1000))
        return await line.finish()


async def _half_closed(attacker: Attacker) -> Seen:
    async with attacker.dial() as line:
        await line.send(ask()[:-2])
        await line.eof()
        await line.head()
        return await line.finish()


START_LINE = [
    refused("garbage bytes", b"\x00\x01\x02" * 40, 400, "RFC 9112, 3"),
    Attack(
        "a TLS ClientHello where HTTP is spoken",
        *("handshake", b"", 400, "RFC 9112, 3", REFUSALS | any_of("end")),
        script=_hello_to_plain_http,
        over=("tcp",),
    ),
    Attack(
        "HTTP where TLS is spoken",
        *("handshake", b"", "end", "RFC 8446, 6", any_of("reset", 400)),
        script=_http_to_tls,
        over=("tls",),
    ),
    refused("the preface of HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, "RFC 9113, 3.4"),
    refused("HTTP/0.9", b"GET /\r\n", 400, "RFC 9112, 3"),
    refused("HTTP/1.0", ask(line="GET / HTTP/1.0"), 400, "RFC 6455, 4.2.1"),
    refused("HTTP/3.0 in words", ask(line="GET / HTTP/3.0"), 505, "RFC 9110, 15.6.6"),
    refused("a version in lower case", ask(line="GET / http/1.1"), 400, "RFC 9112, 2.3"),
    refused("a method in lower case", ask(line="get / HTTP/1.1"), 405, "RFC 9110, 9.1"),
    refused("POST", ask(line="POST / HTTP/1.1"), 405, "RFC 6455, 4.2.1"),
    refused("CONNECT", ask(line="CONNECT a:443 HTTP/1.1"), 405, "RFC 9110, 9.3.6"),
    refused("OPTIONS *", ask(line="OPTIONS * HTTP/1.1"), 405, "RFC 6455, 4.2.1"),
    refused("no method", ask(line=" / HTTP/1.1"), 400, "RFC 9112, 3"),
    refused("two spaces before the target", ask(line="GET  / HTTP/1.1"), 400, "RFC 9112, 3"),
    refused("tabs for spaces", ask(line="GET\t/\tHTTP/1.1"), 400, "RFC 9112, 3"),
    refused("no target", ask(line="GET HTTP/1.1"), 400, "RFC 9112, 3"),
    refused("a space in the target", ask(line="GET /a b HTTP/1.1"), 400, "RFC 9112, 3.2"),
    refused("a target without a slash", ask(line="GET x HTTP/1.1"), 400, "RFC 9112, 3.2.1"),
    refused("a fragment in the target", ask(line="GET /#x HTTP/1.1"), 400, "RFC 6455, 3"),
    refused("a NUL in the target", ask(line="GET /\0 HTTP/1.1"), 400, "RFC 9112, 3.2"),
    refused("no ASCII in the target", ask(line="GET /\xe4 HTTP/1.1"), 400, "RFC 9112, 3.2"),
    refused("a target of 20,000 bytes", ask(line=f"GET /{'x' * 20_000} HTTP/1.1"), 414, "3"),
    refused("a line that never ends", b"GET /" + b"x" * 60_000, 414, "RFC 9112, 3"),
    accepted(
        "a target in absolute form", ask(line="GET http://localhost/ HTTP/1.1"), "RFC 9112, 3.2.2"
    ),
    refused(
        "an absolute target without a host", ask(line="GET http:/// HTTP/1.1"), 400, "RFC 9110, 4.2"
    ),
    refused("another scheme", ask(line="GET ftp://localhost/ HTTP/1.1"), 400, "RFC 9112, 3.2.2"),
    refused(
        "up and out of the tree",
        *(ask(line="GET /../../etc/passwd HTTP/1.1"), 404, "the server's paths"),
        ours=True,
    ),
]

HEADER_LINES = [
    refused("a header of 20,000 bytes", ask("X: " + "y" * 20_000), 431, "RFC 6585, 5"),
    refused("200 headers", ask(*["X: y"] * 200), 431, "RFC 6585, 5"),
    refused("headers without end", LINE.encode() + b"\r\nX: y" * 10_000, 431, "RFC 6585, 5"),
    refused("a NUL in a header", ask("X: a\0b"), 400, "RFC 9110, 5.5"),
    refused("a bare CR in a header", ask("X: a\rb"), 400, "RFC 9112, 2.2"),
    refused("a folded header", ask("X: a\r\n b"), 400, "RFC 9112, 5.2"),
    refused("white space before the first header", ask(line=LINE + "\r\n X: y"), 400, "2.2"),
    refused("a space before the colon", ask("X : y"), 400, "RFC 9112, 5.1"),
    refused("a header without a colon", ask("nothing"), 400, "RFC 9112, 5"),
    refused("a header without a name", ask(": x"), 400, "RFC 9110, 5.1"),
    refused("a NUL in a header's name", ask("X\0: y"), 400, "RFC 9110, 5.1"),
    refused("no ASCII in a header's name", ask("X\xe4: y"), 400, "RFC 9110, 5.1"),
    accepted("lines that end in LF", ask(end="\n"), "RFC 9112, 2.2", *REFUSALS),
    accepted("an empty line first", b"\r\n" + ask(), "RFC 9112, 2.2", *REFUSALS),
    accepted("an escape sequence in a header", ask("X: \x1b[2J"), "RFC 9110, 5.5", *REFUSALS),
    accepted("bytes above 0x7F in a header", ask("X: \xe4"), "RFC 9110, 5.5", *REFUSALS),
]

BODIES = [
    refused(
        "both lengths",
        *(ask("Content-Length: 3", "Transfer-Encoding: chunked"), 400, "RFC 9112, 6.1"),
    ),
    refused("a body", ask("Content-Length: 3") + b"abc", 400, "RFC 6455, 4.2.1"),
    refused(
        "a body in chunks",
        *(ask("Transfer-Encoding: chunked") + b"3\r\nabc\r\n0\r\n\r\n", 400, "RFC 6455, 4.2.1"),
    ),
    refused(
        "two different lengths", ask("Content-Length: 0", "Content-Length: 3"), 400, "RFC 9112, 6.3"
    ),
    refused("a negative length", ask("Content-Length: -1"), 400, "RFC 9110, 8.6"),
    refused("a length of 30 digits", ask("Content-Length: " + "9" * 30), 400, "RFC 9110, 8.6"),
    refused("an unknown coding", ask("Transfer-Encoding: x"), 501, "RFC 9112, 6.1"),
    accepted("an expectation", ask("Expect: 100-continue"), "RFC 9110, 10.1.1", *REFUSALS),
    refused(
        "a second request behind a plain one",
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" * 2,
        *(426, "RFC 9112, 9.6"),
        ours=True,
    ),
]

PACE = [
    Attack(
        "a request byte by byte",
        *("handshake", b"", 1000, "TCP has no packets", any_of(), None),
        ((TEXT, b"hi"),),
        script=_dribbled,
    ),
    Attack(
        "the end in the midst of the request",
        *("handshake", b"", "end", "RFC 9112, 8", REFUSALS | any_of("reset")),
        script=_half_closed,
    ),
]

HTTP = [*START_LINE, *HEADER_LINES, *BODIES, *PACE]
