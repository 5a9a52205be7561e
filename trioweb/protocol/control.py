"""Control frames, and frames that are wrong, by wsproto: what the native framer leaves to it."""

from __future__ import annotations

import threading
from functools import lru_cache

from wsproto.extensions import Extension
from wsproto.frame_protocol import CloseReason, FrameDecoder, FrameProtocol, ParseFailed

from ..errors import ProtocolError
from ..types import Close, CloseCode
from .frames import FIN, NOT_UTF8, ControlFrame, Opcode, frame, mask

__all__ = ["BAD_GATEWAY", "STAND_IN", "control_frame", "failure", "refusal"]

#: The code 1014, registered in 2016, which wsproto does not know; and one that it lets through.
BAD_GATEWAY = CloseCode.BAD_GATEWAY.to_bytes(2, "big")
STAND_IN = CloseReason.SERVICE_RESTART.to_bytes(2, "big")
#: How a masked close frame with a code alone begins.
_SHORT_CLOSE = bytes([FIN | Opcode.CLOSE, 0x80 | 2])


class _BadGateway(Extension):
    """Lets a close frame with the code 1014 through."""

    name = "trioweb"

    def __init__(self) -> None:
        self.met = False

    def enabled(self) -> bool:
        return True

    def offer(self) -> bool:
        return False

    def frame_inbound_payload_data(
        self, proto: FrameDecoder | FrameProtocol, data: bytes
    ) -> bytes | CloseReason:
        assert isinstance(proto, FrameDecoder)
        assert proto.header is not None
        self.met = int(proto.header.opcode) == Opcode.CLOSE and data[:2] == BAD_GATEWAY
        return STAND_IN + data[2:] if self.met else data


class _Parsers(threading.local):
    """wsproto's parser for each side, shared: between two whole frames it holds nothing."""

    def __init__(self) -> None:
        self._made: dict[bool, tuple[FrameProtocol, _BadGateway]] = {}

    def take(self, *, client: bool) -> tuple[FrameProtocol, _BadGateway]:
        """Take one out, which ends with a frame that fails, or closes."""
        if client in self._made:
            return self._made.pop(client)
        extension = _BadGateway()
        return FrameProtocol(client, [extension]), extension

    def put(self, parser: FrameProtocol, extension: _BadGateway) -> None:
        """Put it back for the next frame."""
        self._made[parser.client] = parser, extension


_parsers = _Parsers()


def control_frame(data: bytes, *, client: bool) -> ControlFrame:
    """Parse one control frame that is here as a whole; ``client``: it came to one.

    Raises `ProtocolError` for one that is wrong (RFC 6455, 5.5 and 7.4).
    """
    if data[:2] == _SHORT_CLOSE and not client:
        return _short_close(mask(data[6:], data[2:6]))
    return _parse(data, client=client)


@lru_cache(maxsize=16)
def _short_close(payload: bytes) -> ControlFrame:
    """Parse a client's close frame with a code alone: most connections end so, with few codes."""
    return _parse(frame(FIN | Opcode.CLOSE, payload, bytes(4)), client=False)


def _parse(data: bytes, *, client: bool) -> ControlFrame:
    parser, extension = _parsers.take(client=client)
    parser.receive_bytes(data)
    try:
        found = next(parser.received_frames())
    except ParseFailed as error:
        raise failure(error) from error
    payload = found.payload
    if isinstance(payload, tuple):
        code = CloseCode.BAD_GATEWAY if extension.met else payload[0]
        return ControlFrame(Opcode.CLOSE, Close(int(code), payload[1], by_peer=True))
    assert isinstance(payload, bytes)
    _parsers.put(parser, extension)
    return ControlFrame(Opcode(int(found.opcode)), payload)


def refusal(header: bytes, *, client: bool) -> ProtocolError:
    """Return what is wrong with the header of a frame."""
    protocol = FrameProtocol(client, [])
    protocol.receive_bytes(header)
    try:
        found = list(protocol.received_frames())
    except ParseFailed as error:
        return failure(error)
    raise AssertionError(f"{header!r} is right: {found}")


def failure(error: ParseFailed) -> ProtocolError:
    """Return wsproto's failure as one of ours."""
    code = CloseCode(int(error.code))
    return ProtocolError(code, NOT_UTF8 if code is CloseCode.INVALID_DATA else str(error))
