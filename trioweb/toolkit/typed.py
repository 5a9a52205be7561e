"""A channel of values instead of messages: what does not validate is answered, and counted."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol, TypeAlias, TypeVar

import msgspec
import trio

from ..codecs.checked import Checked
from ..codecs.json import Json
from ..codecs.msgpack import MsgPack
from ..connection import WebSocket, lifecycle_of
from ..errors import ConnectionBroken, ConnectionEnded, InvalidMessage
from ..nothing import NOTHING, Nothing
from ..protocol.machine import check_close
from ..types import CloseCode, Message
from ..values import ValueLane
from .ends import close_channel
from .wire import Error

__all__ = [
    "Answer",
    "CodecOf",
    "Tolerance",
    "TypedChannel",
    "TypedStatistics",
    "error_answer",
]

#: The codecs whose ``encode`` and ``decode`` may be left out: those of a subclass may do more.
_BARE: tuple[type, ...] = (Json, MsgPack)

logger = logging.getLogger("trioweb.toolkit")

_T = TypeVar("_T")
_T_co = TypeVar("_T_co", covariant=True)


class CodecOf(Protocol[_T_co]):
    """A `trioweb.abc.Codec` that says what type of values it decodes."""

    def encode(self, value: Any, /) -> Message:
        """Return the message for a value."""
        ...

    def decode(self, message: Message, /) -> _T_co:
        """Return the value in a message; raises `ValueError`."""
        ...


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How many invalid messages a peer may send: ``count`` in any ``per`` seconds.

    With one more the connection is closed with ``code``: 1007, for what came is not consistent with
    the type of the message (RFC 6455, 7.4.1), unless told otherwise.
    """

    #: A person who tries a protocol out by hand stays; a program gone wrong does not.
    count: int = 10
    per: float = 60
    code: int = CloseCode.INVALID_DATA

    def __post_init__(self) -> None:
        if self.count < 0 or not self.per > 0:  # refuses NaN too
            raise ValueError(f"not a tolerance: {self!r}")
        check_close(self.code, "")


@dataclass(frozen=True, slots=True)
class TypedStatistics:
    """What was wrong on one channel since it was made."""

    #: Messages that did not validate.
    invalid: int
    #: Error messages of the peer's that the type has no place for; they are not among those.
    ignored: int


def error_answer(invalid: InvalidMessage) -> Error:
    """Return the answer to an invalid message: the `error` of :doc:`/reference/wire`."""
    return Error(code=invalid.code, message=invalid.message, path=invalid.path)


#: What is sent to the peer for an invalid message; None: nothing.
Answer: TypeAlias = Callable[[InvalidMessage], object | None]


class _Outline(msgspec.Struct):
    """As much of a message as tells that it is an error."""

    type: str


_json_outline = msgspec.json.Decoder(_Outline)
_msgpack_outline = msgspec.msgpack.Decoder(_Outline)


