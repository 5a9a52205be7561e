"""websockets, in its trio flavour, at the other end, both ways round, over real sockets."""

from __future__ import annotations

import functools
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any

import pytest
import trio
import trio.testing
import websockets.exceptions
from websockets.http11 import Request as TheirRequest
from websockets.http11 import Response as TheirResponse
from websockets.trio.client import ClientConnection
from websockets.trio.client import connect as their_connect
from websockets.trio.connection import Connection
from websockets.trio.server import ServerConnection
from websockets.trio.server import serve as their_serve

import trioweb
from tests.helpers import echo, guard, serving
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
FRAGMENTS: dict[str, list[Any]] = {
    "two of text": ["hello ", "world"],
    "text beyond ASCII": ["grö", "ßer ", "als", " 😀"],
    "many of bytes": [bytes([number]) for number in range(256)],
    "empty ones": ["", "a", "", "b", ""],
    "nothing but empty ones": [b"", b"", b""],
    "a mebibyte": [bytes(2**16)] * 16,
}
CLOSES = {
    "normal": (1000, ""),
    "going away": (1001, "lunch"),
    "registered": (3000, "so"),
    "private": (4999, "thus"),
    "a long reason": (1000, "x" * 123),
    "a long reason in wide characters": (4000, "€" * 41),
}

messages = pytest.mark.parametrize("message", MESSAGES.values(), ids=MESSAGES)
fragments = pytest.mark.parametrize("parts", FRAGMENTS.values(), ids=FRAGMENTS)
closes = pytest.mark.parametrize(("code", "reason"), CLOSES.values(), ids=CLOSES)


def whole(parts: list[Any]) -> str | bytes:
    return "".join(parts) if isinstance(parts[0], str) else b"".join(parts)


async def send_close(ws: Connection, code: int | None, reason: str = "") -> None:
    """Close as their `aclose` does, and also without a code, which that cannot."""
    async with ws.send_context():
        if code is None:
            ws.protocol.send_close()
        else:
            ws.protocol.send_close(code, reason)


@asynccontextmanager
async def their_client(url: str, **options: Any) -> AsyncIterator[ClientConnection]:
    # Their default options, which offer permessage-deflate; but no proxy of this machine's.
    async with their_connect(url, proxy=None, **options) as ws:
        yield ws


@asynccontextmanager
async def their_server(
    handler: Callable[[ServerConnection], Awaitable[None]], **options: Any
) -> AsyncIterator[str]:
    start = functools.partial(their_serve, handler, 0, host="localhost", **options)
    with guard():
        async with trio.open_nursery() as nursery:
            server = await nursery.start(start)
            port = server.listeners[0].socket.getsockname()[1]
            host = server.listeners[0].socket.getsockname()[0]
            name = f"[{host}]" if ":" in host else host
            yield f"{'wss' if 'ssl' in options else 'ws'}://{name}:{port}/"
            nursery.cancel_scope.cancel()


async def their_echo(ws: ServerConnection) -> None:
    async for message in ws:
        await ws.send(message)


# Our server, their client.


@messages
async def test_messages_to_our_server_and_back(message):
    async with serving() as server, their_client(server.url) as ws:
        for _ in range(3):
            await ws.send(message)
            assert await ws.recv() == message


async def test_messages_of_both_kinds_in_a_row():
    async with serving() as server, their_client(server.url) as ws, trio.open_nursery() as nursery:

        async def send() -> None:
            for message in MESSAGES.values():
                await ws.send(message)

        nursery.start_soon(send)
        for message in MESSAGES.values():
            assert await ws.recv() == message


@fragments
async def test_fragments_to_our_server(parts):
    async with serving() as server, their_client(server.url) as ws:
        for _ in range(2):
            await ws.send(parts)
            assert await ws.recv() == whole(parts)


async def test_pings_between_their_fragments():
    async with serving() as server, their_client(server.url) as ws:

        async def parts() -> AsyncIterator[str]:
            for number in range(5):
                yield f"{number} "
                pong = await ws.ping()
                await pong.wait()

        await ws.send(parts())
        assert await ws.recv() == "0 1 2 3 4 "


