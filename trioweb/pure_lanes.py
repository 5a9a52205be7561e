"""The lanes in Python: `lanes` says what they are for, and which ones run."""

from __future__ import annotations

import math
from collections.abc import Callable, Sized

import trio

from .config import Limits
from .protocol.assembler import Piece
from .protocol.framer import Framer
from .protocol.frames import FIN, Opcode, frame
from .pure_turns import Turn
from .types import Message

__all__ = ["LARGE", "InLane", "OutLane", "Turn", "flush_all"]

#: Frames that wait together leave in one write of about this size.
_GATHER = 2**16
#: A message of so many characters or bytes gains nothing by leaving with others.
LARGE = 2**14
#: The first read of a connection, in bytes; when one comes full the next is twice as large.
_READ = 2**14
_UNBOUNDED = 2**62
_TEXT = FIN | Opcode.TEXT
_BINARY = FIN | Opcode.BINARY


class InLane:
    """The inbox: what is decoded and not yet taken."""

    __slots__ = (
        "bytes_received",
        "framer",
        "inbox",
        "inbox_size",
        "is_full",
        "last_heard",
        "messages_received",
        "most_bytes",
        "most_messages",
        "most_read",
        "pace",
        "read_size",
        "turn",
        "undecoded",
    )

    def __init__(self, turn: Turn, framer: Framer, limits: Limits, now: float) -> None:
        self.turn = turn
        self.framer = framer
        # The mark, in numbers that the framer takes.
        self.most_bytes = int(min(limits.inbox_bytes, _UNBOUNDED))
        self.most_messages = int(min(limits.inbox_messages, _UNBOUNDED))
        self.most_read = limits.read
        #: How much to read next.
        self.read_size = min(_READ, limits.read)
        #: Whether there may be more to decode; the handshake may have brought the first frames.
        self.undecoded = True
        self.last_heard = now
        #: Seconds between the last two reads.
        self.pace = math.inf
        self.bytes_received = 0
        self.messages_received: int = 0
        #: Messages, and pieces of those that are received as streams. A list is smaller than a
        #: deque, and as fast at this length.
        self.inbox: list[Message | Piece] = []
        #: Their memory, and those that were taken since the inbox was last empty.
        self.inbox_size: int = 0
        #: The inbox was at its mark, and is not empty since.
        self.is_full = False

    def keep(self, data: bytes | memoryview, now: float) -> None:
        """Keep what was read, undecoded."""
        size = len(data)
        self.pace = now - self.last_heard
        self.last_heard = now
        self.bytes_received += size
        self.undecoded = True
        self.framer.feed(data)
        if size >= self.read_size:
            self.read_size = min(2 * size, self.most_read)
        elif self.read_size > _READ and 4 * size < self.read_size:
            self.read_size //= 2

    def decode(self) -> None:
        """Decode what needs no second thought, in bulk."""
        before = len(self.inbox)
        room, most = self.most_bytes - self.inbox_size, self.most_messages - before
        self.inbox_size += self.framer.pull(self.inbox, room, most)
        self.messages_received += len(self.inbox) - before
        if self.framer.empty:
            self.undecoded = False

    def check_marks(self) -> None:
        """Note whether the inbox is at its mark."""
        if self.inbox_size >= self.most_bytes or len(self.inbox) >= self.most_messages:
            self.is_full = True

    def take(self) -> Message | None:
        """Take the first message; None if there is none, it is a piece, or a checkpoint is due."""
        inbox = self.inbox
        if not inbox:
            return None
        message = inbox[0]
        if isinstance(message, Piece):
            return None
        if not self.turn.count(len(message)):
            return None
        inbox.pop(0)
        if not inbox:
            self.emptied()
        return message

    def pop(self) -> Message | Piece:
        """Take the first message or piece, whatever is due."""
        message = self.inbox.pop(0)
        if not self.inbox:
            self.emptied()
        return message

    def emptied(self) -> None:
        """Note that the inbox is empty."""
        self.inbox_size = 0
        self.is_full = False


