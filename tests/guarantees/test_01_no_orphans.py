"""Guarantee 1: when a block or a `serve` ends, every task that it started has ended."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

import trioweb
from tests.guarantees.peers import TEXT, Link, echo, tasks


async def test_client_and_server_blocks(clock: MockClock, link: Link) -> None:
    before = tasks()
    deaf = trio.Event()

    async def handler(ws: trioweb.WebSocket) -> None:
        await ws.send(await ws.receive())
        await deaf.wait()

    async with link.server(handler) as server:
        await link.settle()
        with_server = tasks()
        async with link.by_hand(server) as peer, link.client(server) as ws:
            await peer.send(TEXT, b"x")
            await ws.send("x")
            assert await ws.receive() == "x"
            # Nobody receives, so the reader tasks take over; one peer stays silent, and is asked.
            await trio.sleep(21)
            during = tasks()
            assert {name.split()[-1] for name in during} >= {"heartbeat", "reader"}
            deaf.set()
        await link.settle()
        assert tasks() == with_server
    assert tasks() == before


@pytest.mark.parametrize("how", ["raise", "cancel", "peer resets", "drain"])
async def test_every_way_out(clock: MockClock, link: Link, how: str) -> None:
    before = tasks()
    with trio.CancelScope() as scope:
        with pytest.raises(KeyError) if how == "raise" else trio.CancelScope():
            async with link.server(echo) as server, link.client(server) as ws:
                async with link.by_hand(server) as peer:
                    await ws.send("x")
                    await ws.receive()
                    if how == "raise":
                        raise KeyError
                    if how == "cancel":
                        scope.cancel()
                        await trio.lowlevel.checkpoint()
                    if how == "peer resets":
                        link.reset(peer)
                    if how == "drain":
                        await server.drain()
    assert tasks() == before


async def test_serve_in_a_nursery(clock: MockClock, link: Link) -> None:
    before = tasks()
    async with trio.open_nursery() as nursery:
        server = await nursery.start(link.serve, echo)
        async with link.client(server) as ws:
            await ws.send("x")
            assert await ws.receive() == "x"
            await server.drain()
            with pytest.raises(trio.EndOfChannel):
                await ws.receive()
    assert tasks() == before


async def test_no_connection_comes_about(clock: MockClock, link: Link) -> None:
    async with link.server(echo) as server:
        await link.settle()
        before = tasks()
        stream = await link.open_stream(server)
        with pytest.raises(trioweb.HandshakeTimeout):
            async with trioweb.connect(
                "ws://127.0.0.1:9", stream=trio.testing.memory_stream_pair()[0]
            ):
                pass
        await stream.aclose()
        await link.settle()
        assert tasks() == before
