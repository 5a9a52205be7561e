"""One connection seen from its attacker's end: what it may do, and what it saw."""

from __future__ import annotations

import socket
import ssl
import zlib
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import trio

from tests.helpers import CLOSE, CONTINUATION, KEY, PING, PONG, TEXT, Peer

__all__ = ["SECRET", "Answer", "Attacker", "Line", "Reply", "Seen", "any_of", "ask"]

#: Stands in the query and in a cookie of every upgrade; no log may show it.
SECRET = "hush-4711"

#: A message or a pong: the opcode and the payload.
Reply: TypeAlias = tuple[int, bytes]

#: An HTTP status, a close code (1005: a close frame without one), or how it ended without either:
#: "end" is an orderly end of the stream, "reset" any other, "hung" none in time.
Answer: TypeAlias = int | Literal["end", "reset", "hung"]


def any_of(*answers: Answer) -> frozenset[Answer]:
    """Return a set of answers."""
    return frozenset(answers)


def ask(
    *more: str,
    without: str = "",
    line: str = f"GET /?token={SECRET} HTTP/1.1",
    end: str = "\r\n",
) -> bytes:
    """Write an upgrade: its own lines but for those named in ``without``, then ``more``."""
    own = {
        "Host": "localhost",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": KEY,
        "Sec-WebSocket-Version": "13",
        "Cookie": f"session={SECRET}",
    }
    lines = [f"{name}: {value}" for name, value in own.items() if name not in without.split()]
    return end.join([line, *lines, *more, end]).encode("latin-1")


@dataclass(slots=True)
class Seen:
    """What came back on one connection."""

    status: int = 0
    head: bytes = b""
    replies: list[Reply] = field(default_factory=list[Reply])
    close: int | None = None
    #: Bytes behind the close frame, or behind the HTTP response.
    behind: int = 0
    end: Literal["end", "reset", "hung"] = "hung"

    @property
    def answer(self) -> Answer:
        """The one thing that counts."""
        if self.status not in (0, 101):
            return self.status
        return self.end if self.close is None else self.close


