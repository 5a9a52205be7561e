"""Bad input ends its own connection, with the right answer and a line in the log: no other.

Every test here has a bystander: another connection on the same server, opened before, which must
be answered afterwards.
"""

from __future__ import annotations

import logging
import random
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Unpack

import pytest
import trio
import trio.testing
from trio.testing import MockClock

import trioweb
from tests.helpers import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    Frame,
    Peer,
    asking,
    close_frame,
    dialling,
    echo,
    frame,
    frames_in,
    header,
    serving,
    upgraded,
    virtual_clock,
)
from trioweb import Limits, ServerOptions, Timeouts


@pytest.fixture
def clock() -> MockClock:
    return virtual_clock()


@asynccontextmanager
async def with_bystander(
    handler: Callable[[trioweb.WebSocket], Awaitable[object]] = echo,
    **options: Unpack[ServerOptions],
) -> AsyncIterator[trioweb.Server]:
    """Serve; whatever happens in the block, another connection is served before and after."""
    async with serving(handler, **options) as server, upgraded(server, "/bystander") as peer:
        await still_served(peer)
        yield server
        await still_served(peer)
        # And somebody new is let in.
        async with upgraded(server, "/newcomer") as newcomer:
            await still_served(newcomer)
            await newcomer.send(close_frame(1000))
            await newcomer.farewell()
        await peer.send(close_frame(1000))
        await peer.farewell()


async def still_served(peer: Peer) -> None:
    await peer.send(frame(TEXT, "still there?"))
    assert await peer.frame() == Frame(TEXT, b"still there?")


async def babble(peer: Peer, data: bytes) -> None:
    """Go on talking for longer than anybody should listen."""
    for _ in range(1000):
        await trio.sleep(0.5)
        await peer.send(data)


def victim(server: trioweb.Server) -> trioweb.WebSocket:
    """Return the connection that things happen to."""
    (ws,) = (ws for ws in server.connections if ws.request.path == "/victim")
    return ws


# What is not a handshake.

HELLO = bytes.fromhex("16030100a5010000a10303") + bytes(range(160))

