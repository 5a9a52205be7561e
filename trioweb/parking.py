"""Places to wait that cost nothing until somebody waits there."""

from __future__ import annotations

import trio

__all__ = ["Gate", "Parking"]


class Parking:
    """A `trio.lowlevel.ParkingLot` that is made for the first who parks.

    A connection has several, and most of them are never used.
    """

    __slots__ = ("_lot",)

    def __init__(self) -> None:
        self._lot: trio.lowlevel.ParkingLot | None = None

    async def park(self) -> None:
        """Wait until `unpark_all`."""
        if self._lot is None:
            self._lot = trio.lowlevel.ParkingLot()
        await self._lot.park()

    def unpark_all(self) -> None:
        """Wake everyone who waits here now."""
        if self._lot is not None:
            self._lot.unpark_all()


class Gate(Parking):
    """Opens once, and stays open: a `trio.Event` that is as cheap."""

    __slots__ = ("is_open",)

    def __init__(self) -> None:
        super().__init__()
        self.is_open = False

    def open(self) -> None:
        """Let everyone through, now and later."""
        self.is_open = True
        self.unpark_all()

    async def wait(self) -> None:
        """Wait until it is open; no checkpoint if it is."""
        while not self.is_open:
            await self.park()
