"""Calls over every kind of connection: results, errors, deadlines, cancellation, ends."""

from __future__ import annotations

import logging
import math
from typing import Any

import msgspec
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import trioweb
from tests.channels import channel_pair
from tests.toolkit.peers import channels, on_every_kind, open_peers, open_stranger
from trioweb import CallError, CallLost, CallTimeout, Overflow, Policy
from trioweb.testing import Conditions, Partition, Reset, no_orphans, running_tasks
from trioweb.toolkit.attach import attach
from trioweb.toolkit.rpc import JSON, MSGPACK, Event, Methods, Peer, Reply, open_peer, serve_peer
from trioweb.toolkit.wire import Call, Cancel, Error, Notify, Result


class Point(msgspec.Struct):
    x: int
    y: int = 0


def calculator() -> Methods:
    methods = Methods()

    @methods.method
    async def add(peer: Peer, a: int, b: int = 0) -> int:
        await trio.lowlevel.checkpoint()
        return a + b

    @methods.method
    def subtract(peer: Peer, a: int, b: int) -> int:
        return a - b

    @methods("point.mirror")
    async def mirror(peer: Peer, params: Point) -> Point:
        return Point(params.y, params.x)

    @methods.method
    async def fail(peer: Peer) -> None:
        raise RuntimeError("secret")

    @methods.method
    async def refuse(peer: Peer, how: str = "plain") -> None:
        error = CallError("not-yours", "hands off", path="$.params.how", data={"how": how})
        if how == "group":
            raise ExceptionGroup("", [ExceptionGroup("", [error])])
        raise error

    @methods.method
    async def wait(peer: Peer, seconds: float = math.inf) -> float:
        deadline = trio.current_effective_deadline() - trio.current_time()
        await trio.sleep(seconds)
        return deadline

    @methods.method
    async def ask_back(peer: Peer, question: str) -> Any:
        return await peer.call(question)

    return methods


@on_every_kind
async def test_calls_both_ways(kind, autojump_clock):
    back = Methods()
    back("name")(lambda peer: "ann")
    async with open_peers(kind, calculator(), back=back) as (caller, callee, _):
        assert await caller.call("add", {"a": 1, "b": 2}) == 3
        assert await caller.call("add", {"a": 1}) == 1
        assert await caller.call("subtract", {"a": 1, "b": 2}) == -1
        assert await callee.call("name") == "ann"
        assert await caller.call("ask_back", {"question": "name"}) == "ann"
        point = await caller.call("point.mirror", Point(1, 2), result=Point)
        assert point == Point(2, 1)
        assert caller.statistics().outgoing == callee.statistics().incoming == 0
        assert callee.statistics().taken == 5


@on_every_kind
async def test_errors_have_codes(kind, caplog, autojump_clock):
    async with open_peers(kind, calculator()) as (caller, callee, _):
        with pytest.raises(CallError) as caught:
            await caller.call("nothing\n")
        assert caught.value.code == "unknown-method"
        assert "\n" not in str(caught.value)
        for method, params, path in [
            ("add", {"a": "1"}, "$.params.a"),
            ("add", {}, "$.params"),
            ("add", None, "$.params"),
            ("add", [1, 2], "$.params"),
            ("subtract", {"a": 1, "b": None}, "$.params.b"),
            ("point.mirror", None, "$.params"),
            ("point.mirror", {"x": 0.5}, "$.params.x"),
        ]:
            with pytest.raises(CallError) as caught:
                await caller.call(method, params)
            assert (caught.value.code, caught.value.path) == ("invalid", path)
        for how in ("plain", "group"):
            with pytest.raises(CallError) as caught:
                await caller.call("refuse", {"how": how})
            error = caught.value
            assert (error.code, error.message) == ("not-yours", "hands off")
            assert (error.path, error.data) == ("$.params.how", {"how": how})
        assert not caplog.records
        with pytest.raises(CallError) as caught:
            await caller.call("fail")
        assert caught.value.code == "internal"
        assert "secret" not in str(caught.value)
        (record,) = caplog.records
        assert record.exc_info[1].args == ("secret",)
        assert callee.statistics().failed == 1
        assert await caller.call("add", {"a": 5}) == 5


async def test_a_result_of_another_type_is_an_error_here(autojump_clock):
    async with open_peers(methods=calculator()) as (caller, _, _):
        with pytest.raises(CallError) as caught:
            await caller.call("add", {"a": 1}, result=str)
        assert caught.value.code == "invalid-result"
        assert await caller.call("add", {"a": 1}, result=float) == 1.0


