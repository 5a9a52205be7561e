"""The referee watches one client: what is too much, and when it is enough."""

from __future__ import annotations

from trioweb import TokenBucket

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
    """Keeps one client's accounts."""

    def __init__(self, tick_rate: int) -> None:
        rate = tick_rate * INPUT_TOLERANCE
        self._inputs = TokenBucket(rate, tick_rate * INPUT_BURST_SECONDS)
        self._pings = TokenBucket(PINGS_PER_SECOND, PING_BURST)
        self._patience = TokenBucket(FORGIVEN_PER_SECOND, STRIKES - 1)

    def check_input(self) -> None:
        """Count an input; raises `RejectedError` if they come too fast."""
        if not self._inputs.take_nowait():
            raise RejectedError("inputs come faster than ticks")

    def check_ping(self) -> None:
        """Count a ping; raises `RejectedError` if they come too fast."""
        if not self._pings.take_nowait():
            raise RejectedError(f"more than {PINGS_PER_SECOND} pings a second")

    def strike(self) -> bool:
        """Count an offence; True when it was one too many."""
        return not self._patience.take_nowait()
