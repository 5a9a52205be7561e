"""`check_store` and `check_broker`: each promise that is broken is found out."""

# ruff: noqa: ARG002 - who breaks a promise often has no use for what it is given

from __future__ import annotations

from contextlib import asynccontextmanager

import pytest
import trio

from trioweb.brokers.memory import MemoryBroker
from trioweb.config import Retention
from trioweb.positions import Arrival, Gap, Page, Position
from trioweb.stores.memory import MemoryStore
from trioweb.testing import check_broker, check_store


class EpochAtFirstAppend(MemoryStore):
    async def read(self, topic, /, after=None, **options):
        page = await super().read(topic, after, **options)
        if page.position.offset == 0:
            await self.remove(topic)
        return page


class OneEpoch(MemoryStore):
    async def append(self, *args, **options):
        return Position("epoch", (await super().append(*args, **options)).offset)

    async def read(self, topic, /, after=None, **options):
        page = await super().read(topic, **options)
        return Page(Position("epoch", page.position.offset), page.entries)


class CountsFromZero(MemoryStore):
    async def append(self, *args, **options):
        position = await super().append(*args, **options)
        return Position(position.epoch, position.offset - 1)


class NumbersBeforeItAppends(MemoryStore):
    async def append(self, topic, data, /, retention):
        page = await self.read(topic, limit=0, max_bytes=1)
        await trio.lowlevel.checkpoint()
        await super().append(topic, data, retention)
        return Position(page.position.epoch, page.position.offset + 1)


class PagesOfTwoMoments(MemoryStore):
    async def read(self, topic, /, after=None, **options):
        page = await super().read(topic, after, **options)
        await trio.lowlevel.checkpoint()
        now = await super().read(topic, limit=0, max_bytes=1)
        return Page(now.position, page.entries)


class CutsNames(MemoryStore):
    async def append(self, topic, data, /, retention):
        return await super().append(topic.partition("\0")[0], data, retention)

    async def read(self, topic, /, after=None, **options):
        return await super().read(topic.partition("\0")[0], after, **options)


class IgnoresCase(MemoryStore):
    async def append(self, topic, data, /, retention):
        return await super().append(topic.lower(), data, retention)

    async def read(self, topic, /, after=None, **options):
        return await super().read(topic.lower(), after, **options)


class Text(MemoryStore):
    async def append(self, topic, data, /, retention):
        return await super().append(topic, data.decode(errors="replace").encode(), retention)


class NoLimit(MemoryStore):
    async def read(self, topic, /, after=None, *, limit, max_bytes):
        return await super().read(topic, after, limit=limit or 1, max_bytes=max_bytes)


class NoBytes(MemoryStore):
    async def read(self, topic, /, after=None, *, limit, max_bytes):
        return await super().read(topic, after, limit=limit, max_bytes=2**40)


class NotOneAtLeast(MemoryStore):
    async def read(self, topic, /, after=None, *, limit, max_bytes):
        page = await super().read(topic, after, limit=limit, max_bytes=max_bytes)
        if sum(len(entry.data) for entry in page.entries) > max_bytes:
            return Page(page.position)
        return page


class NewestBackwards(MemoryStore):
    async def read(self, topic, /, after=None, **options):
        page = await super().read(topic, after, **options)
        return page if after else Page(page.position, page.entries[::-1])


class AnyEpoch(MemoryStore):
    async def read(self, topic, /, after=None, **options):
        page = await super().read(topic, **options)
        if after is not None:
            after = Position(page.position.epoch, after.offset)
        return await super().read(topic, after, **options)


class KeepsAll(MemoryStore):
    async def append(self, topic, data, /, retention):
        everything = Retention(10**9, 2**40, retention.max_age)
        return await super().append(topic, data, everything)


class KeepsForEver(MemoryStore):
    async def append(self, topic, data, /, retention):
        for_ever = Retention(retention.max_entries, retention.max_bytes, 10**9)
        return await super().append(topic, data, for_ever)


class ForgetsNumbersWithEntries(MemoryStore):
    async def read(self, topic, /, after=None, **options):
        page = await super().read(topic, after, **options)
        if page.position.offset and not self._topics[topic].entries:
            await self.remove(topic)
            return await super().read(topic, after, **options)
        return page


class RemovesEntriesAlone(MemoryStore):
    async def remove(self, topic, /):
        await trio.lowlevel.checkpoint_if_cancelled()
        while topic in self._topics and self._topics[topic].entries:
            self._topics[topic].pop()


class NoCancellation(MemoryStore):
    async def append(self, topic, data, /, retention):
        with trio.CancelScope(shield=True):
            return await super().append(topic, data, retention)


class NumbersWhatIsCancelled(MemoryStore):
    async def append(self, topic, data, /, retention):
        position = await super().append(topic, data, retention)
        try:
            await trio.sleep(0.001)
        except trio.Cancelled:
            kept = self._topics[topic]
            kept.entries = type(kept.entries)(
                e for e in kept.entries if e.offset != position.offset
            )
            raise
        return position


class AppendsTwice(MemoryStore):
    async def append(self, topic, data, /, retention):
        await super().append(topic, data, retention)
        return await super().append(topic, data, retention)


class Fails(MemoryStore):
    async def append(self, topic, data, /, retention):
        raise OSError("no room")


