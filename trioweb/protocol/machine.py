"""The life of a connection after its upgrade, without I/O; the states stand in one table.

wsproto's `FrameProtocol` is the parser (see `framer`). Its `Connection` on top of that is not used:
it reports a broken peer as a closing one, forbids the answer to a message that came in the
same read as a close, and raises on a late ping. What it would decide is decided by `TABLE`.
"""

from __future__ import annotations

import enum
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from ..config import Deflate, Limits
from ..errors import ProtocolError
from ..types import Close, CloseCode, Message, Side, State
from .assembler import Piece
from .deflate import Agreement, Deflater, Inflater
from .encoder import Encoder, Pieces, Shared
from .framer import Framer
from .frames import Opcode, Pause

__all__ = [
    "Compression",
    "Event",
    "Failed",
    "Machine",
    "Pause",
    "PeerClosed",
    "Piece",
    "Ping",
    "Pong",
    "Shared",
    "check_close",
    "fit_reason",
]

#: The longest reason of a close frame: 125 bytes of control payload less the code.
MAX_REASON = 123
#: The longest payload of a ping (RFC 6455, 5.5).
MAX_PING = 125


@dataclass(frozen=True, slots=True)
class Ping:
    """The peer asks for a sign of life; `response` is what it must get (RFC 6455, 5.5.2)."""

    payload: bytes = b""

    def response(self) -> Pong:
        """Return the pong that answers this ping."""
        return Pong(self.payload)


@dataclass(frozen=True, slots=True)
class Pong:
    """The answer to a ping, or an unasked heartbeat (RFC 6455, 5.5.3)."""

    payload: bytes = b""


@dataclass(frozen=True, slots=True)
class PeerClosed:
    """The peer's close frame; `response` is the close frame that answers it."""

    close: Close

    def response(self) -> Close:
        """Return the same code, without the peer's reason (RFC 6455, 5.5.1)."""
        return Close(self.close.code)


@dataclass(frozen=True, slots=True)
class Failed:
    """The peer broke the protocol; `response` is the close frame that says so."""

    close: Close

    def response(self) -> Close:
        """Return the close frame with the code and the reason of the failure."""
        return self.close


#: What we chose for permessage-deflate, and what was agreed on.
Compression: TypeAlias = tuple[Deflate, Agreement]

#: A message is its own event: this is the path that runs for every message.
Event: TypeAlias = Message | Piece | Ping | Pong | PeerClosed | Failed | Pause


class _Phase(enum.Enum):
    CONNECTING = "connecting"
    OPEN = "open"
    #: Our close frame is out; the peer's is awaited, and so are the messages before it.
    CLOSE_SENT = "close sent"
    #: Nothing more is read, for the peer closed or failed; our close frame is due. Until it
    #: goes messages may be sent, so that the answer to what came before it still leaves.
    CLOSE_DUE = "close due"
    CLOSED = "closed"


class _Happening(enum.Enum):
    UPGRADED = enum.auto()
    CLOSE_SENT = enum.auto()
    PEER_CLOSED = enum.auto()
    PEER_FAILED = enum.auto()
    LOST = enum.auto()


#: The whole truth about states (RFC 6455, 4.1, 7.1.3 and 7.1.4). What is not here cannot happen.
TABLE = {
    (_Phase.CONNECTING, _Happening.UPGRADED): _Phase.OPEN,
    (_Phase.CONNECTING, _Happening.LOST): _Phase.CLOSED,
    (_Phase.OPEN, _Happening.CLOSE_SENT): _Phase.CLOSE_SENT,
    (_Phase.OPEN, _Happening.PEER_CLOSED): _Phase.CLOSE_DUE,
    (_Phase.OPEN, _Happening.PEER_FAILED): _Phase.CLOSE_DUE,
    (_Phase.OPEN, _Happening.LOST): _Phase.CLOSED,
    (_Phase.CLOSE_SENT, _Happening.PEER_CLOSED): _Phase.CLOSED,
    (_Phase.CLOSE_SENT, _Happening.PEER_FAILED): _Phase.CLOSED,
    (_Phase.CLOSE_SENT, _Happening.LOST): _Phase.CLOSED,
    (_Phase.CLOSE_DUE, _Happening.CLOSE_SENT): _Phase.CLOSED,
    (_Phase.CLOSE_DUE, _Happening.LOST): _Phase.CLOSED,
    (_Phase.CLOSED, _Happening.LOST): _Phase.CLOSED,
}

_READS = frozenset({_Phase.OPEN, _Phase.CLOSE_SENT})
_SENDS = frozenset({_Phase.OPEN, _Phase.CLOSE_DUE})
_PUBLIC = {
    _Phase.CONNECTING: State.CONNECTING,
    _Phase.OPEN: State.OPEN,
    _Phase.CLOSE_SENT: State.CLOSING,
    _Phase.CLOSE_DUE: State.CLOSING,
    _Phase.CLOSED: State.CLOSED,
}


