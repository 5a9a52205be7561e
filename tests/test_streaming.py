"""One message in pieces, either way."""

from __future__ import annotations

import math
import random
import tracemalloc
import zlib
from collections.abc import AsyncGenerator, Awaitable, Callable

import pytest
import trio
from trio.testing import MockClock

import trioweb
from tests.helpers import (
    BINARY,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    Frame,
    Peer,
    close_frame,
    frame,
    scripted,
    serving,
    upgraded,
    virtual_clock,
)
from trioweb import Deflate, Limits
from trioweb.protocol.deflate import Agreement
from trioweb.protocol.framer import Framer
from trioweb.protocol.machine import Compression, Failed, Machine, Pause, Piece
from trioweb.streaming import MessageReader
from trioweb.testing import open_pair
from trioweb.types import Side

SMALL = Limits(max_message=1000)


@pytest.fixture
def clock() -> MockClock:
    return virtual_clock()


async def whole(message: MessageReader) -> str | bytes:
    pieces = [piece async for piece in message]
    assert all(pieces), "an empty piece"
    if message.text:
        return "".join(piece for piece in pieces if isinstance(piece, str))
    return b"".join(piece for piece in pieces if isinstance(piece, bytes))


async def echo_streams(ws: trioweb.WebSocket) -> None:
    while True:
        message = await ws.receive_stream(limit=math.inf)
        async with ws.send_stream(text=message.text) as answer:
            async for piece in message:
                await answer.send(piece)


# --- receiving -------------------------------------------------------------------------------


@pytest.mark.parametrize("message", ["", "a", "é€😀" * 1000, b"", b"\x00", bytes(100_000)])
async def test_any_message_can_be_received_and_sent_in_pieces(message: str | bytes):
    async with serving(echo_streams, limits=SMALL) as server, trioweb.connect(server.url) as ws:
        for _ in range(3):
            await ws.send(message)
            assert await ws.receive() == message
            await ws.send(message)
            assert await whole(await ws.receive_stream()) == message


