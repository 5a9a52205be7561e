"""What a stream of frames means, straight from RFC 6455 and RFC 7692: the oracle.

It sees the whole stream at once, has no state to lose between two reads, and shares no code with
what it judges. Where the standards leave a choice, so does the verdict:

- A header with several defects may be failed for any of them.
- A header that is not whole yet may be failed for a defect that shows already, or waited for.
- A compressed message that stops being DEFLATE, gets too large, or is no UTF-8, more than one of
  them in one and the same frame, may be failed for any.
- A close frame with a bad code and a bad reason may be failed for either.
- These may be failed, or taken: a copy from beyond the window that was agreed on; a compressed
  message of no bytes at all, or whose last byte ends a last block (RFC 7692, 7.2.3.4 and
  7.2.3.6 want one more); one with very many last blocks; one that is not too large once
  inflated but is so on the wire.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeAlias

from .inflating import Inflating, NotDeflate, TooLarge

__all__ = ["Ending", "Event", "Reference", "Verdict", "bad_utf8", "judge"]

#: ("text", str), ("binary", bytes), ("ping", bytes), ("pong", bytes), ("close", code, reason).
Event: TypeAlias = tuple[object, ...]

_FINAL_BLOCKS = 4
_TAIL = b"\x00\x00\xff\xff"


@dataclass(frozen=True)
class Ending:
    """One end of a connection, as far as reading goes.

    ``window`` is the size of the peer's compression window as a power of two, None without
    permessage-deflate; ``takeover`` is whether the peer keeps it between messages.
    """

    server: bool
    max_message: int
    max_fragments: int
    window: int | None = None
    takeover: bool = True


@dataclass
class Verdict:
    """The events of a stream, and how it may end."""

    events: list[Event] = field(default_factory=list)
    #: The codes of which one must be the failure; empty when there must be none.
    failures: frozenset[int] = frozenset()
    #: (events before, code): failures that are right too.
    doubts: set[tuple[int, int]] = field(default_factory=set)

    def allows(self, events: list[Event], failure: int | None) -> bool:
        """Whether these events, and this failure after them, are right."""
        if events == self.events and (
            failure in self.failures if self.failures else failure is None
        ):
            return True
        return (
            failure is not None
            and (len(events), failure) in self.doubts
            and events == self.events[: len(events)]
        )


class _Fail(Exception):
    def __init__(self, codes: Iterable[int]) -> None:
        super().__init__(codes)
        self.codes = frozenset(codes)


class _More(Exception):
    """The stream ends here, and nothing is wrong with that."""


def bad_utf8(data: bytes) -> tuple[bool, bool]:
    """Return whether a byte cannot be right (RFC 3629, 4), and whether the end is missing."""
    at = 0
    while at < len(data):
        first = data[at]
        least, most = 0x80, 0xBF
        if first < 0x80:
            follow = 0
        elif 0xC2 <= first <= 0xDF:
            follow = 1
        elif 0xE0 <= first <= 0xEF:
            follow = 2
            least = 0xA0 if first == 0xE0 else least
            most = 0x9F if first == 0xED else most
        elif 0xF0 <= first <= 0xF4:
            follow = 3
            least = 0x90 if first == 0xF0 else least
            most = 0x8F if first == 0xF4 else most
        else:
            return True, False
        for byte in data[at + 1 : at + 1 + follow]:
            if not least <= byte <= most:
                return True, False
            least, most = 0x80, 0xBF
        if at + follow >= len(data):
            return False, True
        at += 1 + follow
    return False, False


def _close_is_registered(code: int) -> bool:
    # RFC 6455, 7.4.1 and 7.4.2, and 1012 to 1014 of the IANA registry.
    return code in (*range(1000, 1004), *range(1007, 1015)) or 3000 <= code <= 4999


@dataclass(frozen=True)
class _Header:
    fin: bool
    rsv1: bool
    opcode: int
    length: int
    masked: bool


class Reference:
    """Decodes one stream; `verdict` is what came of it."""

    def __init__(self, end: Ending, data: bytes) -> None:
        self.verdict = Verdict()
        self._end = end
        self._data = data
        self._at = 0
        #: The message under way: its kind, what is known of it, its frames and wire bytes.
        self._kind = ""
        self._content = b""
        self._frames = 0
        self._wire = 0
        self._compressed = False
        self._inflating = Inflating()

    def run(self) -> Verdict:
        """Decode it all."""
        try:
            while True:
                self._frame()
        except _More:
            pass
        except _Fail as fail:
            self.verdict.failures = fail.codes
        return self.verdict

    def _take(self, size: int) -> bytes:
        if len(self._data) - self._at < size:
            raise _More
        self._at += size
        return self._data[self._at - size : self._at]

    def _doubt(self, *codes: int) -> None:
        self.verdict.doubts |= {(len(self.verdict.events), code) for code in codes}

    def _frame(self) -> None:
        header = self._header()
        key = self._take(4) if header.masked else bytes(4)
        if header.opcode >= 8:
            payload = _unmask(self._take(header.length), key)
            self._control(header.opcode, payload)
            return
        if header.opcode:
            self._kind = "text" if header.opcode == 1 else "binary"
            self._compressed = header.rsv1
            self._content = b""
            self._frames = self._wire = 0
            self._inflating.start(self._end.max_message)
        self._frames += 1
        self._wire += header.length
        there = self._data[self._at : self._at + header.length]
        self._at += len(there)
        self._piece(_unmask(there, key), last=header.fin and len(there) == header.length)
        if len(there) < header.length:
            raise _More
        if header.fin:
            content = self._content
            self.verdict.events.append(
                (self._kind, content.decode() if self._kind == "text" else content)
            )
            self._kind = ""

    # --- headers (RFC 6455, 5.2) -------------------------------------------------------------

    def _header(self) -> _Header:
        defects: set[int] = set()
        try:
            header = self._read_header(defects)
        except _More:
            self._doubt(*defects)
            raise
        if defects:
            raise _Fail(defects)
        return header

    def _read_header(self, defects: set[int]) -> _Header:
        first = self._take(1)[0]
        fin, rsv, opcode = bool(first & 0x80), first >> 4 & 7, first & 15
        begins = opcode in (1, 2)
        may_compress = self._end.window is not None and begins
        if (
            rsv & 3
            or (rsv & 4 and not may_compress)
            or opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)
            or (opcode >= 8 and not fin)
            or (begins and self._kind)
            or (opcode == 0 and not self._kind)
        ):
            defects.add(1002)
        second = self._take(1)[0]
        masked, length = bool(second & 0x80), second & 0x7F
        if masked is not self._end.server or (opcode >= 8 and length > 125):
            defects.add(1002)
        if length > 125:
            least = 126 if length == 126 else 2**16
            length = int.from_bytes(self._take(2 if length == 126 else 8), "big")
            if not least <= length < 2**63:
                defects.add(1002)
        if opcode < 8:
            self._check_limits(opcode, length, bool(rsv & 4), defects)
        return _Header(fin, bool(rsv & 4), opcode, length, masked)

    def _check_limits(self, opcode: int, length: int, rsv1: bool, defects: set[int]) -> None:
        continues = opcode == 0
        if length + (self._wire if continues else 0) > self._end.max_message:
            if self._compressed if continues else rsv1:
                self._doubt(1009)
            else:
                defects.add(1009)
        if continues and self._kind and self._frames >= self._end.max_fragments:
            defects.add(1009)

    # --- payloads ----------------------------------------------------------------------------

    def _control(self, opcode: int, payload: bytes) -> None:
        if opcode != 8:
            self.verdict.events.append(("ping" if opcode == 9 else "pong", payload))
            return
        if not payload:
            self.verdict.events.append(("close", 1005, ""))
            raise _More
        wrong = set()
        code = int.from_bytes(payload[:2], "big")
        if len(payload) == 1 or not _close_is_registered(code):
            wrong.add(1002)
        if any(bad_utf8(payload[2:])):
            wrong.add(1007)
        if wrong:
            raise _Fail(wrong)
        self.verdict.events.append(("close", code, payload[2:].decode()))
        raise _More

    def _piece(self, piece: bytes, *, last: bool) -> None:
        """Take what there is of a frame's payload; ``last`` if it ends the message."""
        failures: set[int] = set()
        if not self._compressed:
            self._content += piece
        else:
            with suppress(TooLarge):
                try:
                    self._inflate(piece, last=last)
                except NotDeflate:
                    failures.add(1007)
            if self._inflating.too_large:
                failures.add(1009)
            self._content = bytes(self._inflating.output)
        if self._kind == "text":
            wrong, unfinished = bad_utf8(self._content)
            if wrong or (unfinished and last and not failures):
                failures.add(1007)
        if failures:
            raise _Fail(failures)

    def _inflate(self, piece: bytes, *, last: bool) -> None:
        inflating = self._inflating
        try:
            inflating.feed(piece)
            # The tail makes an end; a message that has one already needs none.
            if last and (self._wire == 0 or inflating.ended):
                self._doubt(1007)
            elif last:
                inflating.feed(_TAIL)
        finally:
            assert self._end.window is not None
            if inflating.reach > 2**self._end.window:
                self._doubt(1007)
            if inflating.final_blocks > _FINAL_BLOCKS:
                self._doubt(1008)
        if last and inflating.in_block:
            raise NotDeflate("a message ends inside a block")
        if last and not self._end.takeover:
            self._inflating = Inflating()
            self._inflating.start(self._end.max_message)
            self._inflating.output += inflating.output


def _unmask(data: bytes, key: bytes) -> bytes:
    return bytes(byte ^ key[at % 4] for at, byte in enumerate(data))


def judge(end: Ending, data: bytes) -> Verdict:
    """Return what a stream means to one end."""
    return Reference(end, data).run()
