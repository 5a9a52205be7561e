"""The authoritative world: rules, players, coins, scores. Pure: no I/O, no clock, no Trio.

Two decisions make the network part easy:

*The world lives on a grid.* Every position and velocity is an integer, counted in grains (a
sixteenth of a unit on the screen), because the step itself rounds. What goes over the wire is
thus exactly what the server knows, and a client that repeats the step gets the same integers.

*A player's clock is its inputs.* One input is one step of that player, no more and no less; a
player whose inputs are late stands still for that long. So where a player is depends only on
where it was and on the inputs since, and a browser can predict it without error. What a tick
decides is how many inputs a player may use up: about one.
"""

from __future__ import annotations

import math
import random
import unicodedata
from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

__all__ = [
    "Body",
    "Coin",
    "NameRefusedError",
    "Player",
    "RejectedError",
    "Rules",
    "World",
    "clean_name",
    "step",
]

#: The longest name, in characters.
NAME_LENGTH = 16

#: Inputs that may wait for their tick. Older ones are given up: a backlog is nothing but lag.
BACKLOG = 10

#: Steps per tick that a player gets, and how many it may save up while its inputs are late.
#: The 5 % let a backlog melt away, and are all that a manipulated clock can gain.
PACE, SAVED = 1.05, BACKLOG


class RejectedError(ValueError):
    """An input that the rules do not allow; the text says why."""


#: Letters by their category that show nothing: the fillers of Hangul.
_BLANK = "\u115f\u1160\u3164\uffa0"


def clean_name(name: str) -> str:
    """Return a name in its one form: NFKC, single spaces."""
    return " ".join(unicodedata.normalize("NFKC", name).split())


class NameRefusedError(ValueError):
    """A name that cannot be had; the text says why."""


@dataclass(frozen=True)
class Rules:
    """The constants of the game. The page gets them on joining, so they stand only here.

    Lengths are in grains, velocities in grains per second.
    """

    width: int = 2400 * 16
    height: int = 1500 * 16
    #: Steps per second.
    tick_rate: int = 30
    #: Grains per unit on the screen.
    grain: int = 16
    #: Top speed.
    speed: int = 360 * 16
    #: Share of the way to the wanted velocity that one step covers: 1 is no inertia at all.
    grip: float = 0.25
    #: Of a player, and of a coin.
    radius: int = 20 * 16
    coin_radius: int = 12 * 16
    #: Coins lying around at any time; one in `rare` is worth `treasure` instead of 1.
    coins: int = 60
    rare: int = 12
    treasure: int = 5

    def __post_init__(self) -> None:
        room = 4 * self.radius
        if self.width < room or self.height < room:
            raise ValueError(f"the arena must be at least {room // self.grain} units wide and high")


class Body(NamedTuple):
    """What a step changes: position and velocity."""

    x: int
    y: int
    vx: int = 0
    vy: int = 0


def step(body: Body, dx: float, dy: float, rules: Rules) -> Body:
    """Move a body by one step towards the wanted direction ``(dx, dy)``.

    ``step`` in ``page/arena.js`` is the twin of this function. Both use nothing but the IEEE
    operations ``+ - * /`` and rounding, in this order, so that they agree to the last bit.
    Change both or neither; a browser test compares them.
    """
    x, vx = _step_axis(body.x, body.vx, dx, rules.width, rules)
    y, vy = _step_axis(body.y, body.vy, dy, rules.height, rules)
    return Body(x, y, vx, vy)


def _step_axis(at: int, speed: int, wish: float, end: int, rules: Rules) -> tuple[int, int]:
    # The velocity is cut towards zero, so that whoever lets go comes to rest; the position is
    # rounded to the nearest grain, so that no direction is faster than its opposite.
    speed = math.trunc(speed + (wish * rules.speed - speed) * rules.grip)
    at = math.floor(at + speed / rules.tick_rate + 0.5)
    if at < rules.radius:
        return rules.radius, 0
    if at > end - rules.radius:
        return end - rules.radius, 0
    return at, speed


class Coin(NamedTuple):
    """A coin on the ground. It never moves; its id is never used again."""

    x: int
    y: int
    value: int = 1


class Wish(NamedTuple):
    """One accepted input: the direction wanted for one step."""

    seq: int
    dx: float
    dy: float


@dataclass(slots=True, eq=False)
class Player:
    """One player, human or bot. Its id is never used again."""

    id: int
    name: str
    #: Colour, in degrees around the colour wheel.
    hue: int
    bot: bool
    body: Body
    score: int = 0
    #: The last input used up: what the client's prediction may start from.
    acknowledged: int = 0
    #: The last input taken; they must rise.
    accepted: int = 0
    wishes: deque[Wish] = field(default_factory=lambda: deque[Wish](maxlen=BACKLOG))
    #: Steps it may take, saved ones included.
    credit: float = SAVED


