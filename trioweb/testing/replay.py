"""A recording, played again to a handler."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import Unpack

import trio

from ..nursery import OwnNursery
from ..routing import Handler
from ..server import ServerOptions, open_server
from .network import VirtualNetwork
from .recorder import Entry, Recorder, parse_recording
from .wires import VirtualStream

__all__ = ["replay"]

_OPCODES = {"continuation": 0, "text": 1, "binary": 2, "close": 8, "ping": 9, "pong": 10}


async def replay(
    recording: Recorder | str | Iterable[Entry], handler: Handler, **options: Unpack[ServerOptions]
) -> Recorder:
    """Send a server all that clients sent in a recording, at the same times; record that anew.

    ``recording`` is a `Recorder`, its text, or entries of it; ``options`` are the server's. The
    clients' part is played frame by frame as it was put on the wire, right or wrong (but always
    masked), each connection's beginning and end included; what the server says to it, it says
    now. Raises `ValueError` for a recording that is not whole.
    """
    if isinstance(recording, Recorder):
        if recording.dropped:
            raise ValueError(f"the first {recording.dropped} lines of this recording were dropped")
        recording = recording.entries
    entries = parse_recording(recording) if isinstance(recording, str) else list(recording)
    for entry in entries:
        if entry.is_cut:
            raise ValueError(f"this line's payload was cut: {entry}")
    dialled = [entry for entry in entries if entry.kind == "connect"]
    network = VirtualNetwork()
    recorder = Recorder()
    network.taps.append(recorder)
    if not dialled:
        raise ValueError("no connection is made in this recording")
    start = trio.current_time() - entries[0].time
    name, port = dialled[0].target
    with network.host(name):
        async with open_server(handler, port, **options), OwnNursery() as nursery:
            players = [
                _Player(network, opened, [e for e in entries if e.source == opened.source])
                for opened in dialled
            ]
            for player in players:
                nursery.start_soon(player.run, start)
            for player in players:
                await player.done.wait()
    return recorder


class _Player:
    """One client's part."""

    def __init__(self, network: VirtualNetwork, opened: Entry, part: Sequence[Entry]) -> None:
        self.done = trio.Event()
        self._network = network
        self._opened = opened
        self._part = part

    async def run(self, start: float) -> None:
        host, _ = self._opened.source
        target, port = self._opened.target
        await trio.sleep_until(start + self._opened.time)
        with self._network.host(host) as machine:
            stream = await machine.open_stream(target, port)
        assert isinstance(stream, VirtualStream)
        async with stream, OwnNursery() as nursery:
            nursery.start_soon(_read_all, stream)
            try:
                for entry in self._part:
                    await trio.sleep_until(start + entry.time)
                    await self._play(stream, entry)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass  # this time the server went first
        self.done.set()

    async def _play(self, stream: VirtualStream, entry: Entry) -> None:
        match entry.kind:
            case "connect":
                pass
            case "eof":
                await stream.send_eof()
            case "closed":
                await stream.aclose()
            case "reset" | "vanished":
                stream.fail(entry.kind)
            case "http" | "bytes":
                await stream.send_all(entry.data)
            case kind:
                await stream.send_all(_frame(kind, entry.data))


def _frame(kind: str, payload: bytes) -> bytes:
    """Make a client's frame of what the recording calls it, masked with zeros."""
    name, _, rsv = kind.removesuffix("+").partition("-rsv")
    opcode = _OPCODES[name] if name in _OPCODES else int(name.removeprefix("opcode-"))
    first = opcode | int(rsv or 0) << 4 | (0 if kind.endswith("+") else 0x80)
    length = len(payload)
    if length < 126:
        head = struct.pack("!BB", first, 0x80 | length)
    elif length < 2**16:
        head = struct.pack("!BBH", first, 0x80 | 126, length)
    else:
        head = struct.pack("!BBQ", first, 0x80 | 127, length)
    return head + bytes(4) + payload


async def _read_all(stream: VirtualStream) -> None:
    try:
        while await stream.receive_some():
            pass
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass
