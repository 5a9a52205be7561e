"""A session: calls, notifications and subscriptions that survive their connections."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio
import trio_websocket
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import wait_all_tasks_blocked

import trioweb
from tests.channels import channel_pair
from tests.helpers import guard, numeric_url
from tests.toolkit.fake_hub import FakeHub
from trioweb import Backoff, CallError, CallLost, Message, Phase, Policy, SessionEnded
from trioweb.adapters.trio_websocket import TrioWebSocketChannel
from trioweb.config import CallLimits, Overflow, SessionLimits
from trioweb.positions import Position
from trioweb.testing import (
    Partition,
    Reset,
    Stall,
    VirtualNetwork,
    at_every_step,
    cancelled_at,
    no_orphans,
    run,
)
from trioweb.toolkit.rpc import Invocation, Methods, Peer, serve_peer
from trioweb.toolkit.session import Event, Missed, Session, Subscription, open_session
from trioweb.toolkit.wire import Notify, Result

URL = "ws://server:80"


class World:
    """A hub on one virtual host; the test is on another, and can cut what is between them."""

    def __init__(self, hub: FakeHub) -> None:
        self.network = VirtualNetwork()
        self.hub = hub
        self.server = trio.CancelScope()

    def cut(self) -> None:
        self.network.link("client", "server").inject(Reset())

    async def serve(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until `stop`."""
        with self.network.host("server"), trio.CancelScope() as self.server:
            async with trioweb.open_server(self.hub.serve, 80):
                task_status.started()
                await trio.sleep_forever()

    async def stop(self) -> None:
        """Kill the server."""
        self.server.cancel()
        await wait_all_tasks_blocked()


def in_world(main: Callable[[World, trio.Nursery], Awaitable[None]], **options: Any) -> World:
    world = World(FakeHub(**options))

    async def hosted() -> None:
        async with no_orphans(), trio.open_nursery() as nursery:
            await nursery.start(world.serve)
            with world.network.host("client"), trio.fail_after(10_000):
                await main(world, nursery)
            nursery.cancel_scope.cancel()

    run(hosted, seed=0)
    return world


@asynccontextmanager
async def subscribed(
    topic: str, limits: SessionLimits = SessionLimits(), **options: Any
) -> AsyncGenerator[tuple[Session, Subscription]]:
    async with (
        open_session(URL, session_limits=limits) as session,
        session.subscribe(topic, **options) as subscription,
    ):
        yield session, subscription


async def some(subscription: Subscription, count: int) -> list[Any]:
    """Receive so many: the data of events, and gaps."""
    items = [await subscription.receive() for _ in range(count)]
    return [item.data if isinstance(item, Event) else item for item in items]


async def silent(subscription: Subscription) -> bool:
    with trio.move_on_after(100) as scope:
        await subscription.receive()
    return scope.cancelled_caught


# --- calls -----------------------------------------------------------------------------------


def test_a_call_waits_for_a_connection_and_gets_its_answer() -> None:
    async def main(world: World, nursery: trio.Nursery) -> None:
        await world.stop()
        async with open_session(URL) as session:
            await session.states.wait_for(Phase.WAITING)
            nursery.start_soon(world.serve)
            assert await session.call("echo", [1, "a"], result=list[int | str]) == [1, "a"]
            assert session.statistics().connections == 1

    in_world(main)


def test_a_call_outstanding_at_a_break_fails_at_once() -> None:
    async def main(world: World, nursery: trio.Nursery) -> None:
        world.hub.silent.add("slow")
        async with open_session(URL) as session:
            nursery.start_soon(_later, world.cut)
            with pytest.raises(CallLost) as caught:
                await session.call("slow")
            assert caught.value.sent
            assert trio.current_time() == 1

    world = in_world(main)
    assert world.hub.runs["slow"] == 1


async def _later(action: Callable[[], object], seconds: float = 1) -> None:
    await trio.sleep(seconds)
    action()


def test_a_call_that_may_be_repeated_is_made_again_and_runs_once() -> None:
    async def main(world: World, nursery: trio.Nursery) -> None:
        world.hub.silent.add("slow")

        def break_() -> None:
            world.cut()
            world.hub.silent.clear()

        async with open_session(URL) as session:
            nursery.start_soon(_later, break_)
            assert await session.call("slow", "x", repeat=True) == "x"
            assert session.statistics().repeated == 1

    world = in_world(main)
    assert world.hub.calls["slow"] == 2
    assert world.hub.runs["slow"] == 1


