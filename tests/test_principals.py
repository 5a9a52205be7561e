"""Whose connections are whose, and how they are closed at once."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

import trioweb
from tests.helpers import dialling, forever, serving, virtual_clock
from trioweb import Bearer, QueryToken, Server, Timeouts, WebSocket
from trioweb.principals import Principals
from trioweb.testing import HalfOpen, VirtualNetwork


@pytest.fixture
def clock() -> MockClock:
    """Clients that do not receive see a close when `Timeouts.close` is over."""
    return virtual_clock()


async def anybody(token: str) -> str:
    return token


@asynccontextmanager
async def connections(server: Server, *names: str) -> AsyncIterator[list[WebSocket]]:
    """Connect under each of the names."""
    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(trioweb.connect(f"{server.url}/?token={name}"))
            for name in names
        ]
        while len(server.connections) < len(names):
            await trio.testing.wait_all_tasks_blocked()
        yield clients


async def test_the_connections_of_a_principal_are_found():
    async with (
        serving(forever, authenticate=QueryToken(anybody)) as server,
        connections(server, "ann", "bob", "ann"),
    ):
        every = list(server.connections)
        assert server.connections_of("ann") == [every[0], every[2]]
        assert server.connections_of("bob") == [every[1]]
        assert server.connections_of("eve") == []
        async with connections(server, "ann", "eve", "eve", "eve"):
            every = list(server.connections)
            assert len(server.connections_of("ann")) == 3
            assert server.connections_of("eve") == every[4:]
            trioweb.broadcast(server.connections_of("eve"), "hello")


async def test_all_of_them_are_closed_at_once(clock):
    async with (
        serving(forever, authenticate=QueryToken(anybody)) as server,
        connections(server, "ann", "bob", "ann") as (first, other, second),
    ):
        assert await server.close_principal("ann", reason="banned") == 2
        for ws in (first, second):
            with pytest.raises(trioweb.ConnectionBroken) as caught:
                await ws.receive()
            assert (caught.value.code, caught.value.reason) == (4403, "banned")
        assert other.closed is None
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert server.connections_of("ann") == []
        assert await server.close_principal("ann") == 0
        assert [ws.principal for ws in server.connections] == ["bob"]


async def test_handlers_hear_of_it(clock):
    heard = []

    async def handler(ws: WebSocket) -> None:
        with pytest.raises(trioweb.ConnectionBroken) as caught:
            await ws.receive()
        heard.append((caught.value.code, caught.value.reason))

    async with (
        serving(handler, authenticate=QueryToken(anybody)) as server,
        connections(server, "ann"),
    ):
        await server.close_principal("ann", code=4999, reason="so")
    assert heard == [(4999, "so")]


async def test_nothing_more_of_theirs_is_handled(clock):
    handled: list[trioweb.Message] = []
    go_on = trio.Event()

    async def busy(ws: WebSocket) -> None:
        while True:
            handled.append(await ws.receive())
            await go_on.wait()

    async with (
        serving(busy, authenticate=QueryToken(anybody)) as server,
        connections(server, "ann") as (ann,),
    ):
        for message in "abc":
            await ann.send(message)
        ws = next(iter(server.connections))
        while ws.statistics().inbox_messages < 2:
            await trio.sleep(0.01)
        assert await server.close_principal("ann") == 1
        go_on.set()
        while server.connections:
            await trio.sleep(0.01)
        assert ws.statistics().messages_discarded == 2
    assert handled == ["a"]


async def test_a_handler_may_close_its_own_principal():
    closed = []

    async def handler(ws: WebSocket) -> None:
        await ws.receive()
        closed.append(await server.close_principal(ws.principal))

    async with (
        serving(handler, authenticate=QueryToken(anybody)) as server,
        connections(server, "ann", "ann") as clients,
    ):
        await clients[0].send("all of me")
        for ws in clients:
            with pytest.raises(trioweb.ConnectionBroken):
                await ws.receive()
    assert closed == [2]


async def test_a_peer_that_is_gone_delays_it_by_the_close_timeout_at_most(autojump_clock):
    network = VirtualNetwork()
    with network.host("server"):
        async with trioweb.open_server(
            forever,
            0,
            host="server",
            authenticate=QueryToken(anybody),
            timeouts=Timeouts(close=3),
        ) as server:
            with network.host("client"):
                async with connections(server, "ann", "ann"):
                    network.link("client", "server").inject(HalfOpen())
                    start = trio.current_time()
                    assert await server.close_principal("ann") == 2
                    assert trio.current_time() - start == pytest.approx(3, abs=0.1)


@pytest.mark.parametrize(("code", "reason"), [(1005, ""), (999, ""), (4403, "x" * 124)])
async def test_a_close_that_cannot_be_sent_closes_nobody(code, reason):
    async with (
        serving(forever, authenticate=QueryToken(anybody)) as server,
        connections(server, "ann") as (ws,),
    ):
        with pytest.raises(ValueError, match=r"code|reason"):
            await server.close_principal("ann", code=code, reason=reason)
        assert ws.closed is None


async def test_a_principal_may_change_and_be_no_key(clock):
    async def anything(token: str) -> Any:
        return [token]

    async def rename(ws: WebSocket) -> None:
        ws.principal = ["another"]
        await forever(ws)

    async with (
        serving(rename, authenticate=Bearer(anything)) as server,
        trioweb.connect(server.url, headers={"Authorization": "Bearer ann"}),
    ):
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert server.connections_of("x") == []  # from here on there is an index
        assert server.connections_of(["another"]) == list(server.connections)
        assert await server.close_principal(["another"]) == 1


# --- who is on the way in ----------------------------------------------------------------------


@pytest.mark.parametrize("first", [False, True], ids=["handshake", "first message"])
@pytest.mark.parametrize("principal", [str, lambda name: {"name": name}], ids=["key", "no key"])
async def test_who_is_just_being_checked_is_closed_on_arrival(first, principal):
    go_on, checking, received = trio.Event(), [], []

    async def check(token: str) -> Any:
        checking.append(token)
        await go_on.wait()
        return principal(token)

    async def handler(ws: WebSocket) -> None:
        while True:
            received.append(await ws.receive())

    async def come(name: str) -> None:
        async with trioweb.connect(f"{server.url}/?token={name}") as ws:
            if first:
                await ws.send(name)
            await ws.send(f"from {name}")
            with pytest.raises(trioweb.ConnectionBroken) as caught:
                await ws.receive()
            ends[name] = caught.value.code, caught.value.reason

    ends: dict[str, tuple[int, str]] = {}
    way = trioweb.MessageToken(check) if first else QueryToken(check)
    async with serving(handler, authenticate=way) as server:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(come, "ann")
            nursery.start_soon(come, "bob")
            while len(checking) < 2:
                await trio.testing.wait_all_tasks_blocked(0.01)
            assert await server.close_principal(principal("ann"), code=4000) == 0
            assert await server.close_principal(principal("ann"), reason="banned") == 0
            go_on.set()
            while not received:
                await trio.testing.wait_all_tasks_blocked(0.01)
            await server.close_principal(principal("bob"), code=4999)
        assert ends == {"ann": (4403, "banned"), "bob": (4999, "")}
        assert received == ["from bob"]
        # Those who come later are not meant.
        async with trioweb.connect(f"{server.url}/?token=ann") as ws:
            if first:
                await ws.send("ann")
            while not server.connections:
                await trio.testing.wait_all_tasks_blocked(0.01)
            assert [one.closed for one in server.connections] == [None]
        assert not server._principals._closings
    assert not server._principals._on_way


async def test_closings_are_remembered_as_long_as_somebody_may_have_missed_them():
    async with serving(forever, authenticate=QueryToken(anybody)) as server:
        principals = server._principals
        await server.close_principal("nobody")
        assert not principals._closings
        async with dialling(server):
            while not principals._on_way:
                await trio.testing.wait_all_tasks_blocked(0.01)
            for number in range(5):
                await server.close_principal(number)
            assert list(principals._closings) == [0, 1, 2, 3, 4]
            async with dialling(server):
                while len(principals._on_way) < 2:
                    await trio.testing.wait_all_tasks_blocked(0.01)
                await server.close_principal(0)
                assert list(principals._closings) == [1, 2, 3, 4, 0]
            while len(principals._on_way) > 1:
                await trio.testing.wait_all_tasks_blocked(0.01)
            assert list(principals._closings) == [1, 2, 3, 4, 0]
        while principals._on_way:
            await trio.testing.wait_all_tasks_blocked(0.01)
        assert not principals._closings


async def test_who_comes_after_a_closing_is_not_meant_by_it():
    async with (
        serving(forever, authenticate=QueryToken(anybody)) as server,
        dialling(server),  # and on the way for long
    ):
        while not server._principals._on_way:
            await trio.testing.wait_all_tasks_blocked(0.01)
        await server.close_principal("ann")
        async with connections(server, "ann"):
            assert list(server._principals._closings) == ["ann"]
            assert [one.closed for one in server.connections] == [None]


# --- the index -------------------------------------------------------------------------------

STEPS = st.lists(
    st.tuples(st.sampled_from(["add", "remove", "ask", "rename"]), st.integers(0, 9)), max_size=60
)


@given(STEPS)
def test_the_index_is_what_a_search_would_find(steps: list[tuple[str, int]]) -> None:
    live: dict[Any, Any] = {}
    index = Principals(live)
    asked = False
    made: list[Any] = []
    for what, number in steps:
        if what == "add":
            ws: Any = _Connection(number % 3)
            made.append(ws)
            live[ws] = ws.principal
            index.add(ws)
        elif what == "remove" and made:
            ws = made.pop(number % len(made))
            del live[ws]
            index.remove(ws)
            index.remove(ws)
        elif what == "rename" and made and asked:
            made[number % len(made)].principal = "new"
        elif what == "ask":
            asked = True
            for who in range(3):
                assert index.connections_of(who) == [ws for ws, key in live.items() if key == who]
    for ws in made:
        index.remove(ws)
    assert not index._index
    assert not index._keys


class _Connection:
    def __init__(self, principal: object) -> None:
        self.principal = principal


def test_nothing_is_kept_before_somebody_asks() -> None:
    ws: Any = _Connection(1)
    index = Principals({ws: None})
    index.add(ws)
    assert index._index is None
    assert index._keys == {}
