"""The broker of one process: the contract, and what is lost when a link breaks."""

from __future__ import annotations

from contextlib import asynccontextmanager

import pytest

from trioweb.abc import Broker, Listener
from trioweb.brokers.memory import MemoryBroker
from trioweb.positions import Arrival, Gap
from trioweb.testing import check_broker


async def test_keeps_the_promises_of_a_broker(autojump_clock):
    broker = MemoryBroker()
    assert isinstance(broker, Broker)

    @asynccontextmanager
    async def memory_broker():
        yield broker

    await check_broker(memory_broker)


async def test_a_broken_link_is_told_as_a_gap():
    broker = MemoryBroker()
    async with broker.listen() as listener:
        assert isinstance(listener, Listener)
        await listener.add("a")
        await broker.publish("a", b"1")
        broker.lose()
        await broker.publish("a", b"2")
        assert await listener.receive() == Gap()
        assert await listener.receive() == Arrival("a", b"2")


@pytest.mark.parametrize("bounds", [{"max_arrivals": 2}, {"max_bytes": 20}])
async def test_a_slow_listener_keeps_the_oldest_and_has_one_gap_for_the_rest(bounds):
    broker = MemoryBroker(**bounds)
    async with broker.listen() as listener:
        await listener.add("a")
        for number in range(10):
            await broker.publish("a", b"%010d" % number)
        assert await listener.receive() == Arrival("a", b"%010d" % 0)
        await broker.publish("a", b"%010d" % 10)
        arrivals = [await listener.receive() for _ in range(3)]
        assert arrivals == [Arrival("a", b"%010d" % 1), Gap(), Arrival("a", b"%010d" % 10)]


async def test_a_listener_that_is_gone_costs_nothing():
    broker = MemoryBroker()
    async with broker.listen():
        pass
    assert not broker._ears


@pytest.mark.parametrize("bounds", [{"max_arrivals": 0}, {"max_bytes": 0}])
def test_nonsense_is_refused(bounds):
    with pytest.raises(ValueError, match="at least 1"):
        MemoryBroker(**bounds)
