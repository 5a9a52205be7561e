"""A WebSocket client of one blocking socket, for first echoes, and messages to compress."""

from __future__ import annotations

import json
import socket
import zlib
from functools import cache
from pathlib import Path
from typing import Self

from . import build
from .deflate_traffic import traffic

#: Messages of the compressed row, the same for all. A thousand are 400 KiB on the wire.
MESSAGES = 1000
#: And of those about the toolkit, 32 bytes each.
MOVES = 200
PATIENCE = 10
DEFLATE = "permessage-deflate; client_no_context_takeover; server_no_context_takeover"
UPGRADE = (
    "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n{}\r\n"
)
MASK = b"\x12\x34\x56\x78"


def frame(payload: bytes, first: int = 0x81) -> bytes:
    """Return one masked frame (RFC 6455, 5.2); 0xC1 begins compressed text."""
    length = len(payload)
    if length < 126:
        header = bytes([first, 0x80 | length])
    elif length < 2**16:
        header = bytes([first, 0x80 | 126]) + length.to_bytes(2)
    else:
        header = bytes([first, 0x80 | 127]) + length.to_bytes(8)
    mask = (MASK * (length // 4 + 1))[:length]
    masked = int.from_bytes(payload) ^ int.from_bytes(mask)
    return header + MASK + masked.to_bytes(length)


def compressed(message: bytes) -> bytes:
    """Return a message as permessage-deflate sends it, without its tail (RFC 7692, 7.2.1)."""
    deflater = zlib.compressobj(wbits=-15)
    data = deflater.compress(message) + deflater.flush(zlib.Z_SYNC_FLUSH)
    return data.removesuffix(b"\x00\x00\xff\xff")


def script(messages: list[bytes], name: str) -> Path:
    """Write a file of compressed frames for the load."""
    build.BUILD.mkdir(exist_ok=True)
    file = build.BUILD / name
    file.write_bytes(b"".join(frame(compressed(message), 0xC1) for message in messages))
    return file


@cache
def mixed() -> Path:
    """Return a script of many kinds of JSON."""
    return script(traffic(MESSAGES), "mixed.frames")


@cache
def moves() -> Path:
    """Return a script of small messages as `apps.Move` encodes them, not compressed."""
    texts = (
        json.dumps({"type": "move", "x": at, "y": 3 * at}, separators=(",", ":"))
        for at in range(MOVES)
    )
    build.BUILD.mkdir(exist_ok=True)
    file = build.BUILD / "moves.frames"
    file.write_bytes(b"".join(frame(text.encode()) for text in texts))
    return file


@cache
def four_kibibytes() -> Path:
    """Return a script of one JSON message of about 4 KiB."""
    return script([b"[" + b",".join(traffic(24, "ticker")) + b"]"], "single.frames")


class Client:
    """One connection, for a `with` block."""

    def __init__(self, port: int, *, deflate: bool = False) -> None:
        """Connect and upgrade; raises `OSError` or `ValueError`."""
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        self.data = bytearray()
        extension = f"Sec-WebSocket-Extensions: {DEFLATE}\r\n" if deflate else ""
        self.socket.sendall(UPGRADE.format(extension).encode())
        while b"\r\n\r\n" not in self.data:
            self._more()
        head, _, rest = bytes(self.data).partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 101") or deflate != (b"permessage-deflate" in head):
            raise ValueError(f"no such upgrade: {head[:200]!r}")
        self.data[:] = rest

    def __enter__(self) -> Self:
        """Nothing more to do."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close as the protocol wants it."""
        try:
            self.socket.sendall(frame(b"\x03\xe8", 0x88))
            while self.socket.recv(2**16):
                pass
        except OSError:
            pass  # the server was faster
        self.socket.close()

    def _more(self) -> None:
        received = self.socket.recv(2**16)
        if not received:
            raise ValueError("the server ended the connection")
        self.data += received

    def _take(self, count: int) -> bytes:
        while len(self.data) < count:
            self._more()
        taken = bytes(self.data[:count])
        del self.data[:count]
        return taken

    def receive(self) -> bytes:
        """Return the next message, inflated if it is compressed."""
        payload, squeezed, first = b"", False, 0
        while not first & 0x80:
            first, length = self._take(2)
            squeezed = squeezed or bool(first & 0x40)
            if length >= 126:
                length = int.from_bytes(self._take(2 if length == 126 else 8))
            payload += self._take(length)
        if squeezed:
            payload = zlib.decompressobj(wbits=-15).decompress(payload + b"\x00\x00\xff\xff")
        return payload

    def echo(self, message: bytes, *, deflate: bool = False) -> None:
        """Send one message; raises `ValueError` if what comes back is another."""
        self.socket.sendall(frame(compressed(message), 0xC1) if deflate else frame(message))
        if self.receive() != message:
            raise ValueError("what came back is not the echo")


def check_compressed(port: int) -> None:
    """See that a server echoes what it gets compressed; raises as `Client` does."""
    with Client(port, deflate=True) as client:
        for message in traffic(50):
            client.echo(message, deflate=True)
