"""Fragments to messages, within the limits on size and count (RFC 6455, 5.4)."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass

from ..config import Limits
from ..errors import ProtocolError
from ..types import CloseCode, Message

__all__ = ["Assembler", "Piece", "size_of"]


#: What zlib makes of random bytes at its smallest memory level, and some more; and what the end
#: of a flushed piece takes, with some more too, for each may be a frame.
_GROWTH = 17 / 16
_FLUSH = 64


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a message that is received as a stream; ``last`` ends the message."""

    data: Message
    last: bool

    def __len__(self) -> int:
        return len(self.data)

    def __bool__(self) -> bool:
        return True  # the last one may be empty


def size_of(data: Message) -> int:
    """Return the bytes of payload that a message, or a piece of one, stands for."""
    return len(data) if isinstance(data, bytes) or data.isascii() else len(data.encode())


class Assembler:
    """Puts the pieces of one message together, or passes them on as they come.

    A framer calls `check` with each data frame's header, before it reads the payload, and
    `finished_frame` at the frame's end; `check` may therefore be asked twice about one header.
    `add` takes payload as it comes: a frame may arrive in many pieces.
    """

    __slots__ = (
        "_begun",
        "_fragments",
        "_limit",
        "_max_fragments",
        "_next",
        "_parts",
        "_size",
        "_streams",
        "_under_way",
        "max_size",
        "whole",
    )

    def __init__(self, limits: Limits) -> None:
        #: The largest message that is put together.
        self.whole = limits.max_message
        #: The largest one that is taken at all: this one, and those after it.
        self.max_size: float = limits.max_message
        self._limit: float = limits.max_message
        #: A header of a message has come, and not the message's end.
        self._begun = False
        self._max_fragments: float = limits.max_fragments
        self._streams = False
        self._size = 0
        self._fragments = 0
        self._next = 0
        #: A part of the message under way has been passed on.
        self._under_way = False
        self._parts: io.StringIO | io.BytesIO | None = None

    @property
    def in_message(self) -> bool:
        """Whether a whole frame of a message has come, and not the message's end."""
        return self._fragments > 0

    def stream(self, limit: float) -> None:
        """From now on pass messages on in pieces, and take them up to ``limit`` bytes.

        A message that has begun was allowed more, maybe: it keeps that.
        """
        self._streams = True
        self._limit = limit
        self.max_size = max(limit, self.max_size) if self._begun else limit
        # What bounds the pieces of a message in memory is not needed for those that are not.
        self._max_fragments = math.inf

    def check(self, payload_length: int, *, continues: bool, compressed: bool = False) -> None:
        """Raise `ProtocolError` when the next frame makes no message, or one too big (1009).

        What does not compress grows a little; the limit on what comes out is the inflater's.
        """
        if continues is not self.in_message:
            raise ProtocolError(
                CloseCode.PROTOCOL_ERROR,
                "a message begins inside another"
                if self.in_message
                else "a continuation of no message",
            )
        limit = self.max_size
        most = limit * _GROWTH + _FLUSH * (self._fragments + 1) if compressed else limit
        if self._size + payload_length > most:
            raise ProtocolError(
                CloseCode.MESSAGE_TOO_BIG,
                f"message of at least {self._size + payload_length} bytes, limit {limit}",
            )
        if self._fragments >= self._max_fragments:
            raise ProtocolError(
                CloseCode.MESSAGE_TOO_BIG, f"message of more than {self._max_fragments} fragments"
            )
        self._next = payload_length
        self._begun = True

    def finished_frame(self, *, fin: bool) -> None:
        """Count the data frame last checked; ``fin`` if it is the last of its message."""
        if fin:
            self._size = self._fragments = 0
            self._begun = False
            self.max_size = self._limit
        else:
            self._size += self._next
            self._fragments += 1

    def add(self, payload: Message, *, last: bool) -> Message | Piece | None:
        """Take a part of a message; return the message once the ``last`` one is there.

        Of a `stream` return the part, but for a small message that comes in one part.
        """
        if self._streams:
            return self._pass_on(payload, last=last)
        if self._parts is None:
            if last:
                return payload
            # A buffer, not a list: a message that dribbles in byte by byte costs its own size.
            self._parts = io.StringIO(newline="") if isinstance(payload, str) else io.BytesIO()
        self._parts.write(payload)  # type: ignore[arg-type]  # the framer keeps the kind
        if not last:
            return None
        message = self._parts.getvalue()
        self._parts = None
        return message

    def drop(self) -> None:
        """Forget the message under way."""
        self._parts = None

    def _pass_on(self, payload: Message, *, last: bool) -> Message | Piece | None:
        if self._parts is not None:  # it began before anybody asked for a stream
            self._parts.write(payload)  # type: ignore[arg-type]  # the framer keeps the kind
            payload = self._parts.getvalue()
            self._parts = None
        elif last and not self._under_way and size_of(payload) <= self.whole:
            return payload
        self._under_way = not last
        return Piece(payload, last) if payload or last else None
