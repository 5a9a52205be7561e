"""Topics: events in order and once, history, authorisation, bounds and notices."""

from __future__ import annotations

import math
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.channels import channel_pair
from tests.toolkit.hubs import subscriber
from trioweb import (
    BrokerFailed,
    CallError,
    HubLimits,
    LinkLimits,
    Overflow,
    Policy,
    Position,
    Retention,
    StoreFailed,
    TopicOptions,
)
from trioweb.brokers.memory import MemoryBroker
from trioweb.stores.memory import MemoryStore
from trioweb.toolkit.attach import attach
from trioweb.toolkit.live import LiveTopic
from trioweb.toolkit.pubsub import Hub
from trioweb.toolkit.rpc import JSON, MSGPACK, serve_peer
from trioweb.toolkit.wire import Call

KEPT = TopicOptions(history=Retention())
HISTORY = {"*": KEPT}


def place(position: Position | dict[str, Any]) -> dict[str, Any]:
    if isinstance(position, Position):
        return {"epoch": position.epoch, "offset": position.offset}
    return position


async def test_what_is_published_reaches_all_who_subscribe_to_the_topic():
    async with Hub() as hub, subscriber(hub) as one, subscriber(hub) as other:
        for topic, who in (("a", one), ("a", other), ("b", other)):
            answer = await who.subscribe(topic)
            assert answer == {"position": None, "recovered": None, "events": []}
        assert await hub.publish("a", 1) is None
        assert await hub.publish("b", {"x": [2]}) is None
        assert await hub.publish("c", 3) is None
        assert await one.hear(1) == [(0, 1)]
        assert await other.hear(2) == [(0, 1), (0, {"x": [2]})]
        assert other.topics == ["a", "b"]


async def test_a_topic_with_history_numbers_its_events():
    async with Hub(HISTORY) as hub, subscriber(hub) as one:
        first = await hub.publish("a", "before")
        assert first is not None
        answer = await one.subscribe()
        assert answer == {"position": place(first), "recovered": None, "events": []}
        second = await hub.publish("a", "after")
        assert second == Position(first.epoch, 2)
        assert await one.hear(1) == [(2, "after")]


async def test_who_comes_back_gets_all_that_came_meanwhile():
    async with Hub(HISTORY) as hub:
        async with subscriber(hub) as one:
            position = (await one.subscribe())["position"]
        for number in range(1, 4):
            await hub.publish("a", number)
        async with subscriber(hub) as one:
            answer = await one.subscribe(position=position)
            assert answer["recovered"] is True
            assert answer["events"] == [{"offset": n, "data": n} for n in (1, 2, 3)]
            assert answer["position"] == {"epoch": position["epoch"], "offset": 3}
            await hub.publish("a", 4)
            assert await one.hear(1) == [(4, 4)]


async def test_subscribing_to_a_silent_topic_and_losing_the_link_recovers_too():
    async with Hub(HISTORY) as hub:
        async with subscriber(hub) as one:
            position = (await one.subscribe())["position"]
            assert position["offset"] == 0
        await hub.publish("a", "the first")
        async with subscriber(hub) as one:
            answer = await one.subscribe(position=position)
            assert answer["recovered"] is True
            assert answer["events"] == [{"offset": 1, "data": "the first"}]


async def test_what_cannot_be_had_as_a_whole_is_not_recovered():
    topics = {"*": TopicOptions(history=Retention(max_entries=3))}
    async with Hub(topics, limits=HubLimits(answer_events=2)) as hub, subscriber(hub) as one:
        for number in range(1, 6):
            now = await hub.publish("a", number)
        assert now is not None
        for offset, limit in ((1, None), (2, None), (3, 1)):
            position = {"epoch": now.epoch, "offset": offset}
            answer = await one.subscribe(position=position, limit=limit)
            assert answer == {"position": place(now), "recovered": False, "events": []}
        position = {"epoch": now.epoch, "offset": 3}
        answer = await one.subscribe(position=position, limit=99)
        assert [event["offset"] for event in answer["events"]] == [4, 5]
        assert hub.statistics().not_recovered == 3
        assert hub.statistics().recovered == 1


async def test_the_latest_alone():
    async with Hub(HISTORY) as hub, subscriber(hub) as one:
        for number in range(1, 4):
            now = await hub.publish("a", number)
        assert now is not None
        for position, recovered in ((None, None), ({"epoch": now.epoch, "offset": 1}, False)):
            answer = await one.subscribe(position=position, recover="latest")
            newest = [{"offset": 3, "data": 3}]
            assert answer == {"position": place(now), "recovered": recovered, "events": newest}


async def test_history_goes_both_ways():
    async with Hub(HISTORY) as hub, subscriber(hub) as one:
        for number in range(1, 6):
            now = await hub.publish("a", number)
        assert now is not None
        newest = await one.peer.call("history", {"topic": "a", "limit": 2})
        assert [event["data"] for event in newest["events"]] == [4, 5]
        assert newest["position"] == place(now)
        assert "recovered" not in newest
        after = {"epoch": now.epoch, "offset": 1}
        page = await one.peer.call("history", {"topic": "a", "limit": 2, "position": after})
        assert [event["data"] for event in page["events"]] == [2, 3]
        assert page["recovered"] is True
        elsewhere = {"epoch": "another", "offset": 1}
        page = await one.peer.call("history", {"topic": "a", "limit": 2, "position": elsewhere})
        assert page["recovered"] is False


