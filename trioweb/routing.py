"""Paths to handlers, and middleware around them."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeAlias

from .connection import WebSocket
from .patterns import CONVERTERS, Converter, Pattern, split_path
from .types import CloseCode, Request

__all__ = ["Handler", "Match", "Middleware", "RouteHandler", "Router"]

Handler: TypeAlias = Callable[[WebSocket], Awaitable[object]]

#: A handler of a route: it takes the connection, and the path's parameters by keyword.
RouteHandler: TypeAlias = Callable[..., Awaitable[object]]

#: Runs around a handler: ``async def log(ws, next): ...; await next(ws); ...``.
Middleware: TypeAlias = Callable[[WebSocket, Handler], Awaitable[object]]


class Match(NamedTuple):
    """The route of a request."""

    #: The pattern as it was written, with that of the routers around it: good for a metric's label.
    pattern: str
    handler: RouteHandler
    parameters: dict[str, Any]


class _Route(NamedTuple):
    pattern: Pattern
    handler: RouteHandler
    #: The outermost first.
    middleware: tuple[Middleware, ...]


class Router:
    """A handler that picks another by the request's path.

    ``routes`` maps patterns to handlers. A pattern is a path, which must match exactly, with
    parameters in it, each a whole segment: ``{name}``, ``{id:int}``, ``{price:float}``,
    ``{key:uuid}``, and, as the last, ``{rest:path}`` for all that is left. ``converters`` has types
    of one's own, as ``{"date": date.fromisoformat}``. The handler gets the values by keyword:
    ``async def room(ws, name)``. Segments are decoded one by one, so that an encoded slash
    (``%2F``) stays inside its own; a parameter is never empty, ``.`` or ``..``.

    A router among the handlers is mounted: its patterns follow the one that it stands under,
    whose own place is that of its ``/``. ``middleware`` runs around each handler of the router, the
    first outermost; what it passes to ``next`` is what the handler gets.

    Of two patterns that match, the narrower one counts: text before a parameter, ``int`` before
    ``str``, ``str`` before ``path``. Raises `ValueError` where neither is, for a bad pattern, and
    for a handler that does not take its parameters.

    A path without a handler is answered with 404 before the upgrade.
    """

    def __init__(
        self,
        routes: Mapping[str, RouteHandler],
        *,
        middleware: Sequence[Middleware] = (),
        converters: Mapping[str, Converter] | None = None,
    ) -> None:
        known = {**CONVERTERS, **(converters or {})}
        self._routes: list[_Route] = []
        for text, handler in routes.items():
            pattern = Pattern.parse(text, known)
            for route in _routes_of(pattern, handler):
                _check_parameters(route)
                around = (*middleware, *route.middleware)
                self._routes.append(route._replace(middleware=around))
        self._routes.sort(key=lambda route: route.pattern.order)
        _check_clarity(self._routes)
        #: Those without parameters, which are the narrowest, by their segments.
        self._exact = {
            route.pattern.segments: route for route in self._routes if route.pattern.is_literal
        }
        self._others = [route for route in self._routes if not route.pattern.is_literal]

    def match(self, request: Request) -> Match | None:
        """Return the route of a request, or None."""
        found = self._find(request)
        if found is None:
            return None
        route, parameters = found
        return Match(route.pattern.text, route.handler, parameters)

    def find(self, request: Request) -> RouteHandler | None:
        """Return the handler for a request, or None."""
        found = self._find(request)
        return None if found is None else found[0].handler

    async def __call__(self, ws: WebSocket) -> None:
        """Run the handler of the connection's path.

        Without one it closes with 1008, which happens only where the server did not see the
        router itself: inside another function.
        """
        found = self._find(ws.request)
        if found is None:
            await ws.aclose(CloseCode.POLICY_VIOLATION, "no such path")
            return
        route, parameters = found
        handler: Handler = route.handler
        if parameters:
            handler = partial(route.handler, **parameters)
        for middleware in reversed(route.middleware):
            handler = _around(middleware, handler)
        await handler(ws)

    def _find(self, request: Request) -> tuple[_Route, dict[str, Any]] | None:
        path = split_path(request.raw_path)
        if path is None:
            return None
        exact = self._exact.get(path)
        if exact is not None:
            return exact, {}
        for route in self._others:
            parameters = route.pattern.match(path)
            if parameters is not None:
                return route, parameters
        return None

    def _below(self, prefix: Pattern) -> Iterator[_Route]:
        """Yield the routes as they are where this router is mounted."""
        for route in self._routes:
            yield route._replace(pattern=route.pattern.under(prefix))


def _routes_of(pattern: Pattern, handler: RouteHandler) -> Iterator[_Route]:
    """Yield what one entry of the routes stands for: of a router, all of its own."""
    if isinstance(handler, Router):
        yield from handler._below(pattern)  # noqa: SLF001 - another of the same class
    else:
        yield _Route(pattern, handler, ())


def _check_parameters(route: _Route) -> None:
    """See that the handler takes the parameters; whose signature cannot be read is believed."""
    try:
        signature = inspect.signature(route.handler)
    except (TypeError, ValueError):
        return
    try:
        signature.bind(None, **dict.fromkeys(route.pattern.names))
    except TypeError as error:
        raise ValueError(f"the handler of {route.pattern.text!r} does not fit: {error}") from None


def _check_clarity(routes: Sequence[_Route]) -> None:
    """See that no path has two routes, neither of which is the narrower one."""
    exact: dict[object, Pattern] = {}
    for index, route in enumerate(routes):
        one = route.pattern
        if one.is_literal:  # the others come behind it, and there may be thousands of these
            others = [exact[one.segments]] if one.segments in exact else []
            exact[one.segments] = one
        else:
            others = [other.pattern for other in routes[:index] if not other.pattern.is_literal]
        for other in others:
            if one.is_ambiguous_with(other):
                raise ValueError(f"a path may match both {other.text!r} and {one.text!r}")


def _around(middleware: Middleware, handler: Handler) -> Handler:
    return lambda ws: middleware(ws, handler)
