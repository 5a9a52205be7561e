"""A server has room for so many connections: who comes on top hears so, and the rest go on."""

from __future__ import annotations

import errno
import logging
import os
import resource
import subprocess
import sys
from contextlib import AsyncExitStack
from functools import partial

import pytest
import trio
import trio.testing
from trio.testing import MockClock

import trioweb
from tests.helpers import (
    TEXT,
    Peer,
    asking,
    close_frame,
    dialling,
    echo,
    frame,
    get,
    guard,
    serving,
    tasks,
    upgraded,
    virtual_clock,
)
from trioweb import Timeouts
from trioweb.listening import default_room


@pytest.fixture
def clock() -> MockClock:
    return virtual_clock()


async def still_served(peer: Peer) -> None:
    await peer.send(frame(TEXT, "x"))
    assert (await peer.frame()).payload == b"x"


async def leave(peer: Peer) -> None:
    await peer.send(close_frame(1000))
    assert [one.close for one in await peer.last_frames()] == [(1000, "")]


@pytest.mark.parametrize("tls", [False, True])
async def test_who_comes_on_top_gets_503_and_those_served_go_on(
    tls, server_tls, client_tls, caplog
):
    caplog.set_level(logging.INFO, "trioweb")
    context = client_tls if tls else None
    async with (
        serving(max_connections=2, ssl_context=server_tls if tls else None) as server,
        upgraded(server, tls=context) as first,
    ):
        async with upgraded(server, tls=context) as second:
            for request in (asking(), b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"):
                async with dialling(server, tls=context) as peer:
                    await peer.send(request)
                    answer = await peer.answer()
                    assert answer.status == 503
                    assert answer.headers["retry-after"] == "10"
                    assert answer.body == b"full: come back later\n"
                    assert await peer.rest() == b""
            await still_served(first)
            await still_served(second)
            await leave(second)
        async with upgraded(server, tls=context) as third:  # there is room again
            await still_served(third)
    assert len([one for one in caplog.records if "answered 503" in one.message]) == 2


async def test_the_client_is_told_when_to_come_back():
    async with serving(max_connections=1) as server, trioweb.connect(server.url):
        with pytest.raises(trioweb.HandshakeRejected, match="full") as caught:
            async with trioweb.connect(server.url):
                pass
        assert caught.value.status == 503
        assert caught.value.headers["Retry-After"] == "10"


async def test_handshakes_under_way_count(clock):
    async with (
        serving(max_connections=3, timeouts=Timeouts(handshake=5)) as server,
        upgraded(server) as served,
        dialling(server) as mute,
        dialling(server) as half,
    ):
        await half.send(asking()[:-2])
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert (await get(server, "/")).status == 503
        await still_served(served)
        assert await mute.rest() == await half.rest() == b""  # their deadline
        assert (await get(server, "/")).status == 426
        await still_served(served)


async def test_a_request_that_is_not_one_gets_its_own_answer():
    async with serving(max_connections=1) as server, upgraded(server), dialling(server) as peer:
        await peer.send(b"nonsense\r\n\r\n")
        assert (await peer.answer()).status == 400


async def test_even_saying_so_is_bounded_and_ends_at_the_deadline(clock, caplog):
    caplog.set_level(logging.INFO, "trioweb")
    async with AsyncExitStack() as stack:
        timeouts = Timeouts(handshake=5)
        server = await stack.enter_async_context(
            serving(max_connections=1, timeouts=timeouts, heartbeat=None)
        )
        served = await stack.enter_async_context(upgraded(server))
        await trio.testing.wait_all_tasks_blocked(0.01)
        idle = tasks()
        start = trio.current_time()
        mute = [await stack.enter_async_context(dialling(server)) for _ in range(50)]
        for peer in mute[32:]:  # cut at once
            assert await peer.rest() == b""
        assert len(tasks() - idle) == 32
        await still_served(served)
        assert trio.current_time() - start < 1
        for peer in mute[:32]:
            assert await peer.rest() == b""
        assert trio.current_time() - start == pytest.approx(5)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert tasks() == idle
        assert (await get(server, "/")).status == 503
        await still_served(served)
    lines = [one.message.partition(": ")[2] for one in caplog.records]
    assert lines.count("cut, too many are being turned away") == 18
    assert lines.count("handshake timeout") == 32


async def test_a_full_server_drains(clock):
    async with (
        serving(max_connections=1) as server,
        upgraded(server) as served,
        dialling(server) as mute,
        trio.open_nursery() as nursery,
    ):
        await trio.testing.wait_all_tasks_blocked(0.01)
        nursery.start_soon(server.drain)
        assert await mute.rest() == b""
        assert (await served.frame()).close == (1001, "")
        await served.send(close_frame(1001))


@pytest.mark.parametrize("number", [0, -1])
async def test_a_server_without_room_makes_no_sense(number):
    with pytest.raises(ValueError, match="max_connections"):
        async with trioweb.open_server(echo, 0, max_connections=number):
            pass


@pytest.mark.parametrize(
    ("descriptors", "room"),
    [(1, 1), (256, 192), (1024, 768), (2**20, 10_000), (resource.RLIM_INFINITY, 10_000)],
)
def test_room_is_made_unless_told(monkeypatch, descriptors, room):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (descriptors, descriptors))
    assert default_room() == room