async def test_unsubscribed_is_unsubscribed_and_the_topic_vanishes():
    async with Hub(HISTORY) as hub, subscriber(hub) as one:
        await one.subscribe()
        assert hub.statistics().topics == hub.statistics().subscriptions == 1
        for _ in range(2):
            assert await one.peer.call("unsubscribe", {"topic": "a"}) is None
            assert hub.statistics().topics == hub.statistics().subscriptions == 0
        await hub.publish("a", 1)
        await wait_all_tasks_blocked()
        assert one.heard == []


async def test_a_link_that_ends_leaves_nothing():
    async with Hub(HISTORY) as hub:
        async with subscriber(hub) as one:
            for topic in "abc":
                await one.subscribe(topic)
            assert hub.statistics().subscriptions == 3
        assert hub.statistics().topics == hub.statistics().subscriptions == 0
        assert not hub._node._links


async def test_a_second_subscription_takes_the_place_of_the_first():
    async with Hub(HISTORY) as hub, subscriber(hub) as one:
        position = (await one.subscribe())["position"]
        await hub.publish("a", 1)
        answer = await one.subscribe(position=position)
        assert [event["data"] for event in answer["events"]] == [1]
        await hub.publish("a", 2)
        assert await one.hear(2) == [(1, 1), (2, 2)]
        await wait_all_tasks_blocked()
        assert len(one.heard) == 2
        assert hub.statistics().subscriptions == 1


class Gated(MemoryStore):
    """Its reads and appends are held until a test lets them go on."""

    def __init__(self):
        super().__init__()
        self.read_gate, self.append_gate = trio.Event(), trio.Event()
        self.read_gate.set()
        self.append_gate.set()
        self.before = True

    async def read(self, *args, **options):
        if self.before:
            await self.read_gate.wait()
            return await super().read(*args, **options)
        page = await super().read(*args, **options)
        await self.read_gate.wait()
        return page

    async def append(self, *args, **options):
        if self.before:
            await self.append_gate.wait()
            return await super().append(*args, **options)
        position = await super().append(*args, **options)
        await self.append_gate.wait()
        return position


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("others", [0, 1])
@pytest.mark.parametrize("come_back", [True, False])
async def test_what_is_published_during_the_answer_comes_once(before, others, come_back):
    """The race between history and live: events before, during and after the read."""
    store = Gated()
    async with Hub(HISTORY, store=store) as hub, subscriber(hub) as one, subscriber(hub) as other:
        start = await hub.publish("a", 1)
        assert start is not None
        if others:
            await other.subscribe()
        store.before = before
        store.read_gate = trio.Event()
        answers = []

        async def subscribe():
            position = place(start) if come_back else None
            answers.append(await one.subscribe(position=position))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(subscribe)
            await wait_all_tasks_blocked()
            for number in (2, 3):
                await hub.publish("a", number)
            await wait_all_tasks_blocked()
            assert one.heard == []  # the answer comes first
            store.read_gate.set()
        await hub.publish("a", 4)
        (answer,) = answers
        offset = answer["position"]["offset"]
        assert answer["recovered"] is (True if come_back else None)
        begin = start.offset if come_back else offset
        got = [event["offset"] for event in answer["events"]]
        await one.hear(4 - offset)
        got += [number for number, _ in one.heard]
        assert got == list(range(begin + 1, 5))
        assert offset == (3 if before else 1)
        if others:
            assert await other.hear(3) == [(2, 2), (3, 3), (4, 4)]


async def test_an_append_that_others_overtake_is_waited_for():
    store = Gated()
    async with Hub(HISTORY, store=store) as hub, subscriber(hub) as one:
        await one.subscribe()
        store.before = False
        held = store.append_gate = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hub.publish, "a", 1)
            await wait_all_tasks_blocked()
            store.append_gate = trio.Event()
            store.append_gate.set()
            await hub.publish("a", 2)
            await wait_all_tasks_blocked()
            assert one.heard == []
            held.set()
        assert await one.hear(2) == [(1, 1), (2, 2)]
        assert hub.statistics().reread == 0


async def test_who_subscribes_while_an_append_is_under_way_gets_it_once():
    store = Gated()
    async with Hub(HISTORY, store=store) as hub, subscriber(hub) as one, subscriber(hub) as other:
        await other.subscribe()
        store.before = False
        store.append_gate = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hub.publish, "a", 1)
            await wait_all_tasks_blocked()
            answer = await one.subscribe()  # its answer is ahead of what was sent here
            assert answer["position"]["offset"] == 1
            store.append_gate.set()
        await hub.publish("a", 2)
        assert await other.hear(2) == [(1, 1), (2, 2)]
        assert await one.hear(1) == [(2, 2)]


