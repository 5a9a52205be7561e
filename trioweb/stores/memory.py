"""History in memory: as quick as it gets, and gone with the process."""

from __future__ import annotations

import secrets
from collections import OrderedDict, deque
from collections.abc import Iterable
from itertools import islice

import trio

from ..config import Retention
from ..positions import Entry, Page, Position

__all__ = ["MemoryStore"]

#: What an entry costs beside its data, roughly: so many empty ones have a bound too.
_OVERHEAD = 200


class _Topic:
    __slots__ = ("deadlines", "entries", "epoch", "offset", "size")

    def __init__(self) -> None:
        self.epoch = secrets.token_hex(8)
        self.offset = 0
        #: The bytes of data in `entries`.
        self.size = 0
        self.entries: deque[Entry] = deque()
        #: When each entry's age is over. They never fall, so what is over is at the left.
        self.deadlines: deque[float] = deque()

    @property
    def cost(self) -> int:
        return self.size + _OVERHEAD * (1 + len(self.entries))

    @property
    def position(self) -> Position:
        return Position(self.epoch, self.offset)

    def append(self, data: bytes, deadline: float) -> None:
        self.offset += 1
        self.size += len(data)
        self.entries.append(Entry(self.offset, data))
        if self.deadlines and deadline < self.deadlines[-1]:
            # A shorter age from now on. Older entries go no later than newer ones.
            self.deadlines = deque(min(deadline, one) for one in self.deadlines)
        self.deadlines.append(deadline)

    def trim(self, now: float, retention: Retention | None = None) -> None:
        """Let go what is over its age, and what is over the retention if there is one."""
        while self.entries and (
            self.deadlines[0] <= now
            or (retention is not None and len(self.entries) > retention.max_entries)
            or (retention is not None and self.size > retention.max_bytes)
        ):
            self.pop()

    def pop(self) -> None:
        self.size -= len(self.entries.popleft().data)
        self.deadlines.popleft()


class MemoryStore:
    """A `trioweb.abc.Store` in memory, for one process.

    It is bounded as a whole: above ``max_topics``, or ``max_bytes`` (256 MiB) of entries, it
    forgets the topic that was longest not used, with its numbering; those go first that were only
    asked for, and never appended to. Whoever comes back to such a topic is told that it was not
    recovered.
    """

    def __init__(self, *, max_topics: int = 100_000, max_bytes: int = 2**28) -> None:
        if max_topics < 1 or max_bytes < 1:
            raise ValueError("max_topics and max_bytes must be at least 1")
        self._max_topics = max_topics
        self._max_bytes = max_bytes
        #: The one that was longest not used comes first.
        self._topics: OrderedDict[str, _Topic] = OrderedDict()
        #: Those that were never appended to, in the same order. Many names cost no history.
        self._blank: OrderedDict[str, None] = OrderedDict()
        self._cost = 0

    async def append(self, topic: str, data: bytes, /, retention: Retention) -> Position:
        """Keep an entry under the next number, and return that."""
        await trio.lowlevel.checkpoint_if_cancelled()
        now = trio.current_time()
        kept = self._use(topic)
        self._blank.pop(topic, None)
        self._cost -= kept.cost
        kept.append(bytes(data), now + retention.max_age)
        kept.trim(now, retention)
        while kept.entries and kept.cost > self._max_bytes:
            kept.pop()
        self._cost += kept.cost
        while self._cost > self._max_bytes and len(self._topics) > 1:
            self._forget_one()
        return kept.position

    async def read(
        self, topic: str, /, after: Position | None = None, *, limit: int, max_bytes: int
    ) -> Page:
        """Return the entries after a position, or the newest ones; and the newest number."""
        await trio.lowlevel.checkpoint_if_cancelled()
        kept = self._use(topic)
        self._cost -= kept.cost
        kept.trim(trio.current_time())
        self._cost += kept.cost
        entries = kept.entries
        if after is None:
            newest = _take(reversed(entries), limit, max_bytes)
            return Page(kept.position, tuple(reversed(newest)))
        if after.epoch != kept.epoch or not entries:
            return Page(kept.position)
        skipped = max(0, after.offset + 1 - entries[0].offset)
        # A deque is quick at its ends alone: the few newest are reached from there.
        if 2 * skipped > len(entries):
            missed = list(islice(reversed(entries), max(0, len(entries) - skipped)))
            return Page(kept.position, tuple(_take(reversed(missed), limit, max_bytes)))
        return Page(kept.position, tuple(_take(islice(entries, skipped, None), limit, max_bytes)))

    async def remove(self, topic: str, /) -> None:
        """Forget a topic. Whoever names it next begins a new epoch."""
        await trio.lowlevel.checkpoint_if_cancelled()
        kept = self._topics.pop(topic, None)
        self._blank.pop(topic, None)
        if kept is not None:
            self._cost -= kept.cost

    def _use(self, name: str) -> _Topic:
        topic = self._topics.get(name)
        if topic is None:
            if len(self._topics) >= self._max_topics:
                self._forget_one()
            topic = self._topics[name] = _Topic()
            self._blank[name] = None
            self._cost += topic.cost
        else:
            self._topics.move_to_end(name)
            if name in self._blank:
                self._blank.move_to_end(name)
        return topic

    def _forget_one(self) -> None:
        name = next(iter(self._blank or self._topics))
        self._blank.pop(name, None)
        self._cost -= self._topics.pop(name).cost


def _take(entries: Iterable[Entry], limit: int, max_bytes: int) -> list[Entry]:
    """Return the first ones: at most ``limit``, as many as fit, and one whatever its size."""
    taken: list[Entry] = []
    size = 0
    for entry in islice(entries, limit):
        size += len(entry.data)
        if taken and size > max_bytes:
            break
        taken.append(entry)
    return taken
