"""Who does what connections leave for later: one task for a server, one for a client."""

from __future__ import annotations

import heapq
import logging
import math
from typing import Protocol

import trio

from .lanes import OutLane, flush_all

__all__ = ["Attendant", "Watch"]

logger = logging.getLogger("trioweb.connection")

#: Seconds between two looks: a busy handler's pings are answered within two of them.
LOOK = 0.05
#: Watches of connections that are over are thrown out when they are more than the others and these.
_FORGOTTEN = 64


class Attended(Protocol):
    """A connection whose `receive` was left."""

    def look(self) -> bool:
        """Hear a look; return whether another one is wanted."""
        ...


class Watched(Protocol):
    """What has a time to come: a connection whose peer may fall silent, a credential."""

    def next_due(self) -> float | None:
        """Hear that it is time; return when the next time is, or None for no more."""
        ...


class Watch:
    """What is watched, and when it is due."""

    __slots__ = ("due", "what")

    def __init__(self, what: Watched, due: float) -> None:
        self.what: Watched | None = what
        self.due = due

    def __lt__(self, other: Watch) -> bool:
        return self.due < other.due


class Attendant:
    """Looks after connections that nobody reads, or whose peers are silent; writes what is marked.

    It looks every 50 ms while there is a connection that nobody reads; marking one costs its task
    almost nothing, where starting and stopping a reader task whenever `receive` is left and entered
    would cost more than the message itself. And it wakes when a peer may have been silent too long,
    so that an idle connection needs no task for its heartbeat. Else it is parked.
    """

    def __init__(self) -> None:
        self._listed: list[Attended] = []
        self._lot = trio.lowlevel.ParkingLot()
        #: When to look at them.
        self._look_at = math.inf
        #: A heap.
        self._watches: list[Watch] = []
        self._forgotten = 0
        #: Its deadline is the next look, or the first watch; None while the task does not run.
        self._scope: trio.CancelScope | None = None
        #: What is to be written at the next turn of the scheduler.
        self.marked: list[OutLane] = []
        #: Whether something was broadcast already in this turn.
        self.crowded = False
        self._has_left = False

    def look_after(self, connection: Attended) -> None:
        """Put a connection on the list."""
        self._listed.append(connection)
        if len(self._listed) == 1:
            self._look_at = trio.current_time() + LOOK
            self._set_deadline()

    def watch(self, what: Watched, due: float) -> Watch:
        """Tell it when it is due."""
        watch = Watch(what, due)
        heapq.heappush(self._watches, watch)
        if self._watches[0] is watch:
            self._set_deadline()
        return watch

    def forget(self, watch: Watch) -> None:
        """Tell it no more: it is over, and not to be kept alive by this."""
        watch.what = None
        self._forgotten += 1
        if 2 * self._forgotten > len(self._watches) + _FORGOTTEN:
            self._watches = [watch for watch in self._watches if watch.what is not None]
            heapq.heapify(self._watches)
            self._forgotten = 0

    def _set_deadline(self) -> None:
        if self._scope is not None:
            first = self._watches[0].due if self._watches else math.inf
            self._scope.deadline = min(self._look_at, first)

    def wake(self) -> None:
        """Take the next turn: something is marked."""
        if self._has_left:  # and a handler goes on in a shielded scope, say
            self._write()
        else:
            self._lot.unpark()

    def meet(self) -> bool:
        """Tell whether something was broadcast in this turn already; from now on it was."""
        crowded, self.crowded = self.crowded, not self._has_left
        if not crowded:
            self.wake()
        return crowded

    async def run(self) -> None:
        """Look and write until cancelled."""
        try:
            while True:
                with trio.CancelScope() as self._scope:
                    self._set_deadline()
                    await self._take_turns()
                self._write()  # a look must not make it wait
                now = trio.current_time()
                if now >= self._look_at:
                    self._look()
                self._ask(now)
        finally:
            self._scope = None
            self._has_left = True
            self._write()
            self._listed, self._watches = [], []  # they hold connections, which hold this

    async def _take_turns(self) -> None:
        while True:
            if self.marked or self.crowded:  # since before this task could park
                await trio.lowlevel.checkpoint()
            else:
                await self._lot.park()
            self._write()

    def _write(self) -> None:
        self.crowded = False
        flush_all(self.marked)

    def _look(self) -> None:
        # In a method of its own, whose variables are gone when the task is parked: they would
        # keep connections alive that are over. A look may put others on the list.
        listed, self._listed = self._listed, []
        for connection in listed:
            try:
                if connection.look():
                    self._listed.append(connection)
            except Exception:
                logger.exception("looking after a connection failed")  # the others have theirs
        self._look_at = trio.current_time() + LOOK if self._listed else math.inf

    def _ask(self, now: float) -> None:
        while self._watches and self._watches[0].due <= now:
            # Out of the heap while it is told: it may end a connection, whose watch is forgotten.
            watch = heapq.heappop(self._watches)
            if watch.what is None:
                self._forgotten -= 1
                continue
            try:
                due = watch.what.next_due()
            except Exception:
                logger.exception("what was due failed")
                continue
            if due is not None:
                watch.due = due
                heapq.heappush(self._watches, watch)
