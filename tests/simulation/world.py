"""Runs a program: a server, its clients, and a network that suffers faults, in one `trio.run`."""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import trio

import trioweb
from tests.simulation.actor import Actor, Boom
from tests.simulation.ends import End, Observed
from tests.simulation.ledger import LEEWAY, Ledger, Verdict
from tests.simulation.opaque import Opaque, OpaqueListener
from tests.simulation.program import Ending, Program, Visit
from trioweb.testing import (
    Conditions,
    Fault,
    HalfOpen,
    OrphanTasks,
    Recorder,
    Reset,
    VirtualNetwork,
    no_orphans,
    run,
    running_tasks,
)
from trioweb.testing.wires import VirtualStream
from trioweb.types import Side

#: Virtual seconds after which a visit is over, at the latest, if a heartbeat looks after it.
VISIT = 900
#: Virtual seconds in which a healthy connection answers, whatever befalls the others.
PROMPT = 0.5


class World:
    """One run of one program."""

    def __init__(self, program: Program, seed: int, recorder: Recorder | None = None) -> None:
        self.verdict = Verdict(programs=1)
        self._program = program
        self._network = VirtualNetwork(seed)
        if recorder is not None:
            self._network.taps.append(recorder)
        self._ledgers: dict[str, tuple[Ledger, Ledger]] = {}
        self._raised = 0
        self.observed = Observed()
        self._ends: dict[str, list[End]] = {}
        #: When handlers were left, by the address of their client.
        self._left: dict[object, float] = {}
        self._network.taps.append(self)
        self._weather = dict(enumerate(program.conditions))
        self._server: trioweb.Server

    async def run(self) -> None:
        """Run the program; what is broken stands in the verdict."""
        program = self._program
        async with no_orphans():
            await self._run(program)
        for host in self._network.hosts:
            pairs = self._network.link(host, "server").connections
            self.verdict.expect(not pairs, "no transport is left open", pairs)
        for key, ends in self._ends.items():
            if len(ends) == 2:
                self._check_ends(key, *ends)
        untold = self.observed.untold
        self.verdict.expect(not untold, "each connection's end is observed, once", untold)

    async def _run(self, program: Program) -> None:
        with self._network.host("server") as machine:
            listeners = list(await machine.open_listeners(80, None))
            async with trioweb.open_server(
                self._handle,
                80,
                listeners=list(map(OpaqueListener, listeners)) if program.opaque else listeners,
                limits=program.limits,
                timeouts=program.timeouts,
                heartbeat=program.heartbeat,
                deflate=program.deflate,
                observers=[self.observed],
            ) as self._server:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._strike)
                    async with trio.open_nursery() as clients:
                        if program.drain is not None:
                            clients.start_soon(self._drain)
                        for number in range(program.healthy):
                            clients.start_soon(self._stay_healthy, f"healthy{number}")
                        for number, visits in enumerate(program.clients):
                            clients.start_soon(self._visit_all, number, visits)
                    nursery.cancel_scope.cancel()
                start = trio.current_time()
            self._expect_in_time("the server's block", start, program.timeouts.close)

    # --- the server --------------------------------------------------------------------------

    async def _handle(self, ws: trioweb.WebSocket) -> None:
        key = ws.request.path.strip("/")
        if key.startswith("healthy"):
            async for message in ws:
                await ws.send(message)
            return
        client, number = map(int, key.split("-"))
        up, down = self._ledgers[key]
        part = self._program.clients[client][number].server
        actor = Actor(self._program, part, ws, down, up)
        self._ends.setdefault(key, []).append(End(part, ws, Side.SERVER))
        try:
            with trio.CancelScope() as scope:
                if part.ending is Ending.CANCELLED:
                    scope.deadline = trio.current_time() + part.cancel_after
                await actor.run()
        except Boom:
            self._raised += 1
            raise
        finally:
            self._left[ws.remote_address] = trio.current_time()
        if actor.heard_all:
            up.complete()

    async def _drain(self) -> None:
        drain = self._program.drain
        assert drain is not None
        await trio.sleep(drain.time)
        start = trio.current_time()
        await self._server.drain(drain.timeout, grace=drain.grace)
        self._expect_in_time("drain", start, drain.timeout)
        self.verdict.endings["drained"] += 1

    # --- the clients -------------------------------------------------------------------------

    async def _visit_all(self, client: int, visits: tuple[Visit, ...]) -> None:
        with self._network.host(f"client{client}"):
            self._network.link(f"client{client}", "server").inject(self._program.conditions[client])
            for number, visit in enumerate(visits):
                await trio.sleep(visit.pause)
                start = trio.current_time()
                with trio.move_on_after(VISIT) as scope:
                    await self._visit(client, f"{client}-{number}", visit)
                self.verdict.expect(
                    not scope.cancelled_caught or self._program.heartbeat is None,
                    "every ending is within its deadline",
                    f"the visit {client}-{number} did not end in {VISIT} s",
                )
                self.verdict.seconds += trio.current_time() - start

    async def _visit(self, client: int, key: str, visit: Visit) -> None:
        """Make one connection, end it as told, and see what is left of it."""
        part = visit.client
        ledgers = Ledger(f"{key} up", self.verdict), Ledger(f"{key} down", self.verdict)
        self._ledgers[key] = ledgers
        actor: Actor | None = None
        left = trio.current_time()
        raised: BaseException | None = None
        with trio.CancelScope() as scope:
            if part.ending is Ending.CANCELLED:
                scope.deadline = trio.current_time() + part.cancel_after
            try:
                async with self._connect(client, key) as ws:
                    self.verdict.connections += 1
                    self.verdict.faults.update(_imperfections(self._weather[client]))
                    actor = Actor(self._program, part, ws, *ledgers)
                    self._ends.setdefault(key, []).append(End(part, ws, Side.CLIENT))
                    try:
                        await actor.run()
                    finally:
                        left = trio.current_time()
            except (trioweb.ConnectFailed, trioweb.HandshakeError) as error:
                self.verdict.expect(actor is None, "no exception is wrapped", repr(error))
                self.verdict.endings[type(error).__name__] += 1
            except Boom as error:
                raised = error
            except Exception as error:  # noqa: BLE001 - this is what must not happen
                self.verdict.expect(False, "no exception is lost or wrapped", repr(error))
        if actor is None:
            return
        self.verdict.expect(
            raised is (actor.boom if part.ending is Ending.RAISE else None)
            or scope.cancelled_caught,
            "no exception is lost or wrapped",
            f"{part.ending}: {raised!r}",
        )
        abrupt = raised is not None or scope.cancelled_caught
        if scope.cancelled_caught:  # it may have been on its way out already
            left = max(left, scope.deadline)
        self._expect_in_time(f"leaving {key}", left, 0 if abrupt else self._program.timeouts.close)
        self._check_gone(actor.ws)
        if actor.heard_all:
            ledgers[1].complete()

    @asynccontextmanager
    async def _connect(self, client: int, key: str) -> AsyncIterator[trioweb.WebSocket]:
        program = self._program
        stream: trio.abc.Stream | None = None
        if program.opaque:
            machine = self._network.hosts[f"client{client}"]
            try:
                with trio.fail_after(program.timeouts.connect):
                    stream = Opaque(await machine.open_stream("server", 80))
            except (OSError, trio.TooSlowError) as error:
                raise trioweb.ConnectFailed(str(error)) from error
        async with trioweb.connect(
            f"ws://server/{key}",
            stream=stream,
            limits=program.limits,
            timeouts=program.timeouts,
            heartbeat=program.heartbeat,
            deflate=program.deflate,
            observers=[self.observed],
        ) as ws:
            yield ws

    async def _stay_healthy(self, name: str) -> None:
        """Echo now and then, as long as the others do; nothing must disturb it."""
        with self._network.host(name):
            self._network.link(name, "server").inject(Conditions(latency=0.01))
            try:
                async with trioweb.connect(f"ws://server/{name}") as ws:
                    self.verdict.connections += 1
                    for number in range(12):
                        await trio.sleep(number)
                        start = trio.current_time()
                        message = f"{name} {number} " * (1 + 3 * number)
                        await ws.send(message)
                        same = await ws.receive() == message
                        self.verdict.expect(same, "a healthy connection is never disturbed", number)
                        self._expect_in_time("a healthy echo", start, PROMPT)
                        self.verdict.messages += 2
            except (trioweb.TriowebError, trio.BrokenResourceError, trio.EndOfChannel) as error:
                self.verdict.expect(
                    self._server.draining.is_set(),
                    "a healthy connection is never disturbed",
                    repr(error),
                )

    # --- what befalls them -------------------------------------------------------------------

    async def _strike(self) -> None:
        for strike in self._program.strikes:
            await trio.sleep_until(strike.time)
            name = f"client{strike.client}"
            if name not in self._network.hosts:
                continue
            link = self._network.link(name, "server")
            fault = strike.fault
            if fault is None:
                link.heal()
                continue
            if link.connections:  # what strikes nobody is not counted
                self.verdict.faults[_kind(fault)] += 1
            link.inject(fault)
            if isinstance(fault, Conditions):
                self._weather[strike.client] = fault

    # --- checks ------------------------------------------------------------------------------

    def _expect_in_time(self, what: str, start: float, seconds: float) -> None:
        took = trio.current_time() - start
        self.verdict.expect(
            took <= seconds + LEEWAY,
            "every ending is within its deadline",
            f"{what} took {took} s of {seconds}",
        )

    def _check_gone(self, ws: trioweb.WebSocket) -> None:
        left = [name for name in _tasks() if name.startswith(f"websocket {ws.id}")]
        self.verdict.expect(not left, "no orphan task", left)
        self.verdict.expect(ws.closed is not None, "a connection that was left is closed")
        if ws.closed is not None:
            self.verdict.endings[str(ws.closed.code)] += 1

    def _check_ends(self, key: str, one: End, other: End) -> None:
        """Check that each end ended as its part says, or as the other one did."""
        for end, peer in ((one, other), (other, one)):
            closed, theirs = end.ws.closed, peer.ws.closed
            assert closed is not None
            assert theirs is not None
            said = (closed.code, closed.reason)
            if closed.by_peer and closed.code != 1006:
                # The answer to a close frame has its code alone (RFC 6455, 5.5.1).
                fits = closed.code == theirs.code and closed.reason in ("", theirs.reason)
            else:
                fits = closed.code == 1006 or said in end.may_say()
            if said == (1011, "ping timeout") and not closed.by_peer:
                fits = not (self._is_calm(key) and peer.part.always_listens)
            self.verdict.expect(fits, "an end is the one that was chosen", f"{key}: {end}; {peer}")

    def _is_calm(self, key: str) -> bool:
        """Whether nothing befalls the link of a connection that could keep a pong away."""
        client = int(key.split("-", maxsplit=1)[0])
        conditions = self._program.conditions[client]
        return (
            conditions.latency + conditions.jitter < 0.2
            and conditions.bandwidth == math.inf
            and all(strike.client != client for strike in self._program.strikes)
        )

    # --- the tap -----------------------------------------------------------------------------

    def connected(self, stream: VirtualStream) -> None:
        """Hear of a connection."""

    def sent(self, stream: VirtualStream, data: bytes) -> None:
        """Hear of bytes."""

    def ended(self, stream: VirtualStream, how: str) -> None:
        """Check that a server's end closes soon after its handler was left."""
        if how == "closed" and stream.remote_address in self._left:
            left = self._left.pop(stream.remote_address)
            self._expect_in_time("leaving a handler", left, self._program.timeouts.close)

    def check_log(self, records: list[logging.LogRecord]) -> None:
        """Check that every handler's exception was logged, and nothing else was worth it."""
        failed = [r for r in records if "the handler failed" in r.getMessage()]
        self.verdict.expect(
            len(failed) == self._raised == len(records),
            "no exception is lost",
            [r.getMessage() for r in records],
        )


