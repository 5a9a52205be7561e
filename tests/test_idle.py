"""`Timeouts.idle`: who says nothing is closed, on time, and whoever talks is not."""

from __future__ import annotations

import ssl

import pytest
import trio
from trio.testing import MockClock

import trioweb
from tests.guarantees.peers import (
    CLOSE,
    PING,
    PONG,
    TEXT,
    Link,
    TCPLink,
    TLSLink,
    VirtualLink,
    echo,
    first_connection,
)
from tests.helpers import tasks
from trioweb import Timeouts

#: Seconds, and when it is over at the latest.
IDLE = Timeouts(idle=40)
LATEST = 50


@pytest.fixture(params=["tcp", "tls", "virtual"])
def link(
    request: pytest.FixtureRequest, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> Link:
    if request.param == "tls":
        return TLSLink(server_tls, client_tls)
    return TCPLink() if request.param == "tcp" else VirtualLink()


@pytest.fixture
def clock(link: Link) -> MockClock:
    return MockClock(autojump_threshold=link.moment)


def test_it_is_off_unless_told_and_positive() -> None:
    assert Timeouts().idle == float("inf")
    with pytest.raises(ValueError, match="idle must be positive"):
        Timeouts(idle=0)


async def test_a_peer_that_says_nothing_is_closed(clock: MockClock, link: Link) -> None:
    async with link.server(echo, timeouts=IDLE) as server, link.client(server) as ws:
        start = trio.current_time()
        with pytest.raises(trioweb.EndOfChannel) as caught:
            await ws.receive()
        assert (caught.value.code, caught.value.reason) == (1001, "idle")
        assert 40 <= trio.current_time() - start <= LATEST
        await link.settle()
        assert server.statistics().refused == {"idle": 1}


async def test_a_client_may_have_it_too(clock: MockClock, link: Link) -> None:
    async with link.server(echo) as server, link.client(server, timeouts=IDLE) as ws:
        start = trio.current_time()
        with pytest.raises(trioweb.EndOfChannel):
            await ws.receive()
        assert 40 <= trio.current_time() - start <= LATEST
        assert ws.closed == trioweb.Close(1001, "idle")


async def test_from_the_last_message_on_whichever_way_it_goes(clock: MockClock, link: Link) -> None:
    async def talk(ws: trioweb.WebSocket) -> None:
        for _ in range(5):
            await trio.sleep(35)
            await ws.send("x")
        await echo(ws)

    async with link.server(talk, timeouts=IDLE) as server, link.client(server) as ws:
        for _ in range(5):
            await ws.receive()
        for _ in range(5):
            await trio.sleep(35)
            await ws.send("y")
            assert await ws.receive() == "y"
        last = trio.current_time()
        with pytest.raises(trioweb.EndOfChannel):
            await ws.receive()
        assert 40 <= trio.current_time() - last <= LATEST


async def test_pings_are_no_messages(clock: MockClock, link: Link) -> None:
    async with link.server(echo, timeouts=IDLE) as server, link.by_hand(server) as peer:
        ws = await first_connection(server)
        start = trio.current_time()
        while True:
            await peer.send(PING, b"are you there?")
            opcode, payload = await peer.receive()
            if opcode == CLOSE:
                break
            assert opcode == PONG
            await trio.sleep(1)
        assert payload == (1001).to_bytes(2, "big") + b"idle"
        assert 40 <= trio.current_time() - start <= LATEST + 1
        assert ws.closed == trioweb.Close(1001, "idle")


async def test_a_message_that_takes_its_time_is_no_idleness(clock: MockClock, link: Link) -> None:
    came: list[str | bytes] = []

    async def note(ws: trioweb.WebSocket) -> None:
        came.extend([message async for message in ws])

    async with link.server(note, timeouts=IDLE) as server, link.by_hand(server) as peer:
        for number in range(100):  # 200 bytes a second, for 100 times 2 seconds
            await peer.send(TEXT if not number else 0, b"x" * 400, fin=number == 99)
            await trio.sleep(2)
        await link.settle()
        assert (await first_connection(server)).closed is None
        await peer.send(CLOSE, (1000).to_bytes(2, "big"))
        assert (await peer.receive())[0] == CLOSE
    assert came == ["x" * 40_000]


async def test_nor_is_a_handler_that_is_behind(clock: MockClock, link: Link) -> None:
    came: list[str | bytes] = []

    async def slow(ws: trioweb.WebSocket) -> None:
        async for message in ws:
            came.append(message)
            await trio.sleep(100)

    async with link.server(slow, timeouts=IDLE) as server, link.client(server) as ws:
        for message in "abc":
            await ws.send(message)
        with pytest.raises(trioweb.EndOfChannel):
            await ws.receive()
    assert came == [*"abc"]


async def test_it_takes_no_task(clock: MockClock, link: Link) -> None:
    async def stay(ws: trioweb.WebSocket) -> None:
        await ws.receive()

    counts = []
    for timeouts in (Timeouts(), IDLE):
        async with link.server(stay, timeouts=timeouts) as server, link.client(server) as ws:
            await link.settle()
            counts.append(len(tasks()))
            await ws.send("x")
    assert counts[0] == counts[1]
