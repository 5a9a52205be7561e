"""Guarantee 10: every deadline is a cancel scope on Trio's clock; nothing polls while idle."""

from __future__ import annotations

import time

import pytest
import trio
from trio.testing import MockClock

import trioweb
from tests.guarantees.peers import Link, first_connection
from trioweb.testing.steps import CountSteps


async def _wait(ws: trioweb.WebSocket) -> None:
    async for _ in ws:
        pass


async def _stay(ws: trioweb.WebSocket) -> None:
    await trio.sleep_forever()


@pytest.mark.parametrize("handler", [_wait, _stay])
async def test_nothing_polls_while_idle(clock: MockClock, link: Link, handler: object) -> None:
    assert callable(handler)
    async with link.server(handler, heartbeat=None) as server:
        async with link.client(server, heartbeat=None):
            await first_connection(server)
            await trio.sleep(1)  # who looks after the connection has looked
            with CountSteps() as counted:
                await trio.sleep(60)
            assert counted.steps <= 3


async def test_an_hour_of_heartbeats_takes_no_time(clock: MockClock, link: Link) -> None:
    start = time.monotonic()
    async with link.server(_wait) as server, link.client(server) as ws:
        await trio.sleep(3600)
        assert ws.closed is None
        assert ws.latency is not None
    assert time.monotonic() - start < 60


async def test_every_deadline_is_virtual(clock: MockClock, link: Link) -> None:
    async def check(ws: trioweb.WebSocket, message: object) -> str:
        raise AssertionError("no message comes")

    authenticate = trioweb.FirstMessage(check, code=4401)
    async with link.server(_wait, authenticate=authenticate) as server:
        start = trio.current_time()
        async with await link.open_stream(server) as stream:  # handshake
            assert await stream.receive_some() == b""
        assert trio.current_time() - start == pytest.approx(10, abs=0.1)
        async with link.by_hand(server) as peer:  # auth
            start = trio.current_time()
            assert await peer.receive_close() == 4401
            assert trio.current_time() - start == pytest.approx(10, abs=0.1)
    ours, theirs = trio.testing.memory_stream_pair()
    start = trio.current_time()
    with pytest.raises(trioweb.HandshakeTimeout):
        async with trioweb.connect("ws://127.0.0.1:9", stream=ours):
            pass
    assert trio.current_time() - start == pytest.approx(10, abs=0.1)
    await theirs.aclose()