class TypedChannel(trio.abc.Channel[_T]):
    """A `trio.abc.Channel` of values, over any channel of messages.

    ``receive`` gives what the ``codec`` decodes; ``send`` takes what it can encode. A message that
    does not validate is counted, answered with what ``answer`` makes of the `InvalidMessage`, and
    skipped. Beyond the ``tolerance`` the connection is closed. A peer's own `error` message
    that does not validate is skipped without an answer, or two ends that do not understand each
    other would never stop; to receive errors, have `trioweb.toolkit.wire.Error` in the codec's
    type. With another codec than those of `trioweb.codecs`, ``answer`` returns one of its values.

    Any number of tasks may send, and one receive, as far as the channel below allows it. A
    `receive` that is cancelled loses no valid message; one that is cancelled in the midst of an
    answer leaves it out. Checkpoints are those of the channel.
    """

    def __init__(
        self,
        channel: trio.abc.Channel[Message],
        codec: CodecOf[_T],
        *,
        tolerance: Tolerance = Tolerance(),
        answer: Answer = error_answer,
    ) -> None:
        #: What it stands on.
        self.channel = channel
        self._encode = codec.encode
        self._decode = codec.decode
        self._tolerance = tolerance
        self._answer = answer
        #: When the last invalid messages came: as many as are tolerated, at most.
        self._times: deque[float] = deque()
        self._invalid = 0
        self._ignored = 0
        self._lane: ValueLane[_T] | None = None
        # Returns the next value if it is here, and needs no await; else NOTHING: `receive` it.
        self.take: Callable[[], _T | Nothing] = _nothing
        # Sends a value if that needs no await; else returns its message, which is to be sent.
        # Raises `TypeError` for one that the codec cannot express.
        self.offer: Callable[[Any], Message | None] = codec.encode
        if isinstance(channel, WebSocket) and isinstance(codec, Checked) and type(codec) in _BARE:
            life = lifecycle_of(channel)
            self._lane = ValueLane(
                life.reading,
                life.outbox,
                codec.makes,
                codec.bare_decode,
                codec.bare_encode,
                codec.encode,
            )
            self.take, self.offer = self._lane.take, self._lane.offer

    async def send(self, value: Any) -> None:
        """Send a value; raises `TypeError` for one that the codec cannot express.

        Else as the channel's own ``send``.
        """
        message = self.offer(value)
        if message is not None:
            await self.channel.send(message)

    async def receive(self) -> _T:
        """Return the next value.

        Raises as the channel's own ``receive``, and `trio.BrokenResourceError` (`ConnectionBroken`
        over a WebSocket) when the peer has sent too many invalid messages.
        """
        while True:
            if (value := self.take()) is not NOTHING:
                return value
            message: Message | None = None
            if self._lane is not None:
                message, self._lane.found = self._lane.found, None
            if message is None:
                try:
                    message = await self.channel.receive()
                except InvalidMessage as error:  # of a channel that decodes something itself
                    await self._refuse(error)
                    continue
            try:
                return self._decode(message)
            except ValueError as error:
                await self._refuse(error, message)

    async def __anext__(self) -> _T:
        # As Trio's own, less one coroutine: this runs for every message.
        value = self.take()
        if value is not NOTHING:
            return value
        try:
            return await self.receive()
        except trio.EndOfChannel:
            raise StopAsyncIteration from None

    async def aclose(self, code: int = CloseCode.NORMAL, reason: str = "") -> None:
        """Close the channel below; ``code`` and ``reason`` are for those that can tell them."""
        await close_channel(self.channel, code, reason)

    def statistics(self) -> TypedStatistics:
        """Return the counts as they are now."""
        return TypedStatistics(self._invalid, self._ignored)

    async def _refuse(self, error: ValueError, message: Message | None = None) -> None:
        """Count an invalid message and answer it, or close the connection and raise."""
        if message is not None and _is_error(message):
            self._ignored += 1
            return
        invalid = error if isinstance(error, InvalidMessage) else InvalidMessage(str(error))
        self._invalid += 1
        # It may repeat the peer's words, which must not write lines of their own.
        logger.info("%s: %s", self.channel, ascii(str(invalid)))
        if self._is_too_much():
            await self._give_up(invalid)
        answer = self._answer(invalid)
        if answer is not None:
            # If the peer is gone, the next `receive` says how, behind what came before that.
            with suppress(trio.BrokenResourceError):
                await self.channel.send(self._encode(answer))

    def _is_too_much(self) -> bool:
        now, times = trio.current_time(), self._times
        while times and times[0] <= now - self._tolerance.per:
            times.popleft()
        if len(times) >= self._tolerance.count:
            return True
        times.append(now)
        return False

    async def _give_up(self, invalid: InvalidMessage) -> NoReturn:
        reason = "too many invalid messages"
        await close_channel(self.channel, self._tolerance.code, reason)
        try:
            await self.channel.receive()  # it knows how it ended
        except trio.ClosedResourceError as closed:
            if isinstance(closed, ConnectionEnded):
                raise ConnectionBroken(closed.close) from invalid
        raise trio.BrokenResourceError(reason) from invalid


def _nothing() -> Nothing:
    """Take nothing ahead of ``receive``."""
    return NOTHING


def _is_error(message: Message) -> bool:
    """Whether a message is an error of the peer's, whatever else is in it."""
    try:
        if isinstance(message, str):
            return _json_outline.decode(message).type == "error"
        return _msgpack_outline.decode(message).type == "error"
    except (ValueError, RecursionError):
        return False