def _kind(fault: Fault) -> str:
    """Name a fault for the counts."""
    match fault:
        case Conditions():
            return "change of weather"
        case HalfOpen(after_bytes=0):
            return "half open"
        case Reset() | HalfOpen() if fault.after_bytes:
            return "kill at a byte"
        case _:
            return type(fault).__name__.lower()


def _imperfections(conditions: Conditions) -> list[str]:
    """Name what is not perfect under the conditions that a connection was opened in."""
    usual = Conditions()
    names = ("latency", "jitter", "bandwidth", "chunk", "buffer")
    return [name for name in names if getattr(conditions, name) != getattr(usual, name)]


def _tasks() -> set[str]:
    return {task.name for task in running_tasks()}


@contextmanager
def _logged() -> Iterator[list[logging.LogRecord]]:
    """Collect what trioweb logs as a warning or worse."""
    records: list[logging.LogRecord] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record)

    logger, collector = logging.getLogger("trioweb"), Collector(logging.WARNING)
    logger.addHandler(collector)
    propagate, logger.propagate = logger.propagate, False
    try:
        yield records
    finally:
        logger.removeHandler(collector)
        logger.propagate = propagate


def simulate(program: Program, seed: int, recorder: Recorder | None = None) -> Verdict:
    """Run a program; its verdict says what was checked, and what was broken."""
    world = World(program, seed, recorder)
    with _logged() as records:
        try:
            run(world.run, seed=seed)
        except OrphanTasks as error:
            world.verdict.expect(False, "no orphan task", error)
        except Exception as error:  # noqa: BLE001 - the verdict is where it is told
            world.verdict.expect(False, "no exception is lost or wrapped", repr(error))
    world.check_log(records)
    return world.verdict