NOT_HTTP = {
    "a TLS ClientHello": (HELLO, 400),
    "zeros": (bytes(100), 400),
    "a newline and nonsense": (b"\r\n\x00\x01\x02", 400),
    "another protocol's banner": (b"SSH-2.0-OpenSSH_9.9\r\n", 400),
    "a WebSocket frame": (frame(TEXT, "hello") + b"\n", 400),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    "HTTP/0.9": (b"GET /\r\n", 400),
    "a line without an end": (b"GET /" + b"x" * 20_000, 414),
    "headers without an end": (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 10_000, 431),
    "too many headers": (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 101 + b"\r\n", 431),
    "one header that is too long": (b"GET / HTTP/1.1\r\nX: " + b"y" * 20_000 + b"\r\n\r\n", 431),
    "no method": (b" / HTTP/1.1\r\n\r\n", 400),
    "a header without a name": (b"GET / HTTP/1.1\r\n: x\r\n\r\n", 400),
    "a target that is none": (b"GET nowhere HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "no host": (b"GET / HTTP/1.1\r\n\r\n", 400),
    "two lengths": (
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        400,
    ),
    "a bad name in Host": (asking(headers={"Host": "xn--\xff"}), 400),
    "not ASCII in Connection": (asking(headers={"Connection": "Upgrade\xe4"}), 400),
    "a POST for an upgrade": (asking().replace(b"GET", b"POST"), 405),
    "an old version": (asking(headers={"Sec-WebSocket-Version": "8"}), 426),
    "no version": (asking(headers={"Sec-WebSocket-Version": None}), 426),
    "no key": (asking(headers={"Sec-WebSocket-Key": None}), 400),
    "a short key": (asking(headers={"Sec-WebSocket-Key": "c2hvcnQ="}), 400),
    "HTTP/1.0": (asking().replace(b"HTTP/1.1", b"HTTP/1.0"), 400),
    "a body": (asking(headers={"Content-Length": "3"}) + b"abc", 400),
}


@pytest.mark.parametrize(("data", "status"), NOT_HTTP.values(), ids=NOT_HTTP)
async def test_what_is_no_handshake_gets_a_status_and_a_line_in_the_log(caplog, data, status):
    caplog.set_level(logging.INFO, "trioweb")
    async with with_bystander() as server, dialling(server) as peer:
        assert isinstance(peer.stream, trio.SocketStream)
        ours = peer.stream.socket.getsockname()
        await peer.send(data)
        answer = await peer.answer()
        assert answer.status == status
        assert answer.headers["connection"].endswith("close")
        assert answer.body
        assert len(answer.body) < 200
        assert await peer.rest() == b""
        (record,) = [one for one in caplog.records if f"answered {status}" in one.message]
        assert str(ours) in record.message
        assert len(record.message) < 300
    assert not [one for one in caplog.records if one.levelno >= logging.WARNING]


@pytest.mark.parametrize(("data", "status"), NOT_HTTP.values(), ids=NOT_HTTP)
async def test_it_makes_no_difference_how_it_is_cut(data, status):
    async with with_bystander() as server, dialling(server) as peer:
        sent = 0
        async with trio.open_nursery() as nursery:

            async def dribble() -> None:
                nonlocal sent
                step = max(1, len(data) // 40)
                for at in range(0, len(data), step):
                    try:
                        await peer.send(data[at : at + step])
                    except trio.BrokenResourceError:  # it has heard enough
                        return
                    sent += step
                    await trio.lowlevel.checkpoint()

            nursery.start_soon(dribble)
            assert (await peer.answer()).status == status
        assert sent


async def test_random_bytes_never_disturb_anybody(clock, caplog):
    source = random.Random(20_480)
    async with with_bystander(heartbeat=None) as server:
        for _ in range(60):
            async with dialling(server) as peer:
                await peer.send(source.randbytes(source.choice([1, 20, 300, 5000, 20_000])))
                data = await peer.rest()
                assert data == b"" or data.startswith(b"HTTP/1.1 4")
    assert not [one for one in caplog.records if one.levelno >= logging.WARNING]


async def test_random_bytes_behind_a_handshake_never_disturb_anybody(clock, caplog):
    source = random.Random(20_481)
    async with with_bystander(heartbeat=None) as server:
        for _ in range(60):
            async with upgraded(server) as peer:
                await peer.send(source.randbytes(source.choice([1, 20, 300, 5000])))
                await peer.stream.send_eof()  # type: ignore[attr-defined]
                frames = frames_in(await peer.rest())
                for one in frames:
                    assert one.opcode in (TEXT, BINARY, CONTINUATION, PONG, CLOSE)
                assert [one.opcode for one in frames].count(CLOSE) <= 1
    assert not [one for one in caplog.records if one.levelno >= logging.WARNING]


async def test_a_slow_handshake_is_cut_at_the_deadline(clock, caplog):
    caplog.set_level(logging.INFO, "trioweb")
    async with (
        with_bystander(timeouts=Timeouts(handshake=5), heartbeat=None) as server,
        dialling(server) as silent,
        dialling(server) as slow,
    ):
        assert isinstance(slow.stream, trio.SocketStream)
        ours = slow.stream.socket.getsockname()
        start = trio.current_time()
        ends = []

        async def wait(peer: Peer) -> None:
            assert await peer.rest() == b""
            ends.append(trio.current_time() - start)

        async def dribble() -> None:
            for byte in asking():
                await trio.sleep(1)
                try:
                    await slow.send(bytes([byte]))
                except trio.BrokenResourceError:
                    return

        async with trio.open_nursery() as nursery:
            nursery.start_soon(dribble)
            nursery.start_soon(wait, silent)
            nursery.start_soon(wait, slow)
        assert ends == [pytest.approx(5), pytest.approx(5)]
    timeouts = [one.message for one in caplog.records if "handshake timeout" in one.message]
    assert len(timeouts) == 2
    assert any(str(ours) in message for message in timeouts), "the log says whom it was about"


async def test_a_slow_tls_handshake_is_cut_at_the_deadline(clock, server_tls, caplog):
    caplog.set_level(logging.INFO, "trioweb")
    async with serving(ssl_context=server_tls) as server, dialling(server) as peer:
        start = trio.current_time()
        await peer.send(HELLO[:20])
        assert await peer.rest() == b""
        assert trio.current_time() - start == pytest.approx(10)
    assert "handshake timeout" in caplog.text


async def test_what_is_no_tls_is_closed_and_logged(server_tls, client_tls, caplog):
    caplog.set_level(logging.INFO, "trioweb")
    async with serving(ssl_context=server_tls) as server:
        async with dialling(server) as peer:
            await peer.send(asking())
            assert b"HTTP" not in await peer.rest()
        async with upgraded(server, tls=client_tls) as peer:
            await still_served(peer)
            await peer.send(close_frame(1000))
            assert (await peer.frame()).close == (1000, "")
    assert "left during the handshake" in caplog.text
    assert not [one for one in caplog.records if one.levelno >= logging.WARNING]


# Peers that vanish.


@pytest.mark.parametrize("said", [b"", b"GET", asking()[:-1], b"nonsense\r\n", HELLO])
@pytest.mark.parametrize("how", ["reset", "eof", "close"])
async def test_a_peer_that_vanishes_before_its_upgrade(said, how, caplog):
    async with with_bystander() as server, dialling(server) as peer:
        await peer.send(said)
        if how == "eof":
            await peer.stream.send_eof()  # type: ignore[attr-defined]
            await peer.rest()
        elif how == "reset":
            peer.reset()
        else:
            await peer.stream.aclose()
    assert not [one for one in caplog.records if one.levelno >= logging.WARNING]


async def test_a_peer_that_vanishes_while_it_is_checked(caplog):
    asked, go_on = trio.Event(), trio.Event()

    async def check(request: trioweb.Request) -> None:
        if request.path == "/victim":
            asked.set()
            await go_on.wait()

    async with with_bystander(authenticate=check) as server, dialling(server) as peer:
        await peer.send(asking("/victim"))
        await asked.wait()
        peer.reset()
        go_on.set()
    assert not [one for one in caplog.records if one.levelno >= logging.WARNING]


STAGES = {
    "at once": b"",
    "in a header": frame(TEXT, "x")[:1],
    "in a frame": frame(TEXT, "x" * 1000)[:500],
    "between fragments": frame(TEXT, "x", fin=False),
    "behind a message": frame(TEXT, "x"),
    "behind a ping": frame(PING, b"x"),
    "behind a breach": frame(0x3, "x"),
    "behind a close": close_frame(1000),
}


@pytest.mark.parametrize("said", STAGES.values(), ids=STAGES)
@pytest.mark.parametrize("how", ["reset", "close"])
async def test_a_peer_that_vanishes_after_its_upgrade(said, how, caplog):
    ends = []

    async def handler(ws: trioweb.WebSocket) -> None:
        try:
            await echo(ws)
        finally:
            if ws.request.path == "/victim":
                ends.append(ws)

    async with with_bystander(handler) as server:
        async with upgraded(server, "/victim", behind=said) as peer:
            if how == "reset":
                peer.reset()
            else:
                await peer.stream.aclose()
        await trio.testing.wait_all_tasks_blocked(0.05)
        (ws,) = ends
        assert ws.closed is not None
        if said not in (STAGES["behind a breach"], STAGES["behind a close"]):
            assert ws.closed.code == 1006
        assert ws not in server.connections
    assert not [one for one in caplog.records if one.levelno >= logging.WARNING]


async def test_a_peer_that_vanishes_while_we_write(caplog):
    async def flood(ws: trioweb.WebSocket) -> None:
        if ws.request.path != "/victim":
            await echo(ws)
        while True:
            await ws.send(bytes(2**16))

    async with with_bystander(flood) as server, upgraded(server, "/victim") as peer:
        await peer.frame()
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert victim(server).statistics().outbox_bytes
        peer.reset()
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert len(server.connections) == 1
    assert not [one for one in caplog.records if one.levelno >= logging.WARNING]


async def test_a_peer_that_vanishes_during_a_large_answer(caplog):
    async def page(request: trioweb.Request) -> trioweb.Response | None:
        if request.upgrade:
            return None
        return trioweb.Response.make(200, bytes(2**24), content_type="application/x-zeros")

    async with with_bystander(on_request=page) as server, dialling(server) as peer:
        await peer.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await peer.take(1000)
        peer.reset()
        await trio.testing.wait_all_tasks_blocked(0.05)
    assert not [one for one in caplog.records if one.levelno >= logging.WARNING]


async def test_a_peer_that_never_reads_its_answer_is_given_up(clock):
    async def page(request: trioweb.Request) -> trioweb.Response | None:
        if request.upgrade:
            return None
        return trioweb.Response.make(200, bytes(2**24), content_type="application/x-zeros")

    options: ServerOptions = {"on_request": page, "heartbeat": None}
    async with with_bystander(**options) as server, dialling(server) as peer:
        await peer.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await trio.sleep(30)
        data = await peer.rest()
        assert 0 < len(data) < 2**24


async def test_a_peer_that_keeps_talking_after_its_answer_is_cut(clock):
    async with (
        with_bystander(heartbeat=None, timeouts=Timeouts(handshake=8)) as server,
        dialling(server) as peer,
    ):
        start = trio.current_time()
        await peer.send(b"nonsense\r\n")
        assert (await peer.answer()).status == 400
        with pytest.raises(trio.BrokenResourceError):
            await babble(peer, b"more nonsense\r\n")
        assert trio.current_time() - start < 12


# Frames that break the protocol, over a real connection.

BREACHES = {
    "a reserved bit": (frame(TEXT, "x", rsv=4), 1002),
    "a reserved opcode": (frame(0xF, "x"), 1002),
    "no mask": (frame(TEXT, "x", mask=None), 1002),
    "a long ping": (frame(PING, bytes(126)), 1002),
    "a ping in fragments": (frame(PING, b"", fin=False), 1002),
    "a continuation of nothing": (frame(CONTINUATION, "x"), 1002),
    "a message within a message": (frame(TEXT, "x", fin=False) + frame(TEXT, "y"), 1002),
    "text that is not UTF-8": (frame(TEXT, b"\xff"), 1007),
    "a close with half a code": (frame(CLOSE, b"\x03"), 1002),
    "a close with a code that may not be": (close_frame(1005), 1002),
    "a reason that is not UTF-8": (frame(CLOSE, b"\x03\xe8\xff"), 1007),
    "a message that is too big": (header(BINARY, 2**62), 1009),
    "ten thousand empty fragments": (
        frame(BINARY, b"", fin=False) + frame(CONTINUATION, b"", fin=False) * 10_000,
        1009,
    ),
}


@pytest.mark.parametrize(("data", "code"), BREACHES.values(), ids=BREACHES)
async def test_a_breach_is_answered_with_one_close_frame_and_its_code(data, code):
    ends = []

    async def handler(ws: trioweb.WebSocket) -> None:
        try:
            while True:
                await ws.send(await ws.receive())
        except trioweb.ConnectionEnded as error:
            ends.append(error)
            raise

    async with with_bystander(handler) as server:
        async with upgraded(server, "/victim") as peer:
            await peer.send(frame(TEXT, "before"), data, frame(TEXT, "after"))
            await peer.stream.send_eof()  # type: ignore[attr-defined]
            before, last = frames_in(await peer.rest())
            assert before == Frame(TEXT, b"before")
            assert last.close[0] == code
            assert last.close[1]
        await trio.testing.wait_all_tasks_blocked(0.05)
        (error,) = ends
        # Told from a peer that closed: whoever handles it knows whose code this is.
        assert type(error) is trioweb.ConnectionBroken
        assert (error.code, error.close.by_peer) == (code, False)


@pytest.mark.parametrize(("data", "code"), BREACHES.values(), ids=BREACHES)
async def test_a_breach_over_tls(data, code, server_tls, client_tls):
    async with (
        with_tls_bystander(server_tls, client_tls) as server,
        upgraded(server, tls=client_tls) as peer,
    ):
        await peer.send(data)
        assert (await peer.frame()).close[0] == code
        # TLS has no half-close: it is our hanging up that lets the server hang up in peace.
        await peer.stream.aclose()


@asynccontextmanager
async def with_tls_bystander(server_tls, client_tls) -> AsyncIterator[trioweb.Server]:
    async with (
        serving(ssl_context=server_tls) as server,
        trioweb.connect(server.url, ssl_context=client_tls) as ws,
    ):
        yield server
        await ws.send("still there?")
        assert await ws.receive() == "still there?"


async def test_a_peer_that_goes_on_after_its_breach_is_cut_at_the_close_timeout(clock):
    async with (
        with_bystander(heartbeat=None, timeouts=Timeouts(close=3)) as server,
        upgraded(server) as peer,
    ):
        start = trio.current_time()
        await peer.send(frame(0x3, "x"))
        assert (await peer.frame()).close[0] == 1002
        with pytest.raises(trio.BrokenResourceError):
            await babble(peer, frame(TEXT, "la la la"))
        assert trio.current_time() - start < 5


async def test_the_limit_acts_on_the_header_before_the_payload():
    async with with_bystander(limits=Limits(max_message=100)) as server, upgraded(server) as peer:
        await peer.send(header(BINARY, 101))
        assert (await peer.frame()).close[0] == 1009


async def test_a_peer_that_closed_is_told_from_one_that_broke():
    ends = []

    async def handler(ws: trioweb.WebSocket) -> None:
        try:
            while True:
                await ws.send(await ws.receive())
        except trioweb.ConnectionEnded as error:
            ends.append(error)
            raise

    async with with_bystander(handler) as server, upgraded(server, "/victim") as peer:
        await peer.send(close_frame(1002, "I think you broke it"))
        assert [one.close for one in await peer.last_frames()] == [(1002, "")]
        (error,) = ends
        assert type(error) is trioweb.ConnectionBroken
        assert (error.code, error.reason) == (1002, "I think you broke it")
        assert error.close.by_peer


async def test_code_1014_is_accepted():
    async with with_bystander() as server, upgraded(server) as peer:
        await peer.send(close_frame(1014, "no upstream"))
        assert [one.close for one in await peer.last_frames()] == [(1014, "")]


async def test_an_answer_leaves_before_a_close_that_came_in_the_same_read():
    async with with_bystander() as server, upgraded(server) as peer:
        await peer.send(frame(TEXT, "a"), frame(PING, b"p"), frame(TEXT, "b"), close_frame(1000))
        frames = await peer.last_frames()
        assert [one.payload for one in frames if one.opcode == TEXT] == [b"a", b"b"]
        assert [one.payload for one in frames if one.opcode == PONG] == [b"p"]
        assert frames[-1].close == (1000, "")
        assert len(frames) == 4


async def test_a_ping_after_our_own_close_is_not_answered():
    async def leave(ws: trioweb.WebSocket) -> None:
        if ws.request.path == "/victim":
            await ws.aclose(4000, "bye")
        await echo(ws)

    async with with_bystander(leave) as server, upgraded(server, "/victim") as peer:
        assert (await peer.frame()).close == (4000, "bye")
        await peer.send(frame(PING, b"late"), frame(TEXT, "late"), close_frame(4000))
        assert await peer.rest() == b""


async def test_bytes_after_the_close_are_ignored():
    async with with_bystander() as server, upgraded(server) as peer:
        await peer.send(close_frame(1000), frame(TEXT, "late"), b"\xff" * 100)
        assert [one.close for one in await peer.last_frames()] == [(1000, "")]


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 5000, 70000])
async def test_a_code_that_may_not_be_sent_is_the_handlers_error_and_sends_nothing(code):
    async def handler(ws: trioweb.WebSocket) -> None:
        if ws.request.path == "/victim":
            with pytest.raises(ValueError, match=str(code)):
                await ws.aclose(code)
            with pytest.raises(ValueError, match="123 bytes"):
                await ws.aclose(1000, "é" * 62)
            assert ws.closed is None
        await echo(ws)

    async with with_bystander(handler) as server, upgraded(server, "/victim") as peer:
        await still_served(peer)
        await peer.send(close_frame(1000))
        await peer.farewell()


