"""Frames from bytes and bytes from frames.

wsproto's `FrameProtocol` parses what comes. Two things are done here instead: a *plain* frame (a
whole message, all of it in one read) is decoded in place, since that runs for every message and
costs wsproto most of a message's time; and frames are written here, for the same reason, and
with masks from a source that a test can seed. A native framer will do both behind the same methods.
"""

from __future__ import annotations

import enum
import secrets
import struct
from collections.abc import Callable
from typing import NamedTuple

from wsproto.extensions import Extension
from wsproto.frame_protocol import CloseReason, FrameDecoder, FrameProtocol, ParseFailed, RsvBits
from wsproto.frame_protocol import Opcode as WsprotoOpcode

from ..errors import ProtocolError
from ..types import Close, CloseCode, Message, Side
from .assembler import Assembler
from .deflate import Deflater, Inflater

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


_FIN = 0x80
_TEXT = _FIN | 0x1
_BINARY = _FIN | 0x2
#: First bytes of frames that are a whole message, without extensions.
_PLAIN = frozenset({_TEXT, _BINARY})
_RSV1 = 0x40
#: The same, compressed (RFC 7692, 6).
_COMPRESSED = frozenset({_TEXT | _RSV1, _BINARY | _RSV1})
_BEGINNINGS = frozenset({WsprotoOpcode.TEXT, WsprotoOpcode.BINARY})
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

    def __init__(self, assembler: Assembler, mask_length: int, inflater: Inflater | None) -> None:
        self.assembler = assembler
        self.inflater = inflater
        #: Whether the message under way is compressed; its first frame says it for all.
        self.compressed = False
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
        rsv: RsvBits,
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
        if self.inflater is not None and opcode in _BEGINNINGS:
            self.compressed = rsv.rsv1
            return RsvBits(rsv.rsv1, False, False)
        return _NO_RSV

    def frame_inbound_payload_data(
        self,
        proto: FrameDecoder | FrameProtocol,  # noqa: ARG002 - the signature is wsproto's
        data: bytes,
    ) -> bytes | CloseReason:
        if self.opcode is WsprotoOpcode.CLOSE and data[:2] == _BAD_GATEWAY:
            self.bad_gateway = True
            return _STAND_IN + data[2:]
        if self.opcode < 8 and self.compressed and self.inflater is not None:
            return self._inflate(self.inflater.feed, data)
        return data

    def _inflate(self, inflate: Callable[..., bytes], *data: bytes) -> bytes | CloseReason:
        try:
            return inflate(*data)
        except ProtocolError as error:
            self.error = error
            return CloseReason(int(error.code))

    def frame_inbound_complete(
        self,
        proto: FrameDecoder | FrameProtocol,  # noqa: ARG002 - the signature is wsproto's
        fin: bool,
    ) -> bytes | CloseReason | None:
        self.undecoded -= self.frame_length
        if self.opcode < 8:
            self.assembler.finished_frame(fin=fin)
            if fin and self.compressed and self.inflater is not None:
                self.compressed = False
                return self._inflate(self.inflater.finish)
        return None


