"""Topics under faults: whoever subscribes ends with what was published, or was told otherwise.

Nodes are killed and started anew, links break, stall and are slow, the broker loses what it
carries. Each subscriber keeps a log; the check walks it, beside what the store was given.
"""

from __future__ import annotations

import random
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import hypothesis
import hypothesis.strategies as st
import pytest
import trio

import trioweb
from trioweb import (
    BrokerFailed,
    Heartbeat,
    HubLimits,
    Limits,
    LinkLimits,
    Overflow,
    Position,
    Retention,
    Timeouts,
    TopicOptions,
)
from trioweb.abc import Store
from trioweb.brokers.memory import MemoryBroker
from trioweb.stores.memory import MemoryStore
from trioweb.stores.sqlite import SQLiteStore
from trioweb.stores.transactions import Transactions
from trioweb.testing import (
    Conditions,
    HalfOpen,
    Partition,
    Reset,
    Stall,
    VirtualNetwork,
    no_orphans,
)
from trioweb.testing.scheduling import run
from trioweb.toolkit.attach import attach
from trioweb.toolkit.pubsub import Hub
from trioweb.toolkit.rpc import JSON, MSGPACK, Event, Methods, open_peer, serve_peer

PORT = 80
#: Seconds in which things go wrong, and in which all must be well afterwards.
TROUBLE, PEACE = 20.0, 120.0
LONG = Retention(max_entries=100_000, max_bytes=2**30, max_age=10**6)
ENDS = (OSError, trioweb.TriowebError, trio.TooSlowError, trio.BrokenResourceError)
FAULTS = (Reset(), Reset(after_bytes=700), Stall(), Stall(2.0), Partition(), HalfOpen())


@dataclass(frozen=True)
class Plan:
    seed: int
    nodes: int = 1
    clients: int = 3
    durable: bool = True
    retention: Retention = LONG
    overflow: Overflow = Overflow.CLOSE
    #: How likely the broker does not take a message, and how often it loses what it holds.
    broker_fails: float = 0.0
    pause: float = 0.15


class FaultyBroker(MemoryBroker):
    def __init__(self, chance: random.Random, fails: float) -> None:
        super().__init__(max_arrivals=8)
        self.chance = chance
        self.fails = fails

    async def publish(self, topic: str, data: bytes, /) -> None:
        await trio.sleep(self.chance.random() * 0.05)
        if self.chance.random() < self.fails:
            raise BrokerFailed("not now")
        await super().publish(topic, data)


class World:
    def __init__(self, plan: Plan, path: Path) -> None:
        self.plan = plan
        self.chance = random.Random(plan.seed)
        self.network = VirtualNetwork(plan.seed)
        self.path = path
        self.memory = MemoryStore()
        self.broker = FaultyBroker(random.Random(plan.seed + 1), plan.broker_fails)
        self.hubs: list[Hub | None] = [None] * plan.nodes
        self.scopes: list[trio.CancelScope] = [trio.CancelScope()] * plan.nodes
        #: What the store was given under each number.
        self.given: dict[tuple[str, int], Any] = {}
        self.end: Position | None = None
        self.published = 0
        self.peace = trio.Event()

    # --- nodes -------------------------------------------------------------------------------

    @asynccontextmanager
    async def open_store(self):
        async with AsyncExitStack() as stack:
            store: Store = self.memory
            if self.plan.durable:
                store = await stack.enter_async_context(
                    SQLiteStore(self.path, clock=trio.current_time)
                )
            append = store.append

            async def noted(topic, data, /, retention):
                position = await append(topic, data, retention)
                key = (position.epoch, position.offset)
                assert key not in self.given, "a number was given out twice"
                self.given[key] = trioweb_unpack(data)
                self.end = position
                return position

            store.append = noted  # type: ignore[method-assign]
            try:
                yield store
            finally:
                store.append = append  # type: ignore[method-assign]

    async def node(self, index: int) -> None:
        topics = {"*": TopicOptions(history=self.plan.retention, overflow=self.plan.overflow)}
        broker = self.broker if self.plan.nodes > 1 else None
        limits = LinkLimits(messages=24, bytes=4096, close=2)
        while True:
            with trio.CancelScope() as self.scopes[index], self.network.host(f"node{index}"):
                async with self.open_store() as store:
                    many = HubLimits(answer_events=10_000, answer_bytes=2**19)
                    async with Hub(topics, store=store, broker=broker, limits=many) as hub:

                        async def handle(ws: trioweb.WebSocket, hub: Hub = hub) -> None:
                            format_ = MSGPACK if ws.request.path == "/m" else JSON
                            async with attach(ws, limits=limits) as link:
                                await serve_peer(link, hub.methods, format=format_)

                        self.hubs[index] = hub
                        try:
                            await trioweb.serve(
                                handle,
                                PORT,
                                limits=Limits(outbox_frames=8, outbox_bytes=2048),
                                heartbeat=Heartbeat(2, 2),
                                timeouts=Timeouts(write=5, close=2),
                            )
                        finally:
                            self.hubs[index] = None
            await trio.sleep(self.chance.random() * 2)

    async def kill_nodes(self) -> None:
        while not self.peace.is_set():
            await trio.sleep(self.chance.expovariate(1 / 4))
            if not self.peace.is_set():
                self.scopes[self.chance.randrange(self.plan.nodes)].cancel()
                if self.chance.random() < 0.3 and not self.plan.durable:
                    self.memory._topics.clear()  # as a process that was killed
                    self.memory._cost = 0

    async def lose_in_broker(self) -> None:
        while not self.peace.is_set():
            await trio.sleep(self.chance.expovariate(1 / 2))
            self.broker.lose()

    async def publish(self) -> None:
        """Publish from the application's side, now and then much at once."""
        while not self.peace.is_set():
            hub = self.chance.choice(self.hubs)
            if hub is None:
                await trio.sleep(0.1)
                continue
            burst = self.chance.choice((1, 1, 1, 2, 5, 40))
            async with trio.open_nursery() as nursery:
                for _ in range(burst):
                    self.published += 1
                    data = {"n": self.published, "fill": "x" * self.chance.randrange(200)}
                    nursery.start_soon(hub.publish, "topic", data)
            await trio.sleep(self.chance.expovariate(1 / self.plan.pause))