async def test_who_is_too_slow_for_a_notice_is_gone_for_good(autojump_clock):
    """Somebody who waits for a number is told of a gap, and closed by that."""
    here, _ = channel_pair(0)
    async with attach(here, limits=LinkLimits(messages=1)) as link:
        live = LiveTopic("a", KEPT, HubLimits())
        ahead = live.begin(link, JSON)
        assert live.follow(live.begin(link, MSGPACK), Position("e", 5))
        assert live.follow(ahead, Position("e", 7))
        link.watch(lambda _: live.leave(ahead))
        live.join(ahead)
        link.send_nowait("one that stays", Policy(Overflow.WAIT))
        await wait_all_tasks_blocked()
        link.send_nowait("and another", Policy(Overflow.WAIT))
        live.skip(9)
        assert link.ended
        assert ahead not in live.subscriptions


class Doubtful(MemoryStore):
    """An append that fails may have happened."""

    happens = True
    fails = False

    async def append(self, *args, **options):
        if self.fails and not self.happens:
            raise RuntimeError("no answer")
        position = await super().append(*args, **options)
        if self.fails:
            raise RuntimeError("no answer")
        return position


@pytest.mark.parametrize("happens", [True, False])
async def test_an_append_in_doubt_is_looked_for_in_the_store(happens):
    store = Doubtful()
    store.happens = happens
    async with Hub(HISTORY, store=store) as hub, subscriber(hub) as one:
        await one.subscribe()
        await hub.publish("a", 1)
        store.fails = True
        with pytest.raises(RuntimeError):
            await hub.publish("a", 2)
        store.fails = False
        await wait_all_tasks_blocked()
        assert await one.hear(1 + happens) == [(1, 1), (2, 2)][: 1 + happens]
        assert hub.statistics().reread == 1
        await hub.publish("a", 3)
        assert [data for _, data in await one.hear(2 + happens)] == [1, *[2] * happens, 3]


async def test_a_topic_that_began_anew_ends_the_subscriptions_of_the_old_one():
    store = MemoryStore()
    async with Hub(HISTORY, store=store) as hub, subscriber(hub) as one:
        old = (await one.subscribe())["position"]
        await hub.publish("a", 1)
        await store.remove("a")
        await hub.publish("a", "one")
        heard = await one.hear(2)
        assert heard[0] == (1, 1)
        assert heard[1][0] == "unsubscribed"
        assert (heard[1][1]["topic"], heard[1][1]["code"]) == ("a", "epoch")
        answer = await one.subscribe(position={**old, "offset": 1})
        assert answer["recovered"] is False
        assert answer["position"]["epoch"] != old["epoch"]
        await hub.publish("a", "two")
        assert (await one.hear(3))[2] == (2, "two")


async def test_removing_a_topic_tells_its_subscribers():
    async with Hub(HISTORY) as hub, subscriber(hub) as one:
        await one.subscribe()
        await hub.publish("a", 1)
        await hub.remove("a")
        assert (await one.hear(2))[1][1]["code"] == "removed"
        page = await one.peer.call("history", {"topic": "a", "limit": 2})
        assert (page["position"]["offset"], page.get("events", [])) == (0, [])


async def test_the_application_ends_a_subscription():
    async with Hub() as hub, subscriber(hub, principal="eve") as one:
        await one.subscribe()
        (link,) = hub._node._links
        assert link.principal == "eve"
        peer: Any = _PeerOf(link)
        assert hub.unsubscribe(peer, "a", "forbidden", "you were thrown out")
        assert not hub.unsubscribe(peer, "a")
        notice = {"topic": "a", "code": "forbidden", "message": "you were thrown out"}
        assert await one.hear(1) == [("unsubscribed", notice)]
        assert hub.statistics().topics == 0


@pytest.mark.parametrize("before", [True, False])
async def test_who_is_expelled_while_its_answer_is_made_does_not_get_in(before):
    store = Gated()
    async with Hub(HISTORY, store=store) as hub, subscriber(hub) as one:
        start = await hub.publish("a", 1)
        assert start is not None
        await hub.publish("a", "secret")
        store.before, store.read_gate = before, trio.Event()
        async with trio.open_nursery() as nursery:

            async def subscribe():
                error = await refused(one.subscribe(position=place(start)))
                assert (error.code, error.message) == ("forbidden", "out")

            nursery.start_soon(subscribe)
            await wait_all_tasks_blocked()
            (link,) = hub._node._links
            peer: Any = _PeerOf(link)
            assert hub.unsubscribe(peer, "a", "forbidden", "out")
            store.read_gate.set()
        await hub.publish("a", 3)
        await wait_all_tasks_blocked()
        assert one.heard == []
        assert hub.statistics().subscriptions == 0


@pytest.mark.parametrize("history", [True, False])
@pytest.mark.parametrize("method", ["subscribe", "unsubscribe"])
async def test_an_answer_never_says_that_a_subscription_is_there_which_is_not(
    method, history, monkeypatch
):
    class Deaf(MemoryBroker):
        """One whose listeners take their time until they hear a topic."""

        @asynccontextmanager
        async def listen(self):
            async with super().listen() as listener:
                add = listener.add

                async def add_slowly(topic):
                    await store.read_gate.wait()
                    await add(topic)

                monkeypatch.setattr(listener, "add", add_slowly)
                yield listener

    store = Gated()
    topics = HISTORY if history else None
    async with Hub(topics, store=store, broker=Deaf()) as hub, subscriber(hub) as one:
        store.read_gate = trio.Event()
        ended = []
        async with trio.open_nursery() as nursery:

            async def subscribe():
                ended.append((await refused(one.subscribe())).code)

            nursery.start_soon(subscribe)
            await wait_all_tasks_blocked()
            nursery.start_soon(one.peer.call, method, {"topic": "a"})
            await wait_all_tasks_blocked()
            store.read_gate.set()
        assert ended == ["cancelled"]
        await hub.publish("a", 1)
        await wait_all_tasks_blocked()
        assert one.events == ([1] if method == "subscribe" else [])


