"""MessagePack in binary messages, checked against a type."""

from __future__ import annotations

from typing import Any, TypeVar, overload

import msgspec

from ..types import Message
from .checked import Checked, inexpressible, wrong_kind

__all__ = ["MsgPack"]

_T = TypeVar("_T")


class MsgPack(Checked[_T]):
    """A `Codec` for values of one type: MessagePack in binary messages, by msgspec.

    ``kind`` is anything that msgspec can check: a tagged union of `msgspec.Struct` as a rule, or
    ``Any``. ``encode`` takes any value that msgspec can express, be it of that type or not, for the
    two ends of a connection seldom say the same.

    `decode` raises `InvalidMessage` for a text message, for what is no MessagePack, nested too
    deep, or not of the type. How large a message may be is a matter of the channel
    (`Limits.max_message`), what a value may hold one of the type (`msgspec.Meta`).
    """

    __slots__ = ()

    @overload
    def __init__(self, kind: type[_T]) -> None: ...
    @overload
    def __init__(self: MsgPack[Any], kind: Any) -> None: ...
    def __init__(self, kind: Any) -> None:
        encoder, decoder = msgspec.msgpack.Encoder(), msgspec.msgpack.Decoder(kind)
        super().__init__(kind, bytes, encoder.encode, decoder.decode)

    def encode(self, value: Any, /) -> bytes:
        """Return a value as MessagePack; raises `TypeError` for one that msgspec cannot express."""
        try:
            return self.bare_encode(value)
        except (ValueError, OverflowError, RecursionError) as error:
            raise inexpressible(value, error) from error

    def decode(self, message: Message, /) -> _T:
        """Return the value in a binary message; raises `InvalidMessage`."""
        if not isinstance(message, bytes):
            raise wrong_kind(message)
        try:
            return self.bare_decode(message)
        except (ValueError, RecursionError) as error:
            raise self.invalid(error) from None