def trioweb_unpack(data: bytes) -> Any:
    from trioweb.toolkit.publication import unpack

    return unpack(data)


class Client:
    """A subscriber by hand, which comes back for what it missed."""

    def __init__(self, world: World, index: int) -> None:
        self.world = world
        self.name = f"client{index}"
        self.chance = random.Random(world.plan.seed * 100 + index)
        self.position: Position | None = None
        #: ("at", position), ("event", offset, data), ("missed", count), ("told",)
        self.log: list[tuple[Any, ...]] = []
        self.times_back = 0
        #: Events and notices that come before the answer is looked at.
        self.early: list[tuple[Any, ...]] | None = None
        self.ended = trio.Event()
        self.methods = Methods()
        self.methods.add("gap", self._gap)
        self.methods.add("unsubscribed", self._unsubscribed)

    def _gap(self, _peer: Any, params: Any) -> None:
        self._take(("missed", params["missed"]))

    def _unsubscribed(self, _peer: Any, params: Any) -> None:
        assert params["code"] == "epoch"
        self.ended.set()

    def _event(self, event: Event) -> None:
        self._take(("event", event.offset, event.data))

    def _take(self, what: tuple[Any, ...]) -> None:
        if self.early is not None:
            self.early.append(what)
            return
        self.log.append(what)
        assert self.position is not None
        if what[0] == "event":
            self.position = replace(self.position, offset=what[1])

    async def run(self) -> None:
        with self.world.network.host(self.name):
            while True:
                with suppress(*ENDS):
                    await self.connect()
                await trio.sleep(self.chance.random())

    async def connect(self) -> None:
        node = self.chance.randrange(self.world.plan.nodes)
        url = f"ws://node{node}:{PORT}/{self.chance.choice('jm')}"
        with trio.CancelScope():
            async with (
                trioweb.connect(
                    url,
                    heartbeat=Heartbeat(2, 2),
                    timeouts=Timeouts(connect=3, handshake=3, write=5, close=2),
                ) as ws,
                open_peer(ws, self.methods, on_event=self._event) as peer,
            ):
                while not peer.ended:
                    self.ended = trio.Event()
                    await self.subscribe(peer)
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(self._until, peer.wait_ended, nursery.cancel_scope)
                        nursery.start_soon(self._until, self.ended.wait, nursery.cancel_scope)

    async def _until(self, wait: Any, scope: trio.CancelScope) -> None:
        await wait()
        scope.cancel()

    async def subscribe(self, peer: Any) -> None:
        params: dict[str, Any] = {"topic": "topic"}
        if self.position is not None:
            epoch, offset = self.position.epoch, self.position.offset
            params["position"] = {"epoch": epoch, "offset": offset}
        self.early = []
        try:
            answer = await peer.call("subscribe", params, timeout=8)
        except BaseException:
            self.early = None
            raise
        early, self.early = self.early, None
        now = Position(**answer["position"])
        if self.position is None:
            assert "recovered" not in answer
            self.log.append(("at", now))
        elif answer["recovered"]:
            self.times_back += 1
            for event in answer.get("events", []):
                self._take(("event", event["offset"], event["data"]))
            assert self.position == now, "recovered, and not as far as it says"
        else:
            assert "events" not in answer
            self.log += [("told",), ("at", now)]
        self.position = now
        for one in early:
            self._take(one)


