"""`Hub`: topics that peers subscribe to, with history, on one node or on many."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Hashable, Iterable, Mapping
from contextlib import AsyncExitStack, suppress
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
from .live import Subscription
from .node import HubStatistics, Node
from .presence import Presence
from .publication import unpack
from .resume import Recover, browse
from .rpc import Methods, Once, Peer, Reply
from .wire import Count

__all__ = ["Action", "Authorise", "Hub", "HubStatistics", "Identify"]

#: What a peer wants to do with a topic.
Action: TypeAlias = Literal["subscribe", "publish", "history", "presence"]
#: Says whether it may: an async function or a plain one. It may also raise `CallError`.
Authorise: TypeAlias = Callable[[Peer, Action, str], bool | Awaitable[bool]]
#: Returns a peer's user, which the formats can express, and what others are told of it.
Identify: TypeAlias = Callable[[Peer], tuple[Hashable, Any]]


class _Position(msgspec.Struct, frozen=True):
    epoch: Annotated[str, Meta(max_length=100)]
    offset: Count


class _Event(msgspec.Struct, frozen=True, omit_defaults=True):
    offset: int
    data: Any = None


class _Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """The result of ``subscribe`` and of ``history``."""

    position: Position | None
    recovered: bool | None = None
    events: tuple[_Event, ...] = ()


class _User(msgspec.Struct, frozen=True, omit_defaults=True):
    user: Any
    info: Any = None
    connections: int = 0


class _Present(msgspec.Struct, frozen=True):
    """The result of ``presence``."""

    users: tuple[_User, ...]
    count: int


class Hub:
    """Topics, for any number of peers: ``async with Hub(...) as hub:``.

    ``topics`` says which there are, and what each is like: a name, or a beginning with ``*`` behind
    it; the longest that fits counts, and a topic that nothing fits does not exist. As it stands
    any name is a topic, live alone. ``store`` keeps the history of those that have one, by
    default a `MemoryStore`. With a ``broker`` the hubs of many nodes are one; for topics with
    history they need one store for all then (`ValueError`). Both stay the caller's.

    ``authorise`` is asked for each action of a peer's on a topic. Without it peers may do
    everything but publish.

    Topics with presence know who is there on this node: ``identify(peer)`` returns the user and
    what the others are told of it, as it stands the peer's principal and None; a peer whose user
    is None is not seen. A user whose last connection is lost is gone after ``grace`` seconds
    (`Presence`); one who unsubscribes is gone at once.

    A hub serves the methods ``subscribe``, ``unsubscribe``, ``publish``, ``history`` and
    ``presence`` (:doc:`/reference/wire`) to all peers that have its `methods`. A publication that
    is repeated with its key is published once. A subscription ends with the peer's link. A topic
    that nobody subscribes to costs nothing here.
    """

    def __init__(
        self,
        topics: Mapping[str, TopicOptions] | None = None,
        *,
        store: Store | None = None,
        broker: Broker | None = None,
        authorise: Authorise | None = None,
        identify: Identify | None = None,
        grace: float = 5,
        limits: HubLimits = HubLimits(),
    ) -> None:
        patterns = {"*": TopicOptions()} if topics is None else dict(topics)
        self._exact = {name: one for name, one in patterns.items() if not name.endswith("*")}
        beginnings = sorted((name for name in patterns if name.endswith("*")), key=len)
        #: The longest comes first.
        self._beginnings = [(name[:-1], patterns[name]) for name in reversed(beginnings)]
        if broker is not None and store is None and any(one.history for one in patterns.values()):
            raise ValueError("hubs with a broker need one store for all, which gives the numbers")
        self._store = MemoryStore() if store is None else store
        self._authorise = authorise
        self._limits = limits
        self._node = Node(self._store, broker, self.options, limits)
        self._identify = identify
        self._presence = Presence(
            grace=grace,
            on_join=partial(self._tell_presence, "join"),
            on_leave=partial(self._tell_presence, "leave"),
        )
        self._stack = AsyncExitStack()
        self._once = Once()
        #: What peers may call, to be given to `serve_peer`; or see `register`.
        self.methods = Methods(once=self._once)
        self.register(self.methods)

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self._node)
        await self._stack.enter_async_context(self._presence)
        await self._stack.enter_async_context(self._once)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._stack.__aexit__(kind, error, traceback)

    def register(self, methods: Methods) -> None:
        """Add the hub's methods to those of an application."""
        for name, function in (
            ("subscribe", self._subscribe),
            ("unsubscribe", self._unsubscribe),
            ("publish", self._publish),
            ("history", self._history),
            ("presence", self._list_present),
        ):
            methods.add(name, function)

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
        policy. Cancelled means that it was not published, unless the store had it by then.

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
        user = self._user(peer) if self.options(topic).presence else None
        subscription, recovery = await node.subscribe(
            peer.link,
            peer.format,
            topic,
            _position(position),
            recover,
            self._limits.answer_events if limit is None else limit,
        )
        answer = _Answer(None)
        if recovery is not None:
            events = _events(recovery.entries)
            answer = _Answer(recovery.position, recovery.recovered, events)
        return Reply(
            answer,
            sent=partial(self._join, subscription, user),
            unsent=partial(node.leave, subscription),
        )

    def _user(self, peer: Peer) -> tuple[Hashable, Any] | None:
        user, info = (peer.principal, None) if self._identify is None else self._identify(peer)
        return None if user is None else (user, info)

    def _join(self, subscription: Subscription, user: tuple[Hashable, Any] | None) -> None:
        live = subscription.topic
        live.join(subscription)
        if user is not None and subscription.is_joined:
            with suppress(trio.ClosedResourceError):  # the hub has ended: nobody is there
                subscription.visit = self._presence.enter(live.name, *user)

    def _tell_presence(self, method: str, topic: str, user: Hashable, info: Any) -> None:
        live = self._node.live(topic)
        if live is not None:
            params = {"topic": topic, "user": user}
            live.notify(method, params if info is None else {**params, "info": info})

    async def _unsubscribe(self, peer: Peer, topic: str) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()
        self._node.unsubscribe(peer.link, topic, for_good=True)

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

    async def _list_present(self, peer: Peer, topic: str) -> _Present:
        await self._allow(peer, "presence", topic)
        if not self.options(topic).presence:
            raise CallError("not-found", f"{topic!r:.80} has no presence")
        users = self._presence.users(topic)
        return _Present(
            tuple(
                _User(one.user, one.info, one.connections)
                for one in users[: self._limits.answer_events]
            ),
            len(users),
        )

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
