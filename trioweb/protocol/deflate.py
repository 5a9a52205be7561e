"""permessage-deflate (RFC 7692): what both ends agree on, and the two streams of zlib.

Inflation stops at the message limit while it runs, so that no small frame becomes a large buffer.
What we compress with is never more than what we chose ourselves, whatever the peer offers, and
between two messages nothing is kept but what context takeover asks for.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ..config import Deflate
from ..errors import ProtocolError
from ..types import CloseCode, Side

__all__ = [
    "NAME",
    "Agreement",
    "Deflater",
    "Inflater",
    "Setting",
    "answer",
    "check_answer",
    "offer",
]

NAME = "permessage-deflate"

#: How often one message may end zlib's stream (BFINAL): so often, and once more for each so many
#: bytes that came out. It takes two bytes and costs as much as a message; honest peers do it once.
_FINAL_BLOCKS = 4
_BYTES_PER_FINAL_BLOCK = 1024
#: What Z_SYNC_FLUSH ends with: an empty stored block. A message leaves out all but its first byte.
_EMPTY_BLOCK = b"\x00\x00\x00\xff\xff"
_TAIL = _EMPTY_BLOCK[1:]
#: An empty block with BFINAL. zlib's stream ends with it, unless it is in the midst of a block.
_LAST_BLOCK = b"\x03\x00"
#: zlib's raw streams know no smaller window for writing. With this one it never refers to more
#: than 250 bytes back, so what it writes suits the window of 256 bytes of RFC 7692, 7.1.2, too.
_SMALLEST_WINDOW = 9
_WINDOW = re.compile(r"[89]|1[0-5]")
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')
_BITS = ("server_max_window_bits", "client_max_window_bits")
_FLAGS = ("server_no_context_takeover", "client_no_context_takeover")


@dataclass(frozen=True, slots=True)
class Agreement:
    """The four parameters that are in force (RFC 7692, 7.1)."""

    server_no_context_takeover: bool = False
    client_no_context_takeover: bool = False
    server_max_window_bits: int = 15
    client_max_window_bits: int = 15

    def window_bits(self, side: Side) -> int:
        """Return the size of the window that an end compresses with, as a power of two."""
        return self.client_max_window_bits if side is Side.CLIENT else self.server_max_window_bits

    def takes_over(self, side: Side) -> bool:
        """Whether an end keeps its window from one message to the next."""
        return not (
            self.client_no_context_takeover
            if side is Side.CLIENT
            else self.server_no_context_takeover
        )


# --- agreeing --------------------------------------------------------------------------------


def offer(options: Deflate) -> str:
    """Return what a client offers (RFC 7692, 7.1).

    It names the window that we compress with, so that the server need not keep a larger one.
    """
    hint = f"={options.window_bits}" if options.window_bits < 15 else ""
    parameters = [NAME, f"client_max_window_bits{hint}"]
    if options.max_window_bits < 15:
        parameters.append(f"server_max_window_bits={options.max_window_bits}")
    if not options.context_takeover:
        parameters += ["client_no_context_takeover", "server_no_context_takeover"]
    return "; ".join(parameters)


def answer(offers: Iterable[str], options: Deflate) -> tuple[Agreement, str] | None:
    """Choose the first offer that suits a server; return what is agreed and the header's value.

    An offer with an unknown, repeated or malformed parameter is declined (RFC 7692, 7.1), and one
    whose client would not keep to the window that we have memory for. None: no compression.
    Names are compared as they are, for RFC 6455, 9.1, has no other rule.
    """
    for offered in offers:
        name, _, text = offered.partition(";")
        parameters = _parse(text) if name.strip() == NAME else None
        if parameters is None or parameters.get("server_max_window_bits", "") is None:
            continue
        agreement, said = _agree(parameters, options)
        if agreement is not None:
            return agreement, "; ".join([NAME, *said])
    return None


def _agree(
    parameters: dict[str, str | None], options: Deflate
) -> tuple[Agreement | None, list[str]]:
    said: list[str] = []
    ours = min(options.window_bits, int(parameters.get("server_max_window_bits") or 15))
    if ours < 15:
        said.append(f"server_max_window_bits={ours}")
    theirs = 15
    if "client_max_window_bits" in parameters:
        theirs = min(options.max_window_bits, int(parameters["client_max_window_bits"] or 15))
        if theirs < 15:
            said.append(f"client_max_window_bits={theirs}")
    elif options.max_window_bits < 15:
        return None, said  # it cannot be told to use less (RFC 7692, 7.1.2.2)
    restart_ours = not options.context_takeover or "server_no_context_takeover" in parameters
    restart_theirs = not options.context_takeover or "client_no_context_takeover" in parameters
    said += ["server_no_context_takeover"] * restart_ours
    said += ["client_no_context_takeover"] * restart_theirs
    return Agreement(restart_ours, restart_theirs, ours, theirs), said


def check_answer(extensions: Sequence[str], options: Deflate | None) -> Agreement | None:
    """Return what a server's answer to our `offer` agrees on; None is no compression.

    Raises `ValueError` for an answer that a server may not give (RFC 7692, 7.1).
    """
    if not extensions:
        return None
    if options is None or len(extensions) > 1:
        raise ValueError(f"extensions that were not offered: {', '.join(extensions)}")
    name, _, text = extensions[0].partition(";")
    if name.strip() != NAME:
        raise ValueError(f"an extension that was not offered: {extensions[0]}")
    parameters = _parse(text)
    if parameters is None or any(parameters.get(bits, "") is None for bits in _BITS):
        raise ValueError(f"malformed parameters: {extensions[0]}")
    theirs = int(parameters.get("server_max_window_bits") or 15)
    if theirs > options.max_window_bits:
        raise ValueError(f"a larger window than was offered: {extensions[0]}")
    restart_theirs = "server_no_context_takeover" in parameters
    if not options.context_takeover and not restart_theirs:
        raise ValueError(f"context takeover against the offer: {extensions[0]}")
    restart_ours = not options.context_takeover or "client_no_context_takeover" in parameters
    ours = min(options.window_bits, int(parameters.get("client_max_window_bits") or 15))
    return Agreement(restart_theirs, restart_ours, theirs, ours)


def _parse(text: str) -> dict[str, str | None] | None:
    """Return the parameters of an offer or an answer; None for one that must be declined.

    A quoted value means what is in the quotes, which has to be a token (RFC 6455, 9.1): to cut it
    at a semicolon spoils only what is wrong anyway.
    """
    parameters: dict[str, str | None] = {}
    for part in text.split(";") if text.strip() else []:
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if name in parameters:
            return None
        if quoted := _QUOTED.fullmatch(value):
            value = re.sub(r"\\(.)", r"\1", quoted[1])
        if name in (*_FLAGS, *_BITS) and not equals:
            parameters[name] = None
        elif name in _BITS and _WINDOW.fullmatch(value):
            parameters[name] = value
        else:
            return None
    return parameters


# --- the streams -----------------------------------------------------------------------------


class Setting(NamedTuple):
    """How an end compresses: `pack` gives the same payload for all that have the same setting."""

    level: int
    memory_level: int
    window_bits: int
    #: Messages of fewer bytes are not worth it.
    threshold: int

    def wants(self, size: int, wish: bool | None) -> bool:
        """Whether a message of so many bytes is to be compressed; None has no wish."""
        return size >= self.threshold if wish is None else wish

    def begin(self) -> zlib._Compress:
        """Return a stream with an empty window."""
        return zlib.compressobj(
            self.level,
            zlib.DEFLATED,
            -max(self.window_bits, _SMALLEST_WINDOW),
            self.memory_level,
        )

    def pack(self, data: bytes, wish: bool | None = None) -> bytes | None:
        """Return the payload of a message compressed without regard to any other.

        None: it had better go as it is. Without a wish that is also so if nothing was gained.
        """
        if not self.wants(len(data), wish):
            return None
        packed = _flush(self.begin(), data)[: -len(_TAIL)]
        return None if wish is None and len(packed) >= len(data) else packed


class Deflater:
    """Compresses messages, each as a whole or in pieces.

    Without context takeover it holds nothing between two messages. With it, from the first
    message to `release`, zlib's state: 2**(window + 2) + 2**(memory level + 9) bytes.
    """

    __slots__ = ("_stream", "_takes_over", "setting")

    def __init__(self, options: Deflate, agreement: Agreement, side: Side) -> None:
        bits = agreement.window_bits(side)
        self.setting = Setting(options.level, options.memory_level, bits, options.threshold)
        self._takes_over = agreement.takes_over(side)
        self._stream: zlib._Compress | None = None

    def pack(self, data: bytes, wish: bool | None = None) -> bytes | None:
        """Return the payload of a compressed message, which must be sent, in this order.

        None: it had better go as it is. Without a wish that is also so if nothing was gained.
        """
        if not self.setting.wants(len(data), wish):
            return None
        packed = self.compress(data)
        if wish is None and len(packed) >= len(data):
            self.release()  # nothing may refer to what the other end did not get
            return None
        return packed

    def compress(self, data: bytes, *, last: bool = True) -> bytes:
        """Return the payload of a compressed message (RFC 7692, 7.2.1), or a piece of it.

        All of ``data`` can be read from what is returned so far. Pieces but the last keep the
        empty block at their end, so each may be a frame, or several be one.
        """
        packed = b""
        if data:
            if self._stream is None:
                self._stream = self.setting.begin()
            packed = _flush(self._stream, data)
        if not last:
            return packed
        if not self._takes_over:
            self._stream = None
        # Behind a piece that is flushed already, zlib would have nothing to add (7.2.3.6).
        return (packed or _EMPTY_BLOCK)[: -len(_TAIL)]

    def release(self) -> None:
        """Forget the window, and free its memory: for an idle connection, or a `Setting.pack`.

        A sender may begin anew at any message, and between the pieces of one, without a word.
        """
        self._stream = None


def _flush(stream: zlib._Compress, data: bytes) -> bytes:
    return stream.compress(data) + stream.flush(zlib.Z_SYNC_FLUSH)


class Inflater:
    """Decompresses one message after the other, piece by piece, up to a limit for each.

    zlib's state lives as long as a message. Between two of them only the peer's window is kept,
    and that only with context takeover: 2**window bytes, or what came so far if it is less.
    """

    __slots__ = (
        "_bits",
        "_final_blocks",
        "_size",
        "_stream",
        "_takes_over",
        "_window",
        "limit",
    )

    def __init__(self, agreement: Agreement, side: Side, limit: int) -> None:
        peer = Side.SERVER if side is Side.CLIENT else Side.CLIENT
        self._bits = agreement.window_bits(peer)
        self._takes_over = agreement.takes_over(peer)
        #: Most bytes of one message.
        self.limit = limit
        self._size = 0
        self._final_blocks = 0
        self._stream: zlib._Decompress | None = None
        #: The end of what came out, for zlib's next stream: a block that says it is the last
        #: one (BFINAL) ends the stream, but not the window (RFC 7692, 7.2.3.4).
        self._window = b""

    def feed(self, data: bytes) -> bytes:
        """Return what a piece of a message gives.

        Raises `ProtocolError`: 1009 beyond the limit, 1007 for what is not DEFLATE, 1008 for a
        flood of last blocks.
        """
        pieces: list[bytes] = []
        while data:
            if self._stream is None:
                self._stream = zlib.decompressobj(-self._bits, zdict=self._window)
            try:
                piece = self._stream.decompress(data, max(self.limit - self._size, 0) + 1)
            except zlib.error as error:
                raise ProtocolError(CloseCode.INVALID_DATA, f"not DEFLATE: {error}") from None
            self._size += len(piece)
            if self._size > self.limit:
                raise ProtocolError(
                    CloseCode.MESSAGE_TOO_BIG,
                    f"message of more than {self.limit} bytes once inflated",
                )
            if piece:
                pieces.append(piece)
                self._remember(piece)
            data = b""
            if self._stream.eof:
                data = self._stream.unused_data
                self._stream = None
                self._count_final_block()
        return b"".join(pieces)

    def finish(self) -> bytes:
        """Return what the end of a message gives, and be ready for the next one.

        Raises `ProtocolError` as `feed` does, and 1007 if the message ends inside a block. One
        without any byte is empty, and one may end with BFINAL: both are unusual, but clear.
        """
        rest = b"" if self._stream is None else self.feed(_TAIL)
        if self._stream is not None and not _between_blocks(self._stream):
            raise ProtocolError(CloseCode.INVALID_DATA, "a compressed message ends inside a block")
        self._stream = None
        self._size = self._final_blocks = 0
        if not self._takes_over:
            self._window = b""
        return rest

    def drop(self) -> None:
        """Forget everything: the connection is over."""
        self._stream = None
        self._window = b""

    def _count_final_block(self) -> None:
        self._final_blocks += 1
        if self._final_blocks > _FINAL_BLOCKS + self._size // _BYTES_PER_FINAL_BLOCK:
            raise ProtocolError(CloseCode.POLICY_VIOLATION, "too many final blocks")

    def _remember(self, piece: bytes) -> None:
        size = 2**self._bits
        self._window = (piece if len(piece) >= size else self._window + piece)[-size:]


def _between_blocks(stream: zlib._Decompress) -> bool:
    """Whether a stream stands where a block may begin. It is of no use after that."""
    try:
        return not stream.decompress(_LAST_BLOCK, 1) and stream.eof
    except zlib.error:
        return False
