"""Pings that wait for their pongs (RFC 6455, 5.5.2 and 5.5.3)."""

from __future__ import annotations

import trio

__all__ = ["Pings", "SentPing"]


class SentPing:
    """A ping that waits for its pong."""

    __slots__ = ("answered", "event", "sent")

    def __init__(self) -> None:
        self.event = trio.Event()
        self.sent = trio.current_time()
        self.answered = False


class Pings:
    """The pings of one connection, in the order in which they went."""

    __slots__ = ("_sent", "latency")

    def __init__(self) -> None:
        self._sent: dict[bytes, SentPing] = {}
        #: Seconds from the last answered ping to its pong.
        self.latency: float | None = None

    def __len__(self) -> int:
        return len(self._sent)

    def make(self, payload: bytes) -> tuple[bytes, SentPing]:
        """Note a ping that goes now."""
        ping = self._sent[payload] = SentPing()
        return payload, ping

    def forget(self, payload: bytes) -> None:
        """Wait no more for an answer."""
        self._sent.pop(payload, None)

    def answered(self, payload: bytes) -> None:
        """Take a pong: it answers its ping and every earlier one (RFC 6455, 5.5.3)."""
        if payload not in self._sent:
            return  # a heartbeat that nobody asked for, or an answer that nobody waits for
        for sent in list(self._sent):
            ping = self._sent.pop(sent)
            ping.answered = True
            ping.event.set()
            if sent == payload:
                self.latency = trio.current_time() - ping.sent
                return

    def give_up(self) -> None:
        """Wake all who wait: no answer will come."""
        for ping in self._sent.values():
            ping.event.set()
