"""The machine that a program runs on: the system, or a host of a virtual network."""

from __future__ import annotations

import base64

import pytest
import trio
from trio.testing import MockClock

import trioweb
from tests.helpers import BINARY, PING, TEXT, Frame, echo, guard, take_frame
from trioweb.host import System, current_host
from trioweb.testing import VirtualNetwork
from trioweb.testing.wires import VirtualStream


async def test_a_program_runs_on_the_system_unless_told() -> None:
    assert isinstance(current_host.get(), System)
    with guard():
        async with trioweb.open_server(echo, 0, host="127.0.0.1") as server:
            assert all(isinstance(each, trio.SocketListener) for each in server.listeners)
            stream = await current_host.get().open_stream("127.0.0.1", port(server))
            assert isinstance(stream, trio.SocketStream)
            await stream.aclose()


def port(server: trioweb.Server) -> int:
    return int(server.url.rpartition(":")[2])


@pytest.mark.parametrize("count", [0, 1, 4, 16, 1000])
def test_random_bytes_are_as_many_as_asked_for(count: int) -> None:
    with VirtualNetwork().host("alice") as alice:
        assert len(System().token_bytes(count)) == len(alice.token_bytes(count)) == count


def test_the_system_cannot_be_foreseen() -> None:
    assert len({System().token_bytes(16) for _ in range(100)}) == 100


def test_a_virtual_host_can() -> None:
    def tokens(seed: int) -> list[bytes]:
        with VirtualNetwork(seed).host("alice") as alice:
            return [alice.token_bytes(16) for _ in range(100)]

    assert tokens(1) == tokens(1)
    assert len({*tokens(1), *tokens(2)}) == 200


class Talk:
    """A tap: what each host sent."""

    def __init__(self) -> None:
        self.sent_by: dict[str, bytes] = {}

    def connected(self, stream: VirtualStream) -> None:
        self.sent_by |= {stream.local_address[0]: b"", stream.remote_address[0]: b""}

    def sent(self, stream: VirtualStream, data: bytes) -> None:
        self.sent_by[stream.local_address[0]] += data

    def ended(self, stream: VirtualStream, how: str) -> None:
        pass

    @property
    def key(self) -> bytes:
        """The client's handshake key."""
        head, _, _ = self.sent_by["client"].partition(b"\r\n\r\n")
        (line,) = [line for line in head.split(b"\r\n") if line.startswith(b"Sec-WebSocket-Key")]
        return base64.b64decode(line.split(b": ")[1])

    @property
    def frames(self) -> list[Frame]:
        """The client's frames."""
        data = bytearray(self.sent_by["client"].partition(b"\r\n\r\n")[2])
        frames = []
        while (one := take_frame(data)) is not None:
            frames.append(one)
        return frames


async def talk(seed: int) -> tuple[Talk, list[str]]:
    """Let a client talk to a server; return what crossed, and the ids of the connections."""
    network, tap, ids = VirtualNetwork(seed), Talk(), []
    network.taps.append(tap)

    async def handler(ws: trioweb.WebSocket) -> None:
        ids.append(ws.id)
        await echo(ws)

    with guard(), network.host("server"):
        async with trioweb.open_server(handler, 80) as server:
            with network.host("client"):
                async with trioweb.connect(server.url) as ws:
                    ids.append(ws.id)
                    for message in ("text", b"binary" * 100, ""):
                        await ws.send(message)
                        assert await ws.receive() == message
                    await ws.ping()
    return tap, ids


async def test_keys_masks_and_ids_come_from_the_networks_seed(autojump_clock: MockClock) -> None:
    one, ids = await talk(1)
    again, same_ids = await talk(1)
    assert one.sent_by == again.sent_by
    assert ids == same_ids
    other, other_ids = await talk(2)
    assert one.key != other.key
    assert len(one.key) == len(other.key) == 16
    assert not {*ids} & {*other_ids}
    assert len({*ids, *other_ids}) == 4

    frames, other_frames = one.frames, other.frames
    assert [frame.opcode for frame in frames[:4]] == [TEXT, BINARY, TEXT, PING]
    masks = [frame.mask for each in (frames, other_frames) for frame in each]
    assert None not in masks
    assert len(set(masks)) == len(masks) >= 8
    assert frames[3].payload != other_frames[3].payload, "what a ping holds"
    assert [frame.payload for frame in frames[:3]] == [b"text", b"binary" * 100, b""]


async def test_on_the_system_they_are_new_each_time() -> None:
    async def connect() -> tuple[bytes, str]:
        with guard():
            async with trioweb.open_server(echo, 0) as server, trioweb.connect(server.url) as ws:
                return ws.response.headers["Sec-WebSocket-Accept"].encode(), ws.id

    (key, one), (other_key, other) = await connect(), await connect()
    assert key != other_key
    assert one != other