# Handlers that raise.


class Boom(Exception):
    pass


class Woe(Exception):
    pass


@pytest.mark.parametrize(
    "error",
    [
        Boom("secret"),
        ValueError(),
        OSError(5, "secret"),
        ExceptionGroup("secret", [Boom(), Woe()]),
        trio.BrokenResourceError("secret"),
        trio.TooSlowError(),
        trioweb.ConnectionBroken(trioweb.Close(4000, "secret")),
        trioweb.EndOfChannel(trioweb.Close(1000)),
        AssertionError("secret"),
        RecursionError(),
    ],
    ids=repr,
)
async def test_a_handler_that_raises_ends_its_own_connection_with_1011(error, caplog):
    async def handler(ws: trioweb.WebSocket) -> None:
        async for message in ws:
            if message == "raise":
                raise error
            await ws.send(message)

    async with with_bystander(handler) as server, upgraded(server, "/victim") as peer:
        await still_served(peer)
        name = victim(server).id
        await peer.send(frame(TEXT, "raise"))
        assert [one.close for one in await peer.farewell()] == [(1011, "internal error")]
    (record,) = [one for one in caplog.records if one.levelno >= logging.WARNING]
    assert (record.levelno, record.name) == (logging.ERROR, "trioweb.server")
    assert name in record.message
    assert record.exc_info is not None
    assert record.exc_info[1] is error


