"""permessage-deflate on connections."""

from __future__ import annotations

import zlib

import pytest
import trio

import trioweb
from trioweb import Deflate
from trioweb.testing import Conditions, Recorder, VirtualNetwork, open_pair, run

TEXT = '{"name": "a message of some length", "values": [1, 2, 3, 4]}' * 20


def compressed(recorder: Recorder, source: str, target: str) -> list[bool]:
    """Return for each message's first frame whether RSV1 is set."""
    kinds = [entry.kind for entry in recorder.between(source, target)]
    return ["rsv4" in kind for kind in kinds if kind.startswith(("text", "binary"))]


@pytest.mark.parametrize("fragment", [2**16, 100])
@pytest.mark.parametrize("chunk", [None, 3])
@pytest.mark.parametrize("context_takeover", [True, False])
def test_messages_are_compressed_both_ways(
    fragment: int, chunk: int | None, context_takeover: bool
) -> None:
    async def main() -> None:
        options = {
            "deflate": Deflate(context_takeover=context_takeover),
            "limits": trioweb.Limits(fragment=fragment),
        }
        weather = Conditions(chunk=chunk)
        pairing = open_pair(conditions=weather, client=options, server=options)  # type: ignore[arg-type]  # a plain dict
        async with pairing as (client, server, _):
            for number in range(5):
                for one, other in ((client, server), (server, client)):
                    message = f"{TEXT}{number}"
                    for value in (message, message.encode()):
                        await one.send(value)
                        assert await other.receive() == value
                    await one.send("short")
                    assert await other.receive() == "short"
                    await one.ping()
            assert client.statistics().bytes_sent < len(TEXT) * 5

    run(main, seed=0)


def test_who_decides_what_is_compressed() -> None:
    async def main() -> None:
        network, recorder = VirtualNetwork(), Recorder()
        network.taps.append(recorder)
        deflate = Deflate(threshold=100)
        pairing = open_pair(
            network=network, client={"deflate": deflate}, server={"deflate": deflate}
        )
        async with pairing as (client, server, _):
            await client.send("x" * 99)
            await client.send("x" * 100)
            await client.send("x" * 99, compress=True)
            await client.send("x" * 100, compress=False)
            client.send_nowait("x", compress=True)
            broadcasts = [("x" * 99, None), ("x" * 100, None), (TEXT, False), ("x", True)]
            for message, compress in broadcasts:
                trioweb.broadcast([server], message, compress=compress)
            for size in (99, 100, 99, 100, 1):
                assert await server.receive() == "x" * size
            for message, _ in broadcasts:
                assert await client.receive() == message
        assert compressed(recorder, "client", "server") == [False, True, True, False, True]
        assert compressed(recorder, "server", "client") == [False, True, False, True]

    run(main, seed=0)


@pytest.mark.parametrize(
    ("client", "server"),
    [(Deflate(), None), (None, Deflate()), (Deflate(), Deflate(max_window_bits=9))],
)
def test_both_have_to_want_it(client: Deflate | None, server: Deflate | None) -> None:
    async def main() -> None:
        async with open_pair(client={"deflate": client}, server={"deflate": server}) as pair:
            await pair.client.send(TEXT)
            assert await pair.server.receive() == TEXT
            less = pair.client.statistics().bytes_sent < len(TEXT)
            assert less is (client is not None and server is not None)

    run(main, seed=0)


def test_a_bomb_is_1009_and_costs_nothing() -> None:
    async def main() -> None:
        options = {"deflate": Deflate(), "limits": trioweb.Limits(max_message=10**8)}
        async with open_pair(client=options, server={"deflate": Deflate()}) as (client, server, _):
            await client.send(bytes(10**7))
            with pytest.raises(trioweb.ConnectionBroken) as caught:
                await server.receive()
            assert caught.value.close.code == 1009
            with pytest.raises(trioweb.ConnectionBroken) as caught:
                await client.receive()
            assert caught.value.close.code == 1009

    run(main, seed=0)


async def by_hand(
    server: trioweb.Server, *frames: bytes, offers: str = "permessage-deflate"
) -> bytes:
    """Connect with an offer, send frames, and return all that comes back behind the head."""
    return (await answers(server, *frames, offers=offers)).partition(b"\r\n\r\n")[2]


async def answers(server: trioweb.Server, *frames: bytes, offers: str) -> bytes:
    """Connect with offers, send frames, and return all that comes back."""
    port = int(server.url.rpartition(":")[2])
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(
            b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
            + f"Sec-WebSocket-Extensions: {offers}\r\n\r\n".encode()
            + b"".join(frames)
        )
        received = b""
        while data := await stream.receive_some():
            received += data
        return received


def frame(first: int, payload: bytes) -> bytes:
    return bytes([first, 0x80 | len(payload)]) + bytes(4) + payload


HELLO = bytes.fromhex("f248cdc9c90700")
#: The same message again, with the window taken over.
AGAIN = bytes.fromhex("f200110000")
CLOSE = frame(0x88, b"\x03\xe8")


async def echo(ws: trioweb.WebSocket) -> None:
    async for message in ws:
        await ws.send(message, compress=False)