class _PeerOf:
    def __init__(self, link):
        self.link = link


# --- who may ---------------------------------------------------------------------------------


async def refused(call) -> CallError:
    with pytest.raises(CallError) as caught:
        await call
    return caught.value


async def test_peers_may_not_publish_unless_somebody_says_so():
    async with Hub() as hub, subscriber(hub) as one:
        error = await refused(one.peer.call("publish", {"topic": "a", "data": 1}))
        assert error.code == "forbidden"


@pytest.mark.parametrize("is_async", [True, False])
async def test_each_action_on_each_topic_is_asked_for(is_async):
    asked = []

    def decide(peer, action, topic):
        asked.append((peer.principal, action, topic))
        if topic == "own words":
            raise CallError("rate-limited", "later")
        return action in topic

    async def decide_slowly(peer, action, topic):
        await trio.lowlevel.checkpoint()
        return decide(peer, action, topic)

    authorise = decide_slowly if is_async else decide
    async with Hub(HISTORY, authorise=authorise) as hub, subscriber(hub, principal="ann") as one:
        for action, params in (
            ("subscribe", {}),
            ("publish", {"data": 1}),
            ("history", {"limit": 1}),
        ):
            await one.peer.call(action, {"topic": f"may {action}", **params})
            error = await refused(one.peer.call(action, {"topic": "a", **params}))
            assert error.code == "forbidden"
            error = await refused(one.peer.call(action, {"topic": "own words", **params}))
            assert error.code == "rate-limited"
            assert asked == [("ann", action, one) for one in (f"may {action}", "a", "own words")]
            asked.clear()
        assert hub.statistics().subscriptions == 1


async def test_a_publisher_hears_itself_and_gets_the_position():
    async with (
        Hub({"a": KEPT, "b": TopicOptions()}, authorise=lambda *_: True) as hub,
        subscriber(hub) as one,
    ):
        position = (await one.subscribe())["position"]
        answer = await one.peer.call("publish", {"topic": "a", "data": "x"})
        assert answer == {**position, "offset": 1}
        assert await one.hear(1) == [(1, "x")]
        assert await one.peer.call("publish", {"topic": "b", "data": "x"}) is None


async def test_topics_are_what_the_hub_was_told_and_the_longest_beginning_counts():
    live, kept, short = TopicOptions(), KEPT, TopicOptions(history=Retention(max_entries=1))
    hub = Hub({"chat:*": kept, "chat:loud:*": live, "news": short, "n*": live})
    assert hub.options("chat:") is kept
    assert hub.options("chat:x") is kept
    assert hub.options("chat:loud:x") is live
    assert hub.options("news") is short
    assert hub.options("newspaper") is live
    with pytest.raises(CallError) as caught:
        hub.options("elsewhere")
    assert caught.value.code == "not-found"
    async with hub, subscriber(hub) as one:
        error = await refused(one.subscribe("elsewhere"))
        assert error.code == "not-found"
        error = await refused(one.peer.call("history", {"topic": "chat:loud:x", "limit": 1}))
        assert error.code == "not-found"
        with pytest.raises(CallError):
            await hub.publish("elsewhere", 1)


# --- bounds ----------------------------------------------------------------------------------


@pytest.mark.parametrize("topic", ["", "x" * 201, "\u00e4" * 101])
async def test_names_have_a_bound(topic):
    async with Hub() as hub, subscriber(hub) as one:
        error = await refused(one.subscribe(topic))
        assert (error.code, error.path) == ("invalid", "$.params.topic")


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("subscribe", {"topic": 1}),
        ("subscribe", {"topic": "a", "position": 1}),
        ("subscribe", {"topic": "a", "position": {"epoch": "x", "offset": -1}}),
        ("subscribe", {"topic": "a", "position": {"epoch": "x", "offset": 2**53}}),
        ("subscribe", {"topic": "a", "position": {"epoch": "x" * 101, "offset": 1}}),
        ("subscribe", {"topic": "a", "recover": "some"}),
        ("subscribe", {"topic": "a", "limit": -1}),
        ("history", {"topic": "a"}),
        ("history", {"topic": "a", "limit": 0}),
        ("publish", {"topic": "a"}),
    ],
)
async def test_params_are_checked(method, params):
    async with Hub(HISTORY, authorise=lambda *_: True) as hub, subscriber(hub) as one:
        error = await refused(one.peer.call(method, params))
        assert error.code == "invalid"
        assert error.path is not None


async def test_subscriptions_have_a_bound():
    async with Hub(limits=HubLimits(subscriptions=2)) as hub, subscriber(hub) as one:
        await one.subscribe("a")
        await one.subscribe("b")
        assert (await refused(one.subscribe("c"))).code == "limit"
        await one.subscribe("b")  # is no third one
        await one.peer.call("unsubscribe", {"topic": "a"})
        await one.subscribe("c")