@pytest.mark.parametrize("message", ["ü€😀" * 20_000, bytes(range(256)) * 1000])
async def test_fragments_from_our_server(message):
    # Compressed, these messages are a few fragments only.
    limits = Limits(fragment=1000)
    async with (
        serving(limits=limits, deflate=None) as server,
        their_client(server.url) as ws,
    ):
        await ws.send(message)
        parts = [part async for part in ws.recv_streaming()]
        # They add an empty part at the end of some messages; the cuts are ours.
        assert len(parts) >= len(message) // 1000
        assert whole(parts) == message


async def test_their_pings_are_answered_by_our_server():
    async with serving() as server, their_client(server.url) as ws:
        for payload in (b"payload", None, bytes(125)):
            pong = await ws.ping(payload)
            await pong.wait()


async def test_our_server_pings_and_they_answer():
    seen = []

    async def handler(ws: trioweb.WebSocket) -> None:
        seen.append(await ws.ping())
        await ws.send("done")

    async with serving(handler) as server, their_client(server.url) as ws:
        assert await ws.recv() == "done"
    assert 0 < seen[0] < 10


@closes
async def test_they_close_our_server(code, reason):
    ends: list[object] = []

    async def handler(ws: trioweb.WebSocket) -> None:
        try:
            await ws.receive()
        except trioweb.ConnectionEnded as error:
            ends.extend([type(error), error.close])

    async with serving(handler) as server, their_client(server.url) as ws:
        await ws.aclose(code, reason)
        assert (ws.close_code, ws.close_reason) == (code, "")
    kind = trioweb.EndOfChannel if code in (1000, 1001) else trioweb.ConnectionBroken
    assert ends == [kind, Close(code, reason, by_peer=True)]


async def test_they_close_our_server_without_a_code():
    ends: list[object] = []

    async def handler(ws: trioweb.WebSocket) -> None:
        async for _ in ws:
            pass
        ends.append(ws.closed)

    async with serving(handler) as server, their_client(server.url) as ws:
        await send_close(ws, None)
        assert ws.close_code == 1005
    assert ends == [Close(1005, by_peer=True)]


@closes
async def test_our_server_closes_them(code, reason):
    async def handler(ws: trioweb.WebSocket) -> None:
        await ws.aclose(code, reason)
        assert ws.closed == Close(code, reason)

    async with serving(handler) as server, their_client(server.url) as ws:
        with pytest.raises(websockets.exceptions.ConnectionClosed) as caught:
            await ws.recv()
        received = caught.value.rcvd
        assert received is not None
        assert (received.code, received.reason) == (code, reason)
        assert caught.value.rcvd_then_sent


async def test_they_vanish_from_our_server():
    ends: list[object] = []

    async def handler(ws: trioweb.WebSocket) -> None:
        try:
            await ws.receive()
        except trioweb.ConnectionBroken as error:
            ends.append(error.code)
            raise

    async with serving(handler) as server, their_client(server.url) as ws:
        await trio.testing.wait_all_tasks_blocked(0.02)
        await trio.aclose_forcefully(ws.stream)
        await trio.testing.wait_all_tasks_blocked(0.02)
    assert ends == [1006]


async def talk_on(ws: Connection) -> None:
    """Send what is too big, in parts, and go on: at the latest the answer never comes."""
    await ws.send(["x" * 500, "x" * 501])
    await ws.recv()


async def test_our_server_refuses_what_is_too_big_for_it():
    async with serving(limits=Limits(max_message=1000)) as server, their_client(server.url) as ws:
        with pytest.raises(websockets.exceptions.ConnectionClosedError) as caught:
            await talk_on(ws)
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == 1009


async def test_subprotocols_with_our_server():
    async with (
        serving(subprotocols=["b"]) as server,
        their_client(server.url, subprotocols=["a", "b"]) as ws,
    ):
        assert ws.subprotocol == "b"


async def test_our_server_rejects_them():
    async with serving(trioweb.Router({"/here": echo})) as server:
        with pytest.raises(websockets.exceptions.InvalidStatus) as caught:
            async with their_client(server.url):
                raise AssertionError("the block must not run")
        assert caught.value.response.status_code == 404
        assert caught.value.response.body == b"not found\n"


async def test_our_server_over_tls(server_tls, client_tls):
    async with (
        serving(ssl_context=server_tls) as server,
        their_client(server.url, ssl=client_tls) as ws,
    ):
        for message in MESSAGES.values():
            await ws.send(message)
            assert await ws.recv() == message
        for parts in FRAGMENTS.values():
            await ws.send(parts)
            assert await ws.recv() == whole(parts)
        pong = await ws.ping()
        await pong.wait()
        await ws.aclose(4000, "done")
        assert ws.close_code == 4000


