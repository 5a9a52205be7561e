"""Guarantee 9: a handler that raises, or a peer that is malformed, ends its own connection."""

from __future__ import annotations

import logging
import os

import pytest
import trio
from trio.testing import MockClock

import trioweb
from tests.guarantees.peers import BINARY, CLOSE, TEXT, Link, echo, first_connection, frame
from trioweb.reading import Reading


async def _works(ws: trioweb.WebSocket) -> None:
    await ws.send("x")
    assert await ws.receive() == "x"


@pytest.mark.parametrize("grouped", [False, True])
async def test_a_handler_that_raises(
    clock: MockClock, link: Link, grouped: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def handler(ws: trioweb.WebSocket) -> None:
        async for message in ws:
            if message == "raise":
                if grouped:
                    raise ExceptionGroup("several", [KeyError(), ValueError()])
                raise KeyError
            await ws.send(message)

    async with link.server(handler) as server:
        async with link.client(server) as good, link.client(server) as bad:
            await bad.send("raise")
            with pytest.raises(trio.BrokenResourceError):
                await bad.receive()
            assert bad.closed == trioweb.Close(1011, "internal error", by_peer=True)
            await _works(good)
    records = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(records) == 1
    assert records[0].exc_info is not None


async def test_a_bug_of_ours_that_a_peer_finds(
    clock: MockClock, link: Link, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    pull = Reading.pull_plain

    def stumble(reading: Reading, now: float | None = None) -> None:
        pull(reading, now)
        if "stumble" in reading.inbox:
            raise ArithmeticError

    async with link.server(echo) as server:
        async with link.client(server) as good, link.client(server) as bad:
            monkeypatch.setattr(Reading, "pull_plain", stumble)
            await bad.send("stumble")
            with pytest.raises(trio.BrokenResourceError):
                await bad.receive()
            await _works(good)
        async with link.client(server) as another:
            await _works(another)
    (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert record.exc_info is not None
    assert record.exc_info[0] is ArithmeticError


async def test_the_end_of_another_connection_is_an_error_however_alike_they_ended(
    clock: MockClock, link: Link, caplog: pytest.LogCaptureFixture
) -> None:
    ended = list[trioweb.ConnectionEnded]()

    async def handler(ws: trioweb.WebSocket) -> None:
        try:
            await ws.receive()
        except trioweb.ConnectionEnded as error:
            ended.append(error)
            raise ended[0] from None  # the first one's own, and no other's

    async with link.server(handler) as server:
        for _ in range(2):
            async with link.client(server) as ws:
                await ws.aclose(1000)
    (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert record.exc_info is not None
    assert record.exc_info[1] is ended[0]


async def test_the_end_of_its_own_connection_is_no_error(
    clock: MockClock, link: Link, caplog: pytest.LogCaptureFixture
) -> None:
    async def handler(ws: trioweb.WebSocket) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ws.receive)
            await ws.ping()

    async with link.server(handler) as server, link.by_hand(server) as peer:
        await first_connection(server)
        link.reset(peer)
        await trio.sleep(1)
        assert not server.connections
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\x83\x80\0\0\0\0", 1002),  # a reserved opcode
        (b"\x81\x01x", 1002),  # not masked
        (frame(0, b"x"), 1002),  # nothing to continue
        (b"\xc1\x81\0\0\0\0x", 1002),  # RSV1 without an extension
        (frame(TEXT, b"\xff"), 1007),
        (frame(BINARY, b"x" * 2000), 1009),
        (frame(CLOSE, b"\x03"), 1002),
        (frame(CLOSE, (1005).to_bytes(2, "big")), 1002),
    ],
)
async def test_a_malformed_frame(
    clock: MockClock, link: Link, data: bytes, code: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "trioweb")
    limits = trioweb.Limits(max_message=1000)
    async with link.server(echo, limits=limits) as server, link.client(server) as good:
        async with link.by_hand(server) as peer:
            while len(server.connections) < 2:
                await trio.sleep(0.01)
            bad = list(server.connections)[-1]
            await peer.stream.send_all(data)
            assert await peer.receive_close() == code
            lines = [each.getMessage() for each in caplog.records]
            assert [line for line in lines if bad.id in line and str(code) in line]
            with pytest.raises(EOFError):
                await peer.receive()
            await _works(good)


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: \xff\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01",
        os.urandom(100) + b"\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
    ],
)
async def test_a_malformed_handshake(clock: MockClock, link: Link, data: bytes) -> None:
    async with link.server(echo) as server, link.client(server) as good:
        async with await link.open_stream(server) as stream:
            await stream.send_all(data)
            assert (await stream.receive_some()).startswith(b"HTTP/1.1 4")
            await _works(good)


async def test_a_peer_that_vanishes(clock: MockClock, link: Link) -> None:
    async with link.server(echo) as server, link.client(server) as good:
        for sent in (b"", frame(TEXT, b"x"), frame(TEXT, b"x" * 100)[:50]):
            async with link.by_hand(server) as peer:
                await peer.stream.send_all(sent)
                link.reset(peer)
            await _works(good)
        await trio.sleep(1)
        assert len(server.connections) == 1