@pytest.mark.parametrize("deflate", [None, Deflate()])
async def test_memory_does_not_grow_with_the_message(deflate: Deflate | None):
    size, piece = 2**25, bytes(2**16)  # as it is, the whole would be ten times what is allowed
    taken = 0

    async def take(ws: trioweb.WebSocket) -> None:
        nonlocal taken
        async for part in await ws.receive_stream(limit=math.inf):
            taken += len(part)
        await ws.send("thanks")

    async with (
        serving(take, deflate=deflate) as server,
        trioweb.connect(server.url, deflate=deflate) as ws,
    ):
        tracemalloc.start()
        try:
            async with ws.send_stream(text=False) as message:
                for _ in range(size // len(piece)):
                    await message.send(piece)
            assert await ws.receive() == "thanks"
            assert tracemalloc.get_traced_memory()[1] < 3 * 2**20
        finally:
            tracemalloc.stop()
    assert taken == size


async def test_without_a_wish_the_limit_is_that_of_any_message():
    async with open_pair(server={"limits": SMALL}) as (client, server, _):
        await client.send(bytes(1000))
        assert await whole(await server.receive_stream()) == bytes(1000)
        await client.send(bytes(1001))
        with pytest.raises(trioweb.ConnectionBroken) as caught:
            await server.receive_stream()
        assert caught.value.code == 1009


async def test_a_stream_has_the_limit_that_is_asked_for():
    async with open_pair(server={"limits": SMALL}) as (client, server, _):
        await client.send(bytes(5000))
        assert await whole(await server.receive_stream(limit=5000)) == bytes(5000)
        async with client.send_stream(text=False) as message:
            await message.send(bytes(5000))
            await message.send(bytes(1))
            reader = await server.receive_stream(limit=5000)
            assert await reader.receive() == bytes(5000)
            with pytest.raises(trioweb.ConnectionBroken) as caught:
                await reader.receive()
            assert caught.value.code == 1009


async def test_a_compressed_stream_has_its_limit_once_inflated():
    options = {"limits": SMALL, "deflate": Deflate()}
    async with open_pair(client={"deflate": Deflate()}, server=options) as (client, server, _):  # type: ignore[arg-type]  # a plain dict
        await client.send("x" * 100_000)
        assert await whole(await server.receive_stream(limit=100_000)) == "x" * 100_000
        await client.send("x" * 100_001)
        with pytest.raises(trioweb.ConnectionBroken) as caught:
            await whole(await server.receive_stream(limit=100_000))
        assert caught.value.code == 1009


async def test_after_a_stream_receive_keeps_to_the_limit_of_messages():
    async with open_pair(server={"limits": SMALL}) as (client, server, _):
        await client.send(bytes(5000))
        assert await whole(await server.receive_stream(limit=math.inf)) == bytes(5000)
        for _ in range(2):
            async with client.send_stream(text=True) as message:
                for _ in range(10):
                    await message.send("x" * 50)
            assert await server.receive() == "x" * 500
        async with client.send_stream(text=True) as message:
            for _ in range(6):
                await message.send("€" * 60)  # few characters, many bytes
            with pytest.raises(trioweb.ConnectionBroken) as caught:
                await server.receive()
        assert caught.value.code == 1009


@pytest.mark.parametrize("give_up", ["close", "leave"])
async def test_the_rest_of_a_message_that_is_given_up_is_skipped_and_counted(give_up: str):
    async with open_pair() as (client, server, _):
        async with client.send_stream(text=True) as message:
            await message.send("first")
            reader = await server.receive_stream()
            assert await reader.receive() == "first"
            await message.send("second")
            if give_up == "close":
                await reader.aclose()
        await client.send("next")
        assert await server.receive() == "next"
        with pytest.raises(trio.ClosedResourceError):
            await reader.receive()
        assert server.statistics().messages_discarded == 1
        await client.send("another")
        assert await whole(await server.receive_stream()) == "another"
        assert server.statistics().messages_discarded == 1


async def test_a_stream_behind_one_that_was_given_up_is_its_own():
    async with open_pair() as (client, server, _):
        async with client.send_stream(text=True) as message:
            await message.send("first")
            await server.receive_stream()
            await message.send("second")
        async with client.send_stream(text=False) as message:
            await message.send(b"third")
            reader = await server.receive_stream()
        assert await whole(reader) == b"third"
        assert server.statistics().messages_discarded == 1


async def test_a_cancelled_receive_leaves_what_had_come_of_a_stream(clock: MockClock):
    async with open_pair() as (client, server, _):
        await client.send("one")
        assert await whole(await server.receive_stream()) == "one"
        async with client.send_stream(text=True) as message:
            await message.send("two ")
            with trio.move_on_after(1) as scope:
                await server.receive()
            assert scope.cancelled_caught
            with pytest.raises(trio.WouldBlock):
                server.receive_nowait()
            await message.send("halves")
        assert await server.receive() == "two halves"
        async with client.send_stream(text=True) as message:
            await message.send("three ")
            with trio.move_on_after(1):
                await server.receive()
            await message.send("parts")
            reader = await server.receive_stream()
        assert await whole(reader) == "three parts"


def test_a_message_that_had_begun_comes_from_its_beginning():
    framer = Framer(Side.SERVER, Limits())
    framer.feed(frame(TEXT, "be", fin=False))
    assert framer.next() is None
    framer.stream(math.inf)
    framer.feed(frame(CONTINUATION, "gin", fin=False))
    assert framer.next() == Piece("begin", last=False)
    framer.feed(frame(CONTINUATION, "ning"))
    assert framer.next() == Piece("ning", last=True)


@pytest.mark.parametrize("code", [1000, 1001, 1011, None])
async def test_the_end_of_the_connection_is_not_the_end_of_the_message(
    code: int | None, clock: MockClock
):
    async def script(peer: Peer) -> None:
        await peer.accept(behind=frame(TEXT, "half", fin=False, mask=None))
        await peer.send(b"" if code is None else close_frame(code, mask=None))
        await peer.stream.aclose() if code is None else await peer.rest()

    async with scripted(script) as url, trioweb.connect(url) as ws:
        message = await ws.receive_stream()
        assert await message.receive() == "half"
        with pytest.raises(trioweb.ConnectionBroken) as caught:
            await message.receive()
        assert caught.value.code == (1006 if code is None else code)


async def test_empty_fragments_are_no_pieces_and_bring_nothing_to_a_stop(clock: MockClock):
    async def script(peer: Peer) -> None:
        empty = frame(CONTINUATION, "", fin=False, mask=None)
        await peer.accept()
        await peer.send(frame(TEXT, "a", fin=False, mask=None), empty * 10_000)
        await peer.send(frame(PING, b"!", mask=None))
        assert (await peer.frame()).opcode == PONG
        await peer.send(frame(CONTINUATION, "b", mask=None))
        await peer.rest()

    async with scripted(script) as url, trioweb.connect(url) as ws:
        assert [piece async for piece in await ws.receive_stream()] == ["a", "b"]


@pytest.mark.parametrize("compression", [None, (Deflate(), Agreement())])
def test_a_lower_limit_is_for_the_messages_to_come(compression: Compression | None):
    machine, pack = (
        Machine(Side.SERVER, Limits(), compression=compression),
        zlib.compressobj(wbits=-15),
    )
    machine.upgraded()

    def part(size: int, *, fin: bool, first: bool = False) -> bytes:
        data, opcode = bytes(size), BINARY if first else CONTINUATION
        if compression is None:
            return frame(opcode, data, fin=fin)
        data = pack.compress(data) + pack.flush(zlib.Z_SYNC_FLUSH)
        return frame(opcode, data[:-4] if fin else data, fin=fin, rsv=4 if first else 0)

    def taken() -> int:
        size = 0
        while (event := machine.next_event()) is not None:
            if isinstance(event, Failed):
                return event.close.code
            size += len(event) if isinstance(event, (bytes, Piece)) else 0
        return size

    machine.stream(math.inf)
    machine.feed(part(3_000_000, fin=False, first=True))
    assert taken() == 3_000_000
    machine.stream(2**20)
    machine.feed(part(2_000_000, fin=True))
    assert taken() == 2_000_000
    machine.feed(part(2**20 + 1, fin=True, first=True))
    assert taken() == 1009


def test_a_limit_below_that_of_messages_holds_however_the_bytes_are_cut():
    for cut in (1, 100):
        machine = Machine(Side.SERVER, Limits())
        machine.upgraded()
        machine.stream(100)
        data = frame(BINARY, bytes(100)) + frame(BINARY, bytes(101))
        machine.feed(data[:-cut])
        assert machine.next_event() == bytes(100)
        machine.feed(data[-cut:])
        event = machine.next_event()
        assert isinstance(event, Failed)
        assert event.close.code == 1009


@pytest.mark.parametrize("limit", [0, -1, math.nan])
async def test_a_limit_is_a_positive_number(limit: float):
    async with open_pair() as (_, server, _):
        with pytest.raises(ValueError, match="must be positive"):
            await server.receive_stream(limit=limit)


def test_what_came_before_anybody_asked_for_a_stream_inflates_in_small_pieces_too():
    machine = Machine(Side.SERVER, Limits(), compression=(Deflate(), Agreement()))
    machine.upgraded()
    pack = zlib.compressobj(9, wbits=-15)
    bomb = pack.compress(bytes(30_000_000)) + pack.flush(zlib.Z_SYNC_FLUSH)
    data = frame(TEXT, "hello") + frame(BINARY, bomb[:-4], rsv=4)
    machine.feed(data[:4])
    assert machine.next_event() is None
    machine.feed(data[4:])
    assert machine.next_event() == "hello"
    machine.stream(math.inf)
    sizes: list[int] = []
    while (event := machine.next_event()) is not None:
        if isinstance(event, Piece):
            sizes.append(len(event))
        else:
            assert isinstance(event, Pause)  # others have their turn
    assert sum(sizes) == 30_000_000
    assert max(sizes) < 1.1 * 2**20


def test_empty_frames_of_a_compressed_stream_give_others_a_turn():
    machine = Machine(Side.SERVER, Limits(), compression=(Deflate(), Agreement()))
    machine.upgraded()
    machine.stream(math.inf)
    empty = frame(CONTINUATION, b"\0\0\0\xff\xff", fin=False)
    machine.feed(frame(BINARY, b"\0\0\0\xff\xff", fin=False, rsv=4) + empty * 3000)
    pauses = 0
    while (event := machine.next_event()) is not None:
        assert event == Pause()
        pauses += 1
    assert pauses > 10


def test_what_is_over_holds_no_window():
    tracemalloc.start()
    try:
        machine = Machine(Side.SERVER, Limits(), compression=(Deflate(), Agreement()))
        machine.upgraded()
        data = random.Random(0).randbytes(100_000)
        pack = zlib.compressobj(wbits=-15)
        packed = pack.compress(data) + pack.flush(zlib.Z_SYNC_FLUSH)
        machine.feed(frame(BINARY, packed[:-4], rsv=4) + frame(BINARY, packed, fin=False))
        while (event := machine.next_event()) != data:
            assert event == Pause()
        before = tracemalloc.get_traced_memory()[0]
        machine.lost()
        assert tracemalloc.get_traced_memory()[0] < before - 100_000
    finally:
        tracemalloc.stop()


# --- sending ---------------------------------------------------------------------------------


async def test_pieces_are_one_message_on_the_wire_and_control_frames_go_between():
    async def handler(ws: trioweb.WebSocket) -> None:
        async with ws.send_stream(text=True) as message:
            await message.send("é")
            await message.send("")
            assert await ws.receive() == "go on"
            await message.send("€")

    async with serving(handler) as server, upgraded(server) as peer:
        assert await peer.frame() == Frame(TEXT, "é".encode(), fin=False)
        await peer.send(frame(PING, b"now?"), frame(TEXT, "go on"))
        assert await peer.frame() == Frame(PONG, b"now?")
        assert await peer.frame() == Frame(CONTINUATION, "€".encode(), fin=False)
        assert await peer.frame() == Frame(CONTINUATION, b"")
        await peer.farewell()


async def test_a_message_sent_beside_a_stream_waits_even_after_an_empty_stream():
    async def handler(ws: trioweb.WebSocket) -> None:
        async with ws.send_stream(text=True):
            pass
        async with ws.send_stream(text=True) as message:
            await message.send("one ")
            await ws.send("beside")
            await message.send("message")

    async with serving(handler, deflate=None) as server, trioweb.connect(server.url) as ws:
        assert [await ws.receive() for _ in range(3)] == ["", "one message", "beside"]


async def test_large_pieces_leave_in_fragments():
    async def handler(ws: trioweb.WebSocket) -> None:
        async with ws.send_stream(text=False) as message:
            await message.send(bytes(25))

    async with serving(handler, limits=Limits(fragment=10)) as server, upgraded(server) as peer:
        assert [len((await peer.frame()).payload) for _ in range(4)] == [10, 10, 5, 0]
        await peer.farewell()


@pytest.mark.parametrize("text", [True, False])
async def test_without_a_piece_the_message_is_empty(text: bool):
    async with open_pair() as (client, server, _):
        async with client.send_stream(text=text):
            pass
        assert await server.receive() == ("" if text else b"")
        assert client.statistics().messages_sent == 1


async def test_other_messages_wait_for_the_end_in_their_order_compressed_or_not():
    deflate = {"deflate": Deflate(context_takeover=True, threshold=0)}
    async with open_pair(client=deflate, server=deflate) as (client, server, _):  # type: ignore[arg-type]  # a plain dict
        for _ in range(2):
            async with server.send_stream(text=True) as message:
                await message.send("one ")
                await server.send("two two two")
                assert server.statistics().outbox_frames == 1
                server.send_nowait("three three")
                trioweb.broadcast([server], "four")
                await server.send("five", compress=False)
                await message.send("and a half")
                await server.ping()
                with pytest.raises(trio.WouldBlock):
                    client.receive_nowait()
            expected = ["one and a half", "two two two", "three three", "four", "five"]
            assert [await client.receive() for _ in expected] == expected
            assert server.statistics().outbox_bytes == 0
        assert server.statistics().messages_sent == 10


async def test_what_waits_is_bounded_and_does_not_hold_up_the_stream(clock: MockClock):
    limits = Limits(outbox_bytes=1000)
    async with open_pair(server={"limits": limits}) as (client, server, _):
        async with server.send_stream(text=False) as message:
            await message.send(bytes(10))
            for _ in range(10):
                server.send_nowait(bytes(100))
            with pytest.raises(trio.WouldBlock):
                server.send_nowait(b"")
            with trio.move_on_after(1) as scope:
                await server.send(b"")
            assert scope.cancelled_caught
            for _ in range(100):
                await message.send(bytes(100))
        assert len(await client.receive()) == 10_010
        assert [len(await client.receive()) for _ in range(10)] == [100] * 10


async def test_a_slow_peer_holds_up_the_pieces(clock: MockClock):
    async with serving(trickling := Trickle()) as server, upgraded(server) as peer:
        await trickling.stuck.wait()
        assert trickling.outbox <= 2 * 2**16
        while not (one := await peer.frame()).fin:
            assert one.payload == bytes(2**16)
        await peer.farewell()


class Trickle:
    """Sends more than the kernel takes, and notes when it cannot go on."""

    def __init__(self) -> None:
        self.stuck = trio.Event()
        self.outbox = 0

    async def __call__(self, ws: trioweb.WebSocket) -> None:
        async with ws.send_stream(text=False) as message:
            for _ in range(500):
                with trio.move_on_after(0.2) as scope:
                    await message.send(bytes(2**16))
                if scope.cancelled_caught:
                    break
            self.outbox = ws.statistics().outbox_bytes
            self.stuck.set()


async def test_one_message_in_pieces_follows_the_other(clock: MockClock):
    async with open_pair() as (client, server, _):

        async def send(text: str) -> None:
            async with client.send_stream(text=True) as message:
                for _ in range(3):
                    await message.send(text)
                    await trio.sleep(1)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send, "a")
            nursery.start_soon(send, "b")
            assert {await server.receive(), await server.receive()} == {"aaa", "bbb"}