async def test_what_cannot_be_sent_is_an_error_where_it_is_made(caplog, autojump_clock):
    methods = calculator()
    methods("quick")(lambda peer: object())

    @methods.method
    async def slow(peer: Peer) -> object:
        return object()

    @methods.method
    async def refuse_oddly(peer: Peer) -> None:
        raise CallError("odd", data=object())

    async with open_peers(methods=methods) as (caller, callee, _):
        with pytest.raises(TypeError):
            await caller.call("add", {"a": object()})
        with pytest.raises(TypeError):
            await caller.notify("add", object())
        for method in ("quick", "slow", "refuse_oddly"):
            with pytest.raises(CallError) as caught:
                await caller.call(method)
            assert caught.value.code == "internal"
        assert callee.statistics().failed == len(caplog.records) == 3
        assert caller.statistics().outgoing == 0


# --- deadlines -------------------------------------------------------------------------------


@on_every_kind
async def test_the_remaining_time_is_the_callees_deadline(kind, autojump_clock):
    async with open_peers(kind, calculator()) as (caller, _, _):
        assert await caller.call("wait", {"seconds": 1}) > 1e6  # that of the guard
        with trio.fail_after(10):
            await trio.sleep(4)
            assert await caller.call("wait", {"seconds": 1}) == pytest.approx(6, abs=0.1)
            assert await caller.call("wait", {"seconds": 1}, timeout=3) == pytest.approx(3, abs=0.1)
            assert await caller.call("wait", {"seconds": 1}, timeout=99) == pytest.approx(
                4, abs=0.2
            )


@on_every_kind
async def test_a_call_times_out_on_both_sides(kind, autojump_clock):
    ends = []
    methods = Methods()

    @methods.method
    async def forever(peer: Peer) -> None:
        try:
            await trio.sleep_forever()
        finally:
            ends.append(trio.current_time())

    async with open_peers(kind, methods) as (caller, callee, _):
        before = trio.current_time()
        with pytest.raises(CallTimeout) as caught:
            await caller.call("forever", timeout=2)
        assert caught.value.code == "timeout"
        assert isinstance(caught.value, trio.TooSlowError)
        assert trio.current_time() == pytest.approx(before + 2, abs=0.1)
        with trio.move_on_after(2) as scope:
            await caller.call("forever")
        assert scope.cancelled_caught
        await trio.sleep(0.1)
        assert ends == pytest.approx([before + 2, before + 4], abs=0.1)
        assert caller.statistics().outgoing == callee.statistics().incoming == 0


async def test_a_deadline_at_the_callee_is_a_timeout_too(autojump_clock):
    async with open_stranger(methods=calculator()) as (stranger, peer):
        await stranger.say(Call(1, "wait", timeout=3))
        answer = await stranger.hear()
        assert isinstance(answer, Error)
        assert (answer.id, answer.code) == (1, "timeout")
        assert trio.current_time() == pytest.approx(3)
        assert peer.statistics().incoming == 0
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def _() -> None:
                with pytest.raises(CallTimeout):
                    await peer.call("slow")

            call = await stranger.hear()
            await stranger.say(Error(id=call.id, code="timeout"))


async def test_a_call_without_time_is_not_sent(autojump_clock):
    async with open_stranger() as (stranger, peer):
        with trio.CancelScope() as scope:
            scope.cancel()
            await peer.call("x")
        assert scope.cancelled_caught
        with pytest.raises(CallTimeout):
            await peer.call("x", timeout=0)
        await peer.notify("last")
        assert await stranger.hear() == Notify("last")


# --- cancellation ----------------------------------------------------------------------------


@on_every_kind
async def test_cancelling_the_caller_cancels_the_callee(kind, autojump_clock):
    started, ended = trio.Event(), trio.Event()
    methods = Methods()

    @methods.method
    async def forever(peer: Peer) -> None:
        started.set()
        try:
            await trio.sleep_forever()
        finally:
            ended.set()

    async with open_peers(kind, methods) as (caller, callee, _):
        await trio.sleep(0.01)
        before = set(running_tasks())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(caller.call, "forever")
            await started.wait()
            nursery.cancel_scope.cancel()
        with trio.fail_after(1):
            await ended.wait()
        await trio.sleep(0.1)
        assert caller.statistics().outgoing == callee.statistics().incoming == 0
        assert {
            task for task in running_tasks() if task not in before and "writer" not in task.name
        } == set()


