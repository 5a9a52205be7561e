"""Credentials: where a handshake carries them, and what they are once decoded.

Each function returns what it finds, None where there is nothing of its kind, and raises `Refused`
for what is there but malformed. No message repeats what was sent.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import parse_qsl

from .errors import Refused
from .types import Request

__all__ = [
    "Login",
    "as_subprotocol",
    "basic_login",
    "bearer_token",
    "check_token",
    "cookie_token",
    "query_token",
    "subprotocol_token",
]

#: Characters; a token of more is none. Those of the widest use, JWTs, have some hundred.
LONGEST = 8192

#: What stands before the token in the name of a subprotocol.
PREFIX = "token."

# Wider than RFC 6750, 2.1, for many tokens have colons or bars in them; no space and no comma.
_BEARER = re.compile(r"[!-+\--~]+")
_BASE64 = re.compile(r"(?:[+/0-9A-Za-z]{4})*(?:[+/0-9A-Za-z]{2}==|[+/0-9A-Za-z]{3}=)?")
_BASE64URL = re.compile(r"[-_0-9A-Za-z]+")


class Login(NamedTuple):
    """A name and a password (RFC 7617)."""

    name: str
    password: str

    def authorization(self) -> str:
        """Return the value of a client's Authorization header; `ValueError` if it cannot be."""
        text = f"{self.name}:{self.password}"
        if ":" in self.name or not _is_clean(text):
            raise ValueError("a name has no colon, and neither part control characters")
        return f"Basic {base64.b64encode(text.encode()).decode()}"

    def __repr__(self) -> str:
        """Keep the password to itself."""
        return f"<Login {self.name!r}>"


def as_subprotocol(token: str, *, prefix: str = PREFIX) -> str:
    """Return the subprotocol that a client offers to carry a token, beside one that it speaks."""
    return prefix + base64.urlsafe_b64encode(token.encode()).decode().rstrip("=")


def check_token(token: str) -> str:
    """Return a token; raises `Refused` for what is empty, too long or not printable."""
    if not 0 < len(token) <= LONGEST or not token.isprintable():
        raise _malformed()
    return token


def bearer_token(request: Request) -> str | None:
    """Find the token of ``Authorization: Bearer`` (RFC 6750, 2.1)."""
    value = _authorization(request, "bearer")
    if value is not None and not _BEARER.fullmatch(value):
        raise _malformed()
    return value if value is None else check_token(value)


def basic_login(request: Request) -> Login | None:
    """Find the name and password of ``Authorization: Basic``, in UTF-8 (RFC 7617)."""
    value = _authorization(request, "basic")
    if value is None:
        return None
    if not _BASE64.fullmatch(value):
        raise _malformed()
    try:
        text = base64.b64decode(value).decode()
    except UnicodeDecodeError:
        raise _malformed() from None
    name, colon, password = text.partition(":")
    if not colon or len(text) > LONGEST or not _is_clean(text):
        raise _malformed()
    return Login(name, password)


def query_token(request: Request, name: str) -> str | None:
    """Find the token in a parameter of the query."""
    query = request.target.partition("?")[2]
    # What is not UTF-8 becomes lone surrogates, which are not printable.
    pairs = parse_qsl(query, keep_blank_values=True, errors="surrogateescape")
    return _only([value for key, value in pairs if key == name])


def cookie_token(request: Request, name: str) -> str | None:
    """Find the token in a cookie (RFC 6265, 4.2.1).

    A cookie that comes twice with different values is malformed: a page of a neighbouring host may
    have set one of them, and the order says nothing.
    """
    pieces = [piece for line in request.headers.get_all("Cookie") for piece in line.split(";")]
    pairs = (piece.strip(" \t").partition("=") for piece in pieces)
    return _only(list({_unquoted(value) for key, equals, value in pairs if equals and key == name}))


def subprotocol_token(request: Request, prefix: str = PREFIX) -> str | None:
    """Find the token among the offered subprotocols: ``prefix`` and its UTF-8 in base64url.

    Browsers set no headers on a WebSocket, but name subprotocols.
    """
    offered = request.headers.tokens("Sec-WebSocket-Protocol")
    found = [one.removeprefix(prefix) for one in offered if one.startswith(prefix)]
    if not found:
        return None
    if len(found) > 1 or not _BASE64URL.fullmatch(found[0]):
        raise _malformed()
    padding = "=" * (-len(found[0]) % 4)
    try:
        return check_token(base64.urlsafe_b64decode(found[0] + padding).decode())
    except ValueError:  # not base64, or not UTF-8
        raise _malformed() from None


def _authorization(request: Request, scheme: str) -> str | None:
    """Return what follows the scheme in the Authorization header (RFC 9110, 11.6.2)."""
    lines = request.headers.get_all("Authorization")
    if len(lines) > 1:  # proxies and we may not take the same one
        raise _malformed()
    for line in lines:
        name, _, value = line.partition(" ")
        if name.lower() == scheme:
            return value.strip(" ")
    return None


def _only(found: Sequence[str]) -> str | None:
    if len(found) > 1:
        raise _malformed()
    return check_token(found[0]) if found else None


def _unquoted(value: str) -> str:
    quoted = len(value) > 1 and value[0] == value[-1] == '"'
    return value[1:-1] if quoted else value


def _is_clean(text: str) -> bool:
    return not any(one < " " or one == "\x7f" for one in text)


def _malformed() -> Refused:
    return Refused("malformed credentials")
