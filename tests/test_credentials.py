"""Credentials of a handshake: found where they are, refused where they are malformed."""

from __future__ import annotations

import base64
from collections.abc import Callable
from urllib.parse import quote, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trioweb import Headers, Login, Refused, Request, as_subprotocol
from trioweb.credentials import (
    LONGEST,
    basic_login,
    bearer_token,
    check_token,
    cookie_token,
    query_token,
    subprotocol_token,
)


def request(*lines: tuple[str, str], target: str = "/") -> Request:
    return Request(target, Headers(lines))


def basic(data: bytes) -> str:
    return f"Basic {base64.b64encode(data).decode()}"


def refused(find: Callable[[], object]) -> bool:
    try:
        find()
    except Refused as error:
        refusal = error
    else:
        return False
    assert (refusal.status, refusal.reason) == (401, "malformed credentials")
    return True


# --- what is right ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "token"),
    [
        ("Bearer abc", "abc"),
        ("bearer abc", "abc"),
        ("BEARER   abc  ", "abc"),
        ("Bearer mF_9.B5f-4.1JqM", "mF_9.B5f-4.1JqM"),
        ("Bearer 1|colons:and/bars==", "1|colons:and/bars=="),
        ("Basic YTpi", None),
        ("Bearerabc", None),
        ("", None),
    ],
)
def test_a_bearer_token(value: str, token: str | None) -> None:
    assert bearer_token(request(("authorization", value))) == token


def test_without_its_header_there_is_nothing() -> None:
    bare = request(target="/?other=1")
    assert bearer_token(bare) is None
    assert basic_login(bare) is None
    assert query_token(bare, "token") is None
    assert cookie_token(bare, "session") is None
    assert subprotocol_token(bare) is None


@pytest.mark.parametrize(
    ("text", "login"),
    [
        ("Aladdin:open sesame", ("Aladdin", "open sesame")),
        ("test:123£", ("test", "123£")),
        ("name:with:colons", ("name", "with:colons")),
        ("name:", ("name", "")),
        (":password", ("", "password")),
    ],
)
def test_a_login_in_utf_8(text: str, login: tuple[str, str]) -> None:
    found = basic_login(request(("Authorization", basic(text.encode()))))
    assert found == login
    assert isinstance(found, Login)
    assert found.authorization() == basic(text.encode())


def test_the_example_of_rfc_7617() -> None:
    assert Login("test", "123£").authorization() == "Basic dGVzdDoxMjPCow=="


@pytest.mark.parametrize(
    ("target", "token"),
    [
        ("/?token=abc", "abc"),
        ("/chat?room=1&token=abc&x=%ff", "abc"),
        ("/?token=a%2Bb%3D%C3%A9", "a+b=é"),
        ("http://localhost/?token=abc", "abc"),
        ("/token=abc", None),
        ("/?Token=abc", None),
        ("/?tokens=abc", None),
    ],
)
def test_a_token_in_the_query(target: str, token: str | None) -> None:
    assert query_token(request(target=target), "token") == token


@pytest.mark.parametrize(
    ("cookies", "token"),
    [
        (["session=abc"], "abc"),
        (["theme=dark; session=abc; x"], "abc"),
        (["theme=dark;session=abc"], "abc"),
        (['session="abc"'], "abc"),
        (["session=a=b=="], "a=b=="),
        (["theme=dark", "session=abc"], "abc"),
        (["session=abc; session=abc"], "abc"),
        (["Session=abc"], None),
        (["xsession=abc"], None),
        (["session"], None),
    ],
)
def test_a_token_in_a_cookie(cookies: list[str], token: str | None) -> None:
    assert cookie_token(request(*(("Cookie", one) for one in cookies)), "session") == token


@pytest.mark.parametrize(
    ("offered", "token"),
    [
        (["chat, token.YWJj"], "abc"),
        (["token.YWJj,chat"], "abc"),
        (["chat", "token.w6k"], "é"),
        (["chat"], None),
        (["Token.YWJj"], None),
    ],
)
def test_a_token_among_the_subprotocols(offered: list[str], token: str | None) -> None:
    lines = (("Sec-WebSocket-Protocol", one) for one in offered)
    assert subprotocol_token(request(*lines)) == token


def test_a_prefix_of_ones_own() -> None:
    prefix = "base64url.bearer.authorization.k8s.io."
    offered = as_subprotocol("abc", prefix=prefix)
    assert offered == prefix + "YWJj"
    assert subprotocol_token(request(("Sec-WebSocket-Protocol", offered)), prefix) == "abc"


# --- what is malformed -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        "Bearer",
        "Bearer ",
        "Bearer a b",
        "Bearer a,b",
        "Bearer a\tb",
        "Bearer é",
        "Bearer " + "x" * (LONGEST + 1),
    ],
)
def test_a_malformed_bearer_token(value: str) -> None:
    assert refused(lambda: bearer_token(request(("Authorization", value))))


