"""Typed channels: what does not validate is answered, counted and skipped, within a tolerance."""

from __future__ import annotations

import json
import logging
from contextlib import asynccontextmanager

import msgspec
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

import trioweb
from tests.channels import channel_pair
from tests.helpers import guard
from trioweb.codecs.json import Json
from trioweb.codecs.msgpack import MsgPack
from trioweb.nothing import NOTHING
from trioweb.testing import FormCodec, VirtualNetwork, open_pair
from trioweb.testing import run as run_deterministic
from trioweb.toolkit.typed import Tolerance, TypedChannel
from trioweb.toolkit.wire import Error


class Move(msgspec.Struct, tag="move"):
    x: int


class Say(msgspec.Struct, tag="say"):
    text: str


CODEC = Json(Move | Say)


@asynccontextmanager
async def both_in_memory():
    yield channel_pair()


@asynccontextmanager
async def both_on_a_network():
    async with open_pair() as pair:
        yield pair.client, pair.server


@pytest.fixture(params=[both_in_memory, both_on_a_network], ids=["memory", "websocket"])
async def ends(request):
    """Two ends of one channel: the peer's, by hand, and ours."""
    with guard():
        async with request.param() as both:
            yield both


@pytest.mark.parametrize("codec", [CODEC, MsgPack(Move | Say)], ids=["json", "msgpack"])
async def test_values_go_both_ways(autojump_clock, ends, codec):
    here, there = (TypedChannel(one, codec) for one in ends)
    await here.send(Move(3))
    await here.send(Say("ä"))
    assert await there.receive() == Move(3)
    assert await there.receive() == Say("ä")
    await there.send(Say("back"))
    await there.aclose()
    assert [value async for value in here] == [Say("back")]
    with pytest.raises(trio.ClosedResourceError):
        await there.receive()


async def test_what_the_codec_cannot_express_is_not_sent(autojump_clock, ends):
    typed = TypedChannel(ends[1], CODEC)
    with pytest.raises(TypeError, match="unsupported"):
        await typed.send(object())
    await typed.send(Move(1))
    assert await ends[0].receive() == '{"type":"move","x":1}'


@pytest.mark.parametrize(
    ("message", "code", "path"),
    [
        ('{"type":"move","x":"1"}', "invalid", "$.x"),
        ('{"type":"fly"}', "unknown-type", "$.type"),
        ("{}", "invalid", "$"),
        ("what?", "invalid", "$"),
        (b"\x80", "invalid", "$"),
    ],
)
async def test_an_invalid_message_is_answered_with_its_path_and_skipped(
    autojump_clock, ends, message, code, path
):
    peer, typed = ends[0], TypedChannel(ends[1], CODEC)
    await peer.send(message)
    await peer.send('{"type":"say","text":"good"}')
    assert await typed.receive() == Say("good")
    answer = json.loads(await peer.receive())
    assert answer.pop("message")
    assert answer == {"type": "error", "code": code, "path": path}
    assert typed.statistics().invalid == 1


async def test_it_is_so_in_a_loop_too(autojump_clock, ends):
    peer, typed = ends[0], TypedChannel(ends[1], CODEC)
    for number in range(200):
        await peer.send(f'{{"type":"move","x":{number}}}' if number % 50 else "bad")
    await peer.aclose()
    assert [value.x async for value in typed] == [one for one in range(200) if one % 50]
    assert typed.statistics().invalid == 4


async def test_the_answer_may_be_another_or_none(autojump_clock, ends):
    peer, ours = ends
    typed = TypedChannel(ours, CODEC, answer=lambda invalid: {"no": invalid.path})
    silent = TypedChannel(ours, CODEC, answer=lambda _: None)
    for channel in (typed, silent):
        await peer.send('{"type":"move"}')
        await peer.send('{"type":"move","x":1}')
        assert await channel.receive() == Move(1)
    await ours.send("last")
    assert [await peer.receive(), await peer.receive()] == ['{"no":"$"}', "last"]


async def test_two_ends_that_do_not_understand_each_other_do_not_answer_answers(
    autojump_clock, ends
):
    here = TypedChannel(ends[0], Json(Say))
    there = TypedChannel(ends[1], Json(Move))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(here.receive)
        nursery.start_soon(there.receive)
        await here.send(Say("?"))
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert (there.statistics().invalid, there.statistics().ignored) == (1, 0)
        assert (here.statistics().invalid, here.statistics().ignored) == (0, 1)
        nursery.cancel_scope.cancel()


async def test_a_type_with_errors_in_it_receives_them(autojump_clock, ends):
    here = TypedChannel(ends[0], Json(Say | Error))
    there = TypedChannel(ends[1], Json(Move))
    await here.send(Say("?"))
    await here.send(Move(1))
    assert await there.receive() == Move(1)
    answer = await here.receive()
    assert isinstance(answer, Error)
    assert (answer.code, answer.path) == ("unknown-type", "$.type")


