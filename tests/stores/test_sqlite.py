"""History in a file: the contract, what survives, and how calls share transactions."""

from __future__ import annotations

import gc
import math
import os
import sqlite3
import sys
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from trioweb import Position, Retention, StoreFailed
from trioweb.abc import Store
from trioweb.positions import Entry, Page
from trioweb.stores.sqlite import SQLiteStore
from trioweb.stores.transactions import Transactions
from trioweb.testing import check_store
from trioweb.testing.contracts.store import check_store as _check_store

KEEP = Retention(max_age=math.inf)
ALL: Any = {"limit": 10**6, "max_bytes": 2**30}
APPENDER = Path(__file__).with_name("appender.py")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "history.db"


@pytest.fixture
def threads(monkeypatch):
    """Count what is done in threads, and let a test hold it there."""
    counts = {"all": 0}
    in_thread = Transactions._in_thread

    async def counted(self, function):
        counts["all"] += 1
        return await in_thread(self, function)

    monkeypatch.setattr(Transactions, "_in_thread", counted)
    return counts


async def test_keeps_the_promises_of_a_store(path):
    assert _check_store is check_store
    assert isinstance(SQLiteStore(path), Store)
    await check_store(lambda: SQLiteStore(path), durable=True)


async def test_two_at_once_on_one_file_keep_them_too(path):
    """As two processes do: each call goes to one of them by turns."""

    class Both:
        def __init__(self, *stores):
            self.stores = list(stores)

        def turn(self):
            self.stores.reverse()
            return self.stores[0]

        async def append(self, *args):
            return await self.turn().append(*args)

        async def read(self, *args, **options):
            return await self.turn().read(*args, **options)

        async def remove(self, topic):
            await self.turn().remove(topic)

    @asynccontextmanager
    async def both():
        async with SQLiteStore(path) as one, SQLiteStore(path) as other:
            yield Both(one, other)

    await check_store(both, durable=True)


async def test_what_was_acknowledged_survives_kill_9(path):
    acknowledged: dict[tuple[str, str], dict[int, bytes]] = {}
    for life in range(3):
        process = await trio.lowlevel.open_process(
            [sys.executable, str(APPENDER), str(path)],
            stdout=-1,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )
        assert process.stdout is not None
        with trio.fail_after(60):
            read = b""
            while read.count(b"\n") < 300 * (life + 1):
                read += await process.stdout.receive_some()
            process.kill()
            async for more in process.stdout:
                read += more
            await process.wait()
        for line in read.decode().split("\n")[:-1]:
            topic, epoch, offset, task, number = line.split()
            given = acknowledged.setdefault((topic, epoch), {})
            assert int(offset) not in given, "a number was given out twice"
            given[int(offset)] = f"{task} {number}".encode()
    assert {topic for topic, _ in acknowledged} == {"a", "b"}
    assert len(acknowledged) == 2, "an epoch changed"
    async with SQLiteStore(path) as store:
        for (topic, epoch), given in acknowledged.items():
            page = await store.read(topic, **ALL)
            assert page.position.epoch == epoch
            found = {entry.offset: entry.data for entry in page.entries}
            assert list(found) == list(range(1, page.position.offset + 1))
            assert given.items() <= found.items()
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.close()


async def test_appends_that_come_together_share_a_transaction(path, threads):
    async with SQLiteStore(path) as store:
        before = threads["all"]
        async with trio.open_nursery() as nursery:
            for number in range(200):
                nursery.start_soon(store.append, "a", b"%d" % number, KEEP)
        assert threads["all"] - before <= 3  # the first one alone, and then the others
        assert (await store.read("a", **ALL)).position.offset == 200


async def test_there_is_no_task_and_no_thread_while_nothing_is_done(path):
    async with SQLiteStore(path) as store:
        await store.append("a", b"1", KEEP)
        assert store._writer._limiter.borrowed_tokens == 0
        assert not store._writer._leading


@pytest.mark.parametrize("when", [0, 1, 2, 3, 4])
async def test_a_cancelled_append_is_not_there_unless_it_was_begun(path, when):
    async with SQLiteStore(path) as store, trio.open_nursery() as nursery:
        nursery.start_soon(store.append, "a", b"first", KEEP)
        outcomes = {}

        async def append(name):
            with trio.CancelScope() as scopes[name]:
                await store.append("a", name, KEEP)
                outcomes[name] = True

        scopes: dict[bytes, trio.CancelScope] = {}
        for name in (b"1", b"2", b"3"):
            nursery.start_soon(append, name)
        for _ in range(when):
            await trio.lowlevel.checkpoint()
        for name in (b"1", b"3"):
            if name in scopes:
                scopes[name].cancel()
    async with SQLiteStore(path) as store:
        found = {entry.data for entry in (await store.read("a", **ALL)).entries}
    assert found == {b"first", *outcomes}
    assert b"2" in found


async def test_whoever_leads_and_is_cancelled_leaves_nobody_waiting(path):
    async with SQLiteStore(path) as store:
        for when in range(6):
            async with trio.open_nursery() as nursery:
                scope = trio.CancelScope()

                async def lead():
                    with scope:  # noqa: B023
                        await store.append("a", b"leads", KEEP)

                nursery.start_soon(lead)
                for _ in range(5):
                    nursery.start_soon(store.append, "a", b"follows", KEEP)
                for _ in range(when):
                    await trio.lowlevel.checkpoint()
                scope.cancel()
        with trio.fail_after(10):
            await store.append("a", b"last", KEEP)
        page = await store.read("a", **ALL)
        assert sum(entry.data == b"follows" for entry in page.entries) == 30


