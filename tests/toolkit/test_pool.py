"""A pool: sessions over several servers, which fail and come back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import trioweb
from tests.toolkit.fake_hub import FakeHub
from trioweb import Phase, Response, SessionEnded
from trioweb.config import HealthCheck
from trioweb.testing import Partition, Reset, VirtualNetwork, no_orphans, run
from trioweb.toolkit.pool import Pool, open_pool
from trioweb.toolkit.session import Event, Missed

NAMES = ["a", "b", "c"]
URLS = [f"ws://{name}:80" for name in NAMES]


class Servers:
    """Hubs of their own on three virtual hosts."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.network = VirtualNetwork()
        self.hubs = {name: FakeHub() for name in NAMES}
        self._nursery = nursery
        self._scopes: dict[str, trio.CancelScope] = {}

    async def start(self, name: str, **options: Any) -> None:
        await self._nursery.start(self._serve, name, options)

    async def _serve(
        self, name: str, options: dict[str, Any], task_status: trio.TaskStatus[None]
    ) -> None:
        with self.network.host(name), trio.CancelScope() as self._scopes[name]:
            async with trioweb.open_server(self.hubs[name].serve, 80, **options):
                task_status.started()
                await trio.sleep_forever()

    async def stop(self, name: str) -> None:
        self._scopes[name].cancel()
        await wait_all_tasks_blocked()

    def connected(self) -> dict[str, int]:
        """Return how many connections each server has, if it has any."""
        return {name: n for name in NAMES if (n := len(self.hubs[name].connections))}


def with_servers(main: Callable[[Servers], Awaitable[None]], *names: str) -> None:
    async def hosted() -> None:
        async with no_orphans(), trio.open_nursery() as nursery:
            servers = Servers(nursery)
            for name in names or NAMES:
                await servers.start(name)
            with servers.network.host("client"), trio.fail_after(10_000):
                await main(servers)
            nursery.cancel_scope.cancel()

    run(hosted, seed=0)


async def settled(pool: Pool) -> None:
    for session in pool.sessions:
        await session.states.wait_for(Phase.OPEN)


def test_connections_are_spread_and_calls_go_round() -> None:
    async def main(servers: Servers) -> None:
        async with open_pool(URLS, size=3) as pool:
            await settled(pool)
            assert servers.connected() == {"a": 1, "b": 1, "c": 1}
            for number in range(6):
                assert await pool.call("echo", number, result=int) == number
            assert [servers.hubs[name].runs["echo"] for name in NAMES] == [2, 2, 2]
            assert [one.connections for one in pool.endpoints] == [1, 1, 1]
        await trio.sleep(1)
        assert servers.connected() == {}

    with_servers(main)


def test_a_session_stays_with_its_server_until_that_fails() -> None:
    async def main(servers: Servers) -> None:
        async with open_pool(URLS, check=None) as pool:
            await pool.call("echo")
            (first,) = servers.connected()
            await trio.sleep(3600)
            assert servers.connected() == {first: 1}
            await servers.stop(first)
            await pool.call("echo")
            (second,) = servers.connected()
            assert second != first
            await servers.start(first)
            await trio.sleep(3600)
            assert servers.connected() == {second: 1}
            failed = {one.url: one.healthy for one in pool.endpoints}
            assert failed == {url: url != f"ws://{first}:80" for url in URLS}

    with_servers(main)


def test_a_server_that_came_back_is_found_by_its_check() -> None:
    async def main(servers: Servers) -> None:
        async with open_pool(URLS[:2]) as pool:
            await pool.call("echo")
            (first,) = servers.connected()
            await servers.stop(first)
            await pool.call("echo")
            (second,) = servers.connected()
            await servers.start(first)
            assert not all(one.healthy for one in pool.endpoints)
            await trio.sleep(30)
            assert all(one.healthy for one in pool.endpoints)
            assert servers.hubs[first].calls["ping"] >= 1
            await servers.stop(second)
            await pool.call("echo")
            assert servers.connected() == {first: 1}

    with_servers(main)


def test_a_server_without_connections_that_fails_is_not_chosen() -> None:
    async def main(servers: Servers) -> None:
        async with open_pool(URLS, check=HealthCheck(interval=10, timeout=2)) as pool:
            await pool.call("echo")
            (first,) = servers.connected()
            dead, alive = (name for name in NAMES if name != first)
            servers.network.link("client", dead).inject(Partition())
            await trio.sleep(60)
            await servers.stop(first)
            start = trio.current_time()
            await pool.call("echo")
            assert trio.current_time() - start < 1
            assert servers.connected() == {alive: 1}

    with_servers(main)


