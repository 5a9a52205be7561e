"""`Rooms`: named groups of links; what is sent to one is encoded once."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import trio

from ..broadcast import Delivery, spread
from ..config import Policy
from ..connection import check_message
from ..errors import RoomFull
from ..nursery import OwnNursery
from ..protocol.encoder import Shared
from ..types import Message
from .attach import Link

__all__ = ["Room", "RoomOptions", "RoomStatistics", "Rooms"]

logger = logging.getLogger("trioweb.toolkit")


@dataclass(frozen=True, slots=True)
class RoomOptions:
    """What holds for one room, or for many."""

    #: Links in a room; `RoomFull` beyond. What one core can still send to several times a second.
    max_members: int = 10_000
    #: For messages that are sent without a policy; None: each link's own.
    policy: Policy | None = None
    #: Called with a link and the room's name before it joins; it raises `trioweb.Refused`, or
    #: whatever else `join` is to raise, to keep it out.
    authorise: Callable[[Link, str], Awaitable[object]] | None = None

    def __post_init__(self) -> None:
        if self.max_members < 1:
            raise ValueError(f"RoomOptions.max_members must be positive, not {self.max_members}")


@dataclass(frozen=True, slots=True)
class RoomStatistics:
    """A snapshot of one room."""

    members: int
    #: Messages that were sent to it.
    messages: int
    #: Messages left out for some receiver, to make room for these or instead of them.
    dropped: int
    #: Members that were over, or closed for being slow, when a message came.
    closed: int


_DEFAULTS = RoomOptions()


class Room:
    """Links that hear the same. It comes to be with its first member, and vanishes with its last.

    Any task may use it. Nothing but `send` waits.
    """

    __slots__ = (
        "_closed",
        "_dropped",
        "_leave",
        "_members",
        "_messages",
        "members",
        "metadata",
        "name",
        "options",
    )

    def __init__(
        self,
        name: str,
        options: RoomOptions,
        members: dict[Link, Any],
        leave: Callable[[str, Link], object],
    ) -> None:
        self.name = name
        self.options = options
        #: Whatever the application keeps with the room; it goes with it.
        self.metadata: dict[str, Any] = {}
        #: The links in the room as they joined, and the metadata of each.
        self.members: Mapping[Link, Any] = MappingProxyType(members)
        self._members = members
        self._leave = leave
        self._messages = 0
        self._dropped = 0
        self._closed = 0

    def __len__(self) -> int:
        return len(self._members)

    def __contains__(self, link: object) -> bool:
        return link in self._members

    def describe(self, link: Link, metadata: Any) -> None:
        """Replace a member's metadata. Raises `KeyError` if it is none."""
        self._check(link)
        self._members[link] = metadata

    def leave(self, link: Link) -> None:
        """Take a link out, if it is in: by its own wish, or not."""
        self._leave(self.name, link)

    def broadcast(
        self,
        message: Message,
        *,
        exclude: Collection[Link] = (),
        policy: Policy | None = None,
        compress: bool | None = None,
    ) -> Delivery:
        """Send to all members but those excluded, without waiting; return what became of it.

        The message is encoded once for all WebSockets that have room, and compressed once for each
        setting; the others get it by their backlogs, under the ``policy``, the room's or their own.
        Under `Overflow.WAIT` there is no time to wait: it is left out where there is no room, and
        counted. Members that are over leave the room. ``compress`` means what it does in
        `trioweb.broadcast`, for those who get it at once.

        Raises `TypeError` if the message is neither str nor bytes, `UnicodeEncodeError` for a lone
        surrogate.
        """
        delivery, waiting = self._spread(message, exclude, policy, compress)
        return self._leave_out(waiting, delivery) if waiting else delivery

    async def send(
        self,
        message: Message,
        *,
        exclude: Collection[Link] = (),
        policy: Policy | None = None,
        compress: bool | None = None,
    ) -> Delivery:
        """Do as `broadcast` does, and wait for members without room if their policy is to wait.

        Whoever has no room until `Policy.timeout` goes without, which is counted; so do those who
        have none yet when this is cancelled. A slow member delays the caller, and nobody else.
        """
        await trio.lowlevel.checkpoint()
        delivery, waiting = self._spread(message, exclude, policy, compress)
        if not waiting:
            return delivery
        late = dict(waiting)
        closed = 0
        done = trio.Event()

        async def wait(link: Link, seconds: float) -> None:
            nonlocal closed
            with trio.move_on_after(seconds):
                try:
                    await link.send(message)
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    closed += 1
                del late[link]
            del waiting[link]
            if not waiting:
                done.set()

        count = len(waiting)
        try:
            async with OwnNursery() as nursery:
                for link, its in waiting.items():
                    nursery.start_soon(wait, link, its.timeout, name=f"send to {link!r}")
                await done.wait()
        finally:
            self._closed += closed
            delivery = replace(
                self._leave_out(late, delivery),
                queued=delivery.queued + count - closed - len(late),
                closed=delivery.closed + closed,
            )
        return delivery

    def send_to(self, link: Link, message: Message, *, policy: Policy | None = None) -> bool:
        """Send to one member alone, as `Link.send_nowait` does. Raises `KeyError` if it is none."""
        self._check(link)
        before = link.dropped
        try:
            return link.send_nowait(message, policy or self.options.policy)
        finally:
            self._dropped += link.dropped - before

    def statistics(self) -> RoomStatistics:
        """Return the counts as they are now."""
        return RoomStatistics(len(self._members), self._messages, self._dropped, self._closed)

    def _check(self, link: Link) -> None:
        if link not in self._members:
            raise KeyError(link)

    def _spread(
        self,
        message: Message,
        exclude: Collection[Link],
        policy: Policy | None,
        compress: bool | None,
    ) -> tuple[Delivery, dict[Link, Policy]]:
        """Give it to all that can be given it now; return who has to be waited for."""
        shared = Shared(check_message(message), compress)
        self._messages += 1
        links = list(self._members)
        if exclude:
            links = [link for link in links if link not in exclude]
        lives = [life for link in links if (life := link.free) is not None]
        others = [link for link in links if link.free is None] if len(lives) < len(links) else []
        delivery, full = spread(lives, shared)
        if full:
            by_life = {link.life: link for link in links}
            others += [by_life[life] for life in full]
        if delivery.closed:
            self._closed += delivery.closed
            for link in links:
                link.look()
        return self._queue(others, message, policy, delivery) if others else (delivery, {})

    def _queue(
        self, links: list[Link], message: Message, policy: Policy | None, delivery: Delivery
    ) -> tuple[Delivery, dict[Link, Policy]]:
        policy = policy or self.options.policy
        waiting: dict[Link, Policy] = {}
        queued = dropped = closed = 0
        for link in links:
            its = policy or link.policy
            before = link.dropped
            try:
                taken = link.send_nowait(message, its)
            except trio.WouldBlock:
                waiting[link] = its
                continue
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                closed += 1
                continue
            self._dropped += link.dropped - before
            queued += taken
            dropped += not taken
        self._closed += closed
        return Delivery(
            delivery.written, delivery.queued + queued, dropped, delivery.closed + closed
        ), waiting

    def _leave_out(self, links: Mapping[Link, Policy], delivery: Delivery) -> Delivery:
        for link, policy in links.items():
            link.miss(policy)
        self._dropped += len(links)
        return replace(delivery, dropped=delivery.dropped + len(links))


