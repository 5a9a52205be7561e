"""Guarantee 4: `receive` and `send` run a full checkpoint at least every 64 calls or 64 KiB."""

from __future__ import annotations

from contextlib import AsyncExitStack

import pytest
import trio
from trio.testing import MockClock

import trioweb
from tests.guarantees.peers import PING, PONG, TEXT, Link, first_connection, frame
from trioweb.testing.steps import CountSteps


async def _stay(ws: trioweb.WebSocket) -> None:
    await trio.sleep_forever()


@pytest.mark.parametrize(("size", "count", "every"), [(1, 640, 64), (10_000, 60, 7)])
async def test_receive(clock: MockClock, link: Link, size: int, count: int, every: int) -> None:
    limits = trioweb.Limits(inbox_bytes=2**30, inbox_messages=10_000)
    async with link.pair(limits=limits) as (client, server):
        for _ in range(count):
            await server.send(b"x" * size)
        await trio.sleep(1)  # the reader task decodes all of it
        assert client.statistics().inbox_messages == count
        with CountSteps(trio.lowlevel.current_task()) as counted:
            for _ in range(count):
                await client.receive()
        assert counted.steps >= count // every
        assert counted.steps <= count // every + 2  # and no task switch for every message


@pytest.mark.parametrize(("size", "count", "every"), [(1, 640, 64), (10_000, 60, 7)])
async def test_send_counts_for_the_task(
    clock: MockClock, link: Link, size: int, count: int, every: int
) -> None:
    limits = trioweb.Limits(outbox_bytes=2**30, outbox_frames=10_000)
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(link.server(_stay))
        clients = [
            await stack.enter_async_context(link.client(server, limits=limits)) for _ in range(10)
        ]
        with CountSteps(trio.lowlevel.current_task()) as counted:
            for number in range(count):
                await clients[number % 10].send(b"x" * size)
        assert counted.steps >= count // every


async def test_cancellation_arrives_within_64_calls(clock: MockClock, link: Link) -> None:
    limits = trioweb.Limits(inbox_messages=10_000)
    async with link.pair(limits=limits) as (client, server):
        for _ in range(500):
            await server.send("x")
        await trio.sleep(1)
        received = sent = 0
        with trio.CancelScope() as scope:
            scope.cancel()
            while True:
                await client.receive()
                received += 1
        assert received < 64
        with trio.CancelScope() as scope:
            scope.cancel()
            while True:
                await client.send("x")
                sent += 1
        assert sent < 64


async def test_an_empty_inbox_delivers_a_cancellation(clock: MockClock, link: Link) -> None:
    async with link.pair() as (client, _):
        with trio.CancelScope() as scope:
            scope.cancel()
            await client.receive()
        assert scope.cancelled_caught
        await client.aclose()
        for call in (client.receive, client.ping, client.wait_written):
            with trio.CancelScope() as scope:
                scope.cancel()
                await call()
            assert scope.cancelled_caught


async def test_a_busy_connection_starves_nobody(clock: MockClock, link: Link) -> None:
    async def shout(ws: trioweb.WebSocket) -> None:
        for _ in range(3000):
            await ws.send("x" * 1000)

    async with link.server(shout) as server, link.client(server) as ws:
        await first_connection(server)
        turns = 0

        async def other() -> None:
            nonlocal turns
            while True:
                await trio.lowlevel.checkpoint()
                turns += 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(other)
            for _ in range(2000):
                await ws.receive()
            nursery.cancel_scope.cancel()
        assert turns >= 2000 // 64


@pytest.mark.parametrize("flood", [frame(PONG), frame(PING), frame(0, fin=False)])
async def test_a_flood_of_control_frames_or_fragments_keeps_nobody_waiting(
    clock: MockClock, link: Link, flood: bytes
) -> None:
    go, steps = trio.Event(), 0

    async def handler(ws: trioweb.WebSocket) -> None:
        nonlocal steps
        await go.wait()
        with CountSteps() as counted:
            await ws.receive()
        steps = counted.steps

    limits = trioweb.Limits(max_fragments=10_000, read=1024)
    async with link.server(handler, limits=limits) as server:
        async with link.by_hand(server) as peer:
            await first_connection(server)
            first = frame(TEXT, fin=False) if flood == frame(0, fin=False) else b""
            last = frame(0 if first else TEXT)
            await peer.stream.send_all(first + flood * 5000 + last)
            go.set()
            await trio.sleep(1)
    assert steps >= 5000 * len(flood) // limits.read
    if not first:
        assert steps >= 5000 // limits.outbox_control
