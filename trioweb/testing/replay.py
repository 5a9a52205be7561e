"""A recording, played again to a handler."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from typing import Self, Unpack

import trio
import trio.testing

from ..nursery import OwnNursery
from ..options import ServerOptions
from ..routing import Handler
from ..server import open_server
from ..types import Side
from .network import VirtualNetwork
from .recorder import Entry, Recorder, parse_recording
from .sniffer import Sniffer, compose
from .wires import Address, VirtualStream

__all__ = ["replay"]

#: What is remembered of a replay: much more than a `Recorder` does by default, but not all.
_LINES, _BYTES = 2**20, 2**28
#: The longest payload of a ping (RFC 6455, 5.5).
_PING = 125
_TLS = b"\x16\x03"


async def replay(
    recording: Recorder | str | Iterable[Entry],
    handler: Handler,
    *,
    network: VirtualNetwork | None = None,
    **options: Unpack[ServerOptions],
) -> Recorder:
    """Send a server all that clients sent in a recording, at the same times; record that anew.

    ``recording`` is a `Recorder`, its text, or entries of it; ``options`` are the server's. The
    clients have their addresses of then, and say what they said frame by frame as it was put on
    the wire, right or wrong, though with other masks, and with pongs for the pings of now. Each
    connection begins and ends as it did, at the latest with the last line, unless the server ends
    it first. Before the next client's turn everybody else has theirs, even if no time passes.
    What the server says is its own: compare `Recorder.messages` of then and now.

    It plays on a perfect network unless ``network`` is given: what then took its time reaches the
    server at once, and what never became a whole frame, with its connection's end. Takes as long
    as the recording did, which is nothing on a virtual clock.

    Raises `ValueError` for a recording that is not whole, is of TLS, or has several servers.
    """
    script = _Script(recording)
    for name in ("listeners", "ssl_context"):
        if options.get(name) is not None:
            raise ValueError(f"a replay listens by itself, without TLS: {name} has no place in it")
    if network is None:
        network = VirtualNetwork()
    name, port = script.server
    recorder = Recorder(max_lines=_LINES, max_bytes=_BYTES)
    network.taps.append(recorder)
    try:
        with network.host(name):
            async with open_server(handler, port, **options), OwnNursery() as nursery:
                await script.play(network, nursery)
    finally:
        network.taps.remove(recorder)
    return recorder


class _Script:
    """A recording that is whole, and how to play it."""

    def __init__(self, recording: Recorder | str | Iterable[Entry]) -> None:
        if isinstance(recording, Recorder):
            if recording.dropped:
                raise ValueError(
                    f"the first {recording.dropped} lines of this recording were dropped"
                )
            recording = recording.entries
        entries = parse_recording(recording) if isinstance(recording, str) else list(recording)
        servers = sorted({entry.target for entry in entries if entry.kind == "connect"})
        if not servers:
            raise ValueError("no connection is made in this recording")
        if len(servers) > 1:
            raise ValueError(f"this recording has several servers, choose one's lines: {servers}")
        (self.server,) = servers
        self._entries = entries
        self._check()
        self._aborts = self._find_aborts()

    def _client(self, entry: Entry) -> Address:
        return entry.target if entry.source == self.server else entry.source

    def _check(self) -> None:
        opened: set[Address] = set()
        for entry in self._entries:
            if entry.kind == "connect":
                opened.add(entry.source)
            if self.server not in (entry.source, entry.target) or self._client(entry) not in opened:
                raise ValueError(f"this recording lacks the beginning of a connection: {entry}")
            if entry.source != self.server and entry.size is not None:
                _wire(entry)

    def _find_aborts(self) -> set[int]:
        """Find the lines where a client closed and its server had no other line than a reset."""
        aborts: set[int] = set()
        following: dict[Address, str] = {}
        for at, entry in reversed(list(enumerate(self._entries))):
            client = self._client(entry)
            if entry.source == self.server:
                following[client] = entry.kind
            elif entry.kind == "closed" and following.get(client) == "reset":
                aborts.add(at)
        return aborts

    async def play(self, network: VirtualNetwork, nursery: trio.Nursery) -> None:
        """Play it to a server that listens already."""
        times = [entry.time for entry in self._entries]
        start = trio.current_time() - min(times)
        players: dict[Address, _Player] = {}
        everybody: list[_Player] = []
        before: Entry | None = None
        try:
            for at, entry in enumerate(self._entries):
                is_ours = entry.source != self.server or entry.kind == "vanished"
                if is_ours and not (before and _in_one_go(before, entry)):
                    await trio.sleep_until(start + entry.time)
                    await trio.testing.wait_all_tasks_blocked()
                before = entry
                if entry.kind == "connect":
                    player = players[entry.source] = await _Player.dial(network, entry)
                    everybody.append(player)
                    nursery.start_soon(player.read)
                    nursery.start_soon(player.write)
                elif entry.source == self.server:
                    players[entry.target].hear(entry)
                else:
                    players[entry.source].play(entry, abort=at in self._aborts)
            await trio.sleep_until(start + max(times))
            await trio.testing.wait_all_tasks_blocked()
        finally:
            for player in everybody:
                player.stream.close()
        await trio.testing.wait_all_tasks_blocked()


class _Player:
    """One client: writes its part, however slowly the link takes it, and reads what comes."""

    def __init__(self, stream: VirtualStream, peer: VirtualStream) -> None:
        self.stream = stream
        self._peer = peer
        #: The payloads of the server's pings, in the recording and now.
        self._pings_then: list[bytes] = []
        self._pings_now: list[bytes] = []
        self._rest: deque[memoryview] = deque()
        self._eof_due = False
        self._changed = trio.lowlevel.ParkingLot()

    @classmethod
    async def dial(cls, network: VirtualNetwork, opened: Entry) -> Self:
        """Connect, at once: the time that this took lies before the recording's line."""
        (host, _), (target, port) = opened.source, opened.target
        with network.host(host):
            link = network.link(host, target)
        stream, peer = link.connect(opened.source, opened.target)
        await network.hosts[target].listeners[port].arrive(peer)
        return cls(stream, peer)

    def hear(self, entry: Entry) -> None:
        """Take note of what the server's end did in the recording."""
        if entry.kind == "ping":
            self._pings_then.append(entry.data)
        elif entry.kind == "vanished":
            self._peer.fail("vanished")
            self.stream.deafen()

    def play(self, entry: Entry, *, abort: bool) -> None:
        """Do what the client's end did; ``abort``: it closed with something unread."""
        match entry.kind:
            case "eof":
                self._eof_due = True
                self._changed.unpark_all()
            case "closed":
                self.stream.close()
                if abort:
                    self._peer.fail("reset")
            case "reset":
                self.stream.fail("reset")
                self._peer.fail("reset")
            case "vanished":
                self.stream.fail("vanished")
                self._peer.deafen()
            case "pong":
                self._send(compose("pong", self._answer(entry.data), Side.CLIENT))
            case _:
                self._send(_wire(entry))

    async def read(self) -> None:
        """Read to the end."""
        sniffer = Sniffer(_PING, Side.SERVER)
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while data := await self.stream.receive_some():
                self._pings_now += [one.data for one in sniffer.feed(data) if one.kind == "ping"]

    async def write(self) -> None:
        """Write what the link did not take at once."""
        while not self.stream.over:
            if self._rest:
                await self.stream.wait_writable()
                self._write()
            elif self._eof_due:
                await self.stream.send_eof()
                return
            else:
                await self._changed.park()

    def _send(self, data: bytes) -> None:
        self._rest.append(memoryview(data))
        self._write()
        self._changed.unpark_all()

    def _write(self) -> None:
        try:
            while self._rest:
                data = self._rest.popleft()
                taken = self.stream.write_nowait(data)
                if taken < len(data):
                    self._rest.appendleft(data[taken:])
                if not taken:
                    return
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self._rest.clear()  # this time the server went first

    def _answer(self, payload: bytes) -> bytes:
        """Turn the answer to a ping of then into the one to the same ping of now."""
        then, now = self._pings_then, self._pings_now
        if payload not in then:
            return payload
        at = len(then) - 1 - then[::-1].index(payload)
        return now[at] if at < len(now) else payload


def _in_one_go(before: Entry, entry: Entry) -> bool:
    """Whether a sender gave nobody a turn between two lines.

    A part of something stands behind its time, for it counts as one only at the end.
    """
    same = (before.time, before.source) == (entry.time, entry.source)
    return same and before.kind not in ("connect", "bytes", "eof")


def _wire(entry: Entry) -> bytes:
    """Return what a client's line was on the wire; raises `ValueError` if it does not say."""
    if entry.is_cut:
        raise ValueError(f"this line's payload was cut: {entry}")
    if entry.kind == "bytes" and entry.data.startswith(_TLS):
        raise ValueError(f"this connection was encrypted, which cannot be replayed: {entry}")
    if entry.kind in ("http", "bytes"):
        return entry.data
    return compose(entry.kind, entry.data, Side.CLIENT)
