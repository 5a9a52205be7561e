"""websockets on asyncio as a server: ``DEFLATE PEM``; prints its port, and how clients left."""

from __future__ import annotations

import asyncio
import json
import ssl
import sys

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

DEFLATE, PEM = sys.argv[1:]


async def handle(ws: ServerConnection) -> None:
    assert ws.request is not None
    path = ws.request.path
    try:
        if path == "/echo":
            async for message in ws:
                await ws.send(message)
        elif path == "/fragments":
            await ws.send(["grö", "", "ßer ", "als", " 😀"])
        elif path == "/close":
            await ws.close(4001, "bye, größer")
        elif path == "/ping":
            await (await ws.ping(b"pinged"))
            await ws.send("pinged")
        await ws.wait_closed()
    except ConnectionClosed:
        pass
    print(json.dumps([ws.close_code, ws.close_reason]), flush=True)


async def main() -> None:
    tls = None
    if PEM:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(PEM)
    compression = "deflate" if DEFLATE == "true" else None
    async with serve(
        handle, "127.0.0.1", 0, ssl=tls, compression=compression, max_size=None
    ) as server:
        print(next(iter(server.sockets)).getsockname()[1], flush=True)
        await server.serve_forever()


asyncio.run(main())
