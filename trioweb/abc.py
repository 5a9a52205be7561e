"""The interfaces that plug-ins implement. They depend on the vocabulary alone."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol, runtime_checkable

from .config import Retention
from .positions import Arrival, Gap, Page, Position
from .types import Close, Message, Request, Response

__all__ = ["Broker", "Codec", "Connection", "Listener", "Observer", "Store"]


class Connection(Protocol):
    """What a plug-in may know of a connection: enough to tell it apart and count on it."""

    @property
    def id(self) -> str: ...
    @property
    def request(self) -> Request: ...
    @property
    def closed(self) -> Close | None: ...


@runtime_checkable
class Codec(Protocol):
    """Turns values into messages and back; synchronous, without state between calls."""

    def encode(self, value: Any, /) -> Message:
        """Return the message for a value, the same each time, and leave the value as it is.

        Raises `TypeError` for a value that it cannot express.
        """
        ...

    def decode(self, message: Message, /) -> Any:
        """Return the value in a message, which comes from a peer and may be anything.

        Raises `ValueError` that names where it is wrong, and nothing else.
        """
        ...


class Observer:
    """Hooks on a server's or a client's connections; override those you need.

    They are plain functions and run inline, in the task where the event happens: they must not
    block. One that raises is logged and does not disturb the connection. Each connection is
    ``opened`` once, and ``ended`` once after that.
    """

    def opened(self, connection: Connection) -> None:
        """Note that the handshake is done."""

    def ended(self, connection: Connection, close: Close) -> None:
        """Note that the connection is over: ``close`` is what its ``closed`` says from now on."""

    def handler_failed(self, connection: Connection, error: BaseException) -> None:
        """Note what a server's handler raised; its connection closes with 1011."""

    def answered(self, request: Request | None, response: Response) -> None:
        """Note a plain response instead of an upgrade; no request if it was not legible."""


@runtime_checkable
class Store(Protocol):
    """Keeps the history of topics, and numbers it: nobody else gives out offsets and epochs.

    A topic needs no creation. The first call that names it begins its numbering with a new epoch,
    a random name that is never used again, and from then on the store keeps epoch and newest
    offset: not for as long as there are entries, but until the topic is removed. A store that
    has lost a topic's newest offset, for whatever reason, begins a new epoch: a number never
    stands for two things.

    Any number of tasks may call at the same time. Topics are text without surrogates. Each
    call delivers a pending cancellation, and raises `trioweb.StoreFailed` for what goes wrong
    below.
    """

    async def append(self, topic: str, data: bytes, /, retention: Retention) -> Position:
        """Keep an entry under the next number, and return that: one step, whoever else appends.

        When this returns, whoever reads gets the entry, also after the process was killed if
        the store is a durable one. An append that raises, `trio.Cancelled` too, has either not
        happened or happened as a whole.

        What is over ``retention`` goes, the oldest first, so that what is kept has no holes: not
        more than ``max_entries``; not more than ``max_bytes`` of data; and each entry at most for
        the ``max_age`` that it was appended with.
        """
        ...

    async def read(
        self, topic: str, /, after: Position | None = None, *, limit: int, max_bytes: int
    ) -> Page:
        """Return a part of the history, and the newest number, both of one moment.

        With ``after``: the oldest entries beyond that position, so the first one's offset is not
        ``after.offset + 1`` where something between is kept no longer; none where the epoch is
        another. Without: the newest entries. In both cases at most ``limit`` of them, 0 for the
        position alone, and as many as fit ``max_bytes``, but one at least where there is one.
        """
        ...

    async def remove(self, topic: str, /) -> None:
        """Forget a topic. Whoever names it next begins a new epoch."""
        ...


@runtime_checkable
class Listener(Protocol):
    """One node's ear at a broker: pull, so that who is slow is slow at the broker.

    One task receives; any task adds and removes.
    """

    async def add(self, topic: str, /) -> None:
        """Hear a topic. What is published after this has returned arrives, or a gap is told."""
        ...

    async def remove(self, topic: str, /) -> None:
        """Hear a topic no longer. Some of it may arrive still."""
        ...

    async def receive(self) -> Arrival | Gap:
        """Wait for the next arrival.

        What one node publishes on a topic arrives in that order, each at most once. Where
        something was lost, because the listener was too slow or the link to the broker broke, a
        `Gap` comes in its place, before anything that was published later. Cancelling loses
        nothing.
        """
        ...


@runtime_checkable
class Broker(Protocol):
    """Carries publications between nodes. It keeps nothing and numbers nothing.

    Topics are any text without surrogates, also what it takes for a pattern or a command itself.
    """

    async def publish(self, topic: str, data: bytes, /) -> None:
        """Have every listener that hears the topic get the data, those of this node too.

        A listener that is too slow never makes this wait: it gets a gap. Raises
        `trioweb.BrokerFailed` where the broker did not take it, or may not have.
        """
        ...

    def listen(self) -> AbstractAsyncContextManager[Listener]:
        """Open an ear that hears no topic yet, for the length of a block.

        A link to the broker that breaks is made anew inside, and told as a `Gap`; only what can
        never work, such as a wrong password, ends ``receive`` with `trioweb.BrokerFailed`.
        """
        ...
