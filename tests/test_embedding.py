"""A server inside somebody else's application: nothing of theirs is touched, nothing is left."""

from __future__ import annotations

import functools
import logging
import signal
import socket
import ssl
from pathlib import Path

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
    echo,
    fill,
    forever,
    frame,
    guard,
    tasks,
    virtual_clock,
)


@pytest.fixture
def clock() -> MockClock:
    return virtual_clock()


async def tcp_listeners() -> list[trio.SocketListener]:
    return await trio.open_tcp_listeners(0, host="127.0.0.1")


def name_of(listener: trio.SocketListener) -> tuple[str, int]:
    host, port = listener.socket.getsockname()
    return host, port


async def shake_hands(stream: trio.abc.Stream) -> Peer:
    peer = Peer(stream)
    await peer.send(asking())
    assert (await peer.answer()).status == 101
    return peer


async def echoed(peer: Peer) -> None:
    await peer.send(frame(TEXT, "hi"))
    assert (await peer.frame()).payload == b"hi"


async def test_a_foreign_nursery_serves_on_its_own_listeners():
    listeners = await tcp_listeners()
    with guard():
        async with trio.open_nursery() as nursery:
            start = functools.partial(trioweb.serve, listeners=listeners)
            server = await nursery.start(start, echo, 0)
            assert list(server.listeners) == listeners
            host, port = name_of(listeners[0])
            assert server.url == f"ws://{host}:{port}"
            async with trioweb.connect(server.url) as ws:
                await ws.send("hi")
                assert await ws.receive() == "hi"
            nursery.cancel_scope.cancel()
    assert listeners[0].socket.fileno() == -1


async def test_cancelling_that_nursery_leaves_no_task_and_closes_the_listeners(clock):
    before = tasks()
    listeners = [*await tcp_listeners(), *await tcp_listeners()]
    busy = trio.Event()

    async def handler(ws: trioweb.WebSocket) -> None:
        if ws.request.path == "/busy":
            async with trio.open_nursery() as own:
                own.start_soon(trio.sleep_forever)
                busy.set()
        async for message in ws:
            await ws.send(message)

    peers = []
    with guard():
        async with trio.open_nursery() as nursery:
            start = functools.partial(trioweb.serve, listeners=listeners)
            server = await nursery.start(start, handler, 0)
            for listener in listeners:
                # In every stage: silent, half a handshake, open, stalled, with a busy handler.
                streams = [await trio.open_tcp_stream(*name_of(listener)) for _ in range(5)]
                await streams[1].send_all(asking()[:20])
                peers += [await shake_hands(stream) for stream in streams[2:4]]
                busy_peer = Peer(streams[4])
                await busy_peer.send(asking("/busy"))
                peers += [busy_peer, Peer(streams[0]), Peer(streams[1])]
            for ws in server.connections:
                fill(ws)
            await busy.wait()
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert len(tasks()) > len(before) + 10
            now = trio.current_time()
            nursery.cancel_scope.cancel()
        assert trio.current_time() == now
        assert tasks() == before
        assert [listener.socket.fileno() for listener in listeners] == [-1, -1]
        assert len(server.connections) == 0
        for peer in peers:
            await peer.rest()  # every one of them was let go
            await peer.stream.aclose()


async def test_a_crash_elsewhere_in_that_nursery_takes_the_server_down_and_comes_out():
    class Boom(Exception):
        pass

    async def crash() -> None:
        raise Boom

    before = tasks()
    listeners = await tcp_listeners()
    with guard(), pytest.raises(ExceptionGroup) as caught:  # noqa: PT012 - out of the nursery
        async with trio.open_nursery() as nursery:
            start = functools.partial(trioweb.serve, listeners=listeners)
            await nursery.start(start, echo, 0)
            nursery.start_soon(crash)
    # The group is that of the foreign nursery; of ours there is none.
    assert [type(error) for error in caught.value.exceptions] == [Boom]
    assert tasks() == before
    assert listeners[0].socket.fileno() == -1


async def test_a_drain_closes_the_given_listeners_and_the_nursery_goes_on():
    listeners = await tcp_listeners()
    with guard():
        async with trio.open_nursery() as nursery:
            before = tasks()
            start = functools.partial(trioweb.serve, listeners=listeners)
            server = await nursery.start(start, echo, 0)
            await server.drain()
            await trio.testing.wait_all_tasks_blocked()
            assert tasks() == before
            assert listeners[0].socket.fileno() == -1


