"""Cancel a call at each of its checkpoints in turn, and count what tasks do.

A *step* of a task is what it does between two turns of the scheduler, as in
`trio.abc.Instrument.after_task_step`: it ends at a checkpoint that lets others run, or waits. A
call that makes five steps can be cancelled in six places: before it, and where each step ends.
Whether it leaves everything whole in all of them, `at_every_step` finds out::

    async def scenario(step: int) -> bool:
        got = []

        async def receive() -> None:
            got.append(await client.receive())

        async with open_pair() as (client, server, _):
            await server.send("hello")
            cancelled = await cancelled_at(step, receive)
            if cancelled:
                await receive()
        assert got == ["hello"]
        return cancelled


    await at_every_step(scenario)
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Self, TypeVarTuple

import trio

__all__ = ["CountSteps", "at_every_step", "cancelled_at"]

_Ts = TypeVarTuple("_Ts")


class CountSteps(trio.abc.Instrument):
    """Counts steps while its ``with`` block runs: of one task, or of all when none is given.

    To show that nothing polls while a program is idle, or that a call runs a checkpoint::

        with CountSteps() as counted:
            await trio.sleep(3600)
        assert counted.steps <= 2  # this task went to sleep, and was woken
    """

    def __init__(self, task: trio.lowlevel.Task | None = None) -> None:
        #: How many steps there were up to now.
        self.steps = 0
        self._task = task

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        """Count a step; Trio calls this."""
        if self._task is None or task is self._task:
            self.steps += 1

    def __enter__(self) -> Self:
        trio.lowlevel.add_instrument(self)
        return self

    def __exit__(self, *_: object) -> None:
        trio.lowlevel.remove_instrument(self)


class _CancelAfter(CountSteps):
    """Cancels a scope when the running task has made so many steps."""

    def __init__(self, steps: int, scope: trio.CancelScope) -> None:
        super().__init__(trio.lowlevel.current_task())
        self._last = steps
        self._scope = scope

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        super().after_task_step(task)
        if self.steps == self._last:
            self._scope.cancel()


async def cancelled_at(
    step: int, async_fn: Callable[[*_Ts], Awaitable[object]], *args: *_Ts
) -> bool:
    """Call ``async_fn(*args)``, and cancel it where its task ends the step of that number.

    Step 1 is the first; 0 stands for cancelled before the call, which the first checkpoint
    delivers. Tasks that the call starts are cancelled with it, but their steps are not counted.

    Returns whether `trio.Cancelled` came out of the call and was caught here: False means that
    the call was done before, or had no checkpoint after. What else it raises comes out. Raises
    `ValueError` for a step below 0.
    """
    if step < 0:
        raise ValueError(f"a step is 0 or more, not {step}")
    with trio.CancelScope() as scope:
        if step == 0:
            scope.cancel()
        with _CancelAfter(step, scope):
            await async_fn(*args)
    return scope.cancelled_caught


async def at_every_step(
    scenario: Callable[[int], Awaitable[bool]],
    *,
    max_steps: int = 1000,
    max_seconds: float = 3600,
) -> int:
    """Run ``scenario(step)`` with step 0, 1, 2 and so on, until nothing is cancelled any more.

    A scenario sets everything up afresh, makes the call under test by `cancelled_at`, checks
    what that left behind, and returns what `cancelled_at` returned. Returns how many steps
    cancelled the call, the 0 included: compare it with what you expect, so that a call which
    lost its checkpoints is noticed.

    What a scenario raises carries a note with its step. Raises `AssertionError`, which names the
    scenario, if the call was not even cancelled at step 0, is not done after ``max_steps``, or if
    a run of the scenario takes longer than ``max_seconds`` on Trio's clock: after a wake-up
    that got lost, say. The default is long for every test, and no time at all on a
    `trio.testing.MockClock`.
    """
    name = getattr(scenario, "__qualname__", repr(scenario))
    step = 0
    while await _run(scenario, name, step, max_seconds):
        step += 1
        if step == max_steps:
            raise AssertionError(f"{name}: the call is not over after {max_steps} steps")
    if step == 0:
        raise AssertionError(
            f"{name}: cancelled at step 0, the call went through: it has no checkpoint, "
            "or is not made by cancelled_at"
        )
    return step


async def _run(
    scenario: Callable[[int], Awaitable[bool]], name: str, step: int, max_seconds: float
) -> bool:
    with trio.move_on_after(max_seconds):
        try:
            return await scenario(step)
        except BaseException as error:
            error.add_note(f"trioweb.testing: this was {name} at step {step}")
            raise
    raise AssertionError(f"{name} at step {step} is not over after {max_seconds} seconds")
