"""One seed for a whole run: Trio's task order, and the clock that jumps.

The only file that touches Trio's private parts. Trio shuffles the tasks of each turn with a random
source of its own, and starts from an order that differs between runs unless a flag is set; both
are private, so `check_trio` fails loudly when a new Trio has moved them.
"""

from __future__ import annotations

import contextlib
import math
import random
from collections.abc import Awaitable, Callable, Generator, Sequence
from typing import Any, TypeVar, TypeVarTuple

import trio
import trio.testing

from .tasks import running_tasks, where

__all__ = ["Deadlock", "check_trio", "deterministic", "run"]

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")

_scheduler: Any = getattr(trio._core, "_run", None)  # noqa: SLF001 - see above
_SOURCE = "_r"
_FLAG = "_ALLOW_DETERMINISTIC_SCHEDULING"

#: Turns of a run in which nothing happens and nothing is due: half a second, in which a thread
#: that the run should not have might still come back.
_PATIENCE = 100_000


class Deadlock(RuntimeError):
    """Every task waits, and no deadline will wake one. The message names the tasks."""


def check_trio() -> None:
    """Raise `RuntimeError` unless Trio's task order can still be fixed by a seed."""
    kinds = {_SOURCE: random.Random, _FLAG: bool}
    found = {name: getattr(_scheduler, name, None) for name in kinds}
    missing = [name for name, kind in kinds.items() if not isinstance(found[name], kind)]
    if missing:
        raise RuntimeError(
            f"trio {trio.__version__} has no {' and no '.join(missing)} any more: "
            "the order of its tasks cannot be fixed"
        )


@contextlib.contextmanager
def deterministic(seed: int) -> Generator[None]:
    """Let every `trio.run` in the block take its tasks in an order that the seed fixes.

    Starting a second run in the same block goes on in the sequence of the first. The state of
    before comes back at the end.
    """
    check_trio()
    source: random.Random = getattr(_scheduler, _SOURCE)
    before = source.getstate(), getattr(_scheduler, _FLAG)
    source.seed(seed)
    setattr(_scheduler, _FLAG, True)
    try:
        yield
    finally:
        source.setstate(before[0])
        setattr(_scheduler, _FLAG, before[1])


def run(
    async_fn: Callable[[*_Ts], Awaitable[_T]],
    *args: *_Ts,
    seed: int,
    instruments: Sequence[trio.abc.Instrument] = (),
) -> _T:
    """Run as `trio.run` does: tasks in the seed's order, on a clock that starts at 0 and jumps.

    What the function raises carries a note with the seed; `Deadlock` is raised when all wait for
    nothing. The same seed gives the same run, as long as the function reaches nothing but a
    `VirtualNetwork` of a fixed seed: no sockets, no threads, no other source of chance.
    """
    clock = trio.testing.MockClock(autojump_threshold=0)
    watch = _Watch()

    async def watched() -> _T:
        with watch.scope:
            return await async_fn(*args)
        raise Deadlock(watch.complaint)

    with deterministic(seed):
        try:
            return trio.run(watched, clock=clock, instruments=(watch, *instruments))
        except BaseException as error:
            error.add_note(f"trioweb.testing: this was seed {seed}")
            raise


class _Watch(trio.abc.Instrument):
    """Cancels a run in which nothing happens any more."""

    def __init__(self) -> None:
        self.scope = trio.CancelScope()
        self.complaint = ""
        self._idle = 0

    def after_task_step(self, task: trio.lowlevel.Task) -> None:  # noqa: ARG002 - Trio's signature
        self._idle = 0

    def before_io_wait(self, timeout: float) -> None:  # noqa: ARG002 - see above
        self._idle += 1
        if self._idle >= _PATIENCE:
            self._idle = 0
            if trio.lowlevel.current_statistics().seconds_to_next_deadline == math.inf:
                waiting = [where(task) for task in running_tasks() if not task.name.startswith("<")]
                self.complaint = "\n  ".join(["all wait, and no deadline is set:", *waiting])
                self.scope.cancel()
