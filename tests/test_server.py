"""Servers: serving, the address, live connections, drains, signals, options."""

from __future__ import annotations

import functools
import gc
import logging
import os
import signal
import socket
import weakref
from collections.abc import AsyncGenerator, Iterator, Sequence
from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import MockClock

import trioweb
from tests.helpers import (
    BINARY,
    CLOSE,
    PING,
    TEXT,
    Answer,
    Peer,
    asking,
    close_frame,
    dialling,
    echo,
    fetch,
    forever,
    frame,
    frames_in,
    get,
    guard,
    numeric_url,
    port_of,
    serving,
    tasks,
    upgraded,
    virtual_clock,
)
from trioweb import Headers, Limits, Request, Response, Timeouts
from trioweb.abc import Observer


@pytest.fixture
def clock() -> MockClock:
    return virtual_clock()


# Serving.


async def test_serve_gives_its_server_to_nursery_start_and_returns_after_a_drain():
    before = tasks()
    with guard():
        async with trio.open_nursery() as nursery:
            server = await nursery.start(trioweb.serve, echo, 0)
            assert isinstance(server, trioweb.Server)
            async with trioweb.connect(server.url) as ws:
                await ws.send("hi")
                assert await ws.receive() == "hi"
            await server.drain()
            # Nothing cancels the nursery: it ends because serve returns.
    assert tasks() == before


async def test_open_server_serves_for_the_length_of_a_block():
    before = tasks()
    with guard():
        async with trioweb.open_server(echo, 0) as server:
            url, port = server.url, port_of(server)
            async with trioweb.connect(url) as ws:
                await ws.send(b"\x00\xff")
                assert await ws.receive() == b"\x00\xff"
        assert tasks() == before
        with pytest.raises(OSError, match="to connect"):
            await trio.open_tcp_stream("127.0.0.1", port)


async def test_port_0_finds_one_port_and_every_listener_is_reached():
    async with serving() as server:
        names = [listener.socket.getsockname() for listener in server.listeners]  # type: ignore[attr-defined]
        assert len({name[1] for name in names}) == 1
        for name in names:
            host = f"[{name[0]}]" if ":" in name[0] else name[0]
            async with trioweb.connect(f"ws://{host}:{name[1]}") as ws:
                await ws.send(host)
                assert await ws.receive() == host


async def test_localhost_is_loopback_only():
    async with serving() as server:
        assert {listener.socket.getsockname()[0] for listener in server.listeners} <= {  # type: ignore[attr-defined]
            "127.0.0.1",
            "::1",
        }


async def test_the_port_asked_for_is_the_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    with guard():
        async with trioweb.open_server(echo, port) as server:
            assert server.url == f"ws://localhost:{port}"


async def test_a_port_in_use_is_an_os_error_before_the_server_starts():
    async with serving(host="127.0.0.1") as server:
        with pytest.raises(OSError, match="in use"):
            await trioweb.serve(echo, port_of(server), host="127.0.0.1")


async def test_the_url_of_a_server_of_all_addresses_works():
    async with serving(host="0.0.0.0", authenticate=None) as server:
        assert server.url.startswith("ws://127.0.0.1:")
        async with trioweb.connect(server.url) as ws:
            await ws.send("x")
            assert await ws.receive() == "x"


async def test_connections_are_a_live_set():
    async with serving(forever) as server:
        connections = server.connections
        assert len(connections) == 0
        async with upgraded(server, "/one"), upgraded(server, "/two"):
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert {ws.request.path for ws in connections} == {"/one", "/two"}
            one = next(iter(connections))
            assert one in connections
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert len(connections) == 0
        assert one not in connections


async def test_who_has_yet_to_pass_its_first_message_is_not_among_the_connections():
    async def check(ws: trioweb.WebSocket, message: trioweb.Message) -> trioweb.Message:
        assert ws not in server.connections
        return message

    async with (
        serving(forever, authenticate=trioweb.FirstMessage(check)) as server,
        upgraded(server) as peer,
    ):
        await trio.testing.wait_all_tasks_blocked(0.02)
        assert len(server.connections) == 0
        await peer.send(frame(TEXT, "alice"))
        await trio.testing.wait_all_tasks_blocked(0.02)
        assert [ws.principal for ws in server.connections] == ["alice"]
        await peer.send(close_frame(1000))
        await peer.farewell()


async def test_a_handler_sees_the_request_and_both_addresses():
    seen: list[object] = []

    async def handler(ws: trioweb.WebSocket) -> None:
        seen.append((ws.request.path, ws.request.query, ws.request.cookies, ws.response.status))
        seen.append((ws.local_address, ws.remote_address, ws.request.client_address))

    async with serving(handler) as server:
        headers = {"Cookie": "a=1"}
        async with upgraded(server, "/x?y=z", headers) as peer:
            assert isinstance(peer.stream, trio.SocketStream)
            ours = peer.stream.socket.getsockname()
            theirs = peer.stream.socket.getpeername()
            await peer.farewell()
    assert seen == [("/x", {"y": "z"}, {"a": "1"}, 101), (theirs, ours, ours)]


