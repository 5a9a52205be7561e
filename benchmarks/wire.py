"""A WebSocket client of raw sockets: a hand-made upgrade, prebuilt frames, no library."""

from __future__ import annotations

import itertools
import resource
import socket

UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
MASK = b"\x12\x34\x56\x78"


TEXT, CLOSE = 1, 8


def frame(opcode: int, payload: bytes) -> bytes:
    """Return one masked frame (RFC 6455, 5.2)."""
    length = len(payload)
    if length < 126:
        header = bytes([0x80 | opcode, 0x80 | length])
    elif length < 2**16:
        header = bytes([0x80 | opcode, 0x80 | 126]) + length.to_bytes(2)
    else:
        header = bytes([0x80 | opcode, 0x80 | 127]) + length.to_bytes(8)
    masked = bytes(byte ^ key for byte, key in zip(payload, itertools.cycle(MASK), strict=False))
    return header + MASK + masked


def frame_size(data: bytes | bytearray, start: int) -> tuple[int, int] | None:
    """Return (header, payload) sizes of the unmasked frame at ``start``; None: more bytes."""
    if len(data) < start + 10:  # enough for every header; no echo here is shorter than that
        return None
    length = data[start + 1] & 0x7F
    if length < 126:
        return 2, length
    if length == 126:
        return 4, int.from_bytes(data[start + 2 : start + 4])
    return 10, int.from_bytes(data[start + 2 : start + 10])


def connect(port: int) -> socket.socket:
    """Open one connection and upgrade it; the socket blocks, for 10 seconds at most."""
    sock = socket.create_connection(("127.0.0.1", port), timeout=10)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.sendall(UPGRADE)
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        received = sock.recv(4096)
        if not received:
            raise ConnectionError(f"no upgrade: {answer[:200]!r}")
        answer += received
    if not answer.startswith(b"HTTP/1.1 101"):
        raise ConnectionError(f"no upgrade: {answer[:200]!r}")
    return sock


def close(sock: socket.socket) -> None:
    """Close one connection as the protocol wants it, so that no server has to clean up."""
    try:
        sock.sendall(frame(CLOSE, b"\x03\xe8"))
        while sock.recv(2**16):
            pass
    except OSError:
        pass  # the server was faster
    sock.close()


def learn_echo(sock: socket.socket, payload: bytes) -> bytes:
    """Send one message; return its echo byte by byte, in as many frames as the server makes."""
    sock.sendall(frame(TEXT, payload))
    data, start, echoed = bytearray(), 0, bytearray()
    while len(echoed) < len(payload):
        received = sock.recv(2**16)
        if not received:
            raise ConnectionError("the connection ended instead of echoing")
        data += received
        while (size := frame_size(data, start)) and len(data) >= start + sum(size):
            echoed += data[start + size[0] : start + sum(size)]
            start += sum(size)
    if bytes(echoed) != payload or start != len(data):
        raise ValueError("what came back is not the echo")
    return bytes(data)


def raise_file_limit() -> int:
    """Allow as many open files as the system lets this process have, and return the number."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard
