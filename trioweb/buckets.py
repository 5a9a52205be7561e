"""Rates: how much a peer may send in a time, and what happens to the rest.

A `TokenBucket` stands alone, for anything that may happen so often. A `RateLimit` is what
`trioweb.guard.Guard` takes for the messages of a server's peers.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass
from typing import Literal, cast

import trio

from .protocol.assembler import Piece, size_of
from .types import Message

__all__ = ["Excess", "Meter", "Rate", "RateLimit", "TokenBucket"]


class Excess(enum.Enum):
    """What happens to a message above a `RateLimit`."""

    #: Read no more until it may come in: TCP pushes back, and nothing is lost.
    WAIT = "wait"
    #: Leave it out, and count it in the connection's ``statistics().messages_limited``.
    DROP = "drop"
    #: Close the connection with 1008 "rate limit".
    CLOSE = "close"


def _check(owner: object, per_second: float, burst: float) -> None:
    for name, value in (("per_second", per_second), ("burst", burst)):
        if not 0 < value < math.inf:  # refuses NaN too
            raise ValueError(f"{type(owner).__name__}: {name} must be positive, not {value!r}")


@dataclass(frozen=True, slots=True)
class Rate:
    """So many a second on average, of which ``burst`` may come at once after a pause.

    In any ``t`` seconds there are no more than ``per_second * t + burst``.
    """

    per_second: float
    burst: float

    def __post_init__(self) -> None:
        _check(self, self.per_second, self.burst)


@dataclass(frozen=True, slots=True)
class RateLimit(Rate):
    """How many messages, or bytes of them, may come in a second.

    Of messages, ``burst`` must be at least 1. A single message of more bytes than ``burst`` may
    come when nothing has come for so long that all of it is there, and is paid for afterwards.
    """

    of: Literal["messages", "bytes"] = "messages"
    #: Whose they are: one connection's; all those of a client's address (IPv6: of its /64), as
    #: trusted proxies tell it; or all those of one principal, an equal and hashable one.
    per: Literal["connection", "client", "principal"] = "connection"
    #: What happens above it.
    excess: Excess = Excess.WAIT

    def __post_init__(self) -> None:
        _check(self, self.per_second, self.burst)
        if self.of not in ("messages", "bytes"):
            raise ValueError(f"of is messages or bytes, not {self.of!r}")
        if self.per not in ("connection", "client", "principal"):
            raise ValueError(f"per is connection, client or principal, not {self.per!r}")
        if self.of == "messages" and self.burst < 1:
            raise ValueError(f"burst must be at least one message, not {self.burst!r}")


class TokenBucket:
    """Holds up to ``burst`` tokens, gets ``per_second``, and is full at first.

    In any ``t`` seconds no more than ``per_second * t + burst`` tokens are taken, unless ``burst``
    is less than one taking: such a one waits for a full bucket, and what it takes beyond that is
    paid back before the next. Time is Trio's. Any number of tasks may take tokens; those who wait
    get them in the order in which they came, and before anybody who would not wait.

    Raises `ValueError` for numbers that are not positive and finite.
    """

    __slots__ = ("_at", "_line", "_tokens", "burst", "per_second")

    def __init__(self, per_second: float, burst: float) -> None:
        _check(self, per_second, burst)
        self.per_second = per_second
        self.burst = burst
        #: As many as there were at that time. Fewer than none are owed.
        self._tokens: float = burst
        self._at = -math.inf
        #: Who waits; made for the first one.
        self._line: trio.Lock | None = None

    @property
    def tokens(self) -> float:
        """How many there are now; below zero when some are owed."""
        return self.fill(trio.current_time())

    def take_nowait(self, count: float = 1) -> bool:
        """Take so many if they are there and nobody waits for any; tell whether that was so."""
        now = trio.current_time()
        if (self._line is not None and self._line.locked()) or self.due(count, now) > now:
            return False
        self.spend(count)
        return True

    async def take(self, count: float = 1) -> None:
        """Wait until so many are there, and take them. Cancelled, it has taken none."""
        self.due(count, trio.current_time())  # checks the count before others have to wait
        if self._line is None:
            self._line = trio.Lock()
        async with self._line:
            await trio.sleep_until(self.due(count, trio.current_time()))
            self.spend(count)

    # For the rest of trioweb, which knows the time and has no line.

    def fill(self, now: float) -> float:
        """Add what has come by now, and return how many there are."""
        tokens = self._tokens + (now - self._at) * self.per_second
        self._at = now
        self._tokens = tokens = min(tokens, self.burst)
        return tokens

    def due(self, count: float, now: float) -> float:
        """Return when so many may be taken: now, or later."""
        if not count >= 0:
            raise ValueError(f"tokens are taken, not given: {count!r}")
        missing = min(count, self.burst) - self.fill(now)
        return now + missing / self.per_second if missing > 0 else now

    def pay(self, count: float, now: float) -> bool:
        """Take so many if they are there; tell whether they were."""
        tokens = self._tokens + (now - self._at) * self.per_second
        self._at = now
        tokens = min(tokens, self.burst)
        self._tokens = tokens - count if tokens >= count else tokens
        return tokens >= count

    def spend(self, count: float) -> None:
        """Take so many, be they there or not; below zero, give them back."""
        self._tokens -= count


class Meter:
    """What one connection may take in: holds back what is above a limit, or leaves it out."""

    __slots__ = ("_by_bytes", "_entries", "ahead", "broken", "dropped", "due")

    def __init__(self) -> None:
        self._entries: list[tuple[TokenBucket, bool, Excess]] = []
        self._by_bytes = False
        #: What came and waits. The first one is paid for, and may come in when that is due.
        self.ahead: list[Message | Piece] = []
        self.due = -math.inf
        #: Messages left out.
        self.dropped = 0
        #: Whether something came that ends the connection.
        self.broken = False

    def add(self, limit: RateLimit, bucket: TokenBucket) -> None:
        """Keep to one more limit, whose bucket others may share."""
        self._entries.append((bucket, limit.of == "bytes", limit.excess))
        self._by_bytes = any(by_bytes for _, by_bytes, _ in self._entries)

    def covers(self, messages: list[Message | Piece], start: int, now: float) -> bool:
        """Pay for all from ``start`` on, if every limit allows that; this runs for each read."""
        count = len(messages) - start
        size = _bytes_of(messages[start:]) if self._by_bytes else 0
        for paid, (bucket, by_bytes, _) in enumerate(self._entries):
            if not bucket.pay(size if by_bytes else count, now):
                for other, other_by_bytes, _ in self._entries[:paid]:
                    other.spend(-(size if other_by_bytes else count))
                return False
        return True

    def hold(self, messages: list[Message | Piece], now: float) -> list[Message | Piece]:
        """Take what `covers` refused, and return what may come in all the same."""
        self.ahead = messages
        return self._sift(now)

    def release(self, now: float) -> list[Message | Piece]:
        """Return what may come in of what waits, once the first of it is due."""
        return [self.ahead.pop(0), *self._sift(now)]

    def _sift(self, now: float) -> list[Message | Piece]:
        admitted: list[Message | Piece] = []
        for at, message in enumerate(self.ahead):
            verdict = self._judge(message, now)
            if verdict is Excess.DROP:
                self.dropped += 1
            elif isinstance(verdict, Excess):
                self.broken = True
                self.due = math.inf
                del self.ahead[:at]
                return admitted
            elif verdict > now:
                self.due = verdict
                del self.ahead[:at]
                return admitted
            else:
                admitted.append(message)
        self.ahead.clear()
        return admitted

    def _judge(self, message: Message | Piece, now: float) -> Excess | float:
        """Pay for a message and return when it may come in; or what becomes of it instead."""
        is_piece = isinstance(message, Piece)
        count = 0 if isinstance(message, Piece) and not message.last else 1
        size = _bytes(message)
        for bucket, by_bytes, excess in self._entries:
            # Of a message that is received as a stream the handler has the beginning already.
            may_refuse = excess is Excess.CLOSE or (excess is Excess.DROP and not is_piece)
            if may_refuse and bucket.due(size if by_bytes else count, now) > now:
                return excess
        due = now
        for bucket, by_bytes, excess in self._entries:
            amount = size if by_bytes else count
            if excess is Excess.WAIT:
                due = max(due, bucket.due(amount, now))
            bucket.spend(amount)
        return due


def _bytes(message: Message | Piece) -> int:
    return size_of(message.data if isinstance(message, Piece) else message)


def _bytes_of(messages: list[Message | Piece]) -> int:
    """Return the bytes of all of them, most quickly of those of one kind: joined, they are one."""
    try:
        if isinstance(messages[0], str):
            return size_of("".join(cast("list[str]", messages)))
        return len(b"".join(cast("list[bytes]", messages)))
    except TypeError:
        return sum(map(_bytes, messages))
