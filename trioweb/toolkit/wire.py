"""The messages of the toolkit's wire protocol, in JSON and in MessagePack.

What they mean stands in :doc:`/reference/wire`. Each is a frozen `msgspec.Struct`; a field that has
its default is left out. `JSON` and `MSGPACK` write one of the two and understand both, so either
is a `trioweb.abc.Codec`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any, TypeAlias

import msgspec
from msgspec import Meta

from ..types import Message

__all__ = [
    "JSON",
    "MSGPACK",
    "Call",
    "Cancel",
    "Error",
    "Event",
    "Format",
    "Item",
    "Malformed",
    "More",
    "Notify",
    "Result",
    "WireMessage",
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

_json: msgspec.json.Decoder[WireMessage] = msgspec.json.Decoder(WireMessage)
_msgpack: msgspec.msgpack.Decoder[WireMessage] = msgspec.msgpack.Decoder(WireMessage)


class Malformed(ValueError):
    """A message is none of the protocol's.

    ``answer`` is the `Error` that says so to the peer: it bears an id where the message was a
    call with a legible one. ``call`` is the id of our own call that the message was about, so
    that it does not wait for what has come already.
    """

    def __init__(self, answer: Error, call: int | None = None) -> None:
        super().__init__(f"{answer.message} at {answer.path}" if answer.path else answer.message)
        self.answer = answer
        self.call = call


class Format:
    """Writes messages in one format, and reads both; stateless, so all peers share it."""

    __slots__ = ("_write", "name")

    def __init__(self, name: str, write: Callable[[WireMessage], Message]) -> None:
        self.name = name
        self._write = write

    def __repr__(self) -> str:
        return f"<Format {self.name}>"

    def encode(self, message: WireMessage, /) -> Message:
        """Return the message as text (JSON) or bytes (MessagePack).

        Raises `TypeError` for a value that the format cannot express: an object of a type unknown
        to msgspec, an integer beyond 64 bits, a lone surrogate, a value that holds itself.
        """
        try:
            return self._write(message)
        except (OverflowError, ValueError, RecursionError) as error:
            raise TypeError(f"not a value for {self.name}: {error}") from error

    def decode(self, message: Message, /) -> WireMessage:
        """Return what a peer said, be it text or bytes. Raises `Malformed`, and nothing else."""
        try:
            if isinstance(message, str):
                return _json.decode(message)
            return _msgpack.decode(message)
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            raise _malformed(message, error) from None


def _write_json(message: WireMessage) -> str:
    return _json_encoder.encode(message).decode()


_json_encoder = msgspec.json.Encoder()

#: Text messages. What JSON has no type for is written as msgspec does: bytes as base64.
JSON = Format("JSON", _write_json)
#: Binary messages, smaller and quicker.
MSGPACK = Format("MessagePack", msgspec.msgpack.Encoder().encode)


class _Outline(msgspec.Struct):
    """As much of a malformed message as an answer to it needs."""

    type: Any = None
    id: Any = None


_json_outline = msgspec.json.Decoder(_Outline)
_msgpack_outline = msgspec.msgpack.Decoder(_Outline)


def _malformed(message: Message, error: Exception) -> Malformed:
    what, path = split_path(str(error))
    outline = _Outline()
    if isinstance(error, msgspec.ValidationError):  # else it is not even JSON or MessagePack
        try:
            if isinstance(message, str):
                outline = _json_outline.decode(message)
            else:
                outline = _msgpack_outline.decode(message)
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            outline = _Outline()
    code = "unknown-type" if path == "$.type" and isinstance(outline.type, str) else "invalid"
    legible = type(outline.id) is int and 1 <= outline.id < 2**53
    call = outline.id if legible and outline.type == "call" else None
    ours = outline.id if legible and outline.type in ("result", "item", "error") else None
    return Malformed(Error(id=call, code=code, message=what, path=path), ours)


_PLACE = re.compile(r"(.*) - at (`.*)", re.DOTALL)


def split_path(text: str) -> tuple[str, str | None]:
    """Split what msgspec says into what is wrong, and where: ``$.params.name``, or None."""
    if place := _PLACE.fullmatch(text):
        return place[1], place[2].replace("`", "")
    return text, None
