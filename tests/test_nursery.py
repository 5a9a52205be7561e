"""The nursery for tasks of our own: exceptions come out bare, and no task is left."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from tests.helpers import tasks
from trioweb.nursery import OwnNursery


class Boom(Exception):
    pass


async def fail(error: BaseException) -> None:
    raise error


async def test_background_tasks_end_with_the_block():
    before = tasks()
    async with OwnNursery() as nursery:
        nursery.start_soon(trio.sleep_forever)
        await trio.testing.wait_all_tasks_blocked()
        assert len(tasks()) == len(before) + 1
    assert tasks() == before


async def test_the_exception_of_the_block_comes_out_as_it_is():
    error = Boom()
    before = tasks()
    with pytest.raises(Boom) as caught:  # noqa: PT012 - it comes out of the nursery
        async with OwnNursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            raise error
    assert caught.value is error
    assert tasks() == before


async def test_a_group_of_the_block_is_not_unpacked():
    group = ExceptionGroup("theirs", [Boom()])
    with pytest.raises(ExceptionGroup) as caught:
        async with OwnNursery():
            raise group
    assert caught.value is group


@pytest.mark.parametrize("error", [Boom(), KeyboardInterrupt(), SystemExit(3)])
async def test_a_background_failure_ends_the_block_and_comes_out_bare(error):
    ended = False
    with pytest.raises(type(error)) as caught:  # noqa: PT012 - as above
        async with OwnNursery() as nursery:
            nursery.start_soon(fail, error)
            try:
                await trio.sleep_forever()
            finally:
                ended = True
    assert caught.value is error
    assert ended


async def test_a_failure_of_a_task_of_a_task_comes_out_bare():
    error = Boom()

    async def nested() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail, error)

    with pytest.raises(Boom) as caught:  # noqa: PT012 - it comes out of the nursery
        async with OwnNursery() as nursery:
            nursery.start_soon(nested)
            await trio.sleep_forever()
    assert caught.value is error


async def test_several_failures_are_all_there():
    async def fail_at_the_end(error: Exception) -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise error

    first, second = Boom("first"), Boom("second")
    with pytest.raises(ExceptionGroup) as caught:  # noqa: PT012 - as above
        async with OwnNursery() as nursery:
            nursery.start_soon(fail_at_the_end, first)
            nursery.start_soon(fail_at_the_end, second)
            await trio.testing.wait_all_tasks_blocked()
    assert set(caught.value.exceptions) == {first, second}


async def test_the_end_waits_for_clean_up_even_when_cancelled(autojump_clock):
    cleaned = False

    async def tidy() -> None:
        nonlocal cleaned
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(5)
            cleaned = True

    with trio.move_on_after(1) as scope:
        async with OwnNursery() as nursery:
            nursery.start_soon(tidy)
            await trio.sleep_forever()
    assert cleaned
    assert scope.cancelled_caught
    assert trio.current_time() == 6


async def test_the_exception_of_the_block_comes_out_even_when_cancelled():
    error = Boom()
    with trio.CancelScope() as scope, pytest.raises(Boom) as caught:  # noqa: PT012 - as above
        async with OwnNursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
            raise error
    assert caught.value is error


async def test_a_cancellation_passes_through():
    with trio.CancelScope() as scope:
        async with OwnNursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught
