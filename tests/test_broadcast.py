"""One message to many: counts, overflow policies, and nobody waits for anybody."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import trio
import trio.testing

import trioweb
from tests.helpers import (
    BINARY,
    CLOSE,
    TEXT,
    Frame,
    Peer,
    close_frame,
    fill,
    forever,
    frames_in,
    scripted,
    serving,
    upgraded,
)
from trioweb import Close, Deflate, Delivery, Limits, Overflow, Server, broadcast
from trioweb.protocol.encoder import Encoder


@asynccontextmanager
async def audience(
    size: int, limits: Limits | None = None
) -> AsyncIterator[tuple[Server, list[Peer]]]:
    """Serve some peers that say nothing, each named by its path."""
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(
            serving(forever, limits=limits or Limits(), heartbeat=None)
        )
        peers = [
            await stack.enter_async_context(upgraded(server, f"/{number}"))
            for number in range(size)
        ]
        await trio.testing.wait_all_tasks_blocked()
        assert len(server.connections) == size
        yield server, peers
        for ws in server.connections:
            # They need not be closed politely: this is not about that.
            trioweb.connection.lifecycle_of(ws).cut(Close(1001))


def connection(server: Server, number: int) -> trioweb.WebSocket:
    (ws,) = (ws for ws in server.connections if ws.request.path == f"/{number}")
    return ws


@pytest.mark.parametrize("message", ["text", b"bytes", "", "x" * 1000])
async def test_everybody_gets_the_message(message):
    async with audience(5) as (server, peers):
        assert broadcast(server.connections, message) == Delivery(written=5)
        for peer in peers:
            one = await peer.frame()
            assert one.opcode == (TEXT if isinstance(message, str) else BINARY)
            assert one.payload == (message.encode() if isinstance(message, str) else message)
        for ws in server.connections:
            assert ws.statistics().messages_sent == 1


async def test_nobody_is_no_delivery():
    assert broadcast([], "x") == Delivery(0, 0, 0, 0)


@pytest.mark.parametrize("message", [bytearray(b"any"), memoryview(b"any")])
async def test_bytes_of_any_kind_are_a_binary_message(message):
    async with audience(2) as (server, peers):
        assert broadcast(server.connections, message) == Delivery(written=2)
        for peer in peers:
            assert await peer.frame() == Frame(BINARY, b"any")


@pytest.mark.parametrize("message", [None, 1, ["x"]])
async def test_only_text_and_bytes_are_messages(message):
    with pytest.raises(TypeError, match=f"not {type(message).__name__}"):
        broadcast([], message)


async def test_text_that_cannot_be_encoded_reaches_nobody():
    async with audience(2) as (server, peers):
        with pytest.raises(UnicodeEncodeError):
            broadcast(server.connections, "\ud800")
        assert broadcast(server.connections, "after") == Delivery(written=2)
        for peer in peers:
            assert (await peer.frame()).payload == b"after"


def told(delivery: Delivery) -> int:
    return delivery.written + delivery.queued


async def test_any_iterable_of_connections_will_do():
    async with audience(3) as (server, peers):
        chosen = (connection(server, number) for number in (0, 2))
        assert broadcast(chosen, "some") == Delivery(written=2)
        # The second one in a turn waits for the next turn, with all that follow.
        assert broadcast(server.connections, "all") == Delivery(queued=3)
        assert (await peers[0].frame()).payload == b"some"
        assert (await peers[1].frame()).payload == b"all"
        assert (await peers[2].frame()).payload == b"some"


@pytest.fixture
def encoded(monkeypatch):
    """What is encoded: the length of fragments, and what is compressed of the message."""
    seen: list[tuple[int, bytes | None]] = []
    real = Encoder._whole

    def count(encoder: Encoder, first: int, data: bytes, packed: bytes | None) -> list[bytes]:
        seen.append((encoder.fragment, packed))
        return real(encoder, first, data, packed)

    monkeypatch.setattr(Encoder, "_whole", count)
    return seen


async def test_the_message_is_encoded_once(encoded):
    async with audience(20) as (server, peers):
        assert broadcast(server.connections, "once") == Delivery(written=20)
        assert encoded == [(2**16, None)]
        assert [(await peer.frame()).payload for peer in peers] == [b"once"] * 20


async def test_the_message_is_encoded_once_for_each_length_of_fragments(encoded):
    async with (
        audience(3, Limits(fragment=10)) as (small, few),
        audience(3, Limits(fragment=20)) as (large, many),
    ):
        both = [*small.connections, *large.connections]
        assert broadcast(both, "x" * 40).closed == 0
        assert sorted(encoded) == [(10, None), (20, None)]
        for peer in few:
            assert [len((await peer.frame()).payload) for _ in range(4)] == [10] * 4
        for peer in many:
            assert [len((await peer.frame()).payload) for _ in range(2)] == [20] * 2


# Compressed for all.

NEWS = '{"kind": "news", "values": [1, 2, 3]}' * 40
OWN = '{"kind": "own", "values": [3, 2, 1]}' * 40


@pytest.mark.parametrize("context_takeover", [True, False])
async def test_a_broadcast_is_compressed_once_for_each_setting(encoded, context_takeover):
    keep = Deflate(context_takeover=context_takeover)
    less = Deflate(context_takeover=context_takeover, max_window_bits=10)
    async with serving(forever, deflate=keep, heartbeat=None) as server, AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(trioweb.connect(server.url, deflate=deflate))
            for deflate in (keep, keep, keep, less, less, None, None)
        ]
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(3):
            encoded.clear()
            assert told(broadcast(server.connections, NEWS)) == 7
            assert len(encoded) == 3
            assert [packed is None for _, packed in encoded].count(True) == 1
            encoded.clear()
            assert told(broadcast(server.connections, "short")) == 7
            assert told(broadcast(server.connections, NEWS, compress=False)) == 7
            assert encoded == [(2**16, None)] * 2
            # What goes to one connection goes on as before.
            for ws in server.connections:
                await ws.send(OWN)
                await ws.send(OWN)
            for client in clients:
                for message in (NEWS, "short", NEWS, OWN, OWN):
                    assert await client.receive() == message
        # All that was to be compressed was, but for the two that did not agree on it.
        sent = sorted(ws.statistics().bytes_sent for ws in server.connections)
        assert max(sent[:5]) < len(NEWS) * 4
        assert min(sent[5:]) > len(NEWS) * 11


@pytest.mark.parametrize("compress", [True, False])
async def test_a_compressed_broadcast_behind_a_message_in_pieces(compress):
    deflate = Deflate(context_takeover=True)
    async with (
        serving(forever, deflate=deflate, heartbeat=None) as server,
        trioweb.connect(server.url, deflate=deflate) as client,
    ):
        await trio.testing.wait_all_tasks_blocked()
        (ws,) = server.connections
        await ws.send(OWN)
        async with ws.send_stream(text=True) as stream:
            await stream.send(OWN)
            delivery = broadcast([ws], NEWS, compress=compress)
            assert delivery.queued + delivery.written == 1
            ws.send_nowait(OWN)
            await stream.send(OWN)
        await ws.send(OWN)
        for message in (OWN, OWN + OWN, NEWS, OWN, OWN):
            assert await client.receive() == message


async def test_clients_compress_a_broadcast_too():
    deflate = Deflate(context_takeover=True)
    async with (
        serving(deflate=deflate, heartbeat=None) as server,
        trioweb.connect(server.url, deflate=deflate) as client,
    ):
        await client.send(OWN)
        assert broadcast([client], NEWS) == Delivery(written=1)
        await client.send(OWN)
        assert client.statistics().bytes_sent < len(NEWS)
        for message in (OWN, NEWS, OWN):
            assert await client.receive() == message


async def test_clients_connections_are_masked_each_anew():
    seen: list[Frame] = []

    async def script(peer: Peer) -> None:
        await peer.accept()
        seen.append(await peer.frame())
        await peer.send(close_frame(1000, mask=None))
        assert (await peer.frame()).close == (1000, "")

    async with scripted(script) as url, AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(trioweb.connect(url)) for _ in range(3)]
        assert broadcast(clients, "hello") == Delivery(written=3)
        for client in clients:
            with pytest.raises(trioweb.EndOfChannel):
                await client.receive()
    assert [one.payload for one in seen] == [b"hello"] * 3
    masks = {one.mask for one in seen}
    assert len(masks) == 3
    assert None not in masks


async def test_a_long_message_is_queued_or_written_and_arrives_whole():
    async with audience(2) as (server, peers):
        message = bytes(range(256)) * 4096 * 4
        delivery = broadcast(server.connections, message)
        assert delivery.written + delivery.queued == 2
        for peer in peers:
            data = b""
            while True:
                one = await peer.frame()
                data += one.payload
                if one.fin:
                    break
            assert data == message


# Receivers that do not keep up.


async def test_a_full_receiver_is_closed_with_1013_by_default():
    async with audience(3) as (server, peers):
        slow = connection(server, 1)
        fill(slow)
        assert broadcast(server.connections, "news") == Delivery(written=2, closed=1)
        assert slow.closed == Close(1013, "slow consumer")
        assert (await peers[0].frame()).payload == b"news"
        assert (await peers[2].frame()).payload == b"news"
        # What was queued before arrives, then the close; the broadcast is left out.
        frames = [await peers[1].frame()]
        while frames[-1].opcode != CLOSE:
            frames.append(await peers[1].frame())
        assert frames[-1].close == (1013, "slow consumer")
        assert {one.payload for one in frames[:-1]} == {bytes(2**16)}
        await peers[1].send(close_frame(1013))
        assert await peers[1].rest() == b""


async def test_the_handler_of_a_closed_receiver_hears_of_it():
    ends = []

    async def handler(ws: trioweb.WebSocket) -> None:
        try:
            await ws.receive()
        except trioweb.ConnectionBroken as error:
            ends.append((error.code, error.reason, error.close.by_peer))
            raise

    async with serving(handler, heartbeat=None) as server, upgraded(server) as peer:
        await trio.testing.wait_all_tasks_blocked()
        (ws,) = server.connections
        fill(ws)
        assert broadcast([ws], "x") == Delivery(closed=1)
        await trio.testing.wait_all_tasks_blocked()
        peer.reset()
    assert ends == [(1013, "slow consumer", False)]


async def test_a_full_receiver_may_be_left_out_and_that_is_counted():
    async with audience(2) as (server, peers):
        slow = connection(server, 0)
        fill(slow)
        for count in range(1, 4):
            delivery = broadcast(server.connections, "news", overflow=Overflow.DROP_NEWEST)
            assert (told(delivery), delivery.dropped) == (1, 1)
            assert slow.statistics().messages_dropped == count
            assert (await peers[1].frame()).payload == b"news"
        assert slow.closed is None
        assert connection(server, 1).statistics().messages_dropped == 0
        # It catches up, and takes part again.
        while slow.statistics().outbox_bytes:
            assert (await peers[0].frame()).payload == bytes(2**16)
            await trio.testing.wait_all_tasks_blocked()
        assert broadcast([slow], "again", overflow=Overflow.DROP_NEWEST).dropped == 0
        while (one := await peers[0].frame()).payload == bytes(2**16):
            pass
        assert one == Frame(TEXT, b"again")


async def test_a_stalled_receiver_never_delays_the_others():
    async with audience(5) as (server, peers):
        fill(connection(server, 2))
        steps = trio.lowlevel.current_statistics().run_sync_soon_queue_size
        for number in range(100):
            delivery = broadcast(
                server.connections, f"tick {number}", overflow=Overflow.DROP_NEWEST
            )
            # All others have it at the next turn: broadcast does not even wait.
            assert (told(delivery), delivery.dropped) == (4, 1)
        assert trio.lowlevel.current_statistics().run_sync_soon_queue_size == steps
        for peer in [*peers[:2], *peers[3:]]:
            for number in range(100):
                assert (await peer.frame()).payload == f"tick {number}".encode()


async def test_what_a_slow_receiver_can_still_hold_is_queued():
    async with audience(1, Limits(outbox_bytes=2**22)) as (server, _):
        (ws,) = server.connections
        while not ws.statistics().outbox_bytes:
            ws.send_nowait(bytes(2**16))
        before = ws.statistics()
        assert broadcast([ws], "waits") == Delivery(queued=1)
        after = ws.statistics()
        assert after.outbox_bytes == before.outbox_bytes + len("waits") + 2
        assert after.outbox_frames == before.outbox_frames + 1


async def test_one_that_is_over_counts_as_closed():
    async with audience(3) as (server, peers):
        everybody = list(server.connections)
        gone = connection(server, 1)
        await peers[1].send(close_frame(1000))
        await peers[1].rest()
        await trio.testing.wait_all_tasks_blocked()
        assert gone.closed is not None
        assert broadcast(everybody, "x") == Delivery(written=2, closed=1)


async def test_a_peer_that_vanished_is_found_out_and_disturbs_nobody():
    async with audience(3) as (server, peers):
        gone = connection(server, 1)
        everybody = list(server.connections)
        peers[1].reset()
        # Without a turn of the loop in between: nobody can have noticed before.
        assert broadcast(everybody, "x") == Delivery(written=2, closed=1)
        assert gone.closed is not None
        assert gone.closed.code == 1006
        for peer in (peers[0], peers[2]):
            assert (await peer.frame()).payload == b"x"


async def test_an_answer_that_waits_stays_in_front_of_a_broadcast():
    # A broadcast does not overtake what was sent before it.
    async with audience(1) as (server, peers):
        (ws,) = server.connections
        ws.send_nowait("first")
        broadcast([ws], "second")
        ws.send_nowait("third")
        assert [(await peers[0].frame()).payload for _ in range(3)] == [
            b"first",
            b"second",
            b"third",
        ]


async def test_fragments_of_a_broadcast_are_not_mixed_with_another_message():
    async with audience(1, Limits(fragment=10)) as (server, peers):
        (ws,) = server.connections
        broadcast([ws], "a" * 25)
        ws.send_nowait("b" * 25)
        broadcast([ws], "c" * 25)
        data = b"".join([await peers[0].take(31) for _ in range(3)])
        letters = [one.payload[:1] for one in frames_in(data)]
        assert letters == [b"a"] * 3 + [b"b"] * 3 + [b"c"] * 3


async def test_a_handler_that_outlives_the_attendant_still_reaches_its_peers():
    done = trio.Event()

    async def handler(ws):
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                if not done.is_set():
                    done.set()
                    for number in range(4):
                        broadcast(server.connections, f"last words {number}")
                        await trio.lowlevel.checkpoint()

    frames = []
    with trio.CancelScope() as scope:
        async with serving(handler, heartbeat=None) as server, upgraded(server) as peer:
            await trio.testing.wait_all_tasks_blocked()
            with trio.CancelScope(shield=True):
                scope.cancel()
                await done.wait()
                frames = [(await peer.frame()).payload for _ in range(4)]
    assert frames == [f"last words {number}".encode() for number in range(4)]


@pytest.mark.parametrize("size", [1, 2**16])
async def test_who_waits_for_room_behind_a_broadcast_goes_on_when_it_is_written(size):
    async with audience(1) as (server, peers):
        ws = connection(server, 0)
        for _ in range(20):  # the order of tasks within a turn is a matter of chance
            broadcast([ws], "first")
            broadcast([ws], bytes(size))  # waits for the next turn, as one frame
            with trio.fail_after(5):
                await ws.send("behind")
                await ws.wait_written()
            for payload in (b"first", bytes(size), b"behind"):
                assert (await peers[0].frame()).payload == payload


async def test_a_bug_in_writing_for_one_does_not_reach_the_others():
    async with audience(3) as (server, peers):
        victim = trioweb.connection.lifecycle_of(connection(server, 1)).outbox

        def stumble(data):
            raise ArithmeticError

        broadcast(server.connections, "first")
        broadcast(server.connections, "second")
        victim.write = stumble
        for peer in peers[0], peers[2]:
            assert (await peer.frame()).payload == b"first"
            assert (await peer.frame()).payload == b"second"
        assert broadcast(server.connections, "third").closed + len(server.connections) >= 2
        for peer in peers[0], peers[2]:
            assert (await peer.frame()).payload == b"third"
