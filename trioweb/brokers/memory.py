"""A broker inside one process: several hubs, as if they were nodes, in one test."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import trio

from ..abc import Listener
from ..positions import Arrival, Gap

__all__ = ["MemoryBroker"]


class _Ear:
    """A listener: what has arrived and was not received yet, up to a bound."""

    def __init__(self, max_arrivals: int, max_bytes: int) -> None:
        self.topics: set[str] = set()
        self._max_arrivals = max_arrivals
        self._max_bytes = max_bytes
        self._arrivals: deque[Arrival | Gap] = deque()
        self._size = 0
        self._arrived = trio.lowlevel.ParkingLot()

    async def add(self, topic: str, /) -> None:
        await trio.lowlevel.checkpoint()
        self.topics.add(topic)

    async def remove(self, topic: str, /) -> None:
        await trio.lowlevel.checkpoint()
        self.topics.discard(topic)

    async def receive(self) -> Arrival | Gap:
        if self._arrivals:
            await trio.lowlevel.checkpoint()
        else:
            await self._arrived.park()
        arrival = self._arrivals.popleft()
        if isinstance(arrival, Arrival):
            self._size -= len(arrival.data)
        return arrival

    def put(self, topic: str, data: bytes) -> None:
        is_gap = bool(self._arrivals) and isinstance(self._arrivals[-1], Gap)
        if (
            len(self._arrivals) - is_gap >= self._max_arrivals
            or self._size + len(data) > self._max_bytes
        ):
            if not is_gap:
                self.put_gap()
            return
        self._size += len(data)
        self._arrivals.append(Arrival(topic, data))
        self._arrived.unpark()

    def put_gap(self) -> None:
        self._arrivals.append(Gap())
        self._arrived.unpark()

    def lose(self) -> None:
        self._arrivals.clear()
        self._size = 0
        self.put_gap()


class MemoryBroker:
    """A `trioweb.abc.Broker` in memory, for hubs that share it in one process.

    A listener holds up to ``max_arrivals`` and ``max_bytes`` that were not received; what comes
    then is dropped, and told as a gap. `lose` plays a broken link.
    """

    def __init__(self, *, max_arrivals: int = 1024, max_bytes: int = 2**24) -> None:
        if max_arrivals < 1 or max_bytes < 1:
            raise ValueError("max_arrivals and max_bytes must be at least 1")
        self._bounds = (max_arrivals, max_bytes)
        self._ears: dict[_Ear, None] = {}

    async def publish(self, topic: str, data: bytes, /) -> None:
        """Give data to all listeners that hear the topic."""
        await trio.lowlevel.checkpoint_if_cancelled()
        for ear in self._ears:
            if topic in ear.topics:
                ear.put(topic, bytes(data))

    def lose(self) -> None:
        """Play links that broke: what was not received is gone, and each listener has a gap."""
        for ear in self._ears:
            ear.lose()

    @asynccontextmanager
    async def listen(self) -> AsyncGenerator[Listener]:
        """Open an ear that hears no topic yet, for the length of a block."""
        ear = _Ear(*self._bounds)
        self._ears[ear] = None
        try:
            yield ear
        finally:
            del self._ears[ear]
