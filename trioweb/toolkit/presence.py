"""`Presence`: who is there, told apart from how many connections they have."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeAlias

import trio

from ..nursery import OwnNursery

__all__ = ["Presence", "Present", "Visit"]

logger = logging.getLogger("trioweb.toolkit")

#: Called with a topic, a user and the user's info.
_Callback: TypeAlias = Callable[[str, Hashable, Any], object]


@dataclass(frozen=True, slots=True)
class Present:
    """A user who is there."""

    user: Hashable
    #: What came with the user's newest connection that brought something.
    info: Any
    #: None for a user who may be back within the grace time.
    connections: int


class _User:
    """What is known of a user in one topic."""

    __slots__ = ("connections", "info")

    def __init__(self) -> None:
        self.connections = 0
        self.info: Any = None


class Presence:
    """Who is in which topic; several connections of one user count as one.

    An async context manager, whose end is the leave of everybody. A user whose last connection is
    gone leaves ``grace`` seconds later, unless there is another one by then: a quick reconnect, or
    a page that is loaded anew, is no leave and no join. ``on_join`` and ``on_leave`` are called
    with the topic, the user and the user's info; they must not block, and what they raise is
    logged.

    One task waits for all who may come back; it runs while there are any. Of those there are at
    most ``max_absent``: beyond that the one who is gone for longest leaves early.
    """

    __slots__ = (
        "_absent",
        "_grace",
        "_is_over",
        "_max_absent",
        "_nursery",
        "_on_join",
        "_on_leave",
        "_own",
        "_topics",
        "_waits",
    )

    def __init__(
        self,
        *,
        grace: float = 5,
        max_absent: int = 10_000,
        on_join: _Callback | None = None,
        on_leave: _Callback | None = None,
    ) -> None:
        # Five seconds: a session comes back within two or three, a page within one.
        if not grace >= 0:  # refuses NaN too
            raise ValueError(f"grace must not be negative, not {grace!r}")
        if max_absent < 1:
            raise ValueError(f"max_absent must be positive, not {max_absent!r}")
        self._grace = grace
        self._max_absent = max_absent
        self._on_join = on_join
        self._on_leave = on_leave
        self._topics: dict[str, dict[Hashable, _User]] = {}
        #: When those without a connection leave, in that order: the grace is the same for all.
        self._absent: OrderedDict[tuple[str, Hashable], float] = OrderedDict()
        self._own = OwnNursery()
        self._nursery: trio.Nursery | None = None
        self._waits = False
        self._is_over = False

    async def __aenter__(self) -> Self:
        self._nursery = await self._own.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._is_over = True
        for topic, users in list(self._topics.items()):
            for user in list(users):
                self._leave(topic, user)
        await self._own.__aexit__(kind, error, traceback)

    def enter(self, topic: str, user: Hashable, info: Any = None) -> Visit:
        """Count a connection of a user; a context manager, or call `Visit.leave`.

        ``info`` takes the place of what was known of the user, unless it is None. Raises
        `trio.ClosedResourceError` outside the block of this presence.
        """
        if self._nursery is None or self._is_over:
            raise trio.ClosedResourceError("the presence is over, or has not begun")
        users = self._topics.setdefault(topic, {})
        found = users.get(user)
        one = users[user] = found or _User()
        one.connections += 1
        if info is not None:
            one.info = info
        self._absent.pop((topic, user), None)
        if found is None:
            _tell(self._on_join, topic, user, one.info)
        return Visit(self, topic, user)

    def exit(self, topic: str, user: Hashable, *, for_good: bool = False) -> None:
        """Count a connection less; what `Visit.leave` calls, once."""
        one = self._topics.get(topic, {}).get(user)
        if one is None or one.connections == 0:  # all have left at the end
            return
        one.connections -= 1
        if one.connections:
            return
        if for_good or not self._grace:
            self._leave(topic, user)
            return
        self._absent[topic, user] = trio.current_time() + self._grace
        if len(self._absent) > self._max_absent:
            self._leave(*next(iter(self._absent)))
        if not self._waits:
            assert self._nursery is not None
            self._waits = True
            self._nursery.start_soon(self._wait, name="presence")

    def users(self, topic: str) -> list[Present]:
        """Return who is in a topic, as they joined it."""
        found = self._topics.get(topic, {})
        return [Present(user, one.info, one.connections) for user, one in found.items()]

    def get(self, topic: str, user: Hashable) -> Present | None:
        """Return a user who is in a topic, or None."""
        one = self._topics.get(topic, {}).get(user)
        return None if one is None else Present(user, one.info, one.connections)

    def count(self, topic: str) -> int:
        """Return how many users are in a topic."""
        return len(self._topics.get(topic, {}))

    def topics(self) -> list[str]:
        """Return the topics in which somebody is."""
        return list(self._topics)

    async def _wait(self) -> None:
        while self._absent:
            await trio.sleep_until(next(iter(self._absent.values())))
            now = trio.current_time()
            while self._absent and next(iter(self._absent.values())) <= now:
                self._leave(*next(iter(self._absent)))
        self._waits = False

    def _leave(self, topic: str, user: Hashable) -> None:
        self._absent.pop((topic, user), None)
        users = self._topics[topic]
        one = users.pop(user)
        if not users:
            del self._topics[topic]
        _tell(self._on_leave, topic, user, one.info)


class Visit:
    """One connection of a user, from `Presence.enter` to its end; a context manager."""

    __slots__ = ("_presence", "topic", "user")

    def __init__(self, presence: Presence, topic: str, user: Hashable) -> None:
        self._presence: Presence | None = presence
        self.topic = topic
        self.user = user

    def leave(self, *, for_good: bool = False) -> None:
        """End it; a second time is fine. ``for_good``: without a grace time, as at a logout."""
        presence, self._presence = self._presence, None
        if presence is not None:
            presence.exit(self.topic, self.user, for_good=for_good)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.leave()


def _tell(callback: _Callback | None, topic: str, user: Hashable, info: Any) -> None:
    if callback is not None:
        try:
            callback(topic, user, info)
        except Exception:  # of whoever listens; the others' presence goes on
            logger.exception("a callback of the presence in %r failed", topic)
