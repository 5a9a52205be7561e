"""A server of topics and calls, by hand: ``wire_server PORT FILE``; publications go to the file.

It says ``ready`` once it listens. The pages that it serves have a policy as strict as can be.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import trio

import trioweb
from trioweb.browser import browser_files
from trioweb.toolkit.wire import (
    JSON,
    MSGPACK,
    Call,
    Cancel,
    Error,
    Event,
    Item,
    More,
    Notify,
    Result,
    WireMessage,
)

EPOCH = "by-hand"


class Failed(Exception):
    """A method has failed as it says."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class Topics:
    """Every topic's history in one file of lines."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._entries: dict[str, list[Any]] = {}
        self.links: set[Link] = set()
        if file.exists():
            for line in file.read_text().splitlines():
                topic, data = json.loads(line)
                self._entries.setdefault(topic, []).append(data)

    def position(self, topic: str) -> dict[str, Any]:
        return {"epoch": EPOCH, "offset": len(self._entries.get(topic, []))}

    def after(self, topic: str, offset: int, limit: int | None) -> list[dict[str, Any]]:
        entries = list(enumerate(self._entries.get(topic, []), 1))[offset:]
        return [{"offset": number, "data": data} for number, data in entries[:limit]]

    def publish(self, topic: str, data: Any) -> dict[str, Any]:
        with self._file.open("a") as file:
            file.write(json.dumps([topic, data]) + "\n")
        self._entries.setdefault(topic, []).append(data)
        position = self.position(topic)
        for link in self.links:
            if topic in link.topics:
                link.send(Event(topic, position["offset"], data))
        return position


class Link:
    """One connection."""

    def __init__(self, ws: trioweb.WebSocket, topics: Topics, nursery: trio.Nursery) -> None:
        self._ws = ws
        self._all = topics
        self._nursery = nursery
        self._format = JSON
        self._running: dict[int, trio.CancelScope] = {}
        self._credit: dict[int, trio.Semaphore] = {}
        self._asked: dict[int, Callable[[WireMessage], None]] = {}
        self.topics: set[str] = set()
        self.user = ws.request.query.get("user", "nobody")

    def send(self, message: WireMessage) -> None:
        with suppress(trioweb.ConnectionEnded):
            self._ws.send_nowait(self._format.encode(message))

    async def run(self) -> None:
        async for message in self._ws:
            self._format = JSON if isinstance(message, str) else MSGPACK
            match self._format.decode(message):
                case Call() as call:
                    if call.method in ("subscribe", "unsubscribe", "publish", "history"):
                        self.send(Result(call.id, getattr(self, call.method)(**call.params)))
                    else:
                        self._nursery.start_soon(self._answer, call)
                case Cancel(id=id_):
                    if id_ in self._running:
                        self._running[id_].cancel()
                case More(id=id_, count=count):
                    for _ in range(count if id_ in self._credit else 0):
                        self._credit[id_].release()
                case Notify(method="leave-me"):
                    await self._ws.aclose(4001)
                case Result(id=id_) | Error(id=int(id_)) as answer:
                    self._asked.pop(id_)(answer)

    # --- topics ------------------------------------------------------------------------------

    def subscribe(
        self, topic: str, position: Any = None, limit: int | None = None
    ) -> dict[str, Any]:
        self.topics.add(topic)
        answer: dict[str, Any] = {"position": self._all.position(topic)}
        if position is not None:
            events = self._all.after(topic, position["offset"], None)
            answer["recovered"] = limit is None or len(events) <= limit
            answer["events"] = events if answer["recovered"] else []
        return answer

    def unsubscribe(self, topic: str) -> None:
        self.topics.discard(topic)

    def publish(self, topic: str, data: Any) -> dict[str, Any]:
        return self._all.publish(topic, data)

    def history(self, topic: str, limit: int, position: Any = None) -> dict[str, Any]:
        now = self._all.position(topic)
        start = max(now["offset"] - limit, 0) if position is None else position["offset"]
        events = self._all.after(topic, start, limit)
        return {"position": now, "recovered": True, "events": events}

    async def _presence(self, topic: str) -> dict[str, Any]:
        users = [link.user for link in self._all.links if topic in link.topics]
        return {"users": [{"user": user, "connections": 1} for user in sorted(users)]}

    # --- methods -----------------------------------------------------------------------------

    async def _answer(self, call: Call) -> None:
        self._credit[call.id] = trio.Semaphore(call.window)
        params = call.params or {}
        methods: dict[str, Callable[[], Awaitable[Any]]] = {
            "add": partial(self._add, **params),
            "back": partial(self._back, call.id, **params),
            "count": partial(self._count, call.id, **params),
            "presence": partial(self._presence, **params),
            "running": self._count_running,
            "sleep": trio.sleep_forever,
        }
        with trio.CancelScope() as scope:
            if call.timeout is not None:
                scope.relative_deadline = call.timeout
            self._running[call.id] = scope
            try:
                if call.method in methods:
                    self.send(Result(call.id, await methods[call.method]()))
                else:
                    self.send(Error(id=call.id, code="unknown-method"))
            except Failed as error:
                self.send(Error(id=call.id, code=error.code, message=error.message))
            finally:
                del self._running[call.id], self._credit[call.id]

    async def _add(self, a: Any, b: int) -> int:
        if not isinstance(a, int):
            raise Failed("invalid", "no number")
        return a + b

    async def _count_running(self) -> int:
        return len(self._running) - 1

    async def _count(self, id_: int, to: int) -> str:
        for number in range(to):
            await self._credit[id_].acquire()
            self.send(Item(id_, number))
        return "done"

    async def _back(self, id_: int, method: str, params: Any) -> Any:
        """Call a method at the peer, and return what it returned."""
        answered = trio.Event()
        answers: list[WireMessage] = []

        def answer(message: WireMessage) -> None:
            answers.append(message)
            answered.set()

        self._asked[id_] = answer
        self.send(Call(id_, method, params, timeout=5))
        await answered.wait()
        (found,) = answers
        if isinstance(found, Error):
            raise Failed(found.code, found.message)
        assert isinstance(found, Result)
        return found.value


async def main(port: int, file: Path) -> None:
    topics = Topics(file)

    async def handle(ws: trioweb.WebSocket) -> None:
        async with trio.open_nursery() as nursery:
            link = Link(ws, topics, nursery)
            topics.links.add(link)
            try:
                await link.run()
            finally:
                topics.links.remove(link)
                nursery.cancel_scope.cancel()

    page = Path(__file__).parent / "page"
    site = trioweb.Site({"/": page, **browser_files()})
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(trioweb.serve, handle, port, on_request=site))
        print("ready", flush=True)


if __name__ == "__main__":
    trio.run(main, int(sys.argv[1]), Path(sys.argv[2]))
