"""aiohttp as a server: ``DEFLATE PEM``; prints its port, and how clients left."""

from __future__ import annotations

import asyncio
import json
import ssl
import sys

from aiohttp import WSMsgType, web

DEFLATE, PEM = sys.argv[1:]


async def handle(request: web.Request) -> web.WebSocketResponse:
    path = request.path
    ws = web.WebSocketResponse(
        compress=DEFLATE == "true", max_msg_size=0, autoping=path != "/ping", autoclose=False
    )
    await ws.prepare(request)
    if path == "/close":
        await ws.close(code=4001, message="bye, größer".encode())
        return ws
    if path == "/ping":
        await ws.ping(b"pinged")
        message = await ws.receive()
        assert message.type is WSMsgType.PONG
        await ws.send_str(bytes(message.data).decode())
    while True:
        message = await ws.receive()
        if message.type is WSMsgType.TEXT:
            await ws.send_str(message.data)
        elif message.type is WSMsgType.BINARY:
            await ws.send_bytes(message.data)
        elif message.type is WSMsgType.CLOSE:
            print(json.dumps([message.data, message.extra]), flush=True)
            await ws.close(code=message.data)
            return ws
        else:
            return ws


async def main() -> None:
    tls = None
    if PEM:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(PEM)
    app = web.Application()
    app.router.add_get("/{path}", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


asyncio.run(main())
