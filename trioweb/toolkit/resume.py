"""What a gap is: coming back to a topic's history, and putting numbered events in order.

A recovery is whole or none. Whoever asks for what came after a position gets all of it, or hears
that something is missing; between the answer and the live events nothing is lost and nothing comes
twice, for both go by the store's numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, Literal, TypeAlias, TypeVar

from ..abc import Store
from ..positions import Entry, Page, Position

__all__ = ["InOrder", "Recover", "Recovery", "browse", "recover"]

_T = TypeVar("_T")

#: What who comes back wants: all that came meanwhile, or the newest alone.
Recover: TypeAlias = Literal["all", "latest"]


@dataclass(frozen=True, slots=True)
class Recovery:
    """The answer to somebody who asks for history.

    ``position`` is that of the newest entry there was. ``recovered`` is None where no position was
    given, and False where something after it is missing from ``entries``.
    """

    position: Position
    recovered: bool | None = None
    entries: tuple[Entry, ...] = ()


async def recover(
    store: Store,
    topic: str,
    position: Position | None,
    *,
    mode: Recover = "all",
    limit: int,
    max_bytes: int,
) -> Recovery:
    """Return what came after a position, or that it cannot be had as a whole.

    With "all" that is every entry. Where the history no longer reaches so far back, has another
    epoch or not so many numbers, or where there are more entries than ``limit`` or more data than
    ``max_bytes``, it was not recovered, and there are no entries. Without a position there are none
    either.

    With "latest" it is the newest entry at most, also without a position; it was recovered
    where no other came after the position.
    """
    if mode == "latest":
        return await _recover_latest(store, topic, position, max_bytes=max_bytes)
    if position is None:
        return Recovery((await store.read(topic, limit=0, max_bytes=max_bytes)).position)
    page = await store.read(topic, position, limit=limit, max_bytes=max_bytes)
    is_whole = (
        _follows(page, position)
        and len(page.entries) == page.position.offset - position.offset
        and sum(len(entry.data) for entry in page.entries) <= max_bytes
    )
    return Recovery(page.position, is_whole, page.entries if is_whole else ())


async def _recover_latest(
    store: Store, topic: str, position: Position | None, *, max_bytes: int
) -> Recovery:
    page = await store.read(topic, limit=1, max_bytes=max_bytes)
    # The newest number may have lost its entry, by age.
    entries = tuple(
        entry
        for entry in page.entries
        if entry.offset == page.position.offset and len(entry.data) <= max_bytes
    )
    if position is None:
        return Recovery(page.position, None, entries)
    if position.epoch != page.position.epoch:
        return Recovery(page.position, False, entries)
    missed = page.position.offset - position.offset
    if missed <= 0:
        return Recovery(page.position, missed == 0)
    return Recovery(page.position, missed == len(entries), entries)


async def browse(
    store: Store, topic: str, position: Position | None, *, limit: int, max_bytes: int
) -> Recovery:
    """Return a page of history: the newest entries, or the oldest ones after a position.

    It may be a part, which its reader sees by ``position``. With a position, ``recovered`` is
    False where some of what came after it can be had no longer.
    """
    page = await store.read(topic, position, limit=limit, max_bytes=max_bytes)
    recovered = None if position is None else _follows(page, position)
    return Recovery(page.position, recovered, page.entries)


def _follows(page: Page, position: Position) -> bool:
    """Tell whether a page, read after a position, goes on where that is, without a hole."""
    if page.position.epoch != position.epoch or page.position.offset < position.offset:
        return False
    if page.entries:
        return page.entries[0].offset == position.offset + 1
    return page.position.offset == position.offset


class InOrder(Generic[_T]):
    """Puts what is numbered in order, each number once: what comes too early waits.

    What waits is bounded: above ``max_items`` or ``max_bytes`` it is thrown away, to be read from
    the store. Without I/O.
    """

    __slots__ = ("_bytes", "_early", "_max_bytes", "_max_items", "_newest", "last")

    def __init__(self, last: int, *, max_items: int, max_bytes: int) -> None:
        #: The number up to which all has come out.
        self.last = last
        #: The highest number that was seen.
        self._newest = last
        self._early: dict[int, tuple[_T, int]] = {}
        self._bytes = 0
        self._max_items = max_items
        self._max_bytes = max_bytes

    @property
    def hole(self) -> bool:
        """Whether a number is missing before one that was seen."""
        return self._newest > self.last

    def see(self, offset: int) -> None:
        """Note that a number is known to be given out."""
        self._newest = max(self._newest, offset)

    def put(self, offset: int, item: _T, size: int) -> list[_T]:
        """Take one, and return those whose turn it is now, in order."""
        self.see(offset)
        if offset == self.last + 1:
            self.last = offset
            return [item, *self._next()] if self._early else [item]
        if offset > self.last and offset not in self._early:
            self._early[offset] = item, size
            self._bytes += size
            if len(self._early) > self._max_items or self._bytes > self._max_bytes:
                self._early.clear()
                self._bytes = 0
        return []

    def skip_to(self, offset: int) -> list[_T]:
        """Give up the numbers up to this one; return those whose turn it is then."""
        self.see(offset)
        self.last = max(self.last, offset)
        for number in [number for number in self._early if number <= self.last]:
            self._take(number)
        return list(self._next())

    def _next(self) -> Iterator[_T]:
        while self.last + 1 in self._early:
            self.last += 1
            yield self._take(self.last)

    def _take(self, offset: int) -> _T:
        item, size = self._early.pop(offset)
        self._bytes -= size
        return item