async def test_the_end_of_a_handler_closes_its_connection_with_1000():
    async def handler(ws: trioweb.WebSocket) -> None:
        await ws.send("bye")

    async with serving(handler) as server, upgraded(server) as peer:
        assert (await peer.frame()).payload == b"bye"
        assert (await peer.frame()).close == (1000, "")
        await peer.send(close_frame(1000))
        assert await peer.rest() == b""


async def test_frames_behind_the_handshake_are_kept():
    async with (
        serving() as server,
        upgraded(server, behind=frame(TEXT, "eager") + frame(TEXT, "beaver")) as peer,
    ):
        assert (await peer.frame()).payload == b"eager"
        assert (await peer.frame()).payload == b"beaver"


async def test_half_a_frame_behind_the_handshake_is_kept():
    data = frame(TEXT, "eager")
    async with serving() as server, upgraded(server, behind=data[:4]) as peer:
        await peer.send(data[4:])
        assert (await peer.frame()).payload == b"eager"


# Options.


async def test_an_unknown_option_is_a_type_error():
    with pytest.raises(TypeError, match="unknown options: heartbeats, hosts"):
        await trioweb.serve(echo, 0, hosts="x", heartbeats=None)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="unknown options: nonsense"):
        async with trioweb.open_server(echo, 0, nonsense=1):  # type: ignore[call-arg]
            raise AssertionError("the block must not run")


async def test_a_tls_context_of_a_client_is_refused_before_the_server_starts(client_tls):
    # Else the first connection would find out, and take the server down.
    with guard(), pytest.raises(ValueError, match="ssl_context"):
        async with trioweb.open_server(echo, 0, ssl_context=client_tls):
            raise AssertionError("the block must not run")


@pytest.mark.parametrize("host", ["0.0.0.0", None, ""])
async def test_off_loopback_authenticate_must_be_given(host):
    with pytest.raises(ValueError, match="authenticate=None"):
        await trioweb.serve(echo, 0, host=host)


async def test_a_refused_server_leaves_no_listener_behind(monkeypatch):
    opened = []
    real = trio.open_tcp_listeners

    async def record(*args: object, **kwargs: object) -> list[trio.SocketListener]:
        listeners = await real(*args, **kwargs)  # type: ignore[arg-type]
        opened.extend(listeners)
        return listeners

    monkeypatch.setattr(trio, "open_tcp_listeners", record)
    with pytest.raises(ValueError, match="other machines can reach this server"):
        await trioweb.serve(echo, 0, host="0.0.0.0")
    assert [listener.socket.fileno() for listener in opened] == [-1]


async def test_off_loopback_a_check_or_a_written_none_is_enough():
    async def check(request: Request) -> str:
        return "someone"

    for authenticate in (None, check, trioweb.FirstMessage(echo_check)):
        async with serving(host="0.0.0.0", authenticate=authenticate) as server:
            assert len(server.listeners) == 1


async def echo_check(ws: trioweb.WebSocket, message: trioweb.Message) -> trioweb.Message:
    return message


async def test_given_listeners_off_loopback_need_authenticate_too():
    listeners = await trio.open_tcp_listeners(0, host="0.0.0.0")
    with pytest.raises(ValueError, match="authenticate=None"):
        await trioweb.serve(echo, 0, listeners=listeners)
    assert [listener.socket.fileno() for listener in listeners] == [-1]


async def test_cancelling_a_server_at_any_step_of_its_start_closes_every_listener(monkeypatch):
    real = trio.open_tcp_listeners
    opened: list[trio.SocketListener] = []

    async def record(*args: object, **kwargs: object) -> list[trio.SocketListener]:
        listeners = await real(*args, **kwargs)  # type: ignore[arg-type]
        opened.extend(listeners)
        return listeners

    monkeypatch.setattr(trio, "open_tcp_listeners", record)

    class CancelAt(trio.abc.Instrument):
        def __init__(self, step: int) -> None:
            self.left = step
            self.scope = trio.CancelScope()
            self.task = trio.lowlevel.current_task()

        def before_task_step(self, task: trio.lowlevel.Task) -> None:
            if task is self.task:
                self.left -= 1
                if self.left == 0:
                    self.scope.cancel()

    before = tasks()
    for step in range(1, 100):
        instrument = CancelAt(step)
        served = False
        trio.lowlevel.add_instrument(instrument)
        with guard(), instrument.scope:
            async with trioweb.open_server(echo, 0, signals=[signal.SIGUSR1]):
                served = True
        trio.lowlevel.remove_instrument(instrument)
        assert [one.socket.fileno() for one in opened if one.socket.fileno() != -1] == []
        assert tasks() == before
        if not instrument.scope.cancelled_caught:
            break
    assert served
    assert step > 3


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [("chat, superchat", "superchat"), ("chat", "chat"), ("other", None), (None, None)],
)
async def test_subprotocols_are_chosen_in_the_servers_order(offered, chosen):
    seen: list[str | None] = []

    async def handler(ws: trioweb.WebSocket) -> None:
        seen.append(ws.subprotocol)

    async with (
        serving(handler, subprotocols=["superchat", "chat"]) as server,
        dialling(server) as peer,
    ):
        await peer.send(asking(headers={"Sec-WebSocket-Protocol": offered}))
        answer = await peer.answer()
        assert answer.status == 101
        assert answer.headers.get("sec-websocket-protocol") == chosen
        await peer.farewell()
    assert seen == [chosen]


