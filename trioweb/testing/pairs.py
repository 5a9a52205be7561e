"""A connected client and server, without a socket."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, NamedTuple

import trio

from ..client import connect
from ..connection import WebSocket
from ..server import ServerOptions, open_server
from .faults import Conditions
from .network import Link, VirtualNetwork

__all__ = ["Pair", "open_pair"]


class Pair(NamedTuple):
    """Both ends of one connection, and the link between them."""

    client: WebSocket
    server: WebSocket
    link: Link


@asynccontextmanager
async def open_pair(
    *,
    conditions: Conditions = Conditions(),
    seed: int = 0,
    network: VirtualNetwork | None = None,
    client: Mapping[str, Any] | None = None,
    server: ServerOptions | None = None,
) -> AsyncGenerator[Pair]:
    """Connect a client and a server in memory for the length of a block, which gets the `Pair`.

    They are what `trioweb.connect` and `trioweb.open_server` make, with the options of those in
    ``client`` and ``server``, on the hosts ``"client"`` and ``"server"`` of a network of their
    own (with ``conditions`` and ``seed``) or of the given one. At the end both close; what the
    block raises comes out as it is. Raises what `trioweb.connect` raises.
    """
    if network is None:
        network = VirtualNetwork(seed, conditions=conditions)
    accepted, connections = trio.open_memory_channel[WebSocket](1)
    done = trio.Event()

    async def stay(ws: WebSocket) -> None:
        await accepted.send(ws)
        await done.wait()

    async with AsyncExitStack() as stack:
        # Only entering happens on the hosts: the block runs where its caller does.
        with network.host("server"):
            running = await stack.enter_async_context(open_server(stay, 0, **(server or {})))
        with network.host("client"):
            ws = await stack.enter_async_context(connect(running.url, **(client or {})))
        stack.callback(done.set)
        yield Pair(ws, await connections.receive(), network.link("client", "server"))
