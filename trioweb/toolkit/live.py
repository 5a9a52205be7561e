"""The live side of one topic on this node: who gets its events, and in which order."""

from __future__ import annotations

from functools import partial

import trio

from ..config import HubLimits, Overflow, Policy, TopicOptions
from ..errors import CallError
from ..positions import Position
from ..types import Message
from .attach import Link
from .presence import Visit
from .publication import Publication, gap_notice, unsubscribed_notice
from .resume import InOrder
from .rooms import Room, RoomOptions
from .wire import Format, Notify

__all__ = ["LiveTopic", "Subscription", "notify"]

_ENDED = (trio.BrokenResourceError, trio.ClosedResourceError)
#: No number follows it: what comes before the first position is known has to wait.
_NOWHERE = -1


#: What tells of a gap is not left out itself.
_NOTICE = Policy(Overflow.CLOSE)


def notify(link: Link, message: Message) -> None:
    """Send a notice; who has no room for it is too slow."""
    try:
        link.send_nowait(message, _NOTICE)
    except _ENDED:
        return


class Subscription:
    """One link's place in a topic.

    While it is joining, events are kept for it: until its answer is on its way, which says after
    which number the events follow.
    """

    __slots__ = ("expelled", "farewell", "format", "is_joined", "link", "number", "topic", "visit")

    def __init__(self, topic: LiveTopic, link: Link, format_: Format) -> None:
        self.topic = topic
        self.link = link
        self.format = format_
        #: The number after which events follow.
        self.number = 0
        #: What it hears once it has its answer, if the topic ended before that.
        self.farewell: Message | None = None
        #: What it was told when the application ended it.
        self.expelled: CallError | None = None
        #: Whether it gets events.
        self.is_joined = False
        #: Its presence, where the topic has that.
        self.visit: Visit | None = None


class _Audience:
    """The subscribers of one format: a room, with a policy for the topic's events."""

    __slots__ = ("beside", "format", "links", "policy", "room")

    def __init__(self, topic: str, format_: Format, overflow: Overflow) -> None:
        self.format = format_
        self.links: dict[Link, Subscription] = {}
        gap = partial(gap_notice, topic, format_)
        key = ("topic", topic) if overflow is Overflow.COALESCE else None
        self.policy = Policy(overflow, key=key, gap=gap)
        #: For what comes beside the events, which must not take an event's place, nor be counted
        #: as one where it is dropped.
        self.beside = Policy(
            overflow if key is None else Overflow.DROP_OLDEST,
            gap=lambda _: gap_notice(topic, format_, 0),
        )
        # Whose link has ended leaves by the hub, which watches it.
        self.room = Room(topic, RoomOptions(policy=self.policy), self.links, _nobody)


def _nobody(_name: str, _link: Link) -> None:
    """Let nobody leave by the room itself."""


