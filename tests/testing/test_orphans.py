"""`no_orphans`: what counts as left running, how it is named, and what is none of its business."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

import pytest
import trio
from trio.testing import MockClock

from trioweb.testing.orphans import OrphanTasks, no_orphans


async def sleeper() -> None:
    await trio.sleep_forever()


async def complaint(block: Callable[[trio.Nursery], Awaitable[None]]) -> str:
    """Check a block in a task of its own, with the nursery of another; return what was found."""
    found = ""

    async def caller() -> None:
        nonlocal found
        try:
            async with no_orphans():
                await block(nursery)
        except OrphanTasks as error:
            found = str(error)
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(caller)
    return found


# What is found.


async def test_a_task_is_named_with_its_place_and_its_parent():
    async def block(nursery: trio.Nursery) -> None:
        nursery.start_soon(sleeper)

    first, task = (await complaint(block)).splitlines()
    place = f"{__file__}:{sleeper.__code__.co_firstlineno + 1}"
    parent = trio.lowlevel.current_task().name
    assert first == "1 task is left running:"
    assert task == f"  {__name__}.sleeper at {place}, in a nursery of {parent}"


async def test_every_task_of_a_tree_is_named():
    async def parent() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sleeper, name="left child")
            nursery.start_soon(sleeper, name="right child")

    async def block(nursery: trio.Nursery) -> None:
        nursery.start_soon(parent, name="parent")

    first, *tasks = (await complaint(block)).splitlines()
    assert first == "3 tasks are left running:"
    assert [task.split(" at ")[0].strip() for task in tasks] == [
        "left child",
        "parent",
        "right child",
    ]
    assert tasks[0].endswith("in a nursery of parent")


async def test_a_nursery_that_the_block_leaves_open():
    async with AsyncExitStack() as stack:
        check = no_orphans()
        await check.__aenter__()
        nursery = await stack.enter_async_context(trio.open_nursery())
        nursery.start_soon(sleeper)
        with pytest.raises(OrphanTasks, match="sleeper"):
            await check.__aexit__(None, None, None)
        nursery.cancel_scope.cancel()


async def test_a_system_task_of_the_users():
    scope = trio.CancelScope()

    async def hidden() -> None:
        with scope:
            await trio.sleep_forever()

    with pytest.raises(OrphanTasks, match="hidden"):
        async with no_orphans():
            trio.lowlevel.spawn_system_task(hidden)
    scope.cancel()


async def test_a_name_in_brackets_is_trios_own_only_on_a_system_task():
    async def block(nursery: trio.Nursery) -> None:
        nursery.start_soon(sleeper, name="<worker>")

    assert "<worker>" in await complaint(block)


async def test_a_task_that_never_blocks_is_named_all_the_same():
    async def busy() -> None:
        while True:
            await trio.lowlevel.checkpoint()

    async def block(nursery: trio.Nursery) -> None:
        nursery.start_soon(busy)

    found = await complaint(block)
    assert found.startswith("1 task is left running (and not everything is at rest after 10000")
    assert "busy" in found


async def test_a_virtual_clock_does_not_jump_for_it(autojump_clock: MockClock):
    async def block(nursery: trio.Nursery) -> None:
        nursery.start_soon(trio.sleep, 60)

    assert "trio.sleep" in await complaint(block)
    assert trio.current_time() == 0


def test_it_needs_nothing_but_trio():
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(middle, nursery)

    async def middle(outer: trio.Nursery) -> None:
        async with no_orphans():
            outer.start_soon(sleeper)

    with pytest.RaisesGroup(pytest.RaisesExc(OrphanTasks, match=r"sleeper.* of .*main")):
        trio.run(main)


# What is not.


async def test_tasks_that_end_soon_after_the_block():
    async def slow() -> None:
        for _ in range(100):
            await trio.lowlevel.checkpoint()

    async def block(nursery: trio.Nursery) -> None:
        nursery.start_soon(slow)

    assert await complaint(block) == ""


async def test_tasks_of_before():
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sleeper)

        async def block(_: trio.Nursery) -> None:
            await trio.lowlevel.checkpoint()

        assert await complaint(block) == ""
        nursery.cancel_scope.cancel()


async def test_tasks_in_or_below_nurseries_that_the_caller_had_open():
    async def parent() -> None:
        async with trio.open_nursery() as below:
            below.start_soon(sleeper)

    async with trio.open_nursery() as nursery:
        async with no_orphans():
            nursery.start_soon(parent)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("name", ["<cache>", "trio._subprocess_platform.waitid._waitid"])
async def test_system_tasks_of_trios_own(name):
    scope = trio.CancelScope()

    async def own() -> None:
        with scope:
            await trio.sleep_forever()

    async with no_orphans():
        trio.lowlevel.spawn_system_task(own, name=name)
    scope.cancel()


async def test_what_the_block_raises_comes_out_bare():
    error = KeyError("mine")

    async def raising(nursery: trio.Nursery) -> None:
        async with no_orphans():
            nursery.start_soon(sleeper)
            raise error

    async def block(nursery: trio.Nursery) -> None:
        with pytest.raises(KeyError) as caught:
            await raising(nursery)
        assert caught.value is error
        assert error.__context__ is None

    assert "sleeper" in await complaint(block), "the outer check sees what the inner one did not"


async def test_a_cancellation_is_not_replaced():
    async def block(nursery: trio.Nursery) -> None:
        with trio.CancelScope() as scope:
            async with no_orphans():
                nursery.start_soon(sleeper)
                scope.cancel()
        assert scope.cancelled_caught

    assert "sleeper" in await complaint(block)