async def test_publications_have_a_bound_and_must_be_sayable():
    limits = HubLimits(publication=100)
    async with Hub(limits=limits, authorise=lambda *_: True) as hub, subscriber(hub) as one:
        await hub.publish("a", "x" * 98)
        with pytest.raises(ValueError, match=r"HubLimits\.publication"):
            await hub.publish("a", "x" * 99)
        error = await refused(one.peer.call("publish", {"topic": "a", "data": "x" * 99}))
        assert (error.code, error.path) == ("invalid", "$.params.data")
        for value in (object(), 2**70, {(1, 2): 3}):
            with pytest.raises(TypeError):
                await hub.publish("a", value)


@pytest.mark.parametrize("opening", ["[", '{"a":'])
async def test_what_is_nested_too_deep_to_be_said_everywhere_is_refused(opening):
    closing = "]" if opening == "[" else "}"
    store, broker = MemoryStore(), MemoryBroker()
    answers = set()
    for depth in range(100, 1000, 10):
        data = opening * depth + "1" + closing * depth
        call = JSON.encode(Call(1, "publish", {"topic": "a", "data": "?"}))
        assert isinstance(call, str)
        async with (
            Hub(HISTORY, store=store, broker=broker, authorise=lambda *_: True) as here,
            Hub(HISTORY, store=store, broker=broker) as there,
            subscriber(there) as one,
            trio.open_nursery() as nursery,
        ):
            ours, theirs = channel_pair()
            nursery.start_soon(serve_peer, theirs, here.methods)
            await one.subscribe()
            await ours.send(call.replace('"?"', data))
            answer = msgspec.json.decode(await ours.receive())
            await one.peer.call("history", {"topic": "a", "limit": 1000})
            await wait_all_tasks_blocked()
            assert len(one.heard) == (answer["type"] == "result")
            answers.add(answer.get("code"))
            await ours.aclose()
    assert answers == {None, "invalid"}


async def test_a_large_recovery_is_told_not_to_be_one():
    async with (
        Hub(HISTORY, limits=HubLimits(answer_bytes=100)) as hub,
        subscriber(hub) as one,
    ):
        position = (await one.subscribe())["position"]
        for _ in range(5):
            await hub.publish("a", "x" * 30)
        answer = await one.subscribe(position=position)
        assert (answer["recovered"], answer["events"]) == (False, [])
        page = await one.peer.call("history", {"topic": "a", "limit": 9, "position": position})
        assert [event["offset"] for event in page["events"]] == [1, 2, 3]


# --- slow receivers --------------------------------------------------------------------------


async def test_who_is_too_slow_is_closed_and_misses_nothing_when_it_comes_back(autojump_clock):
    async with Hub(HISTORY) as hub, subscriber(hub) as quick:
        await quick.subscribe()
        async with subscriber(hub, size=0, eager=False) as slow:
            position = (await slow.subscribe())["position"]
            for number in range(600):
                await hub.publish("a", number)
            await slow.peer.wait_ended()
            assert len(slow.heard) < 600
        await quick.hear(600)
        async with subscriber(hub) as again:
            answer = await again.subscribe(position=position)
            assert [event["data"] for event in answer["events"]] == list(range(600))


@pytest.mark.parametrize("overflow", [Overflow.DROP_OLDEST, Overflow.DROP_NEWEST])
@pytest.mark.parametrize("history", [None, Retention()])
async def test_who_is_too_slow_hears_of_the_gap_with_its_count(overflow, history):
    topics = {"*": TopicOptions(history=history, overflow=overflow)}
    async with Hub(topics) as hub, subscriber(hub, size=1) as slow:
        await slow.subscribe()
        # Without a turn of the scheduler nobody can read.
        for number in range(50):
            await hub.publish("a", number)
        await hub.publish("a", "x")
        for number in range(1000):
            await hub.publish("a", number)
        await wait_all_tasks_blocked()
        missed = sum(params["missed"] for name, params in slow.heard if name == "gap")
        assert missed > 0
        assert len(slow.events) + missed == 1051
        assert {params["topic"] for name, params in slow.heard if name == "gap"} == {"a"}
        assert slow.peer.ended is False


@pytest.mark.parametrize("overflow", [Overflow.DROP_OLDEST, Overflow.DROP_NEWEST])
async def test_presence_that_is_dropped_is_not_counted_as_events(overflow):
    topics = {"*": TopicOptions(history=Retention(), overflow=overflow, presence=True)}
    async with Hub(topics) as hub, subscriber(hub, size=1) as slow:
        await slow.subscribe()
        for number in range(1000):
            hub._presence.enter("a", number)
        await wait_all_tasks_blocked()
        await hub.publish("a", "x")
        await wait_all_tasks_blocked()
        gaps = [params for name, params in slow.heard if name == "gap"]
        assert gaps
        assert {params["missed"] for params in gaps} == {0}
        assert slow.events == ["x"]


