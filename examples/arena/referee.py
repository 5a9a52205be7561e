"""The referee watches one client: what is too much, and when it is enough. Pure."""

from __future__ import annotations

from .buckets import Bucket
from .world import RejectedError

__all__ = ["Referee"]

#: So many strikes close the connection; one is forgotten each second.
STRIKES, FORGIVEN_PER_SECOND = 20, 1

#: Inputs may come a tenth faster than ticks, and ten seconds of them at once: that is what a break
#: of a mobile connection looks like from here, or of this server. They buy nothing (`world.PACE`
#: decides on that); what is refused here is work.
INPUT_TOLERANCE, INPUT_BURST_SECONDS = 1.1, 10

PINGS_PER_SECOND, PING_BURST = 2, 10


class Referee:
    """Keeps one client's accounts. ``now`` is in seconds, on any clock that only rises."""

    def __init__(self, tick_rate: int, now: float) -> None:
        rate = tick_rate * INPUT_TOLERANCE
        self._inputs = Bucket(rate, tick_rate * INPUT_BURST_SECONDS, now)
        self._pings = Bucket(PINGS_PER_SECOND, PING_BURST, now)
        self._patience = Bucket(FORGIVEN_PER_SECOND, STRIKES - 1, now)

    def check_input(self, now: float) -> None:
        """Count an input; raises `RejectedError` if they come too fast."""
        if not self._inputs.take(now):
            raise RejectedError("inputs come faster than ticks")

    def check_ping(self, now: float) -> None:
        """Count a ping; raises `RejectedError` if they come too fast."""
        if not self._pings.take(now):
            raise RejectedError(f"more than {PINGS_PER_SECOND} pings a second")

    def strike(self, now: float) -> bool:
        """Count an offence; True when it was one too many."""
        return not self._patience.take(now)