def check(world: World, client: Client) -> int:
    """Walk a log; return how often it was told that something is missing."""
    at: Position | None = None
    told = 0
    for what in client.log:
        match what:
            case ("at", now):
                at = now
            case ("told",):
                told += 1
            case ("missed", count):
                assert at is not None
                told += 1
                at = replace(at, offset=at.offset + count)
            case ("event", offset, data):
                assert at is not None
                assert offset == at.offset + 1, f"{offset} after {at}"
                assert data == world.given[at.epoch, offset]
                at = replace(at, offset=offset)
    assert at == world.end, f"ended at {at}, not {world.end}"
    return told


async def live(plan: Plan, path: Path) -> tuple[World, list[Client]]:
    world = World(plan, path)
    clients = [Client(world, index) for index in range(plan.clients)]
    async with no_orphans(), trio.open_nursery() as nursery:
        for index in range(plan.nodes):
            nursery.start_soon(world.node, index)
        await trio.sleep(0.1)
        for client in clients:
            nursery.start_soon(client.run)
        await trio.sleep(1)
        links = [
            world.network.link(client.name, f"node{node}")
            for client in clients
            for node in range(plan.nodes)
        ]
        # The first one is slow.
        for link in links[: plan.nodes]:
            link.inject(Conditions(bandwidth=4000, buffer=1000, latency=0.05))
        script = world.network.draw(
            links, until=trio.current_time() + TROUBLE, every=0.7, faults=FAULTS
        )
        async with trio.open_nursery() as trouble:
            trouble.start_soon(world.publish)
            trouble.start_soon(world.kill_nodes)
            if plan.nodes > 1:
                trouble.start_soon(world.lose_in_broker)
            await world.network.play(script)
            world.peace.set()
        world.broker.fails = 0
        for link in links:
            link.heal()
            link.inject(Conditions())
        # One more, which shows that all go on.
        while world.hubs[0] is None:
            await trio.sleep(0.1)
        await world.hubs[0].publish("topic", "the last")
        with trio.move_on_after(PEACE):
            while any(client.position != world.end for client in clients):
                await trio.sleep(0.5)
        nursery.cancel_scope.cancel()
    return world, clients


@pytest.fixture
def inline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let SQLite do its work on the spot: a thread would let the clock jump."""

    async def here(self: Any, function: Any) -> Any:
        await trio.lowlevel.cancel_shielded_checkpoint()
        return function()

    monkeypatch.setattr(Transactions, "_in_thread", here)


def few(examples: int) -> Any:
    return hypothesis.settings(
        max_examples=examples,
        suppress_health_check=[
            hypothesis.HealthCheck.function_scoped_fixture,
            hypothesis.HealthCheck.too_slow,
        ],
    )


seeds = st.integers(0, 2**32)


def go(plan: Plan, folder: Path) -> tuple[World, list[Client]]:
    path = folder / f"{plan.seed}.db"
    for one in folder.glob("*.db*"):
        one.unlink()
    return run(live, plan, path, seed=plan.seed)


@few(8)
@hypothesis.given(seeds)
def test_one_node_on_a_disk_loses_nothing(inline, tmp_path, seed):
    world, clients = go(Plan(seed), tmp_path)
    assert world.published > 20
    for client in clients:
        assert check(world, client) == 0, client.log
    assert any(client.times_back for client in clients)


@few(6)
@hypothesis.given(seeds, st.sampled_from([Overflow.CLOSE, Overflow.DROP_OLDEST]))
def test_what_is_lost_is_told(inline, tmp_path, seed, overflow):
    """Little is kept: not all can be recovered, and who is too slow may miss some."""
    plan = Plan(seed, retention=Retention(max_entries=20), overflow=overflow, pause=0.1)
    world, clients = go(plan, tmp_path)
    for client in clients:
        check(world, client)


@few(4)
@hypothesis.given(seeds)
def test_a_store_that_forgets_begins_anew_and_says_so(inline, tmp_path, seed):
    world, clients = go(Plan(seed, durable=False), tmp_path)
    for client in clients:
        check(world, client)


@few(6)
@hypothesis.given(seeds, st.sampled_from([0.0, 0.2]))
def test_two_nodes_are_as_one(inline, tmp_path, seed, fails):
    world, clients = go(Plan(seed, nodes=2, broker_fails=fails), tmp_path)
    for client in clients:
        assert check(world, client) == 0, client.log
