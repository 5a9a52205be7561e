"""What can go wrong with a link: frozen descriptions, which `Link.inject` carries out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

__all__ = ["Conditions", "Fault", "HalfOpen", "Partition", "Reset", "Stall"]


@dataclass(frozen=True, slots=True)
class Conditions:
    """How well a link works; injecting it changes the weather for what is sent from now on.

    The default is a perfect link. Bytes stay in order, as TCP keeps them.
    """

    #: Seconds from one end to the other.
    latency: float = 0
    #: Up to so many seconds more, at random.
    jitter: float = 0
    #: Bytes per second each way, shared by the link's connections.
    bandwidth: float = math.inf
    #: One read or write moves between one byte and so many, at random. None: as many as there are.
    chunk: int | None = None
    #: Bytes that one connection may have under way and unread each way, before its writer waits.
    buffer: int = 2**16

    def __post_init__(self) -> None:
        for name in ("latency", "jitter"):
            value = getattr(self, name)
            _require(0 <= value < math.inf, f"Conditions.{name}", "finite and not below 0", value)
        _require(self.bandwidth > 0, "Conditions.bandwidth", "above 0", self.bandwidth)
        _require_whole("Conditions.buffer", self.buffer)
        _require(self.buffer >= 1, "Conditions.buffer", "at least 1", self.buffer)
        if self.chunk is not None:
            _require_whole("Conditions.chunk", self.chunk)
            _require(self.chunk >= 1, "Conditions.chunk", "at least 1, or None", self.chunk)


@dataclass(frozen=True, slots=True)
class Stall:
    """Nothing arrives for a while, though the peer is there: its buffers fill."""

    #: How long, unless `Link.heal` comes first.
    seconds: float = math.inf
    #: The host that gets nothing; None: both.
    to: str | None = None

    def __post_init__(self) -> None:
        _require(self.seconds >= 0, "Stall.seconds", "not below 0", self.seconds)


@dataclass(frozen=True, slots=True)
class Partition:
    """The hosts do not reach each other: a stall both ways, and no new connections either.

    What was under way arrives afterwards, as TCP sends it again.
    """

    #: How long, unless `Link.heal` comes first.
    seconds: float = math.inf

    def __post_init__(self) -> None:
        _require(self.seconds >= 0, "Partition.seconds", "not below 0", self.seconds)


@dataclass(frozen=True, slots=True)
class Reset:
    """Every connection of the link breaks at both ends (RST); what was not read is lost.

    What had arrived before is lost with it, as on some systems. Linux still gives it out first;
    a test that holds here holds there.
    """

    #: Strike when the link's connections have sent so many bytes more, both ways together, in
    #: the midst of a write if need be; 0 is at once. A later fault that waits so takes its place.
    after_bytes: int = 0

    def __post_init__(self) -> None:
        _require_whole("Reset.after_bytes", self.after_bytes)
        _require(self.after_bytes >= 0, "Reset.after_bytes", "not below 0", self.after_bytes)


@dataclass(frozen=True, slots=True)
class HalfOpen:
    """One end of every connection vanishes without a word, as a machine without power does.

    The other end hears nothing after what was under way, neither FIN nor RST, and what it sends
    goes nowhere.
    """

    #: The host that vanishes; None: the one that opened the connection.
    vanished: str | None = None
    #: As in `Reset`.
    after_bytes: int = 0

    def __post_init__(self) -> None:
        _require_whole("HalfOpen.after_bytes", self.after_bytes)
        _require(self.after_bytes >= 0, "HalfOpen.after_bytes", "not below 0", self.after_bytes)


#: All that `Link.inject` takes.
Fault: TypeAlias = Conditions | Stall | Partition | Reset | HalfOpen


def _require(fulfilled: bool, name: str, what: str, value: object) -> None:
    if not fulfilled:
        raise ValueError(f"{name} must be {what}, not {value!r}")


def _require_whole(name: str, value: object) -> None:
    if not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number, not {value!r}")
