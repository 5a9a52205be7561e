"""What waits for one slow receiver: bounded, in order, under a policy for each message."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable
from typing import TypeAlias

from ..config import LinkLimits, Overflow, Policy
from ..protocol.assembler import size_of
from ..types import Message

__all__ = ["Backlog", "Gap"]

#: Makes the message that says how many messages are missing in its place.
Gap: TypeAlias = Callable[[int], Message]

#: Places of messages that are gone are thrown out when they are more than the others and these.
_GONE = 64

_MAY_BE_DROPPED = frozenset({Overflow.DROP_OLDEST, Overflow.DROP_NEWEST, Overflow.COALESCE})


class _Entry:
    """A message that waits; without one, the place of messages that were dropped, or of none."""

    __slots__ = ("gap", "key", "message", "missed", "size")

    def __init__(self, message: Message | None, size: int, gap: Gap | None) -> None:
        self.message = message
        self.size = size
        self.gap = gap
        #: Under which newer messages find it.
        self.key: Hashable = None
        #: Messages dropped here, by who makes the notice of them.
        self.missed: dict[Gap | None, int] = {}


class Backlog:
    """A queue in memory, without a task.

    What comes out is in the order of what went in, with one freedom: a message under COALESCE takes
    the place of an older one of its key, if nothing but such messages came between. Otherwise the
    older one goes, and the newer stands where it came. What is dropped leaves a notice in its
    place, if somebody makes one; what a newer one replaced does not.
    """

    __slots__ = (
        "_droppable",
        "_gap",
        "_gone",
        "_keyed",
        "_limits",
        "_notices",
        "_queue",
        "_walls",
        "bytes",
        "coalesced",
        "dropped",
        "messages",
    )

    def __init__(self, limits: LinkLimits, gap: Gap | None = None) -> None:
        self._limits = limits
        self._gap = gap
        self._queue: deque[_Entry] = deque()
        #: Those that may be dropped, the oldest first; some of them are gone already.
        self._droppable: deque[_Entry] = deque()
        #: The waiting message of each key, and the walls in front of it.
        self._keyed: dict[Hashable, tuple[_Entry, int]] = {}
        #: Counts the messages that nothing may overtake.
        self._walls = 0
        #: Entries without a message, and the notices that they will be.
        self._gone = 0
        self._notices = 0
        #: Messages that wait, and their bytes.
        self.messages = 0
        self.bytes = 0
        #: Messages dropped so far, and those that a newer one has replaced.
        self.dropped = 0
        self.coalesced = 0

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def full(self) -> bool:
        """Whether it is at its mark: it never holds more than that and one message."""
        return self.bytes >= self._limits.bytes or self.messages >= self._limits.messages

    def make_room(self) -> bool:
        """See that there is room, by dropping what may be dropped; return whether there is."""
        while self.full:
            if not self._drop_oldest():
                return False
        return True

    def put(self, message: Message, policy: Policy) -> bool:
        """Queue a message; return False if it was dropped.

        Those under WAIT and CLOSE are queued whatever the marks say: `make_room` before. Raises
        `UnicodeEncodeError` for text that cannot be encoded.
        """
        overflow = policy.overflow
        size = size_of(message)
        if overflow is Overflow.COALESCE and self._replace(message, size, policy.key):
            return True
        if overflow in _MAY_BE_DROPPED and (
            self.full if overflow is Overflow.DROP_NEWEST else not self.make_room()
        ):
            self.miss(policy)
            return False
        entry = _Entry(message, size, policy.gap or self._gap)
        self._queue.append(entry)
        self.messages += 1
        self.bytes += size
        if overflow in _MAY_BE_DROPPED:
            self._droppable.append(entry)
        if overflow is Overflow.COALESCE:
            entry.key = policy.key
            self._keyed[policy.key] = entry, self._walls
        else:
            self._walls += 1
        return True

    def miss(self, policy: Policy) -> None:
        """Count a message that is left out here, and leave its place."""
        if not (self._queue and self._queue[-1].message is None):
            self._queue.append(_Entry(None, 0, None))
            self._gone += 1
        self._count(self._queue[-1], policy.gap or self._gap)
        self._walls += policy.overflow is not Overflow.COALESCE
        self._throw_out()

    def take(self) -> Message | None:
        """Return what is to be sent next, a message or a notice; None: nothing is."""
        queue = self._queue
        while queue:
            entry = queue[0]
            if entry.message is not None:
                queue.popleft()
                self._forget(entry)
                message, entry.message = entry.message, None
                while self._droppable and self._droppable[0].message is None:
                    self._droppable.popleft()
                return message
            while len(queue) > 1 and queue[1].message is None:
                self._merge(entry, queue[1])
                del queue[1]
            if not entry.missed:
                queue.popleft()
                self._gone -= 1
                continue
            gap = next(iter(entry.missed))
            missed = entry.missed.pop(gap)
            self._notices -= 1
            if gap is not None:
                return gap(missed)
        return None

    def clear(self) -> int:
        """Throw all out; return how many messages that were."""
        count = self.messages
        self._queue.clear()
        self._droppable.clear()
        self._keyed.clear()
        self.messages = self.bytes = self._gone = self._notices = 0
        return count

    def _replace(self, message: Message, size: int, key: Hashable) -> bool:
        found = self._keyed.get(key)
        if found is None:
            return False
        entry, walls = found
        self.coalesced += 1
        more = size - entry.size
        if walls == self._walls and (more <= 0 or self.bytes + more < self._limits.bytes):
            self.bytes += more
            entry.message, entry.size = message, size
            return True
        # It would overtake others, or needs more room: it has to go to the end.
        self._remove(entry)
        self._throw_out()
        return False

    def _drop_oldest(self) -> bool:
        while self._droppable:
            entry = self._droppable.popleft()
            if entry.message is not None:
                self._remove(entry)
                self._count(entry, entry.gap)
                self._throw_out()
                return True
        return False

    def _remove(self, entry: _Entry) -> None:
        self._forget(entry)
        entry.message = None
        self._gone += 1

    def _forget(self, entry: _Entry) -> None:
        self.messages -= 1
        self.bytes -= entry.size
        if entry.key is not None:
            del self._keyed[entry.key]

    def _count(self, entry: _Entry, gap: Gap | None) -> None:
        """Count a message that was dropped at a place."""
        self.dropped += 1
        if gap not in entry.missed:
            # There are as many places as messages and those that are not put together yet.
            if self._notices > self._limits.messages + _GONE:  # made anew for each message, say
                gap = self._gap
            self._notices += gap not in entry.missed
        entry.missed[gap] = entry.missed.get(gap, 0) + 1

    def _merge(self, entry: _Entry, other: _Entry) -> None:
        """Make one place of two that stand beside each other."""
        for gap, missed in other.missed.items():
            self._notices -= gap in entry.missed
            entry.missed[gap] = entry.missed.get(gap, 0) + missed
        self._gone -= 1

    def _throw_out(self) -> None:
        """Put places without a message together, once there are many."""
        if self._gone <= self.messages + _GONE:
            return
        entries: deque[_Entry] = deque()
        for entry in self._queue:
            if entry.message is None and entries and entries[-1].message is None:
                self._merge(entries[-1], entry)
            else:
                entries.append(entry)
        self._queue = entries
        self._droppable = deque(one for one in self._droppable if one.message is not None)
