"""Who may connect: a check of the handshake, or of the first message within a deadline."""

from __future__ import annotations

import logging

import pytest
import trio
import trio.testing
from trio.testing import MockClock

import trioweb
from tests.helpers import (
    BINARY,
    PING,
    PONG,
    TEXT,
    asking,
    close_frame,
    echo,
    fetch,
    frame,
    get,
    serving,
    upgraded,
    virtual_clock,
)
from trioweb import FirstMessage, Headers, Message, Refused, Request, Timeouts, WebSocket


@pytest.fixture
def clock() -> MockClock:
    return virtual_clock()


async def whoami(ws: WebSocket) -> None:
    """Say who the peer is, and then echo."""
    await ws.send(f"you are {ws.principal!r}")
    await echo(ws)


# A check of the handshake.


async def check(request: Request) -> str:
    token = request.query.get("token")
    if token is None:
        raise Refused("say who you are")
    if token == "banned":
        raise Refused("you may not", status=403)
    return token


async def test_what_a_check_returns_is_the_principal():
    async with (
        serving(whoami, authenticate=check) as server,
        trioweb.connect(server.url + "/?token=alice") as ws,
    ):
        assert await ws.receive() == "you are 'alice'"


async def test_without_a_check_there_is_no_principal():
    async with serving(whoami) as server, trioweb.connect(server.url) as ws:
        assert await ws.receive() == "you are None"


async def test_a_stranger_gets_401_with_a_challenge():
    async with serving(whoami, authenticate=check) as server:
        answer = await fetch(server, asking("/"))
        assert (answer.status, answer.body) == (401, b"say who you are\n")
        assert answer.headers["www-authenticate"] == "Bearer"
        assert answer.headers["content-type"] == "text/plain; charset=utf-8"


async def test_someone_known_but_not_allowed_gets_403_without_a_challenge():
    async with serving(whoami, authenticate=check) as server:
        answer = await fetch(server, asking("/?token=banned"))
        assert (answer.status, answer.body) == (403, b"you may not\n")
        assert "www-authenticate" not in answer.headers


async def test_a_refusal_reaches_our_client_whole():
    async def refuse(request: Request) -> None:
        headers = {"WWW-Authenticate": 'Basic realm="x"', "X-Hint": "ask nicely"}
        raise Refused(headers=Headers(headers))

    async with serving(whoami, authenticate=refuse) as server:
        with pytest.raises(trioweb.HandshakeRejected) as caught:
            async with trioweb.connect(server.url):
                raise AssertionError("the block must not run")
    error = caught.value
    assert (error.status, error.body) == (401, b"refused\n")
    # The challenge of one's own replaces ours.
    assert error.headers.get_all("WWW-Authenticate") == ['Basic realm="x"']
    assert error.headers["x-hint"] == "ask nicely"


async def test_a_refusal_may_have_a_content_type_of_its_own():
    async def refuse(request: Request) -> None:
        raise Refused("{}", headers=Headers({"Content-Type": "application/json"}))

    async with serving(whoami, authenticate=refuse) as server:
        with pytest.raises(trioweb.HandshakeRejected) as caught:
            async with trioweb.connect(server.url):
                raise AssertionError("the block must not run")
    assert caught.value.headers.get_all("Content-Type") == ["application/json"]


async def test_a_check_that_takes_too_long_is_503(clock):
    cancelled = []

    async def slow(request: Request) -> None:
        try:
            await trio.sleep_forever()
        finally:
            cancelled.append(trio.current_time())

    async with serving(whoami, authenticate=slow, timeouts=Timeouts(auth=3)) as server:
        start = trio.current_time()
        answer = await fetch(server, asking())
        assert (answer.status, answer.body) == (503, b"authentication timeout\n")
        assert cancelled == [pytest.approx(start + 3)]


async def test_a_check_that_crashes_is_500_and_the_server_goes_on(caplog):
    async def crash(request: Request) -> str:
        if "token" not in request.query:
            raise RuntimeError("database is gone")
        return "somebody"

    async with serving(whoami, authenticate=crash) as server:
        answer = await fetch(server, asking())
        assert (answer.status, answer.body) == (500, b"internal error\n")
        async with trioweb.connect(server.url + "/?token=1") as ws:
            assert await ws.receive() == "you are 'somebody'"
    assert "database is gone" in caplog.text


async def test_plain_requests_are_not_checked():
    async def never(request: Request) -> None:
        raise AssertionError("asked about a plain request")

    async with serving(whoami, authenticate=never) as server:
        assert (await get(server, "/")).status == 426