async def test_too_many_end_the_connection(autojump_clock, ends):
    peer, typed = ends[0], TypedChannel(ends[1], CODEC, tolerance=Tolerance(2, 60))
    for _ in range(3):
        await peer.send("bad")
    with pytest.raises(trio.BrokenResourceError) as caught:
        await typed.receive()
    assert isinstance(caught.value.__cause__, trioweb.InvalidMessage)
    assert typed.statistics().invalid == 3
    for _ in range(2):
        assert json.loads(await peer.receive())["code"] == "invalid"
    if isinstance(peer, trioweb.WebSocket):
        assert isinstance(caught.value, trioweb.ConnectionBroken)
        with pytest.raises(trioweb.ConnectionBroken) as broken:
            await peer.receive()
        assert (broken.value.code, broken.value.reason) == (1007, "too many invalid messages")
    else:
        with pytest.raises(trio.EndOfChannel):
            await peer.receive()
    with pytest.raises(trio.ClosedResourceError):
        await typed.receive()


async def test_a_handler_whose_peer_sends_too_many_has_ended_normally(caplog, autojump_clock):
    async def handler(ws):
        typed = TypedChannel(ws, CODEC, tolerance=Tolerance(0, 60, code=1008))
        async for _ in typed:
            raise AssertionError("nothing is valid here")

    network = VirtualNetwork()
    with guard(), network.host("server"):
        async with trioweb.open_server(handler, 0) as server:
            with network.host("client"):
                async with trioweb.connect(server.url) as ws:
                    await ws.send("bad")
                    with pytest.raises(trioweb.ConnectionBroken) as caught:
                        await ws.receive()
    assert caught.value.code == 1008
    assert "the handler failed" not in caplog.text


async def test_few_at_a_time_may_go_on_for_ever(autojump_clock, ends):
    peer, typed = ends[0], TypedChannel(ends[1], CODEC, tolerance=Tolerance(2, 10))
    for _ in range(20):
        await peer.send("bad")
        await peer.send('{"type":"move","x":1}')
        assert await typed.receive() == Move(1)
        assert json.loads(await peer.receive())["code"] == "invalid"
        await trio.sleep(5.01)
    assert typed.statistics().invalid == 20


async def test_a_peer_that_left_is_not_answered_and_its_messages_still_count():
    peer, ours = channel_pair()
    typed = TypedChannel(ours, CODEC)
    await peer.send("bad")
    await peer.send('{"type":"move","x":1}')
    await peer.aclose()
    assert [value async for value in typed] == [Move(1)]


async def test_a_slow_peer_is_waited_for_with_an_answer_and_a_cancelled_receive_loses_nothing():
    peer, ours = channel_pair(1)
    typed = TypedChannel(ours, CODEC)
    await ours.send("fills it")
    await peer.send("bad")
    with trio.move_on_after(0.01) as scope:
        await typed.receive()
    assert scope.cancelled_caught
    await peer.send('{"type":"move","x":1}')
    assert await typed.receive() == Move(1)
    assert await peer.receive() == "fills it"


async def test_what_is_wrong_is_logged_in_one_line(autojump_clock, caplog, ends):
    caplog.set_level(logging.INFO, "trioweb.toolkit")
    peer, typed = ends[0], TypedChannel(ends[1], CODEC)
    await peer.send('{"type":"a\\nb\u2028"}')
    await peer.send('{"type":"move","x":1}')
    await typed.receive()
    (record,) = [one for one in caplog.records if one.name == "trioweb.toolkit"]
    assert len(record.getMessage().splitlines()) == 1
    assert "$.type" in record.getMessage()


class Pieces(FormCodec):
    """A codec of somebody else's, with plain errors."""


async def test_any_codec_will_do(autojump_clock, ends):
    peer = ends[0]
    typed = TypedChannel(ends[1], Pieces(), answer=lambda invalid: {"error": invalid.message})
    await peer.send("a")
    await peer.send("a=1")
    assert await typed.receive() == {"a": "1"}
    assert (await peer.receive()).startswith("error=")


class Decoding(trio.abc.Channel[trioweb.Message]):
    """A channel below that finds messages invalid itself, as one that unpacks does."""

    def __init__(self, *messages):
        self.messages = list(messages)
        self.sent = []

    async def receive(self):
        await trio.lowlevel.checkpoint()
        message = self.messages.pop(0)
        if isinstance(message, Exception):
            raise message
        return message

    async def send(self, message):
        self.sent.append(message)

    async def aclose(self): ...


async def test_a_codec_built_on_ours_does_what_it_adds(autojump_clock, ends):
    class Doubling(Json[int]):
        __slots__ = ()

        def encode(self, value, /):
            return super().encode(2 * value)

        def decode(self, message, /):
            return super().decode(message) + 1

    here, there = (TypedChannel(one, Doubling(int)) for one in ends)
    await here.send(1)
    await here.send(2)
    await trio.sleep(1)
    assert [await there.receive(), await anext(there)] == [3, 5]


