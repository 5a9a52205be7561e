"""Checks for the simple cases, and the comparison that all checks need."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Mapping
from typing import Generic, TypeVar

import trio

from .credentials import Login

__all__ = ["Passwords", "Tokens", "same_secret"]

_Principal = TypeVar("_Principal")


def same_secret(one: str | bytes, other: str | bytes) -> bool:
    """Compare two secrets in a time that says nothing about where they differ.

    Text counts as its UTF-8. The lengths may differ, and are not given away by that.
    """
    key = secrets.token_bytes(32)
    return hmac.compare_digest(_digest(key, one), _digest(key, other))


class Tokens(Generic[_Principal]):
    """A check of tokens that are known beforehand: ``Bearer(Tokens({"s3cret": "ann"}))``.

    It takes as long for a wrong token as for one that is almost right: tokens are looked up by a
    keyed digest, which nobody outside can steer. The tokens themselves are not kept.
    """

    def __init__(self, principals: Mapping[str, _Principal]) -> None:
        self._key = secrets.token_bytes(32)
        self._principals = {_digest(self._key, one): who for one, who in principals.items()}

    async def __call__(self, token: str) -> _Principal | None:
        """Return whose token it is, or None."""
        await trio.lowlevel.checkpoint()
        return self._principals.get(_digest(self._key, token))

    def __repr__(self) -> str:
        return f"<Tokens: {len(self._principals)}>"


class Passwords:
    """A check of names and passwords that are known beforehand; the principal is the name.

    For a handful that come from the environment, say. Those of people belong into a store as slow
    hashes (scrypt, Argon2), which a check of your own compares in a thread.
    """

    def __init__(self, passwords: Mapping[str, str]) -> None:
        self._key = secrets.token_bytes(32)
        self._digests = {name: _digest(self._key, one) for name, one in passwords.items()}

    async def __call__(self, login: Login) -> str | None:
        """Return the name if the password is its own, else None."""
        await trio.lowlevel.checkpoint()
        # Whoever is unknown is compared too, with what no password has.
        expected = self._digests.get(login.name, b"")
        right = hmac.compare_digest(_digest(self._key, login.password), expected)
        return login.name if right else None

    def __repr__(self) -> str:
        return f"<Passwords: {len(self._digests)}>"


def _digest(key: bytes, secret: str | bytes) -> bytes:
    data = secret.encode(errors="surrogatepass") if isinstance(secret, str) else secret
    return hmac.digest(key, data, "sha256")
