"""Who owns an inbox and an outbox whose connection is over."""

from __future__ import annotations

from typing import Final

from .protocol.machine import Failed, PeerClosed
from .types import Close

__all__ = ["GONE"]


class _Gone:
    """Hears all, and does nothing: with it they are free at once, not by the garbage collector."""

    __slots__ = ()

    def ended(self) -> bool:
        return True

    def start(self, task: str) -> None: ...
    def lost(self, error: Exception | None) -> None: ...
    def stalled(self) -> None: ...
    def pong(self, payload: bytes) -> None: ...
    def peer_ended(self, event: PeerClosed | Failed) -> None: ...
    def refuse(self, close: Close) -> None: ...


GONE: Final = _Gone()
