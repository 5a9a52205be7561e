"""One node's topics: what is live here, the store behind it, and the broker beside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any, Self

import trio

from ..abc import Broker, Store
from ..config import HubLimits, TopicOptions
from ..errors import CallError, StoreFailed
from ..nursery import OwnNursery
from ..positions import Position
from .attach import Link
from .live import LiveTopic, Subscription
from .missing import Missing, Tally
from .publication import pack
from .relay import Carried, Relay
from .resume import Recover, Recovery, recover
from .wire import Format

__all__ = ["HubStatistics", "Node"]

#: Publications after which other tasks have their turn, where neither store nor broker waits.
_BURST = 64
#: Seconds until the store is asked again where an append is in doubt, and topics with such ones.
_RETRY = 1.0
_DOUBTFUL = 1000


@dataclass(frozen=True, slots=True)
class HubStatistics:
    """A snapshot of one hub: what there is now, and counts since it was opened."""

    #: Topics that somebody here subscribes to, and their subscriptions.
    topics: int
    subscriptions: int
    #: Events published here.
    published: int
    #: Subscribers who came back with a position and got all, or heard that something is missing.
    recovered: int
    not_recovered: int
    #: Times that missing numbers were read from the store.
    reread: int
    #: Numbers that the store had no longer by then; the subscribers here were told of the gap.
    lost: int
    #: Positions that the broker did not take at once, and those that the others were never told.
    postponed: int = 0
    given_up: int = 0


class Node:
    """Publishes and delivers; its tasks live as long as its ``async with`` block."""

    def __init__(
        self,
        store: Store,
        broker: Broker | None,
        options: Callable[[str], TopicOptions],
        limits: HubLimits,
    ) -> None:
        self._store = store
        self._options = options
        self._limits = limits
        self._topics: dict[str, LiveTopic] = {}
        self._links: dict[Link, dict[str, Subscription]] = {}
        self._tally = Tally()
        self._relay: Relay | None = None
        if broker is not None:
            self._relay = Relay(broker, take=self._take, lose=self._lose)
        #: Alone, what is missing is one of the appends under way; with other nodes nobody can tell.
        self._missing = Missing(
            store, limits, self._tally, self._begin_anew, is_alone=broker is None
        )
        self._manager = OwnNursery()
        self._nursery: trio.Nursery | None = None
        self._turn = 0
        #: Topics with an append of which only the store knows whether it happened, and whether
        #: that is to be asked yet.
        self._doubtful: dict[str, bool] = {}

    async def __aenter__(self) -> Self:
        self._nursery = self._missing.nursery = await self._manager.__aenter__()
        if self._relay is not None:
            try:
                await self._nursery.start(self._relay.run)
            except BaseException as error:
                await self.__aexit__(type(error), error, None)
                raise
            self._nursery.start_soon(self._relay.announce)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._nursery = self._missing.nursery = None
        await self._manager.__aexit__(kind, error, traceback)

    def statistics(self) -> HubStatistics:
        """Return the counts as they are now."""
        relay = self._relay
        return HubStatistics(
            topics=len(self._topics),
            subscriptions=sum(map(len, self._links.values())),
            postponed=relay.postponed if relay else 0,
            given_up=relay.given_up if relay else 0,
            **asdict(self._tally),
        )

    # --- publishing --------------------------------------------------------------------------

    async def publish(self, topic: str, data: Any) -> Position | None:
        """Give an event its number, send it to all who are here, and to the other nodes."""
        packed = pack(data)
        if len(packed) > self._limits.publication:
            raise ValueError(
                f"{len(packed):,} bytes are more than HubLimits.publication,"
                f" {self._limits.publication:,}"
            )
        self._turn += 1
        if self._turn % _BURST == 0:
            await trio.lowlevel.checkpoint()
        else:
            await trio.lowlevel.checkpoint_if_cancelled()
        options = self._options(topic)
        if options.history is None:
            if live := self._topics.get(topic):
                live.publish(packed)
            self._tally.published += 1
            if self._relay is not None:
                await self._relay.publish(topic, None, 0, packed)
            return None
        position = await self._append(topic, packed, options)
        self._tally.published += 1
        if self._relay is not None:
            await self._relay.publish(topic, position.epoch, position.offset, packed)
        return position

    async def _append(self, topic: str, packed: bytes, options: TopicOptions) -> Position:
        assert options.history is not None
        before = self._topics.get(topic)
        if before is not None:
            before.appending += 1
        try:
            position = await self._store.append(topic, packed, options.history)
        except BaseException as error:
            if before is not None:
                before.appending -= 1
            if live := self._topics.get(topic):
                live.in_doubt = True
                self._missing.look(live)
            if isinstance(error, (StoreFailed, trio.Cancelled)):
                self._doubt(topic)
            raise
        if before is not None:
            before.appending -= 1
        if live := self._topics.get(topic):
            self._arrive(live, position, packed)
        return position

    def _doubt(self, topic: str) -> None:
        """See to it that the other nodes hear of an append that may have happened."""
        if self._relay is None or self._nursery is None:
            return
        if topic in self._doubtful:
            self._doubtful[topic] = True
        elif len(self._doubtful) < _DOUBTFUL:
            self._doubtful[topic] = True
            self._nursery.start_soon(self._settle, topic, self._relay, name="append in doubt")
        else:
            self._relay.given_up += 1

    async def _settle(self, topic: str, relay: Relay) -> None:
        while self._doubtful[topic]:
            self._doubtful[topic] = False
            try:
                page = await self._store.read(topic, limit=0, max_bytes=1)
            except StoreFailed:
                self._doubtful[topic] = True
                await trio.sleep(_RETRY)
            else:
                if page.position.offset:
                    relay.owe(topic, page.position.epoch, page.position.offset)
        del self._doubtful[topic]

    async def remove(self, topic: str) -> None:
        """Forget a topic's history; its subscribers here are unsubscribed."""
        await self._store.remove(topic)
        if live := self._topics.get(topic):
            self.end(live, "removed", "the topic was removed")

    # --- subscribing -------------------------------------------------------------------------

    def subscriptions(self, link: Link, *, but: str) -> int:
        """Return to how many topics a link is subscribed, one not counted."""
        own = self._links.get(link, {})
        return len(own) - (but in own)

    def live(self, topic: str) -> LiveTopic | None:
        """Return the live side of a topic, if it has one here."""
        return self._topics.get(topic)

    async def subscribe(
        self,
        link: Link,
        format_: Format,
        topic: str,
        position: Position | None,
        recover_: Recover,
        limit: int,
    ) -> tuple[Subscription, Recovery | None]:
        """Return a subscription that is joining, and its answer, which is None without history.

        As soon as the answer is on its way `LiveTopic.join` must be called; `leave` if it is
        not sent. It takes the place of a subscription of the same link, if there is one. Raises
        `CallError` for one that is ended meanwhile, by the application or by its link.
        """
        options = self._options(topic)
        while True:
            if link.ended:
                raise CallError("cancelled", "the link has ended")
            self.unsubscribe(link, topic)
            subscription = self._begin(link, format_, topic, options)
            live = subscription.topic
            try:
                if self._relay is not None and not live.is_heard:
                    await self._relay.hear(topic)
                    live.is_heard = True
                recovery = None
                if options.history is not None:
                    recovery = await self._recover(live, position, recover_, limit)
            except BaseException:
                self.leave(subscription)
                raise
            if subscription.expelled is not None:
                raise subscription.expelled
            if self._links.get(link, {}).get(topic) is not subscription and not live.is_over:
                raise CallError("cancelled", "it was unsubscribed, or subscribed anew, meanwhile")
            if recovery is None:
                live.follow(subscription, None)
                return subscription, None
            if subscription.farewell is None:  # else the topic has ended meanwhile: another begins
                if live.follow(subscription, recovery.position):
                    break
                self._begin_anew(live)
        self._missing.look(live)
        if recovery.recovered is not None:
            self._tally.recovered += recovery.recovered
            self._tally.not_recovered += not recovery.recovered
        return subscription, recovery

    async def _recover(
        self, live: LiveTopic, position: Position | None, recover_: Recover, limit: int
    ) -> Recovery:
        async def read() -> Recovery:
            return await recover(
                self._store,
                live.name,
                position,
                mode=recover_,
                limit=min(limit, self._limits.answer_events),
                max_bytes=self._limits.answer_bytes,
            )

        recovery = await read()
        # The first of several who join may have begun after this one.
        return recovery if live.reaches(recovery.position) else await read()

    def _begin(
        self, link: Link, format_: Format, topic: str, options: TopicOptions
    ) -> Subscription:
        live = self._topics.get(topic)
        if live is None:
            live = self._topics[topic] = LiveTopic(topic, options, self._limits)
        own = self._links.get(link)
        if own is None:
            own = self._links[link] = {}
            link.watch(self._link_ended)
        subscription = own[topic] = live.begin(link, format_)
        return subscription

    def unsubscribe(self, link: Link, topic: str, *, for_good: bool = False) -> bool:
        """End a link's subscription to a topic; return whether there was one."""
        subscription = self._links.get(link, {}).get(topic)
        if subscription is None:
            return False
        self.leave(subscription, for_good=for_good)
        return True

    def expel(self, link: Link, topic: str, code: str, message: str) -> bool:
        """End a link's subscription, and tell it so; return whether there was one."""
        subscription = self._links.get(link, {}).get(topic)
        if subscription is None:
            return False
        subscription.expelled = CallError(code, message)
        subscription.topic.tell_end(subscription, code, message)
        self.leave(subscription, for_good=True)
        return True

    def leave(self, subscription: Subscription, *, for_good: bool = False) -> None:
        """End a subscription, unless it is over already."""
        live, link = subscription.topic, subscription.link
        own = self._links.get(link)
        if own is not None and own.get(live.name) is subscription:
            del own[live.name]
            if not own:
                del self._links[link]
                link.forget(self._link_ended)
        live.leave(subscription, for_good=for_good)
        self._vanish(live)

    def _link_ended(self, link: Link) -> None:
        for subscription in self._links.pop(link, {}).values():
            subscription.topic.leave(subscription)
            self._vanish(subscription.topic)

    def _vanish(self, live: LiveTopic) -> None:
        """Forget a topic that nobody here subscribes to."""
        if (live.is_unused or live.is_over) and self._topics.get(live.name) is live:
            del self._topics[live.name]
            relay, nursery = self._relay, self._nursery
            if relay is not None and nursery is not None and relay.forget(live.name):
                nursery.start_soon(relay.tidy, live.name)

    def end(self, live: LiveTopic, code: str, message: str) -> None:
        """End all subscriptions to a topic, and tell the subscribers."""
        subscriptions = live.subscriptions
        live.end(code, message)
        for subscription in subscriptions:
            self.leave(subscription)
        self._vanish(live)

    def _begin_anew(self, live: LiveTopic) -> None:
        self.end(live, "epoch", "the topic's numbers began anew")

    # --- what is missing ---------------------------------------------------------------------

    def _arrive(self, live: LiveTopic, position: Position, packed: bytes) -> None:
        if live.arrive(position, packed):
            self._missing.look(live)
        else:
            self._begin_anew(live)

    def _take(self, topic: str, carried: Carried) -> None:
        """Take what another node has published."""
        live = self._topics.get(topic)
        if live is None:
            return
        if carried.epoch is None:
            if carried.packed is not None:
                live.publish(carried.packed)
            return
        position = Position(carried.epoch, carried.offset)
        if carried.packed is not None:
            self._arrive(live, position, carried.packed)
        elif live.see(position):
            self._missing.look(live)
        else:
            self._begin_anew(live)

    def _lose(self, topic: str | None) -> None:
        """Something that other nodes have published may be missing."""
        for live in list(self._topics.values()) if topic is None else [self._topics.get(topic)]:
            if live is not None:
                if live.options.history is None:
                    live.lose()
                else:
                    live.in_doubt = True
                    self._missing.look(live)