def test_a_call_that_a_leaving_server_has_cancelled_is_made_again() -> None:
    async def main(world: World, nursery: trio.Nursery) -> None:
        world.hub.refusals["echo"] = ["cancelled", "cancelled"]
        async with open_session(URL) as session:
            with pytest.raises(CallError, match="cancelled"):
                await session.call("echo")
            assert await session.call("echo", "x", repeat=True) == "x"

    in_world(main)


def test_the_time_of_a_call_is_for_all_connections_together() -> None:
    async def main(world: World, nursery: trio.Nursery) -> None:
        world.hub.silent.add("slow")
        async with open_session(URL) as session:
            nursery.start_soon(_later, world.cut)
            with pytest.raises(trioweb.CallTimeout):
                await session.call("slow", repeat=True, timeout=5)
            with trio.move_on_after(5) as scope:
                await session.call("slow", repeat=True)
            assert scope.cancelled_caught
            assert trio.current_time() == 10

    in_world(main)


def test_errors_of_the_server_come_out_as_they_are() -> None:
    async def main(world: World, nursery: trio.Nursery) -> None:
        world.hub.refusals["echo"] = ["forbidden"]
        async with open_session(URL) as session:
            with pytest.raises(CallError, match="forbidden"):
                await session.call("echo", repeat=True)
            with pytest.raises(TypeError):
                await session.call("echo", object())

    in_world(main)


def test_publishing_is_once_however_often_the_link_breaks() -> None:
    async def main(world: World, nursery: trio.Nursery) -> None:
        world.hub.silent.add("publish")

        def break_() -> None:
            world.cut()
            world.hub.silent.clear()

        async with open_session(URL) as session:
            nursery.start_soon(_later, break_)
            assert await session.publish("news", "one") == Position("e1", 1)
            assert await session.publish("live", "two") is None

    world = in_world(main)
    assert [event.data for event in world.hub.topics["news"].log] == ["one"]


# --- notifications ---------------------------------------------------------------------------


def test_notifications_wait_for_a_connection_in_order() -> None:
    async def main(world: World, nursery: trio.Nursery) -> None:
        await world.stop()
        async with open_session(URL) as session:
            for number in range(5):
                assert await session.notify("note", number)
            assert session.statistics().queued_messages == 5
            assert session.statistics().queued_bytes > 100
            nursery.start_soon(world.serve)
            await session.call("echo")
            await trio.sleep(1)
            assert session.statistics().queued_messages == 0
            await session.notify("note", 5)

    world = in_world(main)
    assert world.hub.notified == [0, 1, 2, 3, 4, 5]


def test_the_queue_is_bounded_and_drops_are_counted() -> None:
    async def main(world: World, nursery: trio.Nursery) -> None:
        await world.stop()
        limits = SessionLimits(queue_messages=3)
        async with open_session(URL, session_limits=limits) as session:
            oldest, newest = Policy(Overflow.DROP_OLDEST), Policy(Overflow.DROP_NEWEST)
            for number in range(5):
                assert await session.notify("note", number, policy=oldest)
            assert not await session.notify("note", 5, policy=newest)
            statistics = session.statistics()
            assert (statistics.queued_messages, statistics.dropped) == (3, 3)
            nursery.start_soon(world.serve)
            await session.call("echo")

    world = in_world(main)
    assert world.hub.notified == [2, 3, 4]


def test_a_full_queue_makes_wait_for_as_long_as_the_policy_says() -> None:
    async def main(world: World, nursery: trio.Nursery) -> None:
        await world.stop()
        async with open_session(URL, session_limits=SessionLimits(queue_messages=1)) as session:
            await session.notify("note", 1)
            with pytest.raises(trio.TooSlowError):
                await session.notify("note", 2, policy=Policy(Overflow.WAIT, timeout=7))
            assert trio.current_time() == 7
            nursery.start_soon(world.serve)
            await session.notify("note", 3, policy=Policy(Overflow.WAIT, timeout=1000))
            with pytest.raises(ValueError, match="does not close"):
                await session.notify("note", 4, policy=Policy(Overflow.CLOSE))
            await session.call("echo")

    world = in_world(main)
    assert world.hub.notified == [1, 3]


