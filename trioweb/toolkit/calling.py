"""`Peer`: the other end of a link, to be called, notified, and asked for streams."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from functools import partial
from math import inf
from typing import Any, TypeAlias, TypeVar, overload

import trio

from ..config import CallLimits
from ..errors import CallError, CallLost, CallTimeout
from ..parking import Gate
from .attach import Link
from .postbox import ENDED, Make, Postbox, Sent
from .streams import Items, read
from .wire import Call, Cancel, Error, Item, Malformed, More, Notify, Result

__all__ = ["Peer", "PeerStatistics", "Tally", "failure", "inside_method"]

_T = TypeVar("_T")

#: Whether the running task works for a call of some peer's. It never waits for a place among the
#: calls under way, since those may wait for what it does.
inside_method: ContextVar[bool] = ContextVar("inside_method", default=False)


class _Answer:
    """Where the answer to a call goes, and who waits for it."""

    __slots__ = ("error", "task", "value")

    def __init__(self) -> None:
        self.task = trio.lowlevel.current_task()
        self.value: Any = None
        self.error: CallError | None = None

    def finish(self, outcome: Any) -> None:
        """Wake the task with the value, or the `CallError`."""
        if isinstance(outcome, CallError):
            self.error = outcome
        else:
            self.value = outcome
        trio.lowlevel.reschedule(self.task)


_Waiting: TypeAlias = _Answer | Items[Any]


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

    def __init__(self, link: Link, postbox: Postbox, limits: CallLimits) -> None:
        #: The link, for whoever sends events to it.
        self.link = link
        self._postbox = postbox
        self._limits = limits
        #: What the other parts count here.
        self.tally = Tally()
        #: One is taken for each call until its end has come, or its cancellation was sent.
        self._places = trio.Semaphore(limits.outgoing)
        self._last_id = 0
        self._waiting: dict[int, _Waiting] = {}
        self._ended = Gate()
        self._error: Exception | None = None

    @property
    def principal(self) -> Any:
        """Who is at the other end, as far as the link knows."""
        return self.link.principal

    @property
    def ended(self) -> bool:
        """Whether it is over: the link has ended, or the block was left."""
        return self._ended.is_open

    async def wait_ended(self) -> None:
        """Wait until it is over. Returns also where the link broke."""
        await trio.lowlevel.checkpoint()
        await self._ended.wait()

    # --- what users call ---------------------------------------------------------------------

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
        await self._put(lambda: Notify(method, params))

    def statistics(self) -> PeerStatistics:
        """Return the counts as they are now."""
        return PeerStatistics(outgoing=len(self._waiting), **asdict(self.tally))

    # --- calls -------------------------------------------------------------------------------

    async def _call(self, method: str, params: object, key: str | None) -> Any:
        await self._take_place()
        answer = _Answer()
        id_ = await self._send_call(method, params, key, 0, answer)

        def give_up(_: Any) -> trio.lowlevel.Abort:
            self._forget(id_)
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(give_up)
        if answer.error is not None:
            raise answer.error
        return answer.value

    @asynccontextmanager
    async def _stream(
        self, method: str, params: object, kind: Any, window: int, seconds: float
    ) -> AsyncGenerator[Items[Any]]:
        with trio.move_on_after(seconds) as scope:
            await self._take_place()
            items = Items[Any](kind, window)
            id_ = await self._send_call(method, params, None, window, items)
            items.more = partial(self._allow_more, id_, items)
            try:
                yield items
            finally:
                self._forget(id_)
        if scope.cancelled_caught:
            raise _too_late(method, seconds)

    async def _take_place(self) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()
        try:
            self._places.acquire_nowait()
        except trio.WouldBlock:
            if inside_method.get():
                raise CallError("busy", "too many calls at once, and some wait for this") from None
            await self._places.acquire()

    async def _send_call(
        self, method: str, params: object, key: str | None, window: int, waiting: _Waiting
    ) -> int:
        self._last_id = id_ = self._last_id + 1

        def make() -> Call:
            if self.ended:  # while this waited for room
                raise trio.ClosedResourceError
            left = trio.current_effective_deadline() - trio.current_time()
            return Call(id_, method, params, None if left == inf else max(0.0, left), key, window)

        def sent() -> None:
            self._waiting[id_] = waiting

        try:
            await self._put(make, sent)
        except BaseException:
            self._places.release()
            raise
        return id_

    async def _put(self, make: Make, sent: Sent | None = None) -> None:
        try:
            if self.ended:
                raise trio.ClosedResourceError
            await self._postbox.put(make, sent)
        except ENDED as error:
            raise CallLost(_why(self._error or error), sent=False) from error

    def _allow_more(self, id_: int, items: Items[Any]) -> None:
        items.asking = True

        def sent() -> None:
            items.allow(items.owed)
            items.asking = False

        self._postbox.post(lambda: More(id_, items.owed), sent)

    def _forget(self, id_: int) -> None:
        """Give up a call whose end has not come; its place is free once the peer is told."""
        if self._waiting.pop(id_, None) is not None:
            self._postbox.post(lambda: Cancel(id_), self._places.release)

    # --- what the reader calls ---------------------------------------------------------------

    def take_end(self, message: Result | Error) -> None:
        """Give the end of a call to whoever waits for it; it may come too late for that."""
        assert message.id is not None
        waiting = self._waiting.pop(message.id, None)
        if waiting is not None:
            self._places.release()
            waiting.finish(message.value if isinstance(message, Result) else failure(message))

    def take_item(self, message: Item) -> None:
        """Give an item to its stream; raises `Malformed` for one that was not asked for."""
        items = self._waiting.get(message.id)
        if items is not None and not (isinstance(items, Items) and items.add(message.value)):
            raise Malformed(Error(code="invalid", message="an item too many"), message.id)

    def fail(self, id_: int, error: CallError) -> None:
        """End a call because of what the peer sent about it."""
        waiting = self._waiting.get(id_)
        if waiting is not None:
            self._forget(id_)
            waiting.finish(error)

    def end(self, error: Exception | None) -> None:
        """End all calls, because of the link's end or since the block is left."""
        if self.ended:
            return
        self._error = error
        self._ended.open()
        waiting, self._waiting = self._waiting, {}
        # Who waits for a place hears of it too, and each gives the place to the next.
        self._places.release()
        for one in waiting.values():
            lost = CallLost(_why(error), sent=True)
            lost.__cause__ = error
            one.finish(lost)


def failure(message: Error) -> CallError:
    """Return the exception for an `Error` of a call."""
    if message.code == "timeout":
        return CallTimeout(message.message)
    return CallError(message.code, message.message, path=message.path, data=message.data)


def _too_late(method: str, seconds: float) -> CallTimeout:
    return CallTimeout(f"{method} took more than {seconds} s")


def _why(error: Exception | None) -> str:
    return str(error) if error is not None else "the peer is over"
