"""Paths to handlers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TypeAlias

from .connection import WebSocket
from .types import Request

__all__ = ["Handler", "Router"]

Handler: TypeAlias = Callable[[WebSocket], Awaitable[object]]


class Router:
    """A handler that picks another by the request's path, which must match exactly.

    A path without a handler is answered with 404 before the upgrade.
    """

    def __init__(self, routes: Mapping[str, Handler]) -> None:
        for path in routes:
            if not path.startswith("/"):
                raise ValueError(f"path {path!r} must start with /")
        self._routes = dict(routes)

    def find(self, request: Request) -> Handler | None:
        """Return the handler for a request, or None."""
        return self._routes.get(request.path)

    async def __call__(self, ws: WebSocket) -> None:
        """Run the handler of the connection's path."""
        handler = self.find(ws.request)
        assert handler is not None, "the server answers 404 before this"
        await handler(ws)