class World:
    """All that is true. Whoever changes it does so between two steps, in one thread."""

    def __init__(self, rules: Rules | None = None, *, seed: int | None = None) -> None:
        self.rules = rules or Rules()
        self.tick = 0
        self.players: dict[int, Player] = {}
        self.coins: dict[int, Coin] = {}
        self._random = random.Random(seed)
        self._names: set[str] = set()
        self._next_id = 1
        self._joined = 0
        self._refill()

    # -- joining and leaving

    def check_name(self, name: str) -> str:
        """Return the name as it will be shown; raises `NameRefusedError` with the reason."""
        name = clean_name(name)
        if not name:
            raise NameRefusedError("a name needs at least one letter")
        if len(name) > NAME_LENGTH:
            raise NameRefusedError(f"a name has at most {NAME_LENGTH} characters")
        if not name.isprintable():
            raise NameRefusedError("a name has printable characters only")
        if not any(character.isalnum() and character not in _BLANK for character in name):
            raise NameRefusedError("a name needs at least one letter or digit")
        if name.casefold() in self._names:
            raise NameRefusedError(f"the name {name} is taken")
        return name

    def join(self, name: str, *, bot: bool = False) -> Player:
        """Put a new player somewhere in the arena; raises `NameRefusedError`."""
        name = self.check_name(name)
        self._names.add(name.casefold())
        # The golden angle keeps the colours of players who join one after the other far apart;
        # steps of 5 degrees let a page paint each colour once.
        hue = round(self._joined * 137.508 / 5) * 5 % 360
        self._joined += 1
        player = Player(self._new_id(), name, hue, bot, Body(*self._somewhere(self.rules.radius)))
        self.players[player.id] = player
        return player

    def restart_inputs(self, player: Player) -> None:
        """Count a player's inputs from 1 again: it goes on over another connection."""
        player.accepted = player.acknowledged = 0
        player.wishes.clear()

    def leave(self, player: Player) -> None:
        """Take a player out of the world. Leaving twice is fine."""
        if self.players.pop(player.id, None) is not None:
            self._names.discard(player.name.casefold())

    # -- playing

    def accept(self, player: Player, seq: int, dx: float, dy: float) -> None:
        """Take an input for the coming steps; raises `RejectedError` and forgets it otherwise."""
        if seq <= player.accepted:
            raise RejectedError(f"input {seq} came after input {player.accepted}")
        # Written so that NaN fails too.
        if not dx * dx + dy * dy <= 1:
            raise RejectedError("the direction is longer than 1")
        player.accepted = seq
        # The queue keeps the newest: what it pushes out is acknowledged with the next one.
        player.wishes.append(Wish(seq, dx, dy))

    def step(self) -> None:
        """Advance the world by one tick."""
        self.tick += 1
        for player in self.players.values():
            player.credit = min(SAVED, player.credit + PACE)
            moved = False
            while player.wishes and player.credit >= 1:
                player.credit -= 1
                wish = player.wishes.popleft()
                player.body = step(player.body, wish.dx, wish.dy, self.rules)
                player.acknowledged = wish.seq
                moved = True
            # Not after each of its steps: at most BACKLOG of them in one tick, and who lags so
            # much may miss a coin in passing.
            if moved:
                self._collect(player)
        self._refill()

    def _collect(self, player: Player) -> None:
        x, y = player.body.x, player.body.y
        reach = self.rules.radius + self.rules.coin_radius
        # A few thousand comparisons a tick at 100 players: an index would cost more lines than
        # it saves time.
        for coin_id, coin in list(self.coins.items()):
            if (coin.x - x) ** 2 + (coin.y - y) ** 2 < reach**2:
                player.score += coin.value
                del self.coins[coin_id]

    def _refill(self) -> None:
        while len(self.coins) < self.rules.coins:
            rare = self._random.randrange(self.rules.rare) == 0
            spot = self._somewhere(2 * self.rules.coin_radius)
            self.coins[self._new_id()] = Coin(*spot, self.rules.treasure if rare else 1)

    # -- helpers

    def _somewhere(self, margin: int) -> tuple[int, int]:
        return (
            self._random.randint(margin, self.rules.width - margin),
            self._random.randint(margin, self.rules.height - margin),
        )

    def _new_id(self) -> int:
        self._next_id += 1
        return self._next_id - 1
