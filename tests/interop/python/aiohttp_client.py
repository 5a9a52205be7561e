"""aiohttp as a client: ``URL DEFLATE CA``; prints what it saw as JSON."""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import sys
from typing import Any

import aiohttp
from aiohttp import WSMsgType

URL, DEFLATE, CA = sys.argv[1:]


async def main() -> None:
    seen: dict[str, Any] = {}
    tls = ssl.create_default_context(cafile=CA) if CA else True
    url = URL.replace("ws", "http", 1)
    compress = 15 if DEFLATE == "true" else 0
    async with aiohttp.ClientSession() as session:

        def opening(path: str, **options: Any) -> Any:
            return session.ws_connect(
                url + path, ssl=tls, compress=compress, max_msg_size=0, **options
            )

        async with opening("/echo") as ws:
            seen["extensions"] = "permessage-deflate" if ws.compress else ""
            messages: list[str | bytes] = ["hello", "größer als 😀", b"\0\1\xff", "", b""]
            messages += ["ab" * 2**19, os.urandom(2**20)]
            for message in messages:
                if isinstance(message, str):
                    await ws.send_str(message)
                else:
                    await ws.send_bytes(message)
                answer = await ws.receive()
                assert answer.data == message, (len(message), str(answer)[:200])
            seen["messages"] = len(messages)
            await ws.close(code=4000, message="done, größer".encode())
            seen["closed"] = ws.close_code
        async with opening("/close", autoclose=False) as ws:
            message = await ws.receive()
            assert message.type is WSMsgType.CLOSE
            seen["closedByPeer"] = [message.data, message.extra]
        async with opening("/ping") as ws:
            seen["pinged"] = (await ws.receive()).data
        async with opening("/echo", autoping=False) as ws:
            await ws.ping(b"between")
            message = await ws.receive()
            assert message.type is WSMsgType.PONG
            seen["pong"] = bytes(message.data).decode()
    print(json.dumps(seen))


asyncio.run(main())
