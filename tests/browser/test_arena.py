"""The arena as people meet it: real pages in a real browser, and a server that comes and goes."""

from __future__ import annotations

import math
import random
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from examples.arena.world import Body, Rules, step

from .conftest import Visitor, Visitors

ROOT = Path(__file__).parents[2]
PHONE = {
    "viewport": {"width": 390, "height": 844},
    "device_scale_factor": 2,
    "has_touch": True,
    "is_mobile": True,
}


class ArenaProcess:
    """``python -m examples.arena`` in a process of its own."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self.address = ""

    def start(self, *options: str) -> None:
        port = self.address.rstrip("/").rpartition(":")[2] or "0"
        command = [sys.executable, "-m", "examples.arena", "--port", port, "--seed", "4", *options]
        self._process = subprocess.Popen(
            [*command, "--log-level", "error"], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        found = re.match(r"Arena: (http://localhost:\d+/)", line)
        assert found, f"the arena did not start, but said {line!r}"
        self.address = found[1]

    def terminate(self) -> int:
        """Ask it to end, and return its exit status."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        status = self._process.wait(timeout=20)
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._process = None
        return status

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()


@pytest.fixture
def arena() -> Iterator[ArenaProcess]:
    process = ArenaProcess()
    yield process
    process.kill()


def join(visitor: Visitor, address: str, name: str) -> Page:
    page = visitor.page
    page.goto(address)
    ask_for(page, name)
    page.wait_for_function("arena.status === 'playing' && arena.me")
    return page


def ask_for(page: Page, name: str) -> None:
    page.get_by_label("Your name").fill(name)
    page.get_by_role("button", name="Play").click()


def player(page: Page, name: str) -> dict[str, Any]:
    page.wait_for_function("name => arena.players.some((p) => p.name === name)", arg=name)
    found: dict[str, Any] = page.evaluate("n => arena.players.find((p) => p.name === n)", name)
    return found


def come_to_rest(page: Page) -> dict[str, Any]:
    """Wait until the player stands still and the server has answered all of its inputs."""
    page.wait_for_function("!arena.own.vx && !arena.own.vy && !arena.own.unanswered")
    own: dict[str, Any] = page.evaluate("arena.own")
    return own


def move(page: Page, key: str, distance: int) -> None:
    """Hold a key until the player has moved so far, in its own eyes."""
    start = page.evaluate("arena.own")
    page.keyboard.down(key)
    page.wait_for_function(
        "([x, y, way]) => Math.hypot(arena.own.x - x, arena.own.y - y) > way",
        arg=[start["x"], start["y"], distance],
    )
    page.keyboard.up(key)


def inward(page: Page) -> str:
    """Return the key that leads away from the nearer side wall."""
    return "d" if page.evaluate("arena.own.x < arena.rules.width / 2") else "ArrowLeft"


def test_two_players_meet_and_survive_a_restart(
    arena: ArenaProcess, visitors: Visitors, screenshots: Path
) -> None:
    arena.start("--bots", "7")
    first, second = visitors.new(), visitors.new()
    ada, bob = join(first, arena.address, "Ada"), join(second, arena.address, "Bob")

    # One moves, and the other sees it, in the end to the grain.
    before = player(bob, "Ada")
    move(ada, inward(ada), 5000)
    bob.wait_for_function(
        "x => Math.abs(arena.players.find((p) => p.name === 'Ada').x - x) > 4500",
        arg=before["x"],
    )
    own = come_to_rest(ada)
    bob.wait_for_function(
        "([x, y]) => arena.players.some((p) => p.name === 'Ada' && p.x === x && p.y === y)",
        arg=[own["x"], own["y"]],
    )
    # The prediction is exact; only a machine that pauses for a third of a second can spoil it.
    assert own["corrections"] < 5

    # Something to look at.
    ada.keyboard.down("s" if own["y"] < Rules.height / 2 else "w")
    ada.keyboard.down(inward(ada))
    ada.wait_for_function("Math.hypot(arena.own.vx, arena.own.vy) > 0.95 * arena.rules.speed")
    ada.wait_for_function("document.querySelector('#rtt').innerText > 0")
    ada.screenshot(path=screenshots / "arena.png")
    for key in ("s", "w", "d", "ArrowLeft"):
        ada.keyboard.up(key)

    # The server goes. Both say so, and try to come back.
    visitors.server_is_away(True)
    assert arena.terminate() == 0
    for page in (ada, bob):
        expect(page.get_by_role("status")).to_contain_text("Server is restarting, reconnecting")
    ada.wait_for_function("arena.status === 'waiting'")
    ada.screenshot(path=screenshots / "arena-away.png")

    # It comes back with another world, and so do they, without a hand moved.
    arena.start("--bots", "0")
    for page in (ada, bob):
        page.wait_for_function("arena.status === 'playing' && arena.state.round === 2 && arena.me")
        expect(page.get_by_role("status")).to_be_hidden()
    visitors.server_is_away(False)
    for page in (ada, bob):
        player(page, "Ada")
        player(page, "Bob")
    move(bob, inward(bob), 3000)
    own = come_to_rest(bob)
    ada.wait_for_function(
        "([x, y]) => arena.players.some((p) => p.name === 'Bob' && p.x === x && p.y === y)",
        arg=[own["x"], own["y"]],
    )
    everything = "[arena.players, arena.coins.sort((a, b) => a.id - b.id)]"
    assert ada.evaluate(everything) == bob.evaluate(everything)
    assert {p["name"] for p in ada.evaluate("arena.players")} == {"Ada", "Bob"}


