"""trio-websocket at the other end, both ways round, over real sockets."""

from __future__ import annotations

import functools
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing
import trio_websocket
from trio_websocket import WebSocketConnection
from wsproto.frame_protocol import CloseReason

import trioweb
from tests.helpers import echo, guard, port_of, serving
from trioweb import Close, Limits

MESSAGES: dict[str, str | bytes] = {
    "text": "hello",
    "text beyond ASCII": "größer als 😀",
    "binary": bytes(range(256)),
    "empty text": "",
    "empty binary": b"",
    "a mebibyte of text": "x" * 2**20,
    "a mebibyte of bytes": bytes(range(256)) * 2**12,
}
CLOSES = {
    "normal": (1000, ""),
    "going away": (1001, "lunch"),
    "registered": (3000, "so"),
    "private": (4999, "thus"),
    "a long reason": (1000, "x" * 123),
    "a long reason in wide characters": (4000, "€" * 41),
}
# What RFC 6455, 7.1.5 calls 1005; to wsproto, and so to them, it is the enumerated value alone.
NO_CODE = CloseReason.NO_STATUS_RCVD

messages = pytest.mark.parametrize("message", MESSAGES.values(), ids=MESSAGES)
closes = pytest.mark.parametrize(("code", "reason"), CLOSES.values(), ids=CLOSES)


@asynccontextmanager
async def their_client(
    server: trioweb.Server, tls: ssl.SSLContext | None = None
) -> AsyncIterator[WebSocketConnection]:
    async with trio_websocket.open_websocket_url(server.url, tls) as ws:
        yield ws
    # When the server closed first, they may leave the socket to the garbage collector.
    await trio.aclose_forcefully(ws._stream)


@asynccontextmanager
async def their_server(
    handler: Callable[[WebSocketConnection], Awaitable[object]], tls: ssl.SSLContext | None = None
) -> AsyncIterator[str]:
    async def accept(request: trio_websocket.WebSocketRequest) -> None:
        await handler(await request.accept())

    start = functools.partial(trio_websocket.serve_websocket, accept, "localhost", 0, tls)
    with guard():
        async with trio.open_nursery() as nursery:
            server = await nursery.start(start)
            yield f"{'wss' if tls else 'ws'}://localhost:{server.port}/"
            nursery.cancel_scope.cancel()


async def their_echo(ws: WebSocketConnection) -> None:
    try:
        while True:
            await ws.send_message(await ws.get_message())
    except trio_websocket.ConnectionClosed:
        pass


# Our server, their client.


@messages
async def test_messages_to_our_server_and_back(message):
    async with serving() as server, their_client(server) as ws:
        for _ in range(3):
            await ws.send_message(message)
            assert await ws.get_message() == message


async def test_messages_of_both_kinds_in_a_row():
    async with serving() as server, their_client(server) as ws:
        for message in MESSAGES.values():
            await ws.send_message(message)
        for message in MESSAGES.values():
            assert await ws.get_message() == message


@pytest.mark.parametrize("message", ["ü€😀" * 20_000, bytes(range(256)) * 1000])
async def test_fragments_from_our_server(message):
    # They send no fragments themselves: test_websockets has the other direction.
    async with serving(limits=Limits(fragment=1000)) as server, their_client(server) as ws:
        await ws.send_message(message)
        assert await ws.get_message() == message


async def test_their_pings_are_answered_by_our_server():
    async with serving() as server, their_client(server) as ws:
        await ws.ping(b"payload")
        await ws.ping()


async def test_their_pings_are_answered_although_our_handler_is_busy():
    done = trio.Event()

    async def busy(ws: trioweb.WebSocket) -> None:
        await done.wait()

    async with serving(busy) as server, their_client(server) as ws:
        await ws.ping()
        done.set()


async def test_our_server_pings_and_they_answer():
    seen = []

    async def handler(ws: trioweb.WebSocket) -> None:
        seen.append(await ws.ping())
        await ws.send("done")

    async with serving(handler) as server, their_client(server) as ws:
        assert await ws.get_message() == "done"
    assert 0 < seen[0] < 10


