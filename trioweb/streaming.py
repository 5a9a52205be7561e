"""One message in pieces, either way, for messages larger than anybody wants to hold.

What comes is passed on as it comes (`MessageReader`); what goes, leaves as it is made
(`MessageWriter`). Each end may do so whatever the other does: on the wire it is one message
in fragments (RFC 6455, 5.4).
"""

from __future__ import annotations

import io
from types import TracebackType
from typing import Self

import trio

from .lifecycle import Lifecycle
from .protocol.assembler import size_of
from .protocol.encoder import Pieces
from .protocol.machine import Piece
from .types import Close, CloseCode, Message

__all__ = ["Incoming", "MessageReader", "MessageWriter"]


class MessageReader(trio.abc.ReceiveChannel[Message]):
    """One message as it comes: ``async for piece in message``.

    Pieces are ``str`` or ``bytes``, never empty, cut anywhere but inside a character. One is at
    most what one read brought, or what a kibibyte of compressed data becomes (a mebibyte). For
    one task. The next `receive` on the WebSocket gives up what was not read: it is skipped, and
    counted as a discarded message.
    """

    def __init__(self, life: Lifecycle, first: Message, *, last: bool) -> None:
        #: Whether it is a text message; else binary.
        self.text = isinstance(first, str)
        self._life = life
        self._first: Message | None = first or None
        self._over = last
        self._closed = False

    async def receive(self) -> Message:
        """Return the next piece. Cancelling it loses nothing.

        Raises `trio.EndOfChannel` behind the message's last piece, `ConnectionBroken` (or
        `ConnectionClosedByUs`) if the connection ended before that, `trio.ClosedResourceError`
        after `aclose` or another `receive` on the WebSocket.
        """
        await trio.lowlevel.checkpoint()
        while True:
            if self._closed:
                raise trio.ClosedResourceError("the rest of this message was given up")
            if self._first is not None:
                piece, self._first = self._first, None
                return piece
            if self._over:
                raise trio.EndOfChannel
            reading = self._life.reading
            if not reading.inbox:
                if self._life.closed is not None:
                    raise self._life.send_error()
                await reading.wait_message()
                continue
            one = reading.pop()
            assert isinstance(one, Piece), "a message has begun inside another"
            self._over = one.last
            self._first = one.data or None

    async def aclose(self) -> None:
        """Give up the rest of the message, without waiting for it."""
        self._closed = True
        await trio.lowlevel.checkpoint()

    @property
    def over(self) -> bool:
        """Whether the message's last piece has come."""
        return self._over

    def give_up(self) -> None:
        """Let the rest of the message be skipped."""
        self._closed = True


class Incoming:
    """The messages of one connection that come in pieces, put together or handed out."""

    def __init__(self, life: Lifecycle) -> None:
        self._life = life
        self._max_message = life.limits.max_message
        self._size = 0
        self._parts: io.StringIO | io.BytesIO | None = None
        self._reader: MessageReader | None = None

    def add(self, piece: Piece) -> Message | None:
        """Take a piece for `receive`; return its message once that is whole.

        Raises `ConnectionBroken` when the message is too big for that (1009).
        """
        if self._skips(piece):
            return None
        self._size += size_of(piece.data)
        if self._size > self._max_message:
            reason = f"message of more than {self._max_message} bytes"
            self._life.refuse(Close(CloseCode.MESSAGE_TOO_BIG, reason))
            raise self._life.receive_error()
        return self._join(piece)

    def open(self, one: Message | Piece) -> MessageReader | None:
        """Take what is first in the inbox; return a reader of its message, unless it is skipped."""
        if not isinstance(one, Piece):
            return MessageReader(self._life, one, last=True)
        if self._skips(one):
            return None
        # A `receive` that was cancelled may have put the beginning together already.
        first = self._join(Piece(one.data, last=True))
        assert first is not None
        reader = MessageReader(self._life, first, last=one.last)
        self._reader = None if one.last else reader
        return reader

    def _skips(self, piece: Piece) -> bool:
        """Whether a piece belongs to a message that its reader gave up."""
        reader = self._reader
        if reader is None or reader.over:
            return False
        reader.give_up()
        if piece.last:
            self._reader = None
            self._life.reading.discarded += 1
        return True

    def _join(self, piece: Piece) -> Message | None:
        if self._parts is None:
            if piece.last:
                self._size = 0
                return piece.data
            text = isinstance(piece.data, str)
            self._parts = io.StringIO(newline="") if text else io.BytesIO()
        self._parts.write(piece.data)  # type: ignore[arg-type]  # the pieces of a message are of a kind
        if not piece.last:
            return None
        message = self._parts.getvalue()
        self._parts = None
        self._size = 0
        return message


