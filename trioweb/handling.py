"""The handler of one connection of a server: it is let in, runs, and what it raises is reported."""

from __future__ import annotations

import logging
from collections.abc import Callable

from .auth import FirstMessage
from .connection import WebSocket, lifecycle_of
from .guard import Visit
from .serving import Options
from .types import Close, CloseCode

__all__ = ["run_handler"]

logger = logging.getLogger("trioweb.server")


async def run_handler(
    ws: WebSocket, options: Options, visit: Visit, admitted: Callable[[WebSocket], None]
) -> None:
    """Admit the peer, run the handler on its connection, and close that when it ends."""
    life = lifecycle_of(ws)
    async with life:
        try:
            check = options.authenticate
            if not isinstance(check, FirstMessage) or await check.admit(ws, options.timeouts):
                visit.admitted(ws.principal)
                admitted(ws)
                await options.handler(ws)
            else:
                visit.count("auth")
        except Exception as error:  # noqa: BLE001 - _report logs it
            if life.is_own_end(error):
                return
            _report(ws, options, error)
            await life.end(Close(CloseCode.INTERNAL_ERROR, "internal error"))
        except BaseExceptionGroup as group:
            # Cancelled, and what went wrong on the way out: only the first goes on.
            errors, others = group.split(Exception)
            if errors is not None and not life.is_own_end(errors):
                _report(ws, options, errors)
            if others is not None:
                raise others from None


def _report(ws: WebSocket, options: Options, error: Exception) -> None:
    """Log what a handler raised, and tell the observers."""
    logger.error("%s: the handler failed", ws.id, exc_info=error)
    for observer in options.observers:
        try:
            observer.handler_failed(ws, error)
        except Exception:
            logger.exception("%s: observer %r failed", ws.id, observer)
