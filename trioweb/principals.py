"""Whose connections are whose."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from .connection import WebSocket

__all__ = ["Principals"]


class Principals:
    """Finds the connections of a principal among many.

    It costs nothing until it is first asked. From then on it has an index, in which every
    connection stands with the principal that it had when it came, until it is removed.
    """

    def __init__(self, connections: Collection[WebSocket]) -> None:
        #: All there are: a live view.
        self._connections = connections
        self._index: dict[Any, dict[WebSocket, None]] | None = None
        #: The keys of the connections in the index: somebody may change ``ws.principal``.
        self._keys: dict[WebSocket, Any] = {}

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


def _is_hashable(principal: Any) -> bool:
    try:
        hash(principal)
    except TypeError:
        return False
    return True
