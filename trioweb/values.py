"""The lane of values: what a typed channel on a WebSocket does for every message.

A message that is here is decoded, and a value is encoded and sent, without a coroutine or a
function in between; what is not to be done at once is left to the channel. Native where built.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from .lanes import InLane, OutLane
from .nothing import NOTHING, Nothing
from .protocol.framer import framer
from .types import Message

__all__ = ["ValueLane"]

_T = TypeVar("_T")


class _ValueLane(Generic[_T]):
    """Takes values from the inbox of a connection, and offers them to its outbox."""

    __slots__ = ("_decode", "_encode", "_express", "_inlane", "_makes", "_outlane", "found")

    def __init__(
        self,
        inlane: InLane,
        outlane: OutLane,
        makes: type[Message],
        decode: Callable[[Message], _T],
        encode: Callable[[Any], bytes],
        express: Callable[[Any], Message],
    ) -> None:
        """Use a codec's bare functions, and ``express`` to hear what is wrong with a value.

        ``makes`` says what kind of messages they are for.
        """
        self._inlane = inlane
        self._outlane = outlane
        self._makes = makes
        self._decode = decode
        self._encode = encode
        self._express = express
        #: A message that `take` could not decode: nothing behind it is taken before it is gone.
        self.found: Message | None = None

    def take(self) -> _T | Nothing:
        """Return the next value if it is here, and no checkpoint is due; else `NOTHING`."""
        if self.found is not None:
            return NOTHING
        message = self._inlane.take()
        if message is None:
            return NOTHING
        try:
            if type(message) is self._makes:
                return self._decode(message)
            self.found = message
        except (ValueError, RecursionError):
            self.found = message
        return NOTHING

    def offer(self, value: Any) -> Message | None:
        """Send a value if that can be done at once; else return its message, to be sent.

        Raises `TypeError` for one that the codec cannot express.
        """
        is_text = self._makes is str
        try:
            data = self._encode(value)
            if is_text and not data.isascii():
                data.decode()  # a `msgspec.Raw` in it may hold anything
        except (ValueError, OverflowError, RecursionError):
            return self._express(value)  # which says what is wrong
        if self._outlane.offer_encoded(is_text, data, self._inlane.inbox):
            return None
        return data.decode() if is_text else data


ValueLane = _ValueLane
if not TYPE_CHECKING and framer() != "pure":
    with suppress(ImportError):  # each native module is optional by itself
        from ._values import ValueLane