async def test_a_cancelled_call_has_no_answer(autojump_clock):
    async with open_stranger(methods=calculator()) as (stranger, peer):
        await stranger.say(Call(1, "wait"), Cancel(1), Call(2, "ping"))
        assert await stranger.hear() == Result(2)
        await wait_all_tasks_blocked()
        assert peer.statistics().incoming == 0


async def test_cancelling_does_not_wait_for_a_peer_that_reads_nothing(autojump_clock):
    async with open_stranger("memory") as (_, peer):
        with trio.move_on_after(1):
            await peer.call("x")  # is sent: the link's writer has it in hand
        assert trio.current_time() == pytest.approx(1)
        with trio.move_on_after(1):
            await peer.call("x" * 2**18)
        with trio.move_on_after(1):
            await peer.call("x")
        assert trio.current_time() == pytest.approx(3)


async def test_a_late_answer_is_ignored(autojump_clock):
    async with open_stranger() as (stranger, peer):
        with trio.move_on_after(1):
            await peer.call("x")
        call = await stranger.hear()
        assert await stranger.hear() == Cancel(call.id)
        await stranger.say(
            Result(call.id), Error(id=call.id, code="x"), Result(99), Call(1, "ping")
        )
        assert await stranger.hear() == Result(1)
        assert peer.statistics().malformed == 0


# --- ends ------------------------------------------------------------------------------------


@on_every_kind
async def test_calls_fail_at_once_when_the_peer_closes(kind, autojump_clock):
    async with channels(kind) as (here, there, _), no_orphans():
        async with trio.open_nursery() as nursery, open_peer(here) as peer:

            @nursery.start_soon
            async def _() -> None:
                with pytest.raises(trio.ClosedResourceError):
                    await serve_peer(there, calculator())

            lost = []

            async def call() -> None:
                with pytest.raises(CallLost) as caught:
                    await peer.call("wait")
                lost.append(caught.value)

            for _ in range(3):
                nursery.start_soon(call)
            await wait_all_tasks_blocked()
            assert peer.statistics().outgoing == 3
            await there.aclose()
            with trio.fail_after(1):
                await peer.wait_ended()
            assert peer.ended
            await wait_all_tasks_blocked()
            assert [error.sent for error in lost] == [True] * 3
            assert all(isinstance(error, trio.BrokenResourceError) for error in lost)
            with pytest.raises(CallLost) as caught:
                await peer.call("wait")
            assert not caught.value.sent
            with pytest.raises(CallLost):
                await peer.notify("wait")
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("fault", [Reset(), Partition(math.inf)], ids=["reset", "partition"])
async def test_calls_fail_when_the_link_breaks(fault, autojump_clock):
    async with open_peers("websocket", calculator(), conditions=Conditions(latency=0.05)) as peers:
        caller, callee, link = peers
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def _() -> None:
                with pytest.raises(CallLost) as caught:
                    await caller.call("wait")
                assert isinstance(caught.value.__cause__, trioweb.ConnectionBroken)
                assert caught.value.sent

            await trio.sleep(1)
            assert callee.statistics().incoming == 1
            link.inject(fault)
            with trio.fail_after(60):  # a partition is found by the heartbeat
                await caller.wait_ended()
                await callee.wait_ended()


async def test_calls_that_wait_for_a_place_or_for_room_hear_of_the_end(autojump_clock):
    limits = trioweb.CallLimits(outgoing=2)
    async with open_stranger("memory", limits=limits) as (stranger, peer):
        sent = []

        async def call() -> None:
            with pytest.raises(CallLost) as caught:
                await peer.call("x" * 2**18)
            sent.append(caught.value.sent)

        async with trio.open_nursery() as nursery:
            for _ in range(6):
                nursery.start_soon(call)
            await wait_all_tasks_blocked()
            await stranger.channel.aclose()
        assert sorted(sent) == [False] * 4 + [True] * 2


async def test_cancelled_calls_whose_cancel_was_not_sent_keep_nobody_waiting_at_the_end(
    autojump_clock,
):
    limits = trioweb.CallLimits(outgoing=2)
    async with open_stranger("memory", limits=limits) as (stranger, peer):
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(peer.call, "x" * 2**18)
                await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def _() -> None:
                with pytest.raises(CallLost):
                    await peer.call("x")

            await wait_all_tasks_blocked()
            await stranger.channel.aclose()


