"""What a connection tells of itself."""

from __future__ import annotations

import gc
import ssl
from contextlib import AsyncExitStack
from functools import partial

import pytest
import trio
import trio.testing

import trioweb
from tests.helpers import guard
from trioweb.testing import Conditions, Reset, Stall, VirtualNetwork, open_pair, run


def test_nothing_is_queued_any_more_once_it_is_over() -> None:
    async def main() -> None:
        async with open_pair(conditions=Conditions(buffer=1000)) as (client, _, link):
            await client.send("x" * 70_000, compress=False)
            assert client.statistics().outbox_bytes > 60_000
            link.inject(Reset())
            with pytest.raises(trioweb.ConnectionBroken):
                await client.receive()
            after = client.statistics()
            assert (after.outbox_bytes, after.outbox_frames) == (0, 0)
            assert after.bytes_sent < 2000  # what was dropped does not count as sent

    run(main, seed=0)


class Plain(trio.abc.Stream):
    """A stream that is no socket: it cannot be tried without waiting."""

    def __init__(self, inner: trio.abc.Stream) -> None:
        self._inner = inner

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self._inner.receive_some(max_bytes)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._inner.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._inner.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self._inner.aclose()


def test_nothing_follows_a_half_written_frame() -> None:
    """A stream is cut in the midst of a write, and takes bytes again at that very moment."""
    received: list[trioweb.Message] = []
    ends: list[BaseException] = []

    async def handler(ws: trioweb.WebSocket) -> None:
        await trio.sleep(1)
        try:
            while True:
                received.append(await ws.receive())
        except trioweb.ConnectionEnded as error:
            ends.append(error)

    async def main() -> None:
        network = VirtualNetwork()
        with network.host("server"):
            async with trioweb.open_server(handler, 80, limits=trioweb.Limits(read=64)) as server:
                with network.host("client") as machine:
                    stream = Plain(await machine.open_stream("server", 80))
                    with trio.move_on_at(0.999):
                        async with trioweb.connect(server.url, stream=stream) as ws:
                            await trio.sleep_until(0.5)
                            link = network.link("client", "server")
                            link.inject(Conditions(buffer=16))
                            link.inject(Stall(0.52, to="server"))
                            await ws.send(b"A" * 18)  # a frame of 24 bytes, of which 16 leave
                            await trio.sleep_forever()
                await trio.sleep(5)

    run(main, seed=1)
    assert received == []
    assert isinstance(ends[0], trioweb.ConnectionBroken)


def test_a_set_of_connections_has_the_same_order_each_time() -> None:
    async def main() -> list[str]:
        async with AsyncExitStack() as stack:
            network = VirtualNetwork(seed=3)
            pairs = [await stack.enter_async_context(open_pair(network=network)) for _ in range(20)]
            return [ws.id for ws in {pair.client for pair in pairs}]

    assert run(main, seed=1) == run(main, seed=1)


def test_nothing_of_it_is_left_to_the_garbage_collector() -> None:
    """Many connections that come and go would else make it run, and stop all others."""

    async def handler(ws: trioweb.WebSocket) -> None:
        async for message in ws:
            await ws.send(message)

    async def one(url: str) -> None:
        async with trioweb.connect(url) as ws:
            await ws.send("x")
            await ws.receive()
            await ws.ping()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            serve = partial(trioweb.serve, handler, 0, host="127.0.0.1")
            server: trioweb.Server = await nursery.start(serve)
            await one(server.url)  # what is made once
            gc.collect()
            gc.disable()
            gc.set_debug(gc.DEBUG_SAVEALL)
            try:
                await one(server.url)
                while server.connections:
                    await trio.testing.wait_all_tasks_blocked(0.01)
                gc.collect()
                left = [type(one).__name__ for one in gc.garbage if of_a_connection(one)]
            finally:
                gc.set_debug(0)
                gc.garbage.clear()
                gc.enable()
            assert left == []
            nursery.cancel_scope.cancel()

    def of_a_connection(one: object) -> bool:
        parts = type(one).__module__.split(".")
        return parts[0] == "trioweb" and "testing" not in parts

    trio.run(main)


async def test_what_fails_before_tls_leaves_nothing_open(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_authorities(*_: object) -> ssl.SSLContext:
        raise FileNotFoundError("the file of SSL_CERT_FILE")

    monkeypatch.setattr(ssl, "create_default_context", no_authorities)
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        port = listener.socket.getsockname()[1]
        with guard(), pytest.raises(FileNotFoundError, match="SSL_CERT_FILE"):
            async with trioweb.connect(f"wss://localhost:{port}/"):
                pass
        async with await listener.accept() as accepted:
            with guard():
                assert await accepted.receive_some() == b""
