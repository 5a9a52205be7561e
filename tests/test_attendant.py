"""The attendant: who looks, asks and writes for connections that have no task for it."""

from __future__ import annotations

import gc
import weakref

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trioweb.attendant import LOOK, Attendant


class Patient:
    """A connection that wants so many looks, and whose peer is silent from some time on."""

    def __init__(self, looks: int = 0, silent: list[float] | None = None) -> None:
        self.looks = looks
        self.silent = silent or []
        self.seen: list[float] = []

    def look(self) -> bool:
        self.seen.append(trio.current_time())
        self.looks -= 1
        return self.looks > 0

    def next_due(self) -> float | None:
        self.seen.append(trio.current_time())
        return self.silent.pop(0) if self.silent else None


async def test_it_looks_while_somebody_wants_it(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    attendant = Attendant()
    nursery.start_soon(attendant.run)
    await trio.sleep(1)
    one = Patient(looks=3)
    attendant.look_after(one)
    await trio.sleep(5)
    assert one.seen == pytest.approx([1 + LOOK, 1 + 2 * LOOK, 1 + 3 * LOOK])
    nursery.cancel_scope.cancel()


async def test_it_asks_when_silence_is_due_and_again_when_told(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    attendant = Attendant()
    late, early, looked_at = Patient(silent=[25.0, 26.0]), Patient(), Patient(looks=1)
    attendant.watch(late, 20)
    nursery.start_soon(attendant.run)
    await trio.sleep(1)
    attendant.watch(early, 10)
    attendant.look_after(looked_at)
    await trio.sleep(100)
    assert late.seen == [20, 25, 26]
    assert early.seen == [10]
    assert looked_at.seen == [1 + LOOK]
    nursery.cancel_scope.cancel()


async def test_without_anything_to_do_it_does_not_wake(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    attendant = Attendant()
    nursery.start_soon(attendant.run)
    attendant.forget(attendant.watch(Patient(), 1000))
    await trio.sleep(5)
    assert trio.lowlevel.current_statistics().seconds_to_next_deadline >= 995 - 1
    nursery.cancel_scope.cancel()


async def test_what_is_forgotten_is_let_go_and_its_watch_soon(nursery: trio.Nursery) -> None:
    attendant = Attendant()
    nursery.start_soon(attendant.run)
    await wait_all_tasks_blocked()
    kept = Patient()
    attendant.watch(kept, trio.current_time() + 1000)
    gone = [Patient() for _ in range(1000)]
    watches = [attendant.watch(one, trio.current_time() + 500) for one in gone]
    references = [weakref.ref(one) for one in gone]
    for watch in watches:
        attendant.forget(watch)
    gone.clear()
    gc.collect()
    assert not any(reference() for reference in references)
    assert len(attendant._watches) < 100
    assert any(watch.what is kept for watch in attendant._watches)
    nursery.cancel_scope.cancel()


async def test_the_first_broadcast_of_a_turn_is_told_from_those_that_follow(
    nursery: trio.Nursery,
) -> None:
    attendant = Attendant()
    nursery.start_soon(attendant.run)
    await wait_all_tasks_blocked()
    for _ in range(3):
        assert [attendant.meet(), attendant.meet(), attendant.meet()] == [False, True, True]
        await wait_all_tasks_blocked()
    nursery.cancel_scope.cancel()


async def test_what_is_marked_before_it_runs_is_written_when_it_does(
    nursery: trio.Nursery,
) -> None:
    attendant = Attendant()
    assert not attendant.meet()
    nursery.start_soon(attendant.run)
    await wait_all_tasks_blocked()
    assert not attendant.crowded
    nursery.cancel_scope.cancel()


async def test_when_it_has_left_nothing_waits_for_it() -> None:
    attendant = Attendant()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(attendant.run)
        await wait_all_tasks_blocked()
        assert not attendant.meet()
        nursery.cancel_scope.cancel()
    assert [attendant.meet(), attendant.meet()] == [False, False]
