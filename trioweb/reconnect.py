"""Connections one after the other: `reconnect`.

It takes a function and calls it with each connection, and is no ``async for ws in ...``: a
connection has a nursery, which must be closed by the block that opened it. A loop that is left by
``break`` would leave it open, and what the loop's body opens would be closed around it in the
wrong order. So each connection is one block inside one call, in the task of the caller.
"""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from functools import partial
from typing import Any, Generic, Literal, TypeAlias, TypedDict, TypeVar, Unpack, cast, overload

import trio

from .abc import Observer
from .addresses import Proxy
from .client import connect
from .config import Backoff, Deflate, Heartbeat, Limits, Timeouts
from .connection import WebSocket, lifecycle_of
from .errors import ConnectionClosedByUs, ConnectionEnded
from .retrying import FAILURES, Retries
from .states import Phase, States, Status

__all__ = ["ConnectOptions", "Dial", "reconnect"]

_T = TypeVar("_T")
_C = TypeVar("_C", bound="trio.abc.AsyncResource")

#: Makes one connection: an async context manager for each, as `trioweb.connect` is. Where there is
#: none it raises what that raises, an `OSError`, or `trio.BrokenResourceError`; anything else is
#: taken for a mistake, and is not tried again.
Dial: TypeAlias = Callable[[], AbstractAsyncContextManager[_C]]

#: The end of a channel that is no `WebSocket`.
_ENDS = (trio.EndOfChannel, trio.BrokenResourceError)


class ConnectOptions(TypedDict, total=False):
    """The options of `trioweb.connect` that can serve for more than one connection."""

    ssl_context: ssl.SSLContext | None
    proxy: str | Proxy | Literal[True] | None
    redirects: int
    subprotocols: Sequence[str]
    headers: Mapping[str, str] | Sequence[tuple[str, str]]
    limits: Limits
    timeouts: Timeouts
    heartbeat: Heartbeat | None
    deflate: Deflate | None
    observers: Sequence[Observer]


@overload
async def reconnect(
    use: Callable[[WebSocket], Awaitable[_T]],
    url: str,
    *,
    backoff: Backoff = ...,
    states: States | None = ...,
    **options: Unpack[ConnectOptions],
) -> _T: ...
@overload
async def reconnect(
    use: Callable[[_C], Awaitable[_T]],
    url: Dial[_C],
    *,
    backoff: Backoff = ...,
    states: States | None = ...,
) -> _T: ...
async def reconnect(
    use: Callable[[Any], Awaitable[_T]],
    url: str | Dial[Any],
    *,
    backoff: Backoff = Backoff(),
    states: States | None = None,
    **options: Unpack[ConnectOptions],
) -> _T:
    """Call ``use(ws)`` with one connection after the other, until it is done; return its value.

    ``use`` is done when it returns while its connection is open, or after its own ``ws.aclose()``.
    Where the connection has ended by itself, and ``use`` lets the error of that pass through, or
    returns (as after ``async for message in ws``), the next one is made, after a wait by
    ``backoff``, and ``use`` is called anew. What else it raises comes out as it is.

    ``url`` is that of `trioweb.connect`, whose options go with it; or it is a function that returns
    an async context manager for each connection, for a token that must be fresh each time, several
    addresses, or the `trio.abc.Channel` of another library; of that `trio.EndOfChannel` and
    `trio.BrokenResourceError` are the end. ``states`` gets every change of state.

    Raises the last error when it is final (`trioweb.is_terminal`), or the last of
    `Backoff.attempts`; what makes no sense, such as a malformed URL, comes out at once. Runs in the
    caller's task alone, under its cancel scopes.
    """
    dial = partial(connect, url, **options) if isinstance(url, str) else url
    states = States() if states is None else states
    try:
        value = await _until_done(use, dial, Retries(backoff), states)
    except BaseException as error:
        cause = None if isinstance(error, trio.Cancelled) else error
        states.add(Status(Phase.ENDED, cause))
        raise
    states.add(Status(Phase.ENDED))
    return value


class _Done(Generic[_T]):
    """What ``use`` returned when it was done."""

    def __init__(self, value: _T) -> None:
        self.value = value


async def _until_done(
    use: Callable[[_C], Awaitable[_T]], dial: Dial[_C], retries: Retries, states: States
) -> _T:
    cause: Exception | None = None
    while True:
        failures = retries.failures
        states.add(Status(Phase.CONNECTING, cause, failures))
        lasted = 0.0
        async with AsyncExitStack() as stack:
            try:
                channel = await stack.enter_async_context(dial())
            except FAILURES as error:
                outcome: _Done[_T] | Exception = error
            else:
                states.add(Status(Phase.OPEN, cause, failures))
                opened = trio.current_time()
                outcome = await _call(use, channel)
                lasted = trio.current_time() - opened
        if isinstance(outcome, _Done):
            return outcome.value
        cause = outcome
        delay = retries.failed(cause, lasted)
        states.add(Status(Phase.WAITING, cause, retries.failures, delay))
        await trio.sleep(delay)


async def _call(use: Callable[[_C], Awaitable[_T]], channel: _C) -> _Done[_T] | Exception:
    """Return what ``use`` returned, or the end of its connection."""
    try:
        value = await use(channel)
    except Exception as error:
        end = _end(channel, error)
        if end is None:
            raise
        return end
    if isinstance(channel, WebSocket) and channel.closed is not None:
        end = lifecycle_of(channel).send_error()
        if not isinstance(end, ConnectionClosedByUs):
            return end
    return _Done(value)


def _end(channel: trio.abc.AsyncResource, error: Exception) -> Exception | None:
    """Return the end of this connection that an exception stands for; None for another one."""
    if isinstance(error, ConnectionClosedByUs):
        return None  # used after the user's own aclose: a mistake
    if not isinstance(channel, WebSocket):
        if isinstance(error, ExceptionGroup):
            group = cast("ExceptionGroup[Exception]", error)
            return group if group.split(_ENDS)[1] is None else None
        return error if isinstance(error, _ENDS) else None
    life = lifecycle_of(channel)
    if not life.is_own_end(error):
        return None
    return error if isinstance(error, ConnectionEnded) else life.send_error()
