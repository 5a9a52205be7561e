"""What many tests need: peers that speak by hand, byte for byte, guards, clocks, task counts."""

from __future__ import annotations

import base64
import hashlib
import signal
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from types import FrameType
from typing import NamedTuple, NoReturn, Unpack

import trio
from trio.testing import MockClock

import trioweb
from trioweb.testing import running_tasks

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA

KEY = "dGhlIHNhbXBsZSBub25jZQ=="

#: What a client sends with its frames; any four bytes will do.
MASK = b"\x37\xfa\x21\x3d"


# --- time ------------------------------------------------------------------------------------


def virtual_clock() -> MockClock:
    """Return a clock that jumps to the next deadline once nothing has happened for 20 ms.

    Two sockets of one process talk through the kernel: Trio may see every task blocked while
    bytes are under way. A clock that jumps at once could then skip a deadline.
    """
    return MockClock(autojump_threshold=0.02)


@contextmanager
def guard(seconds: float = 20) -> Iterator[None]:
    """Fail instead of hanging. On a virtual clock, where waiting is free, after a year."""
    virtual = isinstance(trio.lowlevel.current_clock(), MockClock)
    with trio.fail_after(3e7 if virtual else seconds):
        yield


@contextmanager
def looping(seconds: float = 2) -> Iterator[None]:
    """Fail when synchronous code computes for so long: a loop without end."""

    def stop(number: int, where: FrameType | None) -> NoReturn:
        raise AssertionError(f"still computing after {seconds} s")

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


# --- frames ----------------------------------------------------------------------------------


class Frame(NamedTuple):
    """One frame as it stands on the wire."""

    opcode: int
    payload: bytes
    fin: bool = True
    mask: bytes | None = None

    @property
    def close(self) -> tuple[int | None, str]:
        """The code and the reason of a close frame."""
        assert self.opcode == CLOSE, self
        if not self.payload:
            return None, ""
        return struct.unpack("!H", self.payload[:2])[0], self.payload[2:].decode()


def mask_with(mask: bytes, data: bytes) -> bytes:
    """Mask or unmask (RFC 6455, 5.3)."""
    return bytes(byte ^ mask[at & 3] for at, byte in enumerate(data)) if any(mask) else data


def header(
    opcode: int, length: int, *, fin: bool = True, rsv: int = 0, masked: bool = True
) -> bytes:
    """Write a frame's header up to the mask, which is left out."""
    first = fin << 7 | rsv << 4 | opcode
    bit = masked << 7
    if length < 126:
        return struct.pack("!BB", first, bit | length)
    if length < 2**16:
        return struct.pack("!BBH", first, bit | 126, length)
    return struct.pack("!BBQ", first, bit | 127, length)


def frame(
    opcode: int,
    payload: bytes | str = b"",
    *,
    fin: bool = True,
    rsv: int = 0,
    mask: bytes | None = MASK,
) -> bytes:
    """Write a frame: masked, as a client's is, or with ``mask=None`` as a server's."""
    data = payload.encode() if isinstance(payload, str) else payload
    head = header(opcode, len(data), fin=fin, rsv=rsv, masked=mask is not None)
    return head + data if mask is None else head + mask + mask_with(mask, data)


def close_frame(code: int | None, reason: str = "", *, mask: bytes | None = MASK) -> bytes:
    payload = b"" if code is None else struct.pack("!H", code) + reason.encode()
    return frame(CLOSE, payload, mask=mask)


def take_frame(data: bytearray) -> Frame | None:
    """Take the first frame out of the bytes; None if it is not whole yet."""
    if len(data) < 2:
        return None
    length, at = data[1] & 0x7F, 2
    if length == 126:
        length, at = int.from_bytes(data[2:4], "big"), 4
    elif length == 127:
        length, at = int.from_bytes(data[2:10], "big"), 10
    masked = data[1] >> 7
    if len(data) < at + 4 * masked + length:
        return None
    mask = bytes(data[at : at + 4]) if masked else None
    at += 4 * masked
    payload = bytes(data[at : at + length])
    fin, opcode = bool(data[0] >> 7), data[0] & 0x0F
    assert data[0] & 0x70 == 0, "reserved bits are set"
    del data[: at + length]
    return Frame(opcode, payload if mask is None else mask_with(mask, payload), fin, mask)


