"""Programs that tests run beside themselves, and the ports that those listen on."""

from __future__ import annotations

import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio


def free_port() -> int:
    """Return a port of loopback that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


async def until_listening(process: trio.Process, port: int, seconds: float = 20) -> None:
    """Wait until a program listens: it tells nobody that it is ready, so ask until it answers."""
    with trio.fail_after(seconds):
        while True:
            assert process.poll() is None, "the program ended before it listened"
            try:
                stream = await trio.open_tcp_stream("127.0.0.1", port)
            except OSError:
                await trio.sleep(0.02)
            else:
                await stream.aclose()
                return


@asynccontextmanager
async def running(command: list[str], port: int) -> AsyncIterator[None]:
    """Run a program for the length of a block, which begins when the port is open."""
    process = await trio.lowlevel.open_process(command)
    try:
        await until_listening(process, port)
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        with trio.move_on_after(5, shield=True) as scope:
            await process.wait()
        if scope.cancelled_caught:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()