async def test_who_waits_for_the_end_of_another_stream_hears_of_the_end(clock: MockClock):
    async with open_pair() as (client, server, _):

        async def wait() -> None:
            with pytest.raises(trioweb.ConnectionBroken):
                async with client.send_stream(text=True):
                    raise AssertionError("not its turn")

        async with trio.open_nursery() as nursery:
            with pytest.raises(trioweb.ConnectionBroken):
                await cut_short(client, server, nursery, wait)


async def test_a_stream_that_another_task_leaves_ends_its_connection(clock: MockClock):
    async def produce(ws: trioweb.WebSocket) -> AsyncGenerator[None]:
        async with ws.send_stream(text=True) as message:
            await message.send("half")
            yield

    async with open_pair() as (client, _, _):
        generator = produce(client)
        await anext(generator)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(generator.aclose)
        assert client.closed is not None
        assert client.closed.code == 1011


async def test_what_is_written_can_be_waited_for_in_the_midst_of_a_message(clock: MockClock):
    async with open_pair() as (client, server, _):
        async with client.send_stream(text=True) as message:
            await message.send("a")
            with trio.fail_after(1):
                await client.wait_written()
            assert trioweb.broadcast([client], "behind") == trioweb.Delivery(queued=1)
            with trio.move_on_after(1) as scope:
                await client.wait_written()
            assert scope.cancelled_caught
        assert [await server.receive(), await server.receive()] == ["a", "behind"]


