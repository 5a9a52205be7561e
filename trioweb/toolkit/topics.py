"""The subscriptions of a session, and what the server knows of them on the present link."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any, Protocol

import msgspec
import trio
from msgspec import Meta

from ..config import Backoff, SessionLimits
from ..errors import CallError, CallLost
from ..nursery import OwnNursery
from ..positions import Position
from ..retrying import Retries
from .feed import Feed, Recover
from .subscription import Subscription
from .wire import JSON, MSGPACK, Event, Result, WireMessage

__all__ = ["Caller", "Place", "Topics"]

logger = logging.getLogger("trioweb.session")

#: What a server says of a bad moment. The same question may get another answer later.
_PASSING = frozenset({"busy", "rate-limited", "timeout", "internal", "cancelled"})

#: Seconds until a history is asked again that has not yet what came live, or may have.
_LAG = 0.1

#: The server has ended the subscription, and would not let us in again.
_FINAL = frozenset({"unauthorized", "forbidden"})

_Offset = Annotated[int, Meta(ge=0, lt=2**53)]


class Place(msgspec.Struct, frozen=True):
    """A position, as it is written."""

    epoch: str
    offset: _Offset

    @property
    def position(self) -> Position:
        """The position that it stands for."""
        return Position(self.epoch, self.offset)


class _Entry(msgspec.Struct, frozen=True):
    offset: _Offset
    data: Any = None


class _Answer(msgspec.Struct, frozen=True):
    """What ``subscribe`` and ``history`` return."""

    position: Place | None = None
    recovered: bool | None = None
    events: list[_Entry] = []

    def take(self, topic: str) -> tuple[Position | None, list[Event]]:
        place = None if self.position is None else self.position.position
        return place, [Event(topic, entry.offset, entry.data) for entry in self.events]


async def _unsubscribe(caller: Caller, topic: str) -> None:
    try:
        await caller.call("unsubscribe", {"topic": topic})
    except CallLost:
        raise
    except CallError as error:  # what it sends still is left out here
        logger.info("no end of the subscription to %.80r: %s", topic, error)


def _read(value: Any) -> _Answer:
    """Return what an answer says; raises `CallError` for one that says nothing sensible."""
    try:
        return msgspec.convert(value, _Answer)
    except msgspec.ValidationError as error:
        raise CallError("invalid", f"the server's answer makes no sense: {error}") from None


def _size(message: WireMessage) -> int:
    """Return about how many bytes a message had."""
    try:
        return len(MSGPACK.encode(message))
    except TypeError:  # an integer beyond 64 bits came in JSON
        return len(JSON.encode(message))


class Caller(Protocol):
    """What is at the other end of the present link."""

    async def call(self, method: str, params: Any, /) -> Any:
        """Run a method there; raises `CallError`, and `CallLost` at the end of the link."""


class Topics:
    """Keeps what the server sends at what is subscribed to here, link after link."""

    def __init__(self, backoff: Backoff, limits: SessionLimits) -> None:
        self._backoff = backoff
        self._limits = limits
        self._caller: Caller | None = None
        self._wanted: dict[str, Subscription] = {}
        #: Topics whose events the server sends on this link, or may, and for whom. None: for
        #: nobody, so it has to be told to stop.
        self._live: dict[str, Subscription | None] = {}
        #: Topics about which the server is asked or told something just now.
        self._settling: set[str] = set()
        self._todo: dict[str, None] = {}
        self._work = trio.lowlevel.ParkingLot()
        self._error: Callable[[], Exception] | None = None

    @asynccontextmanager
    async def subscribe(
        self, topic: str, position: Position | None, recover: Recover
    ) -> AsyncGenerator[Subscription]:
        """Subscribe for the length of a block; waits until the server has answered."""
        if self._error is not None:
            raise self._error()
        if topic in self._wanted:
            raise ValueError(f"this session is subscribed to {topic!r:.80} already")
        MSGPACK.encode(Event(topic))  # a name that cannot be sent is refused here
        feed = Feed(position, recover, self._limits)
        subscription = Subscription(topic, feed, Retries(self._backoff), self._fetch)
        self._wanted[topic] = subscription
        self._settle_soon(topic)
        try:
            await subscription.begun.wait()
            subscription.check()
            yield subscription
        finally:
            self._drop(subscription, lambda: trio.ClosedResourceError("the subscription is over"))

    def end(self, error: Callable[[], Exception]) -> None:
        """End all subscriptions for good: there will be no link any more."""
        self._error = error
        for subscription in list(self._wanted.values()):
            self._drop(subscription, error)

    def __len__(self) -> int:
        return len(self._wanted)

    # --- one link ----------------------------------------------------------------------------

    async def run(self, caller: Caller) -> None:
        """Renew the subscriptions on a link, and begin and end others on it, until cancelled."""
        self._caller = caller
        self._live.clear()
        self._todo = dict.fromkeys(self._wanted)
        limiter = trio.CapacityLimiter(self._limits.renewals)
        try:
            async with OwnNursery() as nursery:
                while True:
                    for topic in self._todo:
                        if topic not in self._settling:
                            self._settling.add(topic)
                            nursery.start_soon(self._settle, topic, caller, limiter)
                    self._todo.clear()
                    await self._work.park()
        finally:
            self.lost(caller)

    def lost(self, caller: Caller) -> None:
        """Note that a link is over."""
        if self._caller is caller:
            self._caller = None
            self._live.clear()
            for subscription in self._wanted.values():
                subscription.feed.left()

    def event(self, event: Event) -> None:
        """Take an event from the server."""
        subscription = self._live.get(event.topic)
        if subscription is not None:
            feed = subscription.feed
            # Its size matters only if it has to wait behind others.
            feed.live(event, _size(event) if len(feed) or feed.behind else 0)
            subscription.changed()

    def gap(self, topic: str, missed: int) -> None:
        """Take the server's word that it has left events out."""
        subscription = self._live.get(topic)
        if subscription is not None:
            subscription.feed.dropped(missed)
            subscription.changed()

    def unsubscribed(self, topic: str, error: CallError) -> None:
        """Take the server's word that it sends no more; where it makes sense, ask again."""
        subscription = self._live.pop(topic, None)
        if subscription is not None:
            subscription.feed.left()
            if error.code in _FINAL:
                self._drop(subscription, lambda: error)
            self._settle_soon(topic)

    # --- inside ------------------------------------------------------------------------------

    def _settle_soon(self, topic: str) -> None:
        if self._caller is not None:  # else all that is wanted is to be done on the next link
            self._todo[topic] = None
            self._work.unpark_all()

    def _drop(self, subscription: Subscription, error: Callable[[], Exception]) -> None:
        if self._wanted.get(subscription.topic) is subscription:
            del self._wanted[subscription.topic]
            self._settle_soon(subscription.topic)
        subscription.end(error)

    async def _settle(self, topic: str, caller: Caller, limiter: trio.CapacityLimiter) -> None:
        """Subscribe and unsubscribe until the server does what is wanted."""
        try:
            while True:
                wanted = self._wanted.get(topic)
                if topic in self._live:
                    if self._live[topic] is wanted:
                        return
                    del self._live[topic]
                    async with limiter:
                        await _unsubscribe(caller, topic)
                elif wanted is not None:
                    await self._join(wanted, caller, limiter)
                else:
                    return
        except CallLost:
            self.lost(caller)
        finally:
            self._settling.discard(topic)

    async def _join(
        self, subscription: Subscription, caller: Caller, limiter: trio.CapacityLimiter
    ) -> None:
        topic, feed = subscription.topic, subscription.feed
        params: dict[str, Any] = {"topic": topic}
        async with limiter:
            position = feed.ask()
            if position is not None:
                params |= {"position": msgspec.to_builtins(position), "limit": feed.page}
            if feed.latest:
                params["recover"] = "latest"
            self._live[topic] = subscription
            try:
                value = await caller.call("subscribe", params)
                answer = _read(value)
            except CallLost:
                raise
            except CallError as error:
                del self._live[topic]
                refused = error
            else:
                if self._live.get(topic) is not subscription:
                    return  # the link was lost in the same turn
                subscription.retries.failures = 0
                # As above: what was left of the last link may wait before it.
                size = _size(Result(1, value)) if len(feed) and answer.events else 0
                feed.answered(*answer.take(topic), size)
                subscription.begun.set()
                subscription.changed()
                return
        await self._wait_or_drop(subscription, refused)

    async def _wait_or_drop(self, subscription: Subscription, error: CallError) -> None:
        """Wait as long as it takes to ask again, or give up what makes no sense."""
        try:
            if error.code not in _PASSING:
                raise error
            delay = subscription.retries.failed(error)
        except CallError:
            self._drop(subscription, lambda: error)
        else:
            await trio.sleep(delay)

    async def _fetch(self, subscription: Subscription) -> None:
        """Get a part of the history, for a reader that has taken what was there."""
        caller, topic, feed = self._caller, subscription.topic, subscription.feed
        assert caller is not None, "without a link nobody is joined"
        position = feed.ask()
        params: dict[str, Any] = {"topic": topic, "limit": 1 if feed.latest else feed.page}
        if position is not None and not feed.latest:
            params["position"] = msgspec.to_builtins(position)
        try:
            answer = _read(await caller.call("history", params))
        except CallLost:
            feed.doubt()
            self.lost(caller)
        except CallError as error:
            feed.doubt()
            await self._wait_or_drop(subscription, error)
        except BaseException:
            feed.doubt()
            raise
        else:
            subscription.retries.failures = 0
            if not feed.joined:
                return  # it was ended meanwhile, or the answer to another ``subscribe`` will tell
            if not feed.paged(*answer.take(topic)):
                self._live[topic] = None
                self._settle_soon(topic)
            elif feed.behind and not len(feed):
                await trio.sleep(_LAG)
