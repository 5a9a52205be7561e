"""What is done at the next turn of the scheduler, with one callback of Trio's for all of it."""

from __future__ import annotations

from collections.abc import Callable

import trio

__all__ = ["at_next_turn"]

_waiting: trio.lowlevel.RunVar[list[Callable[[], None]]] = trio.lowlevel.RunVar("trioweb.turns")


def at_next_turn(call: Callable[[], None]) -> None:
    """Call a function, which must not raise, once the tasks that can run now have run."""
    try:
        waiting = _waiting.get()
    except LookupError:
        _waiting.set(waiting := list[Callable[[], None]]())
    waiting.append(call)
    if len(waiting) == 1:
        trio.lowlevel.current_trio_token().run_sync_soon(_take_turn, waiting)


def _take_turn(waiting: list[Callable[[], None]]) -> None:
    calls = waiting.copy()
    waiting.clear()
    for call in calls:
        call()
