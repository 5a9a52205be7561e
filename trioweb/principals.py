"""Whose connections are whose."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import trio

from .connection import WebSocket
from .types import Close

__all__ = ["Principals", "key_of"]


class Principals:
    """Finds the connections of a principal among many.

    It costs nothing until it is first asked. From then on it has an index, in which every
    connection stands with the principal that it had when it came, until it is removed.

    Whoever is on the way in while a principal is closed may have been checked before, and may turn
    out to be that one: such closings are remembered until those on the way are in, or gone.
    """

    def __init__(self, connections: Collection[WebSocket]) -> None:
        #: All there are: a live view.
        self._connections = connections
        self._index: dict[Any, dict[WebSocket, None]] | None = None
        #: The keys of the connections in the index: somebody may change ``ws.principal``.
        self._keys: dict[WebSocket, Any] = {}
        #: The tasks of those on the way in, each with the number of closings before it.
        self._on_way: dict[trio.lowlevel.Task, int] = {}
        #: How many closings there were.
        self._count = 0
        #: The closings that somebody on the way may have missed, with their numbers.
        self._closings: dict[Any, tuple[int, Close]] = {}

    def arrive(self) -> None:
        """Note that the connection of this task is on its way in."""
        self._on_way[trio.lowlevel.current_task()] = self._count

    def close(self, principal: Any, close: Close) -> None:
        """Note that a principal was closed."""
        self._count += 1
        if self._on_way:
            key = key_of(principal)
            self._closings.pop(key, None)  # they are in the order of their numbers
            self._closings[key] = self._count, close

    def settle(self, principal: Any = None) -> Close | None:
        """Note that the connection of this task is in, as the principal's, or gone.

        Returns the close that it has missed.
        """
        before = self._on_way.pop(trio.lowlevel.current_task(), self._count)
        if not self._closings:
            return None
        number, close = self._closings.get(key_of(principal), (0, None))
        oldest = next(iter(self._on_way.values()), self._count)
        while self._closings:
            first = next(iter(self._closings))
            if self._closings[first][0] > oldest:
                break
            del self._closings[first]
        return close if number > before else None

    def add(self, ws: WebSocket) -> None:
        """Take note of a connection that has come."""
        if self._index is not None and _is_hashable(ws.principal):
            self._keys[ws] = ws.principal
            self._index.setdefault(ws.principal, {})[ws] = None

    def remove(self, ws: WebSocket) -> None:
        """Forget a connection, if it is known."""
        if self._index is None or ws not in self._keys:
            return
        key = self._keys.pop(ws)
        theirs = self._index[key]
        del theirs[ws]
        if not theirs:
            del self._index[key]

    def connections_of(self, principal: Any) -> list[WebSocket]:
        """Return the connections of a principal, in the order in which they came."""
        if not _is_hashable(principal):
            return [ws for ws in self._connections if ws.principal == principal]
        if self._index is None:
            self._index = {}
            for ws in self._connections:
                self.add(ws)
        return list(self._index.get(principal, ()))


class _Key:
    """Makes a key of what is none: all are compared."""

    __slots__ = ("_principal",)

    def __init__(self, principal: Any) -> None:
        self._principal = principal

    def __hash__(self) -> int:
        return 0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and bool(self._principal == other._principal)


def key_of(principal: Any) -> Any:
    """Return what stands for a principal in a dictionary: itself, if it can."""
    return principal if _is_hashable(principal) else _Key(principal)


def _is_hashable(principal: Any) -> bool:
    try:
        hash(principal)
    except TypeError:
        return False
    return True
