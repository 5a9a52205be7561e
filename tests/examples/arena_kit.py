"""What the arena's tests share: an arena that is served, and clients that play in it."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from urllib.parse import urlsplit

import pytest
import trio

import trioweb
from examples.arena import wire
from examples.arena.server import Arena, Options, open_arena_listeners, serve_arena
from examples.arena.sync import Mirror, View
from examples.arena.world import Rules


@dataclass
class Running:
    """An arena that is served, and how to reach it."""

    arena: Arena
    server: trioweb.Server

    @property
    def url(self) -> str:
        return self.server.url


@asynccontextmanager
async def serving(
    bots: int = 0, coins: int = 4, send_buffer: int = 2**16, max_players: int = 200
) -> AsyncIterator[Running]:
    options = Options(port=0, bots=bots, rules=Rules(coins=coins), seed=5, max_players=max_players)
    arena = Arena(options)
    listeners = await open_arena_listeners("localhost", 0, send_buffer=send_buffer)
    with trio.fail_after(60):  # a message that never comes fails a test, instead of holding it
        async with trio.open_nursery() as nursery:
            server = await nursery.start(partial(serve_arena, arena, listeners))
            yield Running(arena, server)
            await server.drain()


@dataclass
class Client:
    """A player of the tests: keeps a copy of the world, and sorts what comes."""

    ws: trioweb.WebSocket
    welcome: wire.Welcome
    mirror: Mirror = field(default_factory=Mirror)
    state: wire.State | None = None
    seq: int = 0

    async def next(self) -> wire.FromServer:
        message = wire.decode_from_server(await self.ws.receive())
        if isinstance(message, wire.State):
            self.state = message
            self.mirror.apply(message)
        return message

    async def until(self, condition: Callable[[View], bool]) -> View:
        while not condition(self.mirror.view):
            await self.next()
        return self.mirror.view

    async def until_acknowledged(self, seq: int) -> None:
        while self.state is None or self.state.ack < seq:
            await self.next()

    async def until_ended(self) -> tuple[trioweb.ConnectionEnded, int]:
        """Return how the connection ends, and how many error messages came before."""
        errors = 0
        try:
            while True:
                errors += isinstance(await self.next(), wire.Error)
        except trioweb.ConnectionEnded as end:
            return end, errors

    async def answer(self) -> wire.FromServer:
        """Return the next message that is no state."""
        while isinstance(message := await self.next(), wire.State):
            pass
        return message

    async def move(self, dx: float, dy: float) -> None:
        self.seq += 1
        await self.ws.send(wire.encode(wire.Input(self.seq, dx, dy)))

    @property
    def position(self) -> tuple[int, int]:
        sprite = self.mirror.view.players[self.welcome.id]
        return sprite.x, sprite.y


@asynccontextmanager
async def joined(
    url: str, name: str, key: str = "", *, receive_buffer: int | None = None
) -> AsyncIterator[Client]:
    stream, limits = None, trioweb.Limits()
    if receive_buffer is not None:  # a slow link: the kernel takes little for it, nor does it
        limits = trioweb.Limits(inbox_bytes=2**16)
        sock = trio.socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        await sock.connect(("127.0.0.1", urlsplit(url).port))
        stream = trio.SocketStream(sock)
    async with trioweb.connect(url, stream=stream, limits=limits) as ws:
        await ws.send(wire.encode(wire.Join(name, key)))
        welcome = wire.decode_from_server(await ws.receive())
        assert isinstance(welcome, wire.Welcome)
        yield Client(ws, welcome)


async def refused(url: str, first: str | bytes) -> tuple[int, str]:
    """Return the code and reason that the first message is answered with."""
    async with trioweb.connect(url) as ws:
        await ws.send(first)
        with pytest.raises(trio.BrokenResourceError):
            await ws.receive()
        assert ws.closed is not None
        return ws.closed.code, ws.closed.reason


async def get(url: str, path: str) -> tuple[int, str, str]:
    """Return status, headers and body of a plain request to the same port."""
    host, _, port = url.removeprefix("ws://").rpartition(":")
    async with await trio.open_tcp_stream(host, int(port)) as stream:
        request = f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n"
        await stream.send_all(request.encode())
        answer = b"".join([part async for part in stream]).decode()
    head, _, body = answer.partition("\r\n\r\n")
    return int(head.split()[1]), head, body