async def test_what_the_channel_below_finds_invalid_is_answered_too():
    below = Decoding(trioweb.InvalidMessage("torn", path="$[3]"), '{"type":"move","x":1}')
    typed = TypedChannel(below, CODEC)
    assert await typed.receive() == Move(1)
    assert json.loads(below.sent[0])["path"] == "$[3]"


@pytest.mark.parametrize("options", [(-1, 1), (1, 0), (1, float("nan")), (1, 1, 1006)])
def test_a_tolerance_must_make_sense(options):
    with pytest.raises(ValueError, match=r"tolerance|1006"):
        Tolerance(*options)


async def test_receiving_runs_a_checkpoint_at_least_every_64_calls():
    async with open_pair() as pair:
        for _ in range(300):
            await pair.client.send('{"type":"move","x":1}')
        typed = TypedChannel(pair.server, CODEC)
        await typed.receive()
        with trio.CancelScope() as scope:
            scope.cancel()
            for _ in range(64):
                await typed.receive()
        assert scope.cancelled_caught


END = Say("the end of the script, longer than any drawn text")
values = st.integers(-(2**53), 2**53).map(Move) | st.text(max_size=20).map(Say)
bad = st.sampled_from(['{"type":"move"}', "[]", "", b"", '{"type":"nobody"}', '{"type":1}', "\0"])


@given(script=st.lists(values | bad | st.binary(max_size=8), max_size=30))
def test_every_valid_message_comes_in_order_and_every_other_is_answered(script):
    async def main():
        async with open_pair() as pair:
            typed = TypedChannel(pair.server, CODEC, tolerance=Tolerance(100, 60))
            for one in script:
                valid = isinstance(one, Move | Say)
                await pair.client.send(CODEC.encode(one) if valid else one)
            await pair.client.send(CODEC.encode(END))
            received = [await typed.receive()]
            while received[-1] != END:
                received.append(await typed.receive())
            good = [one for one in script if isinstance(one, Move | Say)]
            assert received == [*good, END]
            wrong = len(script) - len(good)
            assert typed.statistics().invalid == wrong
            for _ in range(wrong):
                assert json.loads(await pair.client.receive())["type"] == "error"

    run_deterministic(main, seed=1)


async def test_null_is_a_value(autojump_clock, ends):
    typed = TypedChannel(ends[1], Json(object))
    for message in ("null", "1", "null"):
        await ends[0].send(message)
    await trio.sleep(1)
    assert [await typed.receive() for _ in range(3)] == [None, 1, None]


async def test_what_is_wrong_among_messages_that_wait_is_answered_in_order(autojump_clock, ends):
    peer, typed = ends[0], TypedChannel(ends[1], CODEC)
    right = '{"type":"move","x":%d}'
    for message in (
        right % 1,
        b'{"type":"move","x":2}',
        '{"type":"move","x":' + "[" * 10_000,
        right % 3,
        "{",
        right % 4,
    ):
        await peer.send(message)
    await trio.sleep(1)
    received = []
    with trio.move_on_after(1):
        async for value in typed:
            received.append(value)
            await typed.send(value)
    assert received == [Move(1), Move(3), Move(4)]
    answers = [json.loads(await peer.receive()) for _ in range(6)]
    assert [one["type"] for one in answers] == ["move", "error", "error", "move", "error", "move"]
    assert "binary" in answers[1]["message"]
    assert answers[2]["path"] == "$.x"
    assert typed.statistics().invalid == 3


async def test_what_take_could_not_decode_comes_before_all_that_is_behind(autojump_clock):
    async with open_pair() as (peer, server, _):
        typed = TypedChannel(server, CODEC)
        for message in ("{", "[", '{"type":"move","x":1}'):
            await peer.send(message)
        await trio.sleep(1)
        for _ in range(3):
            assert typed.take() is NOTHING
        assert await typed.receive() == Move(1)
        assert typed.statistics().invalid == 2


@pytest.mark.parametrize("size", [1, 100_000])
async def test_raw_bytes_in_a_value_that_are_no_text_are_not_sent(autojump_clock, ends, size):
    here, there = (TypedChannel(one, Json(object)) for one in ends)
    with pytest.raises(TypeError, match="no message can hold"):
        await here.send([msgspec.Raw(b'"\xff"'), "x" * size])
    await here.send(["it goes on"])
    assert await there.receive() == ["it goes on"]


@pytest.mark.parametrize("size", [10_000, 16_384, 70_000])
async def test_values_of_any_size_and_script_leave_as_they_are(autojump_clock, ends, size):
    here, there = (TypedChannel(one, CODEC) for one in ends)
    said = Say("ä€😀" * (size // 10))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(here.send, said)
        assert await there.receive() == said


async def test_a_value_that_only_the_encoder_refuses_is_told_apart(autojump_clock, ends):
    typed = TypedChannel(ends[1], CODEC)
    deep: list[object] = []
    for _ in range(10_000):
        deep = [deep]
    for value in (deep, Say("\ud800")):
        with pytest.raises(TypeError, match="no message can hold"):
            await typed.send(value)
    await typed.send(Move(1))
    assert await ends[0].receive() == '{"type":"move","x":1}'
