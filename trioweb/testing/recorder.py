"""What crossed the wires of a virtual network, as lines that people and `replay` can read.

A line holds the time in seconds, who sent it to whom, what it was, its size in bytes, and its
payload: in quotes as JSON does it where that is text, else in hexadecimal digits::

    0.150000 client:49152 > server:80 text 5 "hello"
    0.150000 server:80 > client:49152 binary 2 0x00ff
    0.200000 client:49152 > server:80 close 5 1000 "bye"
    0.250000 server:80 > client:49152 closed

The names of frames stand in `trioweb.testing.sniffer`: a ``+`` behind one says that more fragments
follow. ``...`` at the end of a line says that the payload was cut.
"""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple, Self

import trio

from ..types import Message, Side
from .sniffer import FRAME_KIND, Sniffed, Sniffer
from .wires import Address, VirtualStream

__all__ = ["Entry", "Recorder", "parse_recording"]

#: Lines that say how a connection began and ended: they have no size.
_EVENTS = frozenset({"connect", "eof", "closed", "reset", "vanished"})
_TEXTS = frozenset({"text", "continuation", "http", "ping", "pong"})
_CUT = " ..."


class _Place(NamedTuple):
    """What stands in a line before its size."""

    time: float
    source: Address
    target: Address
    kind: str


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a recording."""

    #: Seconds on Trio's clock, in whole microseconds.
    time: float
    source: Address
    target: Address
    #: ``connect``, ``http``, the name of a frame, ``bytes``, ``eof``, ``closed``, ``reset``,
    #: ``vanished``.
    kind: str
    #: Bytes of payload, None where there is none to speak of.
    size: int | None = None
    data: bytes = b""

    @property
    def is_cut(self) -> bool:
        """Whether the payload was not kept whole."""
        return self.size is not None and self.size != len(self.data)

    def __str__(self) -> str:
        line = f"{self.time:.6f} {_name(self.source)} > {_name(self.target)} {self.kind}"
        if self.size is None:
            return line
        payload = _show(self.kind, self.data)
        return f"{line} {self.size}{payload and ' ' + payload}{_CUT if self.is_cut else ''}"

    @classmethod
    def parse(cls, line: str) -> Self:
        """Read a line; raises `ValueError` for one that is none, and says why."""
        line = line.strip()
        try:
            place, size, payload = _split(line)
            return cls(*place, size, b"" if size is None else _sized(place.kind, size, payload))
        except ValueError as error:
            shown = line if len(line) < 100 else f"{line[:96]}{_CUT}"
            raise ValueError(f"not a line of a recording: {shown!r} ({error})") from None


class Recorder:
    """Put it into ``network.taps``; it keeps the last ``max_lines`` lines within ``max_bytes``.

    Times are Trio's. A frame gets its line when its last byte is on the wire; retransmissions and
    TCP's own packets get none. What is no whole frame when its sender ends is ``bytes``.
    ``max_bytes`` counts payloads; of a frame that is under way as many are kept beside them.

    ``Recorder(parse_recording(text))`` is a recording of before, to ask it the same questions; it
    is held whole until something is recorded behind it.
    """

    def __init__(
        self,
        entries: Iterable[Entry] = (),
        *,
        max_lines: int = 10_000,
        max_bytes: int = 2**24,
    ) -> None:
        if max_lines < 1 or max_bytes < 1:
            raise ValueError("max_lines and max_bytes must be positive")
        #: Lines that were forgotten for the bounds, the oldest first.
        self.dropped = 0
        self._max_lines = max_lines
        self._max_bytes = max_bytes
        self._entries = deque(entries)
        self._size = sum(len(entry.data) for entry in self._entries)
        self._sniffers: dict[VirtualStream, Sniffer] = {}
        #: The ways back, as yet silent, of the connections that we saw begin.
        self._expected: set[tuple[Address, Address]] = set()

    @property
    def entries(self) -> list[Entry]:
        """The lines as they are now."""
        return list(self._entries)

    def between(self, source: str, target: str) -> list[Entry]:
        """Return the lines from one host to another.

        A name such as ``client`` stands for all of that host's connections, ``client:49152`` for
        one of them.
        """
        return [e for e in self._entries if _is(e.source, source) and _is(e.target, target)]

    def messages(self, source: str, target: str) -> list[Message]:
        """Return the messages among those lines: fragments joined, without what is not whole.

        What to compare after a `replay`: masks, pings and times are not in it. Raises `ValueError`
        for a payload that was cut.
        """
        messages: list[Message] = []
        begun: dict[tuple[Address, Address], tuple[str, bytes]] = {}
        for entry in self.between(source, target):
            name = entry.kind.removesuffix("+")
            way = (entry.source, entry.target)
            if name not in ("text", "binary", "continuation"):
                continue
            if entry.is_cut:
                raise ValueError(f"this line's payload was cut: {entry}")
            if name == "continuation":
                if way not in begun:
                    continue
                name, data = begun.pop(way)
                data += entry.data
            else:
                data = entry.data
            if entry.kind.endswith("+"):
                begun[way] = (name, data)
            else:
                messages.append(data if name == "binary" else data.decode(errors="replace"))
        return messages

    def __str__(self) -> str:
        return "".join(f"{entry}\n" for entry in self._entries)

    # --- the tap -----------------------------------------------------------------------------

    def connected(self, stream: VirtualStream) -> None:
        """Note a connection."""
        self._sniffers[stream] = Sniffer(self._max_bytes, Side.CLIENT)
        self._expected.add((stream.remote_address, stream.local_address))
        self._note(stream, "connect")

    def sent(self, stream: VirtualStream, data: bytes) -> None:
        """Note bytes."""
        if stream not in self._sniffers:
            way = (stream.local_address, stream.remote_address)
            sender = Side.SERVER if way in self._expected else None
            self._sniffers[stream] = Sniffer(self._max_bytes, sender)
        for sniffed in self._sniffers[stream].feed(data):
            self._note(stream, *sniffed)

    def ended(self, stream: VirtualStream, how: str) -> None:
        """Note an end, and what was cut off by it."""
        sniffer = self._sniffers.pop(stream, None)
        rest: Sniffed | None = sniffer.rest() if sniffer is not None else None
        self._expected.discard((stream.local_address, stream.remote_address))
        if rest is not None:
            self._note(stream, *rest)
        self._note(stream, how)

    def _note(
        self, stream: VirtualStream, kind: str, size: int | None = None, data: bytes = b""
    ) -> None:
        time = round(trio.current_time(), 6)
        self._entries.append(
            Entry(time, stream.local_address, stream.remote_address, kind, size, data)
        )
        self._size += len(data)
        while len(self._entries) > self._max_lines or self._size > self._max_bytes:
            self._size -= len(self._entries.popleft().data)
            self.dropped += 1


def parse_recording(text: str | Iterable[str]) -> list[Entry]:
    """Read what `Recorder` prints, from a string or from lines (an open file, say).

    Raises `ValueError` that names a line which is none, by its number and with the reason.
    """
    entries: list[Entry] = []
    for number, line in enumerate(text.split("\n") if isinstance(text, str) else text, 1):
        if line.strip():
            try:
                entries.append(Entry.parse(line))
            except ValueError as error:
                raise ValueError(f"line {number}: {error}") from None
    return entries


def _is(address: Address, name: str) -> bool:
    return name in (address[0], f"{address[0]}:{address[1]}")


def _split(line: str) -> tuple[_Place, int | None, str]:
    """Take a line apart; its payload comes as it is shown, with a blank before it."""
    fields = line.split(" ", 6)
    if len(fields) < 5 or fields[2] != ">":
        raise ValueError("it does not begin as one does: time host:port > host:port kind")
    place = _Place(_time(fields[0]), _address(fields[1]), _address(fields[3]), fields[4])
    if place.kind in _EVENTS:
        if len(fields) > 5:
            raise ValueError(f"behind {place.kind!r} comes nothing")
        return place, None, ""
    if place.kind not in ("http", "bytes") and not FRAME_KIND.fullmatch(place.kind):
        raise ValueError(f"there is no kind {place.kind!r}")
    if len(fields) < 6:
        raise ValueError("its size is missing")
    return place, _number(fields[5]), f" {fields[6]}" if len(fields) > 6 else ""


def _sized(kind: str, size: int, payload: str) -> bytes:
    data = _read(kind, payload.removesuffix(_CUT))
    is_cut = payload.endswith(_CUT)
    if len(data) >= size if is_cut else len(data) != size:
        raise ValueError(f"its payload is {len(data)} bytes, not {size}")
    return data


def _show(kind: str, data: bytes) -> str:
    if kind.startswith("close") and len(data) > 1 and not kind.endswith("+"):
        code, reason = int.from_bytes(data[:2], "big"), data[2:]
        return f"{code} {_show('text', reason)}" if reason else str(code)
    text = _text(kind, data) if data else ""
    return f'"{_escape(text)}"' if text else f"0x{data.hex()}" if data else ""


def _text(kind: str, data: bytes) -> str:
    """Return a payload as text, or nothing where it is none."""
    name, _, unusual = kind.removesuffix("+").partition("-")
    if name not in _TEXTS and kind != "bytes":
        return ""
    if "rsv" in unusual:  # compressed, most likely
        return ""
    try:
        text = data.decode("latin-1" if kind == "http" else "utf-8")
    except UnicodeDecodeError:  # cut inside a character, or not text at all
        return ""
    # A part of something may decode by accident.
    is_text = kind != "bytes" or all(c.isprintable() or c in "\r\n\t" for c in text)
    return text if is_text else ""


def _name(address: Address) -> str:
    """Write an address; a blank in a name would end it."""
    name, port = address
    return f"{_escape(name)}:{port}".replace(" ", r"\u0020")


def _escape(text: str) -> str:
    """Write text as JSON does, and what does not print as an escape."""
    quoted = json.dumps(text, ensure_ascii=False)[1:-1]
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in quoted)


def _unescape(shown: str) -> str:
    try:
        text = json.loads(f'"{shown}"')
    except json.JSONDecodeError as error:
        raise ValueError(f'{error.msg}: "{shown[:40]}"') from None
    assert isinstance(text, str)  # quotes inside would have been an error
    return text


def _read(kind: str, shown: str) -> bytes:
    shown = shown.strip(" ")
    if not shown:
        return b""
    if shown.startswith("0x"):
        return bytes.fromhex(shown[2:])
    if kind.startswith("close"):
        code, _, reason = shown.partition(" ")
        if _number(code) >= 2**16:
            raise ValueError(f"a close code has two bytes, not {code}")
        return _number(code).to_bytes(2, "big") + _read("text", reason)
    if len(shown) < 2 or not shown.startswith('"') or not shown.endswith('"'):
        raise ValueError(f'a payload is written as "..." or 0x..., not {shown[:40]}')
    return _unescape(shown[1:-1]).encode("latin-1" if kind == "http" else "utf-8")


def _time(text: str) -> float:
    time = float(text)
    if not math.isfinite(time):
        raise ValueError(f"the time is {text}")
    return time


def _number(text: str) -> int:
    if not (text.isascii() and text.isdecimal()):
        raise ValueError(f"not a number: {text[:40]!r}")
    return int(text)


def _address(text: str) -> Address:
    name, colon, port = text.rpartition(":")
    if not colon:
        raise ValueError(f"{text!r} has no port")
    return _unescape(name), _number(port)
