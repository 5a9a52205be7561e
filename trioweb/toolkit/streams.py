"""Streamed results: the items at the caller's end, the credit at the callee's."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import trio

from ..errors import CallError
from ..parking import Parking
from .wire import convert

__all__ = ["Credit", "Items"]

_T = TypeVar("_T")


class Items(Generic[_T]):
    """The items of a streamed result, for ``async for``; made by `Peer.stream`.

    So many items as the window has may wait here or be under way; as they are taken, the callee
    may send more. One task at a time may iterate. After the end ``result`` is what the method
    returned, as a rule None.
    """

    def __init__(self, kind: Any, window: int) -> None:
        self._kind = kind
        self._window = window
        #: Tells the callee that it may send more.
        self.more: Callable[[], None] | None = None
        #: Whether that is still under way.
        self.asking = False
        self._items: deque[Any] = deque()
        #: Items that the callee may still send.
        self._credit = window
        self._waiting = Parking()
        self._iterating = False
        self._error: CallError | None = None
        #: Whether no more items come.
        self.ended = False
        #: What the method returned at the end.
        self.result: Any = None

    def __aiter__(self) -> Items[_T]:
        return self

    async def __anext__(self) -> _T:
        """Return the next item.

        Raises `CallError`, the callee's, or "invalid-result" for an item of another type;
        `CallLost` at the link's end; `trio.BusyResourceError` if another task is iterating.
        """
        await trio.lowlevel.checkpoint()
        if not self._items and not self.ended:
            if self._iterating:
                raise trio.BusyResourceError("another task is iterating over this stream")
            self._iterating = True
            try:
                while not self._items and not self.ended:
                    await self._waiting.park()
            finally:
                self._iterating = False
        if self._items:
            item = self._items.popleft()
            if not (self.ended or self.asking) and self.owed * 2 >= self._window:
                assert self.more is not None
                self.more()
            value: _T = read(item, self._kind)
            return value
        if self._error is not None:
            raise self._error
        raise StopAsyncIteration

    @property
    def owed(self) -> int:
        """How many more items the callee may be allowed."""
        return self._window - self._credit - len(self._items)

    def allow(self, count: int) -> None:
        """Note that the callee has been told of so many more items."""
        self._credit += count

    def add(self, item: Any) -> bool:
        """Take an item that came; return False if the callee may not send it."""
        if not self._credit:
            return False
        self._credit -= 1
        self._items.append(item)
        self._waiting.unpark_all()
        return True

    def finish(self, outcome: Any) -> None:
        """Note the end: what the method returned, or the `CallError` it failed with."""
        self.ended = True
        if isinstance(outcome, CallError):
            self._error = outcome
        else:
            self.result = outcome
        self._waiting.unpark_all()


class Credit:
    """How many items the callee may still send."""

    __slots__ = ("_left", "_waiting")

    def __init__(self, left: int) -> None:
        self._left = left
        self._waiting = Parking()

    def add(self, count: int) -> None:
        """Allow so many more."""
        self._left += count
        self._waiting.unpark_all()

    async def spend(self) -> None:
        """Wait until one more may be sent, and count it."""
        while not self._left:
            await self._waiting.park()
        self._left -= 1


def read(value: Any, kind: Any) -> Any:
    """Return what a peer answered as a type; raises `CallError` "invalid-result"."""
    if kind is Any:
        return value
    try:
        return convert(value, kind)
    except ValueError as error:
        path = getattr(error, "path", None)
        raise CallError("invalid-result", str(error), path=path) from error
