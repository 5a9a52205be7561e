"""The arena as a server: joining, playing, statistics, and the page on the same port."""

from __future__ import annotations

import logging
import signal
import socket
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import msgspec
import trio

import trioweb

from . import wire
from .pilots import Crew
from .referee import Referee
from .simulation import FixedStep
from .sync import Feed, send_views
from .world import NameRefusedError, Player, RejectedError, Rules, World, clean_name

__all__ = ["Arena", "Options", "Seat", "open_arena_listeners", "serve_arena"]

logger = logging.getLogger(__name__)

PAGE = Path(__file__).with_name("page")

#: States sent per second, whatever the tick rate.
STATE_RATE = 20

#: Seconds from the upgrade to the name. A page that asks a person for the name connects after.
JOIN_DEADLINE = 10

#: What the kernel may hold for one client: a second or two of states on a slow link. Above it
#: `wait_written` waits, and the client skips states; with the megabytes that Linux would allow,
#: a slow client would watch the past.
SEND_BUFFER = 2**16

#: The largest message of ours to understand, with room for a name in any script.
MAX_MESSAGE = 1024

#: Close code for a player whose browser joined again elsewhere: do not come back by yourself.
TAKEN_OVER = 4001


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line may set."""

    host: str = "localhost"
    port: int = 8000
    bots: int = 8
    rules: Rules = field(default_factory=Rules)
    seed: int | None = None
    join_deadline: float = JOIN_DEADLINE
    #: Each player is in the state of every other: the traffic grows with the square.
    max_players: int = 200


@dataclass(slots=True, eq=False)
class Seat:
    """One client in the arena: whose player it is, and how to make it leave."""

    player: Player
    key: str
    referee: Referee
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    taken_over: bool = False


@dataclass(frozen=True, slots=True)
class Statistics:
    """What ``/stats`` answers, and the log says at the end."""

    clients: int
    players: int
    ticks: int
    tick_rate: float
    overruns: int
    skipped_ticks: int
    seconds: float
    states_published: int
    states_written: int
    states_skipped: int
    states_encoded: int


class Arena:
    """The world and everyone in it. Made for one `serve_arena`; nothing here is thread-safe."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.world = World(options.rules, seed=options.seed)
        self.feed = Feed()
        self.crew = Crew(self.world, options.bots, seed=options.seed)
        self.simulation = FixedStep("simulation", options.rules.tick_rate, self._step)
        # Nobody needs two views of the same moment, so publishing never catches up.
        self.publishing = FixedStep("publishing", STATE_RATE, self._publish, catch_up=1)
        self._seats: dict[str, Seat] = {}

    def _step(self) -> None:
        self.crew.drive()
        self.world.step()

    def _publish(self) -> None:
        self.feed.publish(self.world)

    # -- joining

    async def check_join(self, ws: trioweb.WebSocket, message: trioweb.Message) -> wire.Join:
        """Judge the first message; `trioweb.FirstMessage` has the deadline and closes."""
        del ws
        try:
            join = wire.decode_join(message)
            if self._seat_of(join) is None:
                self._check_room()
                self.world.check_name(join.name)
        except (wire.MalformedError, NameRefusedError) as error:
            raise trioweb.Refused(str(error)) from None
        return join

    def _seat_of(self, join: wire.Join) -> Seat | None:
        """Return the seat which this join may take over: same name, same secret key.

        It is how a phone that changes networks comes back at once, when the server does not
        know yet that the old connection is dead.
        """
        seat = self._seats.get(clean_name(join.name))
        return seat if seat is not None and join.key and seat.key == join.key else None

    def _check_room(self) -> None:
        if len(self.world.players) >= self.options.max_players:
            raise NameRefusedError("the arena is full, come back later")

    def _sit_down(self, join: wire.Join) -> Seat:
        old = self._seat_of(join)
        if old is None:
            self._check_room()
            referee = Referee(self.world.rules.tick_rate)
            seat = Seat(self.world.join(join.name), join.key, referee)
        else:
            self.world.restart_inputs(old.player)
            old.taken_over = True
            old.scope.cancel()
            seat = Seat(old.player, join.key, old.referee)  # a new connection clears no strikes
        self._seats[seat.player.name] = seat
        return seat

    def _stand_up(self, seat: Seat) -> None:
        if not seat.taken_over:
            del self._seats[seat.player.name]
            self.world.leave(seat.player)

    # -- playing

    async def play(self, ws: trioweb.WebSocket) -> None:
        """Handle one connection, from the accepted name to its end."""
        try:
            seat = self._sit_down(ws.principal)
        except NameRefusedError as error:  # someone took the name since the check
            await ws.aclose(trioweb.CloseCode.POLICY_VIOLATION, str(error))
            return
        player = seat.player
        logger.info("%s: %s joined (%d players)", ws.id, player.name, len(self.world.players))
        try:
            with seat.scope:
                await self._play(ws, seat)
        finally:
            self._stand_up(seat)
            logger.info("%s: %s left with %d points", ws.id, player.name, player.score)
        if seat.taken_over:
            await ws.aclose(TAKEN_OVER, "you are playing in another window")

    async def _play(self, ws: trioweb.WebSocket, seat: Seat) -> None:
        player = seat.player
        await ws.send(wire.encode(wire.Welcome(player.id, player.name, self.world.rules)))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._send_views, ws, player)
            await self._obey(ws, seat)
            nursery.cancel_scope.cancel()

    async def _send_views(self, ws: trioweb.WebSocket, player: Player) -> None:
        # The task that reads meets the same end, and ends the game.
        with suppress(trio.BrokenResourceError):
            await send_views(ws, self.feed, player.id)

    async def _obey(self, ws: trioweb.WebSocket, seat: Seat) -> None:
        """Do what the client's messages say until it goes, or is sent off."""
        player, referee = seat.player, seat.referee
        async for message in ws:
            if seat.taken_over:  # it had its message when the cancellation came
                return
            try:
                answer = self._judge(message, player, referee)
            except (wire.MalformedError, RejectedError) as offence:
                if referee.strike():
                    logger.warning("%s: %s was sent off: %s", ws.id, player.name, offence)
                    reason = _fit(f"too many bad messages, the last: {offence}")
                    await ws.aclose(trioweb.CloseCode.POLICY_VIOLATION, reason)
                    return
                answer = wire.Error(str(offence))
            if answer is not None:
                # A client that does not read its answers is not read from either: `send` waits.
                await ws.send(wire.encode(answer))

    def _judge(
        self, message: trioweb.Message, player: Player, referee: Referee
    ) -> wire.FromServer | None:
        """Do what one message says, and return the answer; raises for an offence."""
        match wire.decode(message):
            case wire.Input(seq, dx, dy):
                referee.check_input()
                self.world.accept(player, seq, dx, dy)
                return None
            case wire.Ping(at):
                referee.check_ping()
                return wire.Pong(at)
            case wire.Join():
                raise RejectedError("you have joined already")

    # -- looking in from outside

    def statistics(self) -> Statistics:
        """Return how the game goes."""
        ticks, feed = self.simulation.statistics(), self.feed.statistics()
        return Statistics(
            clients=len(self._seats),
            players=len(self.world.players),
            ticks=ticks.steps,
            tick_rate=round(ticks.rate, 2),
            overruns=ticks.overruns,
            skipped_ticks=ticks.skipped,
            seconds=round(ticks.elapsed, 3),
            states_published=feed.published,
            states_written=feed.written,
            states_skipped=feed.skipped,
            states_encoded=feed.encoded,
        )