def check_close(code: int, reason: str) -> Close:
    """Return the close frame to send; raises `ValueError` for one that may not be sent.

    Allowed are the registered codes but 1005, 1006 and 1015, and 3000 to 4999
    (RFC 6455, 7.4.1 and 7.4.2). The reason is limited to 123 bytes of UTF-8.
    """
    registered = code in CloseCode._value2member_map_ and CloseCode(code).sendable
    if not registered and not 3000 <= code <= 4999:
        raise ValueError(f"close code {code} may not be sent")
    if len(reason.encode()) > MAX_REASON:
        raise ValueError(f"close reason is longer than {MAX_REASON} bytes of UTF-8")
    return Close(int(code), reason)


def fit_reason(reason: str) -> str:
    """Cut a reason that is not the user's own words to what a close frame holds."""
    return reason.encode("utf-8", "replace")[:MAX_REASON].decode("utf-8", "ignore")


class Machine:
    """One connection's protocol: `feed` it, drain `next_event`, write what the others return.

    Never raises for what the peer sends: a broken peer is a `Failed` event, after which bytes
    are ignored. ``token_bytes`` gives the masks of a client's frames. Not for use by two
    threads; of tasks any may call, since nothing awaits.
    """

    __slots__ = ("_encoder", "_phase", "framer", "may_send", "reads")

    def __init__(
        self,
        side: Side,
        limits: Limits,
        token_bytes: Callable[[int], bytes] = secrets.token_bytes,
        compression: Compression | None = None,
    ) -> None:
        deflater = inflater = None
        if compression is not None:
            options, agreement = compression
            deflater = Deflater(options, agreement, side)
            inflater = Inflater(agreement, side, limits.max_message)
        #: Its `Framer.pull` may be asked for plain messages, before `next_event`.
        self.framer = Framer(side, limits, inflater)
        self._encoder = Encoder(side, limits.fragment, token_bytes, deflater)
        self._phase = _Phase.CONNECTING
        #: Whether messages, pings and a close frame may still be sent.
        self.may_send = False
        #: Whether bytes from the peer still mean anything.
        self.reads = False

    @property
    def state(self) -> State:
        """Where the connection is in its life."""
        return _PUBLIC[self._phase]

    def upgraded(self, trailing_data: bytes = b"") -> None:
        """Open the connection; ``trailing_data`` came in one read with the handshake."""
        self._move(_Happening.UPGRADED)
        self.framer.feed(trailing_data)

    def feed(self, data: bytes) -> None:
        """Take bytes from the peer; after the end of reading they are ignored."""
        if self.reads:
            self.framer.feed(data)

    def stream(self, limit: float) -> None:
        """From now on messages come in pieces, and may have up to ``limit`` bytes."""
        self.framer.stream(limit)

    def lost(self) -> None:
        """Note that the transport is gone, or ended without a close frame."""
        self._move(_Happening.LOST)

    def next_event(self) -> Event | None:
        """Decode one event; None when more bytes are needed, or reading is over.

        Decoding is lazy, so the caller decides how much memory decoded messages may take.
        """
        if not self.reads:
            return None
        try:
            frame = self.framer.next()
        except ProtocolError as error:
            self._move(_Happening.PEER_FAILED)
            return Failed(Close(error.code, fit_reason(error.reason)))
        if frame is None or isinstance(frame, (str, bytes, Piece, Pause)):
            return frame
        opcode, payload = frame
        if isinstance(payload, Close):
            self._move(_Happening.PEER_CLOSED)
            return PeerClosed(payload)
        return Ping(payload) if opcode is Opcode.PING else Pong(payload)

    @property
    def plain(self) -> tuple[int, Callable[[int], bytes] | None]:
        """The size up to which a message is one plain frame, and where masks come from."""
        return self._encoder.plain

    def message(self, message: Message, *, compress: bool | None = None) -> list[bytes]:
        """Encode a message, as fragments if it is long. Only while `may_send`."""
        return self._encoder.message(message, compress)

    def shared(self, message: Shared) -> list[bytes]:
        """Return a message's frames, which connections with the same setting share."""
        return self._encoder.shared(message)

    def sent_shared(self, frames: list[bytes]) -> None:
        """Hear that frames of `shared` go now, in front of what is encoded after this."""
        self._encoder.sent_shared(frames)

    def pieces(self, *, text: bool, compress: bool | None = None) -> Pieces:
        """Begin a message in pieces; no other message may be encoded before its end."""
        return self._encoder.pieces(text=text, compress=compress)

    def release(self) -> None:
        """Give back the memory that only a busy connection is worth."""
        self._encoder.release()

    def control(self, event: Ping | Pong) -> bytes:
        """Encode a ping or a pong; raises `ValueError` above 125 bytes. Only while `may_send`."""
        if len(event.payload) > MAX_PING:
            raise ValueError(f"the payload of a ping is too long: at most {MAX_PING} bytes")
        opcode = Opcode.PING if isinstance(event, Ping) else Opcode.PONG
        return self._encoder.control(opcode, event.payload)

    def close(self, close: Close) -> bytes:
        """Encode the close frame, after which nothing more may be sent."""
        self._move(_Happening.CLOSE_SENT)
        return self._encoder.close(close)

    def _move(self, happening: _Happening) -> None:
        self._phase = TABLE[self._phase, happening]
        self.may_send = self._phase in _SENDS
        self.reads = self._phase in _READS
        if not self.reads:
            self.framer.drop()
        if self._phase is _Phase.CLOSED:
            self._encoder.release()