def test_of_one_key_the_newest_is_sent() -> None:
    async def main(world: World, nursery: trio.Nursery) -> None:
        await world.stop()
        async with open_session(URL) as session:
            for number in range(10):
                await session.notify("at", number, policy=Policy(Overflow.COALESCE, key="at"))
            assert session.statistics().coalesced == 9
            nursery.start_soon(world.serve)
            await session.call("echo")

    world = in_world(main)
    assert world.hub.notified == [9]


# --- subscriptions ---------------------------------------------------------------------------


def test_a_subscription_goes_on_after_a_break_without_a_hole() -> None:
    async def main(world: World, nursery: trio.Nursery) -> None:
        world.hub.publish("news", "before")
        async with subscribed("news") as (_, subscription):
            assert subscription.position == Position("e1", 1)
            world.hub.publish("news", 1)
            assert await some(subscription, 1) == [1]
            world.cut()
            world.hub.publish("news", 2)
            world.hub.publish("news", 3)
            assert await some(subscription, 2) == [2, 3]
            world.hub.publish("news", 4)
            assert await some(subscription, 1) == [4]
            assert subscription.position == Position("e1", 5)
            assert await silent(subscription)

    in_world(main)


def test_a_silent_topic_recovers_too_and_so_does_a_restart_of_the_server() -> None:
    async def main(world: World, nursery: trio.Nursery) -> None:
        async with subscribed("news") as (session, subscription):
            await world.stop()
            await session.states.wait_for(Phase.WAITING)
            world.hub.publish("news", 1)
            nursery.start_soon(world.serve)
            assert await some(subscription, 1) == [1]

    in_world(main)


def test_what_is_lost_is_told() -> None:
    async def main(world: World, nursery: trio.Nursery) -> None:
        async with subscribed("news") as (_, subscription):
            world.cut()
            for number in range(10):
                world.hub.publish("news", number)
            world.hub.topic("news").gone = 7
            assert await some(subscription, 4) == [Missed(7), 7, 8, 9]
            world.hub.publish("news", 10)
            assert await some(subscription, 1) == [10]
            world.hub.forget("news")
            world.hub.publish("news", 11)
            assert await some(subscription, 2) == [Missed(), 11]
            assert subscription.statistics().missed == 7

    in_world(main)


def test_more_than_one_answer_holds_comes_in_pages() -> None:
    async def main(world: World, nursery: trio.Nursery) -> None:
        async with subscribed("news", SessionLimits(feed_events=20)) as (_, subscription):
            world.cut()
            for number in range(100):
                world.hub.publish("news", number)
            assert await some(subscription, 100) == list(range(100))
            assert await silent(subscription)

    world = in_world(main, answer=7)
    assert world.hub.calls["history"] == 15


def test_a_topic_without_history_tells_of_every_break() -> None:
    async def main(world: World, nursery: trio.Nursery) -> None:
        async with subscribed("live") as (session, subscription):
            world.hub.publish("live", 1)
            await trio.sleep(1)
            world.cut()
            await session.call("echo")
            await trio.sleep(1)
            world.hub.publish("live", 2)
            assert await some(subscription, 3) == [1, Missed(), 2]
            assert subscription.position is None

    in_world(main)


def test_events_that_the_server_left_out_are_fetched() -> None:
    async def main(world: World, nursery: trio.Nursery) -> None:
        async with (
            subscribed("news") as (session, subscription),
            session.subscribe("live") as live,
        ):
            for name in ("news", "live"):
                world.hub.omit(name)
                world.hub.publish(name, 1)
                world.hub.publish(name, 2)
                world.hub.admit(name)
            assert await some(subscription, 2) == [1, 2]
            assert await some(live, 1) == [Missed(2)]

    in_world(main)


def test_a_slow_reader_stops_nobody_and_loses_nothing() -> None:
    async def main(world: World, nursery: trio.Nursery) -> None:
        async with (
            subscribed("busy", SessionLimits(feed_events=8)) as (session, slow),
            session.subscribe("quiet") as quick,
        ):
            for number in range(1000):
                world.hub.publish("busy", number)
            world.hub.publish("quiet", "here")
            assert await some(quick, 1) == ["here"]
            assert await session.call("echo", 1) == 1
            assert slow.statistics().waiting == 8
            assert slow.statistics().postponed > 900
            assert await some(slow, 1000) == list(range(1000))

    in_world(main)


