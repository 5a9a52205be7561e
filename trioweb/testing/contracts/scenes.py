"""The scenes that `check_observer` plays: how connections may begin and end."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import trio

from ...client import connect
from ...connection import WebSocket
from ...errors import ConnectionEnded
from ...pages import OnRequest
from ...server import Server, open_server
from ...types import CloseCode, Request, Response
from ..faults import Reset
from ..network import VirtualNetwork
from .promises import require, shown
from .watch import Watch

__all__ = ["SCENES"]

_CONNECTIONS = 5


class _Stage:
    """A server on a virtual network, and its clients; all of them are watched."""

    def __init__(self, watch: Watch, network: VirtualNetwork, server: Server) -> None:
        self.watch = watch
        self.network = network
        self.server = server

    @asynccontextmanager
    async def client(self) -> AsyncGenerator[WebSocket]:
        async with AsyncExitStack() as stack:
            with self.network.host("client"):
                ws = await stack.enter_async_context(
                    connect(self.server.url, observers=[self.watch])
                )
            yield ws

    async def ask(self, request: bytes) -> bytes:
        """Send bytes to the server, and return its whole answer."""
        with self.network.host("client") as host:
            stream = await host.open_stream("server", int(self.server.url.rpartition(":")[2]))
        async with stream:
            await stream.send_all(request)
            answer = b""
            while data := await stream.receive_some():
                answer += data
            return answer


_Handler = Callable[[WebSocket], Awaitable[object]]


@asynccontextmanager
async def _stage(
    watch: Watch, handler: _Handler, on_request: OnRequest | None = None
) -> AsyncGenerator[_Stage]:
    network = VirtualNetwork()
    async with AsyncExitStack() as stack:
        with network.host("server"):
            server = await stack.enter_async_context(
                open_server(handler, 0, observers=[watch], on_request=on_request)
            )
        yield _Stage(watch, network, server)


class _Echo:
    """A handler that sends back what it receives, and knows its connections."""

    def __init__(self) -> None:
        self.connections: list[WebSocket] = []

    async def __call__(self, ws: WebSocket) -> None:
        self.connections.append(ws)
        async for message in ws:
            await ws.send(message)


async def _talk(ws: WebSocket, *messages: str) -> None:
    """Have messages sent back, which must come whole, in order and alone."""
    for message in messages or ("one", "two"):
        await ws.send(message)
        answer = await ws.receive()
        require(
            answer == message,
            f"the observer disturbs the connection: {shown(answer)} came instead of {message!r}",
        )


async def _expect_end(ws: WebSocket, *codes: int) -> None:
    try:
        message = await ws.receive()
    except ConnectionEnded as end:
        code = end.close.code
        require(code in codes, f"the observer disturbs the connection: it ended with {end.close}")
    else:
        require(False, f"the observer disturbs the connection: {shown(message)} came at its end")


async def _client_closes(watch: Watch) -> None:
    echo = _Echo()
    async with _stage(watch, echo) as stage, stage.client() as ws:
        await _talk(ws)
        await ws.aclose(4000, "enough")
    watch.check_seen(ws, *echo.connections)


async def _server_closes(watch: Watch) -> None:
    seen: list[WebSocket] = []

    async def answer_once(ws: WebSocket) -> None:
        seen.append(ws)
        await ws.send(await ws.receive())

    async with _stage(watch, answer_once) as stage, stage.client() as ws:
        await _talk(ws, "once")
        await _expect_end(ws, CloseCode.NORMAL)
    watch.check_seen(ws, *seen)


async def _link_breaks(watch: Watch) -> None:
    echo = _Echo()
    async with _stage(watch, echo) as stage, stage.client() as ws:
        await _talk(ws)
        stage.network.link("client", "server").inject(Reset())
        await _expect_end(ws, CloseCode.ABNORMAL)
    watch.check_seen(ws, *echo.connections)


async def _handler_raises(watch: Watch) -> None:
    error = LookupError("raised by the handler")
    seen: list[WebSocket] = []

    async def fail(ws: WebSocket) -> None:
        seen.append(ws)
        await ws.receive()
        raise error

    async with _stage(watch, fail) as stage, stage.client() as ws:
        await ws.send("go")
        await _expect_end(ws, CloseCode.INTERNAL_ERROR)
    watch.check_seen(ws, *seen)
    told = [(connection.id, failure) for connection, failure in watch.failures]
    require(
        len(told) == 1 and told[0][0] == seen[0].id and told[0][1] is error,
        f"handler_failed was told {told!r}, and {error!r} was raised in {seen[0].id}",
    )


async def _drain(watch: Watch) -> None:
    echo = _Echo()
    async with _stage(watch, echo) as stage, stage.client() as ws:
        await _talk(ws)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stage.server.drain)
            await _expect_end(ws, CloseCode.GOING_AWAY)
    watch.check_seen(ws, *echo.connections)


async def _cancel(watch: Watch) -> None:
    echo = _Echo()
    ws: WebSocket | None = None
    async with _stage(watch, echo) as stage:
        with trio.CancelScope() as scope:
            async with stage.client() as ws:
                await _talk(ws)
                scope.cancel()
                await ws.receive()
    assert ws is not None
    watch.check_seen(ws, *echo.connections)


async def _many(watch: Watch) -> None:
    echo = _Echo()
    clients: list[WebSocket] = []

    async def visit(number: int) -> None:
        async with stage.client() as ws:
            clients.append(ws)
            await _talk(ws, *(f"{number} {count}" for count in range(_CONNECTIONS)))

    async with _stage(watch, echo) as stage, trio.open_nursery() as nursery:
        for number in range(_CONNECTIONS):
            nursery.start_soon(visit, number)
    watch.check_seen(*clients, *echo.connections)


async def _requests(watch: Watch) -> None:
    async def turn_away(request: Request) -> Response | None:
        return Response.make(403, "no") if request.upgrade else None

    lines = b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    requests: dict[bytes, tuple[bytes, str | None]] = {
        b"GET /plain HTTP/1.1\r\nHost: server\r\n\r\n": (b"404", "/plain"),
        b"GET /refused HTTP/1.1\r\nHost: server\r\n%b"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n" % lines: (b"403", "/refused"),
        b"nonsense\r\n\r\n": (b"400", None),
    }
    async with _stage(watch, _Echo(), turn_away) as stage:
        for number, (request, (status, path)) in enumerate(requests.items(), 1):
            answer = await stage.ask(request)
            require(answer.split()[1:2] == [status], f"{status!r} became {shown(answer)}")
            told = [
                (None if seen is None else seen.path, response.status)
                for seen, response in watch.answers
            ]
            require(
                len(told) == number and told[-1] == (path, int(status)),
                f"answered was told {told!r} after {shown(request)} was answered {status!r}",
            )
    watch.check_seen()


SCENES: dict[str, Callable[[Watch], Awaitable[None]]] = {
    "that the client closes": _client_closes,
    "that the server closes": _server_closes,
    "that breaks": _link_breaks,
    "whose handler raises": _handler_raises,
    "that is drained": _drain,
    "that is cancelled": _cancel,
    "beside others": _many,
    "that is refused": _requests,
}
