"""Many small messages as few large ones, and of one key the newest only."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import AsyncGenerator, Hashable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Protocol, cast

import msgspec
import trio

from ..codecs.json import Json
from ..codecs.msgpack import MsgPack
from ..connection import WebSocket, lifecycle_of
from ..errors import InvalidMessage
from ..lanes import current_turns
from ..nursery import OwnNursery
from ..types import CloseCode, Message
from .ends import CodedChannel, close_channel

__all__ = [
    "JSON_ARRAY",
    "MSGPACK_ARRAY",
    "Batches",
    "BatchesStatistics",
    "JsonArray",
    "MsgPackArray",
    "Packing",
    "batch",
]


class Packing(Protocol):
    """How several messages become one, and that one several; stateless."""

    def size(self, message: Message, /) -> int:
        """Return the bytes that a message takes in a batch.

        Raises `TypeError` for one that it cannot hold.
        """
        ...

    def pack(self, messages: Sequence[Message], /) -> Message:
        """Return the batch; there is at least one message."""
        ...

    def unpack(self, batch: Message, most: int, /) -> list[Message]:
        """Return the messages in a batch of at most so many.

        Raises `InvalidMessage` for what is no batch, or a larger one.
        """
        ...


class JsonArray:
    """Messages of JSON in one text message: an array of them. What they hold is not looked at."""

    def size(self, message: Message, /) -> int:
        """Return the bytes of a text message and its comma."""
        if not isinstance(message, str):
            raise TypeError("an array of JSON holds text messages only")
        return (len(message) if message.isascii() else len(message.encode())) + 1

    def pack(self, messages: Sequence[Message], /) -> Message:
        """Return the array."""
        return f"[{','.join(cast('Sequence[str]', messages))}]"

    def unpack(self, batch: Message, most: int, /) -> list[Message]:
        """Return the elements of the array, as they stand in it."""
        return [bytes(one).decode() for one in _checked(_json.decode(batch), most)]


class MsgPackArray:
    """Messages of MessagePack in one binary message: an array of them."""

    def size(self, message: Message, /) -> int:
        """Return the bytes of a binary message."""
        if not isinstance(message, bytes):
            raise TypeError("an array of MessagePack holds binary messages only")
        return len(message)

    def pack(self, messages: Sequence[Message], /) -> Message:
        """Return the array."""
        count = len(messages)
        if count < 16:
            head = bytes([0x90 | count])
        elif count < 2**16:
            head = b"\xdc" + count.to_bytes(2)
        else:
            head = b"\xdd" + count.to_bytes(4)
        return head + b"".join(cast("Sequence[bytes]", messages))

    def unpack(self, batch: Message, most: int, /) -> list[Message]:
        """Return the elements of the array, as they stand in it."""
        return [bytes(one) for one in _checked(_msgpack.decode(batch), most)]


_json = Json(list[msgspec.Raw])
_msgpack = MsgPack(list[msgspec.Raw])


def _checked(items: list[msgspec.Raw], most: int) -> list[msgspec.Raw]:
    if len(items) > most:
        raise InvalidMessage(f"a batch of more than {most} messages")
    return items


#: The two, ready for use.
JSON_ARRAY = JsonArray()
MSGPACK_ARRAY = MsgPackArray()


@dataclass(frozen=True, slots=True)
class BatchesStatistics:
    """A snapshot of the sending side."""

    #: Messages that left in batches, and the batches.
    messages_sent: int
    batches_sent: int
    #: Messages in whose place a newer one of their key went.
    conflated: int
    #: Messages that waited when the end came, or whose batch was not sent, for that failed.
    dropped: int
    #: What waits now: messages, and their bytes.
    waiting: int
    waiting_bytes: int


@asynccontextmanager
async def batch(
    channel: trio.abc.Channel[Message],
    packing: Packing = JSON_ARRAY,
    *,
    count: int = 128,
    size: int = 2**14,
    delay: float = 0.02,
    most: int = 4096,
    close: float = 5,
) -> AsyncGenerator[Batches]:
    """Let messages travel in batches for the length of a block, which gets the `Batches`.

    A message that finds the link idle leaves at once, with all that are sent in the same turn of
    the scheduler. Those that follow wait until there are ``count``, or ``size`` bytes of them, or
    ``delay`` seconds have passed since the last batch was out; and in any case until it is. Over a
    `WebSocket` that is when its outbox is empty, so that a slow link gets fewer and larger ones.
    128 messages save most of what each costs, and 16 KiB keep a link busy; 20 ms nobody sees.

    ``packing`` makes one message of many. Of a batch that comes in, at most ``most`` messages are
    taken; a larger one is no batch.

    The channel stays the caller's: the block does not close it. At the block's normal end what
    waits may leave within ``close`` seconds, and an error of the channel is raised; at an exception
    or a cancellation it is dropped. The block's exception comes out as it is. Raises `ValueError`
    for bounds that make no sense.
    """
    for name, bound in {"count": count, "size": size, "most": most, "close": close}.items():
        if not bound > 0:  # refuses NaN too
            raise ValueError(f"{name} must be positive, not {bound!r}")
    if not delay >= 0:
        raise ValueError(f"delay must not be negative: {delay!r}")
    batches = Batches(channel, packing, count, size, delay, most, close)
    async with OwnNursery() as nursery:
        nursery.start_soon(batches.run, name="batches")
        try:
            yield batches
            await batches.finish()
        finally:
            batches.end()


class Batches(CodedChannel):
    """A channel whose messages travel in batches: made by `batch`.

    Any number of tasks may send, and one receive. No more than two batches are held: one that is
    filled, and one that is under way.
    """

    def __init__(
        self,
        channel: trio.abc.Channel[Message],
        packing: Packing,
        count: int,
        size: int,
        delay: float,
        most: int,
        close: float,
    ) -> None:
        #: What it stands on.
        self.channel = channel
        self._packing = packing
        self._count = count
        self._size = size
        self._delay = delay
        self._most = most
        self._close = close
        self._turns = current_turns()
        #: What came in a batch and was not received yet.
        self._received: deque[Message] = deque()
        #: What waits, with its size, in order; a message without a key has one of its own.
        self._waiting: dict[object, tuple[Message, int]] = {}
        self._bytes = 0
        #: Whether what waits must not wait for more.
        self._urgent = False
        #: When the next batch may leave, however small it is.
        self._next = -math.inf
        #: Batches that were begun, and that are out.
        self._begun = self._out = 0
        self._ended = False
        self._error: trio.BrokenResourceError | trio.ClosedResourceError | None = None
        self._work = trio.lowlevel.ParkingLot()  # the task
        self._changed = trio.lowlevel.ParkingLot()
        self._line = trio.StrictFIFOLock()
        self._messages_sent = self._conflated = self._dropped = 0

    async def send(self, value: Message, *, key: Hashable | None = None) -> None:
        """Queue a message for the next batch; wait while that is full.

        With a ``key`` it replaces a waiting one of the same key, and has its place at the end.
        Cancelled means not queued. Raises `TypeError` for what the packing cannot hold, and what
        the channel's ``send`` has raised.
        """
        size = self._packing.size(value)
        if self._turns[1].due(size):
            await trio.lowlevel.checkpoint()
        if self._line.locked() or not self._has_room(key, size):
            async with self._line:
                while not self._has_room(key, size):
                    self._hurry()
                    await self._changed.park()
                self._put(value, size, key)
        else:
            self._put(value, size, key)

    def send_nowait(self, value: Message, *, key: Hashable | None = None) -> None:
        """Queue a message as `send` does, or raise `trio.WouldBlock` when the batch is full."""
        size = self._packing.size(value)
        if self._line.locked() or not self._has_room(key, size):
            self._hurry()
            raise trio.WouldBlock
        self._put(value, size, key)

    async def flush(self) -> None:
        """Wait until all that was sent before is out; raises as `send`."""
        await trio.lowlevel.checkpoint()
        goal = self._begun + bool(self._waiting)
        while self._out < goal and self._error is None:
            if self._begun < goal:
                self._hurry()
            await self._changed.park()
        if self._error is not None:
            raise self._error

    async def receive(self) -> Message:
        """Return the next message of the batches that come in; cancelling it loses none.

        Raises `InvalidMessage` for what is no batch, after which the next may be received: a
        `TypedChannel` on top answers it. Else as the channel's ``receive``.
        """
        received = self._received
        while True:
            if received and self._turns[0].due(len(received[0])):
                await trio.lowlevel.checkpoint()
            if received:
                return received.popleft()
            received.extend(self._packing.unpack(await self.channel.receive(), self._most))

    async def aclose(self, code: int = CloseCode.NORMAL, reason: str = "") -> None:
        """Send what waits, within the time for that, and close the channel."""
        try:
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await self.finish()
        finally:
            self.end()
            await close_channel(self.channel, code, reason)

    def statistics(self) -> BatchesStatistics:
        """Return the counts as they are now."""
        return BatchesStatistics(
            self._messages_sent,
            self._out,
            self._conflated,
            self._dropped,
            len(self._waiting),
            self._bytes,
        )

    async def run(self) -> None:
        """Send one batch after the other: the task of `batch`."""
        try:
            while True:
                while not self._waiting:
                    await self._work.park()
                if trio.current_time() < self._next:
                    with trio.move_on_at(self._next):
                        while not (self._urgent or self._is_full()):
                            await self._work.park()
                await self._send_batch()
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self._fail(error)

    async def finish(self) -> None:
        """Let what waits leave, within the time for that, unless the end has come already."""
        if not self._ended:
            with trio.move_on_after(self._close):
                await self.flush()

    def end(self) -> None:
        """Take no more messages, and drop those that wait."""
        self._ended = True
        self._fail(trio.ClosedResourceError("the batches have ended"))
        self._dropped += len(self._waiting)
        self._waiting.clear()
        self._bytes = 0

    async def _send_batch(self) -> None:
        messages = [message for message, _ in self._waiting.values()]
        self._waiting.clear()
        self._bytes = 0
        self._urgent = False
        self._begun += 1
        self._changed.unpark_all()
        try:
            await self.channel.send(self._packing.pack(messages))
        except BaseException:
            self._dropped += len(messages)
            raise
        # What is written at once is out, even if the peer leaves in this very turn.
        if isinstance(self.channel, WebSocket) and not lifecycle_of(self.channel).outbox.idle:
            await self.channel.wait_written()
        self._out += 1
        self._messages_sent += len(messages)
        self._next = trio.current_time() + self._delay
        self._changed.unpark_all()

    def _has_room(self, key: Hashable | None, size: int) -> bool:
        """Whether a message fits into the batch, be it in another's place; raises at the end."""
        if self._error is not None:
            raise self._error
        count, total = len(self._waiting), self._bytes + size
        if key is not None and key in self._waiting:
            count, total = count - 1, total - self._waiting[key][1]
        return count == 0 or (count < self._count and total <= self._size)

    def _put(self, message: Message, size: int, key: Hashable | None) -> None:
        waiting = self._waiting
        if key is not None and key in waiting:
            self._bytes -= waiting.pop(key)[1]
            self._conflated += 1
        waiting[object() if key is None else key] = message, size
        self._bytes += size
        if len(waiting) == 1 or self._is_full():
            self._work.unpark_all()

    def _is_full(self) -> bool:
        return len(self._waiting) >= self._count or self._bytes >= self._size

    def _hurry(self) -> None:
        self._urgent = True
        self._work.unpark_all()

    def _fail(self, error: trio.BrokenResourceError | trio.ClosedResourceError) -> None:
        if self._error is None:
            self._error = error
        self._changed.unpark_all()
