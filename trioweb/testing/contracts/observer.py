"""The contract of a `trioweb.abc.Observer`, and of the connections that it observes."""

from __future__ import annotations

from collections.abc import Callable

import trio

from ...abc import Observer
from .promises import keeps, plain
from .scenes import SCENES
from .watch import Watch

__all__ = ["check_observer"]

#: Seconds for one scene.
_PATIENCE = 30


async def check_observer(make_observer: Callable[[], Observer]) -> None:
    """Check an observer on both ends of real connections over a `VirtualNetwork`.

    ``make_observer`` makes one for each of several scenes: connections that either end closes,
    that break, whose handler raises, that are drained, cancelled, one beside the other; requests
    that are plain, refused or illegible.

    Of the observer:

    - it is an `Observer`, and its hooks are plain functions: a coroutine would never run;
    - no hook raises, whatever happens (trioweb would log that and go on);
    - no hook waits: sleeps, runs an event loop, looks up names, connects or receives;
    - it leaves the connection as it is: the peers receive each other's messages, and no others.

    Of trioweb, towards any observer:

    - ``opened`` once, then ``ended`` once for each connection, with the very object that the
      handler or the client has, whose ``closed`` is set and given to ``ended``;
    - ``handler_failed`` once, after ``opened``, with the exception that the handler raised;
    - ``answered`` once for a request that did not become a connection, None if not legible.

    Not checked, for nothing can tell it from honest work: long computing, files, waiting for a
    lock or a thread, and what waits inside a library in C; under a profiler, such as cProfile, no
    waiting at all. Raises `AssertionError`.
    """
    for name, scene in SCENES.items():
        watch = Watch(plain("make_observer", make_observer()))
        scope = trio.CancelScope(deadline=trio.current_time() + _PATIENCE)
        with keeps(f"a connection {name}", scope, lambda: f"not over after {_PATIENCE} s"):
            try:
                await scene(watch)
            finally:
                # What a hook did wrong explains whatever went wrong after it.
                watch.check_breaches()
