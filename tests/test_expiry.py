"""Credentials that end: their connections end with them, to the second, unless extended."""

from __future__ import annotations

import gc
import math
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

import trioweb
from tests.helpers import TEXT, asking, fetch, frame, serving, tasks, upgraded, virtual_clock
from trioweb import Bearer, Credential, FirstMessage, MessageToken, Refused, WebSocket
from trioweb.testing import VirtualNetwork

EXPIRED = (4401, "credential expired")


@pytest.fixture
def clock() -> trio.testing.MockClock:
    return virtual_clock()


def lasting(seconds: float, **options: Any) -> Bearer:
    """Return a way whose credentials end after so many seconds."""

    async def check(token: str) -> Credential:
        return Credential(token, expires_in=seconds, **options)

    return Bearer(check)


async def say_who(ws: WebSocket) -> None:
    await ws.send(f"you are {ws.principal}")
    async for message in ws:
        assert ws.credential is not None
        ws.credential.extend(float(message))


@asynccontextmanager
async def connected(
    authenticate: Any, handler: Callable[[WebSocket], Awaitable[object]] = say_who
) -> AsyncIterator[WebSocket]:
    """Connect as ann, over the virtual network, without heartbeats."""
    network = VirtualNetwork()
    with network.host("server"):
        async with trioweb.open_server(
            handler, 0, host="server", authenticate=authenticate, heartbeat=None
        ) as server:
            with network.host("client"):
                headers = {"Authorization": "Bearer ann"}
                async with trioweb.connect(server.url, headers=headers, heartbeat=None) as ws:
                    yield ws


async def end_of(ws: WebSocket) -> tuple[Any, int, str]:
    """Return when a connection ends, with which code and reason."""
    try:
        while True:
            await ws.receive()
    except trioweb.ConnectionEnded as end:
        return trio.current_time(), end.code, end.reason


async def test_a_connection_ends_with_its_credential(autojump_clock):
    start = trio.current_time()
    async with connected(lasting(300)) as ws:
        assert await ws.receive() == "you are ann"
        assert await end_of(ws) == (pytest.approx(start + 300), *EXPIRED)


async def test_so_it_does_over_a_socket(clock):
    async with (
        serving(say_who, authenticate=lasting(300), heartbeat=None) as server,
        upgraded(server, headers={"Authorization": "Bearer ann"}) as peer,
    ):
        start = trio.current_time()
        frames = await peer.farewell()
        assert frames[-1].close == EXPIRED
        assert trio.current_time() - start == pytest.approx(300, abs=0.1)


async def test_a_handler_that_works_hears_of_it(autojump_clock):
    async def busy(ws: WebSocket) -> None:
        try:
            while True:
                await trio.sleep(1)
                await ws.send("tick")
        except trioweb.ConnectionBroken as end:
            heard.append((trio.current_time(), end.code, end.reason))

    heard: list[Any] = []
    start = trio.current_time()
    async with connected(lasting(10.5), busy) as ws:
        await end_of(ws)
    assert heard == [(pytest.approx(start + 11), *EXPIRED)]


@pytest.mark.parametrize("way", [MessageToken, FirstMessage])
async def test_a_credential_of_a_first_message_ends_too(way, autojump_clock):
    async def check(*credentials: object) -> Credential:
        return Credential(credentials[-1], expires_in=60)

    async with connected(way(check)) as ws:
        await trio.sleep(5)
        start = trio.current_time()
        await ws.send("bob")
        assert await ws.receive() == "you are bob"
        assert await end_of(ws) == (pytest.approx(start + 60), *EXPIRED)


async def test_a_credential_that_is_over_does_not_come_in():
    for seconds in (0, -5, -math.inf):
        async with serving(authenticate=lasting(seconds)) as server:
            answer = await fetch(server, asking(headers={"Authorization": "Bearer ann"}))
            assert (answer.status, answer.body) == (401, b"credential expired\n")


