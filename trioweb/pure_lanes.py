"""The lanes in Python: `lanes` says what they are for, and which ones run."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection

from .config import Limits
from .protocol.assembler import Piece
from .protocol.frames import FIN, Opcode
from .protocol.pure import frame
from .types import Message

__all__ = ["InLane", "OutLane", "Turn"]

#: A full checkpoint at least every so many calls, or bytes, whichever is first.
_CALLS = 64
_BYTES = 2**16
_TEXT = FIN | Opcode.TEXT
_BINARY = FIN | Opcode.BINARY


class Turn:
    """What the tasks of one run have sent and received since one of them last ran a checkpoint.

    All tasks share it: no task gets further than it would alone.
    """

    __slots__ = ("calls", "crowded", "size")

    def __init__(self) -> None:
        self.calls = 0
        self.size = 0
        #: Whether something was broadcast already since the tasks that can run have run.
        self.crowded = False

    def due(self, size: int) -> bool:
        """Count a call of so many bytes; tell whether it must run a checkpoint."""
        if self.count(size):
            return False
        self.calls = self.size = 0
        return True

    def count(self, size: int) -> bool:
        """Count a call of so many bytes, unless a checkpoint is due."""
        if self.calls + 1 >= _CALLS or self.size + size >= _BYTES:
            return False
        self.calls += 1
        self.size += size
        return True

    def taken(self) -> None:
        """Hear that a task has run a checkpoint."""
        self.calls = self.size = 0


class InLane:
    """The inbox: what is decoded and not yet taken."""

    __slots__ = ("inbox", "inbox_size", "is_full", "turn")

    def __init__(self, turn: Turn) -> None:
        self.turn = turn
        #: Messages, and pieces of those that are received as streams.
        self.inbox: deque[Message | Piece] = deque()
        #: Their memory, and those that were taken since the inbox was last empty.
        self.inbox_size = 0
        #: The inbox was at its mark, and is not empty since.
        self.is_full = False

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
        inbox.popleft()
        if not inbox:
            self.emptied()
        return message

    def emptied(self) -> None:
        """Note that the inbox is empty."""
        self.inbox_size = 0
        self.is_full = False


class OutLane:
    """The outgoing queue, and the way of a message that may go without a second thought."""

    __slots__ = (
        "control",
        "data",
        "detours",
        "frames_mark",
        "is_marked",
        "is_nonblocking",
        "messages_sent",
        "open",
        "plain",
        "size",
        "size_mark",
        "token_bytes",
        "turn",
        "unwritten",
    )

    def __init__(self, turn: Turn, limits: Limits) -> None:
        self.turn = turn
        self.size_mark = limits.outbox_bytes
        self.frames_mark = limits.outbox_frames
        self.data: deque[bytes] = deque()
        self.control: list[bytes] = []
        #: Bytes queued and not yet taken by the transport.
        self.size = 0
        self.messages_sent = 0
        #: What the kernel did not take; the writer task waits for it.
        self.unwritten: memoryview | None = None
        #: Whether a write at the next turn of the scheduler is on its way.
        self.is_marked = False
        self.is_nonblocking = False
        #: Reasons why messages must wait: others do, or one that leaves in pieces.
        self.detours = 0
        #: Whether messages may be sent.
        self.open = True
        #: A message of so many bytes is one frame, and not compressed.
        self.plain = 0
        #: Where masks come from; None: frames are not masked.
        self.token_bytes: Callable[[int], bytes] | None = None

    def offer(self, message: object, waiting: Collection[object]) -> bool:
        """Send a plain message; False if that needs a second thought, or a checkpoint.

        It is written at once if nothing is queued, or left to a flush soon while others wait to be
        received, whose answers may leave with it.
        """
        turn = self.turn
        if isinstance(message, str):
            first, size = _TEXT, 4 * len(message)
        elif isinstance(message, bytes):
            first, size = _BINARY, len(message)
        else:
            return False
        if size > self.plain or not self.has_room() or not turn.count(len(message)):
            return False
        key = None if self.token_bytes is None else self.token_bytes(4)
        encoded = frame(first, message, key)
        self.enqueue(encoded, later=bool(waiting))
        return self.open

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
        if self.is_nonblocking:
            idle = self.unwritten is None and not self.data and not self.control
            if idle and not later:
                self.write_now(encoded)
                return
        self.data.append(encoded)
        self.size += len(encoded)
        if not (later and self.is_marked):
            self.schedule(now=not later)

    def write_now(self, encoded: bytes) -> None:
        """Write a frame past the empty queue."""
        raise NotImplementedError

    def schedule(self, *, now: bool) -> None:
        """See that what is queued is written."""
        raise NotImplementedError
