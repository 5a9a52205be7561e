"""What each client has been told, and the delta from there to what is true now.

Twenty times a second the world is looked at once, and the result, an immutable `View`, is
published. Each client has one task that

1. waits until the kernel has taken everything written to this client so far,
2. takes the newest view, whichever that is by now,
3. writes the changes since the view that it wrote last.

So a state is encoded when it is written, never queued behind others. A client on a slow link
skips views in between and still ends at the newest one; all it costs the server is a reference
to the one view it was told last. Nothing is dropped, because nothing is made that would have to
be.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import trio
from msgspec import UNSET, Raw

from . import wire
from .world import Coin, World

__all__ = [
    "NOTHING",
    "Client",
    "Feed",
    "FeedStatistics",
    "Mirror",
    "OutOfStepError",
    "Own",
    "Sprite",
    "View",
    "changes",
    "look",
    "send_views",
]


class Sprite(NamedTuple):
    """What everyone may see of a player. The fields are those of `wire.PlayerRow`."""

    x: int
    y: int
    score: int
    name: str
    hue: int
    bot: bool


class Own(NamedTuple):
    """What only the player itself needs, to predict on from here."""

    acknowledged: int
    vx: int
    vy: int


_NOBODY: Mapping[int, Own] = {}


@dataclass(frozen=True, slots=True)
class View:
    """The world at one moment, as clients may know it. Never changed once made."""

    number: int
    tick: int
    players: Mapping[int, Sprite]
    coins: Mapping[int, Coin]
    own: Mapping[int, Own] = field(default_factory=lambda: _NOBODY, compare=False)


#: What a client knows before the first state: a snapshot is the change from nothing.
NOTHING = View(0, 0, {}, {})


def look(world: World, number: int) -> View:
    """Take a view of the world."""
    players: dict[int, Sprite] = {}
    own: dict[int, Own] = {}
    for player in world.players.values():
        x, y, vx, vy = player.body
        players[player.id] = Sprite(x, y, player.score, player.name, player.hue, player.bot)
        if not player.bot:
            own[player.id] = Own(player.acknowledged, vx, vy)
    return View(number, world.tick, players, dict(world.coins), own)


def changes(old: View, new: View) -> wire.Changes:
    """Return the way from one view to the other; `Mirror` goes it on the other side."""
    return wire.Changes(
        players=tuple(
            _row(key, old.players.get(key), sprite)
            for key, sprite in new.players.items()
            if sprite != old.players.get(key)
        ),
        coins=tuple(
            wire.CoinRow(key, *coin)
            for key, coin in new.coins.items()
            if coin != old.coins.get(key)
        ),
        players_gone=tuple(key for key in old.players if key not in new.players),
        coins_gone=tuple(key for key in old.coins if key not in new.coins),
    )


def _row(key: int, old: Sprite | None, new: Sprite) -> wire.PlayerRow:
    if old is None:
        return wire.PlayerRow(key, *new)
    return wire.PlayerRow(
        key,
        x=UNSET if new.x == old.x else new.x,
        y=UNSET if new.y == old.y else new.y,
        score=UNSET if new.score == old.score else new.score,
        name=UNSET if new.name == old.name else new.name,
        hue=UNSET if new.hue == old.hue else new.hue,
        bot=UNSET if new.bot == old.bot else new.bot,
    )


class OutOfStepError(Exception):
    """A state that builds on a view which this client does not have."""


class Mirror:
    """A client's copy of the world, kept up by the states that arrive."""

    def __init__(self) -> None:
        self.view = NOTHING
        self.velocity = (0, 0)

    def apply(self, state: wire.State) -> View:
        """Go one step on; raises `OutOfStepError` if the state does not start at our view."""
        base = self.view if state.since else NOTHING
        if state.since != base.number:
            raise OutOfStepError(f"a state since {state.since} came to a view {self.view.number}")
        delta = wire.decode_changes(state.changes)
        players, coins = dict(base.players), dict(base.coins)
        for gone in delta.players_gone:
            del players[gone]
        for gone in delta.coins_gone:
            del coins[gone]
        for row in delta.players:
            players[row.id] = _merge(players.get(row.id), row)
        for coin in delta.coins:
            coins[coin.id] = Coin(coin.x, coin.y, coin.value)
        self.view = View(state.number, state.tick, players, coins)
        self.velocity = state.velocity
        return self.view