def _fit(reason: str) -> str:
    """Cut a reason to the 123 bytes of UTF-8 that a close frame has room for."""
    return reason.encode()[:123].decode(errors="ignore")


async def serve_arena(
    arena: Arena,
    listeners: Sequence[trio.abc.Listener[trio.abc.Stream]],
    *,
    signals: Sequence[signal.Signals] = (),
    task_status: trio.TaskStatus[trioweb.Server] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve the arena on listeners of `open_arena_listeners`, until it is drained or cancelled.

    ``task_status`` gives the `trioweb.Server` once the port is open.
    """
    options = arena.options
    site = trioweb.Site(
        files={"/": PAGE / "index.html", "/arena.js": PAGE / "arena.js"}, health="/health"
    )

    async def on_request(request: trioweb.Request) -> trioweb.Response | None:
        if request.path == "/stats":
            body = msgspec.json.encode(asdict(arena.statistics()))
            return trioweb.Response.make(200, body, content_type="application/json")
        return await site(request)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(arena.simulation.run, name="simulation")
        nursery.start_soon(arena.publishing.run, name="publishing")
        try:
            await trioweb.serve(
                arena.play,
                options.port,
                listeners=listeners,
                authenticate=trioweb.FirstMessage(arena.check_join, timeout=options.join_deadline),
                on_request=on_request,
                limits=trioweb.Limits(max_message=MAX_MESSAGE),
                signals=signals,
                task_status=task_status,
            )
        finally:
            logger.info("the end: %s", arena.statistics())
        nursery.cancel_scope.cancel()


async def open_arena_listeners(
    host: str, port: int, *, send_buffer: int = SEND_BUFFER
) -> Sequence[trio.abc.Listener[trio.abc.Stream]]:
    """Open the port with small send buffers, which accepted sockets inherit; raises `OSError`."""
    listeners = await trioweb.open_listeners(port, host)
    for listener in listeners:
        if isinstance(listener, trio.SocketListener):
            listener.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
    return listeners
