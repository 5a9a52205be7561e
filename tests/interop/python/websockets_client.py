"""websockets on asyncio as a client: ``URL DEFLATE CA``; prints what it saw as JSON."""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import sys
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

URL, DEFLATE, CA = sys.argv[1:]


def opening(path: str) -> connect:
    return connect(
        URL + path,
        ssl=ssl.create_default_context(cafile=CA) if CA else None,
        compression="deflate" if DEFLATE == "true" else None,
        max_size=None,
        proxy=None,
    )


async def closing(ws: ClientConnection) -> list[Any]:
    try:
        raise AssertionError(f"this was not due: {await ws.recv()!r}")
    except ConnectionClosed as closed:
        return [closed.rcvd and closed.rcvd.code, closed.rcvd and closed.rcvd.reason]


async def main() -> None:
    seen: dict[str, Any] = {}
    async with opening("/echo") as ws:
        assert ws.response is not None
        seen["extensions"] = ws.response.headers.get("Sec-WebSocket-Extensions", "")
        messages: list[str | bytes] = ["hello", "größer als 😀", b"\0\1\xff", "", b""]
        messages += ["ab" * 2**19, os.urandom(2**20)]
        for message in messages:
            await ws.send(message)
            assert await ws.recv() == message
        seen["messages"] = len(messages)
        await ws.send(["grö", "", "ßer ", "als", " 😀"])
        seen["fragments"] = await ws.recv()
        await (await ws.ping(b"between"))
        seen["pong"] = "between"
        await ws.close(4000, "done, größer")
        seen["closed"] = ws.close_code
    async with opening("/close") as ws:
        seen["closedByPeer"] = await closing(ws)
    async with opening("/ping") as ws:
        seen["pinged"] = await ws.recv()
    print(json.dumps(seen))


asyncio.run(main())
