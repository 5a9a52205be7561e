"""The vocabulary: headers, requests, responses, closes."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trioweb.types import Close, CloseCode, Headers, Request, Response

# Headers.


def test_headers_compare_names_without_regard_to_case():
    headers = Headers({"Content-Type": "text/html", "X-One": "1"})
    assert headers["content-type"] == headers["CONTENT-TYPE"] == "text/html"
    assert "x-ONE" in headers
    assert "x-two" not in headers
    assert headers.__contains__(1) is False
    assert headers.get("X-Two", "none") == "none"
    assert headers == Headers([("x-one", "1"), ("content-type", "text/html")])
    assert headers != Headers({"x-one": "2", "content-type": "text/html"})


def test_a_header_that_is_not_there_is_a_key_error():
    with pytest.raises(KeyError, match="X-Two"):
        Headers({"X-One": "1"})["X-Two"]


def test_repeated_headers_are_joined_and_kept_apart():
    headers = Headers([("Accept", "a, b"), ("Set-Cookie", "x=1"), ("accept", "c")])
    assert headers["Accept"] == "a, b, c"
    assert headers.get_all("ACCEPT") == ["a, b", "c"]
    assert headers.get_all("nothing") == []
    assert list(headers) == ["accept", "set-cookie"]
    assert len(headers) == 2
    assert headers.pairs() == (("Accept", "a, b"), ("Set-Cookie", "x=1"), ("accept", "c"))


def test_a_copy_of_headers_keeps_every_line():
    headers = Headers([("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")])
    assert Headers(headers).pairs() == headers.pairs()
    assert Response.make(200, "", headers).headers.get_all("Set-Cookie") == ["a=1", "b=2"]


def test_headers_by_name_keep_every_line():
    headers = Headers([("Set-Cookie", "a=1"), ("X", ""), ("set-cookie", "b=2")])
    assert headers.by_name() == {"set-cookie": ["a=1", "b=2"], "x": [""]}


def test_what_most_clients_send_is_in_memory_once():
    raw = [(b"Sec-WebSocket-Version", b"13"), (b"Upgrade", b"websocket")]
    one, other = (Headers.from_bytes(raw).pairs() for _ in range(2))
    assert one == other == (("Sec-WebSocket-Version", "13"), ("Upgrade", "websocket"))
    texts = [
        (mine, its)
        for lines in zip(one, other, strict=True)
        for mine, its in zip(*lines, strict=True)
    ]
    assert all(mine is its for mine, its in texts)


def test_list_headers_are_split_and_empty_elements_left_out():
    headers = Headers(
        [("Connection", " keep-alive,, Upgrade "), ("Connection", ""), ("connection", "x")]
    )
    assert headers.tokens("connection") == ["keep-alive", "Upgrade", "x"]
    assert headers.tokens("Upgrade") == []


@given(
    st.lists(
        st.tuples(st.binary(min_size=1, max_size=10), st.binary(max_size=10)),
        max_size=5,
    )
)
def test_headers_keep_every_byte(raw):
    assert Headers.from_bytes(raw).to_bytes() == raw


def test_headers_outside_latin1_cannot_be_written():
    with pytest.raises(UnicodeEncodeError):
        Headers({"X": "€"}).to_bytes()


def test_the_values_of_headers_are_not_shown():
    assert repr(Headers({"Authorization": "Bearer secret", "Host": "a"})) == (
        "<Headers authorization, host>"
    )


# Requests.


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        ("/", "/", {}),
        ("/chat/7?token=x&room=a%20b+c", "/chat/7", {"token": "x", "room": "a b c"}),
        ("/caf%C3%A9", "/café", {}),
        ("/a%2Fb", "/a/b", {}),
        ("/?", "/", {}),
        ("/?a", "/", {"a": ""}),
        ("/?a=1&a=2", "/", {"a": "2"}),
        ("/?a=?b", "/", {"a": "?b"}),
        ("//two//slashes", "//two//slashes", {}),
        ("http://example.com/x?y=1", "/x", {"y": "1"}),
        ("http://example.com", "/", {}),
        ("http://example.com/a//b?c=d//e", "/a//b", {"c": "d//e"}),
        ("*", "*", {}),
    ],
)
def test_a_target_is_a_path_and_a_query(target, path, query):
    request = Request(target)
    assert request.path == path
    assert request.query == query


@pytest.mark.parametrize(
    ("line", "cookies"),
    [
        ("", {}),
        ("session=abc", {"session": "abc"}),
        ("a=1; b=2;c=3", {"a": "1", "b": "2", "c": "3"}),
        ('a="quoted"; nonsense; b=x=y', {"a": "quoted", "b": "x=y"}),
    ],
)
def test_cookies(line, cookies):
    assert Request("/", Headers({"Cookie": line})).cookies == cookies


def test_a_request_without_cookies_has_none():
    assert Request("/").cookies == {}


def test_the_query_of_a_request_is_not_shown():
    request = Request("/chat?token=secret", Headers({"Cookie": "secret"}), "POST")
    assert repr(request) == "<Request POST '/chat'>"


def test_a_request_by_default():
    request = Request("/")
    assert (request.method, request.upgrade, request.client_address) == ("GET", True, None)
    assert len(request.headers) == 0
    with pytest.raises(dataclasses.FrozenInstanceError):
        request.target = "/other"  # type: ignore[misc]


# Responses.


def test_text_is_sent_as_utf8_and_says_so():
    response = Response.make(404, "não há\n", {"X-One": "1"})
    assert (response.status, response.body) == (404, "não há\n".encode())
    assert response.headers.pairs() == (
        ("Content-Type", "text/plain; charset=utf-8"),
        ("X-One", "1"),
    )


def test_bytes_are_sent_as_they_are_with_their_type():
    response = Response.make(200, b"\x89PNG", content_type="image/png")
    assert (response.status, response.body) == (200, b"\x89PNG")
    assert response.headers.pairs() == (("Content-Type", "image/png"),)


def test_a_content_type_of_ones_own_is_the_only_one():
    response = Response.make(200, "<p>hi", {"content-type": "text/html"})
    assert response.headers.get_all("Content-Type") == ["text/html"]


def test_a_response_by_default():
    assert Response() == Response(200, Headers(), b"")


# Closes.


@pytest.mark.parametrize(
    ("close", "text"),
    [
        (Close(1000), "1000 (normal)"),
        (Close(1001, "lunch"), "1001 (going away): lunch"),
        (Close(4401, "who?"), "4401: who?"),
        (Close(3000), "3000"),
    ],
)
def test_a_close_says_what_it_is(close, text):
    assert str(close) == text


def test_which_codes_may_stand_in_a_close_frame():
    assert [code for code in CloseCode if not code.sendable] == [1005, 1006, 1015]


def test_the_registered_codes():
    # The IANA registry; 1004 is reserved and has no meaning.
    assert [code.value for code in CloseCode] == [*range(1000, 1004), *range(1005, 1016)]
