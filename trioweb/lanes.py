"""The lanes: what runs for every message, native where that is built.

A connection's inbox and outbox each have a lane for what is plain: a message that is decoded
already, a message that is one frame and finds room. All else takes the long way round, by the
classes that are built on the lanes. They also count when a checkpoint is due.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from .protocol.framer import framer

__all__ = ["InLane", "OutLane", "Turn", "current_turn", "flush_all"]

if TYPE_CHECKING or framer() == "pure":
    from .pure_lanes import InLane, OutLane, Turn, flush_all
else:
    try:
        from ._lanes import InLane, OutLane, Turn, flush_all
    except ImportError:  # each native module is optional by itself
        from .pure_lanes import InLane, OutLane, Turn, flush_all

_turn: trio.lowlevel.RunVar[Turn] = trio.lowlevel.RunVar("trioweb.turn")


def current_turn() -> Turn:
    """Return the count that the tasks of this run share."""
    try:
        return _turn.get()
    except LookupError:
        turn = Turn()
        _turn.set(turn)
        return turn
