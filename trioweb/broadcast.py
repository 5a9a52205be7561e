"""One message to many connections, encoded once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from .config import Overflow
from .connection import WebSocket, check_message, lifecycle_of
from .lifecycle import Lifecycle
from .protocol.machine import Shared
from .types import Close, CloseCode, Message

__all__ = ["Delivery", "broadcast", "spread"]


@dataclass(frozen=True, slots=True)
class Delivery:
    """What became of a broadcast: how many connections did what with it."""

    #: The transport took it at once.
    written: int = 0
    #: It waits in the outbox, for the transport or for the next turn of the scheduler.
    queued: int = 0
    #: Its outbox was full: left out, and counted in the connection's statistics.
    dropped: int = 0
    #: Its outbox was full: closed with 1013 "slow consumer", or it was over already.
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
    `WebSocket.send`; with context takeover, what follows such a message begins a new window. The
    first broadcast in a turn of the scheduler is written at once; those that follow in the same
    turn leave together in one write.
    A receiver whose outbox is full meets the ``overflow`` policy, `Overflow.CLOSE` or
    `Overflow.DROP_NEWEST` (`attach` has the others); closing is the default, for who is closed
    knows that something is missing, and may come back. One slow or broken receiver never disturbs
    another. Raises `TypeError` if the message is neither str nor bytes, `ValueError` for another
    policy.
    """
    if overflow not in (Overflow.CLOSE, Overflow.DROP_NEWEST):
        raise ValueError(f"an outbox cannot {overflow.value}: attach a Link, or use a room")
    shared = Shared(check_message(message), compress)
    delivery, full = spread(map(lifecycle_of, list(connections)), shared)
    if not full:
        return delivery
    if overflow is Overflow.DROP_NEWEST:
        for life in full:
            life.dropped += 1
        return replace(delivery, dropped=len(full))
    for life in full:
        life.refuse(Close(CloseCode.TRY_AGAIN_LATER, "slow consumer"))
    return replace(delivery, closed=delivery.closed + len(full))


def spread(lives: Iterable[Lifecycle], shared: Shared) -> tuple[Delivery, list[Lifecycle]]:
    """Send to all that have room; return what became of it, and those whose outbox is full.

    Nothing may be added to or taken from what is iterated over meanwhile.
    """
    #: Whether this is not the first broadcast of the turn; None: nobody who can tell was met.
    later: bool | None = None
    #: What most receivers get: one frame, not compressed.
    plain: bytes | None = None
    written = queued = closed = 0
    full: list[Lifecycle] = []
    size = len(shared.data)
    for life in lives:
        outbox = life.outbox
        if later is None and outbox.write is not None and outbox.open:
            later = outbox.attendant.meet()
        if plain is not None:
            is_out = outbox.pass_on(plain, size, bool(later))
            if is_out is not None:
                written += is_out
                queued += not is_out
                continue
        if life.closed is not None:
            closed += 1
        elif outbox.full:
            full.append(life)
        else:
            frames = life.machine.shared(shared)
            if shared.compress is None and outbox.token_bytes is None and outbox.plain >= size:
                plain = frames[0]
            outbox.put_shared(frames, later=bool(later))
            if life.ended():  # the write has found the link broken
                closed += 1
            elif outbox.idle and not outbox.frames:
                written += 1
            else:
                queued += 1
    return Delivery(written, queued, 0, closed), full