class MessageWriter(trio.abc.SendChannel[Message]):
    """One message that leaves as it is made: ``async with ws.send_stream(text=True) as message``.

    Leaving the block ends the message. Leaving it by an exception, or a cancellation, closes the
    connection with 1011 if a piece is out: half a message can be neither taken back nor ended.
    Other messages that are sent meanwhile wait for its end, each counted in the outbox; pings
    and pongs do not. For one task.
    """

    def __init__(self, life: Lifecycle, *, text: bool, compress: bool | None) -> None:
        self._life = life
        self._text = text
        self._compress = compress
        self._pieces: Pieces | None = None
        self._entered = self._begun = False

    async def __aenter__(self) -> Self:
        """Wait until no other message is being sent in pieces; raises as `send` does."""
        self._entered = True
        outbox = self._life.outbox
        outbox.streams.append(self)
        try:
            await trio.lowlevel.checkpoint()
            await outbox.wait_stream(self)
        except BaseException:
            self._leave()
            raise
        if self._life.closed is not None:
            self._leave()
            raise self._life.send_error()
        self._pieces = self._life.machine.pieces(text=self._text, compress=self._compress)
        return self

    async def send(self, value: Message) -> None:
        """Send a piece, ``str`` for a text message and ``bytes`` for a binary one.

        Waits for room in the outbox, then queues: Cancelled means that the piece was not queued.
        Raises as `WebSocket.send` does, and `TypeError` for a piece of the other kind.
        """
        pieces = self._pieces
        if pieces is None:
            if self._entered:
                raise trio.ClosedResourceError("this message has come to its end")
            raise RuntimeError("use `async with ws.send_stream(...) as message`")
        if isinstance(value, str) is not self._text or not isinstance(value, (str, bytes)):  # pyright: ignore[reportUnnecessaryIsInstance]  # said here, not deep inside
            kind = "str" if self._text else "bytes"
            raise TypeError(f"a piece of this message is {kind}, not {type(value).__name__}")
        data = value.encode() if isinstance(value, str) else value
        outbox = self._life.outbox
        await trio.lowlevel.checkpoint()
        await outbox.wait_piece_room()
        if self._life.closed is not None:
            raise self._life.send_error()
        if data:
            self._put(pieces, data, last=False)
        if self._life.closed is not None:
            raise self._life.send_error()

    async def aclose(self) -> None:
        """End the message; raises as `send` does."""
        await trio.lowlevel.checkpoint()
        if self._pieces is None:
            return
        if self._life.closed is not None:
            raise self._life.send_error()
        self._put(self._pieces, b"", last=True)
        self._life.outbox.end_pieces()
        self._leave()
        if self._life.closed is not None:
            raise self._life.send_error()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End the message, or the connection if the message cannot be ended."""
        try:
            if error is None:
                await self.aclose()
        finally:
            if self._pieces is not None:
                if self._begun and self._life.closed is None:
                    reason = "a message was abandoned"
                    self._life.refuse(Close(CloseCode.INTERNAL_ERROR, reason))
                self._leave()

    def _put(self, pieces: Pieces, data: bytes, *, last: bool) -> None:
        if not self._begun and not last:
            self._begun = True
            self._life.outbox.begin_pieces()
        self._life.outbox.put_piece(pieces.encode(data, last=last))

    def _leave(self) -> None:
        self._pieces = None
        self._life.outbox.streams.remove(self)
        self._life.outbox.wake()