class LiveTopic:
    """A topic that somebody subscribes to. Without I/O: nothing here waits.

    Events have numbers, those of a topic without history get theirs here. They are sent in order,
    each once, to all who have joined. What comes too early waits for what is missing, and `hole`
    says that something is.
    """

    def __init__(self, name: str, options: TopicOptions, limits: HubLimits) -> None:
        self.name = name
        self.options = options
        #: The epoch of the numbers, once it is known.
        self.epoch: str | None = None
        #: The number up to which all was sent, or given up.
        self.sent = 0
        #: Whether it was ended: its numbers are over.
        self.is_over = False
        #: Appends of this node that are under way.
        self.appending = 0
        #: Whether one of them ended so that only the store knows whether it happened.
        self.in_doubt = False
        #: Whether somebody reads what is missing.
        self.reading = False
        #: Whether the broker carries it here.
        self.is_heard = False
        self._max_items = limits.answer_events
        self._max_bytes = limits.answer_bytes
        self._order = InOrder[Publication](
            _NOWHERE, max_items=self._max_items, max_bytes=self._max_bytes
        )
        self._audiences: dict[Format, _Audience] = {}
        self._joining: dict[Subscription, None] = {}
        #: Those who have joined, and whose answer was ahead of what was sent here.
        self._early: list[Subscription] = []
        #: What was sent while somebody was joining; each takes of it what follows its answer.
        self._recent: list[Publication] = []
        self._recent_bytes = 0

    # --- subscribers -------------------------------------------------------------------------

    @property
    def subscriptions(self) -> list[Subscription]:
        """Those who subscribe to it, and who are about to."""
        joined = [one for audience in self._audiences.values() for one in audience.links.values()]
        return [*self._joining, *self._early, *joined]

    @property
    def is_unused(self) -> bool:
        """Whether nobody does."""
        return not (
            self._joining or self._early or any(one.links for one in self._audiences.values())
        )

    def begin(self, link: Link, format_: Format) -> Subscription:
        """Keep events for somebody from now on, until `join` or `leave`."""
        subscription = Subscription(self, link, format_)
        self._joining[subscription] = None
        return subscription

    def follow(self, subscription: Subscription, position: Position | None) -> bool:
        """Note after which position events follow: that of the answer, or here and now.

        Return False if that is a position in another epoch.
        """
        if position is None:
            subscription.number = self.sent
            return True
        if not self._is_of(position.epoch):
            return False
        subscription.number = position.offset
        if self._order.last == _NOWHERE:
            self.sent = position.offset
            self._send_all(self._order.skip_to(position.offset))
        self._order.see(position.offset)
        return True

    def reaches(self, position: Position) -> bool:
        """Whether all that follows a position is still here, or yet to come."""
        offset = position.offset
        return (
            self.epoch != position.epoch
            or offset >= self.sent
            or bool(self._recent and self._recent[0].number <= offset + 1)
        )

    def join(self, subscription: Subscription) -> None:
        """Send what has come since the answer, which was sent just now, and from now on all."""
        if subscription.farewell is not None:
            notify(subscription.link, subscription.farewell)
        if subscription not in self._joining:
            return  # it has left again
        del self._joining[subscription]
        audience = self._audience(subscription.format)
        try:
            self._send_recent(subscription, audience)
        except _ENDED:
            return
        finally:
            self._forget_recent()
        subscription.is_joined = True
        if subscription.number > self.sent:
            self._early.append(subscription)
        else:
            audience.links[subscription.link] = subscription

    def leave(self, subscription: Subscription, *, for_good: bool = False) -> None:
        """Send nothing more. ``for_good``: nobody waits for this user to come back."""
        self._joining.pop(subscription, None)
        self._forget_recent()
        if subscription in self._early:
            self._early.remove(subscription)
        audience = self._audiences.get(subscription.format)
        if audience is not None and audience.links.get(subscription.link) is subscription:
            del audience.links[subscription.link]
        subscription.is_joined = False
        if subscription.visit is not None:
            subscription.visit.leave(for_good=for_good)

    def end(self, code: str, message: str) -> None:
        """End it: tell the subscribers that no events come any more."""
        self.is_over = True
        for one in self.subscriptions:
            self.tell_end(one, code, message)

    def tell_end(self, subscription: Subscription, code: str, message: str) -> None:
        """Tell a subscriber that no events come any more; behind its answer, if that is due."""
        notice = unsubscribed_notice(self.name, subscription.format, code, message)
        if subscription in self._joining:
            subscription.farewell = notice
        else:
            notify(subscription.link, notice)

    # --- events ------------------------------------------------------------------------------

    def publish(self, packed: bytes) -> None:
        """Send an event of a topic without history."""
        self._send(Publication(self.name, self.sent + 1, packed, kept=False))

    def arrive(self, position: Position, packed: bytes) -> bool:
        """Take an event that has a number, and send it in its turn.

        Return False if it is one of another epoch.
        """
        if not self._is_of(position.epoch):
            return False
        if position.offset > self._order.last:  # else it was here before
            publication = Publication(self.name, position.offset, packed, kept=True)
            self._send_all(self._order.put(position.offset, publication, len(packed)))
        return True

    def see(self, position: Position) -> bool:
        """Take note that a number is given out; return False if it is one of another epoch."""
        if not self._is_of(position.epoch):
            return False
        self._order.see(position.offset)
        return True

    @property
    def hole(self) -> bool:
        """Whether a number is missing that must be in the store."""
        return self._order.last != _NOWHERE and self._order.hole

    @property
    def position(self) -> Position | None:
        """The position up to which all was sent; None before the first one is known."""
        if self.epoch is None or self._order.last == _NOWHERE:
            return None
        return Position(self.epoch, self._order.last)

    def skip(self, offset: int) -> None:
        """Give up the numbers up to this one, which nobody has any more, and say so."""
        missed = offset - self.sent
        if missed <= 0:
            return
        for audience in list(self._audiences.values()):
            notice = gap_notice(self.name, audience.format, missed)
            for link in list(audience.links):
                notify(link, notice)
        self._join_early(offset + 1)
        self.sent = offset
        self._send_all(self._order.skip_to(offset))

    def notify(self, method: str, params: object) -> None:
        """Send all who have joined a notice beside the events."""
        for audience in list(self._audiences.values()):
            if audience.links:
                message = audience.format.encode(Notify(method, params))
                audience.room.broadcast(message, policy=audience.beside)

    def lose(self) -> None:
        """Say that events without numbers may be missing here, and nobody knows how many."""
        for audience in list(self._audiences.values()):
            notice = gap_notice(self.name, audience.format, 0)
            for link in list(audience.links):
                notify(link, notice)

    # --- inside ------------------------------------------------------------------------------

    def _is_of(self, epoch: str) -> bool:
        if self.epoch is None:
            self.epoch = epoch
        return self.epoch == epoch

    def _audience(self, format_: Format) -> _Audience:
        audience = self._audiences.get(format_)
        if audience is None:
            audience = _Audience(self.name, format_, self.options.overflow)
            self._audiences[format_] = audience
        return audience

    def _send_all(self, publications: list[Publication]) -> None:
        for publication in publications:
            self._send(publication)

    def _send(self, publication: Publication) -> None:
        number = publication.number
        if self._early:
            self._join_early(number)
        self.sent = number
        if self._joining:
            self._keep(publication)
        for audience in list(self._audiences.values()):
            if audience.links:
                audience.room.broadcast(publication.message(audience.format))

    def _join_early(self, number: int) -> None:
        """Let those join whose answer ended before this number."""
        early, self._early = self._early, []
        for one in early:
            if one.number >= number:
                self._early.append(one)
            else:
                self._audience(one.format).links[one.link] = one
                if one.number + 1 < number:  # who is too slow for this leaves again
                    notify(one.link, gap_notice(self.name, one.format, number - one.number - 1))

    def _keep(self, publication: Publication) -> None:
        self._recent.append(publication)
        self._recent_bytes += len(publication.packed)
        while len(self._recent) > self._max_items or self._recent_bytes > self._max_bytes:
            self._recent_bytes -= len(self._recent.pop(0).packed)

    def _forget_recent(self) -> None:
        if not self._joining:
            self._recent.clear()
            self._recent_bytes = 0

    def _send_recent(self, subscription: Subscription, audience: _Audience) -> None:
        """Send what follows an answer and was sent to the others already."""
        link, format_ = subscription.link, subscription.format
        for publication in list(self._recent):
            missed = publication.number - subscription.number - 1
            if missed < 0:
                continue
            if missed > 0:
                link.send_nowait(gap_notice(self.name, format_, missed), _NOTICE)
            link.send_nowait(publication.message(format_), audience.policy)
            subscription.number = publication.number
        if subscription.number < self.sent:
            missed = self.sent - subscription.number
            link.send_nowait(gap_notice(self.name, format_, missed), _NOTICE)
            subscription.number = self.sent
