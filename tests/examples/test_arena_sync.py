"""Deltas: whatever is skipped, a client that applies what was written has the server's world."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from examples.arena import wire
from examples.arena.pilots import Crew
from examples.arena.simulation import CATCH_UP, FixedStep
from examples.arena.sync import (
    NOTHING,
    Feed,
    Mirror,
    OutOfStepError,
    Own,
    Sprite,
    View,
    changes,
    look,
    send_views,
)
from examples.arena.world import Coin, Player, Rules, World

SMALL = Rules(width=3200, height=3200, coins=6)


def told(text: str) -> wire.State:
    state = wire.decode_from_server(text)
    assert isinstance(state, wire.State)
    return state


# -- any two views

small = st.integers(0, 3)
sprites = st.builds(Sprite, small, small, small, st.sampled_from(["a", "b"]), small, st.booleans())
coins = st.builds(Coin, small, small, small)
views = st.builds(
    lambda players, money: View(1, 1, players, money),
    st.dictionaries(st.integers(1, 5), sprites),
    st.dictionaries(st.integers(1, 5), coins),
)


def feed_with(view: View) -> Feed:
    feed = Feed()
    feed.newest = view
    return feed


@given(st.lists(views, max_size=6))
def test_deltas_lead_from_any_view_to_any_other(sequence: list[View]) -> None:
    mirror, seen = Mirror(), NOTHING
    for number, content in enumerate(sequence, 1):
        view = View(number, number, content.players, content.coins)
        mirror.apply(told(feed_with(view).encode(seen, Own(0, 0, 0))))
        assert mirror.view == view
        seen = view


@given(views)
def test_nothing_changed_is_said_in_few_words(view: View) -> None:
    assert changes(view, view) == wire.Changes()
    assert bytes(wire.encode_raw(changes(view, view))) == b"{}"


def test_only_what_changed_is_in_the_delta() -> None:
    before = Sprite(1, 2, 0, "Ada", 40, bot=False)
    old = View(1, 1, {7: before, 8: before}, {3: Coin(1, 1)})
    new = View(2, 2, {7: before._replace(x=5), 8: before}, {4: Coin(2, 2)})
    assert changes(old, new) == wire.Changes(
        players=(wire.PlayerRow(7, x=5),), coins=(wire.CoinRow(4, 2, 2, 1),), coins_gone=(3,)
    )


# -- a real world, and clients of every speed


class AnySkipping(RuleBasedStateMachine):
    """Clients that are served or passed over in any order, while anything happens."""

    @initialize()
    def start(self) -> None:
        self.world = World(SMALL, seed=3)
        self.crew = Crew(self.world, 2, seed=3)
        self.feed = Feed()
        self.joined: list[Player] = []
        self.clients: list[tuple[Mirror, View]] = []
        self.names = 0

    @rule()
    def join(self) -> None:
        self.names += 1
        self.joined.append(self.world.join(f"player {self.names}"))

    @rule(which=st.integers(0, 99))
    def leave(self, which: int) -> None:
        if self.joined:
            self.world.leave(self.joined.pop(which % len(self.joined)))

    @rule(ticks=st.integers(1, 30))
    def play(self, ticks: int) -> None:
        for _ in range(ticks):
            self.crew.drive()
            for player in self.joined:
                self.world.accept(player, player.accepted + 1, 0.6, -0.8)
            self.world.step()

    @rule()
    def publish(self) -> None:
        self.feed.publish(self.world)

    @rule()
    def connect(self) -> None:
        self.clients.append((Mirror(), NOTHING))

    @rule(which=st.integers(0, 99))
    def write(self, which: int) -> None:
        if self.clients and self.feed.newest is not NOTHING:
            at = which % len(self.clients)
            mirror, seen = self.clients[at]
            mirror.apply(told(self.feed.encode(seen, Own(0, 0, 0))))
            self.clients[at] = mirror, self.feed.newest

    @invariant()
    def every_client_has_what_it_was_told_last(self) -> None:
        for mirror, seen in getattr(self, "clients", []):
            assert mirror.view == seen


TestAnySkipping = AnySkipping.TestCase
TestAnySkipping.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_a_view_is_the_world_as_it_stands() -> None:
    world = World(SMALL, seed=1)
    player = world.join("Ada")
    world.accept(player, 4, 1, 0)
    world.step()
    view = look(world, 9)
    assert (view.number, view.tick) == (9, 1)
    x, y, vx, vy = player.body
    assert view.players[player.id] == Sprite(x, y, 0, "Ada", player.hue, bot=False)
    assert view.own[player.id] == Own(4, vx, vy)
    assert view.coins == world.coins
    world.step()
    world.coins.clear()
    assert len(view.coins) == SMALL.coins  # a view never changes


def test_the_changes_are_encoded_once_for_all_who_saw_the_same() -> None:
    world, feed = World(SMALL, seed=1), Feed()
    feed.publish(world)
    first = feed.newest
    feed.publish(world)
    for ack in range(50):
        assert told(feed.encode(first, Own(ack, 0, 0))).ack == ack
    feed.encode(NOTHING, Own(0, 0, 0))
    assert feed.statistics().encoded == 2


def test_a_client_notices_a_state_that_does_not_fit() -> None:
    mirror = Mirror()
    with pytest.raises(OutOfStepError, match="since 4"):
        mirror.apply(wire.State(5, 4, 1, 0, (0, 0), wire.encode_raw(wire.Changes())))
    partial_row = wire.encode_raw(wire.Changes(players=(wire.PlayerRow(1, x=1),)))
    with pytest.raises(OutOfStepError, match="not complete"):
        mirror.apply(wire.State(1, 0, 1, 0, (0, 0), partial_row))


# -- the task that sends


class SlowClient:
    """A client whose kernel takes everything when the test opens its gate, and not before."""

    def __init__(self) -> None:
        self.gate = trio.Event()
        self.states: list[wire.State] = []

    async def wait_written(self) -> None:
        await self.gate.wait()

    async def send(self, message: str, /) -> None:
        await trio.lowlevel.checkpoint()
        self.states.append(told(message))


async def test_a_slow_client_skips_and_converges(autojump_clock: trio.testing.MockClock) -> None:
    world, feed, client = World(SMALL, seed=1), Feed(), SlowClient()
    player = world.join("Ada")

    async def play(views: int) -> None:
        for _ in range(views):
            world.accept(player, player.accepted + 1, 1, 0)
            world.step()
            feed.publish(world)
            await trio.testing.wait_all_tasks_blocked()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send_views, client, feed, player.id)
        await trio.testing.wait_all_tasks_blocked()
        client.gate.set()
        await play(3)
        assert [state.number for state in client.states] == [1, 2, 3]

        client.gate = trio.Event()
        await play(1)  # the sender is past its wait already
        await play(500)
        assert [state.number for state in client.states] == [1, 2, 3, 4]
        # No queue grew meanwhile: the client's one delta is made when it can be written.
        assert feed.statistics().encoded == 4

        client.gate.set()
        await trio.testing.wait_all_tasks_blocked()
        assert [(s.since, s.number) for s in client.states][3:] == [(3, 4), (4, 504)]
        assert feed.statistics().skipped == 499
        mirror = Mirror()
        for state in client.states:
            mirror.apply(state)
        assert mirror.view == feed.newest
        assert client.states[-1].ack == player.acknowledged

        # The player leaves, and so its sender ends by itself.
        world.leave(player)
        feed.publish(world)


# -- the loop


async def run_for(loop: FixedStep, seconds: float) -> None:
    with trio.move_on_after(seconds):
        await loop.run()


async def test_the_loop_keeps_its_rate(autojump_clock: trio.testing.MockClock) -> None:
    loop = FixedStep("test", 30, lambda: None)
    assert loop.statistics().rate == 0
    await run_for(loop, 100.01)
    statistics = loop.statistics()
    assert (statistics.steps, statistics.overruns, statistics.skipped) == (3000, 0, 0)
    assert statistics.rate == pytest.approx(30, rel=1e-3)


def slow_step(clock: trio.testing.MockClock, at: int, seconds: float) -> Callable[[], None]:
    """Return a step that takes very long, once."""
    count = 0

    def action() -> None:
        nonlocal count
        count += 1
        if count == at:
            clock.jump(seconds)

    return action


async def test_a_late_loop_catches_up(
    mock_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    mock_clock.autojump_threshold = 0
    loop = FixedStep("test", 10, slow_step(mock_clock, at=5, seconds=0.35))
    await run_for(loop, 2.01)
    statistics = loop.statistics()
    assert (statistics.steps, statistics.overruns, statistics.skipped) == (20, 1, 0)
    assert "test: 2 steps late, 0 skipped" in caplog.text


async def test_a_very_late_loop_gives_up_what_it_cannot_catch_up(
    mock_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    mock_clock.autojump_threshold = 0
    loop = FixedStep("test", 10, slow_step(mock_clock, at=5, seconds=5))
    await run_for(loop, 10.01)
    statistics = loop.statistics()
    assert statistics.overruns == 1
    assert statistics.skipped == 50 - CATCH_UP
    assert statistics.steps + statistics.skipped == 100
    assert caplog.text.count("WARNING") == 1


async def test_warnings_do_not_flood(
    mock_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    mock_clock.autojump_threshold = 0
    loop = FixedStep("test", 10, partial(mock_clock.jump, 0.25), catch_up=1)
    await run_for(loop, 20)
    assert loop.statistics().overruns > 30
    assert caplog.text.count("WARNING") <= 4
