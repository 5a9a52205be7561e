"""A token bucket: the one idea behind every limit of the arena."""

from __future__ import annotations

__all__ = ["Bucket"]


class Bucket:
    """Holds up to ``burst`` tokens and gains ``rate`` of them per unit of ``now``.

    The unit is the caller's: seconds for what a client sends, ticks for how far a player may
    move. The bucket never looks at a clock itself, so everything built on it can be tested with
    plain numbers.
    """

    __slots__ = ("_level", "_seen", "burst", "rate")

    def __init__(self, rate: float, burst: float, now: float = 0) -> None:
        self.rate = rate
        self.burst = burst
        self._level = burst
        self._seen = now

    def take(self, now: float) -> bool:
        """Take one token; False, and nothing taken, if there is none."""
        # A `now` that runs backwards refills nothing, and is not charged for either.
        if now > self._seen:
            self._level = min(self.burst, self._level + (now - self._seen) * self.rate)
            self._seen = now
        if self._level < 1:
            return False
        self._level -= 1
        return True