async def test_nor_does_it_with_a_first_message():
    async def check(token: str) -> Credential:
        return Credential(token, expires_in=0)

    async with (
        serving(authenticate=MessageToken(check)) as server,
        upgraded(server, behind=frame(TEXT, "ann")) as peer,
    ):
        assert [one.close for one in await peer.farewell()] == [EXPIRED]


@pytest.mark.parametrize("way", [MessageToken, FirstMessage])
async def test_what_came_with_it_is_not_handled(way):
    async def check(*credentials: object) -> Credential:
        return Credential(credentials[-1], expires_in=0)

    async def handler(ws: WebSocket) -> None:
        handled.append(ws.principal)
        while True:
            handled.append(await ws.receive())

    handled: list[object] = []
    behind = frame(TEXT, "ann") + frame(TEXT, "delete it all")
    async with (
        serving(handler, authenticate=way(check)) as server,
        upgraded(server, behind=behind) as peer,
    ):
        assert [one.close for one in await peer.farewell()] == [EXPIRED]
        assert server.statistics().refused == {"auth": 1}
    assert handled == []


async def test_a_credential_that_ends_on_the_way_in_does_not_come_in():
    """Its time is over when the upgrade is written, not yet when it was checked."""
    credential: Credential | None = None

    async def check(token: str) -> Credential:
        nonlocal credential
        credential = Credential(token, expires_in=60)
        return credential

    def choose(offered: object) -> None:
        assert credential is not None
        credential.extend(0)

    async def handler(ws: WebSocket) -> None:
        handled.append(ws)

    handled: list[WebSocket] = []
    async with (
        serving(handler, authenticate=Bearer(check), subprotocols=choose) as server,
        upgraded(server, headers={"Authorization": "Bearer ann"}) as peer,
    ):
        assert [one.close for one in await peer.farewell()] == [EXPIRED]
    assert handled == []


async def test_without_an_end_it_stays(autojump_clock):
    async with connected(lasting(math.inf)) as ws:
        await ws.receive()
        with trio.move_on_after(1e6) as scope:
            await end_of(ws)
        assert scope.cancelled_caught
        await ws.send("5")
        start = trio.current_time()
        assert await end_of(ws) == (pytest.approx(start + 5), *EXPIRED)


async def test_a_principal_alone_has_no_credential():
    seen = []

    async def look(ws: WebSocket) -> None:
        seen.append((ws.principal, ws.credential))

    async def check(token: str) -> str:
        return token

    async with connected(Bearer(check), look) as ws:
        await end_of(ws)
    assert seen == [("ann", None)]


# --- extended --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("extensions", "end"),
    [
        ([(50, 100)], 150),
        ([(50, 100), (100, 100), (150, 100)], 250),
        ([(50, 10)], 60),
        ([(50, 10), (55, 100)], 155),
        ([(50, 0)], 50),
        ([(50, -1)], 50),
        ([(10, 1000), (20, 1)], 21),
        ([(10, math.inf), (200, 10)], 210),
    ],
)
async def test_what_is_extended_ends_then(extensions, end, autojump_clock):
    start = trio.current_time()
    async with connected(lasting(100)) as ws:
        for when, seconds in extensions:
            await trio.sleep_until(start + when)
            await ws.send(str(seconds))
        assert await end_of(ws) == (pytest.approx(start + end), *EXPIRED)


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 100)), max_size=8))
@settings(max_examples=50, deadline=None)
def test_whatever_extends_it_the_last_word_counts(extensions: list[tuple[int, int]]) -> None:
    expected, now = 100.0, 0.5
    schedule = []
    for wait, seconds in extensions:
        now += wait
        if now >= expected:
            break
        schedule.append((now, seconds))
        expected = now + seconds

    async def handler(ws: WebSocket) -> None:
        assert ws.credential is not None
        for when, seconds in schedule:
            await trio.sleep_until(when)
            ws.credential.extend(seconds)
        await ws.receive()

    async def main() -> None:
        async with connected(lasting(100), handler) as ws:
            assert await end_of(ws) == (pytest.approx(expected), *EXPIRED)

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


