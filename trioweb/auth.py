"""Who may connect: by the handshake, by the first message, by any of several ways.

A *check* is a function ``async check(credentials)``. It returns the principal, which becomes
``ws.principal``, or a `Credential` if that ends some day; or it raises `Refused`. A *way* finds the
credentials: those of `trioweb.ways` in the handshake, which is answered with 401 or 403 if need
be; `FirstMessage` and `MessageToken` in the first message, after the upgrade. ``authenticate=``
takes a way, `AnyOf` several, or a check of the whole `Request`.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeAlias

import trio

from .config import Timeouts
from .connection import WebSocket, lifecycle_of
from .credentials import check_token
from .errors import NoCredentials, Refused
from .expiry import Credential
from .protocol.machine import check_close, fit_reason
from .types import Close, CloseCode, Headers, Message, Request, Response
from .ways import Way, somebody

__all__ = [
    "AnyOf",
    "Authenticate",
    "FirstMessage",
    "HandshakeCheck",
    "MessageToken",
    "admit",
    "check_handshake",
    "check_ways",
    "dismiss",
    "identify",
    "real_subprotocols",
]

logger = logging.getLogger("trioweb.auth")

HandshakeCheck: TypeAlias = Callable[[Request], Awaitable[Any]]


class FirstMessage:
    """Authenticate by the first message, within a deadline.

    ``check(ws, message)`` returns the principal or a `Credential`, or raises `Refused`.
    ``timeout`` seconds run from the upgrade to the end of the check; None means `Timeouts.auth`
    (10). A peer that is refused, or late, is closed with ``code``: 1008, or 4401 if its client
    should know it for a failed login.
    """

    def __init__(
        self,
        check: Callable[[WebSocket, Message], Awaitable[Any]],
        *,
        timeout: float | None = None,
        code: int = CloseCode.POLICY_VIOLATION,
    ) -> None:
        check_close(code, "")
        if timeout is not None and not timeout > 0:
            raise ValueError(f"timeout must be positive, not {timeout!r}")
        self._check = check
        self._timeout = timeout
        self._code = code

    async def admit(self, ws: WebSocket, timeouts: Timeouts) -> bool:
        """Run the check and set ``ws.principal``; False if the connection is closing instead.

        Raises what the check raises, and `ConnectionEnded` if the connection ends before that.
        """
        reason = "authentication timeout"
        with trio.move_on_after(self._timeout or timeouts.auth):
            try:
                identify(ws, await self._check(ws, await ws.receive()))
            except Refused as refused:
                reason = fit_reason(refused.reason) or "authentication failed"
            else:
                if ws.closed is not None:
                    raise lifecycle_of(ws).receive_error()
                return True
        # It may repeat the peer's words, which must not write lines of their own.
        logger.info("%s: %s", ws.id, reason if reason.isprintable() else ascii(reason))
        lifecycle_of(ws).refuse(Close(self._code, reason))
        return False


class MessageToken(FirstMessage):
    """Authenticate by a token that is the first message, as text; else as `FirstMessage`.

    ``await check(token)`` is the same as for the ways of the handshake.
    """

    def __init__(
        self,
        check: Callable[[str], Awaitable[Any]],
        *,
        timeout: float | None = None,
        code: int = CloseCode.POLICY_VIOLATION,
    ) -> None:
        async def check_message(_: WebSocket, message: Message) -> Any:
            if not isinstance(message, str):
                raise Refused("malformed credentials")
            return somebody(await check(check_token(message)))

        super().__init__(check_message, timeout=timeout, code=code)


class AnyOf:
    """Several ways, tried in order until one lets the peer in.

    A way that finds nothing, or refuses with 401, is passed over; 403 is final, for it means
    someone known. If none lets the peer in it hears the first refusal that was more than
    `NoCredentials`. The last way may be a `FirstMessage`: it is asked where the handshake had no
    credentials at all, for which checks of the whole request must raise `NoCredentials`.
    """

    def __init__(self, *ways: Authenticate) -> None:
        self._ways: list[HandshakeCheck] = []
        #: For after the upgrade.
        self.first_message: FirstMessage | None = None
        for way in ways:
            if way is None:
                raise ValueError("None among the ways would let everybody in")
            if self.first_message is not None:
                raise ValueError("a first message comes last: nothing can follow it")
            if isinstance(way, AnyOf):
                self._ways += way._ways  # noqa: SLF001 - of its own class
                self.first_message = way.first_message
            elif isinstance(way, FirstMessage):
                self.first_message = way
            else:
                self._ways.append(way)
        if not self._ways:
            raise ValueError("AnyOf needs at least one way of the handshake")

    @property
    def ways(self) -> Sequence[HandshakeCheck]:
        """The ways of the handshake."""
        return self._ways

    async def __call__(self, request: Request) -> Any:
        """Check a request."""
        refusals: list[Refused] = []
        for way in self._ways:
            try:
                return await way(request)
            except Refused as refused:
                if refused.status != 401:
                    raise
                refusals.append(refused)
        wrong = (one for one in refusals if not isinstance(one, NoCredentials))
        raise next(wrong, refusals[0]) from None


#: What servers take: a way, a check of the request, or None for anybody.
Authenticate: TypeAlias = HandshakeCheck | FirstMessage | AnyOf | None

#: Stands for the credential of who has yet to send a first message.
_PENDING = Credential(None, expires_in=float("inf"))


def check_ways(
    authenticate: Authenticate, origins: Sequence[str] | None, subprotocols: object
) -> None:
    """Raise `ValueError` where a way is not safe, or of no use, with the other options."""
    ways = _ways_of(authenticate)
    if origins is None and any(way.ambient for way in ways):
        raise ValueError(
            "origins=None lets every page in the world use the cookies and passwords that "
            "browsers send along: list the origins, or leave them out for the server's own"
        )
    if not subprotocols and any(way.prefix is not None for way in ways):
        raise ValueError("browsers that offer subprotocols want one chosen: give subprotocols=")


def real_subprotocols(authenticate: Authenticate, offered: Sequence[str]) -> Sequence[str]:
    """Return the offered subprotocols that are no tokens."""
    prefixes = tuple(way.prefix for way in _ways_of(authenticate) if way.prefix is not None)
    return [one for one in offered if not one.startswith(prefixes)]


async def check_handshake(
    authenticate: HandshakeCheck | FirstMessage | AnyOf, request: Request, timeouts: Timeouts
) -> tuple[Any, Response | None]:
    """Return what the check does, or the response that turns the request away."""
    if isinstance(authenticate, FirstMessage):
        return _PENDING, None
    with trio.move_on_after(timeouts.auth):
        try:
            found = await authenticate(request)
            if isinstance(found, Credential) and found.expired:
                raise Refused("credential expired")  # noqa: TRY301 - as a check's own
        except Refused as refused:
            if isinstance(refused, NoCredentials) and _first_message(authenticate) is not None:
                return _PENDING, None
            return None, _refusal(authenticate, refused)
        return found, None
    return None, Response.make(503, "authentication timeout\n")


def identify(ws: WebSocket, found: Any) -> None:
    """Tell a connection whose it is: what a check returned."""
    ws.credential = found if isinstance(found, Credential) else None
    ws.principal = found if ws.credential is None else ws.credential.principal


async def admit(ws: WebSocket, authenticate: Authenticate, timeouts: Timeouts) -> bool:
    """See that a connection is somebody's, and for how long; False if it is closing instead."""
    if ws.credential is _PENDING:
        ws.credential = None
        first = _first_message(authenticate)
        assert first is not None
        # What comes behind it waits until it is known whose it is: there may be limits on that.
        reading = lifecycle_of(ws).reading
        most, reading.most_messages = reading.most_messages, 1
        if not await first.admit(ws, timeouts):
            return False
        reading.most_messages = most
    if ws.credential is None:
        return True
    ws.credential.begin(lifecycle_of(ws))
    return not ws.credential.expired


