"""The servers to compare, each an echo with its library's defaults.

``python -m benchmarks.servers NAME`` serves on a free port of 127.0.0.1 and prints that port.
The load offers no extension, so none compresses.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from typing import Any

import trio

SERVER_CORE, LOAD_CORE = 0, 1


async def trioweb_server() -> None:
    """Echo with trioweb."""
    import trioweb

    async def echo(ws: trioweb.WebSocket) -> None:
        async for message in ws:
            await ws.send(message)

    async with trio.open_nursery() as nursery:
        server = await nursery.start(partial(trioweb.serve, echo, 0, host="127.0.0.1"))
        announce(int(server.url.rstrip("/").rpartition(":")[2]))


async def trio_websocket_server() -> None:
    """Echo with trio-websocket."""
    import trio_websocket

    async def echo(request: trio_websocket.WebSocketRequest) -> None:
        connection = await request.accept()
        try:
            while True:
                await connection.send_message(await connection.get_message())
        except trio_websocket.ConnectionClosed:
            pass

    async with trio.open_nursery() as nursery:
        server = await nursery.start(
            partial(trio_websocket.serve_websocket, echo, "127.0.0.1", 0, ssl_context=None)
        )
        announce(server.port)


async def websockets_server() -> None:
    """Echo with the Trio flavour of websockets."""
    from websockets.trio.server import ServerConnection, serve

    async def echo(connection: ServerConnection) -> None:
        async for message in connection:
            await connection.send(message)

    async with trio.open_nursery() as nursery:
        server = await nursery.start(partial(serve, echo, 0, host="127.0.0.1"))
        announce(server.listeners[0].socket.getsockname()[1])


#: By the name of the distribution: what it is called in the tables, and how it serves.
SERVERS: dict[str, tuple[str, Callable[[], Coroutine[Any, Any, None]]]] = {
    "trioweb": ("trioweb", trioweb_server),
    "websockets": ("websockets.trio", websockets_server),
    "trio-websocket": ("trio-websocket", trio_websocket_server),
}


def title(name: str) -> str:
    """Return a server's name with its version."""
    return f"{SERVERS[name][0]} {version(name)}"


def announce(port: int) -> None:
    """Tell the process that started us where we listen."""
    print(port, flush=True)


def pin(core: int) -> None:
    """Stay on one core, where the system can do that and has so many."""
    if hasattr(os, "sched_setaffinity") and core < (os.cpu_count() or 1):
        os.sched_setaffinity(0, {core})


@contextmanager
def running(name: str) -> Generator[tuple[int, int]]:
    """Run a server in a process of its own, for a block; yields its (process id, port)."""
    command = [sys.executable, "-m", "benchmarks.servers", name]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                raise RuntimeError(f"the {name} server did not start")
            yield process.pid, int(line)
        finally:
            process.kill()


if __name__ == "__main__":
    pin(SERVER_CORE)
    logging.disable()  # how a library words the end of an abandoned connection is not the matter
    trio.run(SERVERS[sys.argv[1]][1])