def test_an_answer_that_comes_after_the_servers_end_of_a_subscription_ends_no_other() -> None:
    async def main(world: World, nursery: trio.Nursery) -> None:
        hub = world.hub
        async with subscribed("news") as (_, subscription), trio.open_nursery() as readers:
            got: list[Any] = []

            async def read() -> None:
                got.extend(await some(subscription, 2))

            readers.start_soon(read)
            hub.silent.add("history")
            hub.omit("news")
            hub.publish("news", 1)
            hub.admit("news")
            await trio.sleep(1)
            assert hub.calls["history"] == 1
            hub.refusals["subscribe"] = ["busy"]
            hub.forget("news")
            await trio.sleep(0.001)
            assert not hub.refusals["subscribe"]
            (ws,) = hub.connections
            answer = {"position": {"epoch": "e2", "offset": 0}, "events": []}
            hub.say(ws, Result(2, answer))
            await trio.sleep(100)
            hub.publish("news", 2)
            await trio.sleep(1)
            assert got == [Missed(), 2]
            assert hub.calls["unsubscribe"] == 0
            assert hub.calls["subscribe"] == 3

    in_world(main)


def test_what_waits_over_many_links_is_bounded_in_bytes() -> None:
    async def main(world: World, nursery: trio.Nursery) -> None:
        limits = SessionLimits(feed_bytes=1000)
        async with open_session(URL, session_limits=limits) as session:
            async with session.subscribe("news") as subscription:
                for number in range(20):
                    world.cut()
                    await session.states.wait_for(Phase.WAITING)
                    world.hub.publish("news", "x" * 300 + str(number))
                    await session.states.wait_for(Phase.OPEN)
                    await trio.sleep(5)
                assert subscription.statistics().waiting <= 5
                items = await some(subscription, 20)
                assert [item[300:] for item in items] == [str(number) for number in range(20)]

    in_world(main)


def test_an_integer_that_only_json_has_arrives_behind_others() -> None:
    async def main(world: World, nursery: trio.Nursery) -> None:
        async with open_session(URL) as session, session.subscribe("live") as subscription:
            for data in (1, 2**70, 3):
                world.hub.publish("live", data)
            await trio.sleep(1)
            assert await some(subscription, 3) == [1, 2**70, 3]

    in_world(main)


def test_the_newest_alone() -> None:
    async def main(world: World, nursery: trio.Nursery) -> None:
        async with subscribed("price", recover="latest") as (session, subscription):
            world.cut()
            for number in range(5):
                world.hub.publish("price", number)
            assert await some(subscription, 1) == [4]
            for number in range(5, 8):
                world.hub.publish("price", number)
            await session.call("echo")
            assert await some(subscription, 1) == [7]
            world.hub.omit("price")
            world.hub.publish("price", 8)
            world.hub.publish("price", 9)
            world.hub.admit("price")
            assert await some(subscription, 1) == [9]

    in_world(main)


def test_a_position_carries_over_to_another_session() -> None:
    async def main(world: World, nursery: trio.Nursery) -> None:
        async with subscribed("news") as (_, subscription):
            world.hub.publish("news", 1)
            assert await some(subscription, 1) == [1]
            position = subscription.position
        world.hub.publish("news", 2)
        async with subscribed("news", position=position) as (_, subscription):
            assert await some(subscription, 1) == [2]
        async with subscribed("live", position=position) as (_, subscription):
            assert await some(subscription, 1) == [Missed()]

    in_world(main)


