"""A server of topics and calls: ``topics_server PORT DATABASE``.

It says ``ready`` once it listens. The pages that it serves have a policy as strict as can be.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator
from functools import partial
from pathlib import Path
from typing import Any

import trio

import trioweb
from trioweb.browser import browser_files
from trioweb.config import Retention, TopicOptions
from trioweb.stores.sqlite import SQLiteStore
from trioweb.toolkit.pubsub import Hub
from trioweb.toolkit.rpc import JSON, MSGPACK, Methods, Once, Peer, serve_peer

PAGE = Path(__file__).parent / "page"
TOPICS = {
    "live": TopicOptions(),
    "*": TopicOptions(history=Retention(max_entries=1000), presence=True),
}


def calls(once: Once) -> Methods:
    """Return the methods that the pages of the tests call."""
    methods = Methods(once=once)
    asleep: set[object] = set()

    @methods.method
    async def add(peer: Peer, a: int, b: int) -> int:
        return a + b

    @methods.method
    async def sleep(peer: Peer) -> None:
        me = object()
        asleep.add(me)
        try:
            await trio.sleep_forever()
        finally:
            asleep.remove(me)

    @methods("running")
    def count_asleep(peer: Peer) -> int:
        return len(asleep)

    @methods.method
    async def count(peer: Peer, to: int) -> AsyncGenerator[int]:
        for number in range(to):
            yield number

    @methods.method
    async def back(peer: Peer, method: str, params: Any = None) -> Any:
        return await peer.call(method, params, timeout=5)

    @methods.method
    async def back_stream(peer: Peer, to: int) -> list[int]:
        async with peer.stream("count", {"to": to}, item=int, window=4) as items:
            return [item async for item in items]

    @methods("leave-me")
    async def leave_me(peer: Peer) -> None:
        await peer.link.aclose(4001)

    return methods


def authorise(peer: Peer, action: str, topic: str) -> bool:
    """Let everybody do everything, but on one topic."""
    return topic != "secret"


async def main(port: int, database: Path) -> None:
    """Serve until killed."""
    async with (
        Once() as once,
        SQLiteStore(database) as store,
        Hub(
            TOPICS,
            store=store,
            authorise=authorise,
            identify=lambda peer: (peer.principal, None),
            grace=0.2,
        ) as hub,
    ):
        methods = calls(once)
        hub.register(methods)

        async def handle(ws: trioweb.WebSocket) -> None:
            query = ws.request.query
            format_ = MSGPACK if query.get("format") == "msgpack" else JSON
            await serve_peer(ws, methods, format=format_, principal=query.get("user"))

        site = trioweb.Site({"/": PAGE, **browser_files()})
        async with trio.open_nursery() as nursery:
            await nursery.start(partial(trioweb.serve, handle, port, on_request=site))
            print("ready", flush=True)


if __name__ == "__main__":
    trio.run(main, int(sys.argv[1]), Path(sys.argv[2]))
