"""The checks that trioweb brings: what they let in. How long they take is not measured."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trioweb import Login, Passwords, Tokens, same_secret

SECRETS = st.text() | st.binary()


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("s3cret", "s3cret", True),
        ("s3cret", b"s3cret", True),
        ("é", "é".encode(), True),
        ("é", "é".encode("latin-1"), False),
        ("", "", True),
        ("", "x", False),
        ("s3cret", "s3cret ", False),
        ("s3cret", "S3cret", False),
        ("\udc80", "\udc80", True),
        ("\udc80", "\udc81", False),
    ],
)
def test_secrets_are_the_same_or_not(one: str | bytes, other: str | bytes, same: bool) -> None:
    assert same_secret(one, other) is same
    assert same_secret(other, one) is same


@given(SECRETS, SECRETS)
def test_same_is_what_has_the_same_bytes(one: str | bytes, other: str | bytes) -> None:
    def data(secret: str | bytes) -> bytes:
        return secret.encode(errors="surrogatepass") if isinstance(secret, str) else secret

    assert same_secret(one, one)
    assert same_secret(one, other) is (data(one) == data(other))


async def test_tokens_name_whose_they_are():
    check = Tokens({"s3cret": "ann", "é": 7})
    assert await check("s3cret") == "ann"
    assert await check("é") == 7
    for wrong in ("", "s3cre", "s3cret ", "S3CRET", "ann"):
        assert await check(wrong) is None


async def test_passwords_are_each_for_its_own_name():
    check = Passwords({"ann": "s3cret", "bob": "hunter2", "eve": ""})
    assert await check(Login("ann", "s3cret")) == "ann"
    assert await check(Login("eve", "")) == "eve"
    for wrong in (("ann", "hunter2"), ("ann", ""), ("ANN", "s3cret"), ("nobody", ""), ("", "")):
        assert await check(Login(*wrong)) is None


def test_checks_keep_their_secrets_to_themselves():
    for check in (Tokens({"s3cret": "ann"}), Passwords({"ann": "s3cret"})):
        assert "1" in repr(check)
        assert "s3cret" not in repr(check) + repr(vars(check))
