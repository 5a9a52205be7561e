"""One message to many connections, encoded once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from .config import Overflow
from .connection import WebSocket, check_message, lifecycle_of
from .protocol.machine import Shared
from .types import Close, CloseCode, Message

__all__ = ["Delivery", "broadcast"]


@dataclass(frozen=True, slots=True)
class Delivery:
    """What became of a broadcast: how many connections did what with it."""

    #: The transport took it at once.
    written: int = 0
    #: It waits in the outbox.
    queued: int = 0
    #: Its outbox was full: left out, and counted in the connection's statistics.
    dropped: int = 0
    #: Its outbox was full: closed with 1008 "slow consumer", or it was over already.
    closed: int = 0


def broadcast(
    connections: Iterable[WebSocket],
    message: Message,
    *,
    overflow: Overflow = Overflow.CLOSE,
    compress: bool | None = None,
) -> Delivery:
    """Send a message to many connections without waiting for any of them.

    Servers' connections share one encoding, compressed once for each setting that was agreed on;
    on a client's each is masked anew (RFC 6455, 5.3). ``compress`` means what it does in
    `WebSocket.send`; with context takeover, what follows such a message begins a new window.
    A receiver whose outbox is full meets the ``overflow`` policy; closing is the default, for
    who is closed knows that something is missing, and may come back. One slow or broken
    receiver never disturbs another. Raises `TypeError` if the message is neither str nor bytes.
    """
    shared = Shared(check_message(message), compress)
    written = queued = dropped = closed = 0
    for ws in list(connections):
        life = lifecycle_of(ws)
        outbox = life.outbox
        if life.ended():
            closed += 1
            continue
        if outbox.full:
            if overflow is Overflow.DROP_NEWEST:
                life.dropped += 1
                dropped += 1
            else:
                life.refuse(Close(CloseCode.POLICY_VIOLATION, "slow consumer"))
                closed += 1
            continue
        outbox.put_shared(life.machine.shared(shared))
        if life.ended():
            closed += 1
        elif outbox.idle and not outbox.frames:
            written += 1
        else:
            queued += 1
    return Delivery(written, queued, dropped, closed)
