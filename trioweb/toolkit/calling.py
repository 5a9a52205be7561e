"""The calls that we make: what is under way, and what ends it."""

from __future__ import annotations

from contextvars import ContextVar
from math import inf
from typing import Any, TypeAlias

import trio

from ..config import CallLimits
from ..errors import CallError, CallLost, CallTimeout
from ..parking import Gate
from .postbox import ENDED, Make, Postbox, Sent
from .streams import Items
from .wire import Call, Cancel, Error, Item, Malformed, More, Result

__all__ = ["Answer", "Calls", "Work", "work_of_task"]


class Work:
    """A method that runs for some peer."""

    __slots__ = ("is_over",)

    def __init__(self) -> None:
        self.is_over = False


#: The method that the running task works for. While it runs, the task never waits for a place
#: among the calls under way, since those may wait for what it does. A method may begin tasks that
#: outlive it.
work_of_task: ContextVar[Work | None] = ContextVar("work_of_task", default=None)


class Answer:
    """Where the answer to a call goes, and the task that waits for it."""

    __slots__ = ("_error", "_task", "_value")

    def __init__(self) -> None:
        self._task = trio.lowlevel.current_task()
        self._value: Any = None
        self._error: CallError | None = None

    async def wait(self, calls: Calls, id_: int) -> Any:
        """Return the value of a call that was sent in this step, or raise its error."""

        def give_up(_: Any) -> trio.lowlevel.Abort:
            calls.forget(id_)
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(give_up)
        if self._error is not None:
            raise self._error
        return self._value

    def finish(self, outcome: Any) -> None:
        """Wake the task with the value, or the `CallError`."""
        if isinstance(outcome, CallError):
            self._error = outcome
        else:
            self._value = outcome
        trio.lowlevel.reschedule(self._task)


_Waiting: TypeAlias = Answer | Items[Any]


class Calls:
    """The calls and streams of one peer's end that wait for their own."""

    def __init__(self, postbox: Postbox, limits: CallLimits) -> None:
        self._postbox = postbox
        #: One is taken for each call until its end has come, or its cancellation was sent.
        self._places = trio.Semaphore(limits.outgoing)
        self._last_id = 0
        self._waiting: dict[int, _Waiting] = {}
        #: Whether there will be no more answers, and why.
        self.ended = Gate()
        self._error: Exception | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    # --- what callers use --------------------------------------------------------------------

    async def send(
        self, method: str, params: object, key: str | None, window: int, waiting: _Waiting
    ) -> int:
        """Send a call when there is a place and room for it; return its id.

        The end will be given to ``waiting``. Raises `CallLost`, `CallError` "busy", `TypeError`.
        """
        await self._take_place()
        self._last_id = id_ = self._last_id + 1

        def make() -> Call:
            if self.ended.is_open:  # while this waited for room
                raise trio.ClosedResourceError
            left = trio.current_effective_deadline() - trio.current_time()
            return Call(id_, method, params, None if left == inf else max(0.0, left), key, window)

        def sent() -> None:
            self._waiting[id_] = waiting

        try:
            await self.put(make, sent)
        except BaseException:
            self._places.release()
            raise
        return id_

    async def put(self, make: Make, sent: Sent | None = None) -> None:
        """Send a message when there is room for it; raises `CallLost` at the end."""
        try:
            if self.ended.is_open:
                raise trio.ClosedResourceError
            await self._postbox.put(make, sent)
        except ENDED as error:
            raise CallLost(_why(self._error or error), sent=False) from self._error or error

    def allow_more(self, id_: int, items: Items[Any]) -> None:
        """Let the callee of a stream send as many items as have been taken."""
        items.asking = True

        def sent() -> None:
            items.allow(items.owed)
            items.asking = False

        self._postbox.post(lambda: More(id_, items.owed), sent)

    def forget(self, id_: int) -> None:
        """Give up a call, if its end has not come; its place is free once the peer is told."""
        if self._waiting.pop(id_, None) is not None:
            self._postbox.post(lambda: Cancel(id_), self._places.release)

    async def _take_place(self) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()
        try:
            self._places.acquire_nowait()
        except trio.WouldBlock:
            work = work_of_task.get()
            if work is not None and not work.is_over:
                raise CallError("busy", "too many calls at once, and some wait for this") from None
            await self._places.acquire()

    # --- what the reader calls ---------------------------------------------------------------

    def take_end(self, message: Result | Error) -> None:
        """Give the end of a call to whoever waits for it; it may come too late for that."""
        assert message.id is not None
        waiting = self._waiting.pop(message.id, None)
        if waiting is not None:
            self._places.release()
            waiting.finish(message.value if isinstance(message, Result) else _failure(message))

    def take_item(self, message: Item) -> None:
        """Give an item to its stream; raises `Malformed` for one that was not asked for."""
        items = self._waiting.get(message.id)
        if items is not None and not (isinstance(items, Items) and items.add(message.value)):
            raise Malformed(Error(code="invalid", message="an item too many"), message.id)

    def fail(self, id_: int, error: CallError) -> None:
        """End a call because of what the peer sent about it."""
        waiting = self._waiting.get(id_)
        if waiting is not None:
            self.forget(id_)
            waiting.finish(error)

    def end(self, error: Exception | None) -> None:
        """End all calls, because of the link's end or since the block is left."""
        if self.ended.is_open:
            return
        self._error = error
        self.ended.open()
        waiting, self._waiting = self._waiting, {}
        # Who waits for a place hears of it too, and each gives the place to the next.
        self._places.release()
        for one in waiting.values():
            lost = CallLost(_why(error), sent=True)
            lost.__cause__ = error
            one.finish(lost)


def _failure(message: Error) -> CallError:
    if message.code == "timeout":
        return CallTimeout(message.message)
    return CallError(message.code, message.message, path=message.path, data=message.data)


def _why(error: Exception | None) -> str:
    return str(error) if error is not None else "the link has ended"
