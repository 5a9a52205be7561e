"""Who looks after the connections that nobody reads: one for a server, one for a client."""

from __future__ import annotations

from typing import Protocol

import trio

__all__ = ["Attendant", "Attended"]

#: Seconds between two looks: a busy handler's pings are answered within two of them.
LOOK = 0.05


class Attended(Protocol):
    """A connection whose `receive` was left."""

    def look(self) -> bool:
        """Hear a look; return whether another one is wanted."""
        ...


class Attendant:
    """Looks every 50 ms while there is a connection to look at, and is parked otherwise.

    Marking a connection costs its task almost nothing; starting and stopping a reader task
    whenever `receive` is left and entered would cost more than the message itself.
    """

    def __init__(self) -> None:
        self._listed: list[Attended] = []
        self._lot = trio.lowlevel.ParkingLot()

    def look_after(self, connection: Attended) -> None:
        """Put a connection on the list."""
        self._listed.append(connection)
        if self._lot:
            self._lot.unpark_all()

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            if not self._listed:
                await self._lot.park()
            await trio.sleep(LOOK)
            self._listed = self._still_listed()

    def _still_listed(self) -> list[Attended]:
        # In a method of its own, whose variables are gone when the task is parked: they would
        # keep connections alive that are over. A look may put others on the list.
        listed, self._listed = self._listed, []
        left = [connection for connection in listed if connection.look()]
        return self._listed + left
