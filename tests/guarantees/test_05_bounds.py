"""Guarantee 5: every buffer has a bound in bytes and in items, with a name in `config`."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

import trioweb
from tests.guarantees.peers import PING, TEXT, Link, first_connection, frame
from trioweb.connection import lifecycle_of


async def _stay(ws: trioweb.WebSocket) -> None:
    await trio.sleep_forever()


def _limits(**bounds: int) -> trioweb.Limits:
    return trioweb.Limits(**bounds)


async def _flood(link: Link, data: bytes, limits: trioweb.Limits) -> trioweb.Statistics:
    """Send the same bytes until nothing more goes; return the server's view."""
    async with link.server(_stay, limits=limits, heartbeat=None) as server:
        async with link.by_hand(server) as peer:
            with trio.move_on_after(5) as scope:
                for _ in range(link.enough // len(data) + 1):
                    await peer.stream.send_all(data)
            assert scope.cancelled_caught, "nothing stops the peer"
            (ws,) = server.connections
            return ws.statistics()


async def test_inbox_by_bytes(clock: MockClock, link: Link) -> None:
    got = await _flood(link, frame(TEXT, b"x" * 1000) * 100, _limits(inbox_bytes=20_000))
    assert 10 < got.inbox_messages * 1000 <= 21_000


async def test_inbox_by_messages(clock: MockClock, link: Link) -> None:
    got = await _flood(link, frame(TEXT) * 1000, _limits(inbox_messages=50))
    assert got.inbox_messages == 50


async def test_pongs(clock: MockClock, link: Link) -> None:
    got = await _flood(link, frame(PING, b"x" * 100) * 500, _limits(outbox_control=16))
    # On TLS one chunk is with the writer task, and as many frames again are queued.
    assert 0 < got.outbox_bytes <= 2 * 17 * 102
    assert got.outbox_frames <= 17


async def test_undecoded_bytes_are_at_most_one_read(clock: MockClock, link: Link) -> None:
    limits = _limits(inbox_messages=1, read=4096)
    async with link.server(_stay, limits=limits, heartbeat=None) as server:
        async with link.by_hand(server) as peer:
            with trio.move_on_after(5):
                for _ in range(1000):
                    await peer.stream.send_all(frame(TEXT, b"x" * 10) * 1000)
            (ws,) = server.connections
            assert 0 < ws.statistics().bytes_received <= 2 * 4096


@pytest.mark.parametrize("bound", ["outbox_bytes", "outbox_frames"])
async def test_outbox(clock: MockClock, link: Link, bound: str) -> None:
    limits = _limits(outbox_bytes=10_000) if bound == "outbox_bytes" else _limits(outbox_frames=20)

    async def talk(ws: trioweb.WebSocket) -> None:
        await link.talk(ws, 1000)

    async with link.server(talk, limits=limits, heartbeat=None) as server, link.by_hand(server):
        await trio.sleep(5)
        (ws,) = server.connections
        before = -1
        while before != (sent := ws.statistics().messages_sent):  # a busy kernel takes its time
            before = sent
            await trio.sleep(5)
        got = ws.statistics()
        if bound == "outbox_bytes":
            assert 9_000 < got.outbox_bytes <= 10_000 + 1_004
        else:
            assert 19 <= got.outbox_frames <= 20
        with pytest.raises(trio.WouldBlock):
            ws.send_nowait("x")


async def test_a_message_and_its_fragments(clock: MockClock, link: Link) -> None:
    limits = _limits(max_message=1000, max_fragments=10)
    with trio.fail_after(30):
        await _too_much(link, limits)


async def _too_much(link: Link, limits: trioweb.Limits) -> None:
    async with link.server(_stay, limits=limits, heartbeat=None) as server:
        async with link.by_hand(server) as peer:
            await peer.stream.send_all(bytes([0x82, 0xFF]) + (2**62).to_bytes(8, "big"))
            assert await peer.receive_close() == 1009
        async with link.by_hand(server) as peer:
            await peer.send(TEXT, b"", fin=False)
            for _ in range(10):
                await peer.send(0, b"", fin=False)
            assert await peer.receive_close() == 1009


async def test_a_handshake(clock: MockClock, link: Link) -> None:
    async with link.server(_stay, limits=_limits(max_headers=1000)) as server:
        async with await link.open_stream(server) as stream:
            await stream.send_all(b"GET / HTTP/1.1\r\nX: " + b"x" * 1000)
            assert b"431" in await stream.receive_some()


async def test_pings_of_our_own_wait_for_room(clock: MockClock, link: Link) -> None:
    async with link.server(_stay, heartbeat=None) as server, link.by_hand(server):
        ws = await first_connection(server)
        life = lifecycle_of(ws)
        with trio.move_on_after(1):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_fill, ws)
                await link.settle()
                for _ in range(200):
                    nursery.start_soon(ws.ping)
                await link.settle()
                assert life.outbox.frames - len(life.outbox.data) <= 64
        assert not life.pings


async def _fill(ws: trioweb.WebSocket) -> None:
    for _ in range(1000):
        await ws.send(b"x" * 60_000)
