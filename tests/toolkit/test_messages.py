"""Handlers by the type of the message: who is asked, what is answered, what middleware sees."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager

import msgspec
import pytest
import trio

import trioweb
from tests.channels import channel_pair
from tests.helpers import guard
from trioweb.codecs.json import Json
from trioweb.codecs.msgpack import MsgPack
from trioweb.testing import Reset, VirtualNetwork, open_pair
from trioweb.toolkit.messages import Messages
from trioweb.toolkit.typed import Tolerance, TypedChannel


class Move(msgspec.Struct, tag="move"):
    x: int


class Say(msgspec.Struct, tag="say"):
    text: str


class Said(msgspec.Struct, tag="said"):
    text: str
    by: str = ""


class Untagged(msgspec.Struct):
    x: int


class Moves(msgspec.Struct, tag="move"):
    x: int


class Kind(msgspec.Struct, tag="kind", tag_field="kind"):
    x: int


def talking(**options):
    messages = Messages(**options)

    @messages.on(Say)
    async def say(context: object, message: Say) -> Said:
        return Said(message.text, "" if isinstance(context, TypedChannel) else str(context))

    @messages.on(Move)
    async def move(context: object, message: Move) -> None:
        if isinstance(context, TypedChannel):
            for step in range(message.x):
                await context.send(Move(step))

    return messages


@asynccontextmanager
async def in_memory(messages, *context):
    """Serve one end of a channel in memory; give the other one."""
    peer, ours = channel_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(messages.serve, messages.open(ours), *context)
        yield peer
        await peer.aclose()


@asynccontextmanager
async def on_a_network(messages, *context):
    async with open_pair() as pair, trio.open_nursery() as nursery:
        nursery.start_soon(messages.serve, pair.server, *context)
        yield pair.client
        await pair.client.aclose()


everywhere = pytest.mark.parametrize(
    "place", [in_memory, on_a_network], ids=["memory", "websocket"]
)


@everywhere
async def test_each_message_goes_to_the_handler_of_its_type(autojump_clock, place):
    with guard():
        async with place(talking()) as peer:
            await peer.send('{"type":"say","text":"ä"}')
            assert await peer.receive() == '{"type":"said","text":"ä","by":""}'
            await peer.send('{"type":"move","x":2}')
            assert [json.loads(await peer.receive())["x"] for _ in range(2)] == [0, 1]


@everywhere
async def test_handlers_get_the_context(autojump_clock, place):
    with guard():
        async with place(talking(), "alice") as peer:
            await peer.send('{"type":"say","text":"hi"}')
            assert json.loads(await peer.receive())["by"] == "alice"


async def test_the_context_may_send_by_itself(autojump_clock):
    messages = Messages()

    class Player:
        def __init__(self, channel):
            self.channel = channel

    @messages.on(Move)
    async def move(player: Player, message: Move) -> None:
        await player.channel.send(message)

    peer, ours = channel_pair()
    typed = messages.open(ours)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(messages.serve, typed, Player(typed))
        await peer.send('{"type":"move","x":2}')
        assert await peer.receive() == '{"type":"move","x":2}'
        await peer.aclose()


async def test_they_are_a_handler_of_connections(autojump_clock):
    network = VirtualNetwork()
    with guard(), network.host("server"):
        async with trioweb.open_server(talking(), 0) as server:
            with network.host("client"):
                async with trioweb.connect(server.url) as ws:
                    await ws.send('{"type":"say","text":"hi"}')
                    assert json.loads(await ws.receive())["text"] == "hi"


@everywhere
async def test_an_unknown_type_is_answered_and_counted(autojump_clock, place):
    messages = talking(tolerance=Tolerance(1, 60))
    with guard(), pytest.RaisesGroup(trio.BrokenResourceError):
        async with place(messages) as peer:
            await peer.send('{"type":"fly"}')
            await peer.send('{"type":"say","text":"still here"}')
            answer = json.loads(await peer.receive())
            assert (answer["code"], answer["path"]) == ("unknown-type", "$.type")
            assert json.loads(await peer.receive())["text"] == "still here"
            await peer.send('{"type":"fly"}')
            with pytest.raises((trio.EndOfChannel, trio.BrokenResourceError)):
                await peer.receive()


async def test_message_pack(autojump_clock):
    async with in_memory(talking(codec=MsgPack)) as peer:
        await peer.send(MsgPack(Say).encode(Say("ä")))
        assert MsgPack(Said).decode(await peer.receive()) == Said("ä")


async def test_middleware_runs_around_each_message_outermost_first(autojump_clock):
    notes = []

    def noting(name):
        async def middleware(context, message, next):  # noqa: A002 - as in the documentation
            notes.append(f"{name} {type(message).__name__}")
            reply = await next(context, message)
            notes.append(f"{name} {reply}")
            return reply and Said(f"{reply.text}+{name}")

        return middleware

    outer = Messages(middleware=[noting("a"), noting("b")])
    outer.include(talking(middleware=[noting("c")]))
    async with in_memory(outer) as peer:
        await peer.send('{"type":"say","text":"hi"}')
        assert json.loads(await peer.receive())["text"] == "hi+c+b+a"
        await peer.send('{"type":"move","x":0}')
    assert [note.split()[0] for note in notes] == ["a", "b", "c", "c", "b", "a"] * 2
    assert notes[6] == "a Move"


async def test_middleware_may_answer_in_the_handlers_place(autojump_clock):
    async def refuse(context, message, next):  # noqa: A002
        return Said("no") if isinstance(message, Say) else await next(context, message)

    async with in_memory(talking(middleware=[refuse])) as peer:
        await peer.send('{"type":"say","text":"hi"}')
        assert json.loads(await peer.receive())["text"] == "no"
        await peer.send('{"type":"move","x":1}')
        assert json.loads(await peer.receive())["x"] == 0


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        (Untagged, "Untagged has no tag"),
        (Moves, "Moves and Move have one tag, 'move'"),
        (Move, "Move and Move have one tag"),
        (Kind, "Kind has its tag in 'kind', Say in 'type'"),
    ],
)
def test_types_must_be_told_apart(kind, says):
    messages = talking()

    async def handler(context, message): ...

    with pytest.raises(ValueError, match=says):
        messages.on(kind)(handler)


async def test_there_must_be_handlers():
    with pytest.raises(RuntimeError, match="no handlers"):
        await Messages().serve(channel_pair()[0])


async def test_types_that_come_later_are_for_connections_that_come_later(autojump_clock):
    messages = talking()

    class Late(msgspec.Struct, tag="late"):
        pass

    async with in_memory(messages) as peer:

        @messages.on(Late)
        async def late(context: object, message: Late) -> Said:
            return Said("late")

        await peer.send('{"type":"late"}')
        assert json.loads(await peer.receive())["code"] == "unknown-type"
    async with in_memory(messages) as peer:
        await peer.send('{"type":"late"}')
        assert json.loads(await peer.receive())["text"] == "late"


async def test_what_a_handler_raises_comes_out_as_it_is(autojump_clock):
    messages = Messages(codec=Json)

    @messages.on(Say)
    async def say(context: object, message: Say) -> None:
        raise KeyError(message.text)

    peer, ours = channel_pair()
    await peer.send('{"type":"say","text":"x"}')
    with pytest.raises(KeyError, match="x"):
        await messages.serve(ours)


async def test_any_other_end_is_raised():
    async with open_pair() as pair:
        pair.link.inject(Reset())
        with pytest.raises(trioweb.ConnectionBroken):
            await talking().serve(pair.server)
