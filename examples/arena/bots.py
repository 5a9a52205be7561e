"""Players that are real WebSocket clients, to put a load on a server and measure it.

``python -m examples.arena.bots --url ws://localhost:8000 --bots 100 --seconds 30 --stalled 1``

A *stalled* client joins and then never reads: it shows that one slow client costs the others
nothing. The summary line says what the reading bots got: states per second and bot, bytes per
second in all, and the time between two states, median and 99th percentile.
"""

from __future__ import annotations

import argparse
import itertools
import random
import secrets
import statistics
import sys
from dataclasses import dataclass, field

import trio

import trioweb

from . import wire
from .pilots import Pilot
from .sync import Mirror

__all__ = ["Tally", "main", "run_bots"]

#: Seconds that a stalled client stays.
STALLED = 30


@dataclass(slots=True)
class Tally:
    """What all bots together have seen."""

    bots: int = 0
    states: int = 0
    bytes: int = 0
    seconds: float = 0.0
    errors: int = 0
    intervals: list[float] = field(default_factory=list[float])

    def __str__(self) -> str:
        """Return the summary line."""
        if not self.intervals:
            return f"{self.bots} bots: no states"
        steps = statistics.quantiles(self.intervals, n=100) if len(self.intervals) > 1 else [0] * 99
        return (
            f"{self.bots} bots, {self.seconds:.1f} s: "
            f"{self.states / self.bots / self.seconds:.2f} states/s per bot, "
            f"{self.bytes / self.seconds:,.0f} bytes/s in all, "
            f"state interval p50 {steps[49] * 1000:.1f} ms, p99 {steps[98] * 1000:.1f} ms, "
            f"{self.errors} errors"
        )


async def run_bots(url: str, bots: int, *, seconds: float, stalled: int = 0) -> Tally:
    """Play with so many bots for so long; raises what a connection of theirs raises."""
    tally = Tally(bots)
    run = secrets.token_hex(2)
    with trio.move_on_after(seconds):
        async with trio.open_nursery() as nursery:
            for number in range(stalled):
                nursery.start_soon(_stall, url, f"idle {run} {number}")
            for number in range(bots):
                nursery.start_soon(_play, url, f"net {run} {number}", tally)
            # Nobody is measured while the others are still joining.
            await trio.sleep(min(1, seconds / 4))
            tally.states = tally.bytes = 0
            tally.intervals.clear()
            started = trio.current_time()
            try:
                await trio.sleep_forever()
            finally:
                tally.seconds = trio.current_time() - started
    return tally


async def _play(url: str, name: str, tally: Tally) -> None:
    async with trioweb.connect(url) as ws:
        await ws.send(wire.encode(wire.Join(name)))
        welcome = wire.decode_from_server(await ws.receive())
        if not isinstance(welcome, wire.Welcome):
            raise TypeError(f"expected a welcome, got {welcome}")
        mirror = Mirror()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_steer, ws, welcome, mirror)
            await _watch(ws, mirror, tally)
            raise ConnectionError(f"{name} was sent away: {ws.closed}")


async def _watch(ws: trioweb.WebSocket, mirror: Mirror, tally: Tally) -> None:
    before: float | None = None
    async for message in ws:
        state = wire.decode_from_server(message)
        if isinstance(state, wire.Error):
            tally.errors += 1
        if not isinstance(state, wire.State):
            continue
        mirror.apply(state)
        now = trio.current_time()
        tally.states += 1
        tally.bytes += len(message)
        if before is not None:
            tally.intervals.append(now - before)
        before = now


async def _steer(ws: trioweb.WebSocket, welcome: wire.Welcome, mirror: Mirror) -> None:
    """Send one input a tick, which is what a page does too."""
    pilot = Pilot(random.Random(welcome.id))
    tick = 1 / welcome.rules.tick_rate
    due = trio.current_time() + random.random() * tick
    for seq in itertools.count(1):
        await trio.sleep_until(due)
        # Like the page, make up for a short delay, not for a long one.
        due = max(due, trio.current_time() - 5 * tick) + tick
        me = mirror.view.players.get(welcome.id)
        if me is not None:
            dx, dy = pilot.steer(me.x, me.y, mirror.view.coins)
            await ws.send(wire.encode(wire.Input(seq, dx, dy)))


async def _stall(url: str, name: str) -> None:
    # The server gives such a client up when it has taken nothing for 20 s (`Timeouts.write`), and
    # who does not read cannot notice. So the next one takes its place soon after.
    for attempt in itertools.count(1):
        with trio.move_on_after(STALLED):
            async with trioweb.connect(url) as ws:
                await ws.send(wire.encode(wire.Join(f"{name} {attempt}")))
                await trio.sleep_forever()


def main(argv: list[str] | None = None) -> int:
    """Run the bots, print the summary line, return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.arena.bots",
        description="Play in the arena with bots that are WebSocket clients, and measure it.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--url", default="ws://localhost:8000", help="where the arena is")
    parser.add_argument("--bots", type=int, default=100, help="clients that play")
    parser.add_argument("--seconds", type=float, default=10, help="how long to play")
    parser.add_argument("--stalled", type=int, default=0, help="clients that never read")
    arguments = parser.parse_args(argv)
    if arguments.bots < 1 or arguments.seconds <= 0:
        parser.error("at least one bot, and some time to play")
    problem: BaseException | None = None
    try:
        print(trio.run(_main, arguments))
    except* (OSError, trioweb.TriowebError) as group:
        problem = group
    if problem is None:
        return 0
    while isinstance(problem, BaseExceptionGroup):
        problem = problem.exceptions[0]
    print(f"Cannot play at {arguments.url}: {problem}", file=sys.stderr)
    return 1


async def _main(arguments: argparse.Namespace) -> Tally:
    return await run_bots(
        arguments.url,
        arguments.bots,
        seconds=arguments.seconds,
        stalled=arguments.stalled,
    )


if __name__ == "__main__":
    sys.exit(main())