def test_refusals_that_pass_and_those_that_do_not() -> None:
    async def main(world: World, nursery: trio.Nursery) -> None:
        async with open_session(URL) as session:
            world.hub.refusals["subscribe"] = ["busy", "rate-limited"]
            async with session.subscribe("news") as subscription:
                assert world.hub.calls["subscribe"] == 3
                world.hub.omit("news")
                world.hub.publish("news", 1)
                world.hub.admit("news")
                world.hub.refusals["history"] = ["timeout"]
                assert await some(subscription, 1) == [1]
                world.hub.expel("news", "cancelled")
                world.hub.publish("news", 2)
                assert await some(subscription, 1) == [2]
                world.hub.publish("news", 3)
                await trio.sleep(1)
                world.hub.expel("news", "forbidden")
                await trio.sleep(1)
                assert await some(subscription, 1) == [3]
                with pytest.raises(CallError, match="forbidden"):
                    await subscription.receive()
            world.hub.refusals["subscribe"] = ["not-found"]
            with pytest.raises(CallError, match="not-found"):
                async with session.subscribe("news"):
                    pass
            async with session.subscribe("news"):
                with pytest.raises(ValueError, match="already"):
                    async with session.subscribe("news"):
                        pass
            async with session.subscribe("news"):
                pass

    world = in_world(main)
    assert world.hub.connections == {}


def test_receiving_can_be_cancelled_anywhere() -> None:
    async def main(world: World, nursery: trio.Nursery) -> None:
        async with subscribed("news", SessionLimits(feed_events=2)) as (_, subscription):
            received: list[Any] = []
            for number in range(40):
                world.hub.publish("news", number)
            while len(received) < 40:
                with trio.CancelScope() as scope:
                    nursery.start_soon(_later, scope.cancel, 0.001 * len(received))
                    received += await some(subscription, 1)
            assert received == list(range(40))

    in_world(main)


def test_one_task_reads() -> None:
    async def main(world: World, nursery: trio.Nursery) -> None:
        async with subscribed("news") as (_, subscription):
            async with trio.open_nursery() as readers:
                readers.start_soon(subscription.receive)
                await wait_all_tasks_blocked()
                with pytest.raises(trio.BusyResourceError):
                    await subscription.receive()
                readers.cancel_scope.cancel()
            await subscription.aclose()
            with pytest.raises(trio.ClosedResourceError):
                await subscription.receive()

    in_world(main)


def test_receiving_is_whole_at_every_step() -> None:
    async def scenario(step: int) -> bool:
        world = World(FakeHub())
        received: list[Any] = []
        async with trio.open_nursery() as nursery:
            await nursery.start(world.serve)
            with world.network.host("client"):
                limits = SessionLimits(feed_events=2)
                async with subscribed("news", limits) as (_, subscription):
                    for number in range(5):
                        world.hub.publish("news", number)

                    async def receive() -> None:
                        while len(received) < 5:
                            received.extend(await some(subscription, 1))

                    cancelled = await cancelled_at(step, receive)
                    await receive()
                    assert received == [0, 1, 2, 3, 4]
            nursery.cancel_scope.cancel()
        return cancelled

    assert run(at_every_step, scenario, seed=0) > 5


def test_topics_with_names_that_cannot_be_sent_are_refused() -> None:
    async def main(world: World, nursery: trio.Nursery) -> None:
        async with open_session(URL) as session:
            with pytest.raises(TypeError):
                async with session.subscribe("\ud800"):
                    pass
            assert await session.call("echo", 1) == 1

    in_world(main)


def test_a_server_that_does_not_unsubscribe_and_one_that_talks_nonsense() -> None:
    async def main(world: World, nursery: trio.Nursery) -> None:
        async with open_session(URL) as session:
            world.hub.refusals["unsubscribe"] = ["unknown-method"]
            async with session.subscribe("news"):
                pass
            await trio.sleep(1)
            world.hub.publish("news", 1)
            assert await session.call("echo", 1) == 1
            world.hub.odd["subscribe"] = {"position": 7}
            with pytest.raises(CallError, match=r"invalid: .* at `\$\.position`"):
                async with session.subscribe("other"):
                    pass

    in_world(main)


def test_the_application_has_methods_of_its_own() -> None:
    async def main(world: World, nursery: trio.Nursery) -> None:
        passed: list[str] = []
        methods = Methods(middleware=[partial(_note, passed)])
        methods.add("wave", lambda _, topic: passed.append(topic))
        async with (
            open_session(URL, methods=methods) as session,
            session.subscribe("live") as live,
        ):
            world.hub.tell("live", Notify("wave", {"topic": "hello"}))
            world.hub.tell("live", Notify("gap", {"topic": "live", "missed": 3}))
            assert await some(live, 1) == [Missed(3)]
            assert passed == ["wave", "hello"]

    in_world(main)


