"""permessage-deflate (RFC 7692): what both ends agree on, and the two streams of zlib.

Inflation stops at the message limit while it runs, so that no small frame becomes a large buffer.
What we compress with is never more than what we chose ourselves, whatever the peer offers.
"""

from __future__ import annotations

import re
import zlib
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..config import Deflate
from ..errors import ProtocolError
from ..types import CloseCode, Side

__all__ = ["NAME", "Agreement", "Deflater", "Inflater", "answer", "check_answer", "offer"]

NAME = "permessage-deflate"

#: The window is kept in at most so many pieces, for each costs more than its bytes.
_PIECES = 64
#: How often one message may end zlib's stream (BFINAL): each time costs as much as a message, and
#: takes two bytes. Honest peers do it once.
_MAX_FINAL_BLOCKS = 64
_TAIL = b"\x00\x00\xff\xff"
#: zlib cannot write for the smallest window of RFC 7692, 7.1.2; reading is no problem.
_SMALLEST_WINDOW = 9
_WINDOW = re.compile(r'"?([89]|1[0-5])"?')
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
    """Return what a client offers (RFC 7692, 7.1)."""
    parameters = [NAME, "client_max_window_bits"]
    if options.max_window_bits < 15:
        parameters.append(f"server_max_window_bits={options.max_window_bits}")
    if not options.context_takeover:
        parameters += ["client_no_context_takeover", "server_no_context_takeover"]
    return "; ".join(parameters)


def answer(offers: Iterable[str], options: Deflate) -> tuple[Agreement, str] | None:
    """Choose the first offer that suits a server; return what is agreed and the header's value.

    An offer with an unknown, repeated or malformed parameter is declined (RFC 7692, 7.1), and one
    whose client would not keep to the window that we have memory for. None: no compression.
    """
    for offered in offers:
        name, _, text = offered.partition(";")
        parameters = _parse(text) if name.strip().lower() == NAME else None
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
    if name.strip().lower() != NAME:
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
    """Return the parameters of an offer or an answer; None for one that must be declined."""
    parameters: dict[str, str | None] = {}
    for part in text.split(";") if text.strip() else []:
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if name in parameters:
            return None
        if name in (*_FLAGS, *_BITS) and not equals:
            parameters[name] = None
        elif name in _BITS and (window := _WINDOW.fullmatch(value)) and value.count('"') != 1:
            parameters[name] = window[1]
        else:
            return None
    return parameters


# --- the streams -----------------------------------------------------------------------------


class Deflater:
    """Compresses messages, each as a whole. Its memory is zlib's: 2**(window + 2) and more."""

    __slots__ = ("_bits", "_options", "_stream", "_takes_over", "threshold")

    def __init__(self, options: Deflate, agreement: Agreement, side: Side) -> None:
        self._options = options
        self._bits = agreement.window_bits(side)
        self._takes_over = agreement.takes_over(side)
        self._stream: zlib._Compress | None = None
        #: Messages of fewer bytes are not worth it.
        self.threshold = options.threshold

    def decide(self, size: int, wish: bool | None) -> bool:
        """Whether a message of so many bytes is to be compressed; None has no wish."""
        return self.able and (size >= self.threshold if wish is None else wish)

    @property
    def able(self) -> bool:
        """Whether zlib can write for the window that was agreed on."""
        return self._bits >= _SMALLEST_WINDOW

    def compress(self, data: bytes) -> bytes:
        """Return the payload of a compressed message (RFC 7692, 7.2.1). Only while `able`."""
        stream = self._stream
        if stream is None:
            stream = zlib.compressobj(
                self._options.level, zlib.DEFLATED, -self._bits, self._options.memory_level
            )
        compressed = stream.compress(data) + stream.flush(zlib.Z_SYNC_FLUSH)
        self._stream = stream if self._takes_over else None
        return compressed[:-4]


class Inflater:
    """Decompresses one message after the other, piece by piece, up to a limit for each."""

    __slots__ = (
        "_bits",
        "_final_blocks",
        "_history",
        "_kept",
        "_limit",
        "_size",
        "_stream",
        "_takes_over",
    )

    def __init__(self, agreement: Agreement, side: Side, limit: int) -> None:
        peer = Side.SERVER if side is Side.CLIENT else Side.CLIENT
        self._bits = max(agreement.window_bits(peer), _SMALLEST_WINDOW)
        self._takes_over = agreement.takes_over(peer)
        self._limit = limit
        self._size = 0
        self._final_blocks = 0
        self._stream: zlib._Decompress | None = None
        #: The end of what came out: a block that says it is the last one ends zlib's stream,
        #: but not the peer's window.
        self._history: deque[bytes] = deque()
        self._kept = 0

    def feed(self, data: bytes) -> bytes:
        """Return what a piece of a message gives.

        Raises `ProtocolError`: 1009 beyond the limit, 1007 for what is not DEFLATE.
        """
        pieces: list[bytes] = []
        while data:
            if self._stream is None:
                self._stream = zlib.decompressobj(-self._bits, zdict=b"".join(self._history))
            try:
                piece = self._stream.decompress(data, self._limit - self._size + 1)
            except zlib.error as error:
                raise ProtocolError(CloseCode.INVALID_DATA, f"not DEFLATE: {error}") from None
            self._size += len(piece)
            if self._size > self._limit:
                raise ProtocolError(
                    CloseCode.MESSAGE_TOO_BIG,
                    f"message of more than {self._limit} bytes once inflated",
                )
            if piece:
                pieces.append(piece)
                self._remember(piece)
            data = self._stream.unconsumed_tail
            if self._stream.eof:  # BFINAL (RFC 7692, 7.2.3.4)
                data = self._stream.unused_data
                self._stream = None
                self._final_blocks += 1
                if self._final_blocks > _MAX_FINAL_BLOCKS:
                    raise ProtocolError(CloseCode.POLICY_VIOLATION, "too many final blocks")
        return b"".join(pieces)

    def finish(self) -> bytes:
        """Return what the end of a message gives, and be ready for the next one."""
        rest = self.feed(_TAIL)
        self._size = self._final_blocks = 0
        if not self._takes_over:
            self._stream = None
            self._history.clear()
            self._kept = 0
        return rest

    def _remember(self, piece: bytes) -> None:
        window = 2**self._bits
        self._history.append(piece[-window:])
        self._kept += len(self._history[-1])
        while self._kept - len(self._history[0]) >= window:
            self._kept -= len(self._history.popleft())
        if len(self._history) > _PIECES:
            whole = b"".join(self._history)[-window:]
            self._history = deque([whole])
            self._kept = len(whole)