async def test_small_compressed_pieces_reach_the_limit_and_no_less():
    options = {"limits": SMALL, "deflate": Deflate()}
    async with open_pair(client=options, server=options) as (client, server, _):  # type: ignore[arg-type]  # a plain dict
        async with client.send_stream(text=True) as message:
            for number in range(250):
                await message.send(f"{number:04}")
        assert len(await server.receive()) == 1000


async def test_a_message_that_has_ended_takes_no_more():
    async with open_pair() as (client, _, _):
        async with client.send_stream(text=True) as message:
            await message.send("a")
        with pytest.raises(trio.ClosedResourceError):
            await message.send("b")
        await message.aclose()


async def test_half_a_message_ends_the_connection_and_the_exception_comes_out_bare():
    async def fail(ws: trioweb.WebSocket) -> None:
        async with ws.send_stream(text=True) as message:
            await message.send("half")
            await ws.send("waiting")
            raise KeyError("oh")

    async with open_pair() as (client, server, _):
        with pytest.raises(KeyError, match="oh"):
            await fail(client)
        assert client.closed is not None
        assert client.closed.code == 1011
        with pytest.raises(trioweb.ConnectionBroken):
            await client.send("more")
        with pytest.raises(trioweb.ConnectionBroken) as caught:
            await server.receive()
        assert caught.value.reason == "a message was abandoned"
        assert client.statistics().messages_dropped == 1


