"""What both framers speak of, and how frames are encoded without the native module.

RFC 6455, 5.2 and 5.3.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

from ..types import Close, Message

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
    "cut",
    "frame",
    "mask",
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


def frame(first: int, payload: Message, key: bytes | None) -> bytes:
    """Encode a frame that begins with the byte ``first``, masked if there is a key."""
    data = payload.encode() if isinstance(payload, str) else payload
    length = len(data)
    masked = 0 if key is None else 0x80
    if length < 126:
        head = bytes((first, masked | length))
    elif length < 2**16:
        head = struct.pack("!BBH", first, masked | 126, length)
    else:
        head = struct.pack("!BBQ", first, masked | 127, length)
    return head + data if key is None else b"".join((head, key, mask(data, key)))


def cut(
    first: int,
    payload: Message,
    most: int,
    token_bytes: Callable[[int], bytes] | None,
    last: bool,
) -> list[bytes]:
    """Encode a payload as frames of at most so many bytes of it; ``first`` is without FIN.

    ``token_bytes`` gives each a fresh key that nobody can foresee (RFC 6455, 5.3 and 10.3), and
    the ``last`` ends the message.
    """
    if most < 1:
        raise ValueError("a frame holds a byte at least")
    data = payload.encode() if isinstance(payload, str) else payload
    frames: list[bytes] = []
    for at in range(0, len(data) or 1, most):
        fin = FIN if last and at + most >= len(data) else 0
        key = None if token_bytes is None else token_bytes(4)
        frames.append(frame(first | fin, data[at : at + most], key))
        first = Opcode.CONTINUATION
    return frames


def mask(data: bytes, key: bytes) -> bytes:
    """Mask or unmask: one long exclusive or, the quickest that Python itself has."""
    length = len(data)
    stream = (key * (length // 4 + 1))[:length]
    number = int.from_bytes(data, "little") ^ int.from_bytes(stream, "little")
    return number.to_bytes(length, "little")
