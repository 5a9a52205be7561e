"""Fragments to messages, within the limits on size and count (RFC 6455, 5.4)."""

from __future__ import annotations

import io

from ..config import Limits
from ..errors import ProtocolError
from ..types import CloseCode, Message

__all__ = ["Assembler"]


class Assembler:
    """Puts the pieces of one message together.

    A framer calls `check` with each data frame's header, before it reads the payload, and
    `finished_frame` at the frame's end; `check` may therefore be asked twice about one header.
    `add` takes payload as it comes: a frame may arrive in many pieces.
    """

    __slots__ = ("_fragments", "_max_fragments", "_next", "_pieces", "_size", "max_size")

    def __init__(self, limits: Limits) -> None:
        self.max_size = limits.max_message
        self._max_fragments = limits.max_fragments
        self._size = 0
        self._fragments = 0
        self._next = 0
        self._pieces: io.StringIO | io.BytesIO | None = None

    @property
    def in_message(self) -> bool:
        """Whether a message has begun and not ended."""
        return self._fragments > 0 or self._pieces is not None

    def check(self, payload_length: int, *, continues: bool) -> None:
        """Raise `ProtocolError` (1009) when a frame makes its message too big."""
        before = self._size if continues else 0
        if before + payload_length > self.max_size:
            raise ProtocolError(
                CloseCode.MESSAGE_TOO_BIG,
                f"message of at least {before + payload_length} bytes, limit {self.max_size}",
            )
        if continues and self._fragments >= self._max_fragments:
            raise ProtocolError(
                CloseCode.MESSAGE_TOO_BIG, f"message of more than {self._max_fragments} fragments"
            )
        self._next = payload_length

    def finished_frame(self, *, fin: bool) -> None:
        """Count the data frame last checked; ``fin`` if it is the last of its message."""
        if fin:
            self._size = self._fragments = 0
        else:
            self._size += self._next
            self._fragments += 1

    def add(self, payload: Message, *, last: bool) -> Message | None:
        """Take a piece of a message; return the message once the ``last`` one is there."""
        if self._pieces is None:
            if last:
                return payload
            # A buffer, not a list: a message that dribbles in byte by byte costs its own size.
            self._pieces = io.StringIO(newline="") if isinstance(payload, str) else io.BytesIO()
        self._pieces.write(payload)  # type: ignore[arg-type]  # the framer keeps the kind
        if not last:
            return None
        message = self._pieces.getvalue()
        self._pieces = None
        return message
