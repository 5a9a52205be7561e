"""Frames from bytes and bytes from frames: the place where the framer is chosen.

There is one so far, wsproto's own, behind the four methods that a native one will share.
"""

from __future__ import annotations

import enum
from typing import NamedTuple

from wsproto.extensions import Extension
from wsproto.frame_protocol import CloseReason, FrameDecoder, FrameProtocol, ParseFailed, RsvBits
from wsproto.frame_protocol import Opcode as WsprotoOpcode

from ..errors import ProtocolError
from ..types import Close, CloseCode, Message, Side
from .assembler import Assembler

__all__ = ["ControlFrame", "Framer", "Opcode"]


class Opcode(enum.IntEnum):
    """The opcodes of control frames (RFC 6455, 5.5)."""

    CLOSE = 0x8
    PING = 0x9
    PONG = 0xA


class ControlFrame(NamedTuple):
    """A control frame: for CLOSE ``payload`` is a `Close`, else the application data."""

    opcode: Opcode
    payload: bytes | Close


_NO_RSV = RsvBits(False, False, False)
_CONTINUATION = WsprotoOpcode.CONTINUATION
_BAD_GATEWAY = CloseCode.BAD_GATEWAY.to_bytes(2, "big")
#: A code that wsproto lets through in place of 1014, which it does not know (registered 2016).
_STAND_IN = CloseReason.SERVICE_RESTART.to_bytes(2, "big")


class _Hooks(Extension):
    """wsproto's hook into each frame's header: limits act before the payload is read.

    wsproto may show one header twice, when the mask behind it has not come yet.
    """

    name = "trioweb"

    def __init__(self, assembler: Assembler, mask_length: int) -> None:
        self.assembler = assembler
        self.mask_length = mask_length
        self.opcode = _CONTINUATION
        #: Bytes fed and not yet decoded; wsproto need not be asked when there are none.
        self.undecoded = 0
        self.frame_length = 0
        self.error: ProtocolError | None = None
        self.bad_gateway = False

    def enabled(self) -> bool:
        return True

    def offer(self) -> bool:
        return False

    def frame_inbound_header(
        self,
        proto: FrameDecoder | FrameProtocol,  # noqa: ARG002 - the signature is wsproto's
        opcode: WsprotoOpcode,
        rsv: RsvBits,  # noqa: ARG002 - see proto
        payload_length: int,
    ) -> CloseReason | RsvBits:
        self.opcode = opcode
        extended = 0 if payload_length < 126 else 2 if payload_length < 2**16 else 8
        self.frame_length = 2 + extended + self.mask_length + payload_length
        if opcode < 8:
            try:
                self.assembler.check(payload_length, continues=opcode is _CONTINUATION)
            except ProtocolError as error:
                self.error = error
                return CloseReason.MESSAGE_TOO_BIG
        return _NO_RSV

    def frame_inbound_payload_data(
        self,
        proto: FrameDecoder | FrameProtocol,  # noqa: ARG002 - the signature is wsproto's
        data: bytes,
    ) -> bytes | CloseReason:
        if self.opcode is WsprotoOpcode.CLOSE and data[:2] == _BAD_GATEWAY:
            self.bad_gateway = True
            return _STAND_IN + data[2:]
        return data

    def frame_inbound_complete(
        self,
        proto: FrameDecoder | FrameProtocol,  # noqa: ARG002 - the signature is wsproto's
        fin: bool,
    ) -> bytes | CloseReason | None:
        self.undecoded -= self.frame_length
        if self.opcode < 8:
            self.assembler.finished_frame(fin=fin)
        return None


class Framer:
    """wsproto's frame parser and serialiser, for one connection.

    After `next` has raised, or has returned a CLOSE, it returns None for ever.
    """

    __slots__ = ("_assembler", "_hooks", "_proto")

    def __init__(self, side: Side, assembler: Assembler) -> None:
        self._assembler = assembler
        self._hooks = _Hooks(assembler, mask_length=4 if side is Side.SERVER else 0)
        self._proto = FrameProtocol(side is Side.CLIENT, [self._hooks])

    def feed(self, data: bytes) -> None:
        """Take bytes from the peer."""
        self._hooks.undecoded += len(data)
        self._proto.receive_bytes(data)

    def next(self) -> Message | ControlFrame | None:
        """Decode up to the next whole message or control frame; None when more is needed.

        Raises `ProtocolError` at the first byte that is wrong.
        """
        if not self._hooks.undecoded:
            return None
        try:
            for frame in self._proto.received_frames():
                payload = frame.payload
                if frame.opcode < 8:
                    assert not isinstance(payload, tuple)  # only CLOSE carries one
                    message = self._assembler.add(payload, last=frame.message_finished)
                    if message is not None:
                        return message
                elif isinstance(payload, tuple):
                    code, reason = payload
                    if self._hooks.bad_gateway:
                        code = CloseCode.BAD_GATEWAY
                    return ControlFrame(Opcode.CLOSE, Close(int(code), reason, by_peer=True))
                else:
                    assert isinstance(payload, bytes)
                    return ControlFrame(Opcode(int(frame.opcode)), payload)
        except ParseFailed as error:
            if self._hooks.error is not None:
                raise self._hooks.error from None
            raise ProtocolError(int(error.code), str(error)) from error
        return None

    def message(self, message: Message, fragment: int) -> list[bytes]:
        """Encode a message as frames of at most ``fragment`` bytes of payload each."""
        if len(message) <= fragment and (isinstance(message, bytes) or message.isascii()):
            return [bytes(self._proto.send_data(message))]
        if isinstance(message, str):
            data = message.encode()
            if len(data) <= fragment:
                return [bytes(self._proto.send_data(message))]
            return self._fragments_of_text(data, fragment)
        view = memoryview(message)
        last = (len(view) - 1) // fragment * fragment
        return [
            bytes(self._proto.send_data(view[at : at + fragment], fin=at == last))  # type: ignore[arg-type]  # takes a memoryview, its annotation does not say so
            for at in range(0, len(view), fragment)
        ]

    def _fragments_of_text(self, data: bytes, fragment: int) -> list[bytes]:
        # wsproto wants str for text, so the cuts must fall between characters (at most 4 bytes).
        frames: list[bytes] = []
        start = 0
        while start < len(data):
            end = min(start + fragment, len(data))
            while end < len(data) and data[end] & 0xC0 == 0x80:
                end -= 1
            piece = data[start:end].decode()
            frames.append(bytes(self._proto.send_data(piece, fin=end == len(data))))
            start = end
        return frames

    def control(self, opcode: Opcode, payload: bytes) -> bytes:
        """Encode a ping or a pong."""
        make = self._proto.ping if opcode is Opcode.PING else self._proto.pong
        return bytes(make(payload))

    def close(self, close: Close) -> bytes:
        """Encode a close frame; code 1005 makes one without a code."""
        if close.code == CloseCode.NO_STATUS:
            return bytes(self._proto.close())
        return bytes(self._proto.close(close.code, close.reason))
