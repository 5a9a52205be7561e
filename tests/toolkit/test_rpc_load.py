"""Calls by the thousand, peers that call each other at full load, and peers that mean harm."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress
from functools import partial
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.helpers import guard, tasks
from tests.toolkit.peers import channels, on_every_kind, open_peers, open_stranger
from trioweb import CallError, CallLimits, CallLost, CallTimeout
from trioweb.testing import (
    Conditions,
    HalfOpen,
    Reset,
    Stall,
    at_every_step,
    cancelled_at,
    no_orphans,
)
from trioweb.toolkit.rpc import JSON, Methods, Once, Peer, open_peer, serve_peer
from trioweb.toolkit.wire import Call, Cancel, Error, Event, Item, More, Notify, Result


class Watch:
    """Methods that know how many of them run, and have run at most."""

    def __init__(self) -> None:
        self.running = self.most = 0
        self.methods = methods = Methods()

        @methods.method
        async def work(peer: Peer, number: int, seconds: float = 1) -> int:
            self.running += 1
            self.most = max(self.most, self.running)
            try:
                await trio.sleep(seconds)
                return number
            finally:
                self.running -= 1

        @methods.method
        async def relay(peer: Peer, depth: int) -> int:
            self.running += 1
            self.most = max(self.most, self.running)
            try:
                await trio.lowlevel.checkpoint()
                return depth and await peer.call("relay", {"depth": depth - 1}, result=int) + 1
            finally:
                self.running -= 1

        @methods.method
        async def numbers(peer: Peer, to: int) -> AsyncIterator[int]:
            for number in range(to):
                yield number

        @methods.method
        async def text(peer: Peer, size: int = 2**16) -> str:
            await trio.lowlevel.checkpoint()
            return "x" * size

        methods("text_at_once")(lambda peer, size=2**16: "x" * size)
        methods("heard")(lambda peer: None)


@on_every_kind
async def test_ten_thousand_calls_at_once_keep_within_the_bounds(kind, autojump_clock):
    watch = Watch()
    results: set[int] = set()
    async with open_peers(kind, watch.methods) as (caller, callee, _):
        idle = len(tasks())

        async def call(number: int) -> None:
            results.add(await caller.call("work", {"number": number}, result=int))
            assert caller.statistics().outgoing <= 256
            statistics = callee.link.statistics()
            assert statistics.backlog_messages <= 256
            assert statistics.backlog_bytes <= 2**18

        async with trio.open_nursery() as nursery:
            for number in range(10_000):
                nursery.start_soon(call, number)
        assert results == set(range(10_000))
        assert watch.most == 256
        assert watch.running == 0
        statistics = callee.statistics()
        assert (statistics.taken, statistics.refused, statistics.incoming) == (10_000, 0, 0)
        assert len(tasks()) <= idle + 2  # the writers of the links


@on_every_kind
async def test_thousands_of_calls_that_are_cancelled_leave_nothing(kind, autojump_clock):
    watch = Watch()
    async with open_peers(kind, watch.methods) as (caller, callee, _):
        idle = len(tasks())
        with trio.move_on_after(5.5):
            async with trio.open_nursery() as nursery:
                for number in range(2000):
                    params = {"number": number, "seconds": number % 4 or 1e9}
                    call = partial(caller.call, timeout=2.5 if number % 3 else None)
                    nursery.start_soon(quietly, call, "work", params)
        with trio.fail_after(1):
            while watch.running or caller.statistics().outgoing or callee.statistics().incoming:
                await trio.sleep(0.01)
        await wait_all_tasks_blocked()
        assert len(tasks()) <= idle + 2, tasks()
        assert await caller.call("ping", timeout=1) is None  # there is a place for it


async def quietly(call: Any, *args: Any) -> None:
    with suppress(CallTimeout):
        await call(*args)


@on_every_kind
@pytest.mark.parametrize("limit", [1, 3, 256])
async def test_peers_that_call_each_other_at_full_load_never_wait_for_ever(
    kind, limit, autojump_clock
):
    here, there = Watch(), Watch()
    limits = CallLimits(outgoing=limit, incoming=limit)
    outcomes: Counter[str] = Counter()

    async def call(peer: Peer, number: int) -> None:
        try:
            if number % 2:
                assert await peer.call("relay", {"depth": number % 7}) == number % 7
            else:
                assert len(await peer.call("text")) == 2**16
            outcomes["done"] += 1
        except CallError as error:
            outcomes[error.code] += 1

    async with open_peers(kind, there.methods, back=here.methods, limits=limits) as peers:
        started = trio.current_time()
        async with trio.open_nursery() as nursery:
            for number in range(300):
                nursery.start_soon(call, peers.caller, number)
                nursery.start_soon(call, peers.callee, number)
        # Nobody sleeps: time goes on only where all wait for one another.
        assert trio.current_time() <= started + 1
        assert outcomes.total() == 600
        assert set(outcomes) <= {"done", "busy"}
        assert outcomes["done"] >= 300 if limit == 256 else outcomes["done"] > 0
        assert max(here.most, there.most) <= limit


async def test_a_task_that_outlives_its_method_waits_for_a_place_as_others_do(autojump_clock):
    async with trio.open_nursery() as nursery, Once() as once:
        methods, back = Methods(once=once), Methods()
        got: list[int] = []

        async def later(peer: Peer) -> None:
            await trio.sleep(1)
            got.append(await peer.call("slow"))

        @methods.method
        async def begin(peer: Peer) -> None:
            for _ in range(2):
                nursery.start_soon(later, peer)

        @methods.method
        async def at_once(peer: Peer) -> str:
            nursery.start_soon(peer.call, "slow")
            await trio.sleep(1)
            try:
                await peer.call("slow")
            except CallError as error:
                return error.code
            return ""

        @back.method
        async def slow(peer: Peer) -> int:
            await trio.sleep(5)
            return 1

        limits = CallLimits(outgoing=1)
        async with open_peers(methods=methods, back=back, limits=limits) as (caller, _, _):
            for key in (None, "k"):
                await caller.call("begin", key=key)
                await trio.sleep(20)
            assert got == [1, 1, 1, 1]
            for key in (None, "l"):
                assert await caller.call("at_once", key=key) == "busy"
                await trio.sleep(20)


async def test_large_results_wait_unencoded_for_a_peer_that_does_not_read(autojump_clock):
    watch = Watch()
    limits = CallLimits(incoming=8, refusals=5)
    async with open_stranger("memory", watch.methods, limits=limits) as (stranger, peer):
        for id_ in range(1, 14):
            await stranger.say(Call(id_, ("text", "text_at_once")[id_ % 2], {"size": 2**20}))
            await wait_all_tasks_blocked()
        # One is in the writer's hand and one is the backlog; eight wait, the others are refused.
        assert peer.link.statistics().backlog_bytes < 2.1 * 2**20
        assert peer.statistics().incoming == 8
        assert peer.statistics().refused == 3
        heard = [await stranger.hear() for _ in range(13)]
        ends = Counter(type(one) for one in heard)
        assert ends == {Result: 10, Error: 3}
        assert {one.code for one in heard if isinstance(one, Error)} == {"busy"}
        assert sorted(one.id for one in heard) == list(range(1, 14))
        await stranger.say(Call(14, "ping"))
        assert await stranger.hear() == Result(14)


# --- cancelled anywhere ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["memory", "eager"])
async def test_a_call_cancelled_at_any_step_leaves_nothing(kind, autojump_clock):
    async def scenario(step: int) -> bool:
        watch = Watch()
        async with open_peers(kind, watch.methods, limits=CallLimits(outgoing=1)) as peers:
            caller, callee, _ = peers
            work = partial(caller.call, "work", {"number": 1, "seconds": 0.01})
            cancelled = await cancelled_at(step, work)
            await trio.sleep(0.005)
            assert watch.running == 0 or not cancelled
            assert await caller.call("ping") is None
            assert caller.statistics().outgoing == callee.statistics().incoming == 0
        return cancelled

    assert await at_every_step(scenario) >= 2


@pytest.mark.parametrize("kind", ["memory", "eager"])
async def test_a_stream_cancelled_at_any_step_leaves_nothing(kind, autojump_clock):
    async def scenario(step: int) -> bool:
        watch = Watch()
        async with open_peers(kind, watch.methods, limits=CallLimits(outgoing=1)) as peers:
            caller, callee, _ = peers

            async def take() -> None:
                async with caller.stream("numbers", {"to": 5}, window=2) as items:
                    assert [item async for item in items] == [0, 1, 2, 3, 4]

            cancelled = await cancelled_at(step, take)
            assert await caller.call("ping") is None
            await trio.sleep(0.1)
            assert caller.statistics().outgoing == callee.statistics().incoming == 0
        return cancelled

    assert await at_every_step(scenario) >= 6


# --- hostile peers ---------------------------------------------------------------------------


async def test_a_flood_of_calls_without_reading_closes_the_link(autojump_clock):
    watch = Watch()
    with guard():
        async with channels("websocket") as (client, server, _), no_orphans():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(serve_peer, server, watch.methods)
                with suppress(trio.BrokenResourceError):
                    for id_ in range(1, 100_000):
                        await client.send(JSON.encode(Call(id_, "work", {"number": id_})))
            assert (server.closed.code, server.closed.by_peer) == (1013, False)
            assert watch.running == 0
            assert watch.most == 256


async def test_calls_that_were_given_up_and_do_not_end_are_bounded(autojump_clock):
    methods = Methods()
    most = 0

    @methods.method
    async def stubborn(peer: Peer) -> None:
        nonlocal most
        most = max(most, peer.statistics().incoming)
        with trio.CancelScope(shield=True):
            await trio.sleep(5)

    limits = CallLimits(incoming=3)
    async with open_stranger(methods=methods, limits=limits) as (stranger, peer):
        for id_ in range(1, 100):
            await stranger.say(Call(id_, "stubborn"), Cancel(id_))
            if id_ > 6:
                error = await stranger.hear()
                assert (error.id, error.code) == (id_, "busy")
        assert most == peer.statistics().incoming == 6
        await trio.sleep(6)
        await stranger.say(*[Call(id_, "stubborn") for id_ in range(201, 205)])
        error = await stranger.hear()
        assert (error.id, error.code) == (204, "busy")
        assert {(await stranger.hear()).id for _ in range(3)} == {201, 202, 203}
        assert peer.statistics().incoming == 0


async def test_malformed_messages_are_borne_and_then_close_the_link(autojump_clock):
    with guard():
        async with channels("websocket") as (client, server, _), no_orphans():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(serve_peer, server, Methods())
                for _ in range(16):
                    await client.send("nonsense")
                await client.send(JSON.encode(Call(1, "ping")))
                heard = [JSON.decode(await client.receive()) for _ in range(17)]
                assert heard[-1] == Result(1)
                assert all(isinstance(one, Error) and one.id is None for one in heard[:-1])
                await client.send("nonsense")
                with pytest.raises(trio.BrokenResourceError):
                    await client.receive()
            assert (client.closed.code, client.closed.reason) == (
                1007,
                "too many malformed messages",
            )


async def test_malformed_messages_close_an_open_peer_too(autojump_clock):
    limits = CallLimits(malformed=2)
    async with open_stranger(limits=limits) as (stranger, peer):
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def _() -> None:
                with pytest.raises(CallLost, match="1007"):
                    await peer.call("x")

            call = await stranger.hear()
            await stranger.say("[]", "[]", "[]")
            await peer.wait_ended()
        assert call.method == "x"
        assert peer.statistics().malformed == 3
        with pytest.raises(CallLost, match="1007"):
            await peer.call("x")


async def test_ids_that_are_wrong_harm_nobody(autojump_clock):
    watch = Watch()
    async with open_stranger(methods=watch.methods) as (stranger, peer):
        for _ in range(1000):
            await stranger.say(Cancel(9), More(9, 2**53 - 1), Result(9), Item(9), Event("x"))
            await stranger.say(Error(id=9, code="x"), Error(code="you"))
        assert peer.statistics().malformed == 0
        await stranger.say(Call(5, "work", {"number": 5}), Call(5, "work", {"number": 6}))
        error = await stranger.hear()
        assert (error.id, error.code) == (None, "invalid")
        assert await stranger.hear() == Result(5, 5)
        await stranger.say(Call(5, "work", {"number": 7}))  # it is free again
        assert await stranger.hear() == Result(5, 7)
        await stranger.say(Call(2**53 - 1, "numbers", {"to": 3}, window=2**53 - 1))
        for _ in range(1000):
            await stranger.say(More(2**53 - 1, 2**53 - 1))
        heard = [await stranger.hear() for _ in range(4)]
        assert heard == [*(Item(2**53 - 1, number) for number in range(3)), Result(2**53 - 1)]


async def test_a_malformed_answer_fails_its_call(autojump_clock):
    async with open_stranger() as (stranger, peer):
        for answer in ('{"type":"error","id":%d}', '{"type":"item","id":%d,"value":1}'):
            async with trio.open_nursery() as nursery:

                @nursery.start_soon
                async def _() -> None:
                    with pytest.raises(CallError) as caught:
                        await peer.call("x")
                    assert caught.value.code == "invalid-result"

                call = await stranger.hear()
                await stranger.say(answer % call.id)
            heard = [await stranger.hear(), await stranger.hear()]
            assert Cancel(call.id) in heard


async def test_a_flood_of_notifications_is_bounded(autojump_clock):
    watch = Watch()
    async with open_stranger(methods=watch.methods) as (stranger, peer):
        for number in range(1000):
            await stranger.say(Notify("work", {"number": number, "seconds": 5}))
        await wait_all_tasks_blocked()
        assert watch.most == peer.statistics().incoming == 256
        assert peer.statistics().dropped == 744
        await stranger.say(Notify("heard"), Call(1, "ping"))
        assert (await stranger.hear()).code == "busy"
        await trio.sleep(6)
        await stranger.say(Call(2, "ping"))
        assert await stranger.hear() == Result(2)
        assert peer.statistics().incoming == 0


texts = st.sampled_from(["work", "numbers", "text", "ping", "nothing", "relay"])
few = st.integers(1, 5)
params = st.sampled_from(
    [None, {}, {"number": 1}, {"number": 1, "seconds": 1e9}, {"to": 3}, {"size": 9}, {"depth": 2}]
)
nasty: st.SearchStrategy[Any] = st.one_of(
    st.builds(Call, few, texts, params, st.none() | st.floats(0, 9), st.none(), st.integers(0, 3)),
    st.builds(Cancel, few),
    st.builds(Result, few, params),
    st.builds(Item, few, params),
    st.builds(More, few, st.sampled_from([0, 1, 2**53 - 1])),
    st.builds(Error, id=st.none() | few, code=texts),
    st.builds(Notify, texts, params),
    st.builds(Event, texts),
    st.sampled_from(["", "{}", b"\xc1", '{"type":"call","id":1}', '{"type":"error","id":1}']),
    st.floats(0.1, 3),  # waits
)


@settings(max_examples=60)
@given(st.lists(nasty, max_size=60), st.booleans(), st.sampled_from(["memory", "eager"]))
def test_whatever_a_peer_sends_harms_itself_alone(program, reads, kind):
    async def main() -> None:
        watch = Watch()
        limits = CallLimits(incoming=3, outgoing=3, refusals=5, malformed=5)
        async with open_peers("eager", watch.methods) as (friend, _, _):
            async with open_stranger(kind, watch.methods, limits=limits) as (stranger, peer):
                async with trio.open_nursery() as nursery:
                    if reads:

                        @nursery.start_soon
                        async def _() -> None:
                            with suppress(trio.ClosedResourceError):
                                async for _ in stranger.channel:
                                    pass

                    for _ in range(4):
                        nursery.start_soon(tried, peer)
                    for one in program:
                        if isinstance(one, float):
                            await trio.sleep(one)
                        elif not peer.ended:
                            with trio.move_on_after(20):
                                await stranger.say(one)
                        assert await friend.call("ping", timeout=1) is None
                    with trio.fail_after(60):
                        await stranger.channel.aclose()
                        await peer.wait_ended()
                    nursery.cancel_scope.cancel()
            assert watch.running == 0
            assert await friend.call("work", {"number": 1}, timeout=2) == 1

    trio.run(main, clock=MockClock(autojump_threshold=0))


async def tried(peer: Peer) -> None:
    while not peer.ended:
        with trio.move_on_after(5):
            try:
                await peer.call("x", timeout=2)
                async with peer.stream("y", window=2) as items:
                    async for _ in items:
                        pass
            except CallError:
                pass
        await trio.sleep(0.5)


# --- faults ----------------------------------------------------------------------------------


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**32),
    fault=st.sampled_from(
        [None, Reset(), Reset(after_bytes=5000), HalfOpen(after_bytes=3000), Stall(60.0)]
    ),
    calls=st.lists(
        st.tuples(st.sampled_from([0.0, 0.5, 3.0, 1e9]), st.none() | st.floats(0, 5)),
        min_size=1,
        max_size=30,
    ),
)
def test_each_call_has_one_end_whatever_the_network_does(seed, fault, calls):
    async def main() -> None:
        watch = Watch()
        ends: Counter[str] = Counter()
        conditions = Conditions(latency=0.03, jitter=0.05, chunk=100, bandwidth=20_000)
        with guard():
            async with (
                channels("websocket", conditions) as (here, there, link),
                no_orphans(),
                open_peer(there, watch.methods) as callee,
                open_peer(here) as caller,
            ):

                async def call(number: int, seconds: float, patience: float | None) -> None:
                    try:
                        params = {"number": number, "seconds": seconds}
                        if seconds == 1e9 and patience is None:
                            patience = 200
                        assert await caller.call("work", params, timeout=patience) == number
                        ends["done"] += 1
                    except CallError as error:
                        ends[error.code] += 1

                async with trio.open_nursery() as nursery:
                    for number, (seconds, patience) in enumerate(calls):
                        nursery.start_soon(call, number, seconds, patience)
                    await trio.sleep(1)
                    if fault is not None:
                        link.inject(fault)
                assert ends.total() == len(calls)
                assert set(ends) <= {"done", "timeout", "lost"}
                assert fault is not None or not ends["lost"]
                assert caller.statistics().outgoing == 0
                await trio.sleep(100)  # the longest that a heartbeat needs
                assert watch.running == callee.statistics().incoming == 0

    trio.run(main, clock=MockClock(autojump_threshold=0))
