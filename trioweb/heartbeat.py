"""The heartbeat: a silent peer is asked for a sign of life, and given up without one."""

from __future__ import annotations

from collections.abc import Callable

import trio

from .config import Heartbeat
from .reading import Reading

__all__ = ["beat"]


async def beat(
    options: Heartbeat, reading: Reading, ping: Callable[[], object], dead: Callable[[], None]
) -> None:
    """Call ``ping`` and wait for the next byte from the peer; call ``dead`` if there is none.

    Any byte counts as heard. While our own side does not read, for its inbox is full, silence
    says nothing about the peer: the count starts again when reading does.
    """
    if reading.deaf:
        await reading.wait_unpaused()
        reading.last_heard = trio.current_time()
        return
    asked = trio.current_time()
    ping()
    with trio.move_on_after(options.timeout) as scope:
        await reading.wait_heard()
    if scope.cancelled_caught and not reading.deaf:
        # The thread may have been held up: who reads in this turn finds what came meanwhile.
        await trio.lowlevel.checkpoint()
        if reading.last_heard <= asked:
            dead()
