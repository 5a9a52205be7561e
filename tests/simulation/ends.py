"""How connections ended, and how they may."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import trioweb
from tests.simulation.program import Ending, Part
from trioweb.abc import Connection, Observer
from trioweb.types import Side


@dataclass(frozen=True)
class End:
    """One end of a connection, and what it was to do there."""

    part: Part
    ws: trioweb.WebSocket
    side: Side

    def __str__(self) -> str:
        return f"the {self.side.value} {self.part.ending.value}: {self.ws.closed!r}"

    def may_say(self) -> set[tuple[int, str]]:
        """Return the codes and reasons with which this end may close."""
        part = self.part
        usual = {(1000, ""), (1001, ""), (1011, "ping timeout")}
        if part.streams:
            usual.add((1011, "a message was abandoned"))
        match part.ending:
            case Ending.ACLOSE | Ending.ACLOSE_CANCELLED:
                return usual | {(part.code, "simulated")}
            case Ending.RAISE if self.side is Side.SERVER:
                return usual | {(1011, "internal error")}
            case _:
                return usual


class Observed(Observer):
    """Counts what it hears of each connection."""

    def __init__(self) -> None:
        self.opened_ids: Counter[str] = Counter()
        self.ended_ids: Counter[str] = Counter()

    def opened(self, connection: Connection) -> None:
        self.opened_ids[connection.id] += 1

    def ended(self, connection: Connection, close: trioweb.Close) -> None:  # noqa: ARG002 - not mine
        self.ended_ids[connection.id] += 1

    @property
    def untold(self) -> Counter[str]:
        """The connections whose end was not told, or told too often."""
        return (self.opened_ids - self.ended_ids) + (self.ended_ids - self.opened_ids)
