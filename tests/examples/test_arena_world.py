"""The rules of the arena: moving, joining, collecting, and what is not allowed."""

from __future__ import annotations

import random

import pytest
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from examples.arena.pilots import Crew, Pilot
from examples.arena.referee import STRIKES, Referee
from examples.arena.world import (
    BACKLOG,
    Body,
    Coin,
    NameRefusedError,
    RejectedError,
    Rules,
    World,
    step,
)

RULES = Rules()
direction = st.tuples(st.floats(-1, 1), st.floats(-1, 1)).filter(
    lambda d: d[0] ** 2 + d[1] ** 2 <= 1
)


def quiet_world(**rules: int) -> World:
    """Return a world without coins, so that only what a test does happens."""
    return World(Rules(coins=0, **rules), seed=1)


# -- the step


@given(st.lists(direction, max_size=80))
def test_a_body_stays_on_the_grid_and_inside(wishes: list[tuple[float, float]]) -> None:
    body = Body(RULES.width // 2, RULES.height // 2)
    for dx, dy in wishes:
        body = step(body, dx, dy, RULES)
        assert all(isinstance(value, int) for value in body)
        assert RULES.radius <= body.x <= RULES.width - RULES.radius
        assert RULES.radius <= body.y <= RULES.height - RULES.radius


@given(direction)
def test_nobody_is_faster_than_the_speed_limit(wish: tuple[float, float]) -> None:
    body = Body(RULES.width // 2, RULES.height // 2)
    for _ in range(20):
        body = step(body, *wish, RULES)
        assert body.vx**2 + body.vy**2 <= RULES.speed**2


@given(direction)
def test_who_lets_go_comes_to_rest_and_then_nothing_changes(wish: tuple[float, float]) -> None:
    body = Body(RULES.width // 2, RULES.height // 2)
    for _ in range(20):
        body = step(body, *wish, RULES)
    for _ in range(60):
        body = step(body, 0, 0, RULES)
    assert (body.vx, body.vy) == (0, 0)
    # The page sends no input for such a step, so it must be the identity.
    assert step(body, 0, 0, RULES) == body


def test_no_direction_is_faster_than_its_opposite() -> None:
    start = Body(RULES.width // 2, RULES.height // 2)
    there = back = start
    for _ in range(25):
        there, back = step(there, 0.7, 0.3, RULES), step(back, -0.7, -0.3, RULES)
    # Rounding halves goes upwards on either side: a grain each step at most.
    assert abs((there.x - start.x) + (back.x - start.x)) <= 25
    assert abs((there.y - start.y) + (back.y - start.y)) <= 25


def test_a_wall_stops() -> None:
    body = Body(RULES.radius + 10, RULES.height // 2)
    for _ in range(10):
        body = step(body, -1, 0, RULES)
    assert (body.x, body.vx) == (RULES.radius, 0)


# -- names


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", "at least one letter"),
        ("  \t ", "at least one letter"),
        ("\u3164", "at least one letter"),  # a letter that shows nothing
        ("\u2800", "at least one letter"),  # a Braille pattern without dots
        ("\u0301", "at least one letter"),  # an accent on nothing
        ("x" * 17, "at most 16"),
        ("a\u200bb", "printable"),
        ("a\x07b", "printable"),
        ("ada", "taken"),
        ("ＡＤＡ", "taken"),  # full-width letters look like another name, and are not
    ],
)
def test_names_that_cannot_be_had(name: str, reason: str) -> None:
    world = quiet_world()
    world.join("Ada")
    with pytest.raises(NameRefusedError, match=reason):
        world.join(name)
    assert [player.name for player in world.players.values()] == ["Ada"]


def test_a_name_is_tidied_and_free_again_after_leaving() -> None:
    world = quiet_world()
    player = world.join("  Ada \n Byron ")
    assert player.name == "Ada Byron"
    world.leave(player)
    world.leave(player)
    assert world.join("ada byron").id != player.id


# -- inputs


def test_one_input_is_one_step() -> None:
    world = quiet_world()
    player = world.join("Ada")
    expected = player.body
    for seq in range(1, 11):
        world.accept(player, seq, 1, 0)
        world.step()
        expected = step(expected, 1, 0, world.rules)
        assert player.body == expected
        assert player.acknowledged == seq


def test_without_inputs_a_player_stands_still() -> None:
    world = quiet_world()
    player = world.join("Ada")
    world.accept(player, 1, 1, 0)
    world.step()
    body = player.body
    world.step()
    assert player.body == body


@pytest.mark.parametrize(
    ("seq", "dx", "dy", "reason"),
    [
        (5, 1.0, 0.0, "after input 5"),
        (4, 1.0, 0.0, "after input 5"),
        (6, 0.8, 0.8, "longer than 1"),
        (6, float("nan"), 0.0, "longer than 1"),
        (6, float("inf"), 0.0, "longer than 1"),
    ],
)
def test_an_input_against_the_rules_changes_nothing(
    seq: int, dx: float, dy: float, reason: str
) -> None:
    world = quiet_world()
    player = world.join("Ada")
    world.accept(player, 5, 0, 0)
    world.step()
    before = player.body
    with pytest.raises(RejectedError, match=reason):
        world.accept(player, seq, dx, dy)
    world.step()
    assert player.body == before
    assert player.acknowledged == 5
    world.accept(player, 6, 1, 0)  # the next honest one is taken


@given(st.lists(st.integers(0, 12), min_size=1, max_size=120))
def test_flooding_gains_five_percent_at_most(inputs_per_tick: list[int]) -> None:
    world = quiet_world()
    player = world.join("Ada")
    steps = 0
    for inputs in inputs_per_tick:
        for _ in range(inputs):
            world.accept(player, player.accepted + 1, 0, 0)
        waiting = len(player.wishes)
        world.step()
        steps += waiting - len(player.wishes)
    assert steps <= len(inputs_per_tick) * 1.05 + BACKLOG


def test_saved_steps_are_taken_at_once_and_then_one_a_tick() -> None:
    world = quiet_world()
    player = world.join("Ada")
    for _ in range(100):
        world.step()
    left: list[int] = []
    for _ in range(3):
        while len(player.wishes) < BACKLOG:
            world.accept(player, player.accepted + 1, 0, 0)
        world.step()
        left.append(len(player.wishes))
    assert left == [0, BACKLOG - 1, BACKLOG - 1]


def test_a_backlog_keeps_the_newest_and_acknowledges_past_the_rest() -> None:
    world = quiet_world()
    player = world.join("Ada")
    for seq in range(1, 101):
        world.accept(player, seq, 1, 0)
    assert [wish.seq for wish in player.wishes] == list(range(91, 101))
    world.step()
    assert player.acknowledged == 100


# -- coins


def test_collecting_scores_and_the_coin_is_replaced() -> None:
    world = World(Rules(coins=3), seed=2)
    player = world.join("Ada")
    coin_id, coin = 1000, Coin(player.body.x + 10, player.body.y, 5)
    world.coins = {coin_id: coin}
    world.accept(player, 1, 0, 0)
    world.step()
    assert player.score == 5
    assert coin_id not in world.coins
    assert len(world.coins) == 3


def test_two_on_one_coin_only_one_gets_it() -> None:
    world = World(Rules(coins=1), seed=2)
    first, second = world.join("Ada"), world.join("Bob")
    second.body = first.body
    world.coins = {1000: Coin(first.body.x, first.body.y)}
    for player in (first, second):
        world.accept(player, 1, 0, 0)
    world.step()
    assert (first.score, second.score) == (1, 0)


def test_the_same_seed_gives_the_same_game() -> None:
    def play() -> tuple[object, ...]:
        world = World(seed=7)
        crew = Crew(world, 5, seed=7)
        for _ in range(200):
            crew.drive()
            world.step()
        return tuple((p.name, p.body, p.score) for p in world.players.values())

    assert play() == play()
    assert sum(score for *_, score in play()) > 0  # type: ignore[misc, has-type]


def test_a_world_needs_some_room() -> None:
    with pytest.raises(ValueError, match="at least 80 units"):
        Rules(width=100)


# -- bots, referee


def test_a_crew_larger_than_the_list_of_names_has_distinct_names() -> None:
    world = quiet_world()
    world.join("Bolt")
    Crew(world, 60, seed=1)
    assert len({player.name.casefold() for player in world.players.values()}) == 61


def test_a_pilot_without_coins_rests() -> None:
    assert Pilot(random.Random(1)).steer(0, 0, {}) == (0, 0)
    assert Pilot(random.Random(1)).steer(5, 5, {1: Coin(5, 5)}) == (0, 0)


@given(st.integers(-99999, 99999), st.integers(-99999, 99999))
def test_a_pilot_stays_within_the_rules(x: int, y: int) -> None:
    dx, dy = Pilot(random.Random(1)).steer(x, y, {1: Coin(0, 0)})
    assert dx * dx + dy * dy <= 1


async def test_the_referee_sends_off_at_the_twentieth_strike_and_forgives(
    mock_clock: trio.testing.MockClock,
) -> None:
    referee = Referee(30)
    assert [referee.strike() for _ in range(STRIKES)] == [False] * (STRIKES - 1) + [True]
    patient = Referee(30)
    for _ in range(1000):
        assert not patient.strike()
        mock_clock.jump(1)


async def test_the_referee_takes_a_burst_but_not_a_flood(
    mock_clock: trio.testing.MockClock,
) -> None:
    referee = Referee(30)
    for _ in range(300):
        referee.check_input()
    with pytest.raises(RejectedError, match="faster than ticks"):
        referee.check_input()
    honest = Referee(30)
    for _ in range(3000):
        honest.check_input()
        mock_clock.jump(1 / 30)
    for _ in range(10):
        honest.check_ping()
    with pytest.raises(RejectedError, match="pings"):
        honest.check_ping()