@pytest.mark.parametrize(
    ("frames", "answer"),
    [
        ([frame(0xC1, HELLO), CLOSE], b"\x81\x05Hello\x88\x02\x03\xe8"),
        # A ping between the fragments of a compressed message.
        (
            [frame(0x41, HELLO[:3]), frame(0x89, b"!"), frame(0x80, HELLO[3:]), CLOSE],
            b"\x8a\x01!\x81\x05Hello\x88\x02\x03\xe8",
        ),
        # Compressed and not, in turn.
        (
            [
                frame(0xC1, HELLO),
                frame(0x81, b"Hi"),
                frame(0xC1, bytes.fromhex("f200110000")),
                CLOSE,
            ],
            b"\x81\x05Hello\x81\x02Hi\x81\x05Hello\x88\x02\x03\xe8",
        ),
        # An empty message, and empty fragments.
        (
            [frame(0x41, b""), frame(0x00, HELLO), frame(0x80, b""), frame(0xC2, b"\0"), CLOSE],
            b"\x81\x05Hello\x82\x00\x88\x02\x03\xe8",
        ),
        # BFINAL, and the message after it.
        (
            [frame(0xC1, bytes.fromhex("f348cdc9c9070000")), frame(0xC1, HELLO), CLOSE],
            b"\x81\x05Hello\x81\x05Hello\x88\x02\x03\xe8",
        ),
    ],
)
async def test_compressed_frames_by_hand(frames: list[bytes], answer: bytes) -> None:
    deflate = Deflate(context_takeover=True)
    async with trioweb.open_server(echo, 0, host="127.0.0.1", deflate=deflate) as server:
        assert await by_hand(server, *frames) == answer


@pytest.mark.parametrize(
    ("offers", "said"),
    [
        ("permessage-deflate", True),
        ("permessage-deflate; client_max_window_bits", True),
        ("permessage-deflate; x, permessage-deflate", True),
        ("permessage-deflate; client_max_window_bits=abc, other; y=1", False),
        ("permessage-deflate; server_max_window_bits=8; server_max_window_bits=8", False),
        ("Permessage-Deflate", False),
        ("permessage-deflate; unknown", False),
        ("x-webkit-deflate-frame", False),
        (", ,permessage-deflate,,", True),
        ('other; a="b", permessage-deflate; server_max_window_bits="9"', True),
    ],
)
async def test_offers_on_the_wire(offers: str, said: bool) -> None:
    """Whatever is offered, the connection comes to be, and takes plain messages."""
    async with trioweb.open_server(echo, 0, host="127.0.0.1", deflate=Deflate()) as server:
        got = await answers(server, frame(0x81, b"Hi"), CLOSE, offers=offers)
    head, _, frames = got.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 ")
    assert (b"Sec-WebSocket-Extensions: permessage-deflate" in head) is said
    assert frames == b"\x81\x02Hi\x88\x02\x03\xe8"


async def test_a_window_of_256_bytes_is_written() -> None:
    async def send(ws: trioweb.WebSocket) -> None:
        await ws.send(TEXT)

    offers = "permessage-deflate; server_max_window_bits=8"
    async with trioweb.open_server(send, 0, host="127.0.0.1", deflate=Deflate()) as server:
        frames = await by_hand(server, CLOSE, offers=offers)
    assert frames[:2] == b"\xc1\x7e"
    length = int.from_bytes(frames[2:4], "big")
    assert length < len(TEXT) / 2
    stream = zlib.decompressobj(-8)
    text = stream.decompress(frames[4 : 4 + length] + b"\0\0\xff\xff")
    assert text == TEXT.encode()


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        ([frame(0xC1, b"\xff\xff\xff")], 1007),
        ([frame(0xC1, bytes.fromhex("fa0700"))], 1007),  # one byte, and no UTF-8
        ([frame(0x41, HELLO[:3]), frame(0xC0, HELLO[3:])], 1002),  # RSV1 on a continuation
        ([frame(0xC9, b"")], 1002),  # on a ping
        ([frame(0xC1, HELLO[:4])], 1007),  # the message ends inside a block
        ([frame(0xC1, AGAIN)], 1007),  # beyond the window, which is empty
        ([frame(0xC1, b"\3\0" * 50 + b"\0")], 1008),  # last blocks without end
        ([frame(0xA1, HELLO)], 1002),  # RSV2
    ],
)
async def test_what_is_wrong_with_a_compressed_frame(frames: list[bytes], code: int) -> None:
    async with trioweb.open_server(echo, 0, host="127.0.0.1", deflate=Deflate()) as server:
        answer = await by_hand(server, *frames)
        assert answer[:1] == b"\x88"
        assert int.from_bytes(answer[2:4], "big") == code


def test_an_idle_connection_gives_the_compressors_memory_back() -> None:
    async def main() -> None:
        options = {"deflate": Deflate(context_takeover=True), "heartbeat": trioweb.Heartbeat(5, 5)}
        async with open_pair(client=options, server=options) as (client, server, _):  # type: ignore[arg-type]  # a plain dict
            sizes: list[int] = []
            for pause in (0, 0, 12, 0):
                await trio.sleep(pause)
                before = client.statistics().bytes_sent
                await client.send(TEXT)
                assert await server.receive() == TEXT
                sizes.append(client.statistics().bytes_sent - before)
            # What the window remembers makes a message small; after a pause it is empty again.
            assert sizes[1] * 2 < sizes[0]
            assert sizes[2] * 9 > sizes[0] * 8
            assert sizes[3] * 2 < sizes[2]

    run(main, seed=0)