async def test_subprotocols_may_be_chosen_by_a_function():
    asked = []

    def choose(names: Sequence[str]) -> str | None:
        asked.append(list(names))
        return names[-1] if names else None

    async with serving(forever, subprotocols=choose) as server:
        async with trioweb.connect(server.url, subprotocols=["a", "b"]) as ws:
            assert ws.subprotocol == "b"
        async with trioweb.connect(server.url) as ws:
            assert ws.subprotocol is None
    assert asked == [["a", "b"], []]


def fails(*_args: object) -> None:
    raise RuntimeError("a bad observer")


class Breaks(Observer):
    """Raises in every hook."""

    opened = ended = handler_failed = answered = fails  # type: ignore[assignment]


async def test_observers_see_openings_answers_failures_and_ends(caplog):
    seen: list[tuple[object, ...]] = []

    class Notes(Observer):
        def opened(self, connection):
            seen.append(("opened", connection.request.path))

        def ended(self, connection, close):
            seen.append(("ended", connection.request.path, close.code))

        def handler_failed(self, connection, error):
            seen.append(("failed", connection.request.path, repr(error)))

        def answered(self, request, response):
            seen.append(("answered", request and request.path, response.status))

    async def handler(ws: trioweb.WebSocket) -> None:
        async for _ in ws:
            raise ValueError("no")

    async with serving(handler, observers=[Breaks(), Notes()]) as server:
        async with upgraded(server, "/x") as peer:
            await peer.send(close_frame(4000))
            await peer.rest()
        async with upgraded(server, "/y") as peer:
            await peer.send(frame(TEXT, "x"))
            assert (await peer.frame()).close == (1011, "internal error")
            await peer.send(close_frame(1011))
            await peer.rest()
        assert (await get(server, "/z")).status == 426
        assert (await fetch(server, b"nonsense\r\n\r\n")).status == 400
    assert seen == [
        ("opened", "/x"),
        ("ended", "/x", 4000),
        ("opened", "/y"),
        ("failed", "/y", "ValueError('no')"),
        ("ended", "/y", 1011),
        ("answered", "/z", 426),
        ("answered", None, 400),
    ]
    # One that raises is logged each time, and disturbs nobody.
    failed = [record for record in caplog.records if "observer" in record.message]
    assert len(failed) == 7


# Plain requests and requests for an upgrade, before the upgrade.


async def test_a_plain_request_without_pages_is_answered_with_426():
    async with serving() as server:
        answer = await get(server, "/")
        assert (answer.status, answer.body) == (426, b"this is a WebSocket\n")
        assert answer.headers["upgrade"] == "websocket"
        assert answer.headers["connection"] == "Upgrade, close"
        assert (await get(server, "/", "POST")).status == 426


