"""The contract of a `trioweb.abc.Store`."""

from __future__ import annotations

import math
import secrets
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import NamedTuple, TypeAlias

import trio

from ...abc import Store
from ...config import Retention
from ...positions import Page, Position
from .promises import keeps, require, shown

__all__ = ["MakeStore", "check_store"]

#: Opens a store, each time the same one, for the length of a block.
MakeStore: TypeAlias = Callable[[], AbstractAsyncContextManager[Store]]

_LARGE = 2**40
_ALL = Retention(max_entries=1_000_000, max_bytes=_LARGE, max_age=3600)
#: What a careless store takes for a pattern, a path, a command or an end.
_NAMES = (
    "a",
    "A",
    "a.b",
    "a.*",
    ">",
    "a/b",
    "a b",
    "%_",
    "'\"`;--",
    "a\0b",
    "\U0001f600",
    "x" * 200,
)
#: Seconds, and how long an entry that lives that long is waited for.
_BRIEF, _LATER = 0.25, 0.5
_TASKS = 100


async def check_store(
    make_store: MakeStore, *, durable: bool = False, patience: float = 60
) -> None:
    """Check the promises of a store, on topics with random names.

    ``make_store`` is called without arguments, and gives an async context manager that opens a
    store. With ``durable`` it is called again and again, and must give the same one: what an
    earlier block appended must be there. A promise that takes more than ``patience`` seconds of
    Trio's clock is broken. Ages are waited for on that clock, so under a `trio.testing.MockClock`
    the store must go by it too.

    - The first call that names a topic begins it, ``read`` too: its position stays, with or without
      entries.
    - Numbers count up from 1 in one epoch, whoever appends at the same time; under each number is
      what was appended with it, any bytes and none, on any topic.
    - A page holds the oldest entries after a position, or the newest, in order and without holes,
      as many as ``limit`` and ``max_bytes`` allow; none for another epoch or beyond the end.
    - What is over the retention in number, in bytes or in age goes, the oldest first, and the
      numbers go on.
    - A topic that was removed begins a new epoch.
    - Calls deliver a pending cancellation; a cancelled append has happened as a whole or not at
      all.
    - With ``durable``: everything is there after the store was opened anew.

    Not checked: what ``kill -9`` leaves, and how quick it is. Raises `AssertionError`.
    """
    reopened = False
    for promise in _PROMISES:
        scope = trio.CancelScope(deadline=trio.current_time() + patience)
        with keeps(promise.words, scope):
            async with make_store() as store:
                kept = await promise.check(store)
            if durable:
                async with make_store() as store:
                    for topic, page in kept.items():
                        again = await _all(store, topic)
                        require(
                            again == page,
                            f"opened anew it has {_brief(again)} on {topic!r}, "
                            f"instead of {_brief(page)}",
                        )
                reopened = True
    require(reopened or not durable, "nothing was opened anew")


#: What a check has left in the store, for the look at it later.
_Kept: TypeAlias = dict[str, Page]


class _Promise(NamedTuple):
    words: str
    check: Callable[[Store], Awaitable[_Kept]]


def _topic() -> str:
    return f"topic {secrets.token_hex(8)}"


def _topics() -> list[str]:
    """Make topics whose names differ in little."""
    token = secrets.token_hex(8)
    return [f"{token}.{name}" for name in _NAMES]


async def _all(store: Store, topic: str) -> Page:
    return await store.read(topic, limit=_LARGE, max_bytes=_LARGE)


async def _fill(store: Store, topic: str, count: int, size: int = 10) -> Position:
    position = await store.read(topic, limit=0, max_bytes=_LARGE)
    for number in range(position.position.offset + 1, position.position.offset + count + 1):
        await store.append(topic, b"%0*d" % (size, number), _ALL)
    return (await store.read(topic, limit=0, max_bytes=_LARGE)).position


def _brief(page: Page) -> str:
    offsets = [entry.offset for entry in page.entries]
    return f"the position {page.position} and the entries {shown(offsets)}"


def _holds(page: Page, position: Position, offsets: range, what: str, size: int = 10) -> None:
    """Check a page of entries as `_fill` makes them."""
    require(
        page.position == position and [entry.offset for entry in page.entries] == list(offsets),
        f"{what} gave {_brief(page)}, not {position} with entries from {offsets}",
    )
    for entry in page.entries:
        require(
            entry.data == b"%0*d" % (size, entry.offset),
            f"{what} gave {shown(entry.data)} under {entry.offset}",
        )


