"""`Peer`: the other end of a link, to be called, notified, and asked for streams."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import Any, TypeVar, overload

import trio

from ..config import CallLimits
from ..errors import CallTimeout
from .attach import Link
from .calling import Answer, Calls
from .streams import Items, read
from .wire import Format, Notify

__all__ = ["Peer", "PeerStatistics", "Tally"]

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class PeerStatistics:
    """A snapshot of one peer: what is under way now, and counts since it was opened."""

    #: Calls and streams of ours that wait for their end.
    outgoing: int
    #: Methods of ours that run for the peer.
    incoming: int
    #: Calls of the peer's that were taken, notifications included.
    taken: int
    #: Calls of the peer's that were not: "busy", "unknown-method".
    refused: int
    #: Notifications that were left out, for as many methods ran as may.
    dropped: int
    #: Methods that failed with what is no `CallError`; each is in the log.
    failed: int
    #: Messages that did not follow the protocol.
    malformed: int


@dataclass(slots=True)
class Tally:
    """The counts behind `PeerStatistics`."""

    incoming: int = 0
    taken: int = 0
    refused: int = 0
    dropped: int = 0
    failed: int = 0
    malformed: int = 0


class Peer:
    """The other end of a link. Made by `open_peer` and `serve_peer`.

    Any number of tasks may call, notify and stream at the same time. No deadline but the caller's:
    each call runs under the cancel scopes around it, and what time those leave travels with it.
    Cancelling a call cancels the method at the peer, without waiting for that.
    """

    def __init__(
        self, link: Link, format_: Format, calls: Calls, limits: CallLimits, tally: Tally
    ) -> None:
        #: The link, for whoever sends events to it, and the format in which we write to it.
        self.link = link
        self.format = format_
        self._calls = calls
        self._limits = limits
        self._tally = tally

    @property
    def principal(self) -> Any:
        """Who is at the other end, as far as the link knows."""
        return self.link.principal

    @property
    def ended(self) -> bool:
        """Whether it is over: the link has ended, or the block was left."""
        return self._calls.ended.is_open

    async def wait_ended(self) -> None:
        """Wait until it is over. Returns also where the link broke."""
        await trio.lowlevel.checkpoint()
        await self._calls.ended.wait()

    @overload
    async def call(
        self,
        method: str,
        params: object = None,
        *,
        result: type[_T],
        timeout: float | None = None,  # noqa: ASYNC109 - it travels
        key: str | None = None,
    ) -> _T: ...
    @overload
    async def call(
        self,
        method: str,
        params: object = None,
        *,
        result: Any = Any,
        timeout: float | None = None,  # noqa: ASYNC109 - it travels
        key: str | None = None,
    ) -> Any: ...
    async def call(
        self,
        method: str,
        params: object = None,
        *,
        result: Any = Any,
        timeout: float | None = None,  # noqa: ASYNC109 - it travels
        key: str | None = None,
    ) -> Any:
        """Run a method at the peer and return its result, as the type ``result``.

        ``timeout`` is in seconds; None leaves it to the cancel scopes around. With a ``key``, a
        random text of at most 200 characters, the method runs once however often the call is
        repeated, on this link or another of the same principal's. Waits for a place among
        `CallLimits.outgoing`, and for room in the link.

        Raises `CallTimeout` after ``timeout`` seconds, or if the peer's clock was first; `CallLost`
        if the link ends before the answer; `CallError` with the code of the peer's, "busy" in a
        method that would have to wait for a place, "invalid-result" if the result has another type;
        `TypeError` if the params cannot be encoded.
        """
        if timeout is None:
            return read(await self._call(method, params, key), result)
        with trio.move_on_after(timeout):
            return read(await self._call(method, params, key), result)
        raise _too_late(method, timeout)

    @overload
    def stream(
        self,
        method: str,
        params: object = None,
        *,
        item: type[_T],
        window: int | None = None,
        timeout: float | None = None,
    ) -> AbstractAsyncContextManager[Items[_T]]: ...
    @overload
    def stream(
        self,
        method: str,
        params: object = None,
        *,
        item: Any = Any,
        window: int | None = None,
        timeout: float | None = None,
    ) -> AbstractAsyncContextManager[Items[Any]]: ...
    def stream(
        self,
        method: str,
        params: object = None,
        *,
        item: Any = Any,
        window: int | None = None,
        timeout: float | None = None,
    ) -> AbstractAsyncContextManager[Items[Any]]:
        """Run a method that streams, for the length of an ``async with`` block, which gets `Items`.

        At most ``window`` items (`CallLimits.window`) are under way or unread: a slow reader stops
        the method. Leaving the block early cancels the method. ``timeout`` is for the whole block.
        The block and the iteration raise as `call` does.
        """
        if window is None:
            window = self._limits.window
        elif window < 1:
            raise ValueError(f"window must be at least 1, not {window}")
        return self._stream(method, params, item, window, inf if timeout is None else timeout)

    async def notify(self, method: str, params: object = None) -> None:
        """Run a method at the peer without an answer; nobody tells if that fails.

        Waits for room in the link. Raises `CallLost` at the link's end, and `TypeError`.
        """
        await trio.lowlevel.checkpoint()
        await self._calls.put(lambda: Notify(method, params))

    def statistics(self) -> PeerStatistics:
        """Return the counts as they are now."""
        tally = self._tally
        return PeerStatistics(
            outgoing=len(self._calls),
            incoming=tally.incoming,
            taken=tally.taken,
            refused=tally.refused,
            dropped=tally.dropped,
            failed=tally.failed,
            malformed=tally.malformed,
        )

    async def _call(self, method: str, params: object, key: str | None) -> Any:
        answer = Answer()
        id_ = await self._calls.send(method, params, key, 0, answer)
        return await answer.wait(self._calls, id_)

    @asynccontextmanager
    async def _stream(
        self, method: str, params: object, kind: Any, window: int, seconds: float
    ) -> AsyncGenerator[Items[Any]]:
        with trio.move_on_after(seconds) as scope:
            items = Items[Any](kind, window)
            id_ = await self._calls.send(method, params, None, window, items)
            items.more = partial(self._calls.allow_more, id_, items)
            try:
                yield items
            finally:
                self._calls.forget(id_)
        if scope.cancelled_caught:
            raise _too_late(method, seconds)


def _too_late(method: str, seconds: float) -> CallTimeout:
    return CallTimeout(f"{method} took more than {seconds} s")
