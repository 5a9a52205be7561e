"""The interfaces that plug-ins implement. They depend on the vocabulary alone."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from .types import Close, Message, Request, Response

__all__ = ["Codec", "Connection", "Observer"]


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
