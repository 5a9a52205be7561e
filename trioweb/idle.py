"""The idle timeout: a connection on which nobody says anything closes, be the peer alive or not."""

from __future__ import annotations

from typing import Protocol

import trio

from .attendant import Attendant, Watch
from .inbox import Inbox
from .outbox import Outbox
from .types import Close, CloseCode

__all__ = ["IDLE", "Idle"]

#: How an idle connection ends: 1001, for its peer did nothing wrong, and may come back.
IDLE = Close(CloseCode.GOING_AWAY, "idle")

#: In each of so many parts of the time it is looked whether messages came or went.
_LOOKS = 4

#: A message that is long under way counts if so many bytes of it get through from look to look;
#: pings and pongs alone do not come to that.
_PROGRESS = 1024


class IdleOwner(Protocol):
    """Whom an idle timeout tells."""

    def drain(self, close: Close) -> None:
        """Close for our own side's going away."""


class Idle:
    """Looks at the counts of one connection, by the attendant: that takes no task.

    While our own side is behind, with messages that came and were not taken, it is not idle.
    """

    __slots__ = (
        "_attendant",
        "_inbox",
        "_messages",
        "_outbox",
        "_owner",
        "_seconds",
        "_since",
        "_size",
        "_watch",
    )

    def __init__(
        self, attendant: Attendant, inbox: Inbox, outbox: Outbox, owner: IdleOwner, seconds: float
    ) -> None:
        self._attendant = attendant
        self._inbox = inbox
        self._outbox = outbox
        self._owner = owner
        self._seconds = seconds
        self._messages = self._size = 0
        self._since = trio.current_time()
        self._watch: Watch | None = attendant.watch(self, self._since + seconds / _LOOKS)

    def next_due(self) -> float | None:
        """Close the connection if it is idle; else return when to look again."""
        inbox, outbox, now = self._inbox, self._outbox, trio.current_time()
        messages = inbox.messages_received + outbox.messages_sent
        size = inbox.bytes_received + outbox.bytes_sent
        moved = messages != self._messages or size >= self._size + _PROGRESS
        self._messages, self._size = messages, size
        if moved or inbox.inbox or inbox.paused:
            self._since = now
        elif now >= self._since + self._seconds:
            self._watch = None
            self._owner.drain(IDLE)
            return None
        return min(now + self._seconds / _LOOKS, self._since + self._seconds)

    def end(self) -> None:
        """Look no more: the connection is over."""
        if self._watch is not None:
            self._attendant.forget(self._watch)
            self._watch = None