async def test_the_token_of_a_query_is_not_logged(caplog):
    caplog.set_level(logging.DEBUG)
    async with serving(whoami, authenticate=check) as server:
        await fetch(server, asking("/?token=banned"))
    assert "answered 403" in caplog.text
    assert "banned" not in caplog.text


# A check of the first message.


async def login(ws: WebSocket, message: Message) -> Message:
    if message == "wrong":
        raise Refused("wrong password")
    if message == "silent":
        raise Refused
    if message == "long":
        raise Refused("é" * 200)
    if message == "crash":
        raise RuntimeError("database is gone")
    return message


@pytest.mark.parametrize(("sent", "principal"), [("alice", "'alice'"), (b"key", "b'key'")])
async def test_a_first_message_that_passes_makes_the_principal(sent, principal):
    async with (
        serving(whoami, authenticate=FirstMessage(login)) as server,
        trioweb.connect(server.url) as ws,
    ):
        await ws.send(sent)
        assert await ws.receive() == f"you are {principal}"
        await ws.send("second")
        assert await ws.receive() == "second"


async def test_a_first_message_behind_the_handshake_passes():
    async with (
        serving(whoami, authenticate=FirstMessage(login)) as server,
        upgraded(server, behind=frame(TEXT, "alice") + frame(TEXT, "next")) as peer,
    ):
        assert (await peer.frame()).payload == b"you are 'alice'"
        assert (await peer.frame()).payload == b"next"


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        ("wrong", "wrong password"),
        ("silent", "authentication failed"),
        ("long", "é" * 61),
    ],
)
@pytest.mark.parametrize("code", [1008, 4401])
async def test_who_is_refused_is_closed_with_the_code_and_never_handled(caplog, sent, reason, code):
    caplog.set_level(logging.INFO, "trioweb")
    handled = []

    async def handler(ws: WebSocket) -> None:
        handled.append(ws)

    options = {} if code == 1008 else {"code": code}
    async with (
        serving(handler, authenticate=FirstMessage(login, **options)) as server,
        upgraded(server) as peer,
    ):
        await peer.send(frame(TEXT, sent))
        (last,) = await peer.farewell()
        assert last.close == (code, reason)
    assert handled == []
    (record,) = [one for one in caplog.records if one.name == "trioweb.auth"]
    assert record.message.partition(": ")[2] == reason


async def test_a_reason_that_repeats_the_peer_writes_no_line_into_the_log(caplog):
    caplog.set_level(logging.INFO, "trioweb")

    async def parrot(ws: WebSocket, message: str | bytes) -> str:
        raise trioweb.Refused(f"not {message!s}")

    async with (
        serving(whoami, authenticate=FirstMessage(parrot)) as server,
        upgraded(server) as peer,
    ):
        await peer.send(frame(TEXT, "me\nERROR \x1b[31m"))
        await peer.farewell()
    (record,) = [one for one in caplog.records if one.name == "trioweb.auth"]
    assert record.message.isprintable()


@pytest.mark.parametrize(
    ("check", "timeouts", "seconds"),
    [
        (FirstMessage(login), Timeouts(), 10),
        (FirstMessage(login), Timeouts(auth=4), 4),
        (FirstMessage(login, timeout=2), Timeouts(auth=4), 2),
        (FirstMessage(login, timeout=2, code=4401), Timeouts(), 2),
    ],
)
async def test_who_is_late_is_closed_with_the_code(clock, caplog, check, timeouts, seconds):
    caplog.set_level(logging.INFO, "trioweb")
    async with (
        serving(whoami, authenticate=check, timeouts=timeouts) as server,
        upgraded(server) as peer,
    ):
        start = trio.current_time()
        frames = await peer.farewell()
        assert trio.current_time() - start == pytest.approx(seconds)
        assert [one.close for one in frames] == [(check._code, "authentication timeout")]
    assert "authentication timeout" in caplog.text


async def test_pings_are_no_first_message_but_are_answered(clock):
    async with (
        serving(whoami, authenticate=FirstMessage(login)) as server,
        upgraded(server) as peer,
    ):
        await peer.send(frame(PING, b"?"))
        assert await peer.frame() == (PONG, b"?", True, None)
        frames = await peer.farewell()
        assert [one.close for one in frames] == [(1008, "authentication timeout")]


