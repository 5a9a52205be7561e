"""The opening handshake: what is right though unusual, what is wrong, and every known trap."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.http11 import Request as TheirRequest
from websockets.server import ServerProtocol
from websockets.uri import parse_uri
from wsproto import ConnectionType, WSConnection
from wsproto import events as wsproto_events

from trioweb.config import Limits
from trioweb.errors import HandshakeError, HandshakeInvalid, HandshakeRejected
from trioweb.protocol.handshake import Accepted, BadRequest, ClientHandshake, ServerHandshake
from trioweb.types import Headers, Request, Response

# The example of RFC 6455, 1.2 and 1.3.
NONCE = b"the sample nonce"
KEY = "dGhlIHNhbXBsZSBub25jZQ=="
TOKEN = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="

RIGHT = {
    "Host": "server.example.com",
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": KEY,
    "Sec-WebSocket-Version": "13",
}
ANSWER = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Accept": TOKEN}

Change = Mapping[str, str | list[str] | None]


def lines(base: dict[str, str], change: Change) -> bytes:
    """Write headers with some changed: another value, several lines, or none at all."""
    headers: dict[str, str | list[str] | None] = {**base, **change}
    pairs: list[tuple[str, str]] = []
    for name, value in headers.items():
        if value is not None:
            pairs += [(name, one) for one in ([value] if isinstance(value, str) else value)]
    return "".join(f"{name}: {value}\r\n" for name, value in pairs).encode("latin-1") + b"\r\n"


def asking(change: Change | None = None, start: str = "GET /chat HTTP/1.1") -> bytes:
    return start.encode() + b"\r\n" + lines(RIGHT, change or {})


def answering(change: Change | None = None, start: str = "HTTP/1.1 101 Switching") -> bytes:
    return start.encode() + b"\r\n" + lines(ANSWER, change or {})


def serving(data: bytes, limits: Limits = Limits()) -> tuple[ServerHandshake, Request]:
    server = ServerHandshake(limits, client_address=("192.0.2.1", 5))
    server.feed(data)
    request = server.next_request()
    assert request is not None
    return server, request


def refused(data: bytes, limits: Limits = Limits()) -> BadRequest:
    """Return how a request is refused, after sending the answer that says so."""
    server = ServerHandshake(limits)
    server.feed(data)
    with pytest.raises(BadRequest) as caught:
        server.next_request()
    refusal = caught.value
    sent = server.respond(refusal.response)
    assert sent.startswith(b"HTTP/1.1 %d " % refusal.response.status)
    assert b"close\r\n" in sent
    assert b"Content-Type: text/plain; charset=utf-8\r\n" in sent
    assert refusal.response.body.endswith(b"\n")
    assert len(refusal.response.body) < 100
    assert str(refusal).startswith(f"{refusal.response.status}: ")
    return refusal


def asking_client(**options: object) -> tuple[ClientHandshake, bytes]:
    client = ClientHandshake("server.example.com", "/chat", nonce=NONCE, **options)  # type: ignore[arg-type]
    return client, client.request()


def asked(**options: object) -> ClientHandshake:
    return asking_client(**options)[0]


def answered(data: bytes, **options: object) -> Accepted | None:
    client = asked(**options)
    client.feed(data)
    return client.next_response()


# The server: what is right.


def test_the_example_of_the_rfc_is_accepted():
    server, request = serving(asking({"Sec-WebSocket-Protocol": "chat, superchat"}))
    assert request.upgrade
    assert (request.method, request.target) == ("GET", "/chat")
    assert request.client_address == ("192.0.2.1", 5)
    assert server.subprotocols == ["chat", "superchat"]
    assert server.accept(subprotocol="chat") == (
        b"HTTP/1.1 101 Switching Protocols\r\n"
        b"Upgrade: websocket\r\n"
        b"Connection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"
        b"Sec-WebSocket-Protocol: chat\r\n"
        b"\r\n"
    )


@pytest.mark.parametrize(
    "change",
    [
        {"Upgrade": "WebSocket"},
        {"Upgrade": ["foo", "websocket"]},
        {"Upgrade": "foo/2,,websocket"},
        {"Connection": "keep-alive, Upgrade"},
        {"Connection": "keep-alive,upgrade"},
        {"Connection": ["close", "UPGRADE"]},
        {"Connection": "\tupgrade \t"},
        {"Content-Length": "0"},
        {"Host": "xn--mnchen-3ya.example:8080"},
        {"Host": "[::1]:80"},
        {"Host": "under_score"},
        {"Sec-WebSocket-Protocol": "a, b,,c"},
        {"Sec-WebSocket-Protocol": ["a", "b"]},
        {"Sec-WebSocket-Protocol": ""},
        {"Sec-WebSocket-Extensions": 'permessage-deflate; x="1"'},
        {"Sec-WebSocket-Accept": "strange, but harmless"},
        {"Cookie": "a=\xe9\x01"},
        {"Expect": "100-continue"},
    ],
)
def test_the_unusual_is_accepted(change: Change):
    server, request = serving(asking(change))
    assert request.upgrade
    assert TOKEN.encode() in server.accept()


@pytest.mark.parametrize(
    "start",
    ["GET http://other/chat HTTP/1.1", "GET / HTTP/1.2", "GET //chat?://[ HTTP/1.1"],
)
def test_an_unusual_request_line_is_accepted(start: str):
    assert serving(asking(start=start))[1].upgrade


def test_lower_case_names_and_bare_line_feeds_are_accepted():
    assert serving(asking().replace(b"Sec-WebSocket-", b"sec-websocket-"))[1].upgrade
    assert serving(asking().replace(b"\r\n", b"\n"))[1].upgrade


@pytest.mark.parametrize("start", ["GET /a HTTP/1.1", "GET /a HTTP/1.0", "DELETE /a HTTP/1.1"])
@pytest.mark.parametrize(
    "change", [{}, {"Upgrade": "h2c", "Connection": "Upgrade, HTTP2-Settings"}]
)
def test_what_asks_for_no_websocket_is_shown_as_a_plain_request(start: str, change: Change):
    plain = {name: None for name in RIGHT if name != "Host"}
    server, request = serving(asking({**plain, **change}, start))
    assert not request.upgrade
    assert request.target == "/a"
    assert request.client_address
    assert server.subprotocols == []
    assert server.respond(Response.make(404, "no")).startswith(b"HTTP/1.1 404 Not Found\r\n")
    with pytest.raises(RuntimeError, match="upgrade"):
        server.accept()


# The server: what is wrong.

WRONG: list[tuple[int, Change]] = [
    (426, {"Upgrade": None}),
    (426, {"Upgrade": "websockets"}),
    (426, {"Upgrade": "websocket/13"}),
    (426, {"Upgrade": "h2c"}),
    (400, {"Connection": None}),
    (400, {"Connection": "keep-alive"}),
    (400, {"Connection": "Upgraded"}),
    (400, {"Host": None}),
    (400, {"Host": ""}),
    (400, {"Host": ["a", "a"]}),
    (400, {"Host": "a b"}),
    (400, {"Sec-WebSocket-Key": None}),
    (400, {"Sec-WebSocket-Key": ""}),
    (400, {"Sec-WebSocket-Key": [KEY, KEY]}),
    (400, {"Sec-WebSocket-Key": KEY[:-1]}),
    (400, {"Sec-WebSocket-Key": "A" * 24}),
    (400, {"Sec-WebSocket-Key": "A" * 20 + "===="}),
    (400, {"Sec-WebSocket-Key": KEY[:5] + " " + KEY[6:]}),
    (400, {"Sec-WebSocket-Key": KEY + ", " + KEY}),
    (400, {"Sec-WebSocket-Key": KEY.replace("G", "-")}),
    (426, {"Sec-WebSocket-Version": None}),
    (426, {"Sec-WebSocket-Version": "8"}),
    (426, {"Sec-WebSocket-Version": "13, 8"}),
    (426, {"Sec-WebSocket-Version": "+13"}),
    (426, {"Sec-WebSocket-Version": "013"}),
    (426, {"Sec-WebSocket-Version": ["13", "8"]}),
    (426, {"Sec-WebSocket-Version": ["13", "13"]}),
    (400, {"Content-Length": "1"}),
    (400, {"Transfer-Encoding": "chunked"}),
    (400, {"Transfer-Encoding": "chunked", "Content-Length": "0"}),
    (400, {"Sec-WebSocket-Protocol": "a, a"}),
    (400, {"Sec-WebSocket-Protocol": ["a", "b", "a"]}),
    (400, {"Sec-WebSocket-Protocol": "a b"}),
    (400, {"Sec-WebSocket-Protocol": "a;b"}),
    (400, {"Sec-WebSocket-Protocol": "a\x01"}),
    (400, {"Connection": "\x1fUpgrade"}),  # str.strip would take it off
    (400, {"Cookie": "a\0"}),
    (400, {"Cookie": "a\r\n b"}),
]


@pytest.mark.parametrize(("status", "change"), WRONG)
def test_the_wrong_is_refused(status: int, change: Change):
    assert refused(asking(change)).response.status == status


@pytest.mark.parametrize(
    "name",
    [
        "Host",
        "Connection",
        "Upgrade",
        "Sec-WebSocket-Extensions",
        "Sec-WebSocket-Key",
        "Sec-WebSocket-Protocol",
        "Sec-WebSocket-Version",
    ],
)
@pytest.mark.parametrize("stray", ["\xe9", "\x80", "\xa0"])
def test_non_ascii_is_a_400(name: str, stray: str):
    value = RIGHT.get(name, "x")
    assert refused(asking({name: value + stray})).response.status == 400
    assert refused(asking({name: [value, stray]})).response.status == 400


@pytest.mark.parametrize("method", ["POST", "HEAD", "PUT", "OPTIONS", "get"])
def test_another_method_is_a_405_that_names_the_right_one(method: str):
    refusal = refused(asking(start=f"{method} /chat HTTP/1.1"))
    assert refusal.response.status == 405
    assert refusal.response.headers["Allow"] == "GET"


def test_connect_is_a_405():
    assert refused(asking(start="CONNECT server.example.com:80 HTTP/1.1")).response.status == 405


def test_another_version_of_websocket_is_told_ours():
    response = refused(asking({"Sec-WebSocket-Version": "14"})).response
    assert response.headers["Sec-WebSocket-Version"] == "13"  # RFC 6455, 4.4
    assert response.headers["Upgrade"] == "websocket"


@pytest.mark.parametrize(("version", "status"), [("1.0", 400), ("2.0", 505), ("0.9", 505)])
def test_another_version_of_http_is_refused(version: str, status: int):
    assert refused(asking(start=f"GET / HTTP/{version}")).response.status == status


def test_a_refusal_shows_the_request_where_there_is_one():
    request = refused(asking({"Sec-WebSocket-Key": "x"})).request
    assert request is not None
    assert request.upgrade
    assert request.target == "/chat"
    assert refused(b"\x16\x03\x01\x00").request is None


def test_a_request_that_only_looks_like_an_old_websocket_is_told_the_version():
    old = {"Sec-WebSocket-Key": None, "Sec-WebSocket-Version": None, "Upgrade": "WebSocket"}
    assert refused(asking({**old, "Sec-WebSocket-Key1": "1 2"})).response.status == 426


# The traps of wsproto, one by one.


def test_trap_non_ascii_host():
    assert refused(asking({"Host": "m\xfcnchen.example"})).response.status == 400


@pytest.mark.parametrize("host", ["xn--a-b-.c", "xn--99", "xn--zzzzzzzzz"])
def test_trap_bad_punycode_host(host: str):
    _, request = serving(asking({"Host": host}))
    assert request.headers["Host"] == host  # nothing is decoded, so nothing can fail


def test_trap_non_ascii_connection():
    assert refused(asking({"Connection": "Upgrade, \xe9"})).response.status == 400


def test_trap_non_ascii_subprotocol():
    assert refused(asking({"Sec-WebSocket-Protocol": "ch\xe4t"})).response.status == 400


def test_trap_duplicate_key():
    assert refused(asking({"Sec-WebSocket-Key": [KEY, KEY]})).response.status == 400


def test_trap_malformed_key():
    assert refused(asking({"Sec-WebSocket-Key": "not base64"})).response.status == 400


def test_trap_http_1_0():
    assert refused(asking(start="GET /chat HTTP/1.0")).response.status == 400


def test_trap_two_versions():
    assert refused(asking({"Sec-WebSocket-Version": ["8", "13"]})).response.status == 426


def test_trap_upgrade_list():
    assert serving(asking({"Upgrade": "websocket, foo"}))[1].upgrade


def test_trap_two_connection_headers():
    assert serving(asking({"Connection": ["Upgrade", "keep-alive"]}))[1].upgrade
    assert serving(asking({"Connection": ["keep-alive", "Upgrade"]}))[1].upgrade


@pytest.mark.parametrize("body", ["", "Content-Length: 3\r\n"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_trap_plain_requests_are_shown(method: str, body: str):
    data = f"{method} /page?q=1 HTTP/1.1\r\nHost: a\r\n{body}\r\nabc".encode()
    _, request = serving(data)
    assert (request.method, request.path, request.query) == (method, "/page", {"q": "1"})
    assert not request.upgrade


def test_trap_early_hints():
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n"
    accepted = answered(hints + b"HTTP/1.1 100 Continue\r\n\r\n" + hints + answering())
    assert accepted is not None
    assert accepted.status == 101


def test_trap_bytes_between_request_and_answer_are_not_buffered():
    server, _ = serving(asking())
    with pytest.raises(RuntimeError, match="leave other bytes"):
        server.feed(bytes(10))
    assert server.trailing_data == b""


def test_trap_a_megabyte_of_headers_in_one_feed():
    bomb = {"A": "a" * 2**20}
    assert refused(asking(bomb)).response.status == 431
    assert refused(asking({"A": ["a"] * 101})).response.status == 431
    assert refused(asking(start=f"GET /{'a' * 2**20} HTTP/1.1")).response.status == 414
    client = asked()
    client.feed(answering(bomb))
    with pytest.raises(HandshakeInvalid, match="too large"):
        client.next_response()


@pytest.mark.parametrize("tail", [b"\x81\x80\0\0\0\0", b"\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n"])
def test_trap_pipelined_bytes_are_kept(tail: bytes):
    server, _ = serving(asking() + tail)
    server.accept()
    assert server.trailing_data == tail
    client = asked()
    client.feed(answering() + tail)
    assert client.next_response()
    assert client.trailing_data == tail


# The server's answer.


def test_accepting_says_what_was_chosen():
    offers = "x-one; a=1, x-two"
    server, _ = serving(
        asking({"Sec-WebSocket-Protocol": "a, b", "Sec-WebSocket-Extensions": offers})
    )
    assert server.extensions == ["x-one; a=1", "x-two"]
    with pytest.raises(ValueError, match="subprotocol 'c'"):
        server.accept(subprotocol="c")
    with pytest.raises(ValueError, match="x-three"):
        server.accept(extensions=["x-one", "x-three"])
    with pytest.raises(ValueError, match="illegal"):
        server.accept(extensions=["x-one; b=\r\n"])
    data = server.accept(
        subprotocol="b", headers=[("Set-Cookie", "a=b")], extensions=["x-two", "x-one; b"]
    )
    assert b"\r\nSec-WebSocket-Protocol: b\r\n" in data
    assert b"\r\nSec-WebSocket-Extensions: x-two, x-one; b\r\n" in data
    assert b"\r\nSet-Cookie: a=b\r\n" in data


@pytest.mark.parametrize(
    ("name", "value", "match"),
    [
        ("A", "b\r\nC: d", "header A"),
        ("A B", "c", "'A B'"),
        ("Upgrade", "x", "Upgrade"),
        ("connection", "x", "connection"),
        ("Host", "x", "Host"),
        ("Content-Length", "0", "Content-Length"),
        ("Transfer-Encoding", "chunked", "Transfer-Encoding"),
        ("sec-websocket-accept", "x", "sec-websocket-accept"),
        ("Sec-WebSocket-Protocol", "x", "Sec-WebSocket-Protocol"),
    ],
)
def test_headers_that_the_user_may_not_set(name: str, value: str, match: str):
    server, _ = serving(asking())
    with pytest.raises(ValueError, match=match):
        server.accept(headers=[(name, value)])
    # The failed answer has not been given: another one may be.
    assert server.respond(Response.make(500, "sorry")).startswith(b"HTTP/1.1 500 ")
    with pytest.raises(ValueError, match=match):
        ClientHandshake("a", "/", headers=[(name, value)]).request()


def test_a_request_is_answered_once():
    server = ServerHandshake()
    with pytest.raises(RuntimeError, match="no request"):
        server.respond(Response())
    with pytest.raises(RuntimeError, match="no upgrade"):
        server.accept()
    server.feed(asking())
    server.next_request()
    server.accept()
    with pytest.raises(RuntimeError, match="already"):
        server.accept()
    with pytest.raises(RuntimeError, match="already"):
        server.respond(Response())


@pytest.mark.parametrize("data", [b"", b"GET / HTTP/1.1\r\nHost"])
def test_a_client_that_leaves_is_an_eof_error(data: bytes):
    server = ServerHandshake()
    server.feed(data)
    server.feed(b"")
    with pytest.raises(EOFError):
        server.next_request()


# The client.


def test_the_request_is_the_one_of_the_rfc():
    client = ClientHandshake(
        "server.example.com",
        "/chat?a=b",
        subprotocols=["chat", "superchat"],
        headers=[("Origin", "http://example.com")],
        extensions=["x-one; a=1", "x-two"],
        nonce=NONCE,
    )
    assert client.request() == (
        b"GET /chat?a=b HTTP/1.1\r\n"
        b"Host: server.example.com\r\n"
        b"Upgrade: websocket\r\n"
        b"Connection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        b"Sec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Protocol: chat, superchat\r\n"
        b"Sec-WebSocket-Extensions: x-one; a=1, x-two\r\n"
        b"Origin: http://example.com\r\n"
        b"\r\n"
    )


def test_every_request_has_a_key_of_its_own():
    assert ClientHandshake("a", "/").request() != ClientHandshake("a", "/").request()


def test_what_cannot_be_sent_is_refused():
    with pytest.raises(ValueError, match="host"):
        ClientHandshake("a\r\nb", "/").request()
    with pytest.raises(ValueError, match="host"):
        ClientHandshake("m\xfcnchen", "/").request()
    with pytest.raises(ValueError, match="target"):
        ClientHandshake("a", "/\xe9").request()
    with pytest.raises(ValueError, match="16 bytes"):
        ClientHandshake("a", "/", nonce=b"short")
    with pytest.raises(ValueError, match="illegal"):
        ClientHandshake("a", "/", extensions=["x\r\n"]).request()
    for subprotocols in (["a", "a"], ["a b"], [""], ["\xe9"], "chat"):
        with pytest.raises(ValueError, match="subprotocols"):
            ClientHandshake("a", "/", subprotocols=subprotocols).request()


@pytest.mark.parametrize(
    "change",
    [
        {"Upgrade": "WebSocket"},
        {"Connection": "keep-alive, upgrade"},
        {"Connection": ["keep-alive", "upgrade"]},
        {"Sec-WebSocket-Protocol": None},
        {"Sec-WebSocket-Protocol": "a"},
        {"Sec-WebSocket-Extensions": ""},
        {"Sec-WebSocket-Extensions": "x; b=2"},
        {"Server": "\xe9"},
    ],
)
def test_an_unusual_answer_is_accepted(change: Change):
    accepted = answered(answering(change), subprotocols=["a", "b"], extensions=["x; a=1"])
    assert accepted is not None
    assert accepted.subprotocol == change.get("Sec-WebSocket-Protocol")
    assert ", ".join(accepted.extensions) == change.get("Sec-WebSocket-Extensions", "")
    assert accepted.headers["sec-websocket-accept"] == TOKEN


@pytest.mark.parametrize(
    "change",
    [
        {"Upgrade": None},
        {"Upgrade": "h2c"},
        {"Upgrade": "websocket, h2c"},
        {"Upgrade": "websocket\xa0"},
        {"Connection": None},
        {"Connection": "close"},
        {"Sec-WebSocket-Accept": None},
        {"Sec-WebSocket-Accept": TOKEN.lower()},
        {"Sec-WebSocket-Accept": "\xe9"},
        {"Sec-WebSocket-Accept": [TOKEN, TOKEN]},
        {"Sec-WebSocket-Protocol": "c"},
        {"Sec-WebSocket-Protocol": "A"},
        {"Sec-WebSocket-Protocol": ""},
        {"Sec-WebSocket-Protocol": "a, b"},
        {"Sec-WebSocket-Protocol": ["a", "a"]},
        {"Sec-WebSocket-Extensions": "y"},
        {"Sec-WebSocket-Extensions": "x, y"},
        {"Sec-WebSocket-Extensions": "x, x"},
        {"A b": "c"},
    ],
)
def test_an_answer_that_is_wrong_is_invalid(change: Change):
    with pytest.raises(HandshakeInvalid):
        answered(answering(change), subprotocols=["a", "b"], extensions=["x"])


@pytest.mark.parametrize(
    "data",
    [
        b"\x15\x03\x03\x00\x02",
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/1.1 099 Low\r\n\r\n",
        b"HTTP/1.1 101\r\n\r\n",
        answering(start="HTTP/1.0 101 Switching"),
        answering(start="HTTP/2.0 101 Switching"),
    ],
)
def test_an_answer_that_is_not_ours_is_invalid(data: bytes):
    with pytest.raises(HandshakeInvalid):
        answered(data)


@pytest.mark.parametrize("data", [b"", b"HTTP/1.1 1", b"HTTP/1.1 103 Early\r\n\r\n"])
def test_a_server_that_leaves_before_its_answer_is_invalid(data: bytes):
    client = asked()
    client.feed(data)
    client.feed(b"")
    with pytest.raises(HandshakeInvalid, match="left"):
        client.next_response()


def test_a_rejection_has_status_headers_and_body():
    client = asked()
    assert client.rejection is None
    client.feed(b"HTTP/1.1 403 Forbidden\r\nA: b\r\nContent-Length: 6\r\n\r\nno")
    assert client.next_response() is None
    # Should the deadline come now, what is known is worth more than a timeout.
    assert client.rejection is not None
    assert (client.rejection.status, client.rejection.body) == (403, b"no")
    client.feed(b" way")
    with pytest.raises(HandshakeRejected) as caught:
        client.next_response()
    assert (caught.value.status, caught.value.headers["a"]) == (403, "b")
    assert caught.value.body == b"no way"
    with pytest.raises(RuntimeError, match="already here"):
        client.feed(b"more")


@pytest.mark.parametrize("status", [200, 302, 401, 426, 503])
@pytest.mark.parametrize("length", ["Content-Length: 9999999\r\n", ""])
def test_the_body_of_a_rejection_is_bounded(status: int, length: str):
    client = asked(limits=Limits(max_response_body=10))
    client.feed(f"HTTP/1.1 {status} x\r\n{length}\r\n".encode() + b"a" * 1000)
    with pytest.raises(HandshakeRejected) as caught:
        client.next_response()
    assert (caught.value.status, caught.value.body) == (status, b"a" * 10)


def test_a_rejection_that_breaks_off_is_still_one():
    client = asked()
    client.feed(b"HTTP/1.1 500 x\r\nContent-Length: 10\r\n\r\nabc")
    client.feed(b"")
    with pytest.raises(HandshakeRejected) as caught:
        client.next_response()
    assert caught.value.body == b"abc"


def test_nothing_is_fed_behind_an_answer():
    client = asked()
    client.feed(answering())
    client.next_response()
    with pytest.raises(RuntimeError, match="leave other bytes"):
        client.feed(b"\x81\x00")


# Through both ends.


def cuts(data: bytes) -> Iterable[list[bytes]]:
    yield [bytes([byte]) for byte in data]
    for index in range(1, len(data)):
        yield [data[:index], data[index:]]


def test_both_ends_agree_however_the_bytes_are_cut():
    def ask() -> tuple[ClientHandshake, bytes]:
        headers = [("Cookie", "c=d")]
        return asking_client(subprotocols=["a", "b"], extensions=["x; y"], headers=headers)

    for pieces in cuts(ask()[1]):
        server = ServerHandshake()
        for piece in pieces:
            assert server.next_request() is None
            server.feed(piece)
        request = server.next_request()
        assert request is not None
        assert request.cookies == {"c": "d"}
        assert server.trailing_data == b""
    answer = server.accept(subprotocol="b", extensions=["x"], headers=[("Server", "e")])
    for pieces in cuts(answer):
        client, _ = ask()
        for piece in pieces:
            assert client.next_response() is None
            client.feed(piece)
        accepted = client.next_response()
        assert accepted is not None
        assert (accepted.subprotocol, accepted.extensions) == ("b", ("x",))
        assert accepted.headers["Server"] == "e"
        assert client.trailing_data == b""


def test_both_ends_agree_about_a_rejection_however_the_bytes_are_cut():
    server, _ = serving(asking_client()[1])
    answer = server.respond(Response.make(401, "who?", {"WWW-Authenticate": "Bearer"}))
    for pieces in cuts(answer):
        client = asked()
        for piece in pieces:
            assert client.next_response() is None
            client.feed(piece)
        with pytest.raises(HandshakeRejected, match="who") as caught:
            client.next_response()
        assert caught.value.status == 401
        assert caught.value.headers["WWW-Authenticate"] == "Bearer"


# With the ends of others.


def test_a_client_of_websockets_is_accepted():
    client = ClientProtocol(parse_uri("ws://a.example:81/b?c=d"), subprotocols=["x"])  # type: ignore[list-item]
    client.send_request(client.connect())
    server, request = serving(b"".join(client.data_to_send()))
    assert (request.target, request.headers["Host"]) == ("/b?c=d", "a.example:81")
    client.receive_data(server.accept(subprotocol="x") + b"\x81\x02hi")
    response, frame = client.events_received()
    assert client.handshake_exc is None
    assert client.subprotocol == "x"
    assert isinstance(frame, Frame)
    assert (frame.opcode, frame.data) == (Opcode.TEXT, b"hi")
    del response


def test_a_server_of_websockets_accepts():
    server = ServerProtocol(subprotocols=["x"])  # type: ignore[list-item]
    server.receive_data(ClientHandshake("a", "/", subprotocols=["x"], nonce=NONCE).request())
    (request,) = server.events_received()
    assert isinstance(request, TheirRequest)
    server.send_response(server.accept(request))
    accepted = answered(b"".join(server.data_to_send()), subprotocols=["x"])
    assert accepted is not None
    assert accepted.subprotocol == "x"


def test_a_server_of_websockets_rejects():
    server = ServerProtocol()
    server.receive_data(asking_client()[1])
    server.events_received()
    server.send_response(server.reject(403, "no"))
    with pytest.raises(HandshakeRejected) as caught:
        answered(b"".join(server.data_to_send()))
    assert (caught.value.status, caught.value.body) == (403, b"no")


def test_a_client_of_wsproto_is_accepted_and_rejected():
    for accept in (True, False):
        client = WSConnection(ConnectionType.CLIENT)
        request = wsproto_events.Request(host="a.example", target="/b", subprotocols=["x"])
        server, _ = serving(client.send(request))
        refusal = Response.make(403, "no")
        client.receive_data(server.accept(subprotocol="x") if accept else server.respond(refusal))
        event = next(client.events())
        if accept:
            assert isinstance(event, wsproto_events.AcceptConnection)
            assert event.subprotocol == "x"
        else:
            assert isinstance(event, wsproto_events.RejectConnection)
            assert event.status_code == 403


def test_a_server_of_wsproto_accepts():
    server = WSConnection(ConnectionType.SERVER)
    server.receive_data(asking_client()[1])
    assert isinstance(next(server.events()), wsproto_events.Request)
    assert answered(server.send(wsproto_events.AcceptConnection()))


# Any bytes at all.

PIECES = st.lists(
    st.one_of(
        st.binary(max_size=20),
        st.sampled_from(
            [
                *asking().splitlines(keepends=True),
                *answering().splitlines(keepends=True),
                asking(),
                answering(),
                b"HTTP/1.1 103 Early Hints\r\n",
                b"HTTP/1.1 403 Forbidden\r\n",
                b"Content-Length: 5\r\n",
                b"Transfer-Encoding: chunked\r\n",
                b"5\r\n",
                b"\r\n",
                b"\n",
                b" ",
                b"x" * 300,
            ]
        ),
    ),
    max_size=12,
)
TIGHT = Limits(max_headers=512, max_header_lines=8, max_response_body=16)


@given(PIECES, st.booleans())
@example([asking(), b"\x81"], False)
@example([asking(start="GET //[x HTTP/1.1")], False)
def test_any_bytes_end_in_a_request_or_a_bad_request(pieces: list[bytes], joined: bool):
    server = ServerHandshake(TIGHT)
    pieces = [b"".join(pieces)] if joined else pieces
    with contextlib.suppress(EOFError):
        fed = b""
        for piece in [*filter(None, pieces), b""]:
            server.feed(piece)
            fed += piece
            try:
                request = server.next_request()
            except BadRequest as refusal:
                server.respond(refusal.response)
                return
            if request:
                assert isinstance(request.path, str)
                assert server.accept() if request.upgrade else server.respond(Response())
                assert fed.endswith(server.trailing_data)
                return


@given(PIECES, st.booleans())
@example([b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"x\r\n"], False)
@example([b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 99, b"y"], True)
def test_any_bytes_end_in_an_acceptance_or_a_handshake_error(pieces: list[bytes], joined: bool):
    client = asked(limits=TIGHT)
    pieces = [b"".join(pieces)] if joined else pieces
    with contextlib.suppress(HandshakeError):
        for piece in [*filter(None, pieces), b""]:
            client.feed(piece)
            if client.next_response():
                return
        raise AssertionError("the end of the stream must be an end")


@given(st.data())
def test_one_wrong_byte_is_never_another_exception(data: st.DataObject):
    right = asking({"Sec-WebSocket-Protocol": "a, b", "Content-Length": "0"})
    index = data.draw(st.integers(0, len(right) - 1))
    wrong = bytearray(right)
    wrong[index] = data.draw(st.integers(0, 255))
    server = ServerHandshake(TIGHT)
    server.feed(bytes(wrong))
    server.feed(b"")
    with contextlib.suppress(BadRequest, EOFError):
        request = server.next_request()
        assert request is not None
        assert isinstance(request.headers, Headers)
