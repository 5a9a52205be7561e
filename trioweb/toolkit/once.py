"""`Once`: a call that is repeated with its key runs once, whichever connection it comes by."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Hashable
from types import TracebackType
from typing import Self, TypeAlias

import trio

from ..errors import CallError
from ..nursery import OwnNursery
from ..parking import Gate
from ..types import Message
from .wire import JSON, MSGPACK, Error, Result

__all__ = ["Once", "Run"]

logger = logging.getLogger("trioweb.rpc")

#: Runs a method; its failure is an `Error`.
Method: TypeAlias = Callable[[], Awaitable[Result | Error]]


def _written(outcome: Result | Error) -> Message:
    try:
        return MSGPACK.encode(outcome)
    except TypeError:  # perhaps an integer beyond 64 bits, which JSON has
        return JSON.encode(outcome)


class Run:
    """One run of a method, for all who wait for it."""

    __slots__ = ("_done", "_outcome", "_waiting", "finished", "given_up", "scope")

    def __init__(self, deadline: float) -> None:
        self.scope = trio.CancelScope(deadline=deadline)
        #: When the outcome was there, on Trio's clock.
        self.finished = deadline
        #: Whether it was cancelled since nobody waited for it: who comes now begins another one.
        self.given_up = False
        self._done = Gate()
        self._outcome: Message = b""
        self._waiting = 0

    @property
    def size(self) -> int:
        """Bytes of the outcome."""
        return len(self._outcome)

    def finish(self, outcome: Result | Error) -> None:
        """Keep the outcome as bytes, and wake those who wait for it."""
        try:
            self._outcome = _written(outcome)
        except TypeError:
            logger.exception("the result of a method cannot be sent")
            self._outcome = MSGPACK.encode(Error(id=1, code="internal"))
        self.finished = trio.current_time()
        self._done.open()

    async def wait(self) -> Result | Error:
        """Wait for the outcome; each call returns one of its own."""
        self._waiting += 1
        try:
            await self._done.wait()
        finally:
            self._waiting -= 1
        outcome = MSGPACK.decode(self._outcome)
        assert isinstance(outcome, (Result, Error))
        return outcome

    def give_up(self) -> None:
        """Cancel the run, if nobody else waits for it."""
        if not (self._waiting or self._done.is_open):
            self.given_up = True
            self.scope.cancel()


class Once:
    """Keeps the results of calls by their keys, while its ``async with`` block lasts.

    A call with a key runs in the block's nursery, not in the connection's: it goes on when the
    link breaks, until its deadline, so that the call repeated on the next connection gets its
    result, be that a value or an error. A key is that of its principal, which must be hashable;
    peers without one share theirs, so keys must be beyond guessing. A run that was cancelled by
    its caller, or whose time was up, is forgotten.

    It keeps at most ``count`` keys and ``size`` bytes of results, each for ``age`` seconds: longer
    than a client tries to come back. Beyond that the oldest result goes; where all are still
    running, a new key is answered "busy". That is for all principals together: where they are
    strangers, bound how often each may call.
    """

    def __init__(self, *, count: int = 10_000, size: int = 2**24, age: float = 600) -> None:
        for name, value in (("count", count), ("size", size), ("age", age)):
            if not value > 0:
                raise ValueError(f"Once: {name} must be positive, not {value!r}")
        self._count = count
        self._size = size
        self._age = age
        self._manager = OwnNursery()
        self._nursery: trio.Nursery | None = None
        self._running: dict[Hashable, Run] = {}
        #: The oldest first.
        self._finished: dict[Hashable, Run] = {}
        self._held = 0

    async def __aenter__(self) -> Self:
        self._nursery = await self._manager.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._nursery = None
        await self._manager.__aexit__(kind, error, traceback)

    def __len__(self) -> int:
        return len(self._running) + len(self._finished)

    def run(self, key: Hashable, method: Method, deadline: float) -> Run:
        """Return the run of a key, which begins now if there is none.

        ``deadline`` is the caller's; whoever asks later shares it. Raises `CallError`: "busy", or
        "cancelled" after the block.
        """
        self._expire()
        found = self._running.get(key) or self._finished.get(key)
        if found is not None:
            return found
        if self._nursery is None:
            raise CallError("cancelled", "calls with a key are no longer taken")
        if len(self._running) >= self._count:
            raise CallError("busy", "too many calls with a key at once")
        run = self._running[key] = Run(deadline)
        self._make_room()
        self._nursery.start_soon(self._run, key, run, method, name="call with a key")
        return run

    async def _run(self, key: Hashable, run: Run, method: Method) -> None:
        outcome: Result | Error | None = None
        try:
            with run.scope:
                outcome = await method()
        finally:
            kept = outcome is not None
            if outcome is None:
                late = run.scope.cancelled_caught and run.scope.deadline <= trio.current_time()
                outcome = Error(id=1, code="timeout" if late else "cancelled")
            self._finish(key, run, outcome, kept=kept)

    def _finish(self, key: Hashable, run: Run, outcome: Result | Error, *, kept: bool) -> None:
        del self._running[key]
        if kept:
            run.given_up = False
        run.finish(outcome)
        if kept:
            self._finished[key] = run
            self._held += run.size
            self._make_room()

    def _expire(self) -> None:
        """Forget the results that are too old."""
        before = trio.current_time() - self._age
        while self._finished and self._oldest().finished <= before:
            self._forget_oldest()

    def _make_room(self) -> None:
        # The newest stays, however large it is: it is the one that may be asked for.
        while self._finished and (
            len(self) > self._count or (self._held > self._size and len(self._finished) > 1)
        ):
            self._forget_oldest()

    def _oldest(self) -> Run:
        return next(iter(self._finished.values()))

    def _forget_oldest(self) -> None:
        key = next(iter(self._finished))
        self._held -= self._finished.pop(key).size
