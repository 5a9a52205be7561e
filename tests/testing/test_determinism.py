"""One seed, one run: the same bytes at the same times, a hundred times and in any process."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import trio

import trioweb
from tests.helpers import echo
from trioweb import Heartbeat, Timeouts, WebSocket, broadcast, connect, open_server
from trioweb.testing import (
    Conditions,
    HalfOpen,
    Partition,
    Recorder,
    Reset,
    Stall,
    VirtualNetwork,
    replay,
    run,
)
from trioweb.testing.wires import VirtualStream

ROOT = Path(__file__).parents[2]
#: A course in which all that the program knows happens, in not too many steps.
SEED = 7
CLIENTS = 3
SECONDS = 1
WEATHER = Conditions(latency=0.02, jitter=0.05, chunk=300, bandwidth=20_000)
FAULTS = (
    *(Stall(), Partition(), Reset(), Reset(after_bytes=100), HalfOpen(), HalfOpen("server")),
    *(Conditions(latency=0.3, jitter=0.1), WEATHER),
)
#: What a client of such a network must expect.
ENDS = (
    trioweb.ConnectionEnded,
    trioweb.ConnectFailed,
    trioweb.HandshakeInvalid,
    trioweb.HandshakeTimeout,
)


class Wire:
    """A tap that digests every byte with its time, and an instrument that does every step."""

    def __init__(self) -> None:
        self.digest = hashlib.sha256()
        self.size = 0

    def connected(self, stream: VirtualStream) -> None:
        self._note("connect", stream)

    def sent(self, stream: VirtualStream, data: bytes) -> None:
        self.size += len(data)
        self._note(data.hex(), stream)

    def ended(self, stream: VirtualStream, how: str) -> None:
        self._note(how, stream)

    def _note(self, what: str, stream: VirtualStream) -> None:
        ends = stream.local_address, stream.remote_address
        self.digest.update(f"{trio.current_time()!r} {ends} {what}\n".encode())


class Steps(trio.abc.Instrument):
    """Digests the order of tasks."""

    def __init__(self) -> None:
        self.digest = hashlib.sha256()

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.digest.update(f"{task.name}\n".encode())


class Course:
    """One run of a busy program, and all that can be known of it."""

    def __init__(self, seed: int, *, order: int | None = None) -> None:
        """Run; ``order`` is a seed of its own for the order of tasks."""
        self.recorder = Recorder()
        self.wire = Wire()
        self.steps = Steps()
        self.faults: Counter[str] = Counter()
        self.heard: list[str] = []
        run(
            self._main,
            seed,
            seed=seed if order is None else order,
            instruments=[self.steps],
        )
        self.text = str(self.recorder)
        assert not self.recorder.dropped
        self.fingerprint = " ".join(
            [
                hashlib.sha256(self.text.encode()).hexdigest(),
                self.wire.digest.hexdigest(),
                self.steps.digest.hexdigest(),
            ]
        )

    async def _main(self, seed: int) -> None:
        network = VirtualNetwork(seed, conditions=WEATHER)
        network.taps += [self.recorder, self.wire]
        self.faults = network.faults
        chance = random.Random(seed)
        here: dict[WebSocket, None] = {}

        async def serve_one(ws: WebSocket) -> None:
            here[ws] = None
            try:
                async for message in ws:
                    await ws.send(message)
                    if isinstance(message, str):
                        broadcast(list(here), f"{ws.request.path}: {message}")
            finally:
                del here[ws]

        with network.host("server"):
            async with (
                open_server(
                    serve_one,
                    80,
                    heartbeat=Heartbeat(0.5, 0.5),
                    timeouts=Timeouts(close=0.5, write=1),
                ),
                trio.open_nursery() as nursery,
            ):
                for number in range(CLIENTS):
                    with network.host(f"client{number}"):
                        nursery.start_soon(self._client, chance, number)
                links = [network.link(f"client{n}", "server") for n in range(CLIENTS)]
                script = network.draw(links, until=SECONDS, every=0.1, faults=FAULTS)
                nursery.start_soon(network.play, script)

    async def _client(self, chance: random.Random, number: int) -> None:
        while trio.current_time() < SECONDS:
            try:
                with trio.move_on_after(chance.uniform(0, 2)):
                    async with (
                        connect(
                            f"ws://server/{number}",
                            heartbeat=Heartbeat(0.3, 0.3),
                            timeouts=Timeouts(handshake=0.5, close=0.5),
                        ) as ws,
                        trio.open_nursery() as nursery,
                    ):
                        nursery.start_soon(self._listen, ws)
                        await self._talk(ws, chance)
                        nursery.cancel_scope.cancel()
            except* ENDS:
                pass
            await trio.sleep(chance.random() / 10)

    async def _listen(self, ws: WebSocket) -> None:
        async for message in ws:
            self.heard.append(repr(message))

    async def _talk(self, ws: WebSocket, chance: random.Random) -> None:
        for _ in range(chance.randrange(20)):
            what = chance.choice(["text", "bytes", "ping"])
            with trio.move_on_after(chance.uniform(0, 1)):
                if what == "ping":
                    await ws.ping()
                elif what == "text":
                    await ws.send("hello " * chance.randrange(1, 10))
                else:
                    await ws.send(chance.randbytes(chance.randrange(500)))
                await trio.sleep(chance.random() / 10)


def test_the_program_is_worth_it():
    # Everything that chance could decide is in it, and the order of tasks decides too.
    course = Course(SEED)
    kinds = {entry.kind for entry in course.recorder.entries}
    assert kinds >= {"connect", "http", "text", "binary", "ping", "pong", "close", "bytes"}
    assert kinds >= {"closed", "reset", "vanished"}
    assert course.faults.keys() == {"Stall", "Partition", "Reset", "HalfOpen", "Conditions"}
    assert course.heard
    orders = [Course(SEED, order=order) for order in range(SEED, SEED + 5)]
    assert orders[0].fingerprint == course.fingerprint
    assert len({other.wire.digest.hexdigest() for other in orders}) > 1


def test_the_same_seed_gives_the_same_recording_a_hundred_times():
    first = Course(SEED)
    for _ in range(99):
        course = Course(SEED)
        assert course.text == first.text
        assert course.heard == first.heard
        assert course.fingerprint == first.fingerprint


def test_another_seed_gives_another_recording():
    courses = [Course(seed) for seed in range(10)]
    for part in range(3):
        assert len({course.fingerprint.split()[part] for course in courses}) == len(courses)


def test_a_fresh_process_with_other_hashes_gives_the_same_recording():
    program = f"from {__name__} import Course, SEED; print(Course(SEED).fingerprint)"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": seed},
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in ("0", "1", "4294967295")
    ]
    expected = Course(SEED).fingerprint
    outputs = [process.communicate(timeout=60)[0].strip() for process in processes]
    assert outputs == [expected] * 3


def test_what_went_before_in_this_process_does_not_matter():
    one = Course(SEED).fingerprint
    random.seed(SEED)
    trio.run(trio.sleep, 0)
    Course(SEED + 1)
    assert Course(SEED).fingerprint == one


def test_a_replay_of_it_is_the_same_every_time():
    course = Course(SEED)
    replays = [run(replay, course.recorder, echo, seed=SEED) for _ in range(3)]
    assert len({str(recorder) for recorder in replays}) == 1