async def test_only_numbers_extend():
    credential = Credential("ann", expires_in=10)
    with pytest.raises(ValueError, match="nan"):
        credential.extend(math.nan)
    with pytest.raises(ValueError, match="nan"):
        Credential("ann", expires_in=math.nan)
    for early in (0, -1, math.nan):
        with pytest.raises(ValueError, match="early must be positive"):
            Credential("ann", expires_in=10, early=early)


async def test_one_credential_is_for_one_connection(caplog):
    credential = Credential("ann", expires_in=10)

    async def check(token: str) -> Credential:
        return credential

    async with (
        serving(say_who, authenticate=Bearer(check)) as server,
        upgraded(server, headers={"Authorization": "Bearer ann"}) as peer,
    ):
        await peer.frame()
        async with upgraded(server, headers={"Authorization": "Bearer ann"}) as other:
            assert (await other.farewell())[-1].close == (1011, "internal error")
    assert "make one for each" in caplog.text


async def test_the_connection_that_has_it_still_ends_with_it(autojump_clock):
    credential = Credential("ann", expires_in=300)

    async def check(token: str) -> Credential:
        return credential

    start = trio.current_time()
    async with connected(Bearer(check)) as ws:
        assert await ws.receive() == "you are ann"
        url = f"ws://{ws.request.headers['Host']}"
        async with trioweb.connect(url, headers={"Authorization": "Bearer ann"}) as other:
            assert (await end_of(other))[1:] == (1011, "internal error")
        with trio.fail_after(1000):
            assert await end_of(ws) == (pytest.approx(start + 300), *EXPIRED)


# --- renewed ---------------------------------------------------------------------------------


async def test_a_renewal_is_asked_for_in_time(autojump_clock):
    asked = []

    async def renew() -> float:
        asked.append(trio.current_time() - start)
        await trio.sleep(2)
        return 100 if len(asked) < 3 else 0

    start = trio.current_time()
    async with connected(lasting(100, renew=renew)) as ws:
        end = await end_of(ws)
    assert asked == pytest.approx([90, 182, 274])
    assert end == (pytest.approx(start + 276), *EXPIRED)


async def test_a_short_time_is_renewed_at_its_half(autojump_clock):
    asked = []

    async def renew() -> float:
        asked.append(trio.current_time() - start)
        return 4 if len(asked) < 3 else 0

    start = trio.current_time()
    async with connected(lasting(8, renew=renew)) as ws:
        end = await end_of(ws)
    assert asked == pytest.approx([4, 6, 8])
    assert end == (pytest.approx(start + 8), *EXPIRED)


async def test_a_renewal_that_is_refused_ends_it_at_once(autojump_clock):
    async def renew() -> float:
        raise Refused("your account is gone")

    start = trio.current_time()
    async with connected(lasting(100, renew=renew, early=30)) as ws:
        assert await end_of(ws) == (pytest.approx(start + 70), 4401, "your account is gone")


async def test_a_renewal_that_hangs_has_until_the_end(autojump_clock):
    cancelled = []

    async def renew() -> float:
        try:
            await trio.sleep_forever()
        finally:
            cancelled.append(trio.current_time())
        raise AssertionError("it sleeps for ever")

    start = trio.current_time()
    async with connected(lasting(100, renew=renew)) as ws:
        assert await end_of(ws) == (pytest.approx(start + 100), *EXPIRED)
    assert cancelled == [pytest.approx(start + 100)]


async def test_a_renewal_without_an_answer_renews_nothing(autojump_clock):
    async def renew() -> Any:
        await trio.sleep(1)

    start = trio.current_time()
    async with connected(lasting(100, renew=renew)) as ws:
        assert await end_of(ws) == (pytest.approx(start + 100), *EXPIRED)


