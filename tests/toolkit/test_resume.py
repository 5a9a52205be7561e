"""Recovery is whole or none, and numbers come out in order, each once."""

from __future__ import annotations

import math
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from trioweb import Position, Retention
from trioweb.stores.memory import MemoryStore
from trioweb.toolkit.resume import InOrder, Recovery, browse, recover

BOUNDS: Any = {"limit": 1000, "max_bytes": 2**20}


async def filled(count, *, keep=1000, size=10, age=math.inf):
    store = MemoryStore()
    retention = Retention(max_entries=keep, max_age=age)
    position = (await store.read("a", limit=0, max_bytes=1)).position
    for number in range(1, count + 1):
        position = await store.append("a", b"%0*d" % (size, number), retention)
    return store, position


def offsets(recovery: Recovery) -> list[int]:
    return [entry.offset for entry in recovery.entries]


@pytest.mark.parametrize("count", [0, 1, 5])
async def test_without_a_position_it_begins_now(count):
    store, now = await filled(count)
    assert await recover(store, "a", None, **BOUNDS) == Recovery(now)


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        (0, None),  # 1 and 2 are kept no longer
        (1, None),
        (2, [3, 4, 5]),
        (4, [5]),
        (5, []),
        (6, None),  # a number that was never given out
    ],
)
async def test_all_of_it_or_nothing(after, expected):
    store, now = await filled(5, keep=3)
    found = await recover(store, "a", Position(now.epoch, after), **BOUNDS)
    assert found.position == now
    assert found.recovered is (expected is not None)
    assert offsets(found) == (expected or [])


@pytest.mark.parametrize(
    ("bounds", "recovered"),
    [
        ({"limit": 5}, True),
        ({"limit": 4}, False),
        ({"limit": 0}, False),
        ({"max_bytes": 50}, True),
        ({"max_bytes": 49}, False),
        ({"max_bytes": 9}, False),
    ],
)
async def test_more_than_the_bounds_is_nothing(bounds, recovered):
    store, now = await filled(5)
    found = await recover(store, "a", Position(now.epoch, 0), **{**BOUNDS, **bounds})
    assert (found.recovered, len(found.entries)) == (recovered, 5 * recovered)
    # Who has it all needs no room.
    nothing = await recover(store, "a", now, **{**BOUNDS, **bounds})
    assert nothing == Recovery(now, recovered=True)


async def test_one_entry_above_the_bytes_is_too_much_too():
    store, now = await filled(1, size=100)
    found = await recover(store, "a", Position(now.epoch, 0), limit=9, max_bytes=99)
    assert found == Recovery(now, recovered=False)


async def test_another_epoch_is_not_recovered():
    store, now = await filled(5)
    for mode in ("all", "latest"):
        found = await recover(store, "a", Position("another", 5), mode=mode, **BOUNDS)
        assert (found.position, found.recovered) == (now, False)
        assert offsets(found) == ([] if mode == "all" else [5])


async def test_what_is_over_its_age_is_missing_and_who_has_it_misses_nothing(autojump_clock):
    store, now = await filled(5, age=10)
    await trio.sleep(20)
    for mode in ("all", "latest"):
        found = await recover(store, "a", Position(now.epoch, 4), mode=mode, **BOUNDS)
        assert found == Recovery(now, recovered=False)
        found = await recover(store, "a", now, mode=mode, **BOUNDS)
        assert found == Recovery(now, recovered=True)
        assert await recover(store, "a", None, mode=mode, **BOUNDS) == Recovery(now)


@pytest.mark.parametrize(
    ("after", "recovered", "expected"),
    [(None, None, [5]), (0, False, [5]), (3, False, [5]), (4, True, [5]), (5, True, [])],
)
async def test_the_latest_alone(after, recovered, expected):
    store, now = await filled(5)
    position = None if after is None else Position(now.epoch, after)
    found = await recover(store, "a", position, mode="latest", **BOUNDS)
    assert (found.position, found.recovered, offsets(found)) == (now, recovered, expected)


async def test_a_latest_that_is_too_large_is_missing():
    store, now = await filled(1, size=100)
    found = await recover(store, "a", Position(now.epoch, 0), mode="latest", limit=9, max_bytes=99)
    assert found == Recovery(now, recovered=False)


@pytest.mark.parametrize(
    ("after", "limit", "recovered", "expected"),
    [
        (None, 2, None, [9, 10]),
        (None, 100, None, [6, 7, 8, 9, 10]),
        (5, 2, True, [6, 7]),
        (5, 100, True, [6, 7, 8, 9, 10]),
        (4, 2, False, [6, 7]),
        (9, 2, True, [10]),
        (10, 2, True, []),
        (11, 2, False, []),
    ],
)
async def test_browsing_goes_both_ways(after, limit, recovered, expected):
    store, now = await filled(10, keep=5)
    position = None if after is None else Position(now.epoch, after)
    found = await browse(store, "a", position, limit=limit, max_bytes=2**20)
    assert (found.position, found.recovered, offsets(found)) == (now, recovered, expected)


async def test_browsing_another_epoch_finds_nothing_and_says_so():
    store, now = await filled(3)
    found = await browse(store, "a", Position("another", 0), **BOUNDS)
    assert found == Recovery(now, recovered=False)


# --- order -----------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 12), max_size=60), st.integers(1, 5))
def test_numbers_come_out_in_order_and_once(seen, max_items):
    order = InOrder[int](0, max_items=max_items, max_bytes=10**6)
    out: list[int] = []
    for number in seen:
        out += order.put(number, number, 1)
        assert order.last == len(out)
        assert len(order._early) <= max_items
        assert order._bytes == len(order._early)
    assert out == list(range(1, len(out) + 1))
    # What is missing is what did not come, or was thrown away: then it says so.
    assert order.hole == (max(seen, default=0) > len(out))
    for number in range(1, 13):
        out += order.put(number, number, 1)
    assert out == list(range(1, 13))
    assert not order.hole
    assert order._bytes == 0


@given(st.sets(st.integers(1, 12)), st.integers(0, 12))
def test_skipping_gives_up_a_hole_and_nothing_after_it(seen, to):
    order = InOrder[int](0, max_items=100, max_bytes=10**6)
    out: list[int] = []
    for number in sorted(seen, reverse=True):
        out += order.put(number, number, 1)
    before = order.last
    more = order.skip_to(to)
    start = max(before, to)
    assert more == list(range(start + 1, start + 1 + len(more)))
    assert start + len(more) + 1 not in seen
    assert order.last == start + len(more)


def test_what_waits_is_bounded_in_bytes():
    order = InOrder[int](0, max_items=100, max_bytes=10)
    assert order.put(2, 2, 8) == order.put(3, 3, 8) == []
    assert order.put(1, 1, 8) == [1]
    assert order.hole


def test_a_number_that_is_only_known_is_a_hole():
    order = InOrder[str](5, max_items=1, max_bytes=1)
    assert not order.hole
    order.see(6)
    assert order.hole
    assert order.put(6, "six", 1) == ["six"]
    assert not order.hole