async def test_leaving_before_the_first_piece_changes_nothing(clock: MockClock):
    async with open_pair() as (client, server, _):
        with trio.move_on_after(1):
            async with client.send_stream(text=True):
                await trio.sleep_forever()
        with pytest.raises(KeyError):
            async with client.send_stream(text=True):
                raise KeyError
        await client.send("fine")
        assert await server.receive() == "fine"


async def test_what_was_not_sent_is_not_kept_silent():
    async def send(ws: trioweb.WebSocket, *pieces: str) -> None:
        async with ws.send_stream(text=True) as message:
            for piece in pieces:
                await message.send(piece)

    async with open_pair() as (client, server, _), trio.open_nursery() as nursery:
        with pytest.raises(trioweb.ConnectionBroken) as caught:
            await cut_short(client, server, nursery)
        assert caught.value.code == 4000
        for pieces in ((), ("whole",)):
            with pytest.raises(trioweb.ConnectionBroken):
                await send(client, *pieces)


async def test_our_own_close_in_the_midst_of_a_message_is_told_as_ours():
    async def close_midway(ws: trioweb.WebSocket) -> None:
        async with ws.send_stream(text=True) as message:
            await message.send("half")
            await ws.aclose()
            await message.send("late")

    async with open_pair() as (client, server, _), trio.open_nursery() as nursery:
        nursery.start_soon(ends_cleanly, server)
        with pytest.raises(trioweb.ConnectionClosedByUs):
            await close_midway(client)


