"""The ways for credentials to come with the handshake.

Each takes a check of yours, ``async check(credentials)``, which makes a principal of them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar, Generic, TypeVar

from .credentials import (
    PREFIX,
    Login,
    basic_login,
    bearer_token,
    cookie_token,
    query_token,
    subprotocol_token,
)
from .errors import NoCredentials, Refused
from .types import Request

__all__ = [
    "Basic",
    "Bearer",
    "CookieToken",
    "QueryToken",
    "SubprotocolToken",
    "Way",
    "somebody",
]

#: What a way finds: a token, or a `Login`.
_Credentials = TypeVar("_Credentials")


class Way(ABC, Generic[_Credentials]):
    """A way for credentials to come with the handshake; itself a check of the request.

    ``await check(credentials)`` returns the principal or a `Credential`; None is nobody, and is
    refused. Whoever comes without credentials, or with malformed ones, is refused unasked.
    """

    #: Whether browsers add them by themselves, whichever page connects.
    ambient: ClassVar[bool] = False
    #: What a 401 says in WWW-Authenticate (RFC 9110, 11.6.1), and what instead if the
    #: credentials are there but wrong.
    challenge = "Bearer"
    complaint: str | None = None
    #: How a subprotocol begins that is none, but holds a token; None: none does.
    prefix: str | None = None

    def __init__(self, check: Callable[[_Credentials], Awaitable[Any]]) -> None:
        self._check = check

    @abstractmethod
    def find(self, request: Request) -> _Credentials | None:
        """Return the credentials, or None if there are none; raises `Refused` if malformed."""

    async def __call__(self, request: Request) -> Any:
        """Check a request."""
        found = self.find(request)
        if found is None:
            raise NoCredentials("credentials required")
        return somebody(await self._check(found))


class Bearer(Way[str]):
    """A token in ``Authorization: Bearer``: any of printable ASCII without spaces and commas."""

    complaint = 'Bearer error="invalid_token"'  # RFC 6750, 3.1

    def find(self, request: Request) -> str | None:
        """Return the token."""
        return bearer_token(request)


class Basic(Way[Login]):
    """A name and a password in ``Authorization: Basic``, in UTF-8 (RFC 7617).

    The check gets a `Login`. Browsers that know a password send it along for every page.
    """

    ambient = True

    def __init__(
        self, check: Callable[[Login], Awaitable[Any]], *, realm: str = "WebSocket"
    ) -> None:
        super().__init__(check)
        if not realm.isascii() or not realm.isprintable() or '"' in realm or "\\" in realm:
            raise ValueError("a realm is printable ASCII without quotes and backslashes")
        self.challenge = f'Basic realm="{realm}", charset="UTF-8"'

    def find(self, request: Request) -> Login | None:
        """Return the name and the password."""
        return basic_login(request)


class QueryToken(Way[str]):
    """A token in the query, as ``?token=``. Proxies like to log it; make it short-lived."""

    def __init__(self, check: Callable[[str], Awaitable[Any]], *, name: str = "token") -> None:
        super().__init__(check)
        self._name = name

    def find(self, request: Request) -> str | None:
        """Return the token; one that is there twice is malformed."""
        return query_token(request, self._name)


class CookieToken(Way[str]):
    """A token in a cookie, which browsers send along for every page.

    That is why it needs the check of origins: with ``origins=None`` it is a `ValueError`.
    """

    ambient = True

    def __init__(self, check: Callable[[str], Awaitable[Any]], *, name: str = "session") -> None:
        super().__init__(check)
        self._name = name

    def find(self, request: Request) -> str | None:
        """Return the token; one that is there twice and different is malformed."""
        return cookie_token(request, self._name)


class SubprotocolToken(Way[str]):
    """A token among the offered subprotocols, ``prefix`` and its UTF-8 in base64url.

    For browsers, which set no headers: ``new WebSocket(url, ["chat", "token." + base64url])``. The
    token is never chosen nor sent back, and a function in ``subprotocols=`` does not see it.
    Browsers want an answer to what they offer, so ``subprotocols=`` must be given.
    """

    def __init__(self, check: Callable[[str], Awaitable[Any]], *, prefix: str = PREFIX) -> None:
        super().__init__(check)
        if not prefix:
            raise ValueError("without a prefix every subprotocol would be a token")
        self.prefix = prefix

    def find(self, request: Request) -> str | None:
        """Return the token, decoded."""
        return None if self.prefix is None else subprotocol_token(request, self.prefix)


def somebody(found: Any) -> Any:
    """Return what a check found; raises `Refused` for None, which is nobody."""
    if found is None:
        raise Refused("wrong credentials")
    return found
