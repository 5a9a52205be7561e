"""What a subscription has for its reader: the events of one topic, each once and in order.

Without I/O and without tasks. Events come from three sides: live, with the answer to a
``subscribe``, and in pages of ``history``. What does not fit is left where it is, in the history,
and asked for when the reader has caught up: so a slow reader delays nobody, and misses nothing
that the history still has. What it has not is told by `Missed`, in its place.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from ..config import SessionLimits
from ..positions import Position
from .wire import Event

__all__ = ["Feed", "Missed", "Recover"]

#: What is wanted after a break: every event, or the newest alone.
Recover: TypeAlias = Literal["all", "latest"]


@dataclass(frozen=True, slots=True)
class Missed:
    """Events are missing in this place of a subscription."""

    #: How many; None: nobody can tell, and perhaps none.
    count: int | None = None


class Feed:
    """One topic's events, on their way to one reader."""

    __slots__ = (
        "_ahead",
        "_bytes",
        "_events",
        "_limits",
        "_newest",
        "_next",
        "_started",
        "_suspicion",
        "_taken",
        "epoch",
        "joined",
        "latest",
        "missed",
        "postponed",
        "skipped",
    )

    def __init__(self, position: Position | None, recover: Recover, limits: SessionLimits) -> None:
        #: The numbering; None before the first answer, and where the topic keeps no history.
        self.epoch = None if position is None else position.epoch
        #: Whether the server sends live events: it has answered on the present link.
        self.joined = False
        #: Live events that were left to the history, for the reader was slow.
        self.postponed = 0
        #: Events that a newer one has replaced, with "latest".
        self.skipped = 0
        #: Events that were lost, as far as they could be counted.
        self.missed = 0
        #: Whether the newest event alone is wanted.
        self.latest = recover == "latest"
        self._limits = limits
        #: The offset that comes next, and the highest that is known to exist.
        self._next = 1 if position is None else position.offset + 1
        self._newest = self._next - 1
        self._started = position is not None
        #: What waits for the reader: items, the sizes of their messages, their epochs.
        self._events: deque[tuple[Event | Missed, int, str | None]] = deque()
        #: Live events behind a hole, without holes among them.
        self._ahead: deque[tuple[Event, int]] = deque()
        self._bytes = 0
        #: Whether the server has left some out, and we have not looked since.
        self._suspicion = False
        self._taken = None if position is None else (position.epoch, position.offset)

    def __len__(self) -> int:
        return len(self._events)

    # --- the reader's side -------------------------------------------------------------------

    def take(self) -> Event | Missed | None:
        """Return what is next for the reader; None if that is not here."""
        if not self._events:
            return None
        item, size, epoch = self._events.popleft()
        self._bytes -= size
        if epoch is not None and isinstance(item, Event):
            self._taken = epoch, item.offset
        return item

    @property
    def position(self) -> Position | None:
        """The place after the last event taken; None where the topic keeps no history."""
        return None if self._taken is None else Position(*self._taken)

    @property
    def behind(self) -> bool:
        """Whether something that has not come here is to be had from the history."""
        return self.epoch is not None and (self._next <= self._newest or self._suspicion)

    @property
    def page(self) -> int:
        """How many events an answer may hold. As many again may come before it."""
        return max(1, self._limits.feed_events // 2)

    def ask(self) -> Position | None:
        """Return the place after the last event that is here, for a question to the server."""
        self._suspicion = False
        self._forget_ahead()
        return None if self.epoch is None else Position(self.epoch, self._next - 1)

    def doubt(self) -> None:
        """Note that a question got no answer: whether something is missing is not known."""
        self._suspicion = True

    # --- the server's side -------------------------------------------------------------------

    def live(self, event: Event, size: int) -> None:
        """Take an event that the server sent by itself; ``size`` is that of its message."""
        offset = event.offset
        if offset == 0 or (self.joined and self.epoch is None):
            self._live_only(event, size)
        elif self.latest and self.joined and offset >= self._next:
            self.skipped += offset - self._next
            self._append(event, size)
        elif offset == self._next and self.joined and not self._full(size):
            self._append(event, size)
            if self._ahead:
                self._merge()
        elif offset >= self._next or not self.joined:
            self._keep(event, size)

    def dropped(self, count: int) -> None:
        """Take the server's word that it left out so many events here; 0: it does not know."""
        if self.joined and self.epoch is None:
            self._miss(count or None)
        else:
            self._suspicion = True

    def left(self) -> None:
        """Note that no live events come any more: the link broke, or the server ended it."""
        self.joined = False
        self._forget_ahead()

    def answered(
        self, position: Position | None, events: Sequence[Event] = (), size: int = 0
    ) -> None:
        """Take the answer to a ``subscribe`` from the place that `ask` gave."""
        self.joined = is_other = True
        before = self.epoch
        if position is None:  # no history: who was away has missed what came meanwhile
            self.epoch = None
        elif before is None:
            self.epoch = position.epoch
            # With "latest" the newest event there is comes along.
            newest = events[-1:] if self.latest else ()
            self._next = newest[0].offset if newest else position.offset + 1
            self._newest = position.offset
            if self._taken is None:
                self._taken = position.epoch, self._next - 1
        elif before != position.epoch:
            self.epoch = position.epoch
            self._next, self._newest = 1, position.offset
        elif position.offset < self._next - 1:
            # The server has lost its last events, and gives their numbers to others.
            self._next, self._newest = position.offset + 1, position.offset
            if not self._events:
                self._taken = position.epoch, position.offset
        else:
            is_other = False
        if self._started and is_other and not (self.latest and events):
            self._miss(None)
        self._started = True
        if position is not None:
            self._take_in(position, events, size)

    def paged(self, position: Position | None, events: Sequence[Event], size: int = 0) -> bool:
        """Take the answer to ``history`` from the place that `ask` gave.

        For "latest" it is the one without a position. Returns False if it is of another epoch: the
        answer to the next ``subscribe`` will tell.
        """
        if position is None or position.epoch != self.epoch:
            self.left()
            return False
        if position.offset >= self._next and not events:
            self._miss(position.offset - self._next + 1)  # the history has none of it
            self._next = position.offset + 1
        self._take_in(position, events, size)
        return True

    # --- inside ------------------------------------------------------------------------------

    def _take_in(self, position: Position, events: Sequence[Event], size: int) -> None:
        self._newest = max(self._newest, position.offset)
        each = size // len(events) if events else 0
        for event in events:
            if event.offset < self._next:
                continue
            if self._full(each):
                self.postponed += 1
                break
            if self.latest:
                self.skipped += event.offset - self._next
            elif event.offset > self._next:
                self._miss(event.offset - self._next)
            self._append(event, each)
        self._merge()

    def _live_only(self, event: Event, size: int) -> None:
        """Take an event without a number."""
        if self.latest:
            self._replace_last()
        elif self._full(size):
            self._miss(1)
            return
        self._bytes += size
        self._events.append((event, size, None))

    def _append(self, event: Event, size: int) -> None:
        if self.latest:
            self._replace_last()
        self._bytes += size
        self._events.append((event, size, self.epoch))
        self._next = event.offset + 1

    def _replace_last(self) -> None:
        # There is one event at most, and one `Missed` before it or behind it.
        for last in (-1, -2)[: len(self._events)]:
            if isinstance(self._events[last][0], Event):
                self._bytes -= self._events[last][1]
                del self._events[last]
                self.skipped += 1
                return

    def _keep(self, event: Event, size: int) -> None:
        """Take a live event that does not follow: keep it until the hole is closed, if it fits."""
        if self.joined:
            self._newest = max(self._newest, event.offset)
        if self._ahead and self._ahead[-1][0].offset + 1 != event.offset:
            self._forget_ahead()
        if len(self._ahead) < self.page and not self._full(size):
            self._bytes += size
            self._ahead.append((event, size))
        else:
            self.postponed += 1
            self._suspicion = True
            self._forget_ahead()

    def _forget_ahead(self) -> None:
        while self._ahead:
            self._bytes -= self._ahead.pop()[1]

    def _merge(self) -> None:
        """Let live events follow that follow now."""
        if self._ahead:
            self._newest = max(self._newest, self._ahead[-1][0].offset)
        while self._ahead and (self.latest or self._ahead[0][0].offset <= self._next):
            event, size = self._ahead.popleft()
            self._bytes -= size
            if event.offset >= self._next:
                self._append(event, size)

    def _full(self, size: int) -> bool:
        """Whether an event of this size has no room; a large one has it alone."""
        count = len(self._events) + len(self._ahead)
        if self.latest:
            return False
        return count >= self._limits.feed_events or (
            count > 0 and self._bytes + size > self._limits.feed_bytes
        )

    def _miss(self, count: int | None) -> None:
        """Leave word that events are missing here, beside such a word if there is one."""
        self.missed += count or 0
        # With "latest" the one before the event goes behind it.
        for place in (-1, -2)[: len(self._events) if self.latest else 1]:
            if self._events and isinstance(one := self._events[place][0], Missed):
                del self._events[place]
                count = None if count is None or one.count is None else count + one.count
                break
        self._events.append((Missed(count), 0, None))