async def test_the_newest_alone_is_kept_for_who_is_slow():
    topics = {"*": TopicOptions(history=Retention(), overflow=Overflow.COALESCE)}
    async with Hub(topics) as hub, subscriber(hub, size=1) as slow:
        await slow.subscribe()
        for number in range(60):
            await hub.publish("a", number)
        await wait_all_tasks_blocked()
        assert slow.events[-1] == 59
        assert len(slow.events) < 60
        assert all(isinstance(offset, int) for offset, _ in slow.heard)


# --- both formats ----------------------------------------------------------------------------


async def test_each_format_gets_the_same_and_is_encoded_once(monkeypatch):
    from trioweb.toolkit import publication

    unpacked = []
    unpack = publication.unpack

    def counted(packed):
        unpacked.append(packed)
        return unpack(packed)

    monkeypatch.setattr(publication, "unpack", counted)
    async with (
        Hub(HISTORY) as hub,
        subscriber(hub, format_=JSON) as a,
        subscriber(hub, format_=MSGPACK) as b,
        subscriber(hub, format_=MSGPACK) as c,
    ):
        for one in (a, b, c):
            await one.subscribe()
        data = {"text": "ä", "list": [1, 2.5, None, True], "bytes": b"\x00\xff"}
        await hub.publish("a", data)
        assert (await b.hear(1))[0] == (await c.hear(1))[0] == (1, data)
        assert (await a.hear(1))[0] == (1, {**data, "bytes": "AP8="})
        assert len(unpacked) == 2


async def test_without_a_bound_on_age_and_with_many_subscribers_state_is_gone_at_the_end():
    topics = {"*": TopicOptions(history=Retention(max_age=math.inf))}
    async with Hub(topics) as hub:
        for _ in range(3):
            async with subscriber(hub) as one, subscriber(hub) as other:
                await one.subscribe()
                await other.subscribe()
                await hub.publish("a", 1)
        assert hub.statistics().topics == 0
        assert not hub._node._topics


# --- presence --------------------------------------------------------------------------------

SEEN = {"*": TopicOptions(presence=True)}


async def test_who_is_there_hears_of_who_comes_and_goes(autojump_clock):
    async with Hub(SEEN, grace=2) as hub, subscriber(hub, principal="ann") as ann:
        await ann.subscribe()
        assert await ann.hear(1) == [("join", {"topic": "a", "user": "ann"})]
        async with subscriber(hub, principal="bob") as bob, subscriber(hub, principal="bob") as two:
            await bob.subscribe()
            await two.subscribe()
            await ann.hear(2)
            users = [{"user": "ann", "connections": 1}, {"user": "bob", "connections": 2}]
            found = await ann.peer.call("presence", {"topic": "a"})
            assert found == {"users": users, "count": 2}
        async with subscriber(hub, principal="bob") as bob:  # a quick return is none
            await bob.subscribe()
            await trio.sleep(5)
        await trio.sleep(1)
        assert len(ann.heard) == 2
        await trio.sleep(2)
        assert ann.heard[1:] == [
            ("join", {"topic": "a", "user": "bob"}),
            ("leave", {"topic": "a", "user": "bob"}),
        ]


async def test_who_unsubscribes_or_is_unsubscribed_leaves_at_once(autojump_clock):
    async with Hub(SEEN) as hub, subscriber(hub, principal="ann") as ann:
        await ann.subscribe()
        async with subscriber(hub, principal="bob") as bob, subscriber(hub, principal="bob") as two:
            await bob.subscribe()
            await two.subscribe()
            await bob.peer.call("unsubscribe", {"topic": "a"})
            await trio.sleep(1)
            assert len(ann.heard) == 2  # there is another page of his
            await two.subscribe()  # anew, which is no leave
            await two.peer.call("unsubscribe", {"topic": "a"})
            assert await ann.hear(3)
            assert ann.heard[2] == ("leave", {"topic": "a", "user": "bob"})
            await two.subscribe()
            await ann.hear(4)
            (link,) = (one for one in hub._node._links if one.principal == "bob")
            expelled: Any = _PeerOf(link)
            assert hub.unsubscribe(expelled, "a")
            assert (await ann.hear(5))[4] == ("leave", {"topic": "a", "user": "bob"})


async def test_whoever_is_identified_is_seen_with_what_others_are_told(autojump_clock):
    def identify(peer):
        return (peer.principal["name"], {"colour": "red"}) if peer.principal else (None, None)

    async with (
        Hub(SEEN, identify=identify) as hub,
        subscriber(hub, principal={"name": "ann", "password": "x"}) as ann,
        subscriber(hub) as nobody,
    ):
        await nobody.subscribe()
        await ann.subscribe()
        info = {"topic": "a", "user": "ann", "info": {"colour": "red"}}
        assert await nobody.hear(1) == [("join", info)]
        found = await ann.peer.call("presence", {"topic": "a"})
        assert found["users"] == [{"user": "ann", "info": {"colour": "red"}, "connections": 1}]


async def test_a_topic_without_presence_tells_nothing():
    async with Hub() as hub, subscriber(hub, principal="ann") as one:
        await one.subscribe()
        assert (await refused(one.peer.call("presence", {"topic": "a"}))).code == "not-found"
        await wait_all_tasks_blocked()
        assert one.heard == []


# --- many nodes ------------------------------------------------------------------------------


