"""Guarantee 7: an honest heartbeat: on time, any byte counts, and it pauses when we do not read."""

from __future__ import annotations

import math

import pytest
import trio
from trio.testing import MockClock

import trioweb
from tests.guarantees.peers import CLOSE, PING, PONG, TEXT, Link, echo, first_connection, frame


async def _stay(ws: trioweb.WebSocket) -> None:
    await trio.sleep_forever()


async def _until_closed(ws: trioweb.WebSocket, limit: float = 1000) -> float:
    """Return the time at which a connection is found over, on a second."""
    with trio.fail_after(limit):
        while ws.closed is None:
            await trio.sleep(0.5)
    return trio.current_time()


async def test_a_silent_peer_is_given_up_after_40_seconds(clock: MockClock, link: Link) -> None:
    async with link.server(_stay) as server, link.by_hand(server) as peer:
        ws = await first_connection(server)
        start = trio.current_time()
        assert (await peer.receive())[0] == PING
        assert trio.current_time() - start == pytest.approx(20, abs=0.5)
        opcode, payload = await peer.receive()
        assert (opcode, payload[:2]) == (CLOSE, (1011).to_bytes(2, "big"))
        assert trio.current_time() - start == pytest.approx(40, abs=0.5)
        assert ws.closed == trioweb.Close(1011, "ping timeout")
        with pytest.raises(EOFError):
            await peer.receive()
        assert trio.current_time() - start == pytest.approx(40, abs=0.5), "it waits for no answer"


async def test_an_answer_keeps_it_alive_and_gives_the_latency(clock: MockClock, link: Link) -> None:
    async with link.server(_stay) as server, link.by_hand(server) as peer:
        ws = await first_connection(server)
        for _ in range(5):
            opcode, payload = await peer.receive()
            assert opcode == PING
            await trio.sleep(3)
            await peer.send(PONG, payload)
        await trio.sleep(1)
        assert ws.closed is None
        assert ws.latency == pytest.approx(3, abs=0.2)


async def test_it_fires_while_a_send_is_blocked(clock: MockClock, link: Link) -> None:
    async def talk(ws: trioweb.WebSocket) -> None:
        await link.talk(ws)

    never = trioweb.Timeouts(write=math.inf)
    async with link.server(talk, timeouts=never) as server:
        async with link.by_hand(server, buffers=20_000):
            ws = await first_connection(server)
            start = trio.current_time()
            assert await _until_closed(ws) - start == pytest.approx(40, abs=1)
            assert ws.closed is not None
            assert ws.closed.reason == "ping timeout"


async def test_any_byte_counts_as_heard(clock: MockClock, link: Link) -> None:
    async with link.server(_stay) as server, link.by_hand(server) as peer:
        ws = await first_connection(server)
        for byte in frame(TEXT, b"drop by drop"):
            await trio.sleep(25)  # after the ping, before its deadline, and never a pong
            await peer.stream.send_all(bytes([byte]))
        assert ws.closed is None
        start = trio.current_time()
        assert await _until_closed(ws) - start == pytest.approx(40, abs=1)


async def test_it_pauses_while_our_side_does_not_read(clock: MockClock, link: Link) -> None:
    wake = trio.Event()

    async def slow(ws: trioweb.WebSocket) -> None:
        await wake.wait()
        async for _ in ws:
            pass

    limits = trioweb.Limits(inbox_messages=1)
    async with link.server(slow, limits=limits) as server, link.by_hand(server) as peer:
        ws = await first_connection(server)
        for _ in range(3):
            await peer.send(TEXT, b"x")
        await trio.sleep(500)
        assert ws.closed is None, "silence said nothing: we did not listen"
        wake.set()
        start = trio.current_time()
        assert await _until_closed(ws) - start == pytest.approx(40, abs=1)


async def test_it_pauses_until_the_inbox_is_empty(clock: MockClock, link: Link) -> None:
    """Below its mark an inbox that was full is still not read into."""
    got: list[trioweb.Message] = []

    async def slow(ws: trioweb.WebSocket) -> None:
        await trio.sleep(10)
        got.append(await ws.receive())
        await trio.sleep(500)
        async for message in ws:
            got.append(message)

    limits = trioweb.Limits(inbox_messages=3)
    async with link.server(slow, limits=limits) as server, link.by_hand(server) as peer:
        ws = await first_connection(server)
        for number in range(5):
            await peer.send(TEXT, b"%d" % number)
        await trio.sleep(505)
        assert ws.closed is None, "silence said nothing: we did not listen"
        await trio.sleep(10)
        assert got == ["0", "1", "2", "3", "4"]


async def test_write_timeout_is_time_without_progress(clock: MockClock, link: Link) -> None:
    async def talk(ws: trioweb.WebSocket) -> None:
        for _ in range(6 * 100):
            await ws.send(b"x" * 50_000)
        await link.talk(ws, 50_000)

    async with link.server(talk, heartbeat=None) as server:
        # With a small buffer the kernel waits for a timer of its own where the peer reads on.
        async with link.by_hand(server) as peer:
            ws = await first_connection(server)
            for _ in range(6):  # a slow link is not a dead one
                await trio.sleep(15)
                for _ in range(100):
                    await peer.receive()
            assert ws.closed is None
            sent = last = 0.0
            while ws.closed is None:
                if ws.statistics().bytes_sent > sent:
                    sent, last = ws.statistics().bytes_sent, trio.current_time()
                await trio.sleep(0.5)
            assert trio.current_time() - last == pytest.approx(20, abs=1)
            assert ws.closed.code == 1006


async def test_pings_to_a_busy_handler_are_answered_in_100_ms(clock: MockClock, link: Link) -> None:
    async with link.server(_stay) as server, link.client(server) as ws:
        await first_connection(server)
        for _ in range(5):
            assert await ws.ping() <= 0.11
            await trio.sleep(1)


async def test_our_own_ping_is_heard_though_nobody_receives(clock: MockClock, link: Link) -> None:
    async with link.server(echo) as server, link.client(server) as ws:
        for pause in (0, 0.07, 1):  # since the last `receive`: nobody reads, then the reader does
            await ws.send("x")
            await ws.receive()
            await trio.sleep(pause)
            assert await ws.ping() < 0.01