async def cut_short(
    ws: trioweb.WebSocket,
    other: trioweb.WebSocket,
    nursery: trio.Nursery,
    meanwhile: Callable[[], Awaitable[None]] | None = None,
) -> None:
    """Be in the midst of a message when the other end closes."""
    async with ws.send_stream(text=True) as message:
        await message.send("half")
        if meanwhile is not None:
            nursery.start_soon(meanwhile)
        nursery.start_soon(other.aclose, 4000)
        with pytest.raises(trioweb.ConnectionBroken):
            await ws.receive()


async def ends_cleanly(ws: trioweb.WebSocket) -> None:
    with pytest.raises(trioweb.EndOfChannel):
        await ws.receive()


async def test_a_piece_of_the_wrong_kind_is_a_type_error():
    async with open_pair() as (client, server, _):
        async with client.send_stream(text=True) as message:
            with pytest.raises(TypeError, match="is str, not bytes"):
                await message.send(b"bytes")
        async with client.send_stream(text=False) as message:
            with pytest.raises(TypeError, match="is bytes, not str"):
                await message.send("text")
            with pytest.raises(TypeError, match="is bytes, not int"):
                await message.send(1)  # type: ignore[arg-type]  # that is the test
        with pytest.raises(RuntimeError, match="async with"):
            await client.send_stream(text=True).send("x")
        assert await server.receive() == ""


async def test_a_lone_surrogate_is_told_before_anything_is_out():
    async with open_pair() as (client, server, _):
        async with client.send_stream(text=True) as message:
            with pytest.raises(UnicodeEncodeError):
                await message.send("\ud800")
            await message.send("fine")
        assert await server.receive() == "fine"


async def test_compressed_pieces_are_one_compressed_message():
    options = {"deflate": Deflate()}
    text = "the same words again and again " * 100
    async with open_pair(client=options, server=options) as (client, server, _):  # type: ignore[arg-type]  # a plain dict
        for compress in (None, True, False):
            before = client.statistics().bytes_sent
            async with client.send_stream(text=True, compress=compress) as message:
                for _ in range(20):
                    await message.send(text)
            assert await server.receive() == text * 20
            sent = client.statistics().bytes_sent - before
            assert (sent < len(text) * 5) is (compress is not False)
