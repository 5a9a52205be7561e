"""Peers for the guarantees: links of every kind, and a client that speaks bytes by hand.

The client by hand misbehaves as no library lets one: it stops reading, never answers, vanishes.
"""

from __future__ import annotations

import math
import socket
import ssl
import struct
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager, nullcontext
from typing import Any

import trio
from trio.testing import wait_all_tasks_blocked

import trioweb
from trioweb.client import connect
from trioweb.listening import url_of
from trioweb.server import Server, open_server
from trioweb.testing import Conditions, Reset, VirtualNetwork, running_tasks
from trioweb.testing.wires import VirtualStream

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10

Handler = Callable[[trioweb.WebSocket], Awaitable[object]]


async def echo(ws: trioweb.WebSocket) -> None:
    """Send every message back."""
    async for message in ws:
        await ws.send(message)


class Link(ABC):
    """One way to carry a WebSocket in these tests. All that differs between the ways is here."""

    #: Whether the transport can be read without waiting.
    plain = True
    #: Real seconds in which what was sent arrives.
    moment = 0.0
    #: Seconds that no test takes, so that one which waits for ever fails, and by its name. Not
    #: where the kernel has timers of its own: the clock would not wait for them.
    longest = math.inf
    #: No more bytes than these fit on the way to a peer that reads nothing.
    depth: int
    server_tls: ssl.SSLContext | None = None
    client_tls: ssl.SSLContext | None = None

    def host(self, name: str) -> AbstractContextManager[object]:  # noqa: ARG002
        """Run a block on one of the link's machines, where it has several."""
        return nullcontext()

    @abstractmethod
    async def open_stream(self, server: Server, *, buffers: int | None = None) -> trio.abc.Stream:
        """Connect, shake no hands but TLS's; ``buffers`` makes the receive buffer small."""

    @abstractmethod
    def reset(self, peer: ByHand) -> None:
        """Let a peer vanish with a reset (RST), and nobody else."""

    @property
    def enough(self) -> int:
        """Bytes that never all go while nobody reads: trioweb's own buffers hold some, too."""
        return self.depth + 2**21

    def narrow(self, depth: int) -> None:  # noqa: B027 - not every link can
        """Make `depth` so small, where that can be, for the connections to come."""

    async def settle(self) -> None:
        """Wait until every task waits, and nothing is under way to wake one."""
        await wait_all_tasks_blocked(5 * self.moment)

    @asynccontextmanager
    async def server(self, handler: Handler, **options: Any) -> AsyncGenerator[Server]:
        """Serve on loopback, or on the host "server", for `longest` at the most."""
        async with AsyncExitStack() as stack:
            stack.enter_context(trio.fail_after(self.longest))
            with self.host("server"):
                opening = open_server(
                    handler, 0, host="127.0.0.1", ssl_context=self.server_tls, **options
                )
                server = await stack.enter_async_context(opening)
            yield server

    async def serve(
        self, handler: Handler, task_status: trio.TaskStatus[Server] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Serve there by `trioweb.serve`, for ``nursery.start``."""
        with self.host("server"):
            await trioweb.serve(
                handler,
                0,
                host="127.0.0.1",
                ssl_context=self.server_tls,
                task_status=task_status,
            )

    @asynccontextmanager
    async def server_by_hand(
        self, serve: Callable[[trio.abc.Stream], Awaitable[object]]
    ) -> AsyncGenerator[str]:
        """Accept with a server that speaks bytes by hand; gives its URL, and cuts it off."""
        with self.host("server"):
            listeners = list(await trioweb.open_listeners(0, "127.0.0.1"))
        if self.server_tls is not None:
            listeners = [trio.SSLListener(each, self.server_tls) for each in listeners]
        url = url_of(listeners, None, tls=False)
        assert url is not None
        with trio.fail_after(self.longest):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.serve_listeners, serve, listeners)
                yield url
                nursery.cancel_scope.cancel()

    @asynccontextmanager
    async def client(
        self, server: Server | str, **options: Any
    ) -> AsyncGenerator[trioweb.WebSocket]:
        """Connect with trioweb to a server, or a URL; uncompressed, so that sizes are sizes."""
        options.setdefault("deflate", None)
        url = server if isinstance(server, str) else server.url
        async with AsyncExitStack() as stack:
            with self.host("client"):
                opening = connect(url, ssl_context=self.client_tls, **options)
                ws = await stack.enter_async_context(opening)
            yield ws

    async def talk(self, ws: trioweb.WebSocket, size: int = 10_000) -> None:
        """Send more than can ever go while the peer reads nothing, as a handler may."""
        for _ in range(self.enough // size + 1):
            await ws.send(b"x" * size)
        raise AssertionError("nothing stops the sender")

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


class TCPLink(Link):
    """Sockets of the kernel, on loopback."""

    moment = 0.002
    depth = 2**26

    async def open_stream(self, server: Server, *, buffers: int | None = None) -> trio.abc.Stream:
        sock = trio.socket.socket()
        if buffers is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffers)
        await sock.connect(("127.0.0.1", _port(server)))
        return trio.SocketStream(sock)

    def reset(self, peer: ByHand) -> None:
        inner: Any = peer.stream
        while hasattr(inner, "transport_stream"):
            inner = inner.transport_stream
        inner.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        inner.socket.close()


class TLSLink(TCPLink):
    """TLS on those."""

    plain = False

    def __init__(self, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext) -> None:
        self.server_tls = server_tls
        self.client_tls = client_tls

    async def open_stream(self, server: Server, *, buffers: int | None = None) -> trio.abc.Stream:
        tcp = await super().open_stream(server, buffers=buffers)
        assert self.client_tls is not None
        tls = trio.SSLStream(
            tcp, self.client_tls, server_hostname="127.0.0.1", https_compatible=True
        )
        await tls.do_handshake()
        return tls


class VirtualLink(Link):
    """The virtual network: a server, the clients' host, and one host for each peer by hand."""

    longest = 7200

    def __init__(self) -> None:
        self.network = VirtualNetwork()
        self.depth = self.network.conditions.buffer

    def narrow(self, depth: int) -> None:
        self.network.conditions = Conditions(buffer=depth)
        self.depth = depth

    def host(self, name: str) -> AbstractContextManager[object]:
        return self.network.host(name)

    async def open_stream(self, server: Server, *, buffers: int | None = None) -> trio.abc.Stream:
        with self.network.host(f"by-hand-{len(self.network.hosts)}") as host:
            if buffers is not None:
                self.network.link(host.name, "server").inject(Conditions(buffer=buffers))
            return await host.open_stream("server", _port(server))

    def reset(self, peer: ByHand) -> None:
        assert isinstance(peer.stream, VirtualStream)
        name, _ = peer.stream.local_address
        self.network.link(name, "server").inject(Reset())


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


def _port(server: Server) -> int:
    return int(server.url.rpartition(":")[2])


async def first_connection(server: Server) -> trioweb.WebSocket:
    """Wait until a handler runs; return its connection."""
    while not server.connections:
        await trio.sleep(0.01)  # virtual
    return next(iter(server.connections))


def tasks() -> set[str]:
    """Return the names of all tasks but Trio's own and the test's."""
    return {task.name for task in running_tasks()}
