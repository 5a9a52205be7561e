"""Batches: what leaves when, in which order, with what bounds, and what conflation keeps."""

from __future__ import annotations

import json
import math
from contextlib import asynccontextmanager

import msgspec
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import wait_all_tasks_blocked

import trioweb
from tests.channels import channel_pair
from tests.helpers import guard, tasks
from trioweb.codecs.json import Json
from trioweb.testing import Conditions, open_pair
from trioweb.testing import run as run_deterministic
from trioweb.toolkit.batching import JSON_ARRAY, MSGPACK_ARRAY, batch
from trioweb.toolkit.typed import TypedChannel


async def test_a_message_on_an_idle_link_leaves_at_once_with_those_of_the_same_turn(autojump_clock):
    peer, ours = channel_pair()
    async with batch(ours, delay=10) as batches:
        for number in range(3):
            await batches.send(str(number))
        assert await peer.receive() == "[0,1,2]"
        assert trio.current_time() == 0


async def test_what_follows_waits_for_the_time(autojump_clock):
    peer, ours = channel_pair()
    async with batch(ours, delay=10) as batches:
        await batches.send("0")
        assert await peer.receive() == "[0]"
        for number in (1, 2, 3):
            await batches.send(str(number))
            await trio.sleep(2)
        assert await peer.receive() == "[1,2,3]"
        assert trio.current_time() == pytest.approx(10)
        await trio.sleep(11)  # idle again
        await batches.send("4")
        assert await peer.receive() == "[4]"
        assert trio.current_time() == pytest.approx(21)


@pytest.mark.parametrize(
    ("bounds", "sent", "batches_"),
    [
        ({"count": 3}, ["1"] * 7, ["[1,1,1]", "[1,1,1]"]),
        ({"size": 10}, ["1234"] * 5, ["[1234,1234]", "[1234,1234]"]),
        ({"size": 10}, ['"äöü"'] * 3, ['["äöü"]', '["äöü"]']),
        ({"size": 10}, ["1", "123456789012", "2"], ["[1]", "[123456789012]"]),
    ],
)
async def test_a_full_batch_leaves_at_once(autojump_clock, bounds, sent, batches_):
    peer, ours = channel_pair()
    async with batch(ours, delay=10, **bounds) as batches:
        await batches.send("0")
        assert await peer.receive() == "[0]"
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def send():
                for one in sent:
                    await batches.send(one)

            assert [await peer.receive() for _ in batches_] == batches_
            assert trio.current_time() == 0
    rest = json.loads(await peer.receive())
    assert len(rest) == len(sent) - sum(len(json.loads(one)) for one in batches_)


async def test_while_one_is_under_way_the_next_is_filled_and_senders_wait(autojump_clock):
    peer, ours = channel_pair(0)
    async with batch(ours, count=2, delay=0) as batches:
        await batches.send("0")
        await wait_all_tasks_blocked()
        await batches.send("1")
        await batches.send("2")
        with pytest.raises(trio.WouldBlock):
            batches.send_nowait("3")
        with trio.move_on_after(1) as scope:
            await batches.send("never")
        assert scope.cancelled_caught
        seen = batches.statistics()
        assert (seen.waiting, seen.waiting_bytes, seen.batches_sent) == (2, 4, 0)
        assert [await peer.receive() for _ in range(2)] == ["[0]", "[1,2]"]
        await batches.send("4")
        assert await peer.receive() == "[4]"


async def test_who_waits_comes_before_who_asks_later(autojump_clock):
    peer, ours = channel_pair(0)
    async with batch(ours, count=1, delay=0) as batches, trio.open_nursery() as nursery:
        await batches.send("0")
        await wait_all_tasks_blocked()
        await batches.send("1")
        for number in range(2, 6):
            nursery.start_soon(batches.send, str(number))
            await wait_all_tasks_blocked()
        assert [await peer.receive() for _ in range(6)] == [f"[{one}]" for one in range(6)]


async def test_of_one_key_the_newest_goes_at_the_end(autojump_clock):
    peer, ours = channel_pair()
    async with batch(ours, delay=10) as batches:
        await batches.send("0")
        assert await peer.receive() == "[0]"
        await batches.send('"a1"', key="a")
        await batches.send('"b"', key=("b", 1))
        await batches.send('"x"')
        await batches.send('"a2"', key="a")
        await batches.send('"x"')
        assert batches.statistics().waiting_bytes == 4 + 4 + 5 + 4
        assert json.loads(await peer.receive()) == ["b", "x", "a2", "x"]
        assert batches.statistics().conflated == 1
        await batches.send('"a3"', key="a")
        assert json.loads(await peer.receive()) == ["a3"]


async def test_a_full_batch_still_takes_the_newest_of_a_key(autojump_clock):
    peer, ours = channel_pair(0)
    async with batch(ours, count=2, delay=0) as batches:
        await batches.send("0")
        await wait_all_tasks_blocked()
        await batches.send("1", key="k")
        await batches.send("2")
        for number in range(3, 100):
            batches.send_nowait(str(number), key="k")
        assert [await peer.receive() for _ in range(2)] == ["[0]", "[2,99]"]


