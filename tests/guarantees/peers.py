"""Peers for the guarantees: links over TCP and TLS, and a client that speaks bytes by hand.

The client by hand misbehaves as no library lets one: it stops reading, never answers, vanishes.
"""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import trio

import trioweb
from trioweb.client import connect
from trioweb.server import Server, open_server

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10

Handler = Callable[[trioweb.WebSocket], Awaitable[object]]


async def echo(ws: trioweb.WebSocket) -> None:
    """Send every message back."""
    async for message in ws:
        await ws.send(message)


@dataclass
class Link:
    """One way to carry a WebSocket in these tests: plain TCP, or TLS on it."""

    name: str
    server_tls: ssl.SSLContext | None = None
    client_tls: ssl.SSLContext | None = None
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def plain(self) -> bool:
        """Whether the transport can be read without waiting."""
        return self.server_tls is None

    @asynccontextmanager
    async def server(self, handler: Handler, **options: Any) -> AsyncGenerator[Server]:
        """Serve on loopback."""
        async with open_server(
            handler, 0, host="127.0.0.1", ssl_context=self.server_tls, **options
        ) as server:
            yield server

    @asynccontextmanager
    async def client(self, server: Server, **options: Any) -> AsyncGenerator[trioweb.WebSocket]:
        """Connect with trioweb."""
        async with connect(server.url, ssl_context=self.client_tls, **options) as ws:
            yield ws

    @asynccontextmanager
    async def pair(
        self, server_options: dict[str, Any] | None = None, **options: Any
    ) -> AsyncGenerator[tuple[trioweb.WebSocket, trioweb.WebSocket]]:
        """Give a connected client and server, whose handler does nothing but stay."""
        send, receive = trio.open_memory_channel[trioweb.WebSocket](1)
        done = trio.Event()

        async def stay(ws: trioweb.WebSocket) -> None:
            await send.send(ws)
            await done.wait()

        async with self.server(stay, **(server_options or {})) as server:
            async with self.client(server, **options) as client:
                try:
                    yield client, await receive.receive()
                finally:
                    done.set()

    @asynccontextmanager
    async def by_hand(self, server: Server, **options: Any) -> AsyncGenerator[ByHand]:
        """Connect with a client that speaks bytes by hand."""
        async with await self.open_stream(server, **options) as stream:
            peer = ByHand(stream)
            await peer.upgrade()
            yield peer

    async def open_stream(self, server: Server, *, buffers: int | None = None) -> trio.abc.Stream:
        """Open TCP, and TLS where the link has it; ``buffers`` makes the receive buffer small."""
        port = int(server.url.rpartition(":")[2])
        sock = trio.socket.socket()
        if buffers is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffers)
        await sock.connect(("127.0.0.1", port))
        tcp = trio.SocketStream(sock)
        if self.client_tls is None:
            return tcp
        tls = trio.SSLStream(
            tcp, self.client_tls, server_hostname="127.0.0.1", https_compatible=True
        )
        await tls.do_handshake()
        return tls


class ByHand:
    """A client that sends and reads single frames."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self._buffer = bytearray()

    async def upgrade(self) -> None:
        """Send the request of RFC 6455, 1.3, and read its answer."""
        await self.stream.send_all(
            b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        while b"\r\n\r\n" not in self._buffer:
            self._buffer += await self.stream.receive_some()
        head, _, rest = self._buffer.partition(b"\r\n\r\n")
        self._buffer = rest
        assert head.startswith(b"HTTP/1.1 101"), head

    async def send(self, opcode: int, payload: bytes = b"", *, fin: bool = True) -> None:
        """Send one masked frame."""
        await self.stream.send_all(frame(opcode, payload, fin=fin))

    async def receive(self) -> tuple[int, bytes]:
        """Return the next frame's opcode and payload; raise EOFError at the end."""
        while True:
            found = _parse(self._buffer)
            if found is not None:
                opcode, payload, size = found
                del self._buffer[:size]
                return opcode, payload
            data = await self.stream.receive_some(65536)
            if not data:
                raise EOFError
            self._buffer += data

    async def receive_close(self) -> int:
        """Read up to the close frame; return its code."""
        while True:
            opcode, payload = await self.receive()
            if opcode == CLOSE:
                return int.from_bytes(payload[:2], "big") if payload else 1005

    def reset(self) -> None:
        """Vanish with a reset (RST)."""
        inner: Any = self.stream
        while hasattr(inner, "transport_stream"):
            inner = inner.transport_stream
        inner.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        inner.socket.close()


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True) -> bytes:
    """Return one frame, masked with zeros."""
    head = bytes([(0x80 if fin else 0) | opcode])
    if len(payload) < 126:
        head += bytes([0x80 | len(payload)])
    elif len(payload) < 2**16:
        head += b"\xfe" + len(payload).to_bytes(2, "big")
    else:
        head += b"\xff" + len(payload).to_bytes(8, "big")
    return head + bytes(4) + payload


def close_frame(code: int) -> bytes:
    """Return a close frame with a code."""
    return frame(CLOSE, code.to_bytes(2, "big"))


def _parse(data: bytearray) -> tuple[int, bytes, int] | None:
    """Parse an unmasked frame at the start of the data."""
    if len(data) < 2:
        return None
    length, start = data[1], 2
    if length >= 126:
        start = 4 if length == 126 else 10
        if len(data) < start:
            return None
        length = int.from_bytes(data[2:start], "big")
    if len(data) < start + length:
        return None
    return data[0] & 15, bytes(data[start : start + length]), start + length


async def first_connection(server: Server) -> trioweb.WebSocket:
    """Wait until a handler runs; return its connection."""
    while not server.connections:
        await trio.sleep(0.01)  # virtual
    return next(iter(server.connections))


def tasks() -> set[str]:
    """Return the names of all tasks but Trio's own and the test's."""
    found: set[str] = set()
    root = trio.lowlevel.current_root_task()
    assert root is not None
    stack = list(root.child_nurseries)
    while stack:
        for task in stack.pop().child_tasks:
            found.add(task.name)
            stack += task.child_nurseries
    return found
