"""The messages of the toolkit's wire protocol, in JSON and in MessagePack.

What they mean stands in :doc:`/reference/wire`. Each is a frozen `msgspec.Struct`; a field that has
its default is left out. `JSON` and `MSGPACK` write one of the two and understand both, so either
is a `trioweb.abc.Codec`.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias

import msgspec
from msgspec import Meta

from ..codecs.json import Json
from ..codecs.msgpack import MsgPack
from ..errors import InvalidMessage
from ..types import Message

__all__ = [
    "JSON",
    "MSGPACK",
    "Call",
    "Cancel",
    "Count",
    "Error",
    "Event",
    "Format",
    "Item",
    "Malformed",
    "More",
    "Notify",
    "Result",
    "WireMessage",
    "convert",
]

#: The number of a call, chosen by its caller: from 1 on, and exact in JavaScript.
Id: TypeAlias = Annotated[int, Meta(ge=1, lt=2**53)]
#: How many items, or which offset.
Count: TypeAlias = Annotated[int, Meta(ge=0, lt=2**53)]
#: Long enough for any random name; a key is kept for as long as its result is.
Key: TypeAlias = Annotated[str, Meta(min_length=1, max_length=200)]


class _Struct(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="type"):
    """What all messages have in common."""


class Call(_Struct, frozen=True, tag="call"):
    """Run a method."""

    id: Id
    method: str
    params: Any = None
    #: Seconds until the caller gives up; None: it waits for ever.
    timeout: Annotated[float, Meta(ge=0)] | None = None
    #: The same call again is answered with the first one's result.
    key: Key | None = None
    #: How many items may come before `More`; 0: the caller wants no stream.
    window: Count = 0


class Cancel(_Struct, frozen=True, tag="cancel"):
    """The caller gives up."""

    id: Id


class Result(_Struct, frozen=True, tag="result"):
    """The value of a call, or the end of its stream."""

    id: Id
    value: Any = None


class Item(_Struct, frozen=True, tag="item"):
    """One item of a stream."""

    id: Id
    value: Any = None


class More(_Struct, frozen=True, tag="more"):
    """The caller takes so many more items."""

    id: Id
    count: Count


class Error(_Struct, frozen=True, kw_only=True, tag="error"):
    """A call has failed; without ``id``, a message could not be understood."""

    id: Id | None = None
    code: str
    message: str = ""
    path: str | None = None
    data: Any = None


class Notify(_Struct, frozen=True, tag="notify"):
    """As a call, without an answer."""

    method: str
    params: Any = None


class Event(_Struct, frozen=True, tag="event"):
    """A publication on a topic; ``offset`` is 0 where the topic keeps no history."""

    topic: str
    offset: Count = 0
    data: Any = None


WireMessage: TypeAlias = Call | Cancel | Result | Item | More | Error | Notify | Event


class Malformed(InvalidMessage):
    """A message is none of the protocol's.

    ``answer`` is the `Error` that says so to the peer: it bears an id where the message was a
    call with a legible one. ``call`` is the id of our own call that the message was about, so
    that it does not wait for what has come already.
    """

    def __init__(self, answer: Error, call: int | None = None) -> None:
        super().__init__(answer.message, path=answer.path or "$", code=answer.code)
        self.answer = answer
        self.call = call


class Format:
    """Writes messages in one format, and reads both; stateless, so all peers share it."""

    __slots__ = ("_codec", "name")

    def __init__(self, name: str, codec: Json[WireMessage] | MsgPack[WireMessage]) -> None:
        self.name = name
        self._codec = codec

    def __repr__(self) -> str:
        return f"<Format {self.name}>"

    def encode(self, message: WireMessage, /) -> Message:
        """Return the message as text (JSON) or bytes (MessagePack).

        Raises `TypeError` for a value that the format cannot express: an object of a type unknown
        to msgspec, a lone surrogate, a value that holds itself, in MessagePack an integer beyond
        64 bits.
        """
        return self._codec.encode(message)

    def decode(self, message: Message, /) -> WireMessage:
        """Return what a peer said, be it text or bytes. Raises `Malformed`, and nothing else."""
        try:
            return (_text if isinstance(message, str) else _binary).decode(message)
        except InvalidMessage as error:
            raise _malformed(message, error) from None


_text: Json[WireMessage] = Json(WireMessage)
_binary: MsgPack[WireMessage] = MsgPack(WireMessage)

#: Text messages. What JSON has no type for is written as msgspec does: bytes as base64.
JSON = Format("JSON", _text)
#: Binary messages, smaller and quicker.
MSGPACK = Format("MessagePack", _binary)


class _Outline(msgspec.Struct):
    """As much of a malformed message as an answer to it needs."""

    type: Any = None
    id: Any = None


_text_outline = Json(_Outline)
_binary_outline = MsgPack(_Outline)


def _malformed(message: Message, error: InvalidMessage) -> Malformed:
    try:
        outline = (_text_outline if isinstance(message, str) else _binary_outline).decode(message)
    except InvalidMessage:
        outline = _Outline()
    # A type that is no text is no unknown one, whatever msgspec says.
    code = error.code if isinstance(outline.type, str) else "invalid"
    path = None if error.path == "$" else error.path
    legible = type(outline.id) is int and 1 <= outline.id < 2**53
    call = outline.id if legible and outline.type == "call" else None
    ours = outline.id if legible and outline.type in ("result", "item", "error") else None
    return Malformed(Error(id=call, code=code, message=error.message, path=path), ours)


_anything = Json(Any)


def convert(value: Any, kind: Any) -> Any:
    """Return a value of the wire as one of a type that msgspec knows.

    Raises `InvalidMessage`, whose path begins at the value.
    """
    try:
        # JSON has no other keys than text, and what came in MessagePack may have come from JSON.
        return msgspec.convert(value, kind, str_keys=True)
    except (ValueError, RecursionError) as error:
        raise _anything.invalid(error) from None
