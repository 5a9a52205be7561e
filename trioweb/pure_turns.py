"""When a checkpoint is due, in Python; the native lanes have their own."""

from __future__ import annotations

__all__ = ["Turn"]

#: A full checkpoint at least every so many calls, or bytes, whichever is first.
_CALLS = 64
_BYTES = 2**16


class Turn:
    """What the tasks of one run have received, or sent, since one of them last ran a checkpoint.

    There is one for each way, and a checkpoint counts for both. All tasks share them: no task gets
    further than it would alone.
    """

    __slots__ = ("calls", "other", "size")

    def __init__(self) -> None:
        self.calls = 0
        self.size = 0
        #: The one for the other way.
        self.other: Turn | None = None

    def due(self, size: int) -> bool:
        """Count a call of so many bytes; tell whether it must run a checkpoint."""
        if self.count(size):
            return False
        self.taken()
        self.size = size
        return True

    def count(self, size: int) -> bool:
        """Count a call of so many bytes, unless a checkpoint is due."""
        if self.calls + 1 >= _CALLS or self.size + size > _BYTES:
            return False
        self.calls += 1
        self.size += size
        return True

    def taken(self) -> None:
        """Hear that a task has run a checkpoint."""
        self.calls = self.size = 0
        if self.other is not None:
            self.other.calls = self.other.size = 0
