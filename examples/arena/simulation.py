"""The fixed-step loop: so many steps a second, however late the scheduler wakes us.

The loop keeps account of the time that has passed and runs as many steps as it owes. If it owes
more than one, the step before was too long or the machine too busy: that is an *overrun*. It
catches up, but within a bound: a server that tries to make up for everything it missed has no
time left for anything else, and misses more. Steps beyond the bound are skipped, the game then
runs slow for that moment, and both are counted, logged and reported.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import trio

__all__ = ["FixedStep", "FixedStepStatistics"]

logger = logging.getLogger(__name__)

#: Steps run in a row at most, unless told.
CATCH_UP = 5

#: Seconds between two warnings: a log that floods makes an overload worse.
WARN_EVERY = 5


@dataclass(frozen=True, slots=True)
class FixedStepStatistics:
    """How the loop has done so far."""

    steps: int
    #: Times that more than one step was owed.
    overruns: int
    #: Steps given up for good.
    skipped: int
    #: Seconds since the start.
    elapsed: float

    @property
    def rate(self) -> float:
        """Steps per second, on average."""
        return self.steps / self.elapsed if self.elapsed else 0.0


class FixedStep:
    """Calls ``action`` ``rate`` times a second on Trio's clock. One `run` at a time."""

    def __init__(
        self, name: str, rate: float, action: Callable[[], object], *, catch_up: int = CATCH_UP
    ) -> None:
        self.name = name
        self.rate = rate
        self._action = action
        self._catch_up = catch_up
        self._steps = self._overruns = self._skipped = 0
        self._started: float | None = None
        self._warned_at = -float("inf")

    async def run(self) -> None:
        """Run until cancelled."""
        self._started = start = trio.current_time()
        # Steps accounted for, done or skipped. The time of the next is worked out from the
        # start, not from the step before, so that rounding and late wake-ups do not add up.
        settled = 0
        while True:
            await trio.sleep_until(start + (settled + 1) / self.rate)
            # The tolerance is for a clock that lands exactly on the step, as a virtual one does.
            owed = int((trio.current_time() - start) * self.rate + 1e-6) - settled
            if owed > 1:
                self._overrun(owed)
            for _ in range(min(owed, self._catch_up)):
                self._action()
                self._steps += 1
            settled += owed

    def _overrun(self, owed: int) -> None:
        skipped = max(0, owed - self._catch_up)
        self._overruns += 1
        self._skipped += skipped
        now = trio.current_time()
        if now - self._warned_at >= WARN_EVERY:
            self._warned_at = now
            logger.warning(
                "%s: %d steps late, %d skipped (since the start: %d overruns, %d skipped)",
                self.name,
                owed - 1,
                skipped,
                self._overruns,
                self._skipped,
            )

    def statistics(self) -> FixedStepStatistics:
        """Return the counts so far."""
        elapsed = 0.0 if self._started is None else trio.current_time() - self._started
        return FixedStepStatistics(self._steps, self._overruns, self._skipped, elapsed)
