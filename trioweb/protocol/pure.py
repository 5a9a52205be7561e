"""The framer that is always there: wsproto's own.

wsproto's `FrameProtocol` parses what comes. Only a *plain* frame (a whole message, all of it in one
read) is decoded in place, since that runs for every message and costs wsproto most of a
message's time.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from wsproto.extensions import Extension
from wsproto.frame_protocol import CloseReason, FrameDecoder, FrameProtocol, ParseFailed, RsvBits
from wsproto.frame_protocol import Opcode as WsprotoOpcode

from ..config import Limits
from ..errors import ProtocolError
from ..types import Close, CloseCode, Message, Side
from .assembler import Assembler, Piece
from .control import BAD_GATEWAY, STAND_IN, failure
from .deflate import Inflater
from .frames import (
    FIN,
    MOST_FRAMES,
    NOT_UTF8,
    PAUSE,
    RSV1,
    SLICE,
    SLICE_COST,
    ControlFrame,
    Opcode,
    Pause,
    mask,
)

__all__ = ["Framer"]

#: First bytes of frames that are a whole message, without extensions.
_PLAIN = frozenset({FIN | Opcode.TEXT, FIN | Opcode.BINARY})
#: The same, compressed (RFC 7692, 6).
_COMPRESSED = frozenset(first | RSV1 for first in _PLAIN)
_NO_RSV = RsvBits(False, False, False)
_CONTINUATION = WsprotoOpcode.CONTINUATION
_LONGEST_HEADER = 14
#: What zlib takes for no limit at all.
_UNBOUNDED = 2**62


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
        #: Whether it is text, and the end of what has come of it.
        self.text = False
        self.last = b""
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
        if opcode > 7:
            return _NO_RSV
        begins = opcode is not _CONTINUATION
        compressed = rsv.rsv1 and self.inflater is not None if begins else self.compressed
        try:
            self.assembler.check(payload_length, continues=not begins, compressed=compressed)
        except ProtocolError as error:
            return self.fail(error)
        self.compressed = compressed
        if begins:
            self.text = opcode is WsprotoOpcode.TEXT
            self.last = b""
        if self.inflater is not None:
            self.inflater.limit = int(min(self.assembler.max_size, _UNBOUNDED))
        return RsvBits(compressed and begins, False, False)

    def frame_inbound_payload_data(
        self,
        proto: FrameDecoder | FrameProtocol,  # noqa: ARG002 - the signature is wsproto's
        data: bytes,
    ) -> bytes | CloseReason:
        if self.opcode is WsprotoOpcode.CLOSE and data[:2] == BAD_GATEWAY:
            self.bad_gateway = True
            return STAND_IN + data[2:]
        if self.opcode > 7:
            return data
        if self.compressed and self.inflater is not None:
            inflated = self._inflate(self.inflater.feed, data)
            if isinstance(inflated, CloseReason):
                return inflated
            data = inflated
        if self.text and not self._may_be_text(data):
            return self.fail(ProtocolError(CloseCode.INVALID_DATA, NOT_UTF8))
        return data

    def _may_be_text(self, data: bytes) -> bool:
        """Find at once what Python's decoder of UTF-8 waits with: half of a surrogate's bytes."""
        self.last = data[-2:] if len(data) > 1 else self.last[-1:] + data
        return not (len(self.last) == 2 and self.last[0] == 0xED and self.last[1] > 0x9F)

    def fail(self, error: ProtocolError) -> CloseReason:
        """Note what to raise, and return what makes wsproto fail."""
        self.error = error
        return CloseReason(int(error.code))

    def _inflate(self, inflate: Callable[..., bytes], *data: bytes) -> bytes | CloseReason:
        try:
            return inflate(*data)
        except ProtocolError as error:
            return self.fail(error)

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
    """The frames that come on one connection.

    After `next` has raised, or has returned a CLOSE, it returns None for ever.
    """

    __slots__ = (
        "_assembler",
        "_at",
        "_backlog",
        "_budget",
        "_data",
        "_hooks",
        "_inflater",
        "_masked",
        "_max_size",
        "_over",
        "_plain_starts",
        "_proto",
    )

    def __init__(
        self,
        side: Side,
        limits: Limits,
        inflater: Inflater | None = None,
    ) -> None:
        client = side is Side.CLIENT
        self._inflater = inflater
        self._plain_starts = _PLAIN if inflater is None else _PLAIN | _COMPRESSED
        self._assembler = Assembler(limits)
        self._max_size = limits.max_message
        self._hooks = _Hooks(self._assembler, 0 if client else 4, inflater)
        self._proto = FrameProtocol(client, [self._hooks])
        #: What wsproto is to get after what it has.
        self._backlog = b""
        #: How many frames may still be decoded until others have had a turn.
        self._budget = MOST_FRAMES
        #: Whether the frames that come are masked.
        self._masked = not client
        #: A read that starts at a frame, and how much of it is decoded; None: wsproto has it.
        self._data: bytes | None = None
        self._at = 0
        self._over = False

    def feed(self, data: bytes | memoryview) -> None:
        """Take bytes from the peer; what was borrowed is copied, here or by the next `pull`."""
        if self._over:
            return
        data = bytes(data)
        if self._data is not None:
            self._hand_over(self._data)
        if self._hooks.undecoded or self._assembler.in_message:
            self._give(data)
        else:
            self._data = data
            self._at = 0

    def stream(self, limit: float) -> None:
        """From now on return messages in pieces, and take them up to ``limit`` bytes."""
        self._assembler.stream(limit)
        self._max_size = int(min(self._assembler.whole, limit))
        # Small frames, too, may become large messages now.
        self._plain_starts = _PLAIN

    def drop(self) -> None:
        """Forget what has come and take no more: the connection's remains may stay for a while."""
        self._over = True
        self._data = None
        self._backlog = b""
        self._hooks.undecoded = 0
        self._assembler.drop()
        if self._inflater is not None:
            self._inflater.drop()
        self._proto = FrameProtocol(not self._masked, [])

    def next(self) -> Message | Piece | ControlFrame | Pause | None:
        """Decode up to the next whole message or control frame; None when more is needed.

        Raises `ProtocolError` at the first byte that is wrong.
        """
        found = self._next()
        if found is None or found is PAUSE:
            self._budget = MOST_FRAMES  # others have their turn now
        return found

    def _next(self) -> Message | Piece | ControlFrame | Pause | None:
        if self._budget <= 0:
            return PAUSE
        if self._data is not None:
            message = self._plain(self._data)
            if message is not None:
                return message
            self._hand_over(self._data)
        return self._any() if self._hooks.undecoded else None

    def pull(self, inbox: list[Message | Piece], most_bytes: int, most_messages: int) -> int:
        """Decode messages that are here whole, and put them into a list; return their memory.

        Stops at the first thing that is not such a message, and once their memory or their number
        is at its mark. What is wrong is left for `next` to find.
        """
        taken = 0
        while self._data is not None and most_messages > 0 and taken < most_bytes:
            message = self._plain(self._data, all_kinds=False)
            if message is None:
                break
            inbox.append(message)
            taken += sys.getsizeof(message)
            most_messages -= 1
        return taken

    @property
    def empty(self) -> bool:
        """Whether all that came is decoded, but for a frame that is not whole."""
        if self._data is not None:
            return self._at == len(self._data)
        return not self._hooks.undecoded

    def _plain(self, data: bytes, *, all_kinds: bool = True) -> Message | None:
        """Decode a plain frame where the read has got to; None if what is there is none."""
        at, size = self._at, len(data)
        if size - at < 2:
            return None
        first, length = data[at], data[at + 1]
        start = at + 2
        if (
            first not in (self._plain_starts if all_kinds else _PLAIN)
            or (length > 127) is not self._masked
        ):
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
        if self._masked:
            key = data[start : start + 4]
            start += 4
        end = start + length
        if end > size or length > self._max_size or (first & RSV1 and length > SLICE):
            return None
        payload = data[start:end]
        if key is not None:
            payload = mask(payload, key)
        if first & RSV1:
            payload = self._inflate(payload)
            self._budget -= SLICE_COST
        message: Message = payload
        if first & 0x0F == 1:
            try:
                message = payload.decode()
            except UnicodeDecodeError as error:
                if not first & RSV1:
                    return None  # wsproto fails it
                self.drop()
                raise ProtocolError(CloseCode.INVALID_DATA, NOT_UTF8) from error
        self._at = end
        return message

    def _inflate(self, payload: bytes) -> bytes:
        assert self._inflater is not None
        try:
            return self._inflater.feed(payload) + self._inflater.finish()
        except ProtocolError:
            self.drop()
            raise

    def _hand_over(self, data: bytes) -> None:
        """Leave the rest of a read to wsproto."""
        self._data = None
        rest = data[self._at :]
        if rest:
            self._give(rest)

    def _give(self, data: bytes) -> None:
        """Give bytes to wsproto, or put them behind those that it is to get first."""
        self._hooks.undecoded += len(data)
        if self._inflater is None:
            self._proto.receive_bytes(data)
        else:
            self._backlog += data

    def _any(self) -> Message | Piece | ControlFrame | Pause | None:
        """Decode by wsproto."""
        found = self._frames()
        while found is None and self._backlog and not self._over:
            if self._budget <= 0:
                return PAUSE
            self._budget -= SLICE_COST
            size = self._next_slice()
            self._proto.receive_bytes(self._backlog[:size])
            self._backlog = self._backlog[size:]
            found = self._frames()
        return found

    def _next_slice(self) -> int:
        """Return how much wsproto gets; the rest of a frame that is not compressed at once."""
        hooks = self._hooks
        given = hooks.undecoded - len(self._backlog)
        if given >= _LONGEST_HEADER and hooks.opcode < 8 and not hooks.compressed:
            return max(SLICE, hooks.frame_length - given)
        return SLICE

    def _frames(self) -> Message | Piece | ControlFrame | Pause | None:
        """Decode what wsproto has."""
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
                self._budget -= 1
                if self._budget <= 0:
                    return PAUSE
        except ParseFailed as error:
            self._over = True
            if self._hooks.error is not None:
                raise self._hooks.error from None
            raise failure(error) from error
        return None
