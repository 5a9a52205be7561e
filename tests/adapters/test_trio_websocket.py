"""The toolkit on connections of trio-websocket, over the loopback."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

import msgspec
import pytest
import trio
import trio.testing
from trio_websocket import (
    WebSocketConnection,
    WebSocketRequest,
    open_websocket_url,
    serve_websocket,
)

import trioweb
from tests.helpers import guard, scripted, tasks
from trioweb import Delivery, LinkLimits, Message, Overflow, Policy, Retention, TopicOptions
from trioweb.adapters.trio_websocket import TrioWebSocketChannel
from trioweb.codecs.json import Json
from trioweb.toolkit.attach import Link, attach
from trioweb.toolkit.batching import batch
from trioweb.toolkit.messages import Messages
from trioweb.toolkit.pubsub import Hub
from trioweb.toolkit.rooms import Rooms
from trioweb.toolkit.rpc import Event, Methods, Peer, open_peer
from trioweb.toolkit.typed import TypedChannel
from trioweb.toolkit.wire import Error

NEWEST = Policy(Overflow.DROP_NEWEST)


def told(missed: int) -> str:
    return f"missed {missed}"


@asynccontextmanager
async def served() -> AsyncIterator[tuple[str, trio.MemoryReceiveChannel[WebSocketConnection]]]:
    """Serve with trio-websocket; yield the URL, and the connections as they come."""
    accepted, connections = trio.open_memory_channel[WebSocketConnection](math.inf)
    over = trio.Event()

    async def stay(request: WebSocketRequest) -> None:
        await accepted.send(await request.accept())
        await over.wait()

    with guard():
        async with trio.open_nursery() as nursery:
            server = await nursery.start(serve_websocket, stay, "127.0.0.1", 0, None)
            yield f"ws://127.0.0.1:{server.port}", connections
            over.set()
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def pair() -> AsyncIterator[tuple[TrioWebSocketChannel, TrioWebSocketChannel]]:
    """Return a server's and a client's channel."""
    async with served() as (url, connections), open_websocket_url(url) as client:
        server = await connections.receive()
        yield TrioWebSocketChannel(server), TrioWebSocketChannel(client)
        for one in (client, server):
            # It leaves the socket of what its peer has closed to the garbage collector.
            await trio.aclose_forcefully(one._stream)


async def drain(channel: TrioWebSocketChannel) -> None:
    """Receive until the end."""
    while True:
        await channel.receive()


async def flood(link: Link, size: int) -> None:
    """Send until the end."""
    while True:
        link.send_nowait(bytes(size))
        await trio.testing.wait_all_tasks_blocked(0.001)


async def test_messages_go_both_ways():
    async with pair() as (server, client):
        for message in ("text", b"bytes", "", "ä" * 1000):
            await server.send(message)
            assert await client.receive() == message
            await client.send(message)
            assert await server.receive() == message


@pytest.mark.parametrize("message", [bytearray(b"any"), memoryview(b"any")])
async def test_bytes_of_any_kind(message):
    async with pair() as (server, client):
        await server.send(message)
        assert await client.receive() == b"any"
        with pytest.raises(TypeError, match="not int"):
            await server.send(cast("str", 1))


@pytest.mark.parametrize(
    ("code", "end"),
    [
        (1000, trioweb.EndOfChannel),
        (1001, trioweb.EndOfChannel),
        (1011, trioweb.ConnectionBroken),
        (4001, trioweb.ConnectionBroken),
    ],
)
async def test_the_peers_end_has_its_code_and_what_came_before_it_is_received(code, end):
    async with pair() as (server, client):
        async with trio.open_nursery() as nursery:
            await server.send("last")
            nursery.start_soon(server.aclose, code, "why")
            assert await client.receive() == "last"
            for _ in range(2):
                with pytest.raises(end) as raised:
                    await client.receive()
                assert (raised.value.code, raised.value.reason) == (code, "why")
                assert raised.value.close.by_peer
            with pytest.raises(trioweb.ConnectionBroken) as broken:
                await client.send("x")
            assert broken.value.code == code
        await client.aclose()
        with pytest.raises(trioweb.ConnectionClosedByUs):
            await client.receive()


async def test_after_our_own_end_everything_is_closed():
    async with pair() as (server, client), trio.open_nursery() as nursery:

        @nursery.start_soon
        async def _() -> None:
            with pytest.raises(trioweb.ConnectionClosedByUs):
                await server.receive()

        await trio.testing.wait_all_tasks_blocked()
        await server.aclose(4001, "mine")
        await server.aclose()
        for use in (server.receive, lambda: server.send("x")):
            with pytest.raises(trioweb.ConnectionClosedByUs) as end:
                await use()
            assert (end.value.code, end.value.reason) == (4001, "mine")
        with pytest.raises(trioweb.ConnectionBroken):
            await client.receive()


@pytest.mark.parametrize(("code", "reason"), [(1005, ""), (999, ""), (1000, "x" * 124)])
async def test_what_may_not_be_sent_in_a_close_frame_is_refused(code, reason):
    async with pair() as (server, client):
        with pytest.raises(ValueError, match="close"):
            await server.aclose(code, reason)
        await server.send("still there")
        assert await client.receive() == "still there"


async def test_a_lost_connection_is_broken():
    async with pair() as (server, client):
        await client.connection._stream.aclose()
        with pytest.raises(trioweb.ConnectionBroken) as end:
            await server.receive()
        assert end.value.code == 1006


async def test_one_receiver_at_a_time():
    async with pair() as (server, client):
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def _() -> None:
                assert await server.receive() == "one"

            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(trio.BusyResourceError):
                await server.receive()
            await client.send("one")
        with trio.move_on_after(0.01):
            await server.receive()
        await client.send("two")
        assert await server.receive() == "two"


async def test_a_write_given_up_half_way_is_the_last_one():
    async with pair() as (server, client):
        with trio.move_on_after(0.1) as scope:
            while True:
                await server.send(bytes(2**20))
        assert scope.cancelled_caught
        with pytest.raises(trioweb.ConnectionBroken, match="half way"):
            await server.send("x")
        with trio.fail_after(5):
            await server.aclose()
        with pytest.raises(trioweb.ConnectionBroken):
            await drain(client)


async def test_closing_is_bounded_and_a_cancelled_one_cuts():
    async def never(peer) -> None:
        await peer.accept()
        await trio.sleep_forever()

    async with scripted(never) as url:
        for seconds in (math.inf, 0.1):
            async with open_websocket_url(url, disconnect_timeout=0.1) as connection:
                channel = TrioWebSocketChannel(connection, close_timeout=0.2)
                start = trio.current_time()
                with trio.move_on_after(seconds):
                    await channel.aclose()
                assert trio.current_time() - start < 2
                with pytest.raises(trioweb.ConnectionClosedByUs):
                    await channel.send("x")


@pytest.mark.parametrize("seconds", [0, -1, math.inf, math.nan])
async def test_a_close_has_a_deadline(seconds):
    async with served() as (url, _), open_websocket_url(url) as connection:
        with pytest.raises(ValueError, match="close_timeout"):
            TrioWebSocketChannel(connection, close_timeout=seconds)


# Links and rooms on them.


async def test_a_link_keeps_order_and_leaves_no_task():
    before = tasks()
    async with pair() as (server, client):
        async with attach(server) as link:
            for number in range(100):
                if number % 3:
                    await link.send(str(number))
                else:
                    assert link.send_nowait(str(number))
            assert [await client.receive() for _ in range(100)] == [str(n) for n in range(100)]
            await client.send("back")
            assert await anext(link) == "back"
        await client.send("the channel is still ours")
        assert await server.receive() == "the channel is still ours"
    assert tasks() == before


async def test_a_receiver_that_stalls_misses_what_it_is_told_of():
    async with (
        pair() as (server, client),
        attach(server, limits=LinkLimits(messages=4, bytes=2**22), gap=told) as link,
    ):
        sent = 0
        while link.dropped < 3:
            link.send_nowait(bytes(2**18), NEWEST)
            sent += 1
            await trio.testing.wait_all_tasks_blocked(0.001)
        assert link.statistics().backlog_messages <= 5
        await trio.lowlevel.checkpoint()
        found: list[Message] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(link.send, "end")
            while not found or found[-1] != "end":
                found.append(await client.receive())
        # What must be kept has taken the place of the oldest.
        assert found[-2:] == ["missed 3", "end"]
        assert found.count("missed 1") == 1
        assert len(found) == sent - 4 + 3


async def test_a_slow_consumer_is_cut():
    async with (
        pair() as (server, client),
        attach(server, limits=LinkLimits(messages=2, close=0.5)) as link,
    ):
        with pytest.raises(trio.BrokenResourceError, match="slow consumer"):
            await flood(link, 2**20)
        with pytest.raises(trio.BrokenResourceError, match="slow consumer"):
            await link.receive()
        with pytest.raises(trioweb.ConnectionBroken):
            await drain(client)


async def test_the_peers_end_has_its_code_on_the_link_too():
    async with (
        pair() as (server, client),
        attach(server) as link,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(client.aclose, 4001, "bye")
        with pytest.raises(trioweb.ConnectionBroken):
            await link.receive()
        link.send_nowait("x")
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trioweb.ConnectionBroken) as end:
            link.send_nowait("y")
        assert end.value.code == 4001


async def test_closing_a_link_tells_the_peer_why():
    async with (
        pair() as (server, client),
        attach(server) as link,
        trio.open_nursery() as nursery,
    ):
        link.send_nowait("last")
        nursery.start_soon(link.aclose, 4002, "thrown out")
        assert await client.receive() == "last"
        with pytest.raises(trioweb.ConnectionBroken) as end:
            await client.receive()
        assert (end.value.code, end.value.reason) == (4002, "thrown out")


async def test_a_room_of_them_beside_a_websocket_of_trioweb():
    rooms = Rooms()
    async with (
        pair() as (server, client),
        trioweb.open_server(trioweb_member(rooms), 0) as other,
        trioweb.connect(other.url) as ws,
        attach(server) as link,
    ):
        room = await rooms.join("lobby", link)
        while len(room) < 2:
            await trio.lowlevel.checkpoint()
        assert room.broadcast("to both") == Delivery(written=1, queued=1)
        assert await client.receive() == await ws.receive() == "to both"
        await ws.send("from one")
        assert await client.receive() == "from one"


async def test_calls_both_ways_and_their_end():
    methods, back = Methods(), Methods()
    running = 0

    @methods.method
    async def add(peer: Peer, a: int, b: int) -> int:
        return a + b + await peer.call("more")

    @methods.method
    async def hang(peer: Peer) -> None:
        nonlocal running
        running += 1
        try:
            await trio.sleep_forever()
        finally:
            running -= 1

    @back.method
    def more(_peer: Peer) -> int:
        return 100

    async with (
        pair() as (server, client),
        open_peer(server, methods),
        open_peer(client, back) as caller,
    ):
        assert await caller.call("add", {"a": 1, "b": 2}) == 103
        with trio.move_on_after(0.05) as scope:
            await caller.call("hang")
        assert scope.cancelled_caught
        while running:
            await trio.lowlevel.checkpoint()
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def _() -> None:
                with pytest.raises(trioweb.CallLost):
                    await caller.call("hang")

            while not running:
                await trio.lowlevel.checkpoint()
            await server.aclose(1011, "gone")


def trioweb_member(rooms: Rooms):
    async def handler(ws: trioweb.WebSocket) -> None:
        async with attach(ws) as link, rooms.joined("lobby", link) as room:
            async for message in link:
                await room.send(message, exclude=[link])

    return handler


class Move(msgspec.Struct, tag="move"):
    """What the typed channel carries."""

    x: int


async def test_messages_by_their_type_in_batches():
    messages = Messages()

    @messages.on(Move)
    async def move(_: object, message: Move) -> Move:
        return Move(message.x + 1)

    async with (
        pair() as (server, client),
        batch(server) as there,
        batch(client) as here,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(messages.serve, there)
        typed = TypedChannel(here, Json(Move | Error))
        await typed.send(Move(1))
        await typed.send(Move(2))
        assert [await typed.receive(), await typed.receive()] == [Move(2), Move(3)]
        await here.send('{"type":"move","x":"far"}')
        error = await typed.receive()
        assert isinstance(error, Error)
        assert (error.code, error.path) == ("invalid", "$.x")
        await here.flush()
        await client.aclose()


async def test_a_topic_with_history_and_presence():
    topic = {"topic": "tea"}
    options = TopicOptions(history=Retention(max_entries=10), presence=True)
    heard, events = trio.open_memory_channel[Event](10)
    async with Hub({"*": options}, identify=lambda _: ("ada", None)) as hub, pair() as one:
        async with (
            open_peer(one[0], hub.methods),
            open_peer(one[1], on_event=heard.send_nowait) as peer,
        ):
            position = (await peer.call("subscribe", topic))["position"]
            assert [user["user"] for user in (await peer.call("presence", topic))["users"]] == [
                "ada"
            ]
            await hub.publish("tea", "hot")
            event = await events.receive()
            assert (event.offset, event.data) == (position["offset"] + 1, "hot")
        async with (
            pair() as (server, client),
            open_peer(server, hub.methods),
            open_peer(client) as again,
        ):
            answer = await again.call("subscribe", {**topic, "position": position})
            assert answer["recovered"]
            assert [one["data"] for one in answer["events"]] == ["hot"]