async def test_a_handler_that_lets_its_own_end_pass_has_ended_normally(caplog):
    async def handler(ws: trioweb.WebSocket) -> None:
        while True:
            await ws.send(await ws.receive())

    async with with_bystander(handler) as server:
        for goodbye in (close_frame(1000), close_frame(4000, "bye"), frame(0x3, "x")):
            async with upgraded(server) as peer:
                await peer.send(goodbye)
                assert len(await peer.last_frames()) == 1
    assert not [one for one in caplog.records if one.levelno >= logging.WARNING]


async def test_a_group_of_nothing_but_its_own_end_is_a_normal_end_too(caplog):
    async def handler(ws: trioweb.WebSocket) -> None:
        if ws.request.path != "/victim":
            await echo(ws)
            return

        async def listen() -> None:
            while True:
                await ws.receive()

        async def wait() -> None:
            await ws.ping()
            await ws.ping()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen)
            nursery.start_soon(wait)

    async with with_bystander(handler) as server, upgraded(server, "/victim") as peer:
        assert (await peer.frame()).opcode == PING
        await peer.send(close_frame(4000))
        assert [one.close for one in await peer.last_frames()] == [(4000, "")]
    assert not [one for one in caplog.records if one.levelno >= logging.WARNING]


async def test_the_end_of_another_connection_is_a_failure_of_the_handler(caplog):
    async with serving() as elsewhere:

        async def handler(ws: trioweb.WebSocket) -> None:
            if ws.request.path == "/victim":
                async with trioweb.connect(elsewhere.url) as other:
                    await other.aclose()
                    await other.receive()
            await echo(ws)

        async with with_bystander(handler) as server, upgraded(server, "/victim") as peer:
            assert [one.close for one in await peer.farewell()] == [(1011, "internal error")]
    assert "the handler failed" in caplog.text


