"""What a server says of the topics of a session, beside the methods of the application."""

from __future__ import annotations

from typing import Any

from ..errors import CallError
from .methods import Invocation, Method, Methods
from .peer import Peer
from .topics import Topics
from .wire import Count

__all__ = ["SessionMethods"]


class SessionMethods(Methods):
    """The application's methods, and what a server says of its topics."""

    def __init__(self, theirs: Methods, topics: Topics) -> None:
        super().__init__(once=theirs.once)
        self._theirs = theirs
        self._topics = topics
        self.add("gap", self._gap)
        self.add("unsubscribed", self._unsubscribed)

    def _gap(self, _: Peer, topic: str, missed: Count) -> None:
        self._topics.gap(topic, missed)

    def _unsubscribed(self, _: Peer, topic: str, code: str = "", message: str = "") -> None:
        self._topics.unsubscribed(topic, CallError(code, message))

    def find(self, name: str) -> Method | None:
        """Return the method of a name."""
        return super().find(name) if name in self else self._theirs.find(name)

    def has_middleware(self, name: str, /) -> bool:
        """Whether something stands in front of a method: of ours nothing, so they are in order."""
        return name not in self and self._theirs.has_middleware(name)

    async def run(self, invocation: Invocation) -> Any:
        """Run a method, the application's through its middleware."""
        if invocation.method in self:
            return await super().run(invocation)
        return await self._theirs.run(invocation)
