"""Who does what connections leave for later: one task for a server, one for a client."""

from __future__ import annotations

from typing import Protocol

import trio

from .lanes import OutLane, flush_all

__all__ = ["Attendant"]

#: Seconds between two looks: a busy handler's pings are answered within two of them.
LOOK = 0.05


class Attended(Protocol):
    """A connection whose `receive` was left."""

    def look(self) -> bool:
        """Hear a look; return whether another one is wanted."""
        ...


class Attendant:
    """Looks after connections that nobody reads, and writes what waits for the next turn.

    It looks every 50 ms while there is a connection to look at; marking one costs its task almost
    nothing, where starting and stopping a reader task whenever `receive` is left and entered would
    cost more than the message itself. When there is nothing to do it is parked.
    """

    def __init__(self) -> None:
        self._listed: list[Attended] = []
        self._lot = trio.lowlevel.ParkingLot()
        #: Its deadline is the next look; None while the task does not run.
        self._scope: trio.CancelScope | None = None
        #: What is to be written at the next turn of the scheduler.
        self.marked: list[OutLane] = []
        #: Whether something was broadcast already in this turn.
        self.crowded = False

    def look_after(self, connection: Attended) -> None:
        """Put a connection on the list."""
        self._listed.append(connection)
        if len(self._listed) == 1 and self._scope is not None:
            self._scope.deadline = trio.current_time() + LOOK

    def wake(self) -> None:
        """Take the next turn: something is marked."""
        self._lot.unpark()

    def meet(self) -> bool:
        """Tell whether something was broadcast in this turn already; from now on it was."""
        crowded, self.crowded = self.crowded, True
        if not crowded:
            self.wake()
        return crowded

    async def run(self) -> None:
        """Look and write until cancelled."""
        try:
            while True:
                with trio.CancelScope() as self._scope:
                    if self._listed:
                        self._scope.deadline = trio.current_time() + LOOK
                    await self._take_turns()
                self._listed = self._still_listed()
        finally:
            self._scope = None

    async def _take_turns(self) -> None:
        while True:
            if self.marked or self.crowded:  # since before this task could park
                await trio.lowlevel.checkpoint()
            else:
                await self._lot.park()
            self.crowded = False
            flush_all(self.marked)

    def _still_listed(self) -> list[Attended]:
        # In a method of its own, whose variables are gone when the task is parked: they would
        # keep connections alive that are over. A look may put others on the list.
        listed, self._listed = self._listed, []
        left = [connection for connection in listed if connection.look()]
        return self._listed + left