async def test_closing_finishes_what_is_under_way(path):
    async with trio.open_nursery() as nursery, SQLiteStore(path) as store:
        for number in range(50):
            nursery.start_soon(store.append, "a", b"%d" % number, KEEP)
        await trio.lowlevel.checkpoint()
    for call in (store.append("a", b"1", KEEP), store.read("a", **ALL), store.remove("a")):
        with pytest.raises(trio.ClosedResourceError):
            await call
    await store.aclose()
    async with SQLiteStore(path) as store:
        assert (await store.read("a", **ALL)).position.offset == 50


async def test_a_cancelled_block_closes_the_file(path):
    with trio.CancelScope() as scope:
        async with SQLiteStore(path) as store:
            await store.append("a", b"1", KEEP)
            scope.cancel()
    assert scope.cancelled_caught
    assert store._reader._connection is None
    assert store._writer._connection is None
    gc.collect()  # a connection that was left open would warn
    async with SQLiteStore(path) as store:
        assert (await store.read("a", **ALL)).position.offset == 1


async def test_a_cancelled_block_finishes_the_appends_that_are_under_way(path):
    acknowledged = []
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery, SQLiteStore(path) as store:

            async def append(number):
                await store.append("a", b"%d" % number, KEEP)
                acknowledged.append(number)

            for number in range(50):
                nursery.start_soon(append, number)
            await trio.lowlevel.checkpoint()
            scope.cancel()
    with sqlite3.connect(path) as connection:
        (count,) = connection.execute("SELECT count(*) FROM entries").fetchone()
    connection.close()
    assert count == len(acknowledged)
    assert not (path.parent / f"{path.name}-wal").exists()  # the last one to close takes it away


async def test_a_failure_is_everybodys_and_the_next_transaction_works(path):
    async with SQLiteStore(path) as store:
        first = await store.append("a", b"1", KEEP)
        with sqlite3.connect(path) as connection:
            connection.execute(
                "CREATE TRIGGER refuse BEFORE INSERT ON entries WHEN NEW.data = x'62'"
                " BEGIN SELECT RAISE(FAIL, 'no b'); END"
            )
        connection.close()
        with pytest.raises(StoreFailed, match="no b") as caught:
            await store.append("a", b"b", KEEP)
        assert isinstance(caught.value.__cause__, sqlite3.Error)
        assert await store.append("a", b"2", KEEP) == Position(first.epoch, 2)


async def test_numbers_that_sqlite_cannot_hold_fail_nobody(path):
    huge = 2**70
    async with SQLiteStore(path) as store:
        retention = Retention(max_entries=huge, max_bytes=huge, max_age=math.inf)
        first = await store.append("a", b"1", retention)
        pages = {}

        async def read(number, after, limit):
            pages[number] = await store.read("a", after, limit=limit, max_bytes=huge)

        async with trio.open_nursery() as nursery:
            for number in range(10):
                nursery.start_soon(read, number, None, huge)
            nursery.start_soon(read, "beyond", Position(first.epoch, huge), huge)
        assert pages.pop("beyond") == Page(first)
        assert set(pages.values()) == {Page(first, (Entry(1, b"1"),))}


@pytest.mark.parametrize("content", [b"this is no database at all" * 100, None])
async def test_what_is_no_file_of_ours_is_refused(path, content):
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    with pytest.raises(StoreFailed):
        async with SQLiteStore(path):
            pass
    gc.collect()


async def test_another_version_is_refused_and_left_alone(path):
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(StoreFailed, match="version 99"):
        async with SQLiteStore(path):
            pass
    gc.collect()


async def test_surrogates_are_refused_before_they_meet_others(path):
    async with SQLiteStore(path) as store:
        for call in (store.append("\ud800", b"", KEEP), store.read("\ud800", **ALL)):
            with pytest.raises(UnicodeEncodeError):
                await call


class Clock:
    def __init__(self):
        self.now = time.time()

    def __call__(self):
        return self.now


async def test_what_is_over_its_age_goes_from_topics_that_nobody_appends_to(path):
    clock = Clock()
    async with SQLiteStore(path, clock=clock) as store:
        for number in range(10):
            await store.append("quiet", b"%d" % number, Retention(max_age=100))
        clock.now += 200
        await store.append("busy", b"1", Retention(max_age=100))
        page = await store.read("quiet", **ALL)
        assert (page.position.offset, page.entries) == (10, ())
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT count(*) FROM entries").fetchone() == (1,)
    connection.close()


async def test_a_clock_that_is_set_back_makes_no_holes(path):
    clock = Clock()
    async with SQLiteStore(path, clock=clock) as store:
        for number in range(5):
            end = await store.append("a", b"%d" % number, Retention(max_age=100))
            clock.now -= 30
        clock.now += 90
        page = await store.read("a", **ALL)
        offsets = [entry.offset for entry in page.entries]
        assert page.position == end
        assert offsets == list(range(6 - len(offsets), 6))


async def test_topics_that_nobody_uses_are_forgotten_and_those_in_use_are_not(path):
    clock = Clock()
    async with SQLiteStore(path, forget_after=1000, clock=clock) as store:
        unused = await store.append("unused", b"1", Retention(max_age=10))
        kept = await store.append("kept", b"1", KEEP)
        read = (await store.read("read", **ALL)).position
        for _ in range(20):
            clock.now += 100
            assert (await store.read("read", **ALL)).position == read
            await store.append("busy", b"1", KEEP)
        assert (await store.read("kept", **ALL)).position == kept
        assert len((await store.read("kept", **ALL)).entries) == 1
        assert (await store.read("unused", **ALL)).position.epoch != unused.epoch


def test_nonsense_is_refused(path):
    with pytest.raises(ValueError, match="forget_after must be positive"):
        SQLiteStore(path, forget_after=0)
