"""A server of topics and calls in a few lines, by docs/reference/wire.md alone.

It can forget, refuse, leave out and stall on command, which the real one does not.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import trio

import trioweb
from trioweb.toolkit.wire import JSON, Call, Error, Event, Notify, Result, WireMessage


class Topic:
    """A history. Offsets count from 1; a topic without one gives every event the offset 0."""

    def __init__(self, name: str, *, keeps: bool = True) -> None:
        self.name = name
        self.keeps = keeps
        self.epoch = 1
        self.log: list[Event] = []
        #: How many of the oldest are gone.
        self.gone = 0

    @property
    def position(self) -> dict[str, Any] | None:
        return {"epoch": f"e{self.epoch}", "offset": len(self.log)} if self.keeps else None

    def append(self, data: Any) -> Event:
        event = Event(self.name, len(self.log) + 1 if self.keeps else 0, data)
        if self.keeps:
            self.log.append(event)
        return event

    def after(self, position: dict[str, Any] | None) -> list[Event] | None:
        """Return what came after a position; None if something of it is lost."""
        if not self.keeps or position is None or position["epoch"] != f"e{self.epoch}":
            return None
        return None if position["offset"] < self.gone else self.log[position["offset"] :]


class FakeHub:
    """Give `serve` to `trioweb.open_server`."""

    def __init__(self, *, answer: int = 1000) -> None:
        self.topics: dict[str, Topic] = {}
        #: The most events in one answer.
        self.answer = answer
        #: Codes with which the next calls of a method are refused.
        self.refusals: defaultdict[str, list[str]] = defaultdict(list)
        #: Methods whose calls get no answer.
        self.silent: set[str] = set()
        #: How often each method was called, and how often it ran for its key.
        self.calls: Counter[str] = Counter()
        self.runs: Counter[str] = Counter()
        self.notified: list[Any] = []
        #: What the next call of a method is answered, instead of its result.
        self.odd: dict[str, Any] = {}
        #: Topics whose events are left out; the number is told when they are taken out of here.
        self.omitted: dict[str, int] = {}
        self.connections: dict[trioweb.WebSocket, set[str]] = {}
        self._out: dict[trioweb.WebSocket, trio.MemorySendChannel[WireMessage]] = {}
        self._results: dict[str, Any] = {}

    async def serve(self, ws: trioweb.WebSocket) -> None:
        self.connections[ws] = set()
        self._out[ws], queue = trio.open_memory_channel[WireMessage](math.inf)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._send, ws, queue)
                async for message in ws:
                    self._take(ws, JSON.decode(message))
                nursery.cancel_scope.cancel()
        finally:
            del self.connections[ws], self._out[ws]

    async def _send(
        self, ws: trioweb.WebSocket, queue: trio.MemoryReceiveChannel[WireMessage]
    ) -> None:
        async for message in queue:
            await ws.send(JSON.encode(message))

    def topic(self, name: str) -> Topic:
        return self.topics.setdefault(name, Topic(name, keeps=not name.startswith("live")))

    def publish(self, name: str, data: Any) -> dict[str, Any] | None:
        topic = self.topic(name)
        event = topic.append(data)
        if name in self.omitted:
            self.omitted[name] += 1
        else:
            self.tell(name, event)
        return topic.position

    def tell(self, name: str, message: WireMessage) -> None:
        """Send something to all who are subscribed to a topic."""
        for ws, names in self.connections.items():
            if name in names:
                self._out[ws].send_nowait(message)

    def say(self, ws: trioweb.WebSocket, message: WireMessage) -> None:
        """Send something to one of them."""
        self._out[ws].send_nowait(message)

    def omit(self, name: str) -> None:
        self.omitted[name] = 0

    def admit(self, name: str) -> None:
        """Leave nothing out any more, and say how much was left out."""
        if missed := self.omitted.pop(name, 0):
            self.tell(name, Notify("gap", {"topic": name, "missed": missed}))

    def forget(self, name: str) -> None:
        """Lose a topic: its next numbering has another epoch."""
        topic = self.topic(name)
        topic.epoch, topic.log, topic.gone = topic.epoch + 1, [], 0
        self.expel(name, "conflict")

    def expel(self, name: str, code: str) -> None:
        self.tell(name, Notify("unsubscribed", {"topic": name, "code": code, "message": "gone"}))
        for names in self.connections.values():
            names.discard(name)

    def _take(self, ws: trioweb.WebSocket, message: WireMessage) -> None:
        if isinstance(message, Notify):
            self.notified.append(message.params)
            if message.method == "unsubscribe":
                self.connections[ws].discard(message.params["topic"])
        elif isinstance(message, Call):
            self.calls[message.method] += 1
            if self.refusals[message.method]:
                code = self.refusals[message.method].pop(0)
                self._out[ws].send_nowait(Error(id=message.id, code=code))
                return
            if message.key is not None and message.key in self._results:
                value = self._results[message.key]
            else:
                self.runs[message.method] += 1
                value = self._run(ws, message.method, message.params)
                if message.key is not None:
                    self._results[message.key] = value
            value = self.odd.pop(message.method, value)
            if message.method not in self.silent:
                self._out[ws].send_nowait(Result(message.id, value))

    def _run(self, ws: trioweb.WebSocket, method: str, params: Any) -> Any:
        if method == "publish":
            return self.publish(params["topic"], params["data"])
        if method in ("subscribe", "unsubscribe"):
            subscribed = params["topic"] in self.connections[ws]
            assert subscribed is (method == "unsubscribe"), "subscribed twice, or not at all"
        if method == "subscribe":
            self.connections[ws].add(params["topic"])
            return self._subscribe(self.topic(params["topic"]), params)
        if method == "unsubscribe":
            self.connections[ws].discard(params["topic"])
            return None
        if method == "history":
            return self._history(self.topic(params["topic"]), params)
        return params

    def _subscribe(self, topic: Topic, params: dict[str, Any]) -> dict[str, Any]:
        position = params.get("position")
        if position is None:
            newest = topic.log[-1:] if params.get("recover") == "latest" else []
            return self._answer(topic, None, newest)
        events = topic.after(position)
        if params.get("recover") == "latest":
            recovered, events = events is not None and len(events) < 2, topic.log[-1:]
            if position == topic.position:
                events = []
        else:
            limit = min(self.answer, params.get("limit") or math.inf)
            recovered = events is not None and len(events) <= limit
            events = events if recovered else []
        return self._answer(topic, recovered, events or [])

    def _history(self, topic: Topic, params: dict[str, Any]) -> dict[str, Any]:
        position, limit = params.get("position"), min(self.answer, params["limit"])
        if position is None:
            return self._answer(topic, True, topic.log[topic.gone :][-limit:])
        events = topic.after(position)
        recovered = events is not None
        if events is None and position["epoch"] == f"e{topic.epoch}":
            events = topic.log[topic.gone :]
        return self._answer(topic, recovered, (events or [])[:limit])

    def _answer(
        self, topic: Topic, recovered: bool | None, events: Sequence[Event]
    ) -> dict[str, Any]:
        return {
            "position": topic.position,
            "recovered": recovered,
            "events": [{"offset": event.offset, "data": event.data} for event in events],
        }
