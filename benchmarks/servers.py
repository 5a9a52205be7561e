"""The servers to compare, each with its library's defaults, one in a process.

``python -m benchmarks.servers NAME`` listens on a free port of 127.0.0.1, prints one line of JSON
with that port (and, for trioweb, which framer runs), and serves until it is killed. It echoes; with
``--batch N`` it sends each message that it gets to all connections, N times within one turn
of its loop, and then gives the loop a turn; with ``--room`` trioweb does so by a room, and with
``--app`` it echoes by types. ``--tls FILE`` names a certificate with its key.

Modules that only a benchmark needs are imported by name: the type checkers run without them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable
from functools import partial
from importlib import import_module
from typing import Any, NamedTuple


class Options(NamedTuple):
    """What a row wants of a server."""

    #: 0: it echoes.
    batch: int = 0
    tls: ssl.SSLContext | None = None
    #: "plain": broadcast by a room. "small": and who reads nothing has small buffers, which are
    #: full within the warm-up.
    room: str = ""
    #: "typed": trioweb echoes by `apps`; "limited": and counts for a rate limit.
    app: str = ""


def announce(port: int, **more: str) -> None:
    """Tell the process that started us where we listen."""
    print(json.dumps({"port": port, **more}), flush=True)


def trioweb_server(options: Options) -> None:
    """Serve with trioweb."""
    import trio

    import trioweb
    from trioweb.toolkit.attach import attach
    from trioweb.toolkit.rooms import Rooms

    server: trioweb.Server
    guard = trioweb.Guard()
    rooms = Rooms()
    small = options.room == "small"
    limits = trioweb.LinkLimits(messages=8) if small else trioweb.LinkLimits()
    outbox = trioweb.Limits(outbox_frames=8) if small else trioweb.Limits()
    policy = trioweb.Policy(trioweb.Overflow.DROP_OLDEST)

    async def echo(ws: trioweb.WebSocket) -> None:
        async for message in ws:
            await ws.send(message)

    async def broadcast(ws: trioweb.WebSocket) -> None:
        async for message in ws:
            for _ in range(options.batch):
                trioweb.broadcast(server.connections, message)
            await trio.lowlevel.checkpoint()

    async def in_room(ws: trioweb.WebSocket) -> None:
        async with (
            attach(ws, limits=limits, policy=policy) as link,
            rooms.joined("all", link) as room,
        ):
            async for message in link:
                for _ in range(options.batch):
                    room.broadcast(message)
                await trio.lowlevel.checkpoint()

    async def main() -> None:
        nonlocal server, guard
        handler: Callable[[trioweb.WebSocket], Awaitable[object]]
        handler = in_room if options.room else broadcast if options.batch else echo
        if options.app:
            from . import apps  # not where the start is measured

            handler = apps.typed()
            guard = apps.GENEROUS if options.app == "limited" else guard
        async with trio.open_nursery() as nursery:
            server = await nursery.start(
                partial(
                    trioweb.serve,
                    handler,
                    0,
                    host="127.0.0.1",
                    ssl_context=options.tls,
                    guard=guard,
                    limits=outbox,
                )
            )
            for listener in server.listeners if small else ():
                assert isinstance(listener, trio.SocketListener)
                # What it accepts has what it has.
                listener.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**14)
            which: Callable[[], str] = getattr(trioweb, "framer", lambda: "pure")
            announce(int(server.url.rstrip("/").rpartition(":")[2]), framer=which())

    trio.run(main)


def trio_websocket_server(options: Options) -> None:
    """Serve with trio-websocket."""
    import trio
    import trio_websocket

    async def echo(request: trio_websocket.WebSocketRequest) -> None:
        connection = await request.accept()
        try:
            while True:
                await connection.send_message(await connection.get_message())
        except trio_websocket.ConnectionClosed:
            pass

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            server = await nursery.start(
                partial(
                    trio_websocket.serve_websocket, echo, "127.0.0.1", 0, ssl_context=options.tls
                )
            )
            announce(server.port)

    trio.run(main)


def websockets_trio_server(options: Options) -> None:
    """Serve with the Trio flavour of websockets."""
    import trio
    from websockets.trio.server import ServerConnection, serve

    async def echo(connection: ServerConnection) -> None:
        async for message in connection:
            await connection.send(message)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            server = await nursery.start(partial(serve, echo, 0, host="127.0.0.1", ssl=options.tls))
            announce(server.listeners[0].socket.getsockname()[1])

    trio.run(main)


def websockets_server(options: Options) -> None:
    """Serve with websockets on asyncio."""
    from websockets.asyncio.server import Server, ServerConnection, broadcast, serve

    server: Server

    async def echo(connection: ServerConnection) -> None:
        async for message in connection:
            await connection.send(message)

    async def to_all(connection: ServerConnection) -> None:
        async for message in connection:
            for _ in range(options.batch):
                broadcast(server.connections, message)
            await asyncio.sleep(0)

    async def main() -> None:
        nonlocal server
        handler = to_all if options.batch else echo
        async with serve(handler, "127.0.0.1", 0, ssl=options.tls) as server:
            announce(next(iter(server.sockets)).getsockname()[1])
            await server.serve_forever()

    asyncio.run(main())


def aiohttp_server(options: Options) -> None:
    """Serve with aiohttp."""
    from aiohttp import WSMsgType, web

    peers: set[web.WebSocketResponse] = set()

    async def handler(request: web.Request) -> web.WebSocketResponse:
        ws = web.WebSocketResponse()
        await ws.prepare(request)
        peers.add(ws)
        try:
            async for message in ws:
                send = ws.send_str if message.type is WSMsgType.TEXT else ws.send_bytes
                if not options.batch:
                    await send(message.data)
                    continue
                for _ in range(options.batch):
                    for peer in list(peers):
                        await peer.send_str(message.data)
                await asyncio.sleep(0)
        finally:
            peers.discard(ws)
        return ws

    async def main() -> None:
        app = web.Application()
        app.router.add_get("/", handler)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=options.tls).start()
        announce(runner.addresses[0][1])
        await asyncio.Event().wait()

    asyncio.run(main())


def picows_server(options: Options) -> None:
    """Serve with picows on uvloop: a callback for each frame, no task; text is not checked."""
    picows: Any = import_module("picows")
    uvloop: Any = import_module("uvloop")
    peers: set[Any] = set()
    close = picows.WSMsgType.CLOSE

    def on_frame(_: object, transport: Any, frame: Any) -> None:
        if frame.msg_type == close:
            transport.send_close(frame.get_close_code(), frame.get_close_message())
            transport.disconnect()
        elif not options.batch:
            transport.send(frame.msg_type, frame.get_payload_as_memoryview())
        else:
            message = frame.get_payload_as_bytes()
            for _ in range(options.batch):
                for peer in peers:
                    peer.send(frame.msg_type, message)

    def connected(_: object, transport: Any) -> None:
        peers.add(transport)

    def gone(_: object, transport: Any) -> None:
        peers.discard(transport)

    callbacks: dict[str, Any] = {"on_ws_frame": on_frame}
    if options.batch:
        callbacks |= {"on_ws_connected": connected, "on_ws_disconnected": gone}
    listener: Any = type("Listener", (picows.WSListener,), callbacks)

    def accept(_: object) -> Any:
        return listener()

    async def main() -> None:
        server = await picows.ws_create_server(accept, "127.0.0.1", 0, ssl=options.tls)
        announce(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    uvloop.run(main())


def raw_server(options: Options) -> None:
    """Echo bytes with Trio's streams: what no WebSocket library that reads so can pass."""
    import trio

    async def echo(stream: trio.abc.Stream) -> None:
        try:
            async for data in stream:
                await stream.send_all(data)
        except trio.BrokenResourceError:
            pass

    async def main() -> None:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        announce(listeners[0].socket.getsockname()[1])
        if options.tls is None:
            await trio.serve_listeners(echo, listeners)
        else:
            tls = [trio.SSLListener(one, options.tls) for one in listeners]
            await trio.serve_listeners(echo, tls)

    trio.run(main)


#: Those of Python; `servers.mjs` is Node's.
SERVERS: dict[str, Callable[[Options], None]] = {
    "trioweb": trioweb_server,
    "trio-websocket": trio_websocket_server,
    "websockets.trio": websockets_trio_server,
    "websockets": websockets_server,
    "aiohttp": aiohttp_server,
    "picows": picows_server,
    "raw": raw_server,
}


def main() -> None:
    """Parse the options and serve."""
    parser = argparse.ArgumentParser(description="Serve until killed.")
    parser.add_argument("name", choices=SERVERS)
    parser.add_argument("--batch", type=int, default=0)
    parser.add_argument("--tls", metavar="FILE")
    parser.add_argument("--app", choices=["typed", "limited"], default="")
    parser.add_argument("--room", choices=["plain", "small"], default="")
    options = parser.parse_args()
    context = None
    if options.tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(options.tls)
    logging.disable()  # how a library words the end of an abandoned connection is not the matter
    SERVERS[options.name](Options(options.batch, context, options.room, options.app))


if __name__ == "__main__":
    main()
