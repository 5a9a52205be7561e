"""What was sent and received, and what that breaks."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from trioweb.types import Message

#: Virtual seconds that a bound may be missed by: rounding, and a cut stream's last words.
LEEWAY = 0.1


class Violation(AssertionError):
    """Invariants that a program broke."""


@dataclass
class Verdict:
    """Collects what was broken and how much was checked: in a handler nothing may be raised."""

    broken: list[str] = field(default_factory=list)
    programs: int = 0
    connections: int = 0
    messages: int = 0
    #: Virtual seconds that connections were open, in sum.
    seconds: float = 0
    faults: Counter[str] = field(default_factory=Counter)
    endings: Counter[str] = field(default_factory=Counter)

    def expect(self, holds: bool, invariant: str, detail: object = "") -> None:
        """Note that an invariant is broken, unless it holds."""
        if not holds:
            self.broken.append(f"{invariant}: {detail}")

    def add(self, other: Verdict) -> None:
        """Add another one's counts."""
        self.broken += other.broken
        self.programs += other.programs
        self.connections += other.connections
        self.messages += other.messages
        self.seconds += other.seconds
        self.faults += other.faults
        self.endings += other.endings

    def __str__(self) -> str:
        return (
            f"{self.programs:,} programs, {self.connections:,} connections, "
            f"{self.messages:,} messages checked, {self.faults.total():,} faults, "
            f"{self.seconds / 3600:,.1f} connection-hours"
        )

    def report(self) -> str:
        """Return all counts, a kind a line."""
        lines = [str(self), "faults:"]
        lines += [f"  {kind:24}{number:12,}" for kind, number in sorted(self.faults.items())]
        lines += ["how connections ended:"]
        lines += [f"  {kind:24}{number:12,}" for kind, number in sorted(self.endings.items())]
        lines += ["no invariant was broken" if not self.broken else "BROKEN:"]
        return "\n".join(lines)

    def raise_if_broken(self) -> None:
        """Raise what was collected."""
        if self.broken:
            raise Violation("\n".join(self.broken))


@dataclass
class Ledger:
    """One direction of one connection."""

    name: str
    verdict: Verdict
    #: What `send` took, in its order.
    sent: list[Message] = field(default_factory=list)
    attempts: int = 0
    #: Bytes of the largest that was tried, and of all that were sent.
    largest: int = 0
    size: int = 0
    received: int = 0
    #: Messages that left in pieces and have not come to their end.
    unfinished: int = 0

    def make(self, size: int, *, text: bool) -> Message:
        """Make the next message to try: no two are the same, and text has all kinds of letters."""
        self.attempts += 1
        head = f"{self.name} {self.attempts}." + ("aß漢😀" if text else "")
        whole = (head * (size // len(head) + 1))[: max(size, len(head))]
        data = whole.encode()
        self.largest = max(self.largest, len(data))
        return whole if text else data

    def took(self, message: Message) -> None:
        """Note that a message was sent."""
        self.sent.append(message)
        self.size += len(message.encode() if isinstance(message, str) else message)

    def take(self, message: Message) -> None:
        """Check what was received: a prefix of what was sent, in order, whole."""
        self.verdict.messages += 1
        expected = self.sent[self.received] if self.received < len(self.sent) else None
        if message != expected:  # nothing is put into words that nobody reads
            self.verdict.expect(
                False,
                "what is received is a prefix of what was sent, in order, whole",
                f"message {self.received} of {self.name}: got {message[:40]!r} ({len(message)}), "
                f"sent {expected and expected[:40]!r} ({expected and len(expected)})",
            )
        self.received += 1

    def complete(self) -> None:
        """Check, after the sender's clean close, that nothing is missing."""
        self.verdict.endings["complete"] += 1
        if self.unfinished:  # a drain in the midst of a message: it and what waits for it are lost
            return
        self.verdict.expect(
            self.received == len(self.sent),
            "a clean end comes after everything that was sent",
            f"{self.name}: {self.received} of {len(self.sent)} messages",
        )
