"""What is published: packed once, and encoded once for all subscribers of one format."""

from __future__ import annotations

from typing import Any

import msgspec

from ..types import Message
from .wire import Event, Format, Notify

__all__ = ["Publication", "gap_notice", "pack", "unpack", "unsubscribed_notice"]

#: Lists in lists that are taken without a closer look.
_NESTED = 200
#: How much deeper data must be sayable than it is: it is read again inside of answers, on other
#: nodes, and further down the stack.
_MARGIN = 200

_packer = msgspec.msgpack.Encoder()
_json = msgspec.json.Encoder()


def pack(data: Any) -> bytes:
    """Return data as the MessagePack that stores and brokers hold.

    Raises `TypeError` for what cannot be said in both formats: whoever subscribes reads either.
    Also for what is nested so deep that it can be said here, and perhaps not elsewhere.
    """
    try:
        text = _json.encode(data)
        if text.count(b"[") + text.count(b"{") > _NESTED:
            nested = data
            for _ in range(_MARGIN):
                nested = [nested]
            _json.encode(nested)
        return _packer.encode(data)
    except (OverflowError, ValueError, RecursionError) as error:
        raise TypeError(f"not a value that can be published: {error}") from error


def unpack(packed: bytes) -> Any:
    """Return the data in what `pack` made."""
    return msgspec.msgpack.decode(packed)


class Publication:
    """One event of a topic on its way to many.

    ``number`` counts the topic's events; ``offset`` is what subscribers see of it, 0 where the
    topic keeps no history.
    """

    __slots__ = ("_messages", "number", "offset", "packed", "topic")

    def __init__(self, topic: str, number: int, packed: bytes, *, kept: bool) -> None:
        self.topic = topic
        self.number = number
        self.offset = number if kept else 0
        self.packed = packed
        self._messages: dict[Format, Message] = {}

    def message(self, format_: Format) -> Message:
        """Return the `Event` in a format, encoded at the first call."""
        message = self._messages.get(format_)
        if message is None:
            event = Event(self.topic, self.offset, unpack(self.packed))
            message = self._messages[format_] = format_.encode(event)
        return message


def gap_notice(topic: str, format_: Format, missed: int) -> Message:
    """Return the message that tells a subscriber of events that are missing here."""
    return format_.encode(Notify("gap", {"topic": topic, "missed": missed}))


def unsubscribed_notice(topic: str, format_: Format, code: str, message: str) -> Message:
    """Return the message that tells a subscriber that no events come any more."""
    params = {"topic": topic, "code": code, "message": message}
    return format_.encode(Notify("unsubscribed", params))