def _merge(old: Sprite | None, row: wire.PlayerRow) -> Sprite:
    # Spelled out, because a loop over the fields takes four times as long, and a bot has nothing
    # else to do.
    x, y, score, name, hue, bot = row.x, row.y, row.score, row.name, row.hue, row.bot
    if old is not None:
        return Sprite(
            old.x if x is UNSET else x,
            old.y if y is UNSET else y,
            old.score if score is UNSET else score,
            old.name if name is UNSET else name,
            old.hue if hue is UNSET else hue,
            old.bot if bot is UNSET else bot,
        )
    if (
        (x is UNSET or y is UNSET or score is UNSET)
        or (name is UNSET or hue is UNSET or bot is UNSET)
    ):  # fmt: skip
        raise OutOfStepError(f"player {row.id} is new, but its row is not complete")
    return Sprite(x, y, score, name, hue, bot)


@dataclass(frozen=True, slots=True)
class FeedStatistics:
    """Counts since the start. `skipped` is what slow clients were spared."""

    published: int
    written: int
    skipped: int
    encoded: int


class Feed:
    """The newest view, and the changes up to it.

    One task publishes; any number of tasks wait and encode.
    """

    def __init__(self) -> None:
        self.newest = NOTHING
        self._published = trio.Event()
        self._encoded: dict[int, Raw] = {}
        self._written = self._skipped = self._encodings = 0

    def publish(self, world: World) -> None:
        """Look at the world, and wake whoever waits for news."""
        self.newest = look(world, self.newest.number + 1)
        self._encoded.clear()
        self._published.set()
        self._published = trio.Event()

    async def wait_newer(self, number: int) -> View:
        """Return the newest view, once there is one after view ``number``."""
        while self.newest.number <= number:
            await self._published.wait()
        return self.newest

    def encode(self, seen: View, own: Own) -> str:
        """Return the message that takes a client from what it has seen to the newest view.

        Most clients have seen the same view, so the changes are worked out and encoded once for
        each view that anyone comes from, not once for each client.
        """
        newest = self.newest
        delta = self._encoded.get(seen.number)
        if delta is None:
            delta = self._encoded[seen.number] = wire.encode_raw(changes(seen, newest))
            self._encodings += 1
        velocity = (own.vx, own.vy)
        return wire.encode(
            wire.State(newest.number, seen.number, newest.tick, own.acknowledged, velocity, delta)
        )

    def count_written(self, skipped: int) -> None:
        """Note that a state was written, and how many views were left out before it."""
        self._written += 1
        self._skipped += skipped

    def statistics(self) -> FeedStatistics:
        """Return the counts so far."""
        return FeedStatistics(self.newest.number, self._written, self._skipped, self._encodings)


class Client(Protocol):
    """The part of `trioweb.WebSocket` that sending states needs."""

    async def wait_written(self) -> None: ...
    async def send(self, message: str, /) -> None: ...


async def send_views(client: Client, feed: Feed, player_id: int) -> None:
    """Keep one client up to date until its player leaves or its connection ends.

    Raises what ``client.send`` raises when the connection is over.
    """
    seen = NOTHING
    # Only a view that was taken after the player joined has the player in it.
    newer_than = feed.newest.number
    while True:
        await client.wait_written()
        view = await feed.wait_newer(newer_than)
        own = view.own.get(player_id)
        if own is None:
            return
        # No checkpoint between choosing the view and handing over its encoding.
        await client.send(feed.encode(seen, own))
        feed.count_written(skipped=view.number - newer_than - 1)
        seen, newer_than = view, view.number