async def test_two_hubs_are_one_and_nobody_hears_anything_twice(autojump_clock):
    topics = {"live": TopicOptions(), "kept": KEPT}
    store, broker = MemoryStore(), MemoryBroker()
    async with (
        Hub(topics, store=store, broker=broker) as here,
        Hub(topics, store=store, broker=broker) as there,
        subscriber(here) as one,
        subscriber(there) as other,
    ):
        for topic in topics:
            await one.subscribe(topic)
            await other.subscribe(topic)
        for number, hub in enumerate((here, there, here, there), 1):
            for topic in topics:
                await hub.publish(topic, number)
            await trio.sleep(1)
        expected = [event for number in (1, 2, 3, 4) for event in ((0, number), (number, number))]
        for who in (one, other):
            assert who.heard == expected
        assert here.statistics().reread == there.statistics().reread == 0


async def test_what_the_broker_lost_is_read_from_the_store(autojump_clock):
    store, broker = MemoryStore(), MemoryBroker()
    async with (
        Hub(HISTORY, store=store, broker=broker) as here,
        Hub(HISTORY, store=store, broker=broker) as there,
        subscriber(there) as one,
    ):
        await one.subscribe()
        await here.publish("a", 1)
        broker.lose()
        await trio.sleep(1)
        assert one.heard == [(1, 1)]
        assert there.statistics().reread == 1


async def test_a_gap_in_a_topic_without_history_is_told_without_a_count(autojump_clock):
    broker = MemoryBroker()
    async with Hub(broker=broker) as here, Hub(broker=broker) as there, subscriber(there) as one:
        await one.subscribe()
        await here.publish("a", 1)
        broker.lose()
        await trio.sleep(1)
        assert one.heard == [("gap", {"topic": "a", "missed": 0})]


class Refusing(MemoryBroker):
    refuses = False

    async def publish(self, topic, data, /):
        if self.refuses:
            raise BrokerFailed("not now")
        await super().publish(topic, data)


async def test_what_the_broker_does_not_take_is_announced_when_it_does(autojump_clock):
    store, broker = MemoryStore(), Refusing()
    topics = {"live": TopicOptions(), "*": KEPT}
    async with (
        Hub(topics, store=store, broker=broker) as here,
        Hub(topics, store=store, broker=broker) as there,
        subscriber(there) as one,
    ):
        await one.subscribe("a")
        await one.subscribe("b")
        broker.refuses = True
        for number in (1, 2):
            for topic in "ab":
                assert await here.publish(topic, number) is not None
        with pytest.raises(BrokerFailed):
            await here.publish("live", 1)
        await trio.sleep(10)
        assert one.heard == []
        broker.refuses = False
        await trio.sleep(2)
        assert sorted(one.heard) == [(1, 1), (1, 1), (2, 2), (2, 2)]
        assert here.statistics().postponed == 4
        assert here.statistics().given_up == 0


@pytest.mark.parametrize("happens", [True, False])
async def test_the_other_nodes_hear_of_an_append_that_was_cancelled(happens, autojump_clock):
    class Failing(Gated):
        fails = 2

        async def read(self, *args, **options):
            if hold and options["limit"] == 0 and self.fails:
                self.fails -= 1
                raise StoreFailed("not now")
            return await super().read(*args, **options)

    hold = False
    store, broker = Failing(), MemoryBroker()
    async with (
        Hub(HISTORY, store=store, broker=broker) as here,
        Hub(HISTORY, store=store, broker=broker) as there,
        subscriber(there) as one,
    ):
        await one.subscribe()
        hold = True
        store.before, store.append_gate = not happens, trio.Event()
        with trio.move_on_after(1):
            await here.publish("a", 1)
        await trio.sleep(10)
        assert one.heard == ([(1, 1)] if happens else [])
        assert store.fails == 0
        assert not here._node._doubtful


class Holding(MemoryBroker):
    """What is to be published waits until a test says what becomes of it."""

    def __init__(self):
        super().__init__()
        self.gates: list[trio.Event] = []
        self.holds = self.delivers = False

    async def publish(self, topic, data, /):
        if self.holds:
            gate = trio.Event()
            self.gates.append(gate)
            await gate.wait()
            if self.delivers:
                await super().publish(topic, data)
            raise BrokerFailed("perhaps")
        await super().publish(topic, data)


async def test_a_publisher_that_is_cancelled_at_the_broker_has_published(autojump_clock):
    store, broker = MemoryStore(), Holding()
    async with (
        Hub(HISTORY, store=store, broker=broker) as here,
        Hub(HISTORY, store=store, broker=broker) as there,
        subscriber(there) as one,
    ):
        await one.subscribe()
        broker.holds = True
        with trio.move_on_after(1) as scope:
            await here.publish("a", 1)
        assert scope.cancelled_caught
        assert (await store.read("a", limit=1, max_bytes=1)).position.offset == 1
        broker.holds = False
        assert await one.hear(1) == [(1, 1)]


