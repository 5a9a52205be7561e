"""Subscribers of a hub, over channels in memory."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import trio

from tests.channels import channel_pair
from tests.helpers import guard
from trioweb.toolkit.pubsub import Hub
from trioweb.toolkit.rpc import JSON, Event, Methods, Peer, open_peer, serve_peer


class Subscriber:
    """A peer that writes down what it hears, in order: events and notices."""

    def __init__(self) -> None:
        self.peer: Peer
        #: ``(offset, data)`` for an event, ``(method, params)`` for a notice.
        self.heard: list[tuple[Any, Any]] = []
        #: The event's topics, in the same order.
        self.topics: list[str] = []
        self._heard = trio.Event()
        self.methods = Methods()
        for name in ("gap", "join", "leave", "unsubscribed"):
            self.methods.add(name, self._notice(name))

    def _notice(self, name: str) -> Any:
        def take(peer: Peer, params: Any) -> None:
            self._put((name, params))

        return take

    def on_event(self, event: Event) -> None:
        self.topics.append(event.topic)
        self._put((event.offset, event.data))

    def _put(self, what: tuple[Any, Any]) -> None:
        self.heard.append(what)
        self._heard.set()

    async def hear(self, count: int) -> list[tuple[Any, Any]]:
        """Wait until it has heard so much in all, and return it."""
        with trio.fail_after(10):
            while len(self.heard) < count:
                self._heard = trio.Event()
                await self._heard.wait()
        return self.heard

    @property
    def events(self) -> list[Any]:
        return [data for offset, data in self.heard if isinstance(offset, int)]

    async def subscribe(self, topic: str = "a", position: Any = None, **params: Any) -> Any:
        if position is not None:
            params["position"] = position
        answer = await self.peer.call("subscribe", {"topic": topic, **params})
        return {"position": None, "recovered": None, "events": [], **answer}


@asynccontextmanager
async def subscriber(
    hub: Hub, *, size: float = 1000, eager: bool = True, format_: Any = JSON, principal: Any = None
) -> AsyncGenerator[Subscriber]:
    """Connect a subscriber to a hub; leaving the block cuts the connection."""
    here, there = channel_pair(size, eager=eager)
    one = Subscriber()

    async def serve() -> None:
        try:
            await serve_peer(there, hub.methods, format=format_, principal=principal)
        except trio.BrokenResourceError:
            pass  # it was cut
        finally:
            await there.aclose()

    with guard():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            async with open_peer(here, one.methods, on_event=one.on_event, format=format_) as peer:
                one.peer = peer
                yield one
            await here.aclose()
