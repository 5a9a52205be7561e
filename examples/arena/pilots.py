"""Who steers a bot. The same pilot flies bots inside the server and bots over the network."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping

from .world import Coin, NameRefusedError, Player, World

__all__ = ["Crew", "Pilot"]

#: Bots fly at part of full speed, and start from zero again at some points: so that people win,
#: even those who come late.
THROTTLE, RETIRING_AT = 0.65, 40

NAMES = (
    *("Bolt", "Pixel", "Turbo", "Nimbus", "Gizmo", "Cobalt", "Echo", "Fizz", "Comet", "Ziggy"),
    *("Mango", "Orbit", "Quark", "Rusty", "Sprocket", "Taco", "Umbra", "Vector", "Widget", "Yoyo"),
    *("Zephyr", "Biscuit", "Cosmo", "Dynamo"),
)


class Pilot:
    """Flies to a coin that is near, then to the next."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._target: int | None = None

    def steer(self, x: int, y: int, coins: Mapping[int, Coin]) -> tuple[float, float]:
        """Return the direction wanted at ``(x, y)``, no longer than 1."""
        coin = coins.get(self._target) if self._target is not None else None
        if coin is None:
            self._target = self._choose(x, y, coins)
            if self._target is None:
                return 0.0, 0.0
            coin = coins[self._target]
        away_x, away_y = coin.x - x, coin.y - y
        distance = math.hypot(away_x, away_y)
        if distance == 0:
            return 0.0, 0.0
        # Three digits keep the message short; throttled as it is, rounding cannot exceed 1.
        return (
            round(away_x / distance * THROTTLE, 3),
            round(away_y / distance * THROTTLE, 3),
        )

    def _choose(self, x: int, y: int, coins: Mapping[int, Coin]) -> int | None:
        # Some chance in what counts as near, or all bots would run after the same coin. A rare
        # coin is worth a longer way.
        def cost(coin_id: int) -> float:
            coin = coins[coin_id]
            way = math.hypot(coin.x - x, coin.y - y) * self._chance.uniform(0.6, 1.6)
            return way / math.sqrt(coin.value)

        return min(coins, key=cost, default=None)


class Crew:
    """The bots that live in the world itself, without a connection."""

    def __init__(self, world: World, size: int, *, seed: int | None = None) -> None:
        self._world = world
        chance = random.Random(seed)
        self._seats = [(_sign_on(world, number), Pilot(chance)) for number in range(size)]

    def drive(self) -> None:
        """Give every bot its input for the coming step."""
        for player, pilot in self._seats:
            if player.score >= RETIRING_AT:
                player.score = 0
            direction = pilot.steer(player.body.x, player.body.y, self._world.coins)
            self._world.accept(player, player.accepted + 1, *direction)


def _sign_on(world: World, number: int) -> Player:
    name = NAMES[number % len(NAMES)]
    for suffix in range(number // len(NAMES), number + 2):
        try:
            return world.join(f"{name} {suffix + 1}" if suffix else name, bot=True)
        except NameRefusedError:  # a person was faster
            continue
    raise NameRefusedError(f"no name left for bot {number}")
