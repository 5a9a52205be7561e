"""DEFLATE straight from RFC 1951, one bit after the other: slow, obvious, and not zlib.

What comes out, and at which byte an error shows, is as with zlib, which reads only the bits that it
needs. Two things are noted that zlib does not tell: how far back a copy reached, and whether
the data ends inside a block.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from typing import TypeAlias

__all__ = ["Inflating", "NotDeflate", "TooLarge"]

_WINDOW = 2**15
#: Bytes beyond a limit after which it is no use to go on: zlib, whose buffer is full, still looks
#: at what comes next, and may find that it is wrong. The longest copy has 258.
_AHEAD = 300
# RFC 1951, 3.2.5: base and extra bits of lengths (codes from 257 on) and of distances.
_LENGTHS = [
    *[(3 + at, 0) for at in range(8)],
    *[(11 + 2 * at, 1) for at in range(4)],
    *[(19 + 4 * at, 2) for at in range(4)],
    *[(35 + 8 * at, 3) for at in range(4)],
    *[(67 + 16 * at, 4) for at in range(4)],
    *[(131 + 32 * at, 5) for at in range(4)],
    (258, 0),
]
_LENGTHS[27] = (227, 5)
_DISTANCES = [
    (1 + at, 0) if at < 4 else ((2 + at % 2 << at // 2 - 1) + 1, at // 2 - 1) for at in range(30)
]
# RFC 1951, 3.2.7: the order in which the lengths of the code length code come.
_ORDER = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15]

_Waits: TypeAlias = Generator[None, None, int]


class NotDeflate(Exception):
    """The data is not DEFLATE."""


class TooLarge(Exception):
    """Far more came out than the limit allows."""


class _Code:
    """A Huffman code from its lengths (RFC 1951, 3.2.2)."""

    def __init__(self, lengths: list[int]) -> None:
        self.symbols: dict[tuple[int, int], int] = {}
        self.longest = max(lengths, default=0)
        #: Codes of the longest length that stand for nothing; below 0 there are too many.
        self.unused = 2**self.longest
        code, before = 0, 0
        for length, symbol in sorted((its, at) for at, its in enumerate(lengths) if its):
            code <<= length - before
            before = length
            self.symbols[length, code] = symbol
            code += 1
            self.unused -= 2 ** (self.longest - length)


# RFC 1951, 3.2.6
_FIXED = _Code([8] * 144 + [9] * 112 + [7] * 24 + [8] * 8), _Code([5] * 32)


class Inflating:
    """One stream of DEFLATE data; a last block is followed by further ones (RFC 7692, 7.2.3.4)."""

    def __init__(self) -> None:
        self.history = bytearray()
        #: What came out since `start`, and how much may.
        self.output = bytearray()
        self.limit = 0
        #: Since `start`: blocks that said they were the last; the farthest reach of a copy.
        self.final_blocks = 0
        self.reach = 0
        self.in_block = False
        #: Whether the data so far ends with a last block.
        self.ended = False
        self._data: deque[int] = deque()
        self._hold = 0
        self._count = 0
        self._blocks = self._all_blocks()
        next(self._blocks)

    def start(self, limit: int) -> None:
        """Begin a message, of which at most ``limit`` bytes may come out."""
        self.limit = limit
        self.output.clear()
        self.final_blocks = self.reach = 0

    @property
    def too_large(self) -> bool:
        """Whether more came out than the limit allows."""
        return len(self.output) > self.limit

    def feed(self, data: bytes) -> None:
        """Inflate as far as the data goes; raises `NotDeflate` or `TooLarge`."""
        self._data.extend(data)
        next(self._blocks)

    def _all_blocks(self) -> Generator[None, None, None]:
        while True:
            last = yield from self._bits(1)
            self.in_block, self.ended = True, False
            kind = yield from self._bits(2)
            if kind == 0:
                yield from self._stored()
            elif kind == 1:
                yield from self._compressed(*_FIXED)
            elif kind == 2:
                yield from self._dynamic()
            else:
                raise NotDeflate("block type 3")
            self.in_block = False
            if last:
                self._to_byte()
                self.ended = True
                self.final_blocks += 1

    def _bits(self, wanted: int) -> _Waits:
        while self._count < wanted:
            while not self._data:
                yield
            self._hold |= self._data.popleft() << self._count
            self._count += 8
        bits = self._hold & (1 << wanted) - 1
        self._hold >>= wanted
        self._count -= wanted
        return bits

    def _to_byte(self) -> None:
        self._hold >>= self._count % 8
        self._count -= self._count % 8

    def _put(self, data: bytes) -> None:
        self.output += data
        self.history += data
        if len(self.history) > 4 * _WINDOW:
            del self.history[:-_WINDOW]
        if len(self.output) > self.limit + _AHEAD:
            raise TooLarge

    def _stored(self) -> Generator[None, None, None]:
        self._to_byte()
        both = yield from self._bits(32)
        length = both & 0xFFFF
        if length ^ 0xFFFF != both >> 16:
            raise NotDeflate("the length of a stored block is not said twice")
        while length:
            while not self._data:
                yield
            piece = bytes(self._data.popleft() for _ in range(min(length, len(self._data))))
            length -= len(piece)
            self._put(piece)

    def _symbol(self, code: _Code) -> _Waits:
        found = 0
        for length in range(1, max(code.longest, 1) + 1):
            found = found << 1 | (yield from self._bits(1))
            symbol = code.symbols.get((length, found))
            if symbol is not None:
                return symbol
        raise NotDeflate("a code that stands for nothing")

    def _dynamic(self) -> Generator[None, None, None]:
        sizes = yield from self._bits(14)
        literals, distances, count = (sizes & 31) + 257, (sizes >> 5 & 31) + 1, (sizes >> 10) + 4
        if literals > 286 or distances > 30:
            raise NotDeflate("too many symbols")
        lengths = [0] * 19
        for symbol in _ORDER[:count]:
            lengths[symbol] = yield from self._bits(3)
        code = _Code(lengths)
        if code.unused and code.longest:
            raise NotDeflate("code lengths: the code is not complete")
        lengths = yield from self._code_lengths(code, literals + distances)
        if not lengths[256]:
            raise NotDeflate("no end of block")
        both = _Code(lengths[:literals]), _Code(lengths[literals:])
        for code in both:
            if code.unused < 0 or (code.unused and code.longest > 1):
                raise NotDeflate("the code is not complete")
        yield from self._compressed(*both)

    def _code_lengths(self, code: _Code, count: int) -> Generator[None, None, list[int]]:
        lengths: list[int] = []
        while len(lengths) < count:
            if not code.longest:
                # A code without any symbol: zlib takes one bit for a 0 each time, and fails at the
                # end, for want of an end of block.
                yield from self._bits(1)
                lengths.append(0)
                continue
            symbol = yield from self._symbol(code)
            if symbol < 16:
                lengths.append(symbol)
                continue
            if symbol == 16 and not lengths:
                # zlib looks for the extra bits first.
                yield from self._bits(2)
                raise NotDeflate("nothing to repeat")
            extra, least = {16: (2, 3), 17: (3, 3), 18: (7, 11)}[symbol]
            repeat = least + (yield from self._bits(extra))
            if len(lengths) + repeat > count:
                raise NotDeflate("repeated beyond the end")
            lengths += [lengths[-1] if symbol == 16 else 0] * repeat
        return lengths

    def _compressed(self, literals: _Code, distances: _Code) -> Generator[None, None, None]:
        while True:
            symbol = yield from self._symbol(literals)
            if symbol < 256:
                self._put(bytes([symbol]))
                continue
            if symbol == 256:
                return
            if symbol > 285:
                raise NotDeflate("a length that does not exist")
            base, extra = _LENGTHS[symbol - 257]
            length = base + (yield from self._bits(extra))
            symbol = yield from self._symbol(distances)
            if symbol > 29:
                raise NotDeflate("a distance that does not exist")
            base, extra = _DISTANCES[symbol]
            distance = base + (yield from self._bits(extra))
            if distance > len(self.history):
                raise NotDeflate("a distance beyond the beginning")
            self.reach = max(self.reach, distance)
            piece = bytes(self.history[-distance:][:length])
            while len(piece) < length:
                piece += piece
            self._put(piece[:length])
