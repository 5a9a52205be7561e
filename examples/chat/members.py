"""Whose name is whose, kept in the store beside the messages."""

from __future__ import annotations

import hashlib
import hmac
import math

import msgspec
import trio

from trioweb import Position, Retention
from trioweb.abc import Store

from .rules import BrokenRule, clean_name, fold

__all__ = ["MAX_MEMBERS", "Member", "Members"]

#: Names in all. Each is kept for good: with it go the private messages.
MAX_MEMBERS = 10_000

#: A topic that no pattern of the hub fits, so that nobody can subscribe to it.
_TOPIC = "members"
_PAGE = 1000

#: A member has two entries at most: its first, and that of its promotion.
_KEPT = Retention(max_entries=2 * MAX_MEMBERS, max_bytes=2**23, max_age=math.inf)


class Member(msgspec.Struct, frozen=True):
    """Somebody with a name."""

    name: str
    #: The hash of the key that its browser keeps.
    key: bytes
    is_moderator: bool = False


class Members:
    """A name belongs to the browser that took it first, for ever: that one knows its key."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._members: dict[str, Member] = {}
        #: Of two who want one name at once, one is the first.
        self._turn = trio.Lock()

    async def load(self) -> None:
        """Read who there is; call it once, before anything else."""
        after = Position((await self._read(None)).epoch, 0)
        while True:
            at = await self._read(after)
            if at == after:
                return
            after = at

    async def _read(self, after: Position | None) -> Position:
        limit = 0 if after is None else _PAGE
        page = await self._store.read(_TOPIC, after, limit=limit, max_bytes=2**20)
        for entry in page.entries:
            member = msgspec.msgpack.decode(entry.data, type=Member)
            self._members[fold(member.name)] = member
        if after is None or not page.entries:
            return page.position
        return Position(page.position.epoch, page.entries[-1].offset)

    def get(self, name: str) -> Member | None:
        """Return who has a name, or one that is too much like it."""
        return self._members.get(fold(name))

    async def claim(self, name: str, key: str, *, is_moderator: bool = False) -> Member:
        """Return the member of that name, who is new if nobody has it.

        ``is_moderator`` makes it one for good. Raises `BrokenRule` for a name that cannot be had.
        """
        digest = hashlib.sha256(key.encode()).digest()
        name = clean_name(name)
        async with self._turn:
            found = self.get(name)
            if found is not None and not hmac.compare_digest(found.key, digest):
                raise BrokenRule(f"the name {found.name} is taken")
            if found is not None and (found.is_moderator or not is_moderator):
                return found
            if found is None and len(self._members) >= MAX_MEMBERS:
                raise BrokenRule("there are no names left")
            member = Member(found.name if found else name, digest, is_moderator)
            await self._store.append(_TOPIC, msgspec.msgpack.encode(member), _KEPT)
            self._members[fold(name)] = member
            return member