@on_every_kind
async def test_leaving_the_block_ends_what_runs_and_says_so(kind, autojump_clock):
    async with channels(kind) as (here, there, _), no_orphans():
        async with trio.open_nursery() as nursery, open_peer(here) as peer:
            codes = []

            async def call() -> None:
                with pytest.raises(CallError) as caught:
                    await peer.call("wait")
                codes.append(caught.value.code)

            async with open_peer(there, calculator()) as callee:
                nursery.start_soon(call)
                await trio.sleep(0.1)
                assert callee.statistics().incoming == 1
            await trio.sleep(0.1)
            assert codes == ["cancelled"]


async def test_calls_of_others_fail_when_the_block_is_left(autojump_clock):
    async with open_stranger() as (_, _):
        async with trio.open_nursery() as nursery:
            async with open_peer(channel_pair()[0]) as peer:

                @nursery.start_soon
                async def _() -> None:
                    with pytest.raises(CallLost):
                        await peer.call("x")

                await wait_all_tasks_blocked()
            with pytest.raises(CallLost):
                await peer.call("x")


@on_every_kind
async def test_the_blocks_exception_comes_out_bare(kind, autojump_clock):
    async with channels(kind) as (here, _, _), no_orphans():
        with pytest.raises(ZeroDivisionError):
            async with open_peer(here):
                raise ZeroDivisionError


@on_every_kind
async def test_methods_are_cancelled_at_the_links_end(kind, autojump_clock):
    async with channels(kind) as (here, there, _), no_orphans():
        async with open_peer(there, calculator()) as callee:
            async with open_peer(here) as caller, trio.open_nursery() as nursery:
                nursery.start_soon(caller.call, "wait")
                await caller.notify("wait")
                await trio.sleep(0.1)
                assert callee.statistics().incoming == 2
                nursery.cancel_scope.cancel()
                await here.aclose()
            await callee.wait_ended()
            await wait_all_tasks_blocked()
            assert callee.statistics().incoming == 0


async def test_serving_ends_as_the_channel_does(autojump_clock):
    here, there = channel_pair()
    await here.aclose()
    await serve_peer(there, calculator())
    async with channels("websocket") as (_, server, link):
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def _() -> None:
                with pytest.raises(trioweb.ConnectionBroken):
                    await serve_peer(server, calculator())

            await trio.sleep(0.1)
            link.inject(Reset())


async def test_as_a_servers_handler(caplog, autojump_clock):
    caplog.set_level(logging.INFO)
    methods = calculator()

    @methods.method
    async def who(peer: Peer) -> str:
        return peer.principal

    async def handler(ws: trioweb.WebSocket) -> None:
        await serve_peer(ws, methods, format=MSGPACK, principal="ann")

    network = trioweb.testing.VirtualNetwork()
    with network.host("server"):
        async with trioweb.open_server(handler, 0) as server:
            async with trioweb.connect(server.url) as ws, open_peer(ws) as peer:
                assert await peer.call("add", {"a": 2, "b": 2}) == 4
                assert await peer.call("who") == "ann"
                assert await peer.call("ping") is None


@on_every_kind
async def test_a_link_is_used_as_it_is(kind, autojump_clock):
    async with channels(kind) as (here, there, _), no_orphans():
        async with attach(there, principal="ann") as link, open_peer(here) as caller:
            async with open_peer(link, calculator()) as callee:
                assert callee.link is link
                assert callee.principal == "ann"
                assert await caller.call("add", {"a": 1}) == 1
            assert not link.ended
            await here.aclose()
            await serve_peer(link)
            assert link.ended


async def test_answers_have_room_where_events_may_be_dropped(autojump_clock):
    drop = Policy(Overflow.DROP_OLDEST)
    event = JSON.encode(Event("t"))
    async with open_stranger("memory", calculator()) as (stranger, peer):
        for _ in range(1000):
            peer.link.send_nowait(event, drop)
        assert peer.link.statistics().dropped > 0
        await stranger.say(Call(1, "add", {"a": 1}), Call(2, "subtract", {"a": 1, "b": 1}))
        await wait_all_tasks_blocked()
        assert peer.statistics().incoming == 0
        heard = [await stranger.hear() for _ in range(peer.link.statistics().backlog_messages)]
        assert [one for one in heard if not isinstance(one, Event)] == [Result(2, 0), Result(1, 1)]