async def test_a_renewal_that_fails_is_logged_and_1011(autojump_clock, caplog):
    async def renew() -> float:
        raise RuntimeError("database is gone")

    start = trio.current_time()
    async with connected(lasting(100, renew=renew)) as ws:
        assert await end_of(ws) == (pytest.approx(start + 90), 1011, "internal error")
    assert "its renewal failed" in caplog.text
    assert "database is gone" in caplog.text


async def test_who_extends_it_meanwhile_needs_no_renewal(autojump_clock):
    cancelled = []

    async def renew() -> float:
        try:
            await trio.sleep_forever()
        finally:
            cancelled.append(trio.current_time() - start)
        raise AssertionError("it sleeps for ever")

    start = trio.current_time()
    async with connected(lasting(100, renew=renew)) as ws:
        await ws.receive()
        await trio.sleep_until(start + 95)
        await ws.send("20")
        assert await end_of(ws) == (pytest.approx(start + 115), *EXPIRED)
    assert cancelled == pytest.approx([95, 115])


@pytest.mark.parametrize("answer", [1000, Refused("over")], ids=["renewed", "refused"])
async def test_a_renewal_that_cannot_be_stopped_comes_too_late(answer, autojump_clock):
    """As by a thread: Trio waits for it, cancelled or not."""
    asked = []

    async def renew() -> float:
        asked.append(trio.current_time() - start)
        with trio.CancelScope(shield=True):
            await trio.sleep(30)
        if isinstance(answer, Refused):
            raise answer
        return answer

    start = trio.current_time()
    async with connected(lasting(100, renew=renew)) as ws:
        assert await end_of(ws) == (pytest.approx(start + 100), *EXPIRED)
    start = trio.current_time()
    async with connected(lasting(100, renew=renew)) as ws:
        await ws.receive()
        await trio.sleep_until(start + 95)
        await ws.send("500")
        await trio.sleep_until(start + 500)
        assert ws.closed is None
        await ws.send("5")
        assert await end_of(ws) == (pytest.approx(start + 505), *EXPIRED)
    assert asked == pytest.approx([90, 90, 502.5])


async def test_a_renewal_ends_with_its_connection(autojump_clock):
    over = trio.Event()

    async def renew() -> float:
        try:
            await trio.sleep_forever()
        finally:
            over.set()
        raise AssertionError("it sleeps for ever")

    start = trio.current_time()
    async with connected(lasting(100, renew=renew)) as ws:
        await trio.sleep_until(start + 95)
        await ws.aclose()
        await over.wait()
        assert trio.current_time() - start == pytest.approx(95)


# --- what it costs ---------------------------------------------------------------------------


async def test_it_costs_no_task(autojump_clock):
    async def check(token: str) -> str:
        return token

    async def count(way: Bearer) -> int:
        async with connected(way) as ws:
            await ws.receive()
            await trio.testing.wait_all_tasks_blocked()
            return len(tasks())

    assert await count(lasting(1000)) == await count(Bearer(check))


async def test_a_connection_that_is_over_is_not_kept_by_its_credential(autojump_clock):
    kept = []

    async def note(ws: WebSocket) -> None:
        kept.append(weakref.ref(ws))

    network = VirtualNetwork()
    with network.host("server"):
        async with trioweb.open_server(note, 0, host="server", authenticate=lasting(1e6)) as server:
            with network.host("client"):
                for _ in range(3):
                    headers = {"Authorization": "Bearer ann"}
                    async with trioweb.connect(server.url, headers=headers) as ws:
                        await end_of(ws)
                    del ws
            await trio.sleep(1)
            gc.collect()
            assert [one() for one in kept] == [None] * 3
            # Nor is anything else of it.
            assert [one for one in server._attendant._watches if one.what is not None] == []