class Framer:
    """The frames of one connection, both ways.

    After `next` has raised, or has returned a CLOSE, it returns None for ever.
    """

    __slots__ = (
        "_assembler",
        "_at",
        "_data",
        "_deflater",
        "_hooks",
        "_inflater",
        "_mask",
        "_max_size",
        "_over",
        "_plain_starts",
        "_proto",
        "_token_bytes",
    )

    def __init__(
        self,
        side: Side,
        assembler: Assembler,
        token_bytes: Callable[[int], bytes] = secrets.token_bytes,
        deflater: Deflater | None = None,
        inflater: Inflater | None = None,
    ) -> None:
        client = side is Side.CLIENT
        self._deflater = deflater
        self._inflater = inflater
        self._plain_starts = _PLAIN if inflater is None else _PLAIN | _COMPRESSED
        self._token_bytes = token_bytes
        self._assembler = assembler
        self._max_size = assembler.max_size
        self._hooks = _Hooks(assembler, 0 if client else 4, inflater)
        self._proto = FrameProtocol(client, [self._hooks])
        #: Whether the frames that we write are masked; those that come then are not.
        self._mask = client
        #: A read that starts at a frame, and how much of it is decoded; None: wsproto has it.
        self._data: bytes | None = None
        self._at = 0
        self._over = False

    def feed(self, data: bytes) -> None:
        """Take bytes from the peer."""
        if self._over:
            return
        if self._data is not None:
            self._hand_over(self._data)
        if self._hooks.undecoded or self._assembler.in_message:
            self._hooks.undecoded += len(data)
            self._proto.receive_bytes(data)
        else:
            self._data = data
            self._at = 0

    def next(self) -> Message | ControlFrame | None:
        """Decode up to the next whole message or control frame; None when more is needed.

        Raises `ProtocolError` at the first byte that is wrong.
        """
        if self._data is not None:
            message = self._plain(self._data)
            if message is not None:
                return message
            self._hand_over(self._data)
        return self._any() if self._hooks.undecoded else None

    def _plain(self, data: bytes) -> Message | None:
        """Decode a plain frame where the read has got to; None if what is there is none."""
        at, size = self._at, len(data)
        if size - at < 2:
            return None
        first, length = data[at], data[at + 1]
        start = at + 2
        if first not in self._plain_starts or (length > 127) is self._mask:
            return None
        length &= 127
        if length > 125:
            if length == 127 or size - start < 2:
                return None
            length = data[start] << 8 | data[start + 1]
            start += 2
            if length < 126:  # not the shortest encoding: wsproto words the failure
                return None
        key = None
        if not self._mask:
            key = data[start : start + 4]
            start += 4
        end = start + length
        if end > size or length > self._max_size:
            return None
        payload = data[start:end]
        if key is not None:
            payload = _mask(payload, key)
        if first & _RSV1:
            payload = self._inflate(payload)
        message: Message = payload
        if first & 0x0F == 1:
            try:
                message = payload.decode()
            except UnicodeDecodeError as error:
                if not first & _RSV1:
                    return None  # wsproto fails it
                self._over = True
                raise ProtocolError(CloseCode.INVALID_DATA, "text is not UTF-8") from error
        self._at = end
        return message

    def _inflate(self, payload: bytes) -> bytes:
        assert self._inflater is not None
        try:
            return self._inflater.feed(payload) + self._inflater.finish()
        except ProtocolError:
            self._over = True
            raise

    def _hand_over(self, data: bytes) -> None:
        """Leave the rest of a read to wsproto."""
        self._data = None
        rest = data[self._at :]
        if rest:
            self._hooks.undecoded += len(rest)
            self._proto.receive_bytes(rest)

    def _any(self) -> Message | ControlFrame | None:
        """Decode by wsproto."""
        try:
            for frame in self._proto.received_frames():
                payload = frame.payload
                if frame.opcode < 8:
                    assert not isinstance(payload, tuple)  # only CLOSE carries one
                    message = self._assembler.add(payload, last=frame.message_finished)
                    if message is not None:
                        return message
                elif isinstance(payload, tuple):
                    self._over = True
                    code, reason = payload
                    if self._hooks.bad_gateway:
                        code = CloseCode.BAD_GATEWAY
                    return ControlFrame(Opcode.CLOSE, Close(int(code), reason, by_peer=True))
                else:
                    assert isinstance(payload, bytes)
                    return ControlFrame(Opcode(int(frame.opcode)), payload)
        except ParseFailed as error:
            self._over = True
            if self._hooks.error is not None:
                raise self._hooks.error from None
            code = CloseCode(int(error.code))
            reason = "text is not UTF-8" if code is CloseCode.INVALID_DATA else str(error)
            raise ProtocolError(code, reason) from error
        return None

    def message(
        self, message: Message, fragment: int, *, compress: bool | None = None
    ) -> list[bytes]:
        """Encode a message as frames of at most ``fragment`` bytes of payload each.

        ``compress`` None leaves that to the message's size. The cuts may fall inside a
        character: only the whole message is text (RFC 6455, 5.6).
        """
        if isinstance(message, str):
            opcode, data = _TEXT, message.encode()
        else:
            opcode, data = _BINARY, message
        deflater = self._deflater
        if deflater is not None and deflater.decide(len(data), compress):
            opcode |= _RSV1
            data = deflater.compress(data)
        if len(data) <= fragment:
            return [self._frame(opcode, data)]
        frames = [self._frame(opcode & 0x7F, data[:fragment])]
        for at in range(fragment, len(data), fragment):
            last = at + fragment >= len(data)
            frames.append(self._frame(_FIN if last else 0, data[at : at + fragment]))
        return frames

    def _frame(self, first: int, data: bytes) -> bytes:
        length = len(data)
        mask = 0x80 if self._mask else 0
        if length < 126:
            head = bytes((first, mask | length))
        elif length < 2**16:
            head = struct.pack("!BBH", first, mask | 126, length)
        else:
            head = struct.pack("!BBQ", first, mask | 127, length)
        if not mask:
            return head + data
        # A fresh key that nobody can foresee for every frame (RFC 6455, 5.3 and 10.3).
        key = self._token_bytes(4)
        return b"".join((head, key, _mask(data, key)))

    def control(self, opcode: Opcode, payload: bytes) -> bytes:
        """Encode a ping or a pong."""
        return self._frame(_FIN | opcode, payload)

    def close(self, close: Close) -> bytes:
        """Encode a close frame; code 1005 makes one without a code."""
        if close.code == CloseCode.NO_STATUS:
            return self._frame(_FIN | Opcode.CLOSE, b"")
        payload = close.code.to_bytes(2, "big") + close.reason.encode()
        return self._frame(_FIN | Opcode.CLOSE, payload)


def _mask(data: bytes, key: bytes) -> bytes:
    """Mask or unmask: one long exclusive or, the quickest that Python itself has."""
    length = len(data)
    stream = (key * (length // 4 + 1))[:length]
    number = int.from_bytes(data, "little") ^ int.from_bytes(stream, "little")
    return number.to_bytes(length, "little")
