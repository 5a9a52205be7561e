"""Where a client that comes back stands: its states, one after the other, to be watched."""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass

import trio

__all__ = ["Phase", "States", "Status"]

#: States that are kept for a reader that is late. Nobody can use older ones.
_KEPT = 64


class Phase(enum.Enum):
    """What a client that comes back is doing."""

    #: A connection is being made, from the name look-up to the answer to the upgrade.
    CONNECTING = "connecting"
    #: There is a connection.
    OPEN = "open"
    #: There is none, and none is tried before the backoff is over.
    WAITING = "waiting"
    #: There will be none any more.
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Status:
    """One state."""

    phase: Phase
    #: Why: what the last connection, or the attempt at it, ended with. None before the first, and
    #: when it ended because its user was done.
    cause: BaseException | None = None
    #: Failures in a row up to now.
    failures: int = 0
    #: Of WAITING: the seconds until the next attempt.
    delay: float = 0

    def __str__(self) -> str:
        """Return one line for a log or a page."""
        wait = f" for {self.delay:.3g} s" if self.phase is Phase.WAITING else ""
        return f"{self.phase.value}{wait}{f': {self.cause}' if self.cause is not None else ''}"


class States:
    """The states of one client that comes back: an async iterable for any number of readers.

    Each ``async for`` begins with the state at that time, gets every one that follows, and ends
    after `Phase.ENDED`. For a reader that is late the oldest beyond 64 are skipped: what counts is
    the last.
    """

    def __init__(self) -> None:
        self._kept: deque[Status] = deque([Status(Phase.CONNECTING)], maxlen=_KEPT)
        self._count = 1
        self._readers = trio.lowlevel.ParkingLot()

    @property
    def current(self) -> Status:
        """The state now; connecting before anything has happened."""
        return self._kept[-1]

    @property
    def count(self) -> int:
        """How many states there were up to now."""
        return self._count

    def add(self, status: Status) -> None:
        """Make a state the current one; the same again is left out."""
        if status != self.current:
            self._kept.append(status)
            self._count += 1
            self._readers.unpark_all()

    async def wait_for(self, *phases: Phase) -> Status:
        """Wait until one of these phases, or the end, is the current one; return that state.

        ::

            status = await states.wait_for(Phase.OPEN)
        """
        await trio.lowlevel.checkpoint()
        while self.current.phase not in phases and self.current.phase is not Phase.ENDED:
            await self._readers.park()
        return self.current

    def since(self, count: int) -> Status | None:
        """Return the state that came when there were so many, or the oldest kept; None if none."""
        if count >= self._count:
            return None
        return self._kept[max(0, len(self._kept) - (self._count - count))]

    async def wait_change(self) -> None:
        """Wait for the next state."""
        await self._readers.park()

    def __aiter__(self) -> AsyncIterator[Status]:
        return _Reader(self)


class _Reader(AsyncIterator[Status]):
    """One ``async for``. No generator: whoever leaves the loop leaves nothing behind."""

    def __init__(self, states: States) -> None:
        self._states = states
        self._next = states.count - 1
        self._over = False

    async def __anext__(self) -> Status:
        await trio.lowlevel.checkpoint()
        if self._over:
            raise StopAsyncIteration
        while (status := self._states.since(self._next)) is None:
            await self._states.wait_change()
        self._next = max(self._next + 1, self._states.count - _KEPT + 1)
        self._over = status.phase is Phase.ENDED
        return status