async def test_a_slow_link_gets_fewer_and_larger_batches_of_newest_values(autojump_clock):
    conditions = Conditions(bandwidth=1000)
    async with open_pair(conditions=conditions) as pair, trio.open_nursery() as nursery:
        received = []

        @nursery.start_soon
        async def receive():
            async with batch(pair.client) as batches:
                async for message in batches:
                    received.append(json.loads(message))
                    if received[-1] == 999:
                        break

        async with batch(pair.server, delay=0.02) as batches:
            for number in range(1000):
                await batches.send(str(number), key="it")
                await trio.sleep(0.01)
            seen = batches.statistics()
    assert received == sorted(set(received))
    assert received[-1] == 999
    assert seen.conflated > 300


async def test_flush_waits_until_all_is_out(autojump_clock):
    peer, ours = channel_pair(0)
    async with batch(ours, delay=10) as batches, trio.open_nursery() as nursery:
        await batches.flush()
        await batches.send("0")
        await wait_all_tasks_blocked()
        await batches.send("1")
        flushed = []

        @nursery.start_soon
        async def flush():
            await batches.flush()
            flushed.append(trio.current_time())

        await trio.sleep(1)
        await peer.receive()
        assert flushed == []
        assert await peer.receive() == "[1]"
        await wait_all_tasks_blocked()
        assert flushed == [1]
        await batches.flush()
        assert trio.current_time() == 1


async def test_the_end_of_the_block_sends_what_waits(autojump_clock):
    before = tasks()
    peer, ours = channel_pair()
    async with batch(ours, delay=10) as batches:
        await batches.send("0")
        await peer.receive()
        await batches.send("1")
    assert await peer.receive() == "[1]"
    assert tasks() == before
    with pytest.raises(trio.ClosedResourceError):
        await batches.send("2")
    await ours.send("it is still open")


async def test_but_not_for_ever(autojump_clock):
    _, ours = channel_pair(0)
    async with batch(ours, close=3) as batches:
        await batches.send("0")
        await wait_all_tasks_blocked()
        await batches.send("1")
    assert trio.current_time() == pytest.approx(3)
    assert batches.statistics().dropped == 2


@pytest.mark.parametrize("error", [KeyError("x"), KeyboardInterrupt()])
async def test_an_exception_of_the_block_comes_out_bare_and_drops_what_waits(autojump_clock, error):
    peer, ours = channel_pair()
    seen = []

    async def block():
        async with batch(ours, delay=10) as batches:
            seen.append(batches)
            await batches.send("0")
            await peer.receive()
            await batches.send("1")
            raise error

    with pytest.raises(type(error)) as caught:
        await block()
    assert caught.value is error
    assert seen[0].statistics().dropped == 1


async def test_the_channels_error_is_that_of_the_next_send_and_of_the_end(autojump_clock):
    peer, ours = channel_pair()
    await peer.aclose()
    seen = []

    async def block():
        async with batch(ours) as batches:
            seen.append(batches)
            await batches.send("0")
            await wait_all_tasks_blocked()
            with pytest.raises(trio.BrokenResourceError):
                await batches.send("1")
            with pytest.raises(trio.BrokenResourceError):
                await batches.flush()

    with pytest.raises(trio.BrokenResourceError):
        await block()
    assert (seen[0].statistics().messages_sent, seen[0].statistics().dropped) == (0, 1)


async def test_whoever_waits_hears_of_the_error_too(autojump_clock):
    peer, ours = channel_pair(0)

    async def fails(batches):
        with pytest.raises(trio.BrokenResourceError):
            await batches.send("2")

    async def block():
        async with batch(ours, count=1) as batches, trio.open_nursery() as nursery:
            await batches.send("0")
            await wait_all_tasks_blocked()
            await batches.send("1")
            nursery.start_soon(fails, batches)
            await wait_all_tasks_blocked()
            await peer.aclose()

    with pytest.raises(trio.BrokenResourceError):
        await block()


async def test_closing_sends_what_waits_first(autojump_clock):
    async with open_pair() as pair:
        async with batch(pair.server, delay=10) as batches, trio.open_nursery() as nursery:
            await batches.send("0")
            assert await pair.client.receive() == "[0]"
            await batches.send("1")
            nursery.start_soon(batches.aclose, 4000, "enough")
            assert await pair.client.receive() == "[1]"
            with pytest.raises(trioweb.ConnectionBroken) as caught:
                await pair.client.receive()
        assert (caught.value.code, caught.value.reason) == (4000, "enough")
        with pytest.raises(trio.ClosedResourceError):
            await batches.receive()