class Rooms:
    """All rooms of an application, by name. Links that end leave them by themselves.

    ``options`` are those of every room, or a function from a room's name to its options.
    ``on_join`` and ``on_leave`` are called with the room and the link, after it has joined and
    left. They must not block; what they raise is logged.
    """

    def __init__(
        self,
        options: RoomOptions | Callable[[str], RoomOptions] = _DEFAULTS,
        *,
        on_join: Callable[[Room, Link], object] | None = None,
        on_leave: Callable[[Room, Link], object] | None = None,
    ) -> None:
        self._options = options
        self._on_join = on_join
        self._on_leave = on_leave
        self._rooms: dict[str, tuple[Room, dict[Link, Any]]] = {}
        self._joined: dict[Link, dict[str, None]] = {}

    async def join(self, name: str, link: Link, metadata: Any = None) -> Room:
        """Let a link into a room, which is made if need be; return the room.

        Raises what the room's ``authorise`` raises (`trioweb.Refused`), `RoomFull`, `ValueError` if
        the link is in the room already, and what the link's `send` raises if it is over.
        """
        options = self._options if isinstance(self._options, RoomOptions) else self._options(name)
        await trio.lowlevel.checkpoint()
        if options.authorise is not None:
            await options.authorise(link, name)
        if link.ended:
            raise link.end_error()
        members: dict[Link, Any] = {}
        room, members = self._rooms.get(name) or (
            Room(name, options, members, self.leave),
            members,
        )
        if link in members:
            raise ValueError(f"{link!r} is in the room {name!r:.80} already")
        if len(members) >= room.options.max_members:
            raise RoomFull(name, room.options.max_members)
        self._rooms[name] = room, members
        members[link] = metadata
        if link not in self._joined:
            self._joined[link] = {}
            link.watch(self.leave_all)
        self._joined[link][name] = None
        _tell(self._on_join, room, link)
        return room

    @asynccontextmanager
    async def joined(self, name: str, link: Link, metadata: Any = None) -> AsyncGenerator[Room]:
        """Be in a room for the length of a block, which gets the `Room`. Raises as `join` does."""
        room = await self.join(name, link, metadata)
        try:
            yield room
        finally:
            self.leave(name, link)

    def leave(self, name: str, link: Link) -> bool:
        """Take a link out of a room; return whether it was in. An empty room vanishes."""
        room, members = self._rooms.get(name) or (None, {})
        if room is None or link not in members:
            return False
        del members[link]
        if not members:
            del self._rooms[name]
        joined = self._joined[link]
        del joined[name]
        if not joined:
            del self._joined[link]
            link.forget(self.leave_all)
        _tell(self._on_leave, room, link)
        return True

    def leave_all(self, link: Link) -> None:
        """Take a link out of every room."""
        for name in self.rooms_of(link):
            self.leave(name, link)

    def rooms_of(self, link: Link) -> list[str]:
        """Return the names of the rooms that a link is in, as it joined them."""
        return list(self._joined.get(link, ()))

    def get(self, name: str) -> Room | None:
        """Return a room, or None if nobody is in it."""
        found = self._rooms.get(name)
        return None if found is None else found[0]

    def __getitem__(self, name: str) -> Room:
        return self._rooms[name][0]

    def __contains__(self, name: object) -> bool:
        return name in self._rooms

    def __len__(self) -> int:
        return len(self._rooms)

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._rooms))


def _tell(callback: Callable[[Room, Link], object] | None, room: Room, link: Link) -> None:
    if callback is not None:
        try:
            callback(room, link)
        except Exception:  # it may be called for the end of a link that has nothing to do with it
            logger.exception("a callback of the room %r failed", room.name)
