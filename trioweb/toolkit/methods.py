"""`Methods`: what a peer may call, by name, each with params that are checked."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any, NamedTuple, TypeAlias, TypeVar, get_type_hints

import msgspec
from msgspec import UNSET, UnsetType

from ..errors import CallError, InvalidMessage
from .once import Once
from .peer import Peer
from .wire import convert

__all__ = ["Handler", "Invocation", "Method", "Methods", "Middleware", "Reply"]

_Function = TypeVar("_Function", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Invocation:
    """A call that a peer has made, as the middleware sees it."""

    peer: Peer
    #: The name of the method, and its params as they came.
    method: str
    params: Any
    #: The key of a call that may be repeated.
    key: str | None = None
    #: Whether it is a notification, whose result nobody gets.
    is_notify: bool = False


#: Runs a method, or the middleware in front of it; returns its result or raises `CallError`.
Handler: TypeAlias = Callable[[Invocation], Awaitable[Any]]
#: ``await middleware(invocation, next)``: returns what ``await next(invocation)`` does, or another
#: result, or raises `CallError` instead.
Middleware: TypeAlias = Callable[[Invocation, Handler], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Reply:
    """A result with something to do once it is on its way: a method may return one.

    ``sent`` is called in the same step as the answer is queued, before anything can be sent behind
    it; ``unsent`` instead of that, if the answer is not sent: the caller has given up, or the
    link has ended. Both must be quick, and never wait. A notification's is unsent.
    """

    value: Any = None
    sent: Callable[[], object] | None = None
    unsent: Callable[[], object] | None = None


class Method:
    """One method: the function, and the types of its params."""

    __slots__ = ("_function", "_kind", "_optional", "_whole", "is_quick")

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        #: Whether it never waits, so that it may run on the spot.
        self.is_quick = not _is_async(function)
        parameters = _parameters(function)
        self._whole = list(parameters) == ["params"]
        self._optional = all(parameter.optional for parameter in parameters.values())
        if self._whole:
            self._kind = parameters["params"].kind
        else:
            self._kind = msgspec.defstruct(
                "Params",
                [
                    (name, one.kind | UnsetType, UNSET) if one.optional else (name, one.kind)
                    for name, one in parameters.items()
                ],
                kw_only=True,
            )

    def __call__(self, peer: Peer, params: Any) -> Any:
        """Call the function; raises `CallError` "invalid" for params of other types."""
        if params is None and self._optional:
            return self._function(peer)
        try:
            checked = convert({} if params is None and not self._whole else params, self._kind)
        except InvalidMessage as error:
            path = f"$.params{error.path[1:]}"
            raise CallError("invalid", error.message, path=path) from None
        if self._whole:
            return self._function(peer, checked)
        fields = msgspec.structs.asdict(checked).items()
        return self._function(peer, **{name: value for name, value in fields if value is not UNSET})


class Methods:
    """A registry of methods, for any number of peers.

    ::

        methods = Methods()


        @methods.method
        async def add(peer: Peer, a: int, b: int = 0) -> int:
            return a + b


        @methods("chat.say")
        async def say(peer: Peer, params: Say) -> None: ...

    A method's first argument is the `Peer` that calls. The others are the fields of the ``params``,
    checked against their annotations; where the only other is named ``params``, it is the whole,
    of any type that msgspec knows. A coroutine function runs in a task, under the caller's
    deadline. A plain function runs on the spot, in order with all else that the peer sends, and
    must not block. An async generator streams. Raise `CallError` to answer with an error of the
    method's own; what else is raised is logged, and answered "internal".

    ``middleware`` stands in front of all methods, the first outermost; with it all run in tasks.
    ``once`` keeps the results of calls that have a key; without it those are refused.
    """

    def __init__(self, *, middleware: Iterable[Middleware] = (), once: Once | None = None) -> None:
        self.once = once
        self._methods: dict[str, Method] = {}
        self._middleware = tuple(middleware)
        self._handler: Handler = self._run
        for one in reversed(self._middleware):
            self._handler = partial(_through, one, self._handler)

    def __contains__(self, name: str) -> bool:
        return name in self._methods

    def __iter__(self) -> Iterator[str]:
        return iter(self._methods)

    def method(self, function: _Function) -> _Function:
        """Register a function under its own name; a decorator."""
        self.add(function.__name__, function)
        return function

    def __call__(self, name: str) -> Callable[[_Function], _Function]:
        """Return a decorator that registers a function under a name."""

        def register(function: _Function) -> _Function:
            self.add(name, function)
            return function

        return register

    def add(self, name: str, function: Callable[..., Any]) -> None:
        """Register a function under a name.

        Raises `ValueError` if there is one already, `TypeError` if the function takes no peer, has
        ``*args``, or has annotations that msgspec cannot check.
        """
        if name in self._methods:
            raise ValueError(f"there is a method {name!r} already")
        self._methods[name] = Method(function)

    def find(self, name: str) -> Method | None:
        """Return the method of a name."""
        return self._methods.get(name) or _BUILT_IN.get(name)

    def has_middleware(self, _name: str, /) -> bool:
        """Whether something stands in front of a method."""
        return bool(self._middleware)

    async def run(self, invocation: Invocation) -> Any:
        """Run a method, through the middleware; returns or raises what those do."""
        return await self._handler(invocation)

    async def _run(self, invocation: Invocation) -> Any:
        method = self.find(invocation.method)
        if method is None:  # a middleware has invented it
            raise CallError("unknown-method", f"there is no method {invocation.method!r:.80}")
        value = method(invocation.peer, invocation.params)
        return await value if inspect.isawaitable(value) else value


async def _through(middleware: Middleware, handler: Handler, invocation: Invocation) -> Any:
    return await middleware(invocation, handler)


class _Parameter(NamedTuple):
    kind: Any
    optional: bool


def _parameters(function: Callable[..., Any]) -> dict[str, _Parameter]:
    """Return the parameters behind the peer."""
    found = list(inspect.signature(function).parameters.values())
    if not found or found[0].kind not in (found[0].POSITIONAL_ONLY, found[0].POSITIONAL_OR_KEYWORD):
        raise TypeError(f"{function!r}: a method's first argument is the peer")
    for one in found[1:]:
        if one.kind not in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY):
            raise TypeError(f"{function!r}: the argument {one} can have no name in params")
    # The peer's annotation need not be there at run time.
    written = {one.name: one.annotation for one in found[1:] if one.annotation is not one.empty}
    plain: Any = function
    while isinstance(plain, partial):
        plain = plain.func
    names = getattr(plain, "__globals__", None) or getattr(plain.__call__, "__globals__", {})
    kinds = get_type_hints(
        SimpleNamespace(__annotations__=written), globalns=names, include_extras=True
    )
    return {
        one.name: _Parameter(kinds.get(one.name, Any), one.default is not one.empty)
        for one in found[1:]
    }


def _is_async(function: Callable[..., Any]) -> bool:
    return any(
        inspect.iscoroutinefunction(one) or inspect.isasyncgenfunction(one)
        for one in (function, getattr(function, "__call__", None))  # noqa: B004 - its code is asked for, not whether it can be called
    )


def _ping(peer: Peer) -> None:
    """Answer null: the peer is there."""


_BUILT_IN = {"ping": Method(_ping)}
