"""The lanes: what runs for every message, native where that is built.

A connection's inbox and outbox each have a lane for what is plain: a message that is decoded
already, a message that is one frame and finds room. All else takes the long way round, by the
classes that are built on the lanes. They also count when a checkpoint is due.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from .protocol.framer import framer

__all__ = ["InLane", "OutLane", "Turn", "current_turns", "flush_all"]

if TYPE_CHECKING or framer() == "pure":
    from .pure_lanes import InLane, OutLane, Turn, flush_all
else:
    try:
        from ._lanes import InLane, OutLane, Turn, flush_all
    except ImportError:  # each native module is optional by itself
        from .pure_lanes import InLane, OutLane, Turn, flush_all

_turns: trio.lowlevel.RunVar[tuple[Turn, Turn]] = trio.lowlevel.RunVar("trioweb.turns")


def current_turns() -> tuple[Turn, Turn]:
    """Return the counts that the tasks of this run share: of what they received, and sent."""
    try:
        return _turns.get()
    except LookupError:
        received, sent = Turn(), Turn()
        received.other, sent.other = sent, received
        _turns.set((received, sent))
        return received, sent
