"""One message to many connections, encoded once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from .config import Overflow
from .connection import WebSocket, check_message, lifecycle_of
from .types import Close, CloseCode, Message, Side

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
) -> Delivery:
    """Send a message to many connections without waiting for any of them.

    Servers' connections share one encoding; on a client's each is masked anew (RFC 6455, 5.3).
    It is not compressed: what was agreed on differs between them, and so do their windows.
    A receiver whose outbox is full meets the ``overflow`` policy; closing is the default, for
    who is closed knows that something is missing, and may come back. One slow or broken
    receiver never disturbs another. Raises `TypeError` if the message is neither str nor bytes.
    """
    message = check_message(message)
    encoded: dict[int, list[bytes]] = {}  # by the length of fragments
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
        machine = life.machine
        if life.side is Side.CLIENT:
            frames = machine.message(message, compress=False)
        elif (known := encoded.get(machine.fragment)) is not None:
            frames = known
        else:
            frames = encoded[machine.fragment] = machine.message(message, compress=False)
        outbox.put_frames(frames)
        if life.ended():
            closed += 1
        elif outbox.idle:
            written += 1
        else:
            queued += 1
    return Delivery(written, queued, dropped, closed)