@closes
async def test_they_close_our_server(code, reason):
    ends: list[object] = []

    async def handler(ws: trioweb.WebSocket) -> None:
        try:
            await ws.receive()
        except trioweb.ConnectionEnded as error:
            ends.extend([type(error), error.close])

    async with serving(handler) as server, their_client(server) as ws:
        await ws.aclose(code, reason)
        # The answer has the same code: both handshakes were complete.
        assert ws.closed is not None
        assert ws.closed.code == code
    kind = trioweb.EndOfChannel if code in (1000, 1001) else trioweb.ConnectionBroken
    assert ends == [kind, Close(code, reason, by_peer=True)]


async def test_they_close_our_server_without_a_code():
    ends: list[object] = []

    async def handler(ws: trioweb.WebSocket) -> None:
        async for _ in ws:
            pass
        ends.append(ws.closed)

    async with serving(handler) as server, their_client(server) as ws:
        await ws.aclose(NO_CODE)
        assert ws.closed is not None
        assert ws.closed.code == 1005
    assert ends == [Close(1005, by_peer=True)]


@closes
async def test_our_server_closes_them(code, reason):
    async def handler(ws: trioweb.WebSocket) -> None:
        await ws.aclose(code, reason)
        assert ws.closed == Close(code, reason)

    async with serving(handler) as server, their_client(server) as ws:
        with pytest.raises(trio_websocket.ConnectionClosed) as caught:
            await ws.get_message()
        assert caught.value.reason is not None
        assert (caught.value.reason.code, caught.value.reason.reason or "") == (code, reason)


async def test_they_vanish_from_our_server():
    ends: list[object] = []

    async def handler(ws: trioweb.WebSocket) -> None:
        try:
            await ws.receive()
        except trioweb.ConnectionBroken as error:
            ends.append(error.code)
            raise

    async with serving(handler) as server, their_client(server) as ws:
        await trio.testing.wait_all_tasks_blocked(0.02)
        await trio.aclose_forcefully(ws._stream)
        await trio.testing.wait_all_tasks_blocked(0.02)
    assert ends == [1006]


async def test_our_server_refuses_what_is_too_big_for_it():
    async with serving(limits=Limits(max_message=1000)) as server, their_client(server) as ws:
        await ws.send_message("x" * 1001)
        with pytest.raises(trio_websocket.ConnectionClosed) as caught:
            await ws.get_message()
        assert caught.value.reason is not None
        assert caught.value.reason.code == 1009


async def test_subprotocols_with_our_server():
    async with serving(subprotocols=["b"]) as server:
        client = trio_websocket.open_websocket_url(server.url, subprotocols=["a", "b"])
        async with client as ws:
            assert ws.subprotocol == "b"


async def test_our_server_rejects_them():
    async with serving(trioweb.Router({"/here": echo})) as server:
        # On a stream of ours, for they leave that of a rejection to the garbage collector.
        stream = await trio.open_tcp_stream("127.0.0.1", port_of(server))
        async with stream:
            with pytest.RaisesGroup(trio_websocket.ConnectionRejected) as caught:
                async with trio.open_nursery() as nursery:
                    await trio_websocket.wrap_client_stream(nursery, stream, "localhost", "/there")
        (error,) = caught.value.exceptions
        assert isinstance(error, trio_websocket.ConnectionRejected)
        assert (error.status_code, error.body) == (404, b"not found\n")


async def test_our_server_over_tls(server_tls, client_tls):
    async with serving(ssl_context=server_tls) as server, their_client(server, client_tls) as ws:
        for message in MESSAGES.values():
            await ws.send_message(message)
            assert await ws.get_message() == message
        await ws.ping()
        await ws.aclose(4000, "done")


async def test_our_server_drains_them():
    async with serving() as server, their_client(server) as ws:
        await ws.send_message("x")
        await ws.get_message()
        await server.drain(reason="restart")
        with pytest.raises(trio_websocket.ConnectionClosed) as caught:
            await ws.get_message()
        assert caught.value.reason is not None
        assert (caught.value.reason.code, caught.value.reason.reason) == (1001, "restart")


# Their server, our client.


@messages
async def test_messages_to_their_server_and_back(message):
    async with their_server(their_echo) as url, trioweb.connect(url) as ws:
        for _ in range(3):
            await ws.send(message)
            assert await ws.receive() == message