async def test_the_deadline_holds_for_the_check_too(clock):
    async def slow(ws: WebSocket, message: Message) -> None:
        await trio.sleep_forever()

    async with (
        serving(whoami, authenticate=FirstMessage(slow)) as server,
        upgraded(server, behind=frame(TEXT, "alice")) as peer,
    ):
        start = trio.current_time()
        assert [one.close for one in await peer.farewell()] == [(1008, "authentication timeout")]
        assert trio.current_time() - start == pytest.approx(10)


async def test_one_who_is_in_has_no_deadline(clock):
    async with (
        serving(whoami, authenticate=FirstMessage(login), heartbeat=None) as server,
        upgraded(server, behind=frame(TEXT, "alice")) as peer,
    ):
        await peer.frame()
        await trio.sleep(1000)
        await peer.send(frame(TEXT, "still here"))
        assert (await peer.frame()).payload == b"still here"


async def test_a_check_may_talk_before_it_decides():
    async def challenge(ws: WebSocket, message: Message) -> Message:
        await ws.send(f"hello {message!r}, your password?")
        if await ws.receive() != b"sesame":
            raise Refused
        return message

    async with serving(whoami, authenticate=FirstMessage(challenge)) as server:
        async with trioweb.connect(server.url) as ws:
            await ws.send("ali")
            assert await ws.receive() == "hello 'ali', your password?"
            await ws.send(b"sesame")
            assert await ws.receive() == "you are 'ali'"
        async with trioweb.connect(server.url) as ws:
            await ws.send("ali")
            await ws.receive()
            await ws.send(b"open")
            with pytest.raises(trioweb.ConnectionBroken) as caught:
                await ws.receive()
            assert (caught.value.code, caught.value.reason) == (1008, "authentication failed")


async def test_a_check_that_crashes_closes_with_1011_and_the_server_goes_on(caplog):
    async with serving(whoami, authenticate=FirstMessage(login)) as server:
        async with upgraded(server, behind=frame(TEXT, "crash")) as peer:
            assert [one.close for one in await peer.farewell()] == [(1011, "internal error")]
        async with upgraded(server, behind=frame(TEXT, "alice")) as peer:
            assert (await peer.frame()).payload == b"you are 'alice'"
    assert "database is gone" in caplog.text


async def test_a_check_that_breaks_over_another_connection_is_a_crash(caplog):
    # The end of *another* connection, say to a service that knows passwords, is no login.
    async with serving(echo) as service, trioweb.connect(service.url) as other:
        await other.aclose()

        async def ask(ws: WebSocket, message: Message) -> None:
            await other.send(message)

        async with (
            serving(whoami, authenticate=FirstMessage(ask)) as server,
            upgraded(server, behind=frame(TEXT, "alice")) as peer,
        ):
            assert [one.close for one in await peer.farewell()] == [(1011, "internal error")]
    assert "ConnectionClosedByUs" in caplog.text


async def test_a_peer_that_leaves_before_its_first_message_is_no_error(caplog):
    handled = []

    async def handler(ws: WebSocket) -> None:
        handled.append(ws)

    async with serving(handler, authenticate=FirstMessage(login)) as server:
        async with upgraded(server) as peer:
            await peer.send(close_frame(1000))
            assert [one.close for one in await peer.last_frames()] == [(1000, "")]
        async with upgraded(server) as peer:
            await peer.stream.aclose()
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert len(server.connections) == 0
    assert handled == []
    assert not [one for one in caplog.records if one.levelno >= logging.WARNING]


async def test_a_check_that_closes_lets_nobody_in():
    handled = []

    async def handler(ws: WebSocket) -> None:
        handled.append(ws)

    async def close(ws: WebSocket, message: Message) -> str:
        await ws.aclose(4000, "later")
        return "principal"

    async with (
        serving(handler, authenticate=FirstMessage(close)) as server,
        upgraded(server, behind=frame(BINARY, b"x")) as peer,
    ):
        assert [one.close for one in await peer.farewell()] == [(4000, "later")]
    assert handled == []


@pytest.mark.parametrize("timeout", [0, -1, float("nan")])
def test_a_deadline_must_be_positive(timeout):
    with pytest.raises(ValueError, match="timeout must be positive"):
        FirstMessage(login, timeout=timeout)


@pytest.mark.parametrize("code", [1005, 1006, 999, 5000])
def test_a_code_that_may_not_be_sent_is_refused_at_once(code):
    with pytest.raises(ValueError, match=str(code)):
        FirstMessage(login, code=code)
