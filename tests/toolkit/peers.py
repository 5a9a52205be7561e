"""Peers at both ends of a connection, whichever kind it is."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import pytest
import trio

from tests.channels import channel_pair
from tests.helpers import guard
from trioweb import Message
from trioweb.testing import Conditions, no_orphans, open_pair
from trioweb.toolkit.rpc import JSON, MSGPACK, Methods, Peer, open_peer
from trioweb.toolkit.wire import WireMessage

KINDS = ("memory", "eager", "websocket")
on_every_kind = pytest.mark.parametrize("kind", KINDS)


@asynccontextmanager
async def channels(
    kind: str, conditions: Conditions | None = None
) -> AsyncGenerator[tuple[Any, Any, Any]]:
    if kind == "websocket":
        async with open_pair(conditions=conditions) as pair:
            yield pair.client, pair.server, pair.link
    else:
        yield *channel_pair(0 if kind == "memory" else 8, eager=kind == "eager"), None


class Peers(NamedTuple):
    """What the caller has of the callee, and the reverse."""

    caller: Peer
    callee: Peer
    #: That of a WebSocket, for faults.
    link: Any


@asynccontextmanager
async def open_peers(
    kind: str = "eager",
    methods: Methods | None = None,
    *,
    back: Methods | None = None,
    conditions: Conditions | None = None,
    **options: Any,
) -> AsyncGenerator[Peers]:
    """Open both ends; the callee has ``methods``, the caller those called ``back``.

    They must leave nothing behind.
    """
    with guard():
        async with channels(kind, conditions) as (here, there, link), no_orphans():
            async with (
                open_peer(there, methods, format=MSGPACK, **options) as callee,
                open_peer(here, back, **options) as caller,
            ):
                yield Peers(caller, callee, link)


class Stranger:
    """A peer by hand, which says and hears messages of the wire."""

    def __init__(self, channel: trio.abc.Channel[Message]) -> None:
        self.channel = channel

    async def say(self, *messages: WireMessage | Message) -> None:
        for one in messages:
            message = one if isinstance(one, (str, bytes)) else JSON.encode(one)
            await self.channel.send(message)

    async def hear(self) -> Any:
        return JSON.decode(await self.channel.receive())


@asynccontextmanager
async def open_stranger(
    kind: str = "eager", methods: Methods | None = None, **options: Any
) -> AsyncGenerator[tuple[Stranger, Peer]]:
    """Open one end, and be the other."""
    with guard():
        async with channels(kind) as (here, there, _), no_orphans():
            async with open_peer(there, methods, **options) as peer:
                yield Stranger(here), peer
