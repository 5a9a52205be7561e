"""A server to attack, in a process of its own: ``python -m tests.hostile.target --help``.

Prints its port when it serves. All servers echo, and close at once on ``/bye``. They
have the same limit on messages and, where they have the option, deadlines of one or two seconds and
permessage-deflate; all else is as they come.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import gc
import logging
import ssl
from collections.abc import Callable
from typing import Any

import trio

import trioweb
from tests.helpers import echo
from tests.hostile.frames import LIMIT
from trioweb.testing import running_tasks

__all__ = ["HURRY", "SERVERS"]

#: Seconds for a handshake, and for each other deadline: nobody wants to wait for the real ones.
HANDSHAKE = 2
HURRY = 1


async def _trioweb(context: ssl.SSLContext | None) -> None:
    async def bye(ws: trioweb.WebSocket) -> None:
        """Close at once."""

    async def rest(request: trioweb.Request) -> trioweb.Response | None:
        if request.path == "/rest":
            gc.collect()
            ctypes.CDLL(None).malloc_trim(0)  # freed pages would count as memory in use
            return trioweb.Response.make(200, str(len(list(running_tasks()))))
        return None if request.upgrade else trioweb.Response.make(426, "this is a WebSocket\n")

    async with trio.open_nursery() as nursery:
        server: trioweb.Server = await nursery.start(
            lambda task_status: trioweb.serve(
                trioweb.Router({"/": echo, "/bye": bye}),
                0,
                host="127.0.0.1",
                ssl_context=context,
                on_request=rest,
                limits=trioweb.Limits(max_message=LIMIT),
                timeouts=trioweb.Timeouts(handshake=HANDSHAKE, write=HURRY, close=HURRY),
                heartbeat=trioweb.Heartbeat(HURRY, HURRY),
                deflate=trioweb.Deflate(),
                task_status=task_status,
            )
        )
        print(server.url.rpartition(":")[2], flush=True)


async def _trio_websocket(context: ssl.SSLContext | None) -> None:
    import trio_websocket

    async def handler(request: trio_websocket.WebSocketRequest) -> None:
        try:
            ws = await request.accept()
            if request.path == "/bye":
                return
            while True:
                await ws.send_message(await ws.get_message())
        except trio_websocket.ConnectionClosed:
            pass

    async with trio.open_nursery() as nursery:
        server = await nursery.start(
            lambda task_status: trio_websocket.serve_websocket(
                handler,
                "127.0.0.1",
                0,
                context,
                max_message_size=LIMIT,
                connect_timeout=HANDSHAKE,
                disconnect_timeout=HANDSHAKE,
                task_status=task_status,
            )
        )
        print(server.port, flush=True)


async def _websockets(context: ssl.SSLContext | None) -> None:
    from websockets.trio.server import ServerConnection, serve

    async def handler(ws: ServerConnection) -> None:
        if ws.request is not None and ws.request.path == "/bye":
            return
        async for message in ws:
            await ws.send(message)

    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    print(listeners[0].socket.getsockname()[1], flush=True)
    await serve(
        handler,
        listeners=listeners,
        ssl=context,
        max_size=LIMIT,
        open_timeout=HANDSHAKE,
        close_timeout=HURRY,
        ping_interval=HURRY,
        ping_timeout=HURRY,
    )


async def _aiohttp(context: ssl.SSLContext | None) -> None:
    from aiohttp import WSMsgType, web

    async def handler(request: web.Request) -> web.WebSocketResponse:
        ws = web.WebSocketResponse(timeout=HURRY, heartbeat=HURRY, max_msg_size=LIMIT + 1)
        await ws.prepare(request)
        if request.path != "/bye":
            async for message in ws:
                if message.type == WSMsgType.TEXT:
                    await ws.send_str(message.data)
                elif message.type == WSMsgType.BINARY:
                    await ws.send_bytes(message.data)
        await ws.close()
        return ws

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, keepalive_timeout=HURRY, lingering_time=HURRY, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
    await site.start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


#: Each takes the TLS context and never returns.
SERVERS: dict[str, Callable[[ssl.SSLContext | None], Any]] = {
    "trioweb": lambda context: trio.run(_trioweb, context),
    "websockets": lambda context: trio.run(_websockets, context),
    "trio-websocket": lambda context: trio.run(_trio_websocket, context),
    "aiohttp": lambda context: asyncio.run(_aiohttp(context)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--server", choices=SERVERS, default="trioweb")
    parser.add_argument("--certificate", help="a file with a private key and its certificate")
    arguments = parser.parse_args()
    context = None
    if arguments.certificate:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(arguments.certificate)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s")
    SERVERS[arguments.server](context)


if __name__ == "__main__":
    main()
