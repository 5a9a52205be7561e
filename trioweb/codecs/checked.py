"""What the codecs of msgspec share: one type, errors that name a path, nothing else raised."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import msgspec

from ..errors import InvalidMessage
from ..types import Message

__all__ = ["Checked", "inexpressible", "wrong_kind"]

_T = TypeVar("_T")

#: Characters of a peer's own text that an error repeats: it goes back to the peer, and into logs.
_LONGEST = 200

_AT = " - at `"
#: What msgspec says from 0.23 on in place of a `UnicodeDecodeError`.
_NOT_UTF8 = "Invalid UTF-8"


class Checked(Generic[_T]):
    """A codec for one type of values, by an encoder and a decoder of msgspec."""

    __slots__ = ("_tag_path", "bare_decode", "bare_encode", "kind", "makes")

    def __init__(
        self,
        kind: Any,
        makes: type[Message],
        encode: Callable[[Any], bytes],
        decode: Callable[[Any], _T],
    ) -> None:
        #: The type that messages must have.
        self.kind = kind
        #: Whether messages are ``str`` or ``bytes``.
        self.makes = makes
        #: msgspec's own, for those who call ``encode`` or ``decode`` to hear what is wrong with a
        #: value that these raise something for. Text is encoded as UTF-8.
        self.bare_encode = encode
        self.bare_decode = decode
        self._tag_path = _tag_path(kind)

    def invalid(self, error: Exception) -> InvalidMessage:
        """Return what to raise for an error of the decoder."""
        if isinstance(error, RecursionError):
            return InvalidMessage("nested too deep")
        if isinstance(error, UnicodeError) or str(error).startswith(_NOT_UTF8):
            return InvalidMessage("text that is not Unicode")
        text, at, path = str(error).rpartition(_AT)
        # For the key of a map: " - at `key` in `$.x`".
        path = path.removesuffix("`").removeprefix("key` in `")
        if not (at and path.startswith("$")):
            return InvalidMessage(_short(str(error)))
        unknown = path == self._tag_path and text.startswith("Invalid value")
        return InvalidMessage(
            _short(text), path=_short(path), code="unknown-type" if unknown else "invalid"
        )


def inexpressible(value: object, error: Exception) -> TypeError:
    """Return what to raise for an error of an encoder that is not a `TypeError` itself."""
    return TypeError(f"a {type(value).__name__} that no message can hold: {error}")


def wrong_kind(message: Message) -> InvalidMessage:
    """Return what to raise for a text message in place of a binary one, or the reverse."""
    if isinstance(message, str):
        return InvalidMessage("Expected a binary message, got text")
    return InvalidMessage("Expected a text message, got a binary one")


def _tag_path(kind: Any) -> str | None:
    """Return the path of the field that tells the types of messages apart, if there is one."""
    info = msgspec.inspect.type_info(kind)
    kinds = info.types if isinstance(info, msgspec.inspect.UnionType) else (info,)
    for one in kinds:
        if isinstance(one, msgspec.inspect.StructType) and one.tag_field is not None:
            return "$[0]" if one.array_like else f"$.{one.tag_field}"
    return None


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
