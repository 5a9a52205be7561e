"""A connected client and server, without a socket."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import trio

from ..client import connect
from ..connection import WebSocket
from ..nursery import OwnNursery
from ..options import ServerOptions
from ..server import open_server
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
    network: VirtualNetwork | None = None,
    conditions: Conditions | None = None,
    client: Mapping[str, Any] | None = None,
    server: ServerOptions | None = None,
) -> AsyncGenerator[Pair]:
    """Connect a client and a server in memory for the length of a block, which gets the `Pair`.

    They are what `trioweb.connect` and `trioweb.open_server` make, with the options of those in
    ``client`` and ``server``, on the hosts ``"client"`` and ``"server"`` of the given network or
    one of their own; ``conditions`` are injected into the link. At the end both close; what the
    block raises comes out as it is. Raises what `trioweb.connect` raises.
    """
    network = network or VirtualNetwork()
    over, closed = trio.Event(), trio.Event()

    async def hold(task_status: trio.TaskStatus[Pair]) -> None:
        # A task of its own: the block stays on the host that its caller is on.
        accepted, connections = trio.open_memory_channel[WebSocket](1)

        async def stay(ws: WebSocket) -> None:
            await accepted.send(ws)
            await over.wait()

        with network.host("client"), network.host("server"):
            link = network.link("client", "server")
            if conditions is not None:
                link.inject(conditions)
            async with open_server(stay, 0, **(server or {})) as running:
                with network.host("client"):
                    async with connect(running.url, **(client or {})) as ws:
                        task_status.started(Pair(ws, await connections.receive(), link))
                        await over.wait()
        closed.set()

    async with OwnNursery() as nursery:
        pair: Pair = await nursery.start(hold, name="open_pair")
        yield pair
        over.set()
        await closed.wait()
