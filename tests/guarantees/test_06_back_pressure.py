"""Guarantee 6: a slow handler stops the peer; a slow peer stops the sender, or is closed."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

import trioweb
from tests.guarantees.peers import Link


async def test_a_slow_handler_stops_the_peer(clock: MockClock, link: Link) -> None:
    async with link.pair() as (client, server):
        sent = 0
        with trio.move_on_after(5) as scope:
            for _ in range(link.enough // 10_000):
                await client.send(b"x" * 10_000)
                sent += 1
        assert scope.cancelled_caught
        assert server.statistics().inbox_messages <= trioweb.Limits().inbox_bytes // 10_000 + 1
        for _ in range(sent):
            assert await server.receive() == b"x" * 10_000
        await client.send("and it goes on")
        assert await server.receive() == "and it goes on"


async def test_a_slow_peer_stops_the_sender(clock: MockClock, link: Link) -> None:
    sent = 0

    async def talk(ws: trioweb.WebSocket) -> None:
        nonlocal sent
        for _ in range(2 * link.enough // 10_000):
            await ws.send(b"x" * 10_000)
            sent += 1

    async with link.server(talk, heartbeat=None) as server:
        async with link.by_hand(server, buffers=20_000) as peer:
            await trio.sleep(5)
            stopped = sent
            await trio.sleep(5)
            assert sent == stopped
            for _ in range(sent):
                assert await peer.receive() == (2, b"x" * 10_000)
            assert sent > stopped


@pytest.mark.parametrize("overflow", [trioweb.Overflow.DROP_NEWEST, trioweb.Overflow.CLOSE])
async def test_or_meets_the_overflow_policy(
    clock: MockClock, link: Link, overflow: trioweb.Overflow
) -> None:
    async def stay(ws: trioweb.WebSocket) -> None:
        await trio.sleep_forever()

    async with link.server(stay, heartbeat=None) as server:
        async with link.by_hand(server, buffers=20_000) as slow, link.client(server) as quick:
            while len(server.connections) < 2:
                await trio.sleep(0.01)
            lost = delivered = 0
            for _ in range(500):
                done = trioweb.broadcast(server.connections, b"x" * 50_000, overflow=overflow)
                lost += done.dropped + done.closed
                if done.written + done.queued:
                    assert await quick.receive() == b"x" * 50_000
                    delivered += 1
                if done.closed:
                    break
            assert lost > 0
            assert delivered == (500 if overflow is trioweb.Overflow.DROP_NEWEST else delivered)
            slow_ws = max(server.connections, key=lambda each: each.statistics().outbox_bytes)
            assert slow_ws.statistics().outbox_bytes < 2**16 + 50_010
            if overflow is trioweb.Overflow.DROP_NEWEST:
                assert slow_ws.statistics().messages_dropped == lost
                assert slow_ws.closed is None
            else:
                assert slow_ws.closed == trioweb.Close(1013, "slow consumer")
                assert await slow.receive_close() == 1013