async def test_a_handler_whose_peer_leaves_in_between_has_ended_normally(autojump_clock, caplog):
    async def handler(ws):
        async with batch(ws) as batches:
            async for message in batches:
                await batches.send(message)

    async with open_pair() as pair:
        with guard():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(handler, pair.server)
                await pair.client.send("[1,2]")
                assert await pair.client.receive() == "[1,2]"
                await pair.client.aclose()


@pytest.mark.parametrize(
    ("packing", "bad"),
    [
        (JSON_ARRAY, ["{}", "[", "", b"[1]", "[1,]", "[1] 2", "[" + "1," * 30 + "1]", "[tru]"]),
        (
            MSGPACK_ARRAY,
            [b"\x80", b"", "x", b"\x92\x01", b"\xdd\xff\xff\xff\xff", b"\x9f" + b"\1" * 15],
        ),
    ],
)
async def test_what_is_no_batch_is_an_invalid_message_and_the_next_one_comes(packing, bad):
    peer, ours = channel_pair()
    async with batch(ours, packing, most=10) as batches:
        for message in bad:
            await peer.send(message)
            with pytest.raises(trioweb.InvalidMessage):
                await batches.receive()
        good = "1" if packing is JSON_ARRAY else b"\1"
        await peer.send(packing.pack([good]))
        assert await batches.receive() == good


async def test_messages_of_a_batch_come_one_by_one_as_they_were_written():
    peer, ours = channel_pair()
    async with batch(ours) as batches:
        await peer.send("[]")
        await peer.send(' [ 1 ,{"a": [1,  2]},"ä\\u0041"] ')
        await peer.aclose()
        assert [one async for one in batches] == ["1", '{"a": [1,  2]}', '"ä\\u0041"']


async def test_a_cancelled_receive_loses_nothing(autojump_clock):
    peer, ours = channel_pair()
    async with batch(ours) as batches:
        await peer.send(json.dumps(list(range(300))))
        received: list[trioweb.Message] = []
        cancellations = 0
        while len(received) < 300:
            received.append(await batches.receive())
            with trio.CancelScope() as scope:
                scope.cancel()
                while len(received) < 300:
                    received.append(await batches.receive())
            cancellations += scope.cancelled_caught
        assert received == [str(number) for number in range(300)]
        assert cancellations >= 4


async def test_the_wrong_kind_is_refused_where_it_is_sent():
    _, ours = channel_pair()
    async with batch(ours) as batches:
        with pytest.raises(TypeError, match="text"):
            await batches.send(b"1")
    async with batch(ours, MSGPACK_ARRAY) as batches:
        with pytest.raises(TypeError, match="binary"):
            batches.send_nowait("1")


@pytest.mark.parametrize(
    "bounds",
    [{"count": 0}, {"size": 0}, {"most": 0}, {"delay": -1}, {"delay": math.nan}, {"close": 0}],
)
async def test_bounds_must_make_sense(bounds):
    with pytest.raises(ValueError, match=next(iter(bounds))):
        async with batch(channel_pair()[0], **bounds):
            raise AssertionError("the block must not run")


class Move(msgspec.Struct, tag="move"):
    x: int


async def test_typed_channels_stand_on_batches(autojump_clock):
    peer, ours = channel_pair()
    async with batch(ours) as batches, batch(peer) as theirs:
        typed = TypedChannel(batches, Json(Move))
        await theirs.send('{"type":"move","x":1}')
        await theirs.send('{"type":"move"}')
        await theirs.send('{"type":"move","x":2}')
        assert [await typed.receive(), await typed.receive()] == [Move(1), Move(2)]
        assert json.loads(await theirs.receive())["code"] == "invalid"
        await peer.send("no batch")
        await theirs.send('{"type":"move","x":3}')
        assert await typed.receive() == Move(3)
        assert json.loads(await theirs.receive())["code"] == "invalid"


@asynccontextmanager
async def both_ends(packing, **bounds):
    async with (
        open_pair(conditions=Conditions(bandwidth=20_000)) as pair,
        batch(pair.client, packing, **bounds) as one,
        batch(pair.server, packing, **bounds) as two,
    ):
        yield one, two


texts = st.recursive(
    st.none() | st.integers(-(2**31), 2**31) | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
)


@given(
    values=st.lists(texts, max_size=40),
    count=st.integers(1, 20),
    size=st.integers(1, 200),
    binary=st.booleans(),
)
def test_whatever_is_sent_arrives_once_and_in_order(values, count, size, binary):
    encoder = (
        msgspec.msgpack.encode if binary else lambda value: msgspec.json.encode(value).decode()
    )
    messages = [encoder(value) for value in values]

    async def main():
        packing = MSGPACK_ARRAY if binary else JSON_ARRAY
        ends = both_ends(packing, count=count, size=size)
        async with ends as (one, two), trio.open_nursery() as nursery:

            @nursery.start_soon
            async def send():
                for message in messages:
                    await one.send(message)

            assert [await two.receive() for _ in messages] == messages

    run_deterministic(main, seed=1)
