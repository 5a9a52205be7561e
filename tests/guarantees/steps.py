"""Cancel a call at each of its steps in turn: a Trio Instrument counts them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Self

import trio

Call = Callable[[], Awaitable[object]]


class _CancelAfterSteps(trio.abc.Instrument):
    def __init__(self, scope: trio.CancelScope, steps: int) -> None:
        self._scope = scope
        self._left = steps
        self._task = trio.lowlevel.current_task()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is self._task:
            self._left -= 1
            if self._left == 0:
                self._scope.cancel()


async def cancelled_at(step: int, call: Call) -> bool:
    """Run a call, cancelled when its task has made so many steps; 0 is before the call.

    Returns whether that cancelled it: False means that it was done before.
    """
    with trio.CancelScope() as scope:
        if step == 0:
            scope.cancel()
        instrument = _CancelAfterSteps(scope, step)
        trio.lowlevel.add_instrument(instrument)
        try:
            await call()
        finally:
            trio.lowlevel.remove_instrument(instrument)
    return scope.cancelled_caught


async def at_every_step(scenario: Callable[[int], Awaitable[bool]]) -> int:
    """Run a scenario with step 0, 1, 2 ... until its call is not cancelled any more.

    Returns how many steps cancelled it, which is at least one: step 0.
    """
    step = 0
    while await scenario(step):
        step += 1
        assert step < 1000, "the call never ends"
    assert step > 0, "not even cancelling before the call cancelled it"
    return step


class CountSteps(trio.abc.Instrument):
    """Count the steps of one task, or of all."""

    def __init__(self, task: trio.lowlevel.Task | None = None) -> None:
        self.steps = 0
        self._task = task

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if self._task is None or task is self._task:
            self.steps += 1

    def __enter__(self) -> Self:
        trio.lowlevel.add_instrument(self)
        return self

    def __exit__(self, *_: object) -> None:
        trio.lowlevel.remove_instrument(self)