def frames_in(data: bytes) -> list[Frame]:
    """Return the frames in some bytes, which hold nothing but whole ones."""
    rest = bytearray(data)
    frames = []
    while (one := take_frame(rest)) is not None:
        frames.append(one)
    assert not rest, f"{len(rest)} bytes are left over"
    return frames


# --- peers -----------------------------------------------------------------------------------


class Answer(NamedTuple):
    """An HTTP response."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def asking(path: str = "/", headers: Mapping[str, str | None] | None = None) -> bytes:
    """Write a client's handshake; ``headers`` replace its own, or drop those that are None."""
    lines: dict[str, str | None] = {
        "Host": "localhost",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": KEY,
        "Sec-WebSocket-Version": "13",
        **(headers or {}),
    }
    text = "".join(f"{name}: {value}\r\n" for name, value in lines.items() if value is not None)
    return f"GET {path} HTTP/1.1\r\n{text}\r\n".encode("latin-1")


def accepting(key: str, headers: str = "") -> bytes:
    """Write a server's answer to a handshake."""
    digest = hashlib.sha1(key.encode() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
    return (
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Accept: {base64.b64encode(digest).decode()}\r\n{headers}\r\n"
    ).encode()


class Peer:
    """The other end of a connection, which sends and sees bytes as they are."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self._data = bytearray()
        #: The head of the request that `accept` has answered.
        self.request = b""

    async def send(self, *pieces: bytes) -> None:
        await self.stream.send_all(b"".join(pieces))

    async def frame(self) -> Frame:
        """Return the next frame; raises `EOFError` at the end of the stream."""
        while (one := take_frame(self._data)) is None:
            await self._more()
        return one

    async def rest(self) -> bytes:
        """Return all that comes until the end, be it orderly or not."""
        try:
            while True:
                await self._more()
        except (EOFError, trio.BrokenResourceError):
            return bytes(self._data)

    async def last_frames(self) -> list[Frame]:
        """Return the frames until the end."""
        return frames_in(await self.rest())

    async def farewell(self) -> list[Frame]:
        """Return the frames up to the close, answer that, and see the stream end behind it."""
        frames = [await self.frame()]
        while frames[-1].opcode != CLOSE:
            frames.append(await self.frame())
        await self.send(close_frame(frames[-1].close[0]))
        assert await self.rest() == b""
        return frames

    async def head(self) -> bytes:
        """Return the head of an HTTP message."""
        while b"\r\n\r\n" not in self._data:
            await self._more()
        end = self._data.index(b"\r\n\r\n") + 4
        head = bytes(self._data[:end])
        del self._data[:end]
        return head

    async def answer(self) -> Answer:
        """Return an HTTP response; the body of one without a length is left in the stream."""
        lines = (await self.head()).decode("latin-1").splitlines()
        pairs = (line.partition(":") for line in lines[1:] if line)
        headers = {name.lower(): value.strip() for name, _, value in pairs}
        length = int(headers.get("content-length", "0"))
        return Answer(
            int(lines[0].split()[1]), headers, b"" if not length else await self.take(length)
        )

    async def take(self, count: int) -> bytes:
        """Return so many bytes."""
        while len(self._data) < count:
            await self._more()
        data = bytes(self._data[:count])
        del self._data[:count]
        return data

    async def accept(self, headers: str = "", *, behind: bytes = b"") -> None:
        """Play the server: read a handshake and accept it, with frames in the same write."""
        self.request = await self.head()
        key = self.request.split(b"Sec-WebSocket-Key: ")[1].split(b"\r\n")[0].decode()
        await self.send(accepting(key, headers), behind)

    def reset(self) -> None:
        """Vanish: what is under way is lost, and the other end gets a RST."""
        stream = self.stream
        while isinstance(stream, trio.SSLStream):
            stream = stream.transport_stream
        assert isinstance(stream, trio.SocketStream)
        stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        stream.socket.close()

    async def _more(self) -> None:
        data = await self.stream.receive_some()
        if not data:
            raise EOFError("the stream is over")
        self._data += data


def port_of(server: trioweb.Server) -> int:
    listener = server.listeners[0]
    while isinstance(listener, trio.SSLListener):
        listener = listener.transport_listener
    assert isinstance(listener, trio.SocketListener)
    port: int = listener.socket.getsockname()[1]
    return port


def numeric_url(server: trioweb.Server, path: str = "") -> str:
    """Return a URL without a name to look up: a thread would do that, unseen by virtual clocks."""
    return f"ws://127.0.0.1:{port_of(server)}{path}"


@asynccontextmanager
async def dialling(
    server: trioweb.Server, *, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Peer]:
    """Connect to a server and say nothing."""
    stream: trio.abc.Stream = await trio.open_tcp_stream("127.0.0.1", port_of(server))
    if tls is not None:
        stream = trio.SSLStream(stream, tls, server_hostname="localhost", https_compatible=True)
    try:
        yield Peer(stream)
    finally:
        await trio.aclose_forcefully(stream)


@asynccontextmanager
async def upgraded(
    server: trioweb.Server,
    path: str = "/",
    headers: Mapping[str, str | None] | None = None,
    *,
    behind: bytes = b"",
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[Peer]:
    """Connect to a server and shake hands, with frames in the same write as the request."""
    async with dialling(server, tls=tls) as peer:
        await peer.send(asking(path, headers), behind)
        answer = await peer.answer()
        assert answer.status == 101, answer
        yield peer


async def fetch(
    server: trioweb.Server, request: bytes, *, tls: ssl.SSLContext | None = None
) -> Answer:
    """Send a plain request as it is and return the answer, after which the stream must end."""
    async with dialling(server, tls=tls) as peer:
        await peer.send(request)
        answer = await peer.answer()
        assert answer.headers["connection"].split(", ")[-1] == "close"
        assert await peer.rest() == b""
        return answer


async def get(server: trioweb.Server, path: str, method: str = "GET") -> Answer:
    """Ask for a page."""
    return await fetch(server, f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())


# --- servers ---------------------------------------------------------------------------------


async def echo(ws: trioweb.WebSocket) -> None:
    async for message in ws:
        await ws.send(message)


async def forever(ws: trioweb.WebSocket) -> None:
    """Take messages and say nothing."""
    async for _ in ws:
        pass


def fill(ws: trioweb.WebSocket) -> None:
    """Send to a peer that reads nothing until the outbox is full."""
    with suppress(trio.WouldBlock):
        for _ in range(10_000):
            ws.send_nowait(bytes(2**16))
        raise AssertionError("the outbox never fills")
    assert ws.statistics().outbox_bytes >= 2**16


@asynccontextmanager
async def serving(
    handler: Callable[[trioweb.WebSocket], Awaitable[object]] = echo,
    **options: Unpack[trioweb.ServerOptions],
) -> AsyncIterator[trioweb.Server]:
    """Serve on a free port for the length of a block, which is guarded."""
    with guard():
        async with trioweb.open_server(handler, 0, **options) as server:
            yield server


@asynccontextmanager
async def scripted(script: Callable[[Peer], Awaitable[object]]) -> AsyncIterator[str]:
    """Serve by hand for the length of a block, which gets a URL: one script per connection."""

    async def run(stream: trio.abc.Stream) -> None:
        await script(Peer(stream))

    with guard():
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = listeners[0].socket.getsockname()[1]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, run, listeners)
            yield f"ws://127.0.0.1:{port}"
            nursery.cancel_scope.cancel()


# --- tasks -----------------------------------------------------------------------------------


def tasks() -> set[trio.lowlevel.Task]:
    """Return every task of this run."""
    return set(running_tasks())