def test_a_page_may_tell_how_a_server_is() -> None:
    status = 200

    async def on_request(request: trioweb.Request) -> Response | None:
        if request.path == "/health":
            return Response.make(status, "how it is")
        return None

    async def main(servers: Servers) -> None:
        nonlocal status
        await servers.start("b", on_request=on_request)
        check = HealthCheck(interval=10, path="/health")
        async with open_pool(URLS[:2], size=1, check=check) as pool:
            await pool.call("echo")
            if servers.connected() == {"b": 1}:
                await servers.stop("b")
                await pool.call("echo")
                await servers.start("b", on_request=on_request)
            for answer, healthy in ((200, True), (503, False), (204, True)):
                status = answer
                await trio.sleep(30)
                assert {one.url: one.healthy for one in pool.endpoints}["ws://b:80"] is healthy

    with_servers(main, "a")


def test_who_turns_us_away_for_good_is_left_alone() -> None:
    async def refuse(request: trioweb.Request) -> Response:
        return Response.make(403, "not you")

    async def main(servers: Servers) -> None:
        await servers.start("b", on_request=refuse)
        async with open_pool(URLS[:2], size=2) as pool:
            await settled(pool)
            assert servers.connected() == {"a": 2}
            assert [one.refused for one in sorted(pool.endpoints, key=lambda one: one.url)] == [
                False,
                True,
            ]
            await servers.stop("a")
            await servers.start("a", on_request=refuse)
            with pytest.raises(SessionEnded, match="403"):
                await pool.call("echo")

    with_servers(main, "a")


def test_calls_go_to_sessions_with_a_connection() -> None:
    async def main(servers: Servers) -> None:
        async with open_pool(URLS[:2], size=2, check=None) as pool:
            await settled(pool)
            servers.network.link("client", "a").inject(Partition(60))
            servers.network.link("client", "a").inject(Reset())
            for number in range(10):
                assert await pool.call("echo", number) == number
            assert trio.current_time() < 1
            assert await pool.notify("note", 1)
            await trio.sleep(1)
            assert servers.hubs["b"].notified == [1]

    with_servers(main)


def test_a_failover_to_another_history_is_told() -> None:
    async def main(servers: Servers) -> None:
        for number, name in enumerate(NAMES):
            servers.hubs[name].topic("news").epoch = 10 * number
        async with open_pool(URLS) as pool, pool.subscribe("news") as subscription:
            await pool.publish("news", 1)
            event = await subscription.receive()
            assert isinstance(event, Event)
            assert event.data == 1
            (first,) = servers.connected()
            await servers.stop(first)
            await pool.publish("news", 2)
            assert await subscription.receive() == Missed()
            event = await subscription.receive()
            assert isinstance(event, Event)
            assert event.data == 2

    with_servers(main)


def test_clients_of_a_server_that_dies_do_not_come_at_once() -> None:
    arrivals: list[float] = []

    async def on_request(request: trioweb.Request) -> None:
        arrivals.append(trio.current_time())

    async def main(servers: Servers) -> None:
        await servers.start("b", on_request=on_request)
        async with open_pool(URLS[:1], size=50, check=None) as pool:
            await settled(pool)
            await servers.stop("a")
            start = trio.current_time()
            await servers.start("a", on_request=on_request)
            await trio.sleep(60)
            await settled(pool)
            times = sorted(time - start for time in arrivals)
            assert len(times) >= 50
            assert times[5] > 0.01
            assert len({round(time, 3) for time in times}) > 40

    with_servers(main, "a")


def test_options_are_checked() -> None:
    with pytest.raises(ValueError, match="interval must be positive"):
        HealthCheck(interval=0)
    with pytest.raises(ValueError, match="timeout must be positive"):
        HealthCheck(timeout=-1)


async def test_nonsense() -> None:
    for urls, size, message in (
        ([], 1, "one endpoint at least"),
        (["ws://a", "ws://a"], 1, "named twice"),
        (["ws://a"], 0, "size"),
    ):
        with pytest.raises(ValueError, match=message):
            async with open_pool(urls, size=size):
                pass
