"""What both framers speak of: opcodes, control frames, pauses (RFC 6455, 5.2)."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final, NamedTuple

from ..types import Close

__all__ = [
    "FIN",
    "MOST_FRAMES",
    "NOT_UTF8",
    "PAUSE",
    "RSV1",
    "SLICE",
    "SLICE_COST",
    "ControlFrame",
    "Opcode",
    "Pause",
]

FIN: Final = 0x80
RSV1: Final = 0x40
#: So many frames that bring no message are decoded in one go: others want the thread, too.
MOST_FRAMES: Final = 128
#: Where there is compression so much is parsed in one go: DEFLATE makes a mebibyte of it at most,
#: and the limit may be raised while more is here.
SLICE: Final = 2**10
#: A slice counts as so many frames, since a peer can make it as dear.
SLICE_COST: Final = MOST_FRAMES // 4
NOT_UTF8: Final = "text is not UTF-8"


class Opcode(enum.IntEnum):
    """The opcodes of frames (RFC 6455, 5.2)."""

    CONTINUATION = 0x0
    TEXT = 0x1
    BINARY = 0x2
    CLOSE = 0x8
    PING = 0x9
    PONG = 0xA


class ControlFrame(NamedTuple):
    """A control frame: for CLOSE ``payload`` is a `Close`, else the application data."""

    opcode: Opcode
    payload: bytes | Close


@dataclass(frozen=True, slots=True)
class Pause:
    """Much was decoded, and it was no event yet; there is more, but others want the thread."""


PAUSE: Final = Pause()
