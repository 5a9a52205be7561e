"""Who may connect: a check of the handshake, or of the first message.

Before the upgrade, ``authenticate=check`` calls ``await check(request)``; after it,
``authenticate=FirstMessage(check)`` calls ``await check(ws, message)``. Either returns the
principal, which becomes ``ws.principal``, or raises `Refused`.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import trio

from .config import Timeouts
from .connection import WebSocket, lifecycle_of
from .errors import Refused
from .protocol.machine import check_close, fit_reason
from .types import Close, CloseCode, Headers, Message, Request, Response

__all__ = ["Authenticate", "FirstMessage", "HandshakeCheck"]

logger = logging.getLogger("trioweb.auth")

HandshakeCheck: TypeAlias = Callable[[Request], Awaitable[Any]]


class FirstMessage:
    """Authenticate by the first message, within a deadline.

    ``check(ws, message)`` returns the principal or raises `Refused`. ``timeout`` seconds run from
    the upgrade to the end of the check; None means `Timeouts.auth` (10). A peer that is refused,
    or late, is closed with ``code``: 1008, or 4401 if its client should know it for a failed login.
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

        Raises what the check raises, and `ConnectionEnded` if the peer leaves before its message.
        """
        reason = "authentication timeout"
        with trio.move_on_after(self._timeout or timeouts.auth):
            try:
                ws.principal = await self._check(ws, await ws.receive())
            except Refused as refused:
                reason = fit_reason(refused.reason) or "authentication failed"
            else:
                return ws.closed is None
        # It may repeat the peer's words, which must not write lines of their own.
        logger.info("%s: %s", ws.id, reason if reason.isprintable() else ascii(reason))
        lifecycle_of(ws).refuse(Close(self._code, reason))
        return False


#: What servers take: a check of the handshake, of the first message, or None for anybody.
Authenticate: TypeAlias = HandshakeCheck | FirstMessage | None


async def check_handshake(
    check: HandshakeCheck, request: Request, timeouts: Timeouts
) -> tuple[Any, Response | None]:
    """Return the principal, or the response that turns the request away."""
    with trio.move_on_after(timeouts.auth):
        try:
            return await check(request), None
        except Refused as refused:
            headers = refused.headers
            if refused.status == 401 and "WWW-Authenticate" not in headers:
                # It is due with a 401 (RFC 9110, 15.5.2).
                headers = Headers([*headers.pairs(), ("WWW-Authenticate", "Bearer")])
            reason = refused.reason or "refused"
            return None, Response.make(refused.status, reason + "\n", headers)
    return None, Response.make(503, "authentication timeout\n")