def test_no_middleware_and_no_load_keeps_the_servers_word_from_a_subscription() -> None:
    async def main(world: World, nursery: trio.Nursery) -> None:
        async def stop(invocation: Invocation, handler: Any) -> Any:
            await trio.sleep_forever()

        methods = Methods(middleware=[stop])
        methods.add("wave", lambda _, topic: None)
        limits = CallLimits(incoming=1)
        async with (
            open_session(URL, methods=methods, call_limits=limits) as session,
            session.subscribe("live") as live,
        ):
            for _ in range(3):
                world.hub.tell("live", Notify("wave", {"topic": "hello"}))
            world.hub.publish("live", 1)
            world.hub.tell("live", Notify("gap", {"topic": "live", "missed": 3}))
            world.hub.publish("live", 2)
            world.hub.expel("live", "forbidden")
            assert await some(live, 3) == [1, Missed(3), 2]
            with pytest.raises(CallError) as caught:
                await live.receive()
            assert caught.value.code == "forbidden"

    in_world(main)


async def _note(passed: list[str], invocation: Invocation, handler: Any) -> Any:
    passed.append(invocation.method)
    return await handler(invocation)


async def test_on_memory_channels(autojump_clock: trio.testing.MockClock) -> None:
    breaks: list[trio.CancelScope] = []
    methods = Methods()
    methods.add("add", lambda _, a, b: a + b)

    @asynccontextmanager
    async def dial() -> AsyncGenerator[trio.abc.Channel[Message]]:
        ours, theirs = channel_pair()
        async with trio.open_nursery() as nursery:
            scope = trio.CancelScope()
            breaks.append(scope)

            async def serve() -> None:
                with scope:
                    await serve_peer(theirs, methods)
                await theirs.aclose()

            nursery.start_soon(serve)
            async with ours:
                yield ours
            nursery.cancel_scope.cancel()

    async with no_orphans(), open_session(dial) as session:
        assert await session.call("add", {"a": 1, "b": 2}) == 3
        breaks[0].cancel()
        await trio.sleep(1)
        assert await session.call("add", {"a": 3, "b": 4}) == 7
        assert session.statistics().connections == 2


async def test_on_connections_of_trio_websocket() -> None:
    farewells = iter([(1012, "a moment"), (4500, "never again")])
    methods = Methods()
    methods.add("add", lambda _, a, b: a + b)

    async def leave(peer: Peer) -> None:
        await peer.link.aclose(*next(farewells))

    methods.add("leave", leave)

    async def handler(ws: trioweb.WebSocket) -> None:
        await serve_peer(ws, methods)

    async with trioweb.open_server(handler, 0, host="127.0.0.1") as server:

        @asynccontextmanager
        async def dial() -> AsyncGenerator[TrioWebSocketChannel]:
            async with trio_websocket.open_websocket_url(numeric_url(server)) as connection:
                yield TrioWebSocketChannel(connection)
                # It leaves the socket of what its peer has closed to the garbage collector.
                await trio.aclose_forcefully(connection._stream)

        with guard():
            async with open_session(dial, backoff=Backoff(base=0.01)) as session:
                for number in range(2):
                    assert await session.call("add", {"a": 1, "b": number}) == 1 + number
                    with pytest.raises(CallLost):
                        await session.call("leave")
                await session.states.wait_for(Phase.ENDED)
                with pytest.raises(SessionEnded, match="never again"):
                    await session.call("add", {"a": 1, "b": 2})


# --- ends ------------------------------------------------------------------------------------


def test_a_terminal_end_is_told_to_all() -> None:
    async def main(world: World, nursery: trio.Nursery) -> None:
        async with subscribed("news") as (session, subscription):
            world.hub.publish("news", 1)
            await session.call("echo")
            (ws,) = world.hub.connections
            await ws.aclose(4500, "banned")
            assert await some(subscription, 1) == [1]
            for action in (
                subscription.receive,
                lambda: session.call("echo"),
                lambda: session.notify("echo"),
                session.peer,
            ):
                with pytest.raises(SessionEnded, match="banned") as caught:
                    await action()
                assert isinstance(caught.value.__cause__, trioweb.ConnectionBroken)
            with pytest.raises(SessionEnded):
                async with session.subscribe("other"):
                    pass
            assert session.states.current.phase is Phase.ENDED

    in_world(main)


