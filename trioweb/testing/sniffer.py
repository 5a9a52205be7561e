"""Reads the frames out of what crossed a wire, right or wrong, without an opinion on either."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Sniffed", "Sniffer"]

#: The first byte of a TLS connection (RFC 8446, 5.1).
_TLS = 0x16
_KINDS = {0: "continuation", 1: "text", 2: "binary", 8: "close", 9: "ping", 10: "pong"}


class Sniffed(NamedTuple):
    """One frame, unmasked; or an HTTP head; or bytes that are neither."""

    #: ``http``, ``bytes``, or the name of an opcode, with a ``+`` if more fragments follow.
    kind: str
    #: Bytes of payload on the wire.
    size: int
    #: The payload, or as much of it as was kept.
    data: bytes


class Sniffer:
    """One direction of one connection. Keeps at most ``keep`` bytes of a payload."""

    def __init__(self, keep: int) -> None:
        self._keep = keep
        self._buffer = bytearray()
        self._in_http = True
        self._is_opaque = False
        self._skip = 0

    def feed(self, data: bytes) -> list[Sniffed]:
        """Take bytes; return what became whole with them."""
        skipped = min(self._skip, len(data))
        self._skip -= skipped
        self._buffer += data[skipped:]
        found: list[Sniffed] = []
        while self._buffer and not self._skip:
            sniffed = self._next()
            if sniffed is None:
                break
            found.append(sniffed)
        return found

    def rest(self) -> Sniffed | None:
        """Return what is left when the connection ends: a part of something."""
        left = bytes(self._buffer)
        self._buffer.clear()
        return Sniffed("bytes", len(left), left) if left else None

    def _next(self) -> Sniffed | None:
        if self._is_opaque:
            return self.rest()
        if self._in_http:
            return self._http()
        return self._frame()

    def _http(self) -> Sniffed | None:
        buffer = self._buffer
        if buffer[0] == _TLS:
            self._is_opaque = True
            return self.rest()
        if not buffer[:1].isalpha():  # the handshake was before our time
            self._in_http = False
            return self._frame()
        end = buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(buffer) > self._keep:
                self._is_opaque = True
                return self.rest()
            return None
        head = bytes(buffer[: end + 4])
        del buffer[: end + 4]
        self._in_http = False
        # Behind an answer that is no upgrade comes its body.
        self._is_opaque = head.startswith(b"HTTP/") and head[9:12] != b"101"
        return Sniffed("http", len(head), head)

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
        key = b""
        if buffer[1] & 0x80:
            key = bytes(buffer[start : start + 4])
            start += 4
        kept = min(length, self._keep)
        if len(buffer) < start + kept:
            return None
        data = bytes(buffer[start : start + kept])
        if key:
            number = int.from_bytes((key * (kept // 4 + 1))[:kept], "big")
            data = (int.from_bytes(data, "big") ^ number).to_bytes(kept, "big")
        kind = _kind(buffer[0])
        end = start + length
        self._skip = max(0, end - len(buffer))
        del buffer[:end]
        return Sniffed(kind, length, data)


def _kind(first: int) -> str:
    """Name a frame by its first byte: ``text``, ``continuation+``, ``opcode-3-rsv4``."""
    opcode, rsv, fin = first & 0x0F, first >> 4 & 7, first & 0x80
    name = _KINDS.get(opcode, f"opcode-{opcode}")
    return name + (f"-rsv{rsv}" if rsv else "") + ("" if fin else "+")
