"""Tasks that outlive the block which started them: `no_orphans` finds and names them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection
from contextlib import asynccontextmanager

import trio
import trio.testing

from .tasks import running_tasks, where

__all__ = ["OrphanTasks", "no_orphans"]

#: Turns of the run in which everything must come to rest. A turn runs each runnable task once, so
#: this is far more than any ending takes, and a task that never blocks is found in less than 1 s.
_TURNS = 10_000

#: System tasks that Trio starts for itself when they are first needed: those with names of their
#: own, ``<...>``, and those that read for DTLS and wait for processes.
_TRIOS_OWN = ("<", "trio._dtls.", "trio._subprocess_platform.")


class OrphanTasks(AssertionError):
    """A block has ended, and tasks that it started run on. The message names each of them."""


@asynccontextmanager
async def no_orphans() -> AsyncGenerator[None]:
    """Fail if a task that was started during the block is still there after it.

    A normal end of the block waits, without moving a virtual clock, until every task is blocked,
    and raises `OrphanTasks` if one of them was not there at the beginning, wherever it was
    started: a system task counts too. What the block raises comes out as it is, unchecked.

    Tasks in nurseries that the calling task had open before the block are no orphans: those
    nurseries end them, or wait for them, in their own time.
    """
    # Among these is the one that pytest-trio opens around a test and hands out as the `nursery`
    # fixture. It is cancelled when the test ends, which is after this block.
    spared = trio.lowlevel.current_task().child_nurseries
    before = set(running_tasks(spared))
    yield
    at_rest = await _settle()
    orphans = [
        task for task in running_tasks(spared) if task not in before and not _belongs_to_trio(task)
    ]
    if orphans:
        raise OrphanTasks(_complaint(orphans, at_rest=at_rest))


class _Patience(trio.abc.Instrument):
    """Cancels a scope after a number of turns of the run.

    A task that counted them would itself keep the run from coming to rest.
    """

    def __init__(self, scope: trio.CancelScope) -> None:
        self._scope = scope
        self._left = _TURNS

    def before_io_wait(self, timeout: float) -> None:  # noqa: ARG002 - Trio's signature
        self._left -= 1
        if not self._left:
            self._scope.cancel()


async def _settle() -> bool:
    """Wait until every task is blocked; return whether that came about in time."""
    with trio.CancelScope() as scope:
        patience = _Patience(scope)
        trio.lowlevel.add_instrument(patience)
        try:
            await trio.testing.wait_all_tasks_blocked()
        finally:
            trio.lowlevel.remove_instrument(patience)
    return not scope.cancelled_caught


def _belongs_to_trio(task: trio.lowlevel.Task) -> bool:
    nursery = task.parent_nursery
    is_system_task = nursery is not None and nursery.parent_task.parent_nursery is None
    return is_system_task and task.name.startswith(_TRIOS_OWN)


def _complaint(orphans: Collection[trio.lowlevel.Task], *, at_rest: bool) -> str:
    left = "1 task is" if len(orphans) == 1 else f"{len(orphans)} tasks are"
    unrest = "" if at_rest else f" (and not everything is at rest after {_TURNS} turns)"
    # Trio keeps tasks in sets: sorted, so that the same tasks make the same message.
    return "\n  ".join([f"{left} left running{unrest}:", *sorted(map(where, orphans))])
