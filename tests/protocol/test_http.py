"""Requests and responses: limits, forms, framing. WebSocket comes in `test_handshake`."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trioweb.config import Limits
from trioweb.protocol.http import (
    ClientExchange,
    HttpError,
    ServerExchange,
    announces_body,
    check_host,
    check_lines,
    check_target,
)
from trioweb.types import Content, Headers, Request, Response

SMALL = Limits(max_headers=200, max_header_lines=4)


def read(data: bytes, limits: Limits = SMALL) -> Request | None:
    exchange = ServerExchange(limits)
    exchange.feed(data)
    return exchange.next_request()


def refused(data: bytes, limits: Limits = SMALL) -> HttpError:
    with pytest.raises(HttpError) as caught:
        read(data, limits)
    return caught.value


def answer(response: Response, method: bytes = b"GET") -> tuple[h11.Response, bytes, bytes]:
    """Let a client parse what a server responds: its head, its body, and the raw bytes."""
    exchange = ServerExchange(Limits())
    exchange.feed(method + b" / HTTP/1.1\r\nHost: a\r\n\r\n")
    exchange.next_request()
    data = exchange.respond(response)
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method=method, target="/", headers=[("Host", "a")]))
    client.send(h11.EndOfMessage())
    client.receive_data(data)
    client.receive_data(b"")
    head = client.next_event()
    assert isinstance(head, h11.Response)
    body = b""
    while isinstance(event := client.next_event(), h11.Data):
        body += event.data
    assert isinstance(event, h11.EndOfMessage)
    assert isinstance(client.next_event(), h11.ConnectionClosed)
    return head, body, data


# Reading a request.


@pytest.mark.parametrize(
    ("head", "method", "target"),
    [
        (b"GET /a?b=c HTTP/1.1\r\nHost: x\r\n\r\n", "GET", "/a?b=c"),
        (b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n", "HEAD", "/"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc", "POST", "/"),
        (b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", "OPTIONS", "*"),
        (b"GET / HTTP/1.0\r\n\r\n", "GET", "/"),
        (b"GET / HTTP/1.1\r\nHost:\r\n\r\n", "GET", "/"),
        (b"GET / HTTP/1.1\nHost: x\n\n", "GET", "/"),
        (b"\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n", "GET", "/"),
        (b"GET /%E9? HTTP/1.1\r\nHost: x\r\n\r\n", "GET", "/%E9?"),
        (b"GET http://x/y HTTP/1.1\r\nHost: x\r\n\r\n", "GET", "/y"),
        (b"GET HTTPS://x?q HTTP/1.1\r\nHost: x\r\n\r\n", "GET", "/?q"),
        (b"GET ws://x HTTP/1.1\r\nHost: x\r\n\r\n", "GET", "/"),
    ],
)
def test_a_legible_request_is_understood(head: bytes, method: str, target: str):
    request = read(head)
    assert request is not None
    assert (request.method, request.target, request.upgrade) == (method, target, False)


@pytest.mark.parametrize(
    "host",
    ["x", "x:80", "x:", "127.0.0.1:1", "[::1]", "[fe80::1%25lo]:9", "a_b", "xn--a-b-.c", "XN--99"],
)
def test_a_host_is_taken_as_it_stands(host: str):
    request = read(b"GET / HTTP/1.1\r\nHost: %b\r\n\r\n" % host.encode())
    assert request is not None
    assert request.headers["Host"] == host
    check_host(host)


@pytest.mark.parametrize("host", [b"\xe9", b"a b", b"a,b", b"a/b", b"u@h", b"[::1", b"a:b", b"a#b"])
def test_a_malformed_host_is_refused(host: bytes):
    assert refused(b"GET / HTTP/1.1\r\nHost: %b\r\n\r\n" % host).status == 400
    assert refused(b"GET http://a/ HTTP/1.1\r\nHost: %b\r\n\r\n" % host).status == 400
    with pytest.raises(ValueError, match="not a host"):
        check_host(host.decode("latin-1"))


def test_the_authority_of_an_absolute_target_replaces_host():
    request = read(b"GET http://right:1/ HTTP/1.1\r\nA: b\r\nHost: wrong\r\n\r\n")
    assert request is not None
    assert request.headers.pairs() == (("Host", "right:1"), ("A", "b"))


def test_the_lines_by_name_are_those_of_the_request():
    exchange = ServerExchange(SMALL)
    exchange.feed(b"GET http://right:1/ HTTP/1.1\r\nHost:\r\na: 1\r\nA: 2\r\n\r\n")
    assert exchange.next_request()
    assert exchange.lines == {"host": ["right:1"], "a": ["1", "2"]}


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00", 400),  # TLS, long before any end of line
        (b" GET / HTTP/1.1\r\n", 400),
        (b"SSH-2.0-OpenSSH_9.2\r\n", 400),
        (b"GET /\r\n", 400),  # HTTP/0.9
        (b"GET /a b HTTP/1.1\r\n", 400),
        (b"GET /\xe9 HTTP/1.1\r\n", 400),
        (b"G\x00T / HTTP/1.1\r\n", 400),
        (b"GET / HTTP/11\r\n", 400),
        (b"(GET) / HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n A: b\r\nHost: x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA : b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA: b\x00\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA: b\rc\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1, 2\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
        (
            b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n",
            400,
        ),
        (b"GET x HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET * HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET /#a HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET ftp://x/ HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET http:/// HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET http://u:p@x/ HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n", 405),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        (b"GET / HTTP/3.1\r\nHost: x\r\n\r\n", 505),
    ],
)
def test_what_is_not_our_http_is_refused(data: bytes, status: int):
    error = refused(data)
    assert error.status == status
    assert str(error) == error.reason


def test_the_reason_of_a_refusal_has_no_value_in_it():
    error = refused(b"GET / HTTP/1.1\r\nHost: x\r\nCookie : secret\r\n\r\n")
    assert error.reason == "illegal header line"
    assert error.__suppress_context__


def test_what_comes_behind_the_head_is_kept():
    exchange = ServerExchange(SMALL)
    exchange.feed(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n\x81\x00\n\n")
    assert exchange.next_request()
    assert exchange.trailing_data == b"\x81\x00\n\n"


def test_a_large_tail_does_not_count_as_headers():
    assert read(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" + bytes(1000)) is not None


@pytest.mark.parametrize("data", [b"", b"\r\n", b"G", b"GET / HTTP/1.1\r\nHost: x\r\n"])
def test_a_peer_that_leaves_is_an_eof_error(data: bytes):
    exchange = ServerExchange(SMALL)
    for byte in data:
        exchange.feed(bytes([byte]))
    assert exchange.next_request() is None
    exchange.feed(b"")
    when = "in the middle of" if data.strip() else "before"
    with pytest.raises(EOFError, match=when):
        exchange.next_request()


# Limits.


def padded(size: int) -> bytes:
    """Return a request whose head has this size."""
    start, end = b"GET / HTTP/1.1\r\nHost: x\r\nA: ", b"\r\n\r\n"
    return start + b"a" * (size - len(start + end)) + end


def test_headers_up_to_the_limit_pass_and_one_byte_more_is_a_431():
    assert read(padded(200)) is not None
    assert refused(padded(201)).status == 431


def test_a_megabyte_of_headers_in_one_read_is_a_431():
    assert refused(padded(2**20), Limits()).status == 431


def test_headers_without_an_end_are_a_431_at_the_limit():
    exchange = ServerExchange(SMALL)
    exchange.feed(padded(300)[:200])
    assert exchange.next_request() is None
    exchange.feed(b"a")
    with pytest.raises(HttpError, match="too large") as caught:
        exchange.next_request()
    assert caught.value.status == 431


@pytest.mark.parametrize("end", [b"", b" HTTP/1.1\r\nHost: x\r\n\r\n"])
def test_a_long_request_line_is_a_414(end: bytes):
    assert refused(b"GET /" + b"a" * 200 + end).status == 414


def test_header_lines_up_to_the_limit_pass_and_one_more_is_a_431():
    head = b"GET / HTTP/1.1\r\nHost: x\r\n"
    assert read(head + b"A: b\r\n" * 3 + b"\r\n") is not None
    assert refused(head + b"A: b\r\n" * 4 + b"\r\n").status == 431


@given(st.lists(st.binary(max_size=8)), st.booleans())
def test_cuts_make_no_difference(pieces: list[bytes], lines_only: bool):
    head = b"GET / HTTP/1.1\r\nHost: x\r\nA: "
    data = head + b"".join(pieces) + (b"\n\n" if lines_only else b"\r\n\r\n")
    cut = ServerExchange(SMALL)

    def outcome(exchange: ServerExchange) -> object:
        try:
            return exchange.next_request(), exchange.trailing_data
        except HttpError as error:
            return error.status

    whole = ServerExchange(SMALL)
    whole.feed(data)
    expected = outcome(whole)
    for index in range(len(data)):
        cut.feed(data[index : index + 1])
        result = outcome(cut)
        if not isinstance(result, tuple) or result[0]:
            rest = data[index + 1 :]
            assert result == ((expected[0], b"") if isinstance(expected, tuple) else expected)
            assert not isinstance(expected, tuple) or expected[1] == rest
            return
    assert result == expected


# Bodies.


@pytest.mark.parametrize(
    ("line", "announced"),
    [
        ((), False),
        (("Content-Length", "0"), False),
        (("Content-Length", "00"), False),
        (("Content-Length", "10"), True),
        (("Transfer-Encoding", "chunked"), True),
    ],
)
def test_a_body_is_announced_by_its_framing(line: tuple[str, str] | tuple[()], announced: bool):
    assert announces_body(Request("/", Headers([line] if line else []))) is announced


# Responding.


def test_a_response_is_framed_and_closes():
    head, body, data = answer(Response.make(404, "no such page"))
    assert (head.status_code, head.reason, body) == (404, b"Not Found", b"no such page")
    assert dict(head.headers)[b"content-length"] == b"12"
    assert dict(head.headers)[b"connection"] == b"close"
    assert data.endswith(b"\r\n\r\nno such page")


def test_framing_headers_of_the_user_are_left_out():
    wrong = {"content-length": "5", "Transfer-Encoding": "chunked", "connection": "keep-alive"}
    _, body, data = answer(Response(200, Headers(wrong), b"abc"))
    assert body == b"abc"
    assert data.count(b"\r\n") == 4
    assert b"chunked" not in data
    assert b"keep-alive" not in data


def test_a_head_gets_the_length_but_not_the_body():
    head, body, data = answer(Response.make(200, "abc"), b"HEAD")
    assert dict(head.headers)[b"content-length"] == b"3"
    assert body == b""
    assert data.endswith(b"\r\n\r\n")


async def no_pieces() -> AsyncGenerator[bytes, None]:
    raise AssertionError("whoever has the transport writes these")
    yield b""


def test_content_comes_behind_the_head():
    exchange = ServerExchange(SMALL)
    exchange.feed(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    exchange.next_request()
    data = exchange.respond(Response(content=Content(2**40, no_pieces)))
    assert data == b"HTTP/1.1 200 OK\r\nContent-Length: 1099511627776\r\nConnection: close\r\n\r\n"


def test_a_head_gets_the_length_of_the_content():
    head, body, data = answer(Response(content=Content(7, no_pieces)), b"HEAD")
    assert dict(head.headers)[b"content-length"] == b"7"
    assert body == b""
    assert data.endswith(b"\r\n\r\n")


def test_the_date_is_the_time_that_is_given():
    exchange = ServerExchange(SMALL)
    exchange.feed(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    exchange.next_request()
    data = exchange.respond(Response(304), 784111777.9)  # RFC 9110, 5.6.7
    assert b"\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n" in data


def test_a_date_of_the_users_counts_more():
    exchange = ServerExchange(SMALL)
    exchange.feed(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    exchange.next_request()
    data = exchange.respond(Response(200, Headers({"date": "today"})), 784111777)
    assert data.lower().count(b"date:") == 1
    assert b"date: today\r\n" in data.lower()


@pytest.mark.parametrize(("status", "length"), [(204, None), (205, b"0"), (304, None)])
def test_a_status_without_content_gets_none(status: int, length: bytes | None):
    head, body, _ = answer(Response(status, body=b"abc"))
    assert dict(head.headers).get(b"content-length") == length
    assert body == b""


def test_an_empty_body_has_a_length():
    head, body, _ = answer(Response(200))
    assert dict(head.headers)[b"content-length"] == b"0"
    assert body == b""


def test_an_unregistered_status_has_no_phrase():
    assert answer(Response(599))[2].startswith(b"HTTP/1.1 599 \r\n")


def test_upgrade_is_listed_in_connection_too():
    head, _, _ = answer(Response(426, Headers({"Upgrade": "x"})))
    assert dict(head.headers)[b"connection"] == b"Upgrade, close"


def test_repeated_lines_stay_apart():
    head, _, _ = answer(Response(200, Headers([("Set-Cookie", "a"), ("Set-Cookie", "b")])))
    assert [value for name, value in head.headers if name == b"set-cookie"] == [b"a", b"b"]


@pytest.mark.parametrize("status", [0, 101, 199, 600, 1000])
def test_only_a_final_status_can_be_sent(status: int):
    with pytest.raises(ValueError, match="status"):
        answer(Response(status))


@pytest.mark.parametrize(
    "value", ["secret\r\nB: c", "secret\nc", "secret\rc", "secret\0", "secret\x7f", "secret\u20ac"]
)
def test_headers_cannot_be_injected(value: str):
    with pytest.raises(
        ValueError, match="illegal characters in the value of the header A"
    ) as caught:
        answer(Response(200, Headers([("A", value)])))
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("name", ["", "A b", "A:", "\xe9", "A\r\n", "A\r\nB: c"])
def test_headers_cannot_be_injected_through_their_names(name: str):
    with pytest.raises(ValueError, match="not a header name"):
        answer(Response(200, Headers([(name, "b")])))


def test_a_refused_response_leaves_the_way_free_for_another():
    exchange = ServerExchange(SMALL)
    exchange.feed(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    exchange.next_request()
    with pytest.raises(ValueError, match="illegal"):
        exchange.respond(Response(200, Headers({"A": "\n"})))
    assert exchange.respond(Response(500)).startswith(b"HTTP/1.1 500 ")


def test_white_space_around_a_value_is_removed():
    assert check_lines([("A", " b\t"), ("C", " "), ("D", "\xe9")]) == [
        (b"A", b"b"),
        (b"C", b""),
        (b"D", b"\xe9"),
    ]


@pytest.mark.parametrize("target", ["", "a", "*", "http://a/", "/a b", "/\xe9", "/#a", "/a\r\n"])
def test_a_target_that_cannot_be_sent_is_refused(target: str):
    with pytest.raises(ValueError, match="target"):
        check_target(target)


def test_the_refusal_of_a_target_has_no_query_in_it():
    with pytest.raises(ValueError, match="target") as caught:
        check_target("/a b?token=secret")
    assert "secret" not in str(caught.value)


# The client's end.


def client(limits: Limits = SMALL) -> ClientExchange:
    exchange = ClientExchange(limits)
    data = exchange.request("/x?y", [(b"Upgrade", b"z"), (b"Host", b"a")])
    assert data == b"GET /x?y HTTP/1.1\r\nHost: a\r\nUpgrade: z\r\n\r\n"
    return exchange


def test_a_response_is_read():
    exchange = client()
    exchange.feed(b"HTTP/1.0 403 No\r\nA: b\r\n")
    assert exchange.next_head() is None
    exchange.feed(b"\r\nabc")
    head = exchange.next_head()
    assert head is not None
    assert (head.status, head.headers["a"], head.http_version) == (403, "b", b"1.0")
    assert exchange.trailing_data == b"abc"
    assert exchange.read_body(10) is False
    assert exchange.body == b"abc"
    exchange.feed(b"")
    assert exchange.read_body(10) is True


def test_a_folded_line_of_a_response_is_unfolded():
    exchange = client()
    exchange.feed(b"HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n")
    head = exchange.next_head()
    assert head is not None
    assert head.headers["A"] == "b c"  # RFC 9112, 5.2: what a user agent must do


@pytest.mark.parametrize(
    ("rest", "body"),
    [
        (b"Content-Length: 3\r\n\r\nabcdef", b"abc"),
        (b"Content-Length: 0\r\n\r\n", b""),
        (b"Content-Length: 99\r\n\r\nabcdefghij", b"abcdefgh"),
        (b"Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n", b"abc"),
        (b"Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\nxyz\r\n", b"ab"),
        (b"\r\nabcdefghijk", b"abcdefgh"),
    ],
)
def test_a_body_is_read_to_its_end_or_to_the_bound(rest: bytes, body: bytes):
    exchange = client()
    exchange.feed(b"HTTP/1.1 404 \r\n" + rest)
    assert exchange.next_head()
    assert exchange.read_body(8) is True
    assert exchange.body == body


def test_a_body_that_breaks_off_ends_there():
    exchange = client()
    exchange.feed(b"HTTP/1.1 404 \r\nContent-Length: 9\r\n\r\nabc")
    assert exchange.next_head()
    assert exchange.read_body(8) is False
    exchange.feed(b"")
    assert exchange.read_body(8) is True
    assert exchange.body == b"abc"


@pytest.mark.parametrize(
    "data", [b"\x15\x03\x01", b"SSH-2.0-x\r\n", b"HTTP/1.1 20 x\r\n", b"GET / HTTP/1.1\r\n"]
)
def test_what_is_not_a_response_is_refused_early(data: bytes):
    exchange = client()
    exchange.feed(data)
    with pytest.raises(HttpError):
        exchange.next_head()


def test_interim_responses_share_the_limit():
    exchange = client()
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\n"
    for _ in range(200 // len(hints)):
        exchange.feed(hints)
        assert exchange.next_head()
    exchange.feed(hints)
    with pytest.raises(HttpError, match="too large"):
        exchange.next_head()


def test_a_server_that_leaves_is_an_eof_error():
    exchange = client()
    exchange.feed(b"HTTP/1.1 101")
    exchange.feed(b"")
    with pytest.raises(EOFError):
        exchange.next_head()
