"""Work with a database connection that blocks: calls of many tasks, together in one transaction."""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Generic, TypeVar

import trio

from ..errors import StoreFailed

__all__ = ["Transactions"]

_T = TypeVar("_T")

#: Calls in one transaction.
_BATCH = 256


class _Job(Generic[_T]):
    """One call, and what came of it."""

    __slots__ = ("error", "leads", "results", "task", "work")

    def __init__(self, work: Callable[[sqlite3.Connection], _T]) -> None:
        self.work = work
        #: Who waits for its turn, and whether that is to lead.
        self.leads = False
        self.task: trio.lowlevel.Task | None = None
        self.results: list[_T] = []
        self.error: Exception | None = None

    def do(self, connection: sqlite3.Connection) -> None:
        self.results.append(self.work(connection))

    def result(self) -> _T:
        if self.error is not None or not self.results:
            raise StoreFailed(f"SQLite: {self.error or 'interrupted'}") from self.error
        return self.results[0]


class Transactions:
    """Does jobs with one connection, in one thread at a time, as many as wait in a transaction.

    The task of the first job of a batch leads: it starts the thread, and wakes the others. So
    there is no task while there is nothing to do.
    """

    def __init__(self, begin: str) -> None:
        self._begin = begin
        self._connection: sqlite3.Connection | None = None
        self._limiter = trio.CapacityLimiter(1)
        self._waiting: deque[_Job[Any]] = deque()
        self._leading = False
        self._idle: trio.Event | None = None

    async def open(self, connect: Callable[[], sqlite3.Connection]) -> None:
        """Connect, in a thread. Raises `trioweb.StoreFailed`."""
        try:
            self._connection = await self._in_thread(connect)
        except sqlite3.Error as error:
            raise StoreFailed(f"SQLite: {error}") from error

    async def aclose(self) -> None:
        """Take no more work, finish what there is, and close the connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with trio.CancelScope(shield=True):
                if self._leading:
                    self._idle = trio.Event()
                    await self._idle.wait()
                await self._in_thread(connection.close)
        await trio.lowlevel.checkpoint()

    async def run(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        """Do some work with the connection inside a transaction, and return what it returns.

        Cancelled means not done: from the moment at which the transaction begins the outcome
        is waited for. Raises `trioweb.StoreFailed` where the transaction failed.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        connection = self._connection
        if connection is None:
            raise trio.ClosedResourceError("the store is closed")
        job = _Job(work)
        self._waiting.append(job)
        if not self._leading or await self._turn(job):
            await self._lead(connection)
        return job.result()

    async def _turn(self, job: _Job[Any]) -> bool:
        """Wait until a job is done, which is False, or the first of the next batch."""

        def abort(_: object) -> trio.lowlevel.Abort:
            if job not in self._waiting:  # it is being done: what comes of it will be known
                return trio.lowlevel.Abort.FAILED
            self._waiting.remove(job)
            return trio.lowlevel.Abort.SUCCEEDED

        job.task = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(abort)
        return job.leads

    async def _lead(self, connection: sqlite3.Connection) -> None:
        self._leading = True
        batch = [self._waiting.popleft() for _ in range(min(_BATCH, len(self._waiting)))]
        try:
            with trio.CancelScope(shield=True):
                await self._in_thread(partial(self._do, connection, batch))
        finally:
            for job in batch[1:]:
                _wake(job, leads=False)
            if self._waiting:
                _wake(self._waiting[0], leads=True)
            else:
                self._leading = False
                if self._idle is not None:
                    self._idle.set()

    def _do(self, connection: sqlite3.Connection, batch: list[_Job[Any]]) -> None:
        """Do a batch, all of it or nothing; in the thread."""
        try:
            connection.execute(self._begin)
            try:
                for job in batch:
                    job.do(connection)
                connection.execute("COMMIT")
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
        except sqlite3.Error as error:
            for job in batch:
                job.error = error

    async def _in_thread(self, function: Callable[[], _T]) -> _T:
        return await trio.to_thread.run_sync(function, limiter=self._limiter)


def _wake(job: _Job[Any], *, leads: bool) -> None:
    assert job.task is not None
    job.leads = leads
    trio.lowlevel.reschedule(job.task)