class Line:
    """One connection, seen from the attacker's end."""

    def __init__(self, stream: trio.abc.Stream, patience: float, lag: float) -> None:
        self.stream = stream
        self.patience = patience
        self.lag = lag
        #: Whether pings are answered.
        self.honest = True
        self.peer = Peer(stream)
        self.seen = Seen()
        self._sending = trio.Lock()
        self._pongs: list[bytes] = []
        self._data = bytearray()
        self._message: tuple[int, bool, bytearray] | None = None
        self._inflate = zlib.decompressobj(-15)

    async def send(self, *pieces: bytes) -> bool:
        """Send; return whether the server still listened."""
        with trio.move_on_after(self.patience):
            async with self._sending:
                data = b"".join((*self._pongs, *pieces))
                self._pongs.clear()
                try:
                    await self.stream.send_all(data)
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    return False
                return True
        return False

    @property
    def socket_stream(self) -> trio.SocketStream:
        """What is below TLS."""
        stream = self.stream
        while isinstance(stream, trio.SSLStream):
            stream = stream.transport_stream
        assert isinstance(stream, trio.SocketStream)
        return stream

    def narrow(self) -> None:
        """Have next to no room for what the server sends."""
        self.socket_stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)

    async def eof(self) -> None:
        """Say that nothing more comes; TLS can only do that by its end."""
        await self.socket_stream.send_eof()

    async def head(self) -> int:
        """Read the head of the answer; return the status, 0 if there is none."""
        while b"\r\n\r\n" not in self._data:
            if not await self._more():
                return 0
        head, _, rest = bytes(self._data).partition(b"\r\n\r\n")
        self._data = bytearray(rest)
        words = head.split(None, 2)
        self.seen.head, self.seen.status = head, int(words[1]) if len(words) > 1 else 0
        if self.seen.status == 100:  # no answer yet
            self.seen.status = 0
            return await self.head()
        return self.seen.status

    async def upgrade(self, request: bytes = b"", behind: bytes = b"") -> bool:
        """Shake hands; return whether the server did."""
        return await self.send(request or ask(), behind) and await self.head() == 101

    async def replies(self, count: int) -> None:
        """Read until so many messages and pongs have come, or no more can."""
        while len(self.seen.replies) < count and self.seen.close is None and await self.frame():
            pass

    async def pour(self, data: bytes, times: int) -> None:
        """Send it so many times, until the server takes no more for as long as it is given."""
        for _ in range(times):
            if not await self.send(data):
                return

    async def dribble(self, pieces: Iterable[bytes], seconds: float) -> Seen:
        """Send piece by piece, with pauses, until the server hangs up or there are no more."""
        for piece in pieces:
            if not await self.send(piece):
                break
            with trio.move_on_after(seconds):
                await self._more()
            if self.seen.end != "hung":
                break
        return await self.finish()

    async def drain(self) -> None:
        """Read and forget, until the end."""
        while await self.frame():
            self.seen.replies.clear()

    async def sink(self) -> Seen:
        """Throw away whatever is left to read."""
        while await self._more():
            self._data.clear()
        return self.seen

    async def finish(self) -> Seen:
        """Read to the end, whatever comes."""
        if not self.seen.status:
            await self.head()
        if self.seen.status in (0, 101):
            while self.seen.close is None and await self.frame():
                pass
        else:
            await self.body()
        if self.seen.answer != "hung":
            self.patience = min(self.patience, self.lag)
        while True:
            self.seen.behind += len(self._data)
            self._data.clear()
            if not await self._more():
                return self.seen

    async def body(self) -> bytes:
        """Read the body of the answer."""
        for line in self.seen.head.lower().split(b"\r\n"):
            name, _, value = line.partition(b":")
            if name == b"content-length":
                while len(self._data) < int(value) and await self._more():
                    pass
                body = bytes(self._data[: int(value)])
                del self._data[: int(value)]
                return body
        return b""

    async def frame(self) -> bool:
        """Read one frame; return whether there was one."""
        while (length := self._whole()) is None:
            if not await self._more():
                return False
        first, start = self._data[0], length[0]
        payload = bytes(self._data[start : start + length[1]])
        del self._data[: start + length[1]]
        opcode = first & 0x0F
        if opcode == CLOSE:
            self.seen.close = int.from_bytes(payload[:2], "big") if payload else 1005
        elif opcode == PONG:
            self.seen.replies.append((PONG, payload))
        elif opcode != PING:
            self._data_frame(first, payload)
        elif self.honest:
            self._pongs.append(masked(PONG, payload))
            if not self._sending.locked():  # else they go with the next bytes
                await self.send()
        return True

    def _data_frame(self, first: int, payload: bytes) -> None:
        opcode = first & 0x0F
        if opcode != CONTINUATION or self._message is None:
            self._message = opcode, bool(first & 0x40), bytearray()
        self._message[2].extend(payload)
        if first & 0x80:
            opcode, compressed, whole = self._message
            data = bytes(whole)
            if compressed:
                data = self._inflate.decompress(data + b"\0\0\xff\xff")
            self.seen.replies.append((opcode, data))
            self._message = None

    def _whole(self) -> tuple[int, int] | None:
        """Where the payload of the first frame starts and how long it is, once it is here."""
        data = self._data
        if len(data) < 2:
            return None
        length, start = data[1] & 0x7F, 2
        if length > 125:
            start = 4 if length == 126 else 10
            length = int.from_bytes(data[2:start], "big")
        return (start, length) if len(data) >= start + length else None

    async def _more(self) -> bool:
        if self.seen.end != "hung":
            return False
        data = None
        with trio.move_on_after(self.patience):
            try:
                data = await self.stream.receive_some(2**16)
            except trio.BrokenResourceError:
                self.seen.end = "reset"
                return False
        if data is None:
            return False
        if not data:
            self.seen.end = "end"
            return False
        self._data += data
        return True


@dataclass(slots=True)
class Attacker:
    """Where the server is, and how patient its attacker."""

    port: int
    #: Trusts the server; None where it speaks plain TCP.
    tls: ssl.SSLContext | None = None
    #: Seconds without a byte after which it is said to hang.
    patience: float = 60
    #: The same once the answer is here: the end of the connection is due.
    lag: float = 60
    #: Connections made so far.
    dialled: int = 0

    @asynccontextmanager
    async def dial(self, *, raw: bool = False) -> AsyncGenerator[Line]:
        """Connect; ``raw`` leaves TLS out, whatever the server speaks."""
        self.dialled += 1
        stream: trio.abc.Stream = await trio.open_tcp_stream("127.0.0.1", self.port)
        if self.tls is not None and not raw:
            stream = trio.SSLStream(
                stream, self.tls, server_hostname="localhost", https_compatible=True
            )
        try:
            yield Line(stream, self.patience, self.lag)
        finally:
            await trio.aclose_forcefully(stream)

    async def echo(self, line: Line, text: str = "still there?") -> None:
        """Be an honest client: an echo, now."""
        before = len(line.seen.replies)
        await line.send(masked(TEXT, text.encode()))
        await line.replies(before + 1)
        assert line.seen.replies[before:] == [(TEXT, text.encode())], line.seen


def masked(opcode: int, payload: bytes) -> bytes:
    """Write a short frame with a mask of zeros, the cheapest that there is."""
    assert len(payload) < 126
    return bytes((0x80 | opcode, 0x80 | len(payload), 0, 0, 0, 0)) + payload