async def test_several_servers_live_in_one_nursery():
    with guard():
        async with trio.open_nursery() as nursery:
            one = await nursery.start(trioweb.serve, echo, 0)
            two = await nursery.start(trioweb.serve, echo, 0)
            assert one.url != two.url
            async with trioweb.connect(one.url) as first, trioweb.connect(two.url) as second:
                await first.send("1")
                await second.send("2")
                assert (await first.receive(), await second.receive()) == ("1", "2")
                assert len(one.connections) == len(two.connections) == 1
            await one.drain()
            async with trioweb.connect(two.url) as third:
                await third.send("3")
                assert await third.receive() == "3"
            await two.drain()


async def test_signal_handlers_stay_untouched():
    def handlers() -> dict[signal.Signals, object]:
        return {number: signal.getsignal(number) for number in signal.valid_signals()}

    before = handlers()
    with guard():
        async with trio.open_nursery() as nursery:
            server = await nursery.start(trioweb.serve, echo, 0)
            async with trioweb.connect(server.url) as ws:
                await ws.send("hi")
                await ws.receive()
                assert handlers() == before
            await server.drain()
    assert handlers() == before


async def test_logging_configuration_stays_untouched():
    def configuration() -> object:
        root = logging.getLogger()
        return root.level, list(root.handlers), list(root.filters), logging.root.manager.disable

    before = configuration()

    async def crash(ws: trioweb.WebSocket) -> None:
        raise RuntimeError

    with guard():
        async with trio.open_nursery() as nursery:
            server = await nursery.start(trioweb.serve, crash, 0)
            async with trioweb.connect(server.url) as ws:
                with pytest.raises(trioweb.ConnectionBroken):
                    await ws.receive()
            await server.drain()
    assert configuration() == before
    ours = {
        name: logger
        for name, logger in logging.root.manager.loggerDict.items()
        if name.partition(".")[0] == "trioweb" and isinstance(logger, logging.Logger)
    }
    assert {"trioweb.server", "trioweb.connection"} <= set(ours)
    for logger in ours.values():
        assert logger.handlers == []
        assert logger.filters == []
        assert logger.level == logging.NOTSET
        assert logger.propagate
        assert not logger.disabled


async def test_tls_around_a_socket_of_ones_own(server_tls, client_tls):
    # Either the server adds TLS to plain listeners, or the listeners bring it.
    with guard():
        for wrapped in (False, True):
            plain = await tcp_listeners()
            port = name_of(plain[0])[1]
            listeners: list[trio.abc.Listener[trio.abc.Stream]] = [*plain]
            options: trioweb.ServerOptions = {"listeners": listeners}
            if wrapped:
                listeners[:] = [trio.SSLListener(one, server_tls) for one in plain]
            else:
                options["ssl_context"] = server_tls
            before = tasks()
            async with trio.open_nursery() as nursery:
                start = functools.partial(trioweb.serve, **options)
                await nursery.start(start, echo, 0)
                url = f"wss://localhost:{port}"
                async with trioweb.connect(url, ssl_context=client_tls) as ws:
                    await ws.send("hi")
                    assert await ws.receive() == "hi"
                nursery.cancel_scope.cancel()
            assert tasks() == before
            assert plain[0].socket.fileno() == -1


async def test_given_listeners_may_be_given_the_name_localhost_for_their_url():
    with guard():
        options: trioweb.ServerOptions = {"listeners": await tcp_listeners(), "host": "localhost"}
        async with trioweb.open_server(echo, 0, **options) as server:
            assert server.url.startswith("ws://localhost:")
            async with trioweb.connect(server.url) as ws:
                await ws.send("hi")
                assert await ws.receive() == "hi"


@pytest.mark.parametrize("wrapped", [False, True])
async def test_the_url_of_a_tls_server_leads_to_it(server_tls, client_tls, wrapped):
    plain = await tcp_listeners()
    options: trioweb.ServerOptions = {"listeners": plain, "ssl_context": server_tls}
    if wrapped:
        options = {"listeners": [trio.SSLListener(one, server_tls) for one in plain]}
    with guard():
        async with (
            trioweb.open_server(echo, 0, **options) as server,
            trioweb.connect(server.url, ssl_context=client_tls) as ws,
        ):
            await ws.send("hi")
            assert await ws.receive() == "hi"


