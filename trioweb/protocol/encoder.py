"""Frames to bytes: whole messages, messages in pieces, control frames (RFC 6455, 5.2).

Written here and not by wsproto, since it runs for every message, and so that masks come from a
source that a test can seed.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable

from ..types import Close, CloseCode, Message, Side
from .deflate import Deflater, Setting
from .framer import cut, frame
from .frames import FIN, RSV1, Opcode

__all__ = ["Encoder", "Pieces", "Shared"]


class Encoder:
    """Writes the frames of one connection.

    ``fragment`` is the most payload of one frame: longer messages leave in several, so that
    control frames get between. The cuts may fall inside a character: only the whole message is
    text (RFC 6455, 5.6).
    """

    __slots__ = ("_deflater", "_masks", "fragment")

    def __init__(
        self,
        side: Side,
        fragment: int,
        token_bytes: Callable[[int], bytes] = secrets.token_bytes,
        deflater: Deflater | None = None,
    ) -> None:
        self.fragment = int(min(fragment, 2**62))
        #: Where masks come from; None: frames are not masked.
        self._masks = token_bytes if side is Side.CLIENT else None
        self._deflater = deflater

    def message(self, message: Message, compress: bool | None = None) -> list[bytes]:
        """Encode a message; ``compress`` None leaves that to its size."""
        if self._deflater is None:
            opcode = Opcode.TEXT if isinstance(message, str) else Opcode.BINARY
            return self._cut(opcode, message, last=True)
        first, data = _payload(message)
        return self._whole(first, data, self._deflater.pack(data, compress))

    @property
    def plain(self) -> tuple[int, Callable[[int], bytes] | None]:
        """The size up to which a message is one plain frame, and where masks come from."""
        most = self.fragment
        if self._deflater is not None:
            most = min(most, self._deflater.setting.threshold - 1)
        return most, self._masks

    def shared(self, message: Shared) -> list[bytes]:
        """Encode a message for many, or return what others with the same setting are sent.

        A client's frames are masked each anew (RFC 6455, 5.3), and so are never shared.
        """
        packed = None if self._deflater is None else message.packed(self._deflater.setting)
        if self._masks is not None:
            return self._whole(message.first, message.data, packed)
        key = self.fragment, packed
        frames = message.frames.get(key)
        if frames is None:
            frames = message.frames[key] = self._whole(message.first, message.data, packed)
        return frames

    def sent_shared(self, frames: list[bytes]) -> None:
        """Hear that these frames go now: the window at the other end is no longer ours."""
        if self._deflater is not None and frames[0][0] & RSV1:
            self._deflater.release()

    def pieces(self, *, text: bool, compress: bool | None = None) -> Pieces:
        """Begin a message whose length nobody knows yet; no other may begin before its end."""
        deflater = None if compress is False else self._deflater
        return Pieces(self._cut, Opcode.TEXT if text else Opcode.BINARY, deflater)

    def release(self) -> None:
        """Give back the memory of the compressor; the next message begins anew."""
        if self._deflater is not None:
            self._deflater.release()

    def control(self, opcode: Opcode, payload: bytes) -> bytes:
        """Encode a ping or a pong."""
        return self._frame(FIN | opcode, payload)

    def close(self, close: Close) -> bytes:
        """Encode a close frame; code 1005 makes one without a code."""
        if close.code == CloseCode.NO_STATUS:
            return self._frame(FIN | Opcode.CLOSE, b"")
        payload = close.code.to_bytes(2, "big") + close.reason.encode()
        return self._frame(FIN | Opcode.CLOSE, payload)

    def _whole(self, first: int, data: bytes, packed: bytes | None) -> list[bytes]:
        if packed is not None:
            first, data = first | RSV1, packed
        return self._cut(first, data, last=True)

    def _cut(self, first: int, data: Message, *, last: bool) -> list[bytes]:
        """Encode data as frames, the first of which begins with the byte ``first``."""
        return cut(first, data, self.fragment, self._masks, last)

    def _frame(self, first: int, data: bytes) -> bytes:
        return frame(first, data, None if self._masks is None else self._masks(4))


class Pieces:
    """One message that leaves in pieces."""

    __slots__ = ("_cut", "_deflater", "_first")

    def __init__(
        self, cut: Callable[..., list[bytes]], opcode: Opcode, deflater: Deflater | None
    ) -> None:
        self._cut = cut
        self._deflater = deflater
        self._first = opcode if deflater is None else opcode | RSV1

    def encode(self, data: bytes, *, last: bool) -> list[bytes]:
        """Encode a piece, after the ``last`` of which the message is whole."""
        if self._deflater is not None:
            data = self._deflater.compress(data, last=last)
        first, self._first = self._first, Opcode.CONTINUATION
        return self._cut(first, data, last=last)


class Shared:
    """One message for many connections, encoded once for each of their settings.

    It is compressed without regard to what a connection was sent before, whose own compressor has
    to begin anew behind it: `Encoder.sent_shared` sees to that. Raises `UnicodeEncodeError`.
    """

    __slots__ = ("_packed", "compress", "data", "first", "frames")

    def __init__(self, message: Message, compress: bool | None = None) -> None:
        self.first, self.data = _payload(message)
        self.compress = compress
        self._packed: dict[Setting, bytes | None] = {}
        #: What is encoded so far, by the length of fragments and the compressed payload.
        self.frames: dict[tuple[int, bytes | None], list[bytes]] = {}

    def packed(self, setting: Setting) -> bytes | None:
        """Return the compressed payload; None: the message had better go as it is."""
        try:
            return self._packed[setting]
        except KeyError:
            packed = self._packed[setting] = setting.pack(self.data, self.compress)
            return packed


def _payload(message: Message) -> tuple[int, bytes]:
    if isinstance(message, str):
        return Opcode.TEXT, message.encode()
    return Opcode.BINARY, message
