"""History in memory: the contract, and what is forgotten when there is too much."""

from __future__ import annotations

import math
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from trioweb import Position, Retention
from trioweb.abc import Store
from trioweb.stores.memory import MemoryStore
from trioweb.testing import check_store

KEEP = Retention(max_age=math.inf)
ALL: Any = {"limit": 1000, "max_bytes": 2**30}


@asynccontextmanager
async def memory_store():
    yield MemoryStore()


async def test_keeps_the_promises_of_a_store(autojump_clock):
    assert isinstance(MemoryStore(), Store)
    await check_store(memory_store)


async def test_forgets_the_topic_that_was_longest_not_used():
    store = MemoryStore(max_topics=2)
    first = await store.append("a", b"1", KEEP)
    await store.append("b", b"1", KEEP)
    assert (await store.read("a", **ALL)).position == first
    await store.append("c", b"1", KEEP)  # "b" has to go
    assert (await store.read("a", **ALL)).position == first
    again = await store.read("b", **ALL)
    assert (again.position.offset, again.entries) == (0, ())


async def test_names_that_are_only_asked_for_push_no_history_out():
    store = MemoryStore(max_topics=3)
    positions = {topic: await store.append(topic, b"1", KEEP) for topic in "ab"}
    for number in range(10):
        await store.read(f"x{number}", limit=0, max_bytes=1)
    blank = await store.read("x9", limit=0, max_bytes=1)
    assert (await store.append("x9", b"1", KEEP)).epoch == blank.position.epoch
    for topic, position in positions.items():
        assert (await store.read(topic, limit=0, max_bytes=1)).position == position
    await store.read("y", limit=0, max_bytes=1)  # now there is nothing else
    assert len(store._topics) == 3
    assert (await store.read("b", limit=0, max_bytes=1)).position == positions["b"]
    await store.remove("y")
    assert not store._blank


async def test_many_bytes_in_all_push_out_whole_topics_and_never_the_one_in_use():
    store = MemoryStore(max_bytes=100_000)
    first = await store.append("a", bytes(40_000), KEEP)
    await store.append("b", bytes(40_000), KEEP)
    await store.append("b", bytes(40_000), KEEP)
    page = await store.read("a", **ALL)
    assert page.position.epoch != first.epoch
    assert [entry.offset for entry in (await store.read("b", **ALL)).entries] == [1, 2]
    # One topic alone keeps to the bound too, with its numbering.
    for _ in range(3):
        end = await store.append("b", bytes(40_000), KEEP)
    page = await store.read("b", **ALL)
    assert page.position == end == Position(end.epoch, 5)
    assert [entry.offset for entry in page.entries] == [4, 5]


async def test_empty_entries_have_a_bound_too():
    store = MemoryStore(max_bytes=10_000)
    for _ in range(1000):
        await store.append("a", b"", Retention(max_entries=10**9, max_age=math.inf))
    assert len((await store.read("a", **ALL)).entries) < 100


async def test_what_a_store_counts_is_what_it_holds():
    store = MemoryStore(max_bytes=50_000)
    for number in range(2000):
        topic = "abc"[number % 3]
        await store.append(topic, bytes(number % 1000), Retention(max_entries=1 + number % 50))
        if number % 100 == 0:
            await store.remove("b")
        assert store._cost == sum(one.cost for one in store._topics.values()) <= 50_000
        for one in store._topics.values():
            assert one.size == sum(len(entry.data) for entry in one.entries)


async def test_ages_are_on_trios_clock(autojump_clock):
    store = MemoryStore()
    await store.append("a", b"1", Retention(max_age=10))
    await trio.sleep(5)
    await store.append("a", b"2", Retention(max_age=10))
    await trio.sleep(5)
    assert [entry.offset for entry in (await store.read("a", **ALL)).entries] == [2]
    await trio.sleep(5)
    assert (await store.read("a", **ALL)).entries == ()


@pytest.mark.parametrize("options", [{"max_topics": 0}, {"max_bytes": 0}])
def test_nonsense_is_refused(options):
    with pytest.raises(ValueError, match="at least 1"):
        MemoryStore(**options)
