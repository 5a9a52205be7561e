"""Guarantee 8: `aclose` returns within `Timeouts.close`, `drain` within its timeout."""

from __future__ import annotations

import logging
import math

import pytest
import trio
from trio.testing import MockClock

import trioweb
from tests.guarantees.peers import CLOSE, TEXT, ByHand, Link, echo, first_connection, frame


async def _stay(ws: trioweb.WebSocket) -> None:
    await trio.sleep_forever()


_PATIENT = trioweb.Timeouts(write=math.inf)


@pytest.mark.parametrize("talks", [False, True])
async def test_aclose_with_a_peer_that_never_answers(
    clock: MockClock, link: Link, talks: bool
) -> None:
    async with link.server(
        link.talk if talks else _stay, heartbeat=None, timeouts=_PATIENT
    ) as server:
        async with link.by_hand(server, buffers=20_000):
            ws = await first_connection(server)
            await trio.sleep(3)  # the buffers of a handler that talks are full by now
            start = trio.current_time()
            await ws.aclose()
            assert trio.current_time() - start == pytest.approx(10, abs=0.1)


async def test_aclose_with_a_peer_that_talks_on_for_ever(clock: MockClock, link: Link) -> None:
    async def chatter(peer: ByHand) -> None:
        with pytest.raises(trio.BrokenResourceError):  # our end closes in the end
            for _ in range(1000):  # ten times as long as that may take
                await peer.send(TEXT, b"x" * 1000)
                await trio.sleep(0.1)

    async with link.server(_stay) as server, link.by_hand(server) as peer:
        ws = await first_connection(server)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(chatter, peer)
            start = trio.current_time()
            await ws.aclose()
            assert trio.current_time() - start == pytest.approx(10, abs=0.1)
        assert ws.statistics().messages_discarded > 50


async def test_aclose_as_a_client(clock: MockClock, link: Link) -> None:
    """The server answers our close frame, but never closes TCP."""

    async def serve(peer: trio.abc.Stream) -> None:
        request = bytearray()
        while b"\r\n\r\n" not in request:
            request += await peer.receive_some()
        key = bytes(request).split(b"Sec-WebSocket-Key: ")[1].split(b"\r\n")[0]
        await peer.send_all(_switch(key))
        await peer.receive_some()
        await peer.send_all(bytes([0x88, 2]) + (1000).to_bytes(2, "big"))
        await trio.sleep_forever()

    async with link.server_by_hand(serve) as url, link.client(url) as ws:
        start = trio.current_time()
        await ws.aclose()
        assert trio.current_time() - start == pytest.approx(10, abs=0.1)


def _switch(key: bytes) -> bytes:
    from wsproto.utilities import generate_accept_token

    return (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + generate_accept_token(key) + b"\r\n\r\n"
    )


async def test_aclose_from_another_task_ends_every_wait(clock: MockClock, link: Link) -> None:
    ended: list[str] = []

    async def wait(ws: trioweb.WebSocket, name: str) -> None:
        call = {"receive": ws.receive, "ping": ws.ping, "send": lambda: link.talk(ws)}[name]
        with pytest.raises(trio.ClosedResourceError):
            await call()
        ended.append(name)

    async with link.server(_stay, heartbeat=None, timeouts=_PATIENT) as server:
        async with link.by_hand(server, buffers=20_000):
            ws = await first_connection(server)
            async with trio.open_nursery() as nursery:
                for name in ("send", "receive", "ping"):
                    nursery.start_soon(wait, ws, name)
                await trio.sleep(1)
                start = trio.current_time()
                nursery.start_soon(ws.aclose)
                await link.settle()
                assert sorted(ended) == ["ping", "receive", "send"]
                assert trio.current_time() == start
        assert trio.current_time() - start <= 10.1


async def test_a_peers_close_is_answered_in_time_though_the_handler_never_asks(
    clock: MockClock, link: Link
) -> None:
    async with link.server(_stay) as server, link.by_hand(server) as peer:
        await first_connection(server)
        start = trio.current_time()
        await peer.send(CLOSE, (1000).to_bytes(2, "big"))
        with trio.fail_after(60):
            assert await peer.receive_close() == 1000
        assert trio.current_time() - start == pytest.approx(10, abs=0.2)


async def test_drain(clock: MockClock, link: Link) -> None:
    async def stubborn(ws: trioweb.WebSocket) -> None:
        while True:
            try:
                await ws.receive()
            except trio.EndOfChannel:
                await trio.sleep(1)

    async with link.server(stubborn) as server, link.client(server), link.by_hand(server):
        while len(server.connections) < 2:
            await trio.sleep(0.1)
        start = trio.current_time()
        await server.drain(timeout=5)
        assert trio.current_time() - start <= 5.01
        assert not server.connections


async def test_drain_names_a_handler_that_shields_itself(
    clock: MockClock, link: Link, caplog: pytest.LogCaptureFixture
) -> None:
    async def shielded(ws: trioweb.WebSocket) -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(60)

    async with link.server(shielded) as server, link.client(server):
        await first_connection(server)
        start = trio.current_time()
        await server.drain(timeout=5)
        assert trio.current_time() - start == pytest.approx(5, abs=0.01)
        (record,) = [each for each in caplog.records if each.levelno == logging.WARNING]
        assert "shielded" in record.getMessage()
        assert "outlives the drain" in record.getMessage()
    assert trio.current_time() - start == pytest.approx(60, abs=1), "no orphan is left behind"


async def test_drain_names_a_handler_that_blocks_the_thread(
    clock: MockClock, link: Link, caplog: pytest.LogCaptureFixture
) -> None:
    async def blocking(ws: trioweb.WebSocket) -> None:
        await server.draining.wait()
        clock.jump(30)  # as `time.sleep` would: time passes, and no other task gets a turn
        await trio.lowlevel.checkpoint()

    async with link.server(blocking) as server, link.client(server):
        await first_connection(server)
        await server.drain(timeout=10)
    assert any("blocking" in record.getMessage() for record in caplog.records)


async def test_a_block_ends_in_time_whatever_the_peer_does(clock: MockClock, link: Link) -> None:
    async with link.server(_stay, heartbeat=None) as server, link.by_hand(server):
        await first_connection(server)
        start = trio.current_time()
        await server.drain()
    assert trio.current_time() - start <= 10.01


async def test_a_failed_peer_gets_its_close_frame_however_much_it_sends(
    clock: MockClock, link: Link
) -> None:
    """Closing with bytes unread would reset the link, and overtake the close frame."""
    async with link.server(echo) as server, link.by_hand(server) as peer:
        await peer.stream.send_all(bytes([0x83, 0x80, 0, 0, 0, 0]) + frame(TEXT, b"x" * 500_000))
        await trio.sleep(1)
        assert await peer.receive_close() == 1002
        start = trio.current_time()
        with pytest.raises(EOFError):
            await peer.receive()
        assert trio.current_time() - start <= 1.1, "nor does it wait for an end that never comes"
