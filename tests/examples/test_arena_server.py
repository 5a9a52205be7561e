"""The arena as clients meet it: a real server in this process, and real connections to it."""

from __future__ import annotations

import gc
import json
import logging
from contextlib import AsyncExitStack, suppress
from functools import partial

import pytest
import trio
import trio.testing

import trioweb
from examples.arena import wire
from examples.arena.referee import STRIKES
from examples.arena.server import (
    JOIN_DEADLINE,
    TAKEN_OVER,
    Arena,
    Options,
    open_arena_listeners,
    serve_arena,
)
from examples.arena.sync import View

from .arena_kit import get, joined, refused, serving

# -- joining


async def test_who_joins_gets_the_rules_a_snapshot_and_then_deltas() -> None:
    async with serving() as running, joined(running.url, " Ada ") as ada:
        assert ada.welcome.name == "Ada"
        assert ada.welcome.rules == running.arena.world.rules
        await ada.next()
        assert ada.state is not None
        assert ada.state.since == 0
        first = ada.state.number
        assert len(ada.mirror.view.coins) == 4
        await ada.next()
        assert ada.state.since == first


async def test_what_one_does_the_other_sees() -> None:
    async with (
        serving() as running,
        joined(running.url, "Ada") as ada,
        joined(running.url, "Bob") as bob,
    ):
        await ada.until(lambda view: ada.welcome.id in view.players)
        x, y = ada.position
        direction = 1 if x < running.arena.world.rules.width / 2 else -1
        for _ in range(10):
            await ada.move(direction, 0)
        await bob.until(lambda view: ada.welcome.id in view.players)
        await bob.until(lambda view: abs(view.players[ada.welcome.id].x - x) > 500)
        assert bob.mirror.view.players[ada.welcome.id].y == y
        await ada.until_acknowledged(10)
        assert ada.state is not None
        assert ada.state.velocity[0] * direction > 0


@pytest.mark.parametrize(
    ("first", "reason"),
    [
        ('{"t":"join","name":"ada"}', "the name ada is taken"),
        ('{"t":"join","name":"Ada","key":"guessed"}', "the name Ada is taken"),
        ('{"t":"join","name":""}', "a name needs at least one letter"),
        ('{"t":"join","name":"aaaaaaaaaaaaaaaaaaaaaa"}', "a name has at most 16 characters"),
        ('{"t":"join"}', "Object missing required field `name`"),
        ('{"t":"ping","at":1}', "the first message must be a join"),
        (b'{"t":"join","name":"Bob"}', "expected a text message, not a binary one"),
    ],
)
async def test_refused_with_a_reason(first: str | bytes, reason: str) -> None:
    async with serving() as running, joined(running.url, "Ada", key="secret") as ada:
        assert await refused(running.url, first) == (1008, reason)
        await ada.next()  # and nothing happened to who was there
        assert len(running.arena.world.players) == 1


async def test_two_at_once_with_one_name() -> None:
    async with serving() as running:
        outcome: list[str] = []

        async def attempt() -> None:
            async with trioweb.connect(running.url) as ws:
                await ws.send(wire.encode(wire.Join("Ada")))
                try:
                    await ws.receive()
                    outcome.append("welcome")
                    await ws.receive()
                except trioweb.ConnectionEnded as end:
                    outcome.append(end.reason)

        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(attempt)
        assert sorted(outcome) == ["the name Ada is taken"] * 3 + ["welcome"]


async def test_no_name_within_the_deadline(autojump_clock: trio.testing.MockClock) -> None:
    async with serving() as running, trioweb.connect(running.url) as ws:
        start = trio.current_time()
        with pytest.raises(trioweb.ConnectionBroken) as end:
            await ws.receive()
        assert trio.current_time() - start == pytest.approx(JOIN_DEADLINE, abs=0.5)
        assert end.value.code == 1008


async def test_a_name_is_free_again_when_its_player_has_gone() -> None:
    async with serving() as running:
        for _ in range(3):
            async with joined(running.url, "Ada") as ada:
                await ada.next()
        assert running.arena.statistics().clients == 0
        assert not running.arena.world.players