@pytest.mark.parametrize("message", ["ü€😀" * 20_000, bytes(range(256)) * 1000])
async def test_fragments_to_their_server(message):
    limits = Limits(fragment=1000)
    async with their_server(their_echo) as url, trioweb.connect(url, limits=limits) as ws:
        await ws.send(message)
        assert await ws.receive() == message


async def test_their_server_answers_our_pings():
    async with their_server(their_echo) as url, trioweb.connect(url) as ws:
        assert await ws.ping() > 0
        assert ws.latency is not None
        assert ws.latency > 0


async def test_their_server_pings_and_we_answer():
    async def handler(ws: WebSocketConnection) -> None:
        await ws.ping(b"payload")
        await ws.send_message("done")

    async with their_server(handler) as url, trioweb.connect(url) as ws:
        assert await ws.receive() == "done"


@closes
async def test_their_server_closes_us(code, reason):
    async def handler(ws: WebSocketConnection) -> None:
        await ws.aclose(code, reason)

    async with their_server(handler) as url, trioweb.connect(url) as ws:
        kind = trioweb.EndOfChannel if code in (1000, 1001) else trioweb.ConnectionBroken
        with pytest.raises(kind) as caught:
            await ws.receive()
        assert caught.value.close == Close(code, reason, by_peer=True)


async def test_their_server_closes_us_without_a_code():
    async def handler(ws: WebSocketConnection) -> None:
        await ws.aclose(NO_CODE)

    async with their_server(handler) as url, trioweb.connect(url) as ws:
        with pytest.raises(trioweb.EndOfChannel) as caught:
            await ws.receive()
        assert caught.value.close == Close(1005, by_peer=True)


@closes
async def test_we_close_their_server(code, reason):
    ends = []

    async def handler(ws: WebSocketConnection) -> None:
        with pytest.raises(trio_websocket.ConnectionClosed) as caught:
            await ws.get_message()
        ends.append(caught.value.reason)

    async with their_server(handler) as url:
        async with trioweb.connect(url) as ws:
            await ws.aclose(code, reason)
            assert ws.closed == Close(code, reason)
        await trio.testing.wait_all_tasks_blocked(0.02)
    assert [(end.code, end.reason or "") for end in ends if end is not None] == [(code, reason)]


async def test_their_server_vanishes():
    async def handler(ws: WebSocketConnection) -> None:
        await ws.get_message()
        await trio.aclose_forcefully(ws._stream)

    async with their_server(handler) as url, trioweb.connect(url) as ws:
        await ws.send("x")
        with pytest.raises(trioweb.ConnectionBroken) as caught:
            await ws.receive()
        assert caught.value.code == 1006


async def test_their_server_rejects_us():
    async def reject(request: trio_websocket.WebSocketRequest) -> None:
        await request.reject(418, extra_headers=[(b"X-Tea", b"pot")], body=b"no coffee")

    with guard():
        async with trio.open_nursery() as nursery:
            start = functools.partial(trio_websocket.serve_websocket, reject, "localhost", 0, None)
            server = await nursery.start(start)
            with pytest.raises(trioweb.HandshakeRejected) as caught:
                async with trioweb.connect(f"ws://localhost:{server.port}/"):
                    raise AssertionError("the block must not run")
            nursery.cancel_scope.cancel()
    error = caught.value
    assert (error.status, error.headers["x-tea"], error.body) == (418, "pot", b"no coffee")


async def test_their_server_over_tls(server_tls, client_tls):
    async with (
        their_server(their_echo, server_tls) as url,
        trioweb.connect(url, ssl_context=client_tls) as ws,
    ):
        for message in MESSAGES.values():
            await ws.send(message)
            assert await ws.receive() == message
        await ws.ping()
        await ws.aclose(4000, "done")


async def test_our_channel_and_theirs_carry_a_long_talk():
    async with (
        serving() as server,
        their_client(server) as theirs,
        their_server(their_echo) as url,
        trioweb.connect(url) as ours,
    ):
        for number in range(200):
            await theirs.send_message(f"{number}")
            await ours.send(f"{number}")
        for number in range(200):
            assert await theirs.get_message() == f"{number}"
            assert await ours.receive() == f"{number}"
