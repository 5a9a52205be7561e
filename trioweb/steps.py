"""What a call of `receive` or `send` costs where a message, or room, is there already.

A coroutine costs more than all else that happens to a small message. Natively these methods
return an object that does at once what the lanes can do, and is else as good as a coroutine; in
Python they stay as they are. So they do from Python 3.12 on: there ``await`` gets what any other
object than a coroutine returns by a `StopIteration`, and that costs more than a coroutine.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from .lanes import InLane, OutLane
from .protocol.framer import framer

__all__ = ["Stepping", "at_once_if_room", "at_once_if_there"]

_Method = TypeVar("_Method", bound=Callable[..., Coroutine[Any, Any, Any]])


class _Stepping:
    """What a connection is built on: natively it knows its lanes, and has an `__anext__`."""

    __slots__ = ()

    def __init__(self, inlane: InLane, outlane: OutLane) -> None:
        pass


def _unchanged(method: _Method) -> _Method:
    return method


Stepping = _Stepping
at_once_if_room = at_once_if_there = _unchanged
if not TYPE_CHECKING and framer() != "pure" and sys.version_info < (3, 12):
    with suppress(ImportError):  # each native module is optional by itself
        from ._steps import Stepping, at_once_if_room, at_once_if_there
