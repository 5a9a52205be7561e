"""Where one stands in a topic's history: what a `trioweb.abc.Store` numbers and gives back."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Arrival", "Entry", "Gap", "Page", "Position"]


@dataclass(frozen=True, slots=True)
class Position:
    """A place in the numbering of one topic.

    ``epoch`` names the numbering: another epoch is another numbering, and the offsets of the two
    have nothing to do with each other. ``offset`` is the number of an entry, counted from 1; 0 is
    the place before the first one.
    """

    epoch: str
    offset: int


@dataclass(frozen=True, slots=True)
class Entry:
    """What a store keeps under one number: bytes that mean nothing to it."""

    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a topic's history, as it was at one moment.

    ``position`` is the newest number given out by then. ``entries`` are in order, without holes
    between them.
    """

    position: Position
    entries: tuple[Entry, ...] = ()


@dataclass(frozen=True, slots=True)
class Arrival:
    """What a broker has carried: bytes that mean nothing to it, published on one topic."""

    topic: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Gap:
    """A broker's word that something may be missing here: of one topic, or with None of any."""

    topic: str | None = None
