"""Reads the frames out of what crossed a wire, right or wrong, without an opinion on either.

A frame is named by its *kind*: its opcode; what is unusual about it; and a ``+`` if more fragments
follow. ``text``, ``continuation+``, ``opcode-3``, ``text-rsv4`` (reserved bits), ``text-len64``
(a length in more bytes than it needs), ``ping-unmasked`` (of a client; of a server ``-masked``).
"""

from __future__ import annotations

import re
import struct
from typing import NamedTuple

from ..types import Side

__all__ = ["FRAME_KIND", "Sniffed", "Sniffer", "compose"]

_OPCODES = {"continuation": 0, "text": 1, "binary": 2, "close": 8, "ping": 9, "pong": 10}
_NAMES = {opcode: name for name, opcode in _OPCODES.items()}

#: Every name that a frame can get; the groups are what `compose` makes a frame of.
FRAME_KIND = re.compile(
    f"(?P<name>{'|'.join(_OPCODES)}|opcode-(?:[3-7]|1[1-5]))"
    "(?:-rsv(?P<rsv>[1-7]))?(?:-len(?P<bits>16|64))?(?:-(?P<mask>masked|unmasked))?(?P<more>[+])?"
)

#: How a TLS record begins (RFC 8446, 5.1): no frame does, but for one that is wrong thrice over.
_TLS = re.compile(rb"[\x14-\x17]\x03")
#: How a request or a status line begins, or may yet begin.
_HTTP = re.compile(rb"[A-Za-z]{1,20}(?:[ /]|$)")
_UPGRADE = re.compile(rb"\nupgrade:", re.IGNORECASE)
#: A longer head is none.
_MAX_HEAD = 2**16


class Sniffed(NamedTuple):
    """One frame, unmasked; or an HTTP head; or bytes that are neither."""

    #: ``http``, ``bytes``, or the name of a frame.
    kind: str
    #: Bytes of payload on the wire.
    size: int
    #: The payload, or as much of it as was kept.
    data: bytes


class Sniffer:
    """One direction of one connection. Keeps at most ``keep`` bytes of a payload.

    ``sender`` is who speaks, in a connection that is heard from its start: there no frame comes
    before a handshake. None: it may be under way already, but at the beginning of a frame.
    """

    def __init__(self, keep: int, sender: Side | None = None) -> None:
        self._keep = keep
        self._sender = sender
        #: What is not whole yet; of a frame its header, and of its payload what is to be kept.
        self._buffer = bytearray()
        #: Bytes of that frame's payload that went by and were not kept.
        self._skipped = 0
        self._in_http = True
        self._is_opaque = False

    def feed(self, data: bytes) -> list[Sniffed]:
        """Take bytes; return what became whole with them."""
        self._buffer += data
        found: list[Sniffed] = []
        while self._buffer:
            sniffed = self._next()
            if sniffed is None:
                break
            found.append(sniffed)
        return found

    def rest(self) -> Sniffed | None:
        """Return what is left when the connection ends: a part of something."""
        size = len(self._buffer) + self._skipped
        data = bytes(self._buffer[: self._keep])
        self._buffer.clear()
        self._skipped = 0
        return Sniffed("bytes", size, data) if size else None

    def _next(self) -> Sniffed | None:
        if self._is_opaque:
            return self.rest()
        return self._http() if self._in_http else self._frame()

    def _opaque(self) -> Sniffed | None:
        self._is_opaque = True
        return self.rest()

    def _http(self) -> Sniffed | None:
        buffer = self._buffer
        if len(buffer) < 2:
            return None
        if _TLS.match(buffer):
            return self._opaque()
        if not _HTTP.match(buffer):
            if self._sender is not None:
                return self._opaque()
            self._in_http = False  # the handshake was before our time
            return self._frame()
        end = buffer.find(b"\r\n\r\n") + 4
        if end < 4 or end > _MAX_HEAD:
            return self._opaque() if len(buffer) > _MAX_HEAD else None
        head = bytes(buffer[:end])
        del buffer[:end]
        if head.startswith(b"HTTP/"):
            # Behind an interim answer comes another; behind one that is no upgrade, its body.
            status = head[9:12]
            self._in_http = status[:1] == b"1" and status != b"101"
            self._is_opaque = status[:1] != b"1"
        else:
            self._in_http = _UPGRADE.search(head) is None
        return Sniffed("http", end, head[: self._keep])

    def _frame(self) -> Sniffed | None:
        buffer = self._buffer
        if len(buffer) < 2:
            return None
        length, start = buffer[1] & 0x7F, 2
        if length > 125:
            start = 4 if length == 126 else 10
            if len(buffer) < start:
                return None
            length = int.from_bytes(buffer[2:start], "big")
        kind = self._kind(length, start)
        key = b""
        if buffer[1] & 0x80:
            key = bytes(buffer[start : start + 4])
            start += 4
        kept = min(length, self._keep)
        end = start + length - self._skipped
        if len(buffer) < end:
            self._skipped += max(0, len(buffer) - start - kept)
            del buffer[start + kept :]
            return None
        data = bytes(buffer[start : start + kept])
        if key:
            number = int.from_bytes((key * (kept // 4 + 1))[:kept], "big")
            data = (int.from_bytes(data, "big") ^ number).to_bytes(kept, "big")
        del buffer[:end]
        self._skipped = 0
        return Sniffed(kind, length, data)

    def _kind(self, length: int, start: int) -> str:
        first, second = self._buffer[:2]
        opcode, rsv, more = first & 0x0F, first >> 4 & 7, not first & 0x80
        kind = _NAMES.get(opcode, f"opcode-{opcode}")
        if rsv:
            kind += f"-rsv{rsv}"
        if (start == 4 and length < 126) or (start == 10 and length < 2**16):
            kind += f"-len{(start - 2) * 8}"
        is_masked = bool(second & 0x80)
        if self._sender is not None and is_masked is not (self._sender is Side.CLIENT):
            kind += "-masked" if is_masked else "-unmasked"
        return kind + "+" * more


def compose(kind: str, payload: bytes, sender: Side) -> bytes:
    """Make a frame of what a `Sniffer` calls it; its mask, if it has one, is of zeros.

    Raises `ValueError` if no frame is called that.
    """
    match = FRAME_KIND.fullmatch(kind)
    if match is None:
        raise ValueError(f"no frame is called {kind!r}")
    name, rsv, bits, mask, more = match.groups()
    opcode = _OPCODES[name] if name in _OPCODES else int(name.removeprefix("opcode-"))
    first = opcode | int(rsv or 0) << 4 | (0 if more else 0x80)
    is_masked = mask == "masked" if mask else sender is Side.CLIENT
    bit, length = is_masked << 7, len(payload)
    if bits == "64" or length >= 2**16:
        head = struct.pack("!BBQ", first, bit | 127, length)
    elif bits == "16" or length >= 126:
        head = struct.pack("!BBH", first, bit | 126, length)
    else:
        head = struct.pack("!BB", first, bit | length)
    return head + bytes(4 * is_masked) + payload
