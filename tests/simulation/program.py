"""What a simulation does, as data: drawn by chance, be it Hypothesis's or a seed's."""

from __future__ import annotations

import enum
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from trioweb.config import Deflate, Heartbeat, Limits, Timeouts
from trioweb.testing import Conditions, Fault, HalfOpen, Partition, Reset, Stall

#: Close codes that an end may choose (RFC 6455, 7.4.1 and 7.4.2).
CODES = (1000, 1001, 1008, 1011, 1014, 3000, 4999)


#: Sizes of messages, in bytes; the small ones where they move in small pieces.
_SMALL = (0, 5, 30, 125, 126, 300)
_LARGE = (*_SMALL * 6, 1000, 1000, 4000, 70_000)


class How(enum.Enum):
    """By which call a message is sent."""

    SEND = "send"
    NOWAIT = "send_nowait"
    BROADCAST = "broadcast"
    STREAM = "send_stream"


@dataclass(frozen=True)
class Send:
    """Send a message, cancelled at a step or not."""

    size: int
    text: bool
    how: How = How.SEND
    cancel_at: int | None = None


@dataclass(frozen=True)
class Sleep:
    seconds: float


@dataclass(frozen=True)
class Ping:
    cancel_at: int | None = None


@dataclass(frozen=True)
class WaitWritten:
    cancel_at: int | None = None


Action: TypeAlias = Send | Sleep | Ping | WaitWritten


@dataclass(frozen=True)
class Taking:
    """One receive: after a pause, cancelled at a step or not, without waiting, or in pieces."""

    pause: float = 0
    cancel_at: int | None = None
    nowait: bool = False
    stream: bool = False


class Ending(enum.Enum):
    """How one end leaves, when its actions are done."""

    STAY = "stays until the other goes"
    RETURN = "leaves its block"
    ACLOSE = "closes with a code"
    ACLOSE_CANCELLED = "is cancelled while it closes"
    RAISE = "raises"
    CANCELLED = "is cancelled in the midst of its actions"


@dataclass(frozen=True)
class Part:
    """What one end of a connection does. Several senders share the actions between them."""

    actions: tuple[Action, ...]
    senders: int
    takings: tuple[Taking, ...]
    ending: Ending
    code: int
    #: For endings that cancel: the seconds, or the step, at which.
    cancel_after: float
    cancel_at: int

    @property
    def streams(self) -> bool:
        """Whether it sends messages in pieces, and so may leave in the midst of one."""
        return any(isinstance(one, Send) and one.how is How.STREAM for one in self.actions)

    @property
    def always_listens(self) -> bool:
        """Whether it makes no pause in which its peer's pings would wait."""
        return not any(taking.pause for taking in self.takings)


@dataclass(frozen=True)
class Visit:
    """One connection."""

    pause: float
    client: Part
    server: Part


@dataclass(frozen=True)
class Strike:
    """A fault on the link of one of the clients; None heals it."""

    time: float
    client: int
    fault: Fault | None


@dataclass(frozen=True)
class Drain:
    time: float
    timeout: float
    grace: float


@dataclass(frozen=True)
class Program:
    """Clients that visit one server one connection after the other, and what befalls them."""

    clients: tuple[tuple[Visit, ...], ...]
    healthy: int
    conditions: tuple[Conditions, ...]
    strikes: tuple[Strike, ...]
    drain: Drain | None
    #: Whether the transports hide that they can be read without waiting, as TLS does.
    opaque: bool
    limits: Limits
    timeouts: Timeouts
    heartbeat: Heartbeat | None
    deflate: Deflate | None


def draw(chance: random.Random, *, clients: int = 4, visits: int = 6) -> Program:
    """Draw a program of at most so many clients with so many connections each."""
    # Either in small pieces, or with large messages: both at once is slow and finds no more.
    fine = chance.random() < 0.3
    sizes = _SMALL if fine else _LARGE
    limits = Limits(
        inbox_bytes=chance.choice([1, 1000, 2**16, 2**20]),
        inbox_messages=chance.choice([1, 3, 1024]),
        outbox_bytes=chance.choice([1, 2000, 2**16]),
        outbox_frames=chance.choice([1, 5, 1024]),
        outbox_control=chance.choice([1, 4, 64]),
        fragment=chance.choice([100 if fine else 1000, 5000, 2**16]),
        read=chance.choice([7 if fine else 2000, 2**16]),
    )
    count = chance.randint(1, clients)
    horizon = chance.choice([1.0, 10.0, 100.0])
    return Program(
        clients=tuple(
            tuple(_visit(chance, horizon, sizes) for _ in range(chance.randint(1, visits)))
            for _ in range(count)
        ),
        healthy=1,
        conditions=tuple(_conditions(chance, fine=fine) for _ in range(count)),
        strikes=tuple(_strikes(chance, count, horizon, fine=fine)),
        drain=_drain(chance, horizon) if chance.random() < 0.3 else None,
        opaque=chance.random() < 0.25,
        limits=limits,
        timeouts=Timeouts(close=chance.choice([1, 5, 10]), write=chance.choice([5, 20])),
        heartbeat=chance.choice(
            [None, Heartbeat(), Heartbeat(3, 2), Heartbeat(max(0.5, horizon / 20), 1)]
        ),
        deflate=_deflate(chance),
    )