def test_a_server_of_nonsense_is_left_for_good() -> None:
    async def main(world: World, nursery: trio.Nursery) -> None:
        async with open_session(URL) as session:
            await session.call("echo")
            (ws,) = world.hub.connections
            for _ in range(20):
                await ws.send("nonsense")
            await session.states.wait_for(Phase.ENDED)
            with pytest.raises(SessionEnded, match="1007"):
                await session.call("echo")

    in_world(main)


def test_attempts_may_have_an_end_and_nonsense_comes_out_at_once() -> None:
    async def main(world: World, nursery: trio.Nursery) -> None:
        async with open_session("ws://server:81", backoff=Backoff(attempts=2)) as session:
            with pytest.raises(SessionEnded, match="refused"):
                await session.call("echo")
        with pytest.raises(ValueError, match="http"):
            async with open_session("http://server"):
                await trio.sleep_forever()

    in_world(main)


def test_the_blocks_exception_comes_out_bare_and_nothing_works_after_it() -> None:
    async def main(world: World, nursery: trio.Nursery) -> None:
        with pytest.raises(KeyError):
            async with subscribed("news") as (session, _):
                raise KeyError
        with pytest.raises(SessionEnded):
            await session.call("echo")
        async with open_session(URL) as session:
            await session.call("echo")
        await trio.sleep(1)
        assert world.hub.connections == {}

    in_world(main)


def test_the_end_of_the_block_is_bounded_whatever_the_network_does() -> None:
    async def main(world: World, nursery: trio.Nursery) -> None:
        for fault in (Stall(), Partition()):
            world.network.link("client", "server").heal()
            async with open_session(URL) as session:
                await session.call("echo")
                world.network.link("client", "server").inject(fault)
                start = trio.current_time()
                await session.notify("note", "x" * 100_000)
                await session.notify("note", "x" * 100_000)
            assert trio.current_time() - start < 40
        world.network.link("client", "server").heal()

    in_world(main)


# --- the property ----------------------------------------------------------------------------


TROUBLE = st.lists(
    st.tuples(st.sampled_from(["cut", "stall", "restart", "forget"]), st.floats(0, 20)), max_size=10
)


@settings(max_examples=20)
@given(TROUBLE, st.integers(1, 2**14), st.sampled_from([2, 8, 256]))
def test_exactly_what_was_published_or_told(
    troubles: list[tuple[str, float]], after_bytes: int, room: int
) -> None:
    received: list[int | Missed] = []

    async def publish(session: Session) -> None:
        for number in range(100):
            await session.publish("news", number)

    async def make_trouble(world: World, nursery: trio.Nursery) -> None:
        link = world.network.link("client", "server")
        link.inject(trioweb.testing.Conditions(latency=0.05, jitter=0.1))
        link.inject(Reset(after_bytes))
        for kind, seconds in troubles:
            await trio.sleep(seconds)
            match kind:
                case "cut":
                    world.cut()
                case "stall":
                    link.inject(Stall(seconds))
                case "restart":
                    await world.stop()
                    await nursery.start(world.serve)
                case _:
                    world.hub.forget("news")

    async def read(subscription: Subscription) -> None:
        while True:
            received.extend(await some(subscription, 1))
            await trio.sleep(0.01 * (len(received) % 7))

    async def main(world: World, nursery: trio.Nursery) -> None:
        limits = SessionLimits(feed_events=room)
        async with (
            open_session(URL) as other,
            subscribed("news", limits) as (_, subscription),
            trio.open_nursery() as tasks,
        ):
            tasks.start_soon(read, subscription)
            async with trio.open_nursery() as working:
                working.start_soon(publish, other)
                working.start_soon(make_trouble, world, nursery)
            await trio.sleep(300)
            tasks.cancel_scope.cancel()

    in_world(main)
    numbers = [item for item in received if not isinstance(item, Missed)]
    assert numbers == sorted(set(numbers))
    if len(numbers) == len(received):
        assert numbers == list(range(100))
    if all(kind != "forget" for kind, _ in troubles):
        assert received == list(range(100))
