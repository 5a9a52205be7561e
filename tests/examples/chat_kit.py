"""What the chat's tests share: a chat that is served, and guests in it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from itertools import count
from typing import Any

import trio

import trioweb
from examples.chat.chat import Chat
from trioweb.abc import Store
from trioweb.stores.memory import MemoryStore
from trioweb.toolkit.rpc import Event, Methods, Peer, open_peer

WORD = "open sesame"


@asynccontextmanager
async def serving(store: Store | None = None) -> AsyncIterator[tuple[Chat, str]]:
    """Serve a chat, and return it with its address."""
    async with (
        Chat(store or MemoryStore(), word=WORD) as chat,
        trioweb.open_server(
            chat.handle, 0, authenticate=trioweb.FirstMessage(chat.check_join)
        ) as server,
    ):
        chat.server = server
        yield chat, server.url


class Guest:
    """Somebody in the chat, who writes down what comes: ``(topic, data)`` or ``(notice, user)``."""

    def __init__(self) -> None:
        self.ws: trioweb.WebSocket
        self.peer: Peer
        self.heard: list[tuple[str, Any]] = []
        self._changed = trio.Event()
        self._keys = count(1)
        self.methods = Methods()
        for name in ("join", "leave"):
            self.methods.add(name, self._notice(name))

    def _notice(self, name: str) -> Callable[[Peer, Any], None]:
        def take(_: Peer, params: Any) -> None:
            self._hear(f"{params['topic']} {name}", params["user"])

        return take

    def on_event(self, event: Event) -> None:
        self._hear(event.topic, event.data)

    def _hear(self, topic: str, data: Any) -> None:
        self.heard.append((topic, data))
        self._changed.set()

    async def until(self, total: int) -> list[tuple[str, Any]]:
        """Wait until so much was heard in all, and return it."""
        with trio.fail_after(10):
            while len(self.heard) < total:
                self._changed = trio.Event()
                await self._changed.wait()
        return self.heard

    @property
    def texts(self) -> list[str]:
        return [data["text"] for _, data in self.heard]

    async def say(self, to: str, text: str, key: str = "") -> None:
        key = key or f"message {next(self._keys)}"
        await self.peer.call("say", {"to": to, "text": text, "key": key})

    async def subscribe(self, *topics: str, **params: Any) -> Any:
        for topic in topics:
            answer = await self.peer.call("subscribe", {"topic": topic, **params})
        return answer

    async def present(self, topic: str) -> dict[str, int]:
        users = (await self.peer.call("presence", {"topic": topic}))["users"]
        return {one["user"]: one["connections"] for one in users}


def join(name: str, key: str = "", word: str = "") -> str:
    """Return the first message of a page."""
    return json.dumps({"name": name, "key": key or f"the secret of {name}", "word": word})


@asynccontextmanager
async def guest(url: str, name: str, key: str = "", word: str = "") -> AsyncIterator[Guest]:
    one = Guest()
    with trio.fail_after(1000):
        async with trioweb.connect(url) as one.ws:
            await one.ws.send(join(name, key, word))
            async with open_peer(one.ws, one.methods, on_event=one.on_event) as one.peer:
                yield one


async def refused(url: str, first: str) -> tuple[int, str]:
    """Return the code and reason that the first message is answered with."""
    async with trioweb.connect(url) as ws:
        await ws.send(first)
        with suppress(trio.BrokenResourceError):
            await ws.receive()
        assert ws.closed is not None
        return ws.closed.code, ws.closed.reason