def _conditions(chance: random.Random, *, fine: bool) -> Conditions:
    if chance.random() < 0.2:
        return Conditions()
    return Conditions(
        latency=chance.choice([0, 0.001, 0.05, 0.3]),
        jitter=chance.choice([0, 0, 0.02, 0.5]),
        bandwidth=chance.choice([math.inf, math.inf, 1e6, 2e4]),
        chunk=chance.choice([None, 50 if fine else 3000]),
        buffer=chance.choice([2**16, chance.choice([20, 500]) if fine else 5000]),
    )


def _deflate(chance: random.Random) -> Deflate | None:
    if chance.random() < 0.5:
        return None
    return Deflate(
        window_bits=chance.choice([9, 12, 15]),
        max_window_bits=chance.choice([9, 15]),
        context_takeover=chance.random() < 0.7,
        threshold=chance.choice([0, 100, 10_000]),
    )


def _visit(chance: random.Random, horizon: float, sizes: Sequence[int]) -> Visit:
    client, server = _part(chance, horizon, sizes), _part(chance, horizon, sizes)
    if client.ending is server.ending is Ending.STAY:  # one of them has to go
        client = replace(client, ending=Ending.RETURN)
    return Visit(chance.choice([0, 0, horizon / 10]), client, server)


def _part(chance: random.Random, horizon: float, sizes: Sequence[int]) -> Part:
    sends = chance.randint(8, 14)
    actions = [_send(chance, sizes) for _ in range(sends)] + [
        _other(chance, horizon) for _ in range(chance.randint(0, 4))
    ]
    chance.shuffle(actions)
    return Part(
        actions=tuple(actions),
        senders=chance.choice([1, 1, 1, 2, 3]),
        takings=tuple(_taking(chance, horizon) for _ in range(chance.choice([0, 0, 4, 12]))),
        ending=chance.choices(list(Ending), [6, 4, 2, 1, 1, 1])[0],
        code=chance.choice(CODES),
        cancel_after=chance.uniform(0, horizon / 5),
        cancel_at=chance.randint(0, 6),
    )


def _send(chance: random.Random, sizes: Sequence[int]) -> Action:
    return Send(
        chance.choice(sizes),
        text=chance.random() < 0.5,
        how=chance.choices(list(How), [6, 1, 1, 1])[0],
        cancel_at=_sometimes(chance),
    )


def _other(chance: random.Random, horizon: float) -> Action:
    match chance.randint(0, 3):
        case 0:
            return Ping(_sometimes(chance))
        case 1:
            return WaitWritten(_sometimes(chance))
        case _:
            return Sleep(chance.uniform(0, horizon / 10))


def _taking(chance: random.Random, horizon: float) -> Taking:
    pause = chance.choice([0, 0, chance.uniform(0, horizon / 5)])
    nowait, stream = chance.random() < 0.2, chance.random() < 0.2
    return Taking(pause, _sometimes(chance), nowait=nowait, stream=stream)


def _sometimes(chance: random.Random) -> int | None:
    return chance.randint(0, 4) if chance.random() < 0.15 else None


def _drain(chance: random.Random, horizon: float) -> Drain:
    timeout = chance.choice([1.0, 10.0])
    return Drain(chance.uniform(0, horizon), timeout, chance.choice([0, timeout / 2]))


def _strikes(chance: random.Random, clients: int, horizon: float, *, fine: bool) -> list[Strike]:
    strikes: list[Strike] = []
    for _ in range(chance.choice([0, 1, 2, 4, 8])):
        time = chance.uniform(0, horizon / 2)
        client = chance.randrange(clients)
        seconds = chance.choice([0.01, 0.05, horizon / 10, horizon, 120.0])
        fault: Fault | None = None
        match chance.randint(0, 5):
            case 0:
                fault = _conditions(chance, fine=fine)
            case 1:
                to = chance.choice([None, f"client{client}", "server"])
                fault = Stall(seconds, to)
            case 2:
                fault = Partition(seconds)
            case 3:
                fault = Reset(_bytes(chance))
            case 4:
                vanished = chance.choice([f"client{client}", "server"])
                fault = HalfOpen(vanished, _bytes(chance))
            case _:
                pass
        strikes.append(Strike(time, client, fault))
    return sorted(strikes, key=lambda strike: strike.time)


def _bytes(chance: random.Random) -> int:
    return chance.choice([0, 0, chance.randint(1, 400), chance.randint(1, 10_000)])