async def test_a_handler_that_raises_after_it_closed_is_logged_and_sends_nothing_more(caplog):
    async def handler(ws: trioweb.WebSocket) -> None:
        if ws.request.path == "/victim":
            await ws.aclose(4000)
            raise Boom
        await echo(ws)

    async with with_bystander(handler) as server, upgraded(server, "/victim") as peer:
        assert [one.close for one in await peer.farewell()] == [(4000, "")]
    assert "the handler failed" in caplog.text


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)])
async def test_what_is_meant_for_the_whole_program_goes_on(error):
    async def handler(ws: trioweb.WebSocket) -> None:
        await ws.receive()
        raise error

    with pytest.raises(type(error)) as caught:  # noqa: PT012 - it comes out of the whole block
        async with serving(handler) as server, upgraded(server) as peer:
            await peer.send(frame(TEXT, "x"))
            await trio.sleep_forever()
    assert caught.value is error


async def test_a_handler_that_raises_over_tls(server_tls, client_tls, caplog):
    async def handler(ws: trioweb.WebSocket) -> None:
        async for message in ws:
            if message == "raise":
                raise Boom
            await ws.send(message)

    async with (
        serving(handler, ssl_context=server_tls) as server,
        upgraded(server, tls=client_tls) as bystander,
    ):
        async with upgraded(server, tls=client_tls) as peer:
            await peer.send(frame(TEXT, "raise"))
            assert (await peer.frame()).close == (1011, "internal error")
            await peer.send(close_frame(1011))
            await peer.rest()
        await still_served(bystander)
        await bystander.send(close_frame(1000))
        await bystander.rest()
    assert "the handler failed" in caplog.text


async def test_a_close_frame_of_a_thousand_bytes_is_not_read(caplog):
    async with with_bystander() as server, upgraded(server) as peer:
        await peer.send(struct.pack("!BBH", 0x88, 0xFE, 1000))
        assert (await peer.frame()).close[0] == 1002