@pytest.mark.parametrize(
    ("data", "status", "shown"),
    [
        (b"GET /a%0Ab%1b[31m?token=secret HTTP/1.1\r\nHost: a\r\n\r\n", 426, "'/a%0Ab%1b[31m'"),
        (b"GET /\x1b[31m HTTP/1.1\r\nHost: a\r\n\r\n", 400, "None"),
        (b"GET /\xe2\x80\xae HTTP/1.1\r\nHost: a\r\n\r\n", 400, "None"),
        (b"G\x1b[31mT / HTTP/1.1\r\nHost: a\r\n\r\n", 400, "None"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: \x1b[31msecret\r\n\r\n", 426, "'/'"),
        (b"GET / HTTP/1.1\r\nHost: \xffsecret\r\n\r\n", 400, "None"),
        (b"GET /%s HTTP/1.1\r\nHost: a\r\n\r\n" % (b"x" * 15_000), 426, "'/xxx"),
        (b"GET http://me:secret@a/b HTTP/1.1\r\nHost: a\r\n\r\n", 400, "None"),
    ],
)
async def test_the_log_has_one_plain_line_for_each_answer(data, status, shown, caplog):
    caplog.set_level(logging.INFO, "trioweb")
    async with serving() as server:
        assert (await fetch(server, data)).status == status
    begun, line = [one.message for one in caplog.records]
    assert begun == f"serving {server.url} with the {trioweb.framer()} framer"
    assert f"answered {status} to " in line
    assert shown in line
    assert line.isascii()
    assert line.isprintable()
    assert len(line) < 400
    assert "secret" not in line


async def test_what_fails_while_it_is_cancelled_is_logged_and_ends_no_server(caplog, clock):
    async def slow(request: trioweb.Request) -> None:
        if request.path == "/":
            return
        try:
            await trio.sleep_forever()
        finally:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(fail)
                await trio.sleep_forever()

    async def fail() -> None:
        raise ArithmeticError

    timeouts = Timeouts(handshake=1, auth=1)
    async with serving(on_request=slow, timeouts=timeouts) as server:
        async with dialling(server) as peer:
            await peer.send(asking("/slow"))
            assert await peer.rest() == b""
        (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
        assert "ArithmeticError" in logging.Formatter().formatException(record.exc_info)
        async with upgraded(server) as peer:
            await peer.send(frame(TEXT, "served"))
            assert (await peer.frame()).payload == b"served"


async def test_a_body_that_fails_while_a_drain_cancels_it_ends_no_server(caplog, clock):
    started = trio.Event()

    async def fail() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ArithmeticError

    async def pieces() -> AsyncGenerator[bytes]:
        yield b"x"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail)
            await trio.lowlevel.checkpoint()
            started.set()
            await trio.sleep_forever()

    async def on_request(_: Request) -> Response:
        return Response(content=trioweb.Content(2, pieces))

    async with serving(on_request=on_request) as server, dialling(server) as peer:
        await peer.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await started.wait()
        await server.drain(1)
    assert "ArithmeticError" in caplog.text


@pytest.mark.parametrize("name", ["origins", "subprotocols"])
async def test_a_string_where_a_list_is_due_is_a_value_error(name):
    options: Any = {name: "https://example.org"}
    with pytest.raises(ValueError, match=f"{name} is a list"):
        async with trioweb.open_server(echo, 0, **options):
            pass


async def test_nothing_of_a_connection_stays_when_it_is_over(clock):
    seen: list[weakref.ref[trioweb.WebSocket]] = []

    async def note(ws: trioweb.WebSocket) -> None:
        seen.append(weakref.ref(ws))
        await echo(ws)

    async with serving(note) as server:
        for _ in range(3):
            async with upgraded(server) as peer:
                await peer.send(frame(TEXT, "half", fin=False))
                await trio.sleep(0.12)  # two looks of the attendant's, on a virtual clock
        while server.connections:
            await trio.sleep(0.01)
        await trio.testing.wait_all_tasks_blocked()
        gc.collect()
        assert [ref() for ref in seen] == [None] * 3


async def test_on_request_answers_plain_requests_and_the_rest_is_404():
    async def page(request: Request) -> Response | None:
        return (
            Response.make(200, f"{request.method} {request.path}")
            if request.path == "/page"
            else None
        )

    async with serving(on_request=page) as server:
        answer = await get(server, "/page")
        assert (answer.status, answer.body) == (200, b"GET /page")
        assert answer.headers["content-type"] == "text/plain; charset=utf-8"
        assert (await get(server, "/page", "POST")).body == b"POST /page"
        assert (await get(server, "/other")).status == 404


async def test_the_answer_to_head_has_the_length_of_a_body_and_none():
    async def page(request: Request) -> Response | None:
        return Response.make(200, "12345")

    async with serving(on_request=page) as server, dialling(server) as peer:
        await peer.send(b"HEAD / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        head = await peer.head()
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"Content-Length: 5\r\n" in head
        assert await peer.rest() == b""


async def test_plain_requests_over_tls_are_answered_too(server_tls, client_tls):
    async def page(request: Request) -> Response | None:
        return Response.make(200, "x" * 300_000) if request.path == "/page" else None

    async with serving(on_request=page, ssl_context=server_tls) as server:
        request = b"GET /page HTTP/1.1\r\nHost: localhost\r\n\r\n"
        answer = await fetch(server, request, tls=client_tls)
        assert (answer.status, len(answer.body)) == (200, 300_000)
        assert (await fetch(server, b"nonsense\r\n\r\n", tls=client_tls)).status == 400


async def test_on_request_may_answer_before_the_upgrade():
    async def only_members(request: Request) -> Response | None:
        if request.upgrade and "member" not in request.cookies:
            return Response.make(403, "members only\n", {"X-Why": "club"})
        return None

    async with serving(on_request=only_members) as server:
        with pytest.raises(trioweb.HandshakeRejected) as caught:
            async with trioweb.connect(server.url):
                raise AssertionError("the block must not run")
        assert (caught.value.status, caught.value.body) == (403, b"members only\n")
        assert caught.value.headers["x-why"] == "club"
        async with trioweb.connect(server.url, headers={"Cookie": "member=1"}) as ws:
            await ws.send("x")
            assert await ws.receive() == "x"


async def test_a_crash_of_on_request_is_500_for_that_request_only(caplog):
    async def page(request: Request) -> Response | None:
        if request.path == "/bad":
            raise RuntimeError("broken page")
        return None

    async with serving(on_request=page) as server, upgraded(server, "/good") as bystander:
        assert (await get(server, "/bad")).status == 500
        assert (await fetch(server, asking("/bad"))).status == 500
        await bystander.send(frame(TEXT, "still here"))
        assert (await bystander.frame()).payload == b"still here"
    failed = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(failed) == 2
    assert "'/bad'" in failed[0].message
    assert "127.0.0.1" in failed[0].message
    assert "broken page" in caplog.text


def name_it(names: Sequence[str]) -> str | None:
    return "never offered"


def crash(names: Sequence[str]) -> str | None:
    raise RuntimeError("broken choice")


async def bad_status(request: Request) -> Response | None:
    return Response(101) if request.path == "/bad" else None


async def bad_header(request: Request) -> Response | None:
    return Response(302, Headers({"Location": "/\r\nX: y"})) if request.path == "/bad" else None


async def not_latin(request: Request) -> Response | None:
    return Response(200, Headers({"X-Name": "€"})) if request.path == "/bad" else None


async def no_response(request: Request) -> Response | None:
    return "hello" if request.path == "/bad" else None  # type: ignore[return-value]


async def no_body(request: Request) -> Response | None:
    return Response(200, Headers(), "text") if request.path == "/bad" else None  # type: ignore[arg-type]


async def refuses_oddly(request: Request) -> str:
    if request.path == "/bad":
        raise trioweb.Refused("no", status=99)
    return "principal"


FAULTS: dict[str, trioweb.ServerOptions] = {
    "a subprotocol that was not offered": {"subprotocols": name_it},
    "a choice that raises": {"subprotocols": crash},
    "a status that cannot be sent": {"on_request": bad_status},
    "a header that would inject another": {"on_request": bad_header},
    "a header outside ISO-8859-1": {"on_request": not_latin},
    "an answer that is no response": {"on_request": no_response},
    "a body that is no bytes": {"on_request": no_body},
    "a refusal with an odd status": {"authenticate": refuses_oddly},
}


@pytest.mark.parametrize("options", FAULTS.values(), ids=FAULTS)
async def test_a_fault_of_the_users_own_is_500_for_that_request_only(options, caplog):
    # Guarantee 9: what goes wrong for one request is its own affair; the server goes on.
    choosing = "subprotocols" in options
    async with serving(**options) as server:
        if not choosing:
            async with upgraded(server, "/good") as bystander:
                answer = await fetch(server, asking("/bad"))
                await bystander.send(frame(TEXT, "still here"))
                assert (await bystander.frame()).payload == b"still here"
        else:
            answer = await fetch(server, asking("/", {"Sec-WebSocket-Protocol": "a"}))
        assert answer.status == 500
        with pytest.raises(trioweb.HandshakeRejected, match="500"):
            async with trioweb.connect(server.url + "/bad", subprotocols=["a"]):
                raise AssertionError("the block must not run")
    assert any(record.levelno == logging.ERROR for record in caplog.records)


async def test_a_response_without_a_body_is_sent():
    async def page(request: Request) -> Response | None:
        return Response(204)

    async with serving(on_request=page) as server:
        answer = await get(server, "/")
        assert (answer.status, answer.body) == (204, b"")
        assert "content-length" not in answer.headers


async def test_a_large_answer_arrives_whole_although_its_request_has_an_unread_body():
    # Closing on unread bytes would reset the link, and overtake the answer.
    body = bytes(range(256)) * 4096

    async def page(request: Request) -> Response | None:
        return Response.make(200, body, content_type="application/octet-stream")

    request = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 300000\r\n\r\n"
    async with serving(on_request=page) as server, dialling(server) as peer:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer.send, request, bytes(300000))
            answer = await peer.answer()
        assert (answer.status, answer.body) == (200, body)


async def test_a_slow_reader_gets_a_large_answer_as_long_as_it_goes_on(clock):
    async def page(request: Request) -> Response | None:
        return Response.make(200, bytes(2**24), content_type="application/x-zeros")

    async with serving(on_request=page) as server, dialling(server) as peer:
        start = trio.current_time()
        await peer.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await peer.head()
        for _ in range(16):
            await trio.sleep(15)
            assert await peer.take(2**20) == bytes(2**20)
        assert trio.current_time() - start > 200


# Draining.


async def test_a_drain_closes_every_connection_with_its_code_and_accepts_nobody_more():
    async with serving(forever) as server, upgraded(server) as one, upgraded(server) as two:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(functools.partial(server.drain, code=1012, reason="back soon"))
            for peer in (one, two):
                assert (await peer.frame()).close == (1012, "back soon")
                with pytest.raises(OSError, match="to connect"):
                    await trio.open_tcp_stream("127.0.0.1", port_of_peer(peer))
                await peer.send(close_frame(1012))
                assert await peer.rest() == b""
        assert server.draining.is_set()
        assert len(server.connections) == 0


def port_of_peer(peer: Peer) -> int:
    assert isinstance(peer.stream, trio.SocketStream)
    port: int = peer.stream.socket.getpeername()[1]
    return port


async def test_receive_ends_cleanly_in_a_drain_and_send_is_broken():
    ends: list[object] = []

    async def handler(ws: trioweb.WebSocket) -> None:
        async for _ in ws:
            pass
        ends.append(ws.closed)
        try:
            await ws.send("too late")
        except trioweb.ConnectionBroken as error:
            ends.append(error.code)
        try:
            await ws.receive()
        except trioweb.EndOfChannel as error:
            ends.append(error.code)

    async with serving(handler) as server, upgraded(server) as peer, trio.open_nursery() as nursery:
        nursery.start_soon(functools.partial(server.drain, reason="bye"))
        await peer.farewell()
    assert ends == [trioweb.Close(1001, "bye"), 1001, 1001]


@pytest.mark.parametrize("code", [1005, 1006, 999, 5000])
async def test_a_drain_with_a_code_that_may_not_be_sent_does_not_begin(code):
    async with serving() as server:
        with pytest.raises(ValueError, match=str(code)):
            await server.drain(code=code)
        with pytest.raises(ValueError, match="longer than 123"):
            await server.drain(reason="x" * 124)
        assert not server.draining.is_set()
        async with trioweb.connect(server.url) as ws:
            await ws.send("x")
            assert await ws.receive() == "x"


async def test_a_drain_without_connections_returns_at_once(clock):
    async with serving() as server:
        start = trio.current_time()
        await server.drain(timeout=100, grace=50)
        assert trio.current_time() == start


async def test_grace_lets_handlers_say_their_last_words(clock):
    said: list[float] = []

    async def handler(ws: trioweb.WebSocket) -> None:
        await server.draining.wait()
        said.append(trio.current_time())
        await trio.sleep(1)
        await ws.send("so long")
        await ws.aclose(4000, "and thanks")

    with guard():
        async with trioweb.open_server(handler, 0) as server, upgraded(server) as peer:
            await trio.testing.wait_all_tasks_blocked(0.05)
            start = trio.current_time()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(functools.partial(server.drain, 10, grace=3))
                assert (await peer.frame()).payload == b"so long"
                assert (await peer.frame()).close == (4000, "and thanks")
                await peer.send(close_frame(4000))
            assert said == [start]
            # All handlers were done after one second: the rest of the grace is not waited for.
            assert trio.current_time() - start == pytest.approx(1)


async def test_after_the_grace_connections_are_closed(clock):
    async with serving(forever) as server, upgraded(server) as peer:
        start = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(functools.partial(server.drain, 10, grace=3))
            assert (await peer.frame()).close == (1001, "")
            assert trio.current_time() - start == pytest.approx(3)
            await peer.send(close_frame(1001))


async def test_a_stubborn_handler_is_cancelled_at_nine_tenths_of_the_time(clock, caplog):
    cancelled = []

    async def handler(ws: trioweb.WebSocket) -> None:
        try:
            await trio.sleep_forever()
        finally:
            cancelled.append(trio.current_time())

    async with serving(handler, timeouts=Timeouts(close=1000)) as server, upgraded(server) as peer:
        await trio.testing.wait_all_tasks_blocked(0.05)
        start = trio.current_time()
        await server.drain(20)
        assert cancelled == [pytest.approx(start + 18)]
        assert trio.current_time() - start <= 20
        assert len(server.connections) == 0
        assert (await peer.last_frames())[-1].close == (1001, "")
    assert "outlives" not in caplog.text


async def test_who_comes_during_a_drain_is_refused_at_once(clock):
    async with trio.open_nursery() as nursery, serving(forever) as server, upgraded(server):
        nursery.start_soon(functools.partial(server.drain, 10, grace=5))
        await server.draining.wait()
        await trio.testing.wait_all_tasks_blocked(0.05)
        start = trio.current_time()
        with pytest.raises(trioweb.ConnectFailed):
            async with trioweb.connect(server.url):  # it still knows its address
                pass
        assert trio.current_time() - start < 1


async def test_a_drain_returns_in_time_although_a_peer_never_answers(clock):
    async with serving(forever) as server, upgraded(server) as peer:
        await trio.testing.wait_all_tasks_blocked(0.05)
        start = trio.current_time()
        await server.drain(5)
        assert trio.current_time() - start <= 5
        assert (await peer.last_frames())[0].close == (1001, "")


async def stubborn(ws: trioweb.WebSocket) -> None:
    """Shield itself from the drain's cancellation."""
    with trio.CancelScope(shield=True):
        await trio.sleep(100)


@pytest.mark.parametrize("routed", [False, True])
async def test_a_handler_that_shields_itself_is_named_in_the_log(clock, caplog, routed):
    handler = trioweb.Router({"/": stubborn}) if routed else stubborn
    async with serving(handler) as server, upgraded(server):
        await trio.testing.wait_all_tasks_blocked(0.05)
        (ws,) = server.connections
        start = trio.current_time()
        await server.drain(10)
        assert trio.current_time() - start == pytest.approx(10)
        (record,) = [one for one in caplog.records if one.levelno == logging.WARNING]
        assert record.message == f"{ws.id}: the handler stubborn outlives the drain"
        assert record.name == "trioweb.server"
    assert f"{ws.id}: the handler stubborn ended after the drain's deadline" in caplog.text


async def test_a_second_drain_waits_for_the_first(clock):
    ended: list[tuple[str, object]] = []

    async def drain(name: str, seconds: float) -> None:
        await server.drain(seconds, code=1012 if name == "first" else 1013)
        ended.append((name, trio.current_time() - start))

    async with serving(stubborn) as server, upgraded(server) as peer:
        await trio.testing.wait_all_tasks_blocked(0.05)
        start = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(drain, "first", 10)
            await trio.testing.wait_all_tasks_blocked(0.001)
            nursery.start_soon(drain, "second", 60)
            nursery.start_soon(drain, "third", 4)
        # The second and third have their own timeouts, but nothing else of their own.
        assert dict(ended) == {
            "first": pytest.approx(10),
            "second": pytest.approx(10),
            "third": pytest.approx(4),
        }
        assert (await peer.frame()).close == (1012, "")
    async with serving() as server:
        await server.drain()
        await server.drain()


async def test_a_handler_that_drains_its_own_server_is_cancelled(clock):
    seen: list[float] = []

    async def handler(ws: trioweb.WebSocket) -> None:
        try:
            await server.drain(10)
        finally:
            seen.append(trio.current_time() - start)

    async with serving(handler) as server:
        start = trio.current_time()
        async with upgraded(server) as peer:
            assert [one.close for one in await peer.last_frames()] == [(1001, "")]
        await server.drain(1)
        assert trio.current_time() - start <= 10
    assert seen == [pytest.approx(9)]


async def test_a_drain_also_closes_who_has_yet_to_pass_its_first_message(clock):
    async with (
        serving(forever, authenticate=trioweb.FirstMessage(echo_check)) as server,
        upgraded(server) as peer,
    ):
        await trio.testing.wait_all_tasks_blocked(0.05)
        start = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.drain)
            assert [one.close for one in await peer.farewell()] == [(1001, "")]
        assert trio.current_time() == start


async def test_a_drain_cuts_handshakes_that_are_under_way(clock):
    async with serving(echo) as server, dialling(server) as silent, dialling(server) as slow:
        await slow.send(asking()[:30])
        await trio.testing.wait_all_tasks_blocked(0.05)
        start = trio.current_time()
        await server.drain()
        assert trio.current_time() == start
        assert await silent.rest() == b""
        assert await slow.rest() == b""


async def test_a_request_that_is_still_checked_when_a_drain_begins_is_not_upgraded(clock):
    # Such a check cannot be cancelled: most often one that runs in a thread.
    async def check(request: Request) -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(1)

    async with serving(forever, authenticate=check) as server, dialling(server) as peer:
        await peer.send(asking())
        await trio.testing.wait_all_tasks_blocked(0.05)
        start = trio.current_time()
        await server.drain(50)
        assert trio.current_time() - start == pytest.approx(1)
        assert b" 101 " not in await peer.rest()


async def test_a_cancelled_drain_still_names_and_frees_everybody(clock, caplog):
    async with serving(stubborn) as server, upgraded(server):
        await trio.testing.wait_all_tasks_blocked(0.05)
        with trio.move_on_after(1):
            await server.drain(10)
        assert "the handler stubborn outlives the drain" in caplog.text
        start = trio.current_time()
        await server.drain()
        assert trio.current_time() == start


async def test_leaving_the_block_of_open_server_drains_it_within_timeouts_close(clock):
    async def handler(ws: trioweb.WebSocket) -> None:
        await trio.sleep_forever()

    with guard():
        async with trioweb.open_server(handler, 0, timeouts=Timeouts(close=7)) as server:
            peer = Peer(await trio.open_tcp_stream("127.0.0.1", port_of(server)))
            await peer.send(asking())
            assert (await peer.answer()).status == 101
            await trio.testing.wait_all_tasks_blocked(0.05)
            start = trio.current_time()
        assert trio.current_time() - start <= 7
        assert [one.close for one in await peer.last_frames()] == [(1001, "")]
        await peer.stream.aclose()


class Boom(Exception):
    pass


async def test_leaving_the_block_by_an_exception_sends_1001_and_does_not_wait(clock):
    error = Boom()
    before = tasks()
    with guard():
        with pytest.raises(Boom) as caught:  # noqa: PT012 - it comes out of the whole block
            async with trioweb.open_server(forever, 0) as server:
                peer = Peer(await trio.open_tcp_stream("127.0.0.1", port_of(server)))
                await peer.send(asking())
                assert (await peer.answer()).status == 101
                await trio.testing.wait_all_tasks_blocked(0.05)
                start = trio.current_time()
                raise error
        assert caught.value is error
        assert trio.current_time() == start
        assert tasks() == before
        assert [one.close for one in await peer.last_frames()] == [(1001, "")]
        await peer.stream.aclose()


@pytest.mark.parametrize("drained", [False, True])
async def test_a_server_may_be_drained_within_its_block(drained):
    async with serving(forever) as server:
        async with trioweb.connect(server.url) as ws, trio.open_nursery() as nursery:
            nursery.start_soon(server.drain)
            async for _ in ws:
                raise AssertionError("nothing was sent")
        if drained:
            await server.drain()


# Signals.


@pytest.fixture
def restored() -> Iterator[None]:
    before = signal.getsignal(signal.SIGUSR1)
    yield
    assert signal.getsignal(signal.SIGUSR1) is before


async def test_a_signal_drains_the_server(restored, caplog):
    caplog.set_level(logging.INFO, "trioweb")
    with guard():
        async with trio.open_nursery() as nursery:
            start = functools.partial(trioweb.serve, signals=[signal.SIGUSR1])
            server = await nursery.start(start, forever, 0)
            async with upgraded(server) as peer:
                os.kill(os.getpid(), signal.SIGUSR1)
                assert (await peer.frame()).close == (1001, "")
                assert server.draining.is_set()
                await peer.send(close_frame(1001))
                await peer.rest()
            # serve returns by itself.
    assert "SIGUSR1: draining" in caplog.text


async def test_a_second_signal_cancels_the_handlers(restored, clock, caplog):
    cancelled = []

    async def handler(ws: trioweb.WebSocket) -> None:
        try:
            await trio.sleep_forever()
        finally:
            cancelled.append(trio.current_time())

    with guard():
        async with trio.open_nursery() as nursery:
            start = functools.partial(trioweb.serve, signals=[signal.SIGUSR1])
            server = await nursery.start(start, handler, 0)
            async with upgraded(server) as peer:
                await trio.testing.wait_all_tasks_blocked(0.05)
                now = trio.current_time()
                os.kill(os.getpid(), signal.SIGUSR1)
                assert (await peer.frame()).close == (1001, "")
                os.kill(os.getpid(), signal.SIGUSR1)
                await peer.rest()
    assert cancelled == [now]
    assert "SIGUSR1 again" in caplog.text


async def test_a_signal_drains_open_server_too_and_its_block_goes_on(restored):
    async with serving(forever, signals=[signal.SIGUSR1, signal.SIGUSR2]) as server:
        async with trioweb.connect(server.url) as ws:
            os.kill(os.getpid(), signal.SIGUSR2)
            with pytest.raises(trioweb.EndOfChannel) as caught:
                await ws.receive()
            assert caught.value.code == 1001
        assert server.draining.is_set()


async def test_without_signals_no_handler_is_touched(monkeypatch):
    calls = []
    monkeypatch.setattr(signal, "signal", lambda *args: calls.append(args))
    async with serving() as server, trioweb.connect(server.url) as ws:
        await ws.send("x")
        assert await ws.receive() == "x"
    assert calls == []


async def test_a_request_that_comes_with_the_drain_is_not_let_in_or_let_go_at_once(clock):
    # Whether the server takes the request or the drain first is up to Trio: it shuffles.
    outcomes = set()
    for _ in range(30):
        async with serving(forever) as server, dialling(server) as peer:
            await trio.testing.wait_all_tasks_blocked()
            await peer.send(asking())
            await server.drain()
            head, _, rest = (await peer.rest()).partition(b"\r\n\r\n")
            outcomes.add(head.split()[1] if head else b"")
            if head.startswith(b"HTTP/1.1 101"):
                assert [one.close for one in frames_in(rest)] == [(1001, "")]
    assert outcomes <= {b"", b"503", b"101"}


# A busy handler. Its pings, pongs and closes are seen all the same.


@pytest.mark.parametrize("size", [10, 2**16, 2**20 - 1])
@pytest.mark.parametrize("tls", [False, True])
async def test_a_handler_that_is_busy_with_a_large_message_still_answers_pings(
    size, tls, server_tls, client_tls
):
    taken, done = trio.Event(), trio.Event()

    async def busy(ws: trioweb.WebSocket) -> None:
        assert len(await ws.receive()) == size
        taken.set()
        await done.wait()

    options: trioweb.ServerOptions = {"ssl_context": server_tls} if tls else {}
    async with (
        serving(busy, **options) as server,
        upgraded(server, tls=client_tls if tls else None) as peer,
    ):
        await peer.send(frame(BINARY, bytes(size), mask=bytes(4)))
        await taken.wait()
        await peer.send(frame(PING, b"there?"))
        with trio.fail_after(2):
            assert (await peer.frame()).payload == b"there?"
        done.set()


@pytest.mark.parametrize("size", [10, 2**16, 2**20 - 1])
@pytest.mark.parametrize("tls", [False, True])
async def test_a_ping_of_ours_is_answered_after_a_large_message(size, tls, server_tls, client_tls):
    options: trioweb.ServerOptions = {"ssl_context": server_tls} if tls else {}
    context = client_tls if tls else None
    async with serving(**options) as server, trioweb.connect(server.url, ssl_context=context) as ws:
        await ws.send(bytes(size))
        assert len(await ws.receive()) == size
        with trio.fail_after(2):
            await ws.ping()


# Limits on the way in.


async def test_the_limits_of_a_server_are_those_of_its_connections():
    async with serving(limits=Limits(max_message=100)) as server, upgraded(server) as peer:
        await peer.send(frame(TEXT, "x" * 100))
        assert (await peer.frame()).payload == b"x" * 100
        await peer.send(frame(TEXT, "x" * 101))
        last = await peer.frame()
        assert last.opcode == CLOSE
        assert last.close == (1009, "message of at least 101 bytes, limit 100")


async def test_a_head_of_answers_is_what_the_helpers_say():
    # The helper that everything here relies on reads what a server really sends.
    async with serving() as server:
        answer = await get(server, "/")
        assert isinstance(answer, Answer)
        assert answer.headers["content-length"] == str(len(answer.body))
        assert numeric_url(server) == f"ws://127.0.0.1:{port_of(server)}"
