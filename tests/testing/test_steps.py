"""Calls cancelled at each step in turn, and steps that are counted."""

from __future__ import annotations

import ast
import math
import textwrap
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from trioweb.testing import open_pair, steps
from trioweb.testing.steps import CountSteps, at_every_step, cancelled_at


def _instruments() -> set[object]:
    """Return the instruments of this run."""
    runner: Any = trio.lowlevel.current_task()._runner
    return set(runner.instruments["_all"])


async def _five(done: list[int], *, stop: int = 5) -> None:
    """Run five checkpoints, and note each that is passed."""
    for number in range(stop):
        await trio.lowlevel.checkpoint()
        done.append(number)


@pytest.mark.parametrize("step", range(1, 6))
async def test_cancels_at_each_checkpoint_in_turn(step: int) -> None:
    done: list[int] = []
    assert await cancelled_at(step, _five, done)
    assert done == list(range(step - 1))


async def test_step_0_is_before_the_call() -> None:
    begun: list[bool] = []

    async def call() -> None:
        begun.append(trio.current_effective_deadline() < trio.current_time())
        await trio.lowlevel.checkpoint()
        begun.append(False)

    assert await cancelled_at(0, call)
    assert begun == [True]


@pytest.mark.parametrize("step", [6, 7, 1000])
async def test_a_call_that_is_done_before_is_not_cancelled(step: int) -> None:
    done: list[int] = []
    assert not await cancelled_at(step, _five, done)
    assert done == [0, 1, 2, 3, 4]
    await trio.lowlevel.checkpoint()  # nor is what comes after


async def test_a_call_that_waits_is_cancelled_where_it_waits(autojump_clock: MockClock) -> None:
    async def call() -> None:
        await trio.lowlevel.checkpoint()
        await trio.sleep(3600)

    assert await cancelled_at(2, call)
    assert trio.current_time() < 1


async def test_others_steps_are_not_counted_but_children_are_cancelled() -> None:
    ends: list[str] = []
    fifty = trio.Event()

    async def child() -> None:
        try:
            for _ in range(50):
                await trio.lowlevel.checkpoint()
            ends.append("fifty")
            fifty.set()
            await trio.sleep_forever()
        finally:
            ends.append("cancelled")

    async def call() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(child)
            await fifty.wait()
            await trio.sleep_forever()

    assert await cancelled_at(2, call)
    assert ends == ["fifty", "cancelled"]


async def test_a_step_is_not_negative() -> None:
    with pytest.raises(ValueError, match="-1"):
        await cancelled_at(-1, trio.lowlevel.checkpoint)


@pytest.mark.parametrize("step", [0, 1, 99])
async def test_what_the_call_raises_comes_out_and_leaves_no_instrument(step: int) -> None:
    before = _instruments()

    async def call(error: type[Exception]) -> None:
        assert len(_instruments() - before) == 1
        raise error

    with pytest.raises(KeyError):
        await cancelled_at(step, call, KeyError)
    assert _instruments() == before
    with pytest.raises(KeyError), CountSteps():
        raise KeyError
    assert _instruments() == before


async def test_every_step_in_turn() -> None:
    seen: list[int] = []
    before = _instruments()

    async def scenario(step: int) -> bool:
        seen.append(step)
        return await cancelled_at(step, _five, [])

    assert await at_every_step(scenario) == 6
    assert seen == [0, 1, 2, 3, 4, 5, 6]
    assert _instruments() == before


async def test_an_error_says_at_which_step(autojump_clock: MockClock) -> None:
    async def breaks_in_the_middle(step: int) -> bool:
        done: list[int] = []
        cancelled = await cancelled_at(step, _five, done)
        assert done != [0, 1], "the third breaks it"
        return cancelled

    with pytest.raises(AssertionError, match="third") as caught:
        await at_every_step(breaks_in_the_middle)
    (note,) = caught.value.__notes__
    assert "breaks_in_the_middle at step 3" in note


async def _for_ever() -> None:
    while True:
        await trio.lowlevel.checkpoint()


async def test_a_call_that_never_ends_is_named() -> None:
    seen: list[int] = []

    async def endless(step: int) -> bool:
        seen.append(step)
        return await cancelled_at(step, _for_ever)

    with pytest.raises(AssertionError, match=r"endless: .* not over after 20 steps"):
        await at_every_step(endless, max_steps=20)
    assert seen == list(range(20))


@pytest.mark.parametrize("seconds", [7200, math.inf])
async def test_a_call_that_never_wakes_is_named(autojump_clock: MockClock, seconds: float) -> None:
    async def asleep(step: int) -> bool:
        return await cancelled_at(step, trio.sleep, seconds)

    with pytest.raises(AssertionError, match=r"asleep at step 2 is not over after 3600"):
        await at_every_step(asleep)
    assert trio.current_time() < 4000


async def test_a_lock_that_stays_taken_is_named(autojump_clock: MockClock) -> None:
    async def leaky(step: int) -> bool:
        lock = trio.Semaphore(1)

        async def call() -> None:
            await lock.acquire()
            await trio.lowlevel.checkpoint()  # should be in a ``try``
            lock.release()

        cancelled = await cancelled_at(step, call)
        async with lock:
            return cancelled

    with pytest.raises(AssertionError, match="leaky at step 1 is not over after 10 seconds"):
        await at_every_step(leaky, max_seconds=10)


async def test_a_call_without_a_checkpoint_is_named() -> None:
    async def call() -> None:
        pass

    async def deaf(step: int) -> bool:
        return await cancelled_at(step, call)

    with pytest.raises(AssertionError, match=r"deaf: .*no checkpoint"):
        await at_every_step(deaf)


async def test_an_outer_cancellation_goes_on() -> None:
    async def endless(step: int) -> bool:
        return await cancelled_at(step, trio.sleep_forever)

    with trio.CancelScope() as scope:
        scope.cancel()
        await at_every_step(endless)
    assert scope.cancelled_caught


async def test_count_steps_of_one_task_and_of_all() -> None:
    async with trio.open_nursery() as nursery:
        with CountSteps() as everybody, CountSteps(trio.lowlevel.current_task()) as ours:
            nursery.start_soon(_five, [])
            await _five([], stop=20)
        await trio.lowlevel.checkpoint()
    assert ours.steps == 20
    assert everybody.steps >= 20 + 5
    before = everybody.steps
    await trio.lowlevel.checkpoint()
    assert everybody.steps == before, "it counts in its block only"


async def test_the_example_of_the_docs(autojump_clock: MockClock) -> None:
    assert steps.__doc__ is not None
    source = textwrap.dedent(steps.__doc__.partition("::\n\n")[2])
    code = compile(source, "steps.py", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    names = {"open_pair": open_pair, **vars(steps)}
    await eval(code, names)
    names["cancelled_at"] = _lose  # it would find a receive that loses its message
    with pytest.raises(AssertionError, match="scenario at step 0 is not over"):
        await eval(code, names)


async def _lose(step: int, receive: Callable[[], Awaitable[None]]) -> bool:
    await receive()
    return True