async def test_the_same_browser_takes_its_player_over() -> None:
    async with serving() as running, joined(running.url, "Ada", key="secret") as old:
        running.arena.world.players[old.welcome.id].score = 7
        for _ in range(5):
            await old.move(0, 0)
        await old.until_acknowledged(5)
        async with joined(running.url, "Ada", key="secret") as new:
            assert new.welcome.id == old.welcome.id
            end, _ = await old.until_ended()
            assert end.code == TAKEN_OVER
            view = await new.until(lambda view: new.welcome.id in view.players)
            assert view.players[new.welcome.id].score == 7
            await new.move(0, 0)  # its inputs are counted anew
            await new.until_acknowledged(1)
            assert new.state is not None
            assert new.state.ack == 1
            assert running.arena.statistics().clients == 1


async def test_a_message_that_the_old_connection_had_already_is_not_obeyed() -> None:
    async with serving() as running, joined(running.url, "Ada", key="secret") as old:
        (seat,) = running.arena._seats.values()
        seat.taken_over = True  # as the takeover leaves it, before the cancellation arrives
        for _ in range(5):
            await old.move(0, 0)
        end, _ = await old.until_ended()
        assert end.code == TAKEN_OVER
        assert seat.player.accepted == 0


async def test_taking_over_clears_no_strikes() -> None:
    async with serving() as running, AsyncExitStack() as stack:
        for bad in (STRIKES - 2, 2):
            eve = await stack.enter_async_context(joined(running.url, "Eve", key="secret"))
            for _ in range(bad):
                await eve.ws.send("nonsense")
            if bad > 2:
                assert [type(await eve.answer()) for _ in range(bad)] == [wire.Error] * bad
        end, _ = await eve.until_ended()
        assert end.code == 1008


async def test_a_full_arena_says_so() -> None:
    async with serving(max_players=1) as running, joined(running.url, "Ada"):
        assert await refused(running.url, '{"t":"join","name":"Bob"}') == (
            1008,
            "the arena is full, come back later",
        )


async def test_what_a_client_sends_cannot_write_lines_into_the_log() -> None:
    async with serving() as running, joined(running.url, "Ada") as ada:
        await ada.ws.send('{"t":"input","x\\nERROR \\u001b[31m":1,"seq":1,"dx":0,"dy":0}')
        answer = await ada.answer()
        assert isinstance(answer, wire.Error)
        assert answer.reason.isprintable()


# -- playing against the rules


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ("nonsense", "JSON is malformed"),
        ('{"t":"input","seq":1,"dx":1.5,"dy":0}', "at `$.dx`"),
        ('{"t":"input","seq":1,"dx":0.9,"dy":0.9}', "longer than 1"),
        ('{"t":"join","name":"Eve"}', "you have joined already"),
        (b"\x00\x01", "binary"),
    ],
)
async def test_a_bad_message_gets_an_error_and_is_ignored(
    message: str | bytes, reason: str
) -> None:
    async with serving() as running, joined(running.url, "Ada") as ada:
        await ada.until(lambda view: ada.welcome.id in view.players)
        before = ada.position
        await ada.ws.send(message)
        answer = await ada.answer()
        assert isinstance(answer, wire.Error)
        assert reason in answer.reason
        await ada.next()
        assert ada.position == before
        await ada.move(0, 0)  # an honest one is welcome as before
        await ada.until_acknowledged(1)


async def test_numbers_that_do_not_rise_are_ignored() -> None:
    async with serving() as running, joined(running.url, "Ada") as ada:
        await ada.ws.send(wire.encode(wire.Input(9, 0, 0)))
        await ada.ws.send(wire.encode(wire.Input(9, 1, 0)))
        answer = await ada.answer()
        assert answer == wire.Error("input 9 came after input 9")