def test_a_name_that_is_taken_is_asked_for_again(arena: ArenaProcess, visitors: Visitors) -> None:
    arena.start("--bots", "1")
    join(visitors.new(), arena.address, "Ada")
    late = visitors.new().page
    late.goto(arena.address)
    ask_for(late, "ada")
    expect(late.get_by_role("alert")).to_have_text("the name ada is taken")
    assert late.evaluate("arena.status") == "asking"  # and it does not try again by itself
    ask_for(late, "Grace")
    late.wait_for_function("arena.me?.name === 'Grace'")
    expect(late.get_by_role("alert")).to_be_hidden()


def test_a_phone(arena: ArenaProcess, visitors: Visitors, screenshots: Path) -> None:
    arena.start("--bots", "9")
    visitor = visitors.new(**PHONE)
    visitor.page.goto(arena.address)
    visitor.page.screenshot(path=screenshots / "arena-phone-join.png")
    page = join(visitor, arena.address, "Grace")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    key = inward(page)
    across = 70 if key == "d" else -70
    finger = visitor.context.new_cdp_session(page)  # playwright's own touches can only tap

    def touch(kind: str, *points: tuple[int, int]) -> None:
        touches = [{"x": x, "y": y} for x, y in points]
        finger.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": touches})

    touch("touchStart", (190, 640))
    touch("touchMove", (190 + across // 2, 630))
    touch("touchMove", (190 + across, 620))
    page.wait_for_function("Math.abs(arena.own.vx) > 0.8 * arena.rules.speed")
    page.wait_for_function("document.querySelector('#rtt').innerText > 0")
    page.screenshot(path=screenshots / "arena-phone.png")
    touch("touchEnd")
    come_to_rest(page)


def test_the_two_steps_are_twins(arena: ArenaProcess, visitors: Visitors) -> None:
    arena.start("--bots", "0")
    page = join(visitors.new(), arena.address, "Ada")
    rules, chance = Rules(), random.Random(5)
    body = Body(rules.width // 2, rules.height // 2)
    wishes: list[tuple[float, float]] = []
    expected: list[list[int]] = []
    for _ in range(5000):
        angle, length = chance.uniform(0, math.tau), chance.choice([0, 0, 1, chance.random()])
        wish = (round(length * math.cos(angle), 3), round(length * math.sin(angle), 3))
        for _ in range(chance.randint(1, 12)):
            body = step(body, *wish, rules)
            wishes.append(wish)
            expected.append(list(body))
    got = page.evaluate(
        """([body, wishes]) => wishes.map(([dx, dy]) => {
            body = arena.step(body, dx, dy, arena.rules);
            return [body.x, body.y, body.vx, body.vy];
        })""",
        [{"x": rules.width // 2, "y": rules.height // 2, "vx": 0, "vy": 0}, wishes],
    )
    assert got == expected
    walls = {rules.radius, rules.width - rules.radius, rules.height - rules.radius}
    assert any(x in walls or y in walls for x, y, *_ in expected)


def test_a_second_tab_takes_over_nothing_without_the_key(
    arena: ArenaProcess, visitors: Visitors
) -> None:
    arena.start("--bots", "0")
    visitor = visitors.new()
    join(visitor, arena.address, "Ada")
    tab = visitor.context.new_page()
    tab.goto(arena.address)
    assert tab.get_by_label("Your name").input_value() == "Ada"
    tab.get_by_role("button", name="Play").click()
    expect(tab.get_by_role("alert")).to_have_text("the name Ada is taken")