async def test_our_server_drains_them():
    async with serving() as server, their_client(server.url) as ws:
        await ws.send("x")
        await ws.recv()
        await server.drain(reason="restart")
        with pytest.raises(websockets.exceptions.ConnectionClosedOK) as caught:
            await ws.recv()
        assert caught.value.rcvd is not None
        assert (caught.value.rcvd.code, caught.value.rcvd.reason) == (1001, "restart")


# Their server, our client.


@messages
async def test_messages_to_their_server_and_back(message):
    async with their_server(their_echo) as url, trioweb.connect(url) as ws:
        for _ in range(3):
            await ws.send(message)
            assert await ws.receive() == message


@fragments
async def test_fragments_from_their_server(parts):
    async def handler(ws: ServerConnection) -> None:
        await ws.send(parts)
        await ws.send("and that was it")

    async with their_server(handler) as url, trioweb.connect(url) as ws:
        assert await ws.receive() == whole(parts)
        assert await ws.receive() == "and that was it"


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
    async def handler(ws: ServerConnection) -> None:
        pong = await ws.ping(b"payload")
        await pong.wait()
        await ws.send("done")

    async with their_server(handler) as url, trioweb.connect(url) as ws:
        assert await ws.receive() == "done"


@closes
async def test_their_server_closes_us(code, reason):
    async def handler(ws: ServerConnection) -> None:
        await ws.aclose(code, reason)

    async with their_server(handler) as url, trioweb.connect(url) as ws:
        kind = trioweb.EndOfChannel if code in (1000, 1001) else trioweb.ConnectionBroken
        with pytest.raises(kind) as caught:
            await ws.receive()
        assert caught.value.close == Close(code, reason, by_peer=True)


async def test_their_server_closes_us_without_a_code():
    async def handler(ws: ServerConnection) -> None:
        await send_close(ws, None)

    async with their_server(handler) as url, trioweb.connect(url) as ws:
        with pytest.raises(trioweb.EndOfChannel) as caught:
            await ws.receive()
        assert caught.value.close == Close(1005, by_peer=True)


@closes
async def test_we_close_their_server(code, reason):
    ends = []

    async def handler(ws: ServerConnection) -> None:
        with pytest.raises(websockets.exceptions.ConnectionClosed):
            await ws.recv()
        ends.append((ws.close_code, ws.close_reason))

    async with their_server(handler) as url:
        async with trioweb.connect(url) as ws:
            await ws.aclose(code, reason)
            assert ws.closed == Close(code, reason)
        await trio.testing.wait_all_tasks_blocked(0.02)
    assert ends == [(code, reason)]


async def test_their_server_vanishes():
    async def handler(ws: ServerConnection) -> None:
        await ws.recv()
        await trio.aclose_forcefully(ws.stream)

    async with their_server(handler) as url, trioweb.connect(url) as ws:
        await ws.send("x")
        with pytest.raises(trioweb.ConnectionBroken) as caught:
            await ws.receive()
        assert caught.value.code == 1006


async def test_their_server_rejects_us():
    def reject(connection: ServerConnection, request: TheirRequest) -> TheirResponse:
        return connection.respond(HTTPStatus.IM_A_TEAPOT, "no coffee")

    async with their_server(their_echo, process_request=reject) as url:
        with pytest.raises(trioweb.HandshakeRejected) as caught:
            async with trioweb.connect(url):
                raise AssertionError("the block must not run")
    assert (caught.value.status, caught.value.body) == (418, b"no coffee")


async def test_subprotocols_with_their_server():
    async with (
        their_server(their_echo, subprotocols=["b"]) as url,
        trioweb.connect(url, subprotocols=["a", "b"]) as ws,
    ):
        assert ws.subprotocol == "b"


async def test_their_server_over_tls(server_tls: ssl.SSLContext, client_tls: ssl.SSLContext):
    async with (
        their_server(their_echo, ssl=server_tls) as url,
        trioweb.connect(url, ssl_context=client_tls) as ws,
    ):
        for message in MESSAGES.values():
            await ws.send(message)
            assert await ws.receive() == message
        await ws.ping()
        await ws.aclose(4000, "done")