@pytest.mark.parametrize("message", ["nonsense", '{"t":"' + 200 * "é" + '"}'])
async def test_repeated_abuse_is_closed(message: str) -> None:
    async with serving() as running, joined(running.url, "Eve") as eve:
        for _ in range(STRIKES):
            await eve.ws.send(message)
        end, errors = await eve.until_ended()
        assert errors == STRIKES - 1
        assert end.code == 1008
        assert end.reason.startswith("too many bad messages")
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert not running.arena.world.players


async def test_a_flood_of_inputs_is_closed_and_gains_nothing() -> None:
    async with serving() as running, joined(running.url, "Eve") as eve:

        async def flood() -> None:
            with suppress(trio.BrokenResourceError):
                for _ in range(1000):
                    await eve.move(0, 0)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(flood)
            end, _ = await eve.until_ended()
        assert end.code == 1008
        assert "faster than ticks" in end.reason


async def test_a_message_too_big_ends_only_its_own_connection() -> None:
    async with (
        serving() as running,
        joined(running.url, "Ada") as ada,
        joined(running.url, "Eve") as eve,
    ):
        await eve.ws.send("x" * 5000)
        end, _ = await eve.until_ended()
        assert end.code == 1009
        await ada.until(lambda view: list(view.players) == [ada.welcome.id])


async def test_a_ping_is_echoed() -> None:
    async with serving() as running, joined(running.url, "Ada") as ada:
        await ada.ws.send(wire.encode(wire.Ping(12.25)))
        assert await ada.answer() == wire.Pong(12.25)


# -- slow clients


async def test_a_stalled_client_costs_one_view_and_converges(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with (
        serving(bots=60, send_buffer=2**12) as running,
        joined(running.url, "Ada") as ada,
        joined(running.url, "Slow", receive_buffer=2**12) as slow,
    ):
        arena = running.arena
        await slow.next()
        number = slow.mirror.view.number
        with trio.move_on_after(18):  # below `Timeouts.write`: then it would be given up
            while True:
                await ada.next()
        assert arena.feed.newest.number - number > 300

        # One view for each client and the newest: nothing piled up for the slow one.
        gc.collect()
        alive = sum(type(thing) is View for thing in gc.get_objects())
        assert alive <= 2 * 2 + 3
        for ws in running.server.connections:
            assert ws.statistics().outbox_frames <= 2

        await ada.until(lambda view: view.number == arena.feed.newest.number)
        await slow.until(lambda view: view.number == arena.feed.newest.number)
        assert slow.mirror.view.players == arena.feed.newest.players
        assert slow.mirror.view.coins == arena.feed.newest.coins
        # Counted as the next state is written: most of those in between never were.
        skipped = arena.feed.statistics().skipped
        assert skipped > 200


# -- around the game


async def test_a_drain_says_so_and_ends_the_server(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with trio.open_nursery() as nursery:
        arena = Arena(Options(port=0, bots=3))
        listeners = await open_arena_listeners("localhost", 0)
        server = await nursery.start(partial(serve_arena, arena, listeners))
        async with joined(server.url, "Ada") as ada:
            await ada.next()
            nursery.start_soon(server.drain)
            end, _ = await ada.until_ended()
            assert isinstance(end, trio.EndOfChannel)
            assert end.code == 1001
    # The nursery has ended, and so the server and all of its tasks.
    assert "the end: Statistics(clients=0, players=3" in caplog.text


async def test_plain_requests_on_the_same_port() -> None:
    async with serving(bots=2) as running, joined(running.url, "Ada") as ada:
        await ada.next()
        status, _, body = await get(running.url, "/")
        assert status == 200
        assert "<title>Arena</title>" in body
        status, head, _ = await get(running.url, "/arena.js")
        assert status == 200
        assert "javascript" in head.lower()
        assert (await get(running.url, "/health"))[0] == 200
        assert (await get(running.url, "/server.py"))[0] == 404
        status, head, body = await get(running.url, "/stats")
        assert "application/json" in head.lower()
        stats = json.loads(body)
        assert stats["clients"] == 1
        assert stats["players"] == 3
        assert stats["skipped_ticks"] == 0
        assert stats["states_written"] >= 1
