"""What crossed the wires of a virtual network, as lines that people and `replay` can read.

A line holds the time, who sent it to whom, what it was, its size in bytes, and its payload: in
quotes as JSON does it where that is text, else in hexadecimal digits::

    0.150000 client:49152 > server:80 text 5 "hello"
    0.150000 server:80 > client:49152 binary 2 0x00ff
    0.200000 client:49152 > server:80 close 5 1000 "bye"
    0.250000 server:80 > client:49152 closed

A ``+`` behind the kind says that more fragments follow, and ``...`` that the payload was cut.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import trio

from .sniffer import Sniffed, Sniffer
from .wires import Address, VirtualStream

__all__ = ["Entry", "Recorder", "parse_recording"]

_TEXTS = ("text", "continuation", "http", "ping", "pong")


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a recording."""

    time: float
    source: Address
    target: Address
    #: ``connect``, ``http``, a kind of frame, ``bytes``, ``eof``, ``closed``, ``reset``,
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
        source, target = (f"{name}:{port}" for name, port in (self.source, self.target))
        line = f"{self.time:.6f} {source} > {target} {self.kind}"
        if self.size is None:
            return line
        payload = _show(self.kind, self.data)
        return f"{line} {self.size}{payload and ' ' + payload}{' ...' if self.is_cut else ''}"

    @classmethod
    def parse(cls, line: str) -> Self:
        """Read a line; raises `ValueError` for one that is none."""
        try:
            time, source, _, target, kind, *rest = line.split(" ", 6)
            size = int(rest[0]) if rest else None
            data = _read(kind, rest[1].removesuffix(" ...")) if len(rest) > 1 else b""
            return cls(float(time), _address(source), _address(target), kind, size, data)
        except ValueError as error:
            raise ValueError(f"not a line of a recording: {line!r} ({error})") from error


class Recorder:
    """Put it into ``network.taps``; it keeps the last ``max_lines`` lines within ``max_bytes``.

    Times are Trio's. A frame gets its line when its last byte is on the wire, retransmissions and
    TCP's own packets get none. What no longer fits is counted in ``dropped``.
    """

    def __init__(self, *, max_lines: int = 10_000, max_bytes: int = 2**24) -> None:
        if max_lines < 1 or max_bytes < 1:
            raise ValueError("max_lines and max_bytes must be positive")
        self.entries: deque[Entry] = deque()
        #: Lines that were forgotten for the bounds, the oldest first.
        self.dropped = 0
        self._max_lines = max_lines
        self._max_bytes = max_bytes
        self._size = 0
        self._sniffers: dict[VirtualStream, Sniffer] = {}

    def connected(self, stream: VirtualStream) -> None:
        """Note a connection."""
        self._add(stream, "connect")

    def sent(self, stream: VirtualStream, data: bytes) -> None:
        """Note bytes."""
        if stream not in self._sniffers:
            self._sniffers[stream] = Sniffer(self._max_bytes)
        for sniffed in self._sniffers[stream].feed(data):
            self._keep(stream, sniffed)

    def ended(self, stream: VirtualStream, how: str) -> None:
        """Note an end, and what was cut off by it."""
        sniffer = self._sniffers.pop(stream, None)
        rest = sniffer.rest() if sniffer is not None else None
        if rest is not None:
            self._keep(stream, rest)
        self._add(stream, how)

    def between(self, source: str, target: str) -> list[Entry]:
        """Return the entries from one host to another, by their names."""
        return [e for e in self.entries if (e.source[0], e.target[0]) == (source, target)]

    def __str__(self) -> str:
        return "".join(f"{entry}\n" for entry in self.entries)

    def _keep(self, stream: VirtualStream, sniffed: Sniffed) -> None:
        self._add(stream, *sniffed)

    def _add(
        self, stream: VirtualStream, kind: str, size: int | None = None, data: bytes = b""
    ) -> None:
        now = trio.current_time()
        self.entries.append(
            Entry(now, stream.local_address, stream.remote_address, kind, size, data)
        )
        self._size += len(data)
        while len(self.entries) > self._max_lines or self._size > self._max_bytes:
            self._size -= len(self.entries.popleft().data)
            self.dropped += 1


def parse_recording(text: str | Iterable[str]) -> list[Entry]:
    """Read what `Recorder` prints; raises `ValueError` that names a line which is none."""
    lines = text.split("\n") if isinstance(text, str) else text
    return [Entry.parse(line) for line in lines if line.strip()]


def _show(kind: str, data: bytes) -> str:
    if kind == "close" and len(data) > 1:
        code, reason = int.from_bytes(data[:2], "big"), data[2:]
        return f"{code} {_show('text', reason)}" if reason else str(code)
    if kind.rstrip("+") in _TEXTS:
        try:
            text = data.decode()
        except UnicodeDecodeError:  # cut inside a character, or not text at all
            pass
        else:
            quoted = json.dumps(text, ensure_ascii=False) if text else ""
            return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in quoted)
    return f"0x{data.hex()}" if data else ""


def _read(kind: str, shown: str) -> bytes:
    if kind == "close" and not shown.startswith("0x"):
        code, _, reason = shown.partition(" ")
        return int(code).to_bytes(2, "big") + (_read("text", reason) if reason else b"")
    if shown.startswith("0x"):
        return bytes.fromhex(shown[2:])
    text = json.loads(shown)
    if not isinstance(text, str):
        raise ValueError(f"a payload is a string or 0x..., not {shown}")  # noqa: TRY004 - it is input
    return text.encode()


def _address(text: str) -> Address:
    name, _, port = text.rpartition(":")
    return name, int(port)