# Slow handshakes, many at once.


async def test_three_hundred_slow_handshakes_are_cut_and_hold_nothing(clock):
    timeouts = Timeouts(handshake=5)
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(serving(timeouts=timeouts, heartbeat=None))
        served = await stack.enter_async_context(upgraded(server))
        await trio.testing.wait_all_tasks_blocked(0.01)
        idle = tasks()
        async with trio.open_nursery() as nursery:
            start = trio.current_time()
            peers = [await stack.enter_async_context(dialling(server)) for _ in range(300)]

            async def slow(number: int) -> None:
                """Send a byte each second, or nothing, or a line."""
                peer = peers[number]
                with trio.move_on_after(30):
                    try:
                        for byte in asking() if number % 3 == 0 else b"":
                            await peer.send(bytes([byte]))
                            await trio.sleep(1)
                        if number % 3 == 1:
                            await peer.send(asking()[:40])
                    except trio.BrokenResourceError:
                        pass
                    assert await peer.rest() == b""
                    return
                raise AssertionError("never cut")

            for number in range(300):
                nursery.start_soon(slow, number)
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert len([each for each in tasks() - idle if "_run_handler" in each.name]) == 300
            await still_served(served)
        assert trio.current_time() - start < 10
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert tasks() == idle
        await still_served(served)


# No file descriptors.


class _Tired(trio.abc.Listener[trio.SocketStream]):
    """A listener whose system has nothing left for the first calls."""

    def __init__(self, inner: trio.SocketListener, codes: list[int]) -> None:
        self._inner = inner
        self._codes = codes
        self.calls = 0

    async def accept(self) -> trio.SocketStream:
        stream = await self._inner.accept()
        self.calls += 1
        if self._codes:
            code = self._codes.pop()
            await stream.aclose()
            raise OSError(code, os.strerror(code))
        return stream

    async def aclose(self) -> None:
        await self._inner.aclose()


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
async def test_want_of_descriptors_neither_ends_the_server_nor_makes_it_spin(clock, code):
    (inner,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = inner.socket.getsockname()[1]
    tired = _Tired(inner, [code] * 3)
    async with serving(listeners=[tired]):
        start = trio.current_time()
        for _ in range(3):
            stream = await trio.open_tcp_stream("127.0.0.1", port)
            assert await Peer(stream).rest() == b""
            await stream.aclose()
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        async with trioweb.connect("ws://localhost/", stream=stream) as ws:
            await ws.send("x")
            assert await ws.receive() == "x"
        assert tired.calls == 4
        assert trio.current_time() - start >= 0.3  # a pause after each


STARVED = """
import resource, sys
import trio, trioweb

async def echo(ws):
    async for message in ws:
        await ws.send(message)

async def main():
    async with trioweb.open_server(echo, 0, host="127.0.0.1", **eval(sys.argv[1])) as server:
        resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))
        print(server.url, flush=True)
        await trio.to_thread.run_sync(sys.stdin.read)

trio.run(main)
"""


@pytest.mark.parametrize("options", [{"max_connections": 48}, {}])
async def test_a_process_without_descriptors_serves_on(options):
    """A real one: its limit is 128, and 200 come. With room for fewer, each has its answer."""
    with guard(60):
        async with trio.open_nursery() as nursery:
            run = partial(
                trio.run_process,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
            program = [sys.executable, "-c", STARVED, repr(options)]
            process = await nursery.start(run, program)
            url = (await process.stdout.receive_some()).decode().strip()
            port = int(url.rpartition(":")[2])
            async with trioweb.connect(url) as first:
                crowd = [await trio.open_tcp_stream("127.0.0.1", port) for _ in range(200)]
                for _ in range(3):
                    await first.send("x")
                    assert await first.receive() == "x"
                if options:  # cut at once, all but those who may ask and those who are refused
                    ends = [Peer(each) for each in crowd[47 + 32 :]]
                    assert [await each.rest() for each in ends] == [b""] * 121
                for each in crowd:
                    await trio.aclose_forcefully(each)
                await first.send("y")
                assert await first.receive() == "y"
            async with trioweb.connect(url) as second:
                await second.send("z")
                assert await second.receive() == "z"
            await process.stdin.aclose()