@pytest.mark.parametrize(
    "value",
    [
        "Basic",
        "Basic !!!!",
        "Basic YTpi=",
        "Basic YTp",
        "Basic YT pi",
        "Basic é",
        basic(b"no colon"),
        basic(b"not utf-8:\xff"),
        basic("a:b".encode("utf-16")),
        basic(b"line\n:break"),
        basic(b"a:\x7f"),
        basic(b"a:" + b"x" * LONGEST),
    ],
)
def test_a_malformed_login(value: str) -> None:
    assert refused(lambda: basic_login(request(("Authorization", value))))


def test_two_authorizations_are_none() -> None:
    two = request(("Authorization", "Bearer a"), ("Authorization", "Bearer a"))
    assert refused(lambda: bearer_token(two))
    assert refused(lambda: basic_login(two))


@pytest.mark.parametrize(
    "query",
    [
        "token=",
        "token",
        "token=a&token=b",
        "token=a&token=a",
        "token=%ff",
        "token=%0a",
        "token=%00",
        "token=" + "x" * (LONGEST + 1),
    ],
)
def test_a_malformed_token_in_the_query(query: str) -> None:
    assert refused(lambda: query_token(request(target="/?" + query), "token"))


@pytest.mark.parametrize(
    "cookies",
    [
        "session=",
        'session=""',
        "session=a; session=b",
        "session=a\x01b",
        "session=a\x80b",
        "session=" + "x" * (LONGEST + 1),
    ],
)
def test_a_malformed_cookie(cookies: str) -> None:
    assert refused(lambda: cookie_token(request(("Cookie", cookies)), "session"))


@pytest.mark.parametrize(
    "offered",
    [
        "token.",
        "token.YWJj=",
        "token.a",
        "token.YW+j",
        "token._w",
        "token.Cg",
        "token.YWJj, token.YWJj",
        as_subprotocol("x" * (LONGEST + 1)),
    ],
)
def test_a_malformed_subprotocol(offered: str) -> None:
    assert refused(lambda: subprotocol_token(request(("Sec-WebSocket-Protocol", offered))))


@pytest.mark.parametrize(
    ("name", "password"), [("a:b", "s3cret"), ("a\n", "s3cret"), ("a", "s3cret\x00")]
)
def test_a_login_that_cannot_be_sent(name: str, password: str) -> None:
    with pytest.raises(ValueError, match="no colon") as caught:
        Login(name, password).authorization()
    assert "s3cret" not in str(caught.value)


def test_a_login_keeps_its_password_to_itself() -> None:
    assert "s3cret" not in repr(Login("ann", "s3cret")) + str(Login("ann", "s3cret"))


# --- properties ------------------------------------------------------------------------------

TOKENS = st.text(min_size=1, max_size=50).filter(str.isprintable)
VISIBLE = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters=","))
CLEAN = st.text(
    st.characters(min_codepoint=0x20, exclude_characters="\x7f", exclude_categories=["Cs"])
)
#: What a header may hold.
FIELD = st.text(st.sampled_from([chr(one) for one in (9, *range(32, 127), *range(128, 256))]))


@given(TOKENS)
def test_a_token_comes_back_from_the_query(token: str) -> None:
    assert query_token(request(target="/?" + urlencode({"token": token})), "token") == token
    assert query_token(request(target="/?token=" + quote(token)), "token") == token


@given(TOKENS)
def test_a_token_comes_back_from_the_subprotocols(token: str) -> None:
    offered = as_subprotocol(token)
    assert subprotocol_token(request(("Sec-WebSocket-Protocol", f"chat, {offered}"))) == token


@given(VISIBLE.filter(bool))
def test_a_token_comes_back_from_the_header(token: str) -> None:
    assert bearer_token(request(("Authorization", f"Bearer {token}"))) == token


@given(CLEAN.filter(lambda name: ":" not in name), CLEAN)
def test_a_login_comes_back(name: str, password: str) -> None:
    header = Login(name, password).authorization()
    assert basic_login(request(("Authorization", header))) == (name, password)


@given(FIELD)
def test_whatever_comes_is_found_missing_or_refused(text: str) -> None:
    for prefix in ("", "Bearer ", "Basic ", "session=", "token."):
        everywhere = request(
            ("Authorization", prefix + text),
            ("Cookie", prefix + text),
            ("Sec-WebSocket-Protocol", prefix + text),
            target="/?token=" + quote(text, safe="%+&="),
        )
        for find in (
            lambda: bearer_token(everywhere),  # noqa: B023 - called at once
            lambda: cookie_token(everywhere, "session"),  # noqa: B023
            lambda: subprotocol_token(everywhere),  # noqa: B023
            lambda: query_token(everywhere, "token"),  # noqa: B023
        ):
            if not refused(find):
                found = find()
                assert found is None or check_token(found) == found
        refused(lambda: basic_login(everywhere))  # noqa: B023


@given(st.binary(max_size=60))
def test_any_bytes_are_a_login_or_refused(data: bytes) -> None:
    asked = request(("Authorization", basic(data)))
    if not refused(lambda: basic_login(asked)):
        login = basic_login(asked)
        assert login is not None
        assert f"{login.name}:{login.password}".encode() == data
