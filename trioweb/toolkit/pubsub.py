"""`Hub`: topics that peers subscribe to, with history, on one node or on many."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from types import TracebackType
from typing import Annotated, Any, Literal, Self, TypeAlias

import msgspec
import trio
from msgspec import Meta

from ..abc import Broker, Store
from ..config import HubLimits, TopicOptions
from ..errors import CallError
from ..positions import Entry, Position
from ..stores.memory import MemoryStore
from .node import HubStatistics, Node
from .publication import unpack
from .resume import Recover, browse
from .rpc import Methods, Peer, Reply
from .wire import Count

__all__ = ["Action", "Authorise", "Hub", "HubStatistics"]

#: What a peer wants to do with a topic.
Action: TypeAlias = Literal["subscribe", "publish", "history", "presence"]
#: Says whether it may: an async function or a plain one. It may also raise `CallError`.
Authorise: TypeAlias = Callable[[Peer, Action, str], bool | Awaitable[bool]]


class _Position(msgspec.Struct, frozen=True):
    epoch: Annotated[str, Meta(max_length=100)]
    offset: Count


class _Event(msgspec.Struct, frozen=True, omit_defaults=True):
    offset: int
    data: Any = None


class _Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """The result of ``subscribe`` and of ``history``."""

    position: Position | None = None
    recovered: bool | None = None
    events: tuple[_Event, ...] = ()


class Hub:
    """Topics, for any number of peers: ``async with Hub(...) as hub:``.

    ``topics`` says which there are, and what each is like: a name, or a beginning with ``*`` behind
    it; the longest that fits counts, and a topic that nothing fits does not exist. As it stands
    any name is a topic, live alone. ``store`` keeps the history of those that have one, by
    default a `MemoryStore`. With a ``broker`` the hubs of many nodes are one; they need
    one store for all then. Both stay the caller's.

    ``authorise`` is asked for each action of a peer's on a topic. Without it peers may do
    everything but publish.

    A hub serves the methods ``subscribe``, ``unsubscribe``, ``publish``, ``history`` and
    ``presence`` (:doc:`/reference/wire`) to all peers that have its `methods`. A subscription ends
    with the peer's link. A topic that nobody subscribes to costs nothing here.
    """

    def __init__(
        self,
        topics: Mapping[str, TopicOptions] | None = None,
        *,
        store: Store | None = None,
        broker: Broker | None = None,
        authorise: Authorise | None = None,
        limits: HubLimits = HubLimits(),
    ) -> None:
        patterns = {"*": TopicOptions()} if topics is None else dict(topics)
        self._exact = {name: one for name, one in patterns.items() if not name.endswith("*")}
        beginnings = sorted((name for name in patterns if name.endswith("*")), key=len)
        #: The longest comes first.
        self._beginnings = [(name[:-1], patterns[name]) for name in reversed(beginnings)]
        self._store = MemoryStore() if store is None else store
        self._authorise = authorise
        self._limits = limits
        self._node = Node(self._store, broker, self.options, limits)
        #: What peers may call, to be given to `serve_peer`; or see `register`.
        self.methods = Methods()
        self.register(self.methods)

    async def __aenter__(self) -> Self:
        await self._node.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._node.__aexit__(kind, error, traceback)

    def register(self, methods: Methods) -> None:
        """Add the hub's methods to those of an application."""
        for function in (
            self._subscribe,
            self._unsubscribe,
            self._publish,
            self._history,
        ):
            methods.add(function.__name__[1:], function)

    def options(self, topic: str) -> TopicOptions:
        """Return what a topic is like; raises `CallError` "not-found" if there is none."""
        found = self._exact.get(topic)
        if found is not None:
            return found
        for beginning, options in self._beginnings:
            if topic.startswith(beginning):
                return options
        raise CallError("not-found", f"there is no topic {topic!r:.80}")

    def statistics(self) -> HubStatistics:
        """Return the counts as they are now."""
        return self._node.statistics()

    # --- the application's side --------------------------------------------------------------

    async def publish(self, topic: str, data: Any = None) -> Position | None:
        """Publish on a topic; return the event's position, or None for a topic without history.

        When this returns the store has the event, and it is on its way to the subscribers of this
        node and to the broker. Who is slow never makes this wait: it meets the topic's overflow
        policy. Cancelled means that it was not published, as far as the store can tell.

        Raises `CallError` "not-found" for no topic, `TypeError` for data that JSON or MessagePack
        cannot express, `ValueError` for more than `HubLimits.publication`, `trioweb.StoreFailed`;
        and `trioweb.BrokerFailed` on a topic without history, whose other nodes miss it then.
        """
        return await self._node.publish(topic, data)

    async def remove(self, topic: str) -> None:
        """Forget a topic's history, and end the subscriptions to it. It may begin anew at once."""
        self.options(topic)
        await self._node.remove(topic)

    def unsubscribe(
        self, peer: Peer, topic: str, code: str = "forbidden", message: str = ""
    ) -> bool:
        """End a peer's subscription, which hears the code; return whether there was one."""
        return self._node.expel(peer.link, topic, code, message)

    # --- the peers' side ---------------------------------------------------------------------

    async def _subscribe(
        self,
        peer: Peer,
        topic: str,
        position: _Position | None = None,
        recover: Recover = "all",
        limit: Count | None = None,
    ) -> Reply:
        await self._allow(peer, "subscribe", topic)
        node = self._node
        if node.subscriptions(peer.link, but=topic) >= self._limits.subscriptions:
            raise CallError("limit", f"{self._limits.subscriptions} subscriptions are the most")
        subscription, recovery = await node.subscribe(
            peer.link,
            peer.format,
            topic,
            _position(position),
            recover,
            self._limits.answer_events if limit is None else limit,
        )
        answer = _Answer()
        if recovery is not None:
            events = _events(recovery.entries)
            answer = _Answer(recovery.position, recovery.recovered, events)
        return Reply(
            answer,
            sent=partial(subscription.topic.join, subscription),
            unsent=partial(node.leave, subscription),
        )

    async def _unsubscribe(self, peer: Peer, topic: str) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()
        self._node.unsubscribe(peer.link, topic)

    async def _publish(self, peer: Peer, topic: str, data: Any) -> Position | None:
        await self._allow(peer, "publish", topic)
        try:
            return await self._node.publish(topic, data)
        except (TypeError, ValueError) as error:
            raise CallError("invalid", str(error), path="$.params.data") from error

    async def _history(
        self,
        peer: Peer,
        topic: str,
        limit: Annotated[int, Meta(ge=1)],
        position: _Position | None = None,
    ) -> _Answer:
        await self._allow(peer, "history", topic)
        if self.options(topic).history is None:
            raise CallError("not-found", f"{topic!r:.80} keeps no history")
        found = await browse(
            self._store,
            topic,
            _position(position),
            limit=min(limit, self._limits.answer_events),
            max_bytes=self._limits.answer_bytes,
        )
        return _Answer(found.position, found.recovered, _events(found.entries))

    async def _allow(self, peer: Peer, action: Action, topic: str) -> None:
        """Raise `CallError` unless a peer may do something with a topic that there is."""
        try:
            size = len(topic.encode())
        except UnicodeEncodeError:
            size = 0
        if not 0 < size <= self._limits.topic:
            raise CallError("invalid", "no name of a topic", path="$.params.topic")
        if self._authorise is None:
            allowed = action != "publish"
        else:
            answer = self._authorise(peer, action, topic)
            allowed = await answer if inspect.isawaitable(answer) else answer
        if not allowed:
            raise CallError("forbidden", f"{action} is not allowed here")
        self.options(topic)


def _position(position: _Position | None) -> Position | None:
    return None if position is None else Position(position.epoch, position.offset)


def _events(entries: Iterable[Entry]) -> tuple[_Event, ...]:
    return tuple(_Event(entry.offset, unpack(entry.data)) for entry in entries)