async def test_cancelling_a_tls_server_leaves_no_task(clock, server_tls, client_tls):
    before = tasks()
    listeners = await tcp_listeners()
    host, port = name_of(listeners[0])
    with guard():
        async with trio.open_nursery() as nursery:
            start = functools.partial(trioweb.serve, listeners=listeners, ssl_context=server_tls)
            await nursery.start(start, forever, 0)
            silent = await trio.open_tcp_stream(host, port)
            tcp = await trio.open_tcp_stream(host, port)
            tls = trio.SSLStream(
                tcp, client_tls, server_hostname="localhost", https_compatible=True
            )
            peer = await shake_hands(tls)
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert len(tasks()) > len(before)
            now = trio.current_time()
            nursery.cancel_scope.cancel()
        assert trio.current_time() == now
        assert tasks() == before
        assert listeners[0].socket.fileno() == -1
        await peer.rest()
        await silent.aclose()
        await trio.aclose_forcefully(tls)


def unix_listener(path: Path) -> trio.SocketListener:
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(path))
    sock.listen()
    return trio.SocketListener(trio.socket.from_stdlib_socket(sock))


async def test_unix_sockets_may_be_served(tmp_path):
    path = tmp_path / "socket"
    before = tasks()
    with guard():
        async with trio.open_nursery() as nursery:
            # No authenticate: nobody but this machine can reach it.
            start = functools.partial(trioweb.serve, listeners=[unix_listener(path)])
            server = await nursery.start(start, echo, 0)
            with pytest.raises(ValueError, match="no TCP listener"):
                _ = server.url
            stream = await trio.open_unix_socket(path)
            async with trioweb.connect("ws://localhost/", stream=stream) as ws:
                await ws.send("hi")
                assert await ws.receive() == "hi"
            await server.drain()
    assert tasks() == before


class MemoryListener(trio.abc.Listener[trio.abc.Stream]):
    """A listener of a foreign kind: streams in memory."""

    def __init__(self) -> None:
        self._put, self._take = trio.open_memory_channel[trio.abc.Stream](10)
        self.closed = False

    def dial(self) -> trio.abc.Stream:
        ours, theirs = trio.testing.memory_stream_pair()
        self._put.send_nowait(theirs)
        return ours

    async def accept(self) -> trio.abc.Stream:
        return await self._take.receive()

    async def aclose(self) -> None:
        self.closed = True
        await trio.lowlevel.checkpoint()


async def test_listeners_of_any_kind_may_be_served(autojump_clock):
    listener = MemoryListener()
    with guard():
        async with trioweb.open_server(echo, 0, listeners=[listener]) as server:
            async with trioweb.connect("ws://nowhere/", stream=listener.dial()) as ws:
                await ws.send("hi")
                assert await ws.receive() == "hi"
                (theirs,) = server.connections
                assert theirs.remote_address is None
                assert await ws.ping() >= 0
            peer = await shake_hands(listener.dial())
            await echoed(peer)
            await peer.send(close_frame(1000))
            assert (await peer.frame()).close == (1000, "")
        assert listener.closed


async def test_cancelling_a_server_of_foreign_streams_leaves_no_task(autojump_clock):
    before = tasks()
    listener = MemoryListener()
    with guard():
        async with trio.open_nursery() as nursery:
            start = functools.partial(trioweb.serve, listeners=[listener])
            await nursery.start(start, forever, 0)
            peer = await shake_hands(listener.dial())
            listener.dial()
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert tasks() == before
        assert listener.closed
        await peer.rest()


async def test_a_client_in_a_foreign_nursery_leaves_no_task():
    before = tasks()

    async def client() -> None:
        async with trioweb.connect(server.url) as ws:
            await ws.receive()

    with guard():
        async with trioweb.open_server(forever, 0) as server, trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(client)
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert len(server.connections) == 3
            nursery.cancel_scope.cancel()
        assert tasks() == before


async def test_an_ssl_context_is_used_as_it_is(server_tls, client_tls):
    # Options of the application's own stay as they were.
    def state(context: ssl.SSLContext) -> object:
        return context.options, context.verify_mode, context.minimum_version, context.check_hostname

    before = state(server_tls), state(client_tls)
    with guard():
        async with (
            trioweb.open_server(echo, 0, ssl_context=server_tls) as server,
            trioweb.connect(server.url, ssl_context=client_tls) as ws,
        ):
            await ws.send("hi")
            assert await ws.receive() == "hi"
    assert (state(server_tls), state(client_tls)) == before