async def _begins(store: Store) -> _Kept:
    topics = [_topic(), _topic()]
    epochs: set[str] = set()
    for topic in topics:
        first = await _all(store, topic)
        require(
            first.position.offset == 0 and not first.entries and first.position.epoch,
            f"a new topic has {_brief(first)}, not an epoch, the offset 0 and no entries",
        )
        again = await _all(store, topic)
        require(again == first, f"a second read gave {_brief(again)}, not {_brief(first)} again")
        epochs.add(first.position.epoch)
        position = await store.append(topic, b"one", _ALL)
        expected = Position(first.position.epoch, 1)
        require(position == expected, f"the first append gave {position}, not {expected}")
    require(len(epochs) == len(topics), "two topics have the same epoch")
    return {topic: await _all(store, topic) for topic in topics}


async def _keeps_names_and_data(store: Store) -> _Kept:
    contents = (b"", b"\0", bytes(range(256)), b"'; --", b"x" * 2**20)
    topics = {name: name.encode() for name in _topics()}
    for topic, mark in topics.items():
        await store.append(topic, mark, _ALL)
    kept: _Kept = {}
    for topic, mark in topics.items():
        data = contents if topic == next(iter(topics)) else contents[:1]
        for content in data:
            await store.append(topic, content, _ALL)
        page = kept[topic] = await _all(store, topic)
        found = [entry.data for entry in page.entries]
        require(
            found == [mark, *data], f"{shown(topic)} holds {shown(found)}, not what was appended"
        )
    return kept


async def _numbers(store: Store) -> _Kept:
    topic = _topic()
    given: dict[int, bytes] = {}
    epochs: set[str] = set()

    async def append(first: int) -> None:
        for number in range(first, _TASKS, 20):
            data = b"%d" % number
            position = await store.append(topic, data, _ALL)
            offset = position.offset
            require(offset not in given, f"the number {offset} was given out twice")
            given[offset] = data
            epochs.add(position.epoch)
            await trio.sleep(0.001)

    async def look() -> None:
        while True:
            page = await _all(store, topic)
            offsets = [entry.offset for entry in page.entries]
            require(
                offsets == list(range(1, page.position.offset + 1)),
                f"while others append, a page is not of one moment: {_brief(page)}",
            )
            await trio.sleep(0.001)

    async with trio.open_nursery() as looking:
        looking.start_soon(look)
        async with trio.open_nursery() as nursery:
            for first in range(20):
                nursery.start_soon(append, first)
        looking.cancel_scope.cancel()
    page = await _all(store, topic)
    require(epochs == {page.position.epoch}, "appends at the same time gave several epochs")
    require(sorted(given) == list(range(1, _TASKS + 1)), f"the numbers were {shown(sorted(given))}")
    found = {entry.offset: entry.data for entry in page.entries}
    require(found == given, "what is under a number is not what was appended with it")
    return {topic: page}


async def _pages(store: Store) -> _Kept:
    topic = _topic()
    end = await _fill(store, topic, 20)

    async def after(offset: int, limit: int, max_bytes: int, offsets: range) -> None:
        what = f"read(after={offset}, limit={limit}, max_bytes={max_bytes}) of 20 entries of 10 B"
        position = Position(end.epoch, offset)
        page = await store.read(topic, position, limit=limit, max_bytes=max_bytes)
        _holds(page, end, offsets, what)

    async def newest(limit: int, max_bytes: int, offsets: range) -> None:
        what = f"read(limit={limit}, max_bytes={max_bytes}) of 20 entries of 10 B"
        page = await store.read(topic, limit=limit, max_bytes=max_bytes)
        _holds(page, end, offsets, what)

    nothing = range(0)
    for limit, max_bytes, count in (
        *((0, _LARGE, 0), (1, _LARGE, 1), (7, _LARGE, 7), (20, _LARGE, 20), (99, _LARGE, 20)),
        *((99, 1, 1), (99, 10, 1), (99, 19, 1), (99, 20, 2), (3, 45, 3), (99, 200, 20)),
    ):
        await after(0, limit, max_bytes, range(1, count + 1))
        await newest(limit, max_bytes, range(21 - count, 21) if count else nothing)
    for offset in (1, 5, 13, 18, 19):
        await after(offset, 2, _LARGE, range(offset + 1, min(offset + 3, 21)))
        await after(offset, 99, _LARGE, range(offset + 1, 21))
    for offset in (20, 21, 1000):
        await after(offset, 99, _LARGE, nothing)
    elsewhere = await store.read(topic, Position("another", 5), limit=99, max_bytes=_LARGE)
    _holds(elsewhere, end, nothing, "a read after a position of another epoch")
    return {topic: await _all(store, topic)}


