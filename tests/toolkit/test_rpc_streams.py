"""Streamed results: order, windows, back-pressure, ends on either side."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, AsyncIterator

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.toolkit.peers import channels, on_every_kind, open_peers, open_stranger
from trioweb import CallError, CallLimits, CallLost, CallTimeout
from trioweb.toolkit.rpc import Methods, Peer, open_peer, serve_peer
from trioweb.toolkit.wire import Call, Cancel, Error, Item, More, Result


class Source:
    """A callee, and what it has made."""

    def __init__(self) -> None:
        self.made = 0
        self.ended = 0
        self.methods = methods = Methods()

        @methods.method
        async def count(peer: Peer, to: float = math.inf, pause: float = 0) -> AsyncIterator[int]:
            try:
                while self.made < to:
                    await trio.sleep(pause)
                    self.made += 1
                    yield self.made
            finally:
                with trio.CancelScope(shield=True):
                    await trio.sleep(0.01)
                self.ended += 1

        @methods.method
        async def fail(peer: Peer) -> AsyncGenerator[int]:
            yield 1
            raise CallError("enough", data=[1])

        @methods.method
        async def a_channel(peer: Peer) -> trio.MemoryReceiveChannel[str]:
            send, receive = trio.open_memory_channel[str](3)
            for one in "abc":
                send.send_nowait(one)
            send.close()
            return receive

        @methods.method
        def no_stream(peer: Peer) -> str:
            return "value"

        @methods.method
        async def odd(peer: Peer) -> AsyncGenerator[object]:
            yield object()


@on_every_kind
async def test_items_come_in_order_and_end(kind, autojump_clock):
    source = Source()
    async with open_peers(kind, source.methods) as (caller, callee, _):
        async with caller.stream("count", {"to": 100}, item=int) as items:
            assert [one async for one in items] == list(range(1, 101))
            assert items.result is None
            with pytest.raises(StopAsyncIteration):
                await anext(items)
        async with caller.stream("a_channel", window=1) as letters:
            assert [one async for one in letters] == ["a", "b", "c"]
        async with caller.stream("no_stream") as items:
            assert [one async for one in items] == []
            assert items.result == "value"
        await trio.sleep(1)
        assert source.ended == 1
        assert caller.statistics().outgoing == callee.statistics().incoming == 0


@on_every_kind
async def test_a_slow_reader_stops_the_method(kind, autojump_clock):
    source = Source()
    async with open_peers(kind, source.methods) as (caller, _, _):
        async with caller.stream("count", window=5) as items:
            await trio.sleep(10)
            assert source.made == 6  # the sixth waits
            taken = [await anext(items) for _ in range(4)]
            await trio.sleep(10)
            assert taken == [1, 2, 3, 4]
            assert 6 < source.made <= 10
            for _ in range(100):
                await anext(items)
            await trio.sleep(10)
            assert source.made <= 104 + 6


@on_every_kind
async def test_leaving_the_block_cancels_the_method(kind, autojump_clock):
    source = Source()
    async with open_peers(kind, source.methods) as (caller, callee, _):
        async with caller.stream("count", {"pause": 0.5}) as items:
            async for one in items:
                if one == 3:
                    break
        await trio.sleep(0.1)
        assert source.ended == 1
        with pytest.raises(ZeroDivisionError):
            async with caller.stream("count"):
                raise ZeroDivisionError
        with trio.move_on_after(2):
            async with caller.stream("count", {"pause": 99}) as items:
                await anext(items)
        with pytest.raises(CallTimeout):
            async with caller.stream("count", {"pause": 99}, timeout=2) as items:
                await anext(items)
        await trio.sleep(0.1)
        assert source.ended in (3, 4)  # the second may have been cancelled before it began
        assert caller.statistics().outgoing == callee.statistics().incoming == 0


@on_every_kind
async def test_a_stream_ends_with_an_error(kind, autojump_clock, caplog):
    source = Source()
    async with open_peers(kind, source.methods) as (caller, _, _):
        async with caller.stream("fail", item=int) as items:
            assert await anext(items) == 1
            for _ in range(2):
                with pytest.raises(CallError) as caught:
                    await anext(items)
                assert (caught.value.code, caught.value.data) == ("enough", [1])
        assert not caplog.records
        async with caller.stream("odd") as items:
            with pytest.raises(CallError) as caught:
                await anext(items)
            assert caught.value.code == "internal"
        async with caller.stream("nothing") as items:
            with pytest.raises(CallError) as caught:
                await anext(items)
            assert caught.value.code == "unknown-method"
        async with caller.stream("count", item=str) as items:
            with pytest.raises(CallError) as caught:
                await anext(items)
            assert caught.value.code == "invalid-result"
            with pytest.raises(CallError):
                await anext(items)


async def test_a_stream_must_be_asked_for_as_one(autojump_clock):
    source = Source()
    async with open_peers(methods=source.methods) as (caller, _, _):
        for method in ("count", "a_channel"):
            with pytest.raises(CallError) as caught:
                await caller.call(method)
            assert (caught.value.code, caught.value.path) == ("invalid", "$.window")
        assert source.made == 0
        with pytest.raises(ValueError, match="window"):
            caller.stream("count", window=0)


@on_every_kind
async def test_a_stream_fails_at_once_at_the_links_end(kind, autojump_clock):
    source = Source()
    async with channels(kind) as (here, there, _), trio.open_nursery() as nursery:

        @nursery.start_soon
        async def _() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await serve_peer(there, source.methods)

        async with open_peer(here) as peer, peer.stream("count", window=2) as items:
            await trio.sleep(1)
            await there.aclose()
            await peer.wait_ended()
            assert [await anext(items), await anext(items)] == [1, 2]  # they had come before
            with pytest.raises(CallLost):
                await anext(items)


async def test_one_task_at_a_time_iterates(autojump_clock):
    source = Source()
    async with open_peers(methods=source.methods) as (caller, _, _):
        async with caller.stream("count", {"pause": 5}) as items, trio.open_nursery() as nursery:
            nursery.start_soon(anext, items)
            await wait_all_tasks_blocked()
            with pytest.raises(trio.BusyResourceError):
                await anext(items)


async def test_the_callee_keeps_to_the_window(autojump_clock):
    source = Source()
    async with open_stranger(methods=source.methods) as (stranger, peer):
        await stranger.say(Call(1, "count", window=2))
        assert [await stranger.hear(), await stranger.hear()] == [Item(1, 1), Item(1, 2)]
        await stranger.say(More(1, 0), Call(2, "ping"))
        assert await stranger.hear() == Result(2)
        await stranger.say(More(1, 1), More(1, 1), More(7, 1), Call(3, "ping"))
        heard = [await stranger.hear() for _ in range(3)]
        assert [one for one in heard if isinstance(one, Item)] == [Item(1, 3), Item(1, 4)]
        await stranger.say(More(1, 2**53 - 1), Cancel(1))
        while peer.statistics().incoming:
            with trio.move_on_after(1):
                assert isinstance(await stranger.hear(), Item)
        await stranger.say(More(1, 1), Call(4, "ping"))
        last = await stranger.hear()
        while isinstance(last, Item):
            last = await stranger.hear()
        assert last == Result(4)


async def test_a_callee_that_sends_more_than_it_may_fails_its_stream(autojump_clock):
    async with open_stranger() as (stranger, peer):
        async with peer.stream("x", window=2) as items:
            call = await stranger.hear()
            await stranger.say(*[Item(call.id, number) for number in range(5)])
            assert [await anext(items), await anext(items)] == [0, 1]
            with pytest.raises(CallError) as caught:
                await anext(items)
            assert caught.value.code == "invalid-result"
        heard = [await stranger.hear(), await stranger.hear()]
        assert Cancel(call.id) in heard
        assert any(isinstance(one, Error) and one.id is None for one in heard)
        assert peer.statistics().malformed == 1  # what came after that, nobody waits for

        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def _() -> None:
                with pytest.raises(CallError) as caught:
                    await peer.call("x")
                assert caught.value.code == "invalid-result"

            call = await stranger.hear()
            await stranger.say(Item(call.id))
        assert peer.statistics().outgoing == 0


async def test_credit_that_finds_no_room_is_sent_later(autojump_clock):
    limits = CallLimits(outgoing=4)
    async with open_stranger("memory", limits=limits) as (stranger, peer):
        async with peer.stream("x", window=4) as items, trio.open_nursery() as nursery:
            call = await stranger.hear()
            for _ in range(2):  # one in the writer's hand, one that fills the backlog
                nursery.start_soon(peer.notify, "x" * 2**18)
            await wait_all_tasks_blocked()
            await stranger.say(*[Item(call.id, number) for number in range(4)])
            assert [await anext(items) for _ in range(4)] == [0, 1, 2, 3]
            heard = [await stranger.hear() for _ in range(3)]
            assert heard[2] == More(call.id, 4)
            await stranger.say(Result(call.id))
            assert [one async for one in items] == []


@given(
    items=st.lists(st.integers(-(2**63), 2**63), max_size=40),
    window=st.integers(1, 50),
    kind=st.sampled_from(["memory", "eager"]),
    pauses=st.lists(st.sampled_from([0.0, 1.0]), min_size=40, max_size=40),
)
def test_any_stream_arrives_whole_whatever_the_window(items, window, kind, pauses):
    methods = Methods()

    @methods.method
    async def stream(peer: Peer) -> AsyncIterator[int]:
        for item in items:
            yield item

    async def main() -> None:
        async with open_peers(kind, methods) as (caller, _, _):
            async with caller.stream("stream", window=window) as stream:
                seen = []
                async for item in stream:
                    seen.append(item)
                    await trio.sleep(pauses[len(seen) - 1])
                assert seen == items

    trio.run(main, clock=MockClock(autojump_threshold=0))