def dismiss(ws: WebSocket) -> None:
    """Forget a connection whose handler is over."""
    if ws.credential is not None:
        ws.credential.end(lifecycle_of(ws))


def _first_message(authenticate: Authenticate) -> FirstMessage | None:
    if isinstance(authenticate, AnyOf):
        return authenticate.first_message
    return authenticate if isinstance(authenticate, FirstMessage) else None


def _ways_of(authenticate: Authenticate) -> list[Way[Any]]:
    ways = authenticate.ways if isinstance(authenticate, AnyOf) else [authenticate]
    return [way for way in ways if isinstance(way, Way)]


def _refusal(authenticate: HandshakeCheck | AnyOf, refused: Refused) -> Response:
    headers = refused.headers
    if refused.status == 401 and "WWW-Authenticate" not in headers:
        # They are due with a 401 (RFC 9110, 15.5.2).
        ways = _ways_of(authenticate)
        challenges = [way.challenge for way in ways] or ["Bearer"]
        # Of several ways it does not show whose credentials were wrong.
        if len(ways) == 1 and not isinstance(refused, NoCredentials):
            challenges = [ways[0].complaint or ways[0].challenge]
        lines = [("WWW-Authenticate", one) for one in dict.fromkeys(challenges)]
        headers = Headers([*headers.pairs(), *lines])
    return Response.make(refused.status, (refused.reason or "refused") + "\n", headers)