class OutLane:
    """The outgoing queue, and the way of a message that may go without a second thought."""

    __slots__ = (
        "bytes_sent",
        "control",
        "data",
        "dead",
        "detours",
        "frames_mark",
        "is_marked",
        "marked",
        "messages_sent",
        "open",
        "parked",
        "plain",
        "size",
        "size_mark",
        "token_bytes",
        "turn",
        "unwritten",
        "write",
        "write_both",
    )

    def __init__(self, turn: Turn, marked: list[OutLane], limits: Limits) -> None:
        self.turn = turn
        #: All that is to be written at the next turn of the scheduler; the first one says so.
        self.marked = marked
        self.size_mark = limits.outbox_bytes
        self.frames_mark = limits.outbox_frames
        self.data: list[bytes] = []
        self.control: list[bytes] = []
        #: Bytes queued and not yet taken by the transport.
        self.size = 0
        self.messages_sent: int = 0
        self.bytes_sent = 0
        #: What the kernel did not take; the writer task waits for it.
        self.unwritten: memoryview | None = None
        #: Whether this one is among them.
        self.is_marked = False
        #: Writes without waiting, and returns how much was taken; None where that cannot be.
        self.write: Callable[[bytes | memoryview], int] | None = None
        #: Does so with a head and a body; the native lane uses it for what is large.
        self.write_both: Callable[[bytes, Message], int] | None = None
        #: Reasons why messages must wait: others do, or one that leaves in pieces.
        self.detours = 0
        #: Whether messages may be sent, and whether anything may be written.
        self.open = True
        self.dead = False
        #: Tasks that wait for a change.
        self.parked = 0
        #: A message of so many bytes is one frame, and not compressed.
        self.plain = 0
        #: Where masks come from; None: frames are not masked.
        self.token_bytes: Callable[[int], bytes] | None = None

    def offer(self, message: object, waiting: Sized, paid: bool = False) -> bool:
        """Send a plain message; False if that needs a second thought, or a checkpoint not ``paid``.

        It is written at once if nothing is queued, or left to a flush soon while others wait to be
        received, whose answers may leave with it, unless it is large enough to leave alone.
        """
        if isinstance(message, str):
            first, size = _TEXT, len(message) * (1 if message.isascii() else 4)
        elif isinstance(message, bytes):
            first, size = _BINARY, len(message)
        else:
            return False
        if size > self.plain or not self.has_room():
            return False
        if not paid and not self.turn.count(len(message)):
            return False
        return self._frame(first, message, waiting)

    def offer_encoded(self, is_text: bool, data: bytes, waiting: Sized) -> bool:
        """Do as `offer`, with a message that is encoded already, and not large."""
        size = len(data)
        if size > self.plain or size >= LARGE or not self.has_room() or not self.turn.count(size):
            return False
        return self._frame(_TEXT if is_text else _BINARY, data, waiting)

    def _frame(self, first: int, message: Message, waiting: Sized) -> bool:
        key = None if self.token_bytes is None else self.token_bytes(4)
        encoded = frame(first, message, key)
        self.enqueue(encoded, later=len(message) < LARGE and len(waiting) > 0)
        return self.open

    def pass_on(self, encoded: bytes, size: int, later: bool) -> bool | None:
        """Queue a frame made for many; return whether it is out, None if it needs more thought."""
        if self.token_bytes is not None or size > self.plain or not self.has_room():
            return None
        self.enqueue(encoded, later=later)
        return self.size == 0 if self.open else None

    def has_room(self) -> bool:
        """Whether a message may be queued now."""
        return (
            self.open
            and not self.detours
            and self.size < self.size_mark
            and len(self.data) < self.frames_mark
        )

    def enqueue(self, encoded: bytes, *, later: bool) -> None:
        """Queue a message of one frame, whatever the marks say, and see that it is written."""
        self.messages_sent += 1
        if not later and self.write is not None and self.is_idle():
            self._write_now(encoded)
            return
        self.data.append(encoded)
        self.size += len(encoded)
        if later and self.write is not None:
            self.mark()
        else:
            self.schedule()

    def is_idle(self) -> bool:
        """Whether nothing is queued, nor left over by the kernel."""
        return self.unwritten is None and not self.data and not self.control

    def mark(self) -> None:
        """Leave what is queued to the next turn, unless the writer waits for the kernel."""
        if self.unwritten is None and not self.is_marked:
            self.is_marked = True
            self.marked.append(self)
            if len(self.marked) == 1:
                self.call_turn()

    def flush_mark(self) -> None:
        """Write what was left to this turn; a single frame goes past the queue."""
        self.is_marked = False
        if len(self.data) == 1 and not self.control and self.unwritten is None and self.open:
            encoded = self.data.pop()
            self.size -= len(encoded)
            self._write_now(encoded)
        else:
            self.flush()

    def _write_now(self, encoded: bytes) -> None:
        """Write a frame past the empty queue."""
        assert self.write is not None
        try:
            taken = self.write(encoded)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self.broke(error)
            return
        self.bytes_sent += taken
        if taken < len(encoded):
            self.size += len(encoded) - taken
            self.left_over(memoryview(encoded)[taken:])
        elif self.parked:
            self.wake()

    def flush(self) -> None:
        """Write what the transport takes now. Never raises: a broken link goes to `broke`."""
        # What the kernel did not take last time is the writer task's.
        if self.unwritten is None and (self.data or self.control):
            self.write_all()

    def write_all(self) -> None:
        """Do so with what the kernel did not take last time, too."""
        if self.write is None or self.dead:
            return
        try:
            while (chunk := self.next_chunk()) is not None:
                taken = self.write(chunk)
                self.took(taken)
                if taken < len(chunk):
                    self.left_over(memoryview(chunk)[taken:])
                    break
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self.broke(error)
        if self.parked:
            self.wake()

    def next_chunk(self) -> bytes | memoryview | None:
        """Take what is to be written next out of the queue: small frames together."""
        if self.unwritten is not None:
            rest, self.unwritten = self.unwritten, None
            return rest
        data, control = self.data, self.control
        if not control:
            if not data:
                return None
            if len(data) == 1:
                return data.pop()
        total = sum(map(len, control))
        count = 0
        while count < len(data) and total < _GATHER:
            total += len(data[count])
            count += 1
        chunk = b"".join(control + data[:count])
        control.clear()
        del data[:count]
        return chunk

    def took(self, count: int) -> None:
        """Count what the transport took."""
        self.bytes_sent += count
        if not self.dead:  # a write that was on its way when all was dropped
            self.size -= count

    def left_over(self, rest: memoryview) -> None:
        """Leave what the kernel did not take to the writer task."""
        raise NotImplementedError

    def wake(self) -> None:
        """Let everyone who waits here look again."""
        raise NotImplementedError

    def failed(self, error: Exception) -> None:
        """Hear of a bug in writing, which is to end this connection alone."""
        raise NotImplementedError

    def broke(self, error: Exception) -> None:
        """Hear that the transport is broken, or closed."""
        raise NotImplementedError

    def schedule(self) -> None:
        """See that what is queued is written as soon as can be."""
        raise NotImplementedError

    def call_turn(self) -> None:
        """See that somebody calls `flush_all` at the next turn of the scheduler."""
        raise NotImplementedError


def flush_all(marked: list[OutLane]) -> None:
    """Write what was left to this turn of the scheduler, and empty the list."""
    lanes = marked.copy()
    marked.clear()
    for lane in lanes:
        try:
            lane.flush_mark()
        except Exception as error:  # noqa: BLE001 - `failed` reports it
            lane.failed(error)  # the others behind it get their turn