async def test_the_newest_number_that_the_broker_did_not_take_is_announced(autojump_clock):
    store, broker = MemoryStore(), Holding()
    async with (
        Hub(HISTORY, store=store, broker=broker) as here,
        Hub(HISTORY, store=store, broker=broker) as there,
        subscriber(there) as one,
        trio.open_nursery() as nursery,
    ):
        await one.subscribe()
        broker.holds = True
        for number in (1, 2):
            nursery.start_soon(here.publish, "a", number)
            await wait_all_tasks_blocked()
        first, second = broker.gates
        second.set()
        await wait_all_tasks_blocked()
        broker.delivers = True
        first.set()
        await wait_all_tasks_blocked()
        broker.holds = broker.delivers = False
        for gate in broker.gates:
            gate.set()
        assert await one.hear(2) == [(1, 1), (2, 2)]


async def test_who_comes_and_goes_while_the_broker_hangs_leaves_no_tasks(monkeypatch):
    answers = trio.Event()

    class Hung(MemoryBroker):
        @asynccontextmanager
        async def listen(self):
            async with super().listen() as listener:
                for name in ("add", "remove"):
                    monkeypatch.setattr(listener, name, self.slow(getattr(listener, name)))
                yield listener

        def slow(self, call):
            async def wait(topic):
                await answers.wait()
                await call(topic)

            return wait

    broker = Hung()
    async with Hub(broker=broker) as hub, subscriber(hub) as one:
        nursery = hub._node._nursery
        assert nursery is not None
        before = len(nursery.child_tasks)
        for number in range(50):
            for topic in ("a", f"a{number}"):
                async with trio.open_nursery() as others:
                    others.start_soon(one.subscribe, topic)
                    await wait_all_tasks_blocked()
                    others.cancel_scope.cancel()
                await wait_all_tasks_blocked()
        assert len(nursery.child_tasks) <= before + 2
        answers.set()
        await one.subscribe("a")
        await wait_all_tasks_blocked()
        (ear,) = broker._ears
        assert ear.topics == {"a"}
        async with Hub(broker=broker) as other:
            await other.publish("a", 1)
        assert await one.hear(1) == [(0, 1)]


async def test_a_topic_that_is_forgotten_and_wanted_again_is_heard(autojump_clock):
    store, broker = MemoryStore(), MemoryBroker()
    async with (
        Hub(HISTORY, store=store, broker=broker) as here,
        Hub(HISTORY, store=store, broker=broker) as there,
    ):
        for number in range(5):
            async with subscriber(there) as one:
                await one.subscribe()
                await one.peer.call("unsubscribe", {"topic": "a"})
                await one.subscribe()
                await trio.sleep(1)
                await here.publish("a", number)
                await trio.sleep(1)
                assert one.events == [number]
        await trio.sleep(1)
        assert not any(ear.topics for ear in broker._ears)
        assert there.statistics().reread == 0


async def test_what_is_not_ours_on_the_broker_is_passed_over(autojump_clock, caplog):
    store, broker = MemoryStore(), MemoryBroker()
    async with Hub(HISTORY, store=store, broker=broker) as hub, subscriber(hub) as one:
        await one.subscribe()
        await broker.publish("a", b"\xc1 rubbish")
        await trio.sleep(1)
        await hub.publish("a", 1)
        assert await one.hear(1) == [(1, 1)]
    assert "not ours" in caplog.text


def test_hubs_with_a_broker_need_a_store_that_they_share():
    with pytest.raises(ValueError, match="one store for all"):
        Hub(HISTORY, broker=MemoryBroker())


async def test_a_hub_that_has_ended_still_answers_and_shows_nobody():
    async with Hub(SEEN) as hub:
        pass
    async with subscriber(hub, principal="ann") as one:
        await one.subscribe()
        assert await one.peer.call("presence", {"topic": "a"}) == {"users": [], "count": 0}


class Unreachable(MemoryBroker):
    def listen(self):
        raise BrokerFailed("a wrong password")


async def test_a_broker_that_can_never_work_ends_the_hub_bare():
    with pytest.raises(BrokerFailed, match="a wrong password"):
        async with Hub(broker=Unreachable()):
            pass


async def test_a_store_that_fails_for_a_while_is_asked_again(autojump_clock, caplog):
    class Failing(MemoryStore):
        fails = False

        async def read(self, *args, **options):
            if self.fails:
                raise StoreFailed("no database")
            return await super().read(*args, **options)

    store, broker = Failing(), MemoryBroker()
    async with (
        Hub(HISTORY, store=store, broker=broker) as here,
        Hub(HISTORY, store=store, broker=broker) as there,
        subscriber(there) as one,
    ):
        await one.subscribe()
        store.fails = True
        await here.publish("a", 1)
        broker.lose()
        await trio.sleep(5)
        assert one.heard == []
        store.fails = False
        await trio.sleep(2)
        assert one.heard == [(1, 1)]
    assert "no database" in caplog.text


async def test_what_nobody_has_any_more_is_told_as_a_gap(autojump_clock):
    topics = {"*": TopicOptions(history=Retention(max_entries=2))}
    store, broker = MemoryStore(), MemoryBroker(max_arrivals=1)
    async with (
        Hub(topics, store=store, broker=broker) as here,
        Hub(topics, store=store, broker=broker) as there,
        subscriber(there) as one,
    ):
        await one.subscribe()
        for number in range(1, 11):
            await here.publish("a", number)
        await trio.sleep(1)
        assert one.heard == [(1, 1), ("gap", {"topic": "a", "missed": 7}), (9, 9), (10, 10)]
        assert there.statistics().lost == 7