async def _trims(store: Store) -> _Kept:
    by_count, by_bytes = _topic(), _topic()
    for topic, retention in (
        (by_count, Retention(max_entries=3, max_bytes=_LARGE, max_age=math.inf)),
        (by_bytes, Retention(max_entries=_LARGE, max_bytes=35, max_age=math.inf)),
    ):
        end = await _fill(store, topic, 9)
        for number in (10, 11):
            end = await store.append(topic, b"%010d" % number, retention)
            page = await _all(store, topic)
            _holds(page, end, range(number - 2, number + 1), f"a topic with {retention}")
        before = await store.read(topic, Position(end.epoch, 2), limit=2, max_bytes=_LARGE)
        _holds(before, end, range(9, 11), "a read after what is kept no longer")
    await store.append(by_bytes, b"x" * 36, Retention(max_bytes=35))
    page = await _all(store, by_bytes)
    _holds(page, Position(page.position.epoch, 12), range(0), "an entry over max_bytes alone")
    return {topic: await _all(store, topic) for topic in (by_count, by_bytes)}


async def _ages(store: Store) -> _Kept:
    topic = _topic()
    brief = Retention(max_age=_BRIEF)
    for number in (1, 2, 3):
        end = await store.append(topic, b"%010d" % number, brief)
    await trio.sleep(_LATER)
    _holds(await _all(store, topic), end, range(0), f"{_LATER} s later, an age of {_BRIEF} s")
    # An older entry goes no later than a newer one.
    await _fill(store, topic, 1)
    end = await store.append(topic, b"%010d" % 5, brief)
    await trio.sleep(_LATER)
    end = await store.append(topic, b"%010d" % 6, _ALL)
    _holds(await _all(store, topic), end, range(6, 7), "after an age became shorter")
    return {topic: await _all(store, topic)}


async def _removes(store: Store) -> _Kept:
    topic, other = _topic(), _topic()
    before = await _fill(store, topic, 3)
    await _fill(store, other, 3)
    await store.remove(topic)
    await store.remove(topic)
    page = await _all(store, topic)
    require(
        page.position.epoch != before.epoch and page.position.offset == 0 and not page.entries,
        f"a removed topic, which had {before}, comes back with {_brief(page)}",
    )
    end = await _fill(store, topic, 1)
    require(end == Position(page.position.epoch, 1), f"a removed topic goes on at {end}")
    return {one: await _all(store, one) for one in (topic, other)}


async def _cancels(store: Store) -> _Kept:
    topic = _topic()
    calls: dict[str, Callable[[], Awaitable[object]]] = {
        "append": lambda: store.append(topic, b"perhaps", _ALL),
        "read": lambda: store.read(topic, limit=1, max_bytes=1),
        "remove": lambda: store.remove(topic),
    }
    for name, call in calls.items():
        with trio.CancelScope() as scope:
            scope.cancel()
            await call()
        require(scope.cancelled_caught, f"{name} did not deliver a pending cancellation")

    sent = [b"%d" % number for number in range(_TASKS)]
    given: dict[int, bytes] = {}

    async def append(number: int) -> None:
        with trio.move_on_after(number / _TASKS / 100):
            position = await store.append(topic, sent[number], _ALL)
            given[position.offset] = sent[number]

    async with trio.open_nursery() as nursery:
        for number in range(_TASKS):
            nursery.start_soon(append, number)
    await store.append(topic, b"last", _ALL)
    page = await _all(store, topic)
    found = {entry.offset: entry.data for entry in page.entries}
    require(
        list(found) == list(range(1, page.position.offset + 1)),
        f"after cancelled appends there is {_brief(page)}",
    )
    require(given.items() <= found.items(), "an append that returned is not there")
    require(
        set(found.values()) <= {*sent, b"perhaps", b"last"}
        and len(set(found.values())) == len(found),
        "a cancelled append is there twice, or in part",
    )
    return {topic: page}


_PROMISES = [
    _Promise("the first call begins a topic, and its position stays", _begins),
    _Promise("any name and any data are kept as they are", _keeps_names_and_data),
    _Promise("each number is given out once, and stands for one entry", _numbers),
    _Promise("a page holds what was asked for, in order", _pages),
    _Promise("what is over the retention goes, the oldest first", _trims),
    _Promise("what is over its age goes, and the numbers stay", _ages),
    _Promise("a topic that was removed begins a new epoch", _removes),
    _Promise("a cancelled call leaves the store whole", _cancels),
]
