"""What the tests with real programs share: our server's paths, child processes, what is missing.

A program at the other end runs in a process of its own. As a client it is told a URL, goes
through all of `our_server`, and writes what it saw as one line of JSON; as a server it writes
its port, and after that the code and the reason of each client that leaves.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

import trioweb
from tests.conftest import missing
from tests.helpers import echo, serving

HERE = Path(__file__).parent

FRAGMENTS = "größer als 😀"
DONE = "done, größer"
BYE = "bye, größer"


def program(name: str, package: str = "") -> str:
    """Return the path of a program of this machine."""
    # Debian keeps servers where only root looks.
    path = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
    if path is None:
        missing(f"{name} (`apt install {package or name}`)")
    return path


def python_program(name: str, module: str) -> list[str]:
    """Return the command that runs one of the Python programs beside this file."""
    if importlib.util.find_spec(module) is None:
        missing(f"{module} (`pip install {module}`)")
    return [sys.executable, str(HERE / "python" / name)]


class Lines:
    """The lines that a child process writes."""

    def __init__(self, stream: trio.abc.ReceiveStream) -> None:
        self._stream = stream
        self._data = b""

    async def next(self) -> str:
        """Return the next line; raises `EOFError` at the end."""
        while b"\n" not in self._data:
            data = await self._stream.receive_some()
            if not data:
                raise EOFError("the program ended")
            self._data += data
        line, _, self._data = self._data.partition(b"\n")
        return line.decode(errors="replace")

    async def until(self, word: str) -> None:
        """Wait for a line with a word in it."""
        while word not in await self.next():
            pass


@asynccontextmanager
async def running(
    command: Sequence[str],
    *,
    env: dict[str, str] | None = None,
    stderr: bool = False,
    pass_fds: Sequence[int] = (),
) -> AsyncIterator[Lines]:
    """Run a program for the length of a block, which gets its lines, and end it by its id."""
    pipe: dict[str, Any] = {"stderr" if stderr else "stdout": subprocess.PIPE}
    start = partial(
        trio.run_process,
        command,
        env=os.environ | (env or {}),
        check=False,
        pass_fds=pass_fds,
        **pipe,
    )
    async with trio.open_nursery() as nursery:
        process: trio.Process = await nursery.start(start)
        stream = process.stderr if stderr else process.stdout
        assert stream is not None
        async with stream:
            yield Lines(stream)
        nursery.cancel_scope.cancel()


async def output_of(
    command: Sequence[str], *, env: dict[str, str] | None = None, stdin: bytes = b""
) -> bytes:
    """Run a program to its end, which must be a good one, and return what it wrote."""
    done = await trio.run_process(
        command,
        env=os.environ | (env or {}),
        stdin=stdin,
        capture_stdout=True,
        capture_stderr=True,
        check=False,
    )
    assert done.returncode == 0, (done.returncode, done.stderr.decode())
    stdout: bytes = done.stdout
    return stdout


class OurServer:
    """A server of ours with a path for each thing to try, and how its clients left."""

    def __init__(self) -> None:
        self.closes: list[trioweb.Close | None] = []
        self.requests: list[trioweb.Request] = []

    async def handle(self, ws: trioweb.WebSocket) -> None:
        self.requests.append(ws.request)
        if ws.request.path == "/close":
            await ws.aclose(4001, BYE)
            return
        if ws.request.path == "/ping":
            await ws.ping()
            await ws.send("pinged")
        try:
            await echo(ws)
        finally:
            self.closes.append(ws.closed)


@asynccontextmanager
async def our_server(**options: Any) -> AsyncIterator[tuple[trioweb.Server, OurServer]]:
    """Serve `OurServer` for the length of a block."""
    ours = OurServer()
    async with serving(ours.handle, **options) as server:
        yield server, ours


def check_seen(line: bytes, ours: OurServer, *, deflate: bool, fragments: bool = True) -> None:
    """Check what a client program saw of our server, and how it left."""
    seen = json.loads(line)
    assert ("permessage-deflate" in seen.pop("extensions")) is deflate
    expected = {
        "messages": 7,
        "pong": "between",
        "closed": 4000,
        "closedByPeer": [4001, BYE],
        "pinged": "pinged",
    }
    expected |= {"fragments": FRAGMENTS} if fragments else {}
    assert seen == expected, (seen, expected)
    assert ours.closes[0] == trioweb.Close(4000, DONE, by_peer=True), ours.closes


MESSAGES: list[str | bytes] = [
    "hello",
    FRAGMENTS,
    b"\0\1\xff",
    "",
    b"",
    "ab" * 2**19,
    bytes(range(256)) * 2**12,
]


async def try_server(
    url: str, lines: Lines | None = None, *, deflate: bool, **options: Any
) -> None:
    """Go through all that a server, theirs or ours behind a proxy, has at its paths.

    ``lines`` is where theirs says how we left.
    """
    options["deflate"] = trioweb.Deflate() if deflate else None
    async with trioweb.connect(url + "/echo", **options) as ws:
        assert ws.response is not None
        extensions = ws.response.headers.get("Sec-WebSocket-Extensions", "")
        assert ("permessage-deflate" in extensions) is deflate
        for message in MESSAGES:
            await ws.send(message)
            assert await ws.receive() == message
        assert await ws.ping() > 0
        await ws.aclose(4000, DONE)
        assert ws.closed == trioweb.Close(4000, DONE)
    if lines is not None:
        assert json.loads(await lines.next()) == [4000, DONE]
    async with trioweb.connect(url + "/close", **options) as ws:
        with pytest.raises(trioweb.ConnectionBroken) as caught:
            await ws.receive()
        assert caught.value.close == trioweb.Close(4001, BYE, by_peer=True)
    async with trioweb.connect(url + "/ping", **options) as ws:
        assert await ws.receive() == "pinged"
