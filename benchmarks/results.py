"""What a run measured, with the medians and ratios of it."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field

from .rows import ROWS, SYSTEMS

#: What one turn measured: "value" in the row's unit, and for loads p50, p99 (us), load, bytes.
Measured = dict[str, float]


@dataclass(frozen=True)
class Plan:
    """What a run does."""

    rows: list[str]
    systems: list[str]
    rounds: int = 5
    #: For one turn of one system, behind a warm-up of a fifth of it.
    seconds: float = 2.0
    #: Connections of the rows about memory, at most.
    idle: int = 10_000
    #: Seconds for which the memory must stay the same.
    settle: float = 1.0
    #: Whether each row gets fresh servers; else one serves all rows that want the same of it.
    fresh: bool = True

    def turns(self) -> Iterator[tuple[str, int, str]]:
        """Yield (row, round, system); each round begins with another one.

        Memory is no matter of luck, and takes long: one round is enough.
        """
        for group in self.groups():
            able = [
                (row, name)
                for row in group
                for name in self.systems
                if ROWS[row].kind in SYSTEMS[name].kinds
            ]
            for number in range(1 if ROWS[group[0]].mode == "idle" else self.rounds):
                first = number % max(len(able), 1)
                for row, name in able[first:] + able[:first]:
                    yield row, number, name

    def groups(self) -> list[list[str]]:
        """Return the rows, those together that are compared with one another."""
        groups: dict[str, list[str]] = {}
        for row in self.rows:
            groups.setdefault(ROWS[row].group or row, []).append(row)
        return list(groups.values())


@dataclass
class Results:
    """What a run measured: by row and system, one entry for each round."""

    plan: Plan
    measured: dict[str, dict[str, list[Measured]]] = field(
        default_factory=dict[str, dict[str, list[Measured]]]
    )
    #: Why a system has no number in a row.
    failed: dict[str, dict[str, str]] = field(default_factory=dict[str, dict[str, str]])
    #: Which framer trioweb's servers said they have.
    framers: dict[str, str] = field(default_factory=dict[str, str])

    def add(self, row: str, system: str, measured: Measured) -> None:
        """Put the result of one turn to the others."""
        self.measured.setdefault(row, {}).setdefault(system, []).append(measured)

    def fail(self, row: str, system: str, reason: str) -> None:
        """Note that a system failed in a row, which then has no number at all."""
        self.failed.setdefault(row, {})[system] = reason
        self.measured.get(row, {}).pop(system, None)

    def values(self, row: str, system: str, what: str = "value") -> list[float]:
        """Return a number of every round; none if it was not measured."""
        rounds = self.measured.get(row, {}).get(system, [])
        return [one[what] for one in rounds if what in one]

    def median(self, row: str, system: str, what: str = "value") -> float | None:
        """Return the median of the rounds."""
        values = self.values(row, system, what)
        return statistics.median(values) if values else None

    def spread(self, row: str, system: str) -> float | None:
        """Return half the distance of the quartiles in relation to the median."""
        values = self.values(row, system)
        if len(values) < 3 or not (middle := statistics.median(values)):
            return None
        low, _, high = statistics.quantiles(values, method="inclusive")
        return (high - low) / 2 / middle

    def ratio(
        self, mine: tuple[str, str], other: tuple[str, str], what: str = "value"
    ) -> float | None:
        """Return the ratio of two (row, system).

        That is the median of the ratios within each round, where both stood under the same
        weather; between two rows of different groups it is the ratio of the medians.
        """
        upper, lower = self.values(*mine, what), self.values(*other, what)
        if not upper or not lower or not all(lower):
            return None
        groups = {ROWS[row].group or row for row, _ in (mine, other)}
        if len(groups) == 1 and len(upper) == len(lower):
            return statistics.median(a / b for a, b in zip(upper, lower, strict=True))
        return statistics.median(upper) / statistics.median(lower)
