"""One topic as its reader sees it: `Subscription`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import trio

from ..positions import Position
from ..retrying import Retries
from .feed import Feed, Missed
from .wire import Event

__all__ = ["Subscription", "SubscriptionStatistics"]

#: Events that may be taken from what is there already before others have their turn.
_BATCH = 64


@dataclass(frozen=True, slots=True)
class SubscriptionStatistics:
    """A snapshot of one subscription: what waits now, and counts since it began."""

    #: Events that wait for the reader.
    waiting: int
    #: Live events that the reader was too slow for, so that they came from the history.
    postponed: int
    #: Events that a newer one has replaced, with ``recover="latest"``.
    skipped: int
    #: Events that are lost, as far as they could be counted.
    missed: int


class Subscription(trio.abc.ReceiveChannel[Event | Missed]):
    """The events of one topic, each once and in order, over any number of connections.

    Made by `Session.subscribe`. What could not be had comes as a `Missed`, in its place. One task
    reads; a slow one delays nothing else of the session.
    """

    def __init__(
        self,
        topic: str,
        feed: Feed,
        retries: Retries,
        fetch: Callable[[Subscription], Awaitable[None]],
    ) -> None:
        self.topic = topic
        #: For the session, which fills it.
        self.feed = feed
        #: Set when the first answer is there, or there will be none.
        self.begun = trio.Event()
        #: Counts how often the server could not answer just now.
        self.retries = retries
        self._fetch = fetch
        self._changed = trio.lowlevel.ParkingLot()
        self._error: Callable[[], Exception] | None = None
        self._reading = False
        self._batch = 0

    async def receive(self) -> Event | Missed:
        """Return the next event; cancelling it loses none.

        Raises `trio.ClosedResourceError` after the subscription's block, `trioweb.CallError` if the
        server has ended it or does not let us read on, `trioweb.SessionEnded` when the session
        does not come back, each after the events that are here, and `trio.BusyResourceError` if
        another task reads.
        """
        if self._reading:
            raise trio.BusyResourceError("another task reads this subscription")
        self._batch += 1
        if self._batch >= _BATCH or not len(self.feed):
            self._batch = 0
            self._reading = True
            try:
                await trio.lowlevel.checkpoint()
                await self._wait_item()
            finally:
                self._reading = False
        item = self.feed.take()
        assert item is not None, "there was one, and nobody else takes"
        return item

    async def _wait_item(self) -> None:
        while not len(self.feed):
            self.check()
            if self.feed.joined and self.feed.behind:
                await self._fetch(self)
            else:
                await self._changed.park()

    @property
    def position(self) -> Position | None:
        """The place after the last event received: ``position=`` of a later subscription.

        None where the topic keeps no history.
        """
        return self.feed.position

    def statistics(self) -> SubscriptionStatistics:
        """Return the counts as they are now."""
        feed = self.feed
        return SubscriptionStatistics(len(feed), feed.postponed, feed.skipped, feed.missed)

    def changed(self) -> None:
        """Wake the reader: there is something new for it. Called by the session."""
        self._changed.unpark_all()

    def check(self) -> None:
        """Raise why it is over, if it is."""
        if self._error is not None:
            raise self._error()

    def end(self, error: Callable[[], Exception]) -> None:
        """End it, for what ``error`` makes. Called by the session."""
        if self._error is None:
            self._error = error
            self.feed.left()
        self.begun.set()
        self.changed()

    async def aclose(self) -> None:
        """End it here, whatever is still to be read. The subscription's block does this itself."""
        self.end(lambda: trio.ClosedResourceError("the subscription is over"))
        await trio.lowlevel.checkpoint()

    def __repr__(self) -> str:
        return f"<Subscription {self.topic!r} at {self.position}>"