class Hangs(MemoryStore):
    async def append(self, topic, data, /, retention):
        await trio.sleep_forever()


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (EpochAtFirstAppend, "a second read gave"),
        (OneEpoch, "two topics have the same epoch|entries from"),
        (CountsFromZero, "the first append gave"),
        (NumbersBeforeItAppends, "was given out twice"),
        (PagesOfTwoMoments, "a page is not of one moment"),
        (CutsNames, "holds"),
        (IgnoresCase, "holds"),
        (Text, "not what was appended"),
        (NoLimit, "limit=0"),
        (NoBytes, "max_bytes=1"),
        (NotOneAtLeast, "max_bytes=1"),
        (NewestBackwards, "gave|not what was appended"),
        (AnyEpoch, "another epoch"),
        (KeepsAll, "over the retention"),
        (KeepsForEver, "an age of"),
        (ForgetsNumbersWithEntries, "over max_bytes alone|an age of|numbers stay"),
        (RemovesEntriesAlone, "a removed topic"),
        (NoCancellation, "append did not deliver"),
        (NumbersWhatIsCancelled, "after cancelled appends|is not there"),
        (AppendsTwice, "the first append gave"),
        (Fails, "there came OSError"),
        (Hangs, "it hangs"),
    ],
)
async def test_a_store_that_breaks_a_promise_is_found_out(autojump_clock, kind, words):
    store = kind()

    @asynccontextmanager
    async def make_store():
        yield store

    with pytest.raises(AssertionError, match=words):
        await check_store(make_store)


async def test_a_store_that_does_not_last_is_found_out(autojump_clock):
    @asynccontextmanager
    async def make_store():
        yield MemoryStore()

    with pytest.raises(AssertionError, match="opened anew it has"):
        await check_store(make_store, durable=True)


class Ear:
    """A listener around that of the memory."""

    def __init__(self, broker, ear):
        self.broker = broker
        self.ear = ear

    async def add(self, topic):
        await self.ear.add(topic)

    async def remove(self, topic):
        await self.ear.remove(topic)

    async def receive(self):
        return await self.ear.receive()


class Broken(MemoryBroker):
    ear: type[Ear] = Ear

    @asynccontextmanager
    async def listen(self):
        async with super().listen() as ear:
            yield self.ear(self, ear)


def broken(**members):
    return type("Broken", (Broken,), {"ear": type("Ear", (Ear,), members)})


async def _adds_later(self, topic):
    await trio.lowlevel.checkpoint()
    trio.lowlevel.spawn_system_task(self.ear.add, topic)


async def _never_removes(self, topic):
    await trio.lowlevel.checkpoint()


async def _loses_when_cancelled(self):
    arrival = await self.ear.receive()
    await trio.lowlevel.checkpoint()
    return arrival


async def _never_cancelled(self):
    with trio.CancelScope(shield=True), trio.move_on_after(5):
        return await self.ear.receive()
    return Gap()


async def _keeps_gaps_for_itself(self):
    while isinstance(arrival := await self.ear.receive(), Gap):
        pass
    return arrival


async def _is_told_of_gaps_elsewhere(self):
    arrival = await self.ear.receive()
    return Gap("elsewhere") if isinstance(arrival, Gap) else arrival


async def _cuts(self):
    arrival = await self.ear.receive()
    return Arrival(arrival.topic, arrival.data[:-1]) if isinstance(arrival, Arrival) else arrival


async def _swaps(self):
    self.held = getattr(self, "held", [])
    if not self.held:
        self.held = [await self.ear.receive()]
        with trio.move_on_after(0.001):
            self.held.append(await self.ear.receive())
    return self.held.pop()


class Echoless(MemoryBroker):
    """No node hears itself: each has its own first ear."""

    async def publish(self, topic, data, /):
        await trio.lowlevel.checkpoint()
        for ear in list(self._ears)[1:]:
            if topic in ear.topics:
                ear.put(topic, data)


class Patterns(MemoryBroker):
    async def publish(self, topic, data, /):
        await super().publish(topic, data)
        for ear in self._ears:
            for other in ear.topics - {topic}:
                if other.startswith(topic):
                    ear.put(other, data)


class Twice(MemoryBroker):
    async def publish(self, topic, data, /):
        await super().publish(topic, data)
        await super().publish(topic, data)


class Waits(MemoryBroker):
    async def publish(self, topic, data, /):
        while any(len(ear._arrivals) >= 1000 for ear in self._ears):
            await trio.sleep(1)
        await super().publish(topic, data)


class KeepsTheNewest(MemoryBroker):
    """Drops the oldest without a word."""

    async def publish(self, topic, data, /):
        await super().publish(topic, data)
        for ear in self._ears:
            while len(ear._arrivals) > 900:
                dropped = ear._arrivals.popleft()
                ear._size -= len(dropped.data) if isinstance(dropped, Arrival) else 0


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (broken(add=_adds_later), "it hangs|arrived"),
        (broken(remove=_never_removes), "arrived, not"),
        (broken(receive=_loses_when_cancelled), "of 500 publications|it hangs"),
        (broken(receive=_never_cancelled), "arrived"),
        (broken(receive=_keeps_gaps_for_itself), "without a gap"),
        (broken(receive=_is_told_of_gaps_elsewhere), "a gap of 'elsewhere'"),
        (broken(receive=_cuts), "arrived, not"),
        (broken(receive=_swaps), "arrived, not"),
        (Echoless, "it hangs|arrived"),
        (Patterns, "arrived"),
        (Twice, "arrived"),
        (Waits, "it hangs"),
        (KeepsTheNewest, "without a gap|it hangs"),
    ],
)
async def test_a_broker_that_breaks_a_promise_is_found_out(autojump_clock, kind, words):
    broker = kind()

    @asynccontextmanager
    async def make_broker():
        yield broker

    with pytest.raises(AssertionError, match=words):
        await check_broker(make_broker)


async def test_each_node_a_broker_of_its_own_is_found_out(autojump_clock):
    @asynccontextmanager
    async def make_broker():
        yield MemoryBroker()

    with pytest.raises(AssertionError, match="it hangs"):
        await check_broker(make_broker)