# --- what is no call -------------------------------------------------------------------------


@on_every_kind
async def test_notifications_run_without_an_answer(kind, caplog, autojump_clock):
    seen = []
    methods = Methods()
    methods("say")(lambda peer, params: seen.append(params))

    @methods.method
    async def later(peer: Peer, what: str) -> Reply:
        await trio.sleep(1)
        seen.append(what)
        return Reply(unsent=lambda: seen.append("unsent"))

    @methods.method
    async def fail(peer: Peer) -> None:
        raise RuntimeError

    methods("fail_at_once")(lambda peer: 1 / 0)

    async with open_peers(kind, methods) as (caller, callee, _):
        for one in (1, 2, 3):
            await caller.notify("say", one)
        await caller.notify("later", {"what": "now"})
        await caller.notify("nothing")
        await caller.notify("fail")
        await caller.notify("fail_at_once")
        await caller.notify("later", {"what": 5})
        await trio.sleep(2)
        assert seen == [1, 2, 3, "now", "unsent"]
        statistics = callee.statistics()
        assert (statistics.taken, statistics.refused, statistics.failed) == (7, 1, 2)
        assert len(caplog.records) == 2


async def test_events_come_in_order(caplog, autojump_clock):
    seen = []

    def on_event(event: Event) -> None:
        seen.append(event)
        if event.topic == "bad":
            raise RuntimeError

    async with open_stranger(on_event=on_event) as (stranger, _):
        events = [Event("a", 1, "x"), Event("bad"), Event("a", 2)]
        await stranger.say(*events)
        await wait_all_tasks_blocked()
        assert seen == events
        assert len(caplog.records) == 1
    async with open_stranger() as (stranger, peer):
        await stranger.say(Event("a"))
        await wait_all_tasks_blocked()
        assert not peer.ended


async def test_ping_is_there_and_may_be_replaced(autojump_clock):
    async with open_peers() as (caller, callee, _):
        assert await caller.call("ping") is None
        assert await callee.call("ping") is None
    methods = Methods()
    methods("ping")(lambda peer: "pong")
    async with open_peers(methods=methods) as (caller, _, _):
        assert await caller.call("ping") == "pong"


@on_every_kind
async def test_a_reply_knows_when_it_is_sent(kind, autojump_clock):
    methods = Methods()

    @methods.method
    def at_once(peer: Peer) -> Reply:
        event = JSON.encode(Event("t"))
        return Reply("value", sent=lambda: peer.link.send_nowait(event))

    @methods.method
    async def in_a_task(peer: Peer) -> Reply:
        await trio.sleep(1)
        return at_once(peer)

    events: list[Event] = []
    async with channels(kind) as (here, there, _), no_orphans():
        async with open_peer(there, methods), open_peer(here, on_event=events.append) as caller:
            for count, name in enumerate(("at_once", "in_a_task"), 1):
                assert await caller.call(name) == "value"
                await trio.sleep(0.1)
                assert len(events) == count


async def test_a_reply_that_is_not_sent_says_so(caplog, autojump_clock):
    said = []
    methods = Methods()

    @methods.method
    async def reply(peer: Peer, wait: float = 0) -> Reply:
        await trio.sleep(wait)
        return Reply(
            "x" * 2**18, sent=lambda: said.append("sent"), unsent=lambda: said.append("unsent")
        )

    @methods.method
    def hurt(peer: Peer) -> Reply:
        return Reply(sent=lambda: 1 / 0)

    async with open_stranger("memory", methods) as (stranger, peer):
        await stranger.say(Call(1, "hurt"))
        assert await stranger.hear() == Result(1)
        assert len(caplog.records) == 1
        for id_ in (2, 3, 4):
            await stranger.say(Call(id_, "reply"))
            await wait_all_tasks_blocked()
        assert said == ["sent", "sent"]  # one is in the writer's hand, and one fills the backlog
        await stranger.say(Cancel(4))
        await wait_all_tasks_blocked()
        assert said == ["sent", "sent", "unsent"]
        await stranger.say(Call(5, "reply"))
        await wait_all_tasks_blocked()
        await stranger.channel.aclose()
        await wait_all_tasks_blocked()
        assert said == ["sent", "sent", "unsent", "unsent"]
        assert peer.statistics().incoming == 0
