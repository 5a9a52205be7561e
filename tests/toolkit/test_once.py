"""Calls with a key: once, whoever asks, and however often."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.helpers import guard
from tests.toolkit.peers import channels, on_every_kind, open_peers, open_stranger
from trioweb import CallError, CallLost, CallTimeout
from trioweb.testing import no_orphans
from trioweb.toolkit.rpc import Methods, Once, Peer, Reply, open_peer
from trioweb.toolkit.wire import Call, Cancel, Result


class Till:
    """Counts what was really paid."""

    def __init__(self, once: Once | None) -> None:
        self.paid: list[int] = []
        self.cancelled = 0
        self.go = trio.Event()
        self.methods = methods = Methods(once=once)

        @methods.method
        async def pay(peer: Peer, amount: int) -> int:
            self.paid.append(amount)
            return len(self.paid)

        @methods.method
        async def pay_slowly(peer: Peer, amount: int) -> int:
            try:
                await self.go.wait()
            except trio.Cancelled:
                self.cancelled += 1
                raise
            self.paid.append(amount)
            return len(self.paid)

        @methods.method
        async def refuse(peer: Peer) -> None:
            self.paid.append(0)
            raise CallError("no-money", data=len(self.paid))

        @methods.method
        async def break_down(peer: Peer) -> None:
            self.paid.append(0)
            raise RuntimeError

        @methods.method
        async def odd(peer: Peer) -> object:
            self.paid.append(0)
            return object()

        @methods.method
        async def stream(peer: Peer) -> Any:
            yield 1

        @methods.method
        async def subscribe(peer: Peer) -> Reply:
            return Reply(unsent=lambda: self.paid.append(-1))


@on_every_kind
async def test_the_same_key_is_answered_with_the_first_result(kind, autojump_clock, caplog):
    async with Once() as once:
        till = Till(once)
        async with open_peers(kind, till.methods) as (caller, _, _):
            assert await caller.call("pay", {"amount": 5}, key="a") == 1
            assert await caller.call("pay", {"amount": 5}, key="a") == 1
            assert await caller.call("pay", {"amount": 5}, key="b") == 2
            assert await caller.call("pay", {"amount": 5}) == 3
            for _ in range(2):
                with pytest.raises(CallError) as caught:
                    await caller.call("refuse", key="a")
                assert (caught.value.code, caught.value.data) == ("no-money", 4)
                with pytest.raises(CallError) as caught:
                    await caller.call("break_down", key="a")
                assert caught.value.code == "internal"
                with pytest.raises(CallError) as caught:
                    await caller.call("odd", key="a")
                assert caught.value.code == "internal"
        assert len(till.paid) == 6
        assert len(caplog.records) == 2
        assert len(once) == 5


@pytest.mark.parametrize(("ann", "bob"), [("ann", "bob"), ({"sub": "ann"}, {"sub": "bob"})])
@on_every_kind
async def test_a_run_outlives_its_link_and_answers_on_the_next(kind, ann, bob, autojump_clock):
    with guard():
        async with no_orphans(), Once() as once:
            till = Till(once)
            for attempt in range(3):
                async with channels(kind) as (here, there, _):
                    async with (
                        open_peer(there, till.methods, principal=ann),
                        open_peer(here) as caller,
                    ):
                        if attempt == 2:
                            till.go.set()
                            paid = await caller.call("pay_slowly", {"amount": 5}, key="k")
                            assert paid == 1
                            continue
                        async with trio.open_nursery() as nursery:

                            async def call(caller: Peer = caller) -> None:
                                with suppress(CallLost):
                                    await caller.call("pay_slowly", {"amount": 5}, key="k")

                            nursery.start_soon(call)
                            await trio.sleep(1)
                            await here.aclose()  # no cancel was sent
                            nursery.cancel_scope.cancel()
            assert till.paid == [5]
            assert till.cancelled == 0
            async with channels(kind) as (here, there, _):
                async with (
                    open_peer(there, till.methods, principal=bob),
                    open_peer(here) as caller,
                ):
                    assert await caller.call("pay_slowly", {"amount": 6}, key="k") == 2


async def test_a_run_that_is_cancelled_is_forgotten(autojump_clock):
    async with Once() as once:
        till = Till(once)
        async with open_peers(methods=till.methods) as (caller, _, _):
            with trio.move_on_after(1):
                await caller.call("pay_slowly", {"amount": 5}, key="k")
            await trio.sleep(0.1)
            assert till.cancelled == 1
            assert len(once) == 0
            with pytest.raises(CallTimeout):
                await caller.call("pay_slowly", {"amount": 5}, key="k", timeout=1)
            await trio.sleep(0.1)
            assert till.cancelled == 2
            assert len(once) == 0
            till.go.set()
            assert await caller.call("pay_slowly", {"amount": 5}, key="k") == 1


async def test_a_run_goes_on_while_somebody_waits_for_it(autojump_clock):
    async with Once() as once:
        till = Till(once)
        async with open_stranger(methods=till.methods) as (stranger, _):
            for id_ in (1, 2):
                await stranger.say(Call(id_, "pay_slowly", {"amount": 1}, key="k"))
            await stranger.say(Cancel(1))
            await wait_all_tasks_blocked()
            assert till.cancelled == 0
            till.go.set()
            assert await stranger.hear() == Result(2, 1)


async def test_an_integer_that_only_json_has_is_kept(autojump_clock):
    async with Once() as once:
        methods = Methods(once=once)

        @methods.method
        async def large(peer: Peer) -> int:
            return 2**70

        async with open_stranger(methods=methods) as (stranger, _):
            for id_ in (1, 2):
                await stranger.say(Call(id_, "large", key="k"))
                assert await stranger.hear() == Result(id_, 2**70)


async def test_who_comes_while_a_run_that_was_given_up_ends_begins_another(autojump_clock):
    async with Once() as once:
        methods = Methods(once=once)
        begun = 0

        @methods.method
        async def pay(peer: Peer) -> int:
            nonlocal begun
            begun += 1
            if begun > 1:
                return begun
            try:
                await trio.sleep_forever()
            finally:
                with trio.CancelScope(shield=True):
                    await trio.sleep(5)
            return 0

        async with open_stranger(methods=methods) as (stranger, _):
            await stranger.say(Call(1, "pay", key="k"))
            await trio.sleep(1)
            await stranger.say(Cancel(1))
            await trio.sleep(1)
            assert begun == 1
            await stranger.say(Call(2, "pay", key="k"))
            assert await stranger.hear() == Result(2, 2)
            assert trio.current_time() == pytest.approx(6)


async def test_a_deadline_ends_the_run_for_all_who_wait(autojump_clock):
    async with Once() as once:
        till = Till(once)
        async with open_stranger(methods=till.methods) as (stranger, _):
            await stranger.say(Call(1, "pay_slowly", {"amount": 1}, timeout=5, key="k"))
            await stranger.say(Call(2, "pay_slowly", {"amount": 1}, key="k"))
            heard = {(await stranger.hear()).id: trio.current_time() for _ in range(2)}
            assert heard == {1: pytest.approx(5), 2: pytest.approx(5)}
            assert till.cancelled == 1


async def test_the_bounds(autojump_clock):
    async with Once(count=3, size=100, age=60) as once:
        till = Till(once)
        async with open_peers(methods=till.methods) as (caller, _, _):
            for key in "abcd":
                await caller.call("pay", {"amount": 1}, key=key)
                assert len(once) <= 3
            assert await caller.call("pay", {"amount": 1}, key="d") == 4
            assert await caller.call("pay", {"amount": 1}, key="a") == 5  # was forgotten
            await trio.sleep(61)
            assert await caller.call("pay", {"amount": 1}, key="a") == 6
            assert len(once) == 1
            async with trio.open_nursery() as nursery:
                for key in "xyz":
                    call = partial(caller.call, "pay_slowly", {"amount": 1}, key=key)
                    nursery.start_soon(call)
                await trio.sleep(1)
                with pytest.raises(CallError) as caught:
                    await caller.call("pay", {"amount": 1}, key="new")
                assert caught.value.code == "busy"
                till.go.set()


async def test_the_bound_in_bytes(autojump_clock):
    async with Once(size=1000) as once:
        methods = Methods(once=once)
        runs = []

        @methods.method
        async def text(peer: Peer, length: int) -> str:
            runs.append(length)
            return "x" * length

        async with open_peers(methods=methods) as (caller, _, _):
            for key in "abc":
                await caller.call("text", {"length": 400}, key=key)
            assert len(once) == 2
            for _ in range(2):  # the newest is kept, however large
                await caller.call("text", {"length": 5000}, key="d")
            assert len(once) == 1
            assert runs == [400, 400, 400, 5000]


async def test_what_cannot_have_a_key(autojump_clock):
    async with Once() as once:
        till = Till(once)
        async with open_peers(methods=till.methods) as (caller, _, _):
            for method in ("stream", "subscribe"):
                with pytest.raises(CallError) as caught:
                    await caller.call(method, key="k")
                assert (caught.value.code, caught.value.path) == ("invalid", "$.key")
            assert till.paid == [-1]
    async with open_peers(methods=Till(None).methods) as (caller, _, _):
        with pytest.raises(CallError) as caught:
            await caller.call("pay", {"amount": 1}, key="k")
        assert (caught.value.code, caught.value.path) == ("invalid", "$.key")


async def test_the_end_of_the_block_cancels_what_runs(autojump_clock):
    with guard():
        async with channels("eager") as (here, there, _), no_orphans():
            async with open_peer(here) as caller, trio.open_nursery() as nursery:
                codes = []

                async def call() -> None:
                    with pytest.raises(CallError) as caught:
                        await caller.call("pay_slowly", {"amount": 1}, key="k")
                    codes.append(caught.value.code)

                async with Once() as once:
                    till = Till(once)
                    peer = await nursery.start(hold, there, till.methods)
                    nursery.start_soon(call)
                    await wait_all_tasks_blocked()
                await wait_all_tasks_blocked()
                assert till.cancelled == 1
                await call()
                assert codes == ["cancelled"] * 2
                assert peer.statistics().incoming == 0
                nursery.cancel_scope.cancel()


async def hold(channel: Any, methods: Methods, *, task_status: trio.TaskStatus[Peer]) -> None:
    async with open_peer(channel, methods) as peer:
        task_status.started(peer)
        await trio.sleep_forever()


@pytest.mark.parametrize("name", ["count", "size", "age"])
def test_bounds_are_positive(name):
    with pytest.raises(ValueError, match=name):
        Once(**{name: 0})
