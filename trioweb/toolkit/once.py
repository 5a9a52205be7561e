"""`Once`: a call that is repeated with its key runs once, whichever connection it comes by."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable
from contextlib import suppress
from types import TracebackType
from typing import TypeAlias

import trio

from ..errors import CallError
from ..nursery import OwnNursery
from ..parking import Gate
from ..types import Message
from .wire import MSGPACK, Error, Result

__all__ = ["Once", "Run"]

#: Runs a method; its failure is an `Error`.
Method: TypeAlias = Callable[[], Awaitable[Result | Error]]


class Run:
    """One run of a method, for all who wait for it."""

    __slots__ = ("_done", "_finished", "_outcome", "_scope", "_waiting")

    def __init__(self, deadline: float) -> None:
        self._scope = trio.CancelScope(deadline=deadline)
        self._done = Gate()
        self._outcome: Message = b""
        #: When that was, on Trio's clock.
        self._finished = deadline
        self._waiting = 0

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
        if not self._waiting:
            self._scope.cancel()


class Once:
    """Keeps the results of calls by their keys, while its ``async with`` block lasts.

    A call with a key runs in the block's nursery, not in the connection's: it goes on when the
    link breaks, until its deadline, so that the call repeated on the next connection gets its result,
    be that a value or an error. A run that was cancelled by its caller, or whose time was up, is
    forgotten.

    It keeps at most ``count`` keys and ``size`` bytes of results, each for ``age`` seconds: longer
    than a client tries to come back. Beyond that the oldest result goes; where all are still
    running, a new key is answered "busy".
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

    async def __aenter__(self) -> Once:
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
        outcome: Result | Error = Error(id=1, code="cancelled", message="the method was cancelled")
        kept = False
        try:
            with run._scope:  # noqa: SLF001 - made here
                outcome = await method()
                kept = True
            if run._scope.cancelled_caught and run._scope.deadline <= trio.current_time():
                outcome = Error(id=1, code="timeout", message="the method took too long")
        finally:
            self._finish(key, run, outcome, kept=kept)
