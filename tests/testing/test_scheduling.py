"""One seed, one order of tasks: what a run does is fixed by it, here and in other processes."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import trio
import trio.testing

import trioweb
from tests.helpers import echo, guard
from trioweb.testing import Conditions, Fault, Reset, Stall, VirtualNetwork, deterministic, run
from trioweb.testing.scheduling import Deadlock, check_trio
from trioweb.testing.wires import VirtualStream

#: What `deterministic` sets, and puts back.
core = trio._core._run


@pytest.fixture(autouse=True)
def without_hypothesis(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take back what Hypothesis, once imported, does to every run of the process."""
    monkeypatch.setattr(core, "_ALLOW_DETERMINISTIC_SCHEDULING", False)


# The order of tasks.


async def race() -> list[str]:
    """Let 20 tasks race for whatever Trio wakes several tasks with; return who came when."""
    order: list[str] = []
    event, lot, lock = trio.Event(), trio.lowlevel.ParkingLot(), trio.Lock()
    send, receive = trio.open_memory_channel[int](3)

    async def runner(number: int) -> None:
        await event.wait()
        order.append(f"event {number}")
        with trio.move_on_at(5):
            await trio.sleep_forever()
        order.append(f"deadline {number}")
        await trio.sleep_until(6)
        order.append(f"sleep {number}")
        await lot.park()
        order.append(f"lot {number}")
        async with lock:
            await trio.lowlevel.checkpoint()
        order.append(f"lock {number}")
        if number % 2:
            await send.send(number)
        else:
            order.append(f"{number} hears {await receive.receive()}")

    async with trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(runner, number)
        await trio.testing.wait_all_tasks_blocked()
        event.set()
        await trio.sleep(10)
        lot.unpark_all()
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(cancelled, number, order)
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
    return order


async def cancelled(number: int, order: list[str]) -> None:
    try:
        await trio.sleep_forever()
    finally:
        order.append(f"cancelled {number}")


def test_one_seed_is_one_order_and_another_seed_another() -> None:
    """What Trio promises nowhere: this fails when a new Trio takes its tasks in another way."""
    orders = [run(race, seed=7) for _ in range(100)]
    assert all(order == orders[0] for order in orders)
    others = [run(race, seed=seed) for seed in range(20)]
    assert len({tuple(order) for order in others}) == 20


def test_every_kind_of_wake_up_has_an_order_of_its_own() -> None:
    order = run(race, seed=7)
    for kind in ("event", "deadline", "sleep", "lot", "lock", "cancelled"):
        numbers = [int(entry.split()[1]) for entry in order if entry.startswith(f"{kind} ")]
        assert sorted(numbers) == list(range(20))
        assert kind == "lock" or numbers != sorted(numbers), f"{kind} is not shuffled"


def test_without_a_seed_there_is_no_order() -> None:
    """Else the tests above would show nothing."""
    orders = {
        tuple(trio.run(race, clock=trio.testing.MockClock(autojump_threshold=0))) for _ in range(50)
    }
    assert len(orders) > 1


def test_deterministic_fixes_every_run_in_its_block() -> None:
    def two_runs() -> list[list[str]]:
        with deterministic(3):
            return [
                trio.run(race, clock=trio.testing.MockClock(autojump_threshold=0)) for _ in range(2)
            ]

    first, second = two_runs()
    assert first != second, "the second goes on where the first ended"
    assert two_runs() == [first, second]
    assert run(race, seed=3) == first


# The same in other processes.


async def story(seed: int) -> list[str]:
    """Let clients of a server meet faults; return all that crossed the wires, and when."""
    network = VirtualNetwork(seed, conditions=Conditions(latency=0.05, jitter=0.1, chunk=50))
    lines: list[str] = []

    class Tap:
        def connected(self, stream: VirtualStream) -> None:
            self.note(stream, "connected")

        def sent(self, stream: VirtualStream, data: bytes) -> None:
            self.note(stream, data.hex())

        def ended(self, stream: VirtualStream, how: str) -> None:
            self.note(stream, how)

        def note(self, stream: VirtualStream, what: str) -> None:
            lines.append(f"{trio.current_time()!r} {stream.local_address} {what}")

    network.taps.append(Tap())

    async def client(number: int, url: str) -> None:
        with network.host(f"client{number}"):
            try:
                async with trioweb.connect(url) as ws:
                    lines.append(f"{number} is {ws.id}")
                    for count in range(3):
                        await ws.send(f"{number} {count}")
                        lines.append(f"{await ws.receive()!r} came back")
                        await trio.sleep(1)
            except trioweb.TriowebError as error:
                lines.append(f"{number} failed: {error}")

    names = [f"client{number}" for number in range(8)]
    with network.host("server"):
        for name in names:
            with network.host(name):
                pass
        async with trioweb.open_server(echo, 0) as server:
            async with trio.open_nursery() as nursery:
                for number in range(8):
                    nursery.start_soon(client, number, server.url)
                links = [network.link(name, "server") for name in names]
                faults: list[Fault] = [Stall(0.5), Reset(), Reset(after_bytes=500)]
                await network.play(network.draw(links, until=4, every=0.5, faults=faults))
            for link in links:
                link.heal()
            with network.host("client0"):
                async with trioweb.connect(server.url) as one, trioweb.connect(server.url) as two:
                    await one.send("goes down with the server")
                    await server.drain()
                    for ws in (one, two):
                        lines.extend([f"{message!r} at last" async for message in ws])
    return lines


def test_one_seed_is_one_story() -> None:
    first = run(story, 1, seed=1)
    assert all(run(story, 1, seed=1) == first for _ in range(5))
    assert run(story, 2, seed=1) != first
    assert run(story, 1, seed=2) != first
    assert any("reset" in line for line in first)


PROGRAM = """
import hashlib
from tests.testing.test_scheduling import race, story
from trioweb.testing import run
text = repr([run(race, seed=5), run(story, 5, seed=5)])
print(hashlib.sha256(text.encode()).hexdigest())
"""


def test_a_seed_is_the_same_in_every_process() -> None:
    root = Path(__file__).parents[2]
    running = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
            cwd=root,
            env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(root)},
            stdout=subprocess.PIPE,
        )
        for hash_seed in ("0", "1", "random")
    ]
    outputs = [process.communicate(timeout=60)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0, 0]
    assert len(outputs[0]) == 65
    assert len(set(outputs)) == 1


# What it leaves behind.


def test_the_state_of_before_comes_back() -> None:
    def disturb() -> None:
        with deterministic(1):
            assert core._ALLOW_DETERMINISTIC_SCHEDULING is True
            core._r.random()
            raise ZeroDivisionError

    before = core._r.getstate(), core._ALLOW_DETERMINISTIC_SCHEDULING
    with pytest.raises(ZeroDivisionError):
        disturb()
    run(race, seed=1)
    assert (core._r.getstate(), core._ALLOW_DETERMINISTIC_SCHEDULING) == before


def test_a_block_goes_on_behind_an_inner_one() -> None:
    with deterministic(1):
        expected = [core._r.random() for _ in range(2)]
    with deterministic(1):
        first = core._r.random()
        with deterministic(2):
            core._r.random()
        assert [first, core._r.random()] == expected


# Runs.


def test_a_run_returns_and_takes_arguments_and_instruments_on_a_clock_from_0_that_jumps() -> None:
    class Runs(trio.abc.Instrument):
        count = 0

        def before_run(self) -> None:
            self.count += 1

    async def main(number: int, word: str) -> tuple[int, str, float, float]:
        start = trio.current_time()
        await trio.sleep(5000)
        return number, word, start, trio.current_time()

    runs = Runs()
    assert run(main, 3, "x", seed=1, instruments=[runs]) == (3, "x", 0, 5000)
    assert runs.count == 1


@pytest.mark.parametrize(
    "error", [ValueError("x"), KeyboardInterrupt(), ExceptionGroup("", [ValueError("y")])]
)
def test_an_error_names_the_seed(error: BaseException) -> None:
    async def main() -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        run(main, seed=4711)
    assert caught.value is error
    assert error.__notes__ == ["trioweb.testing: this was seed 4711"]


def test_a_deadline_is_met_however_long_nothing_happens() -> None:
    async def main() -> None:
        with guard():
            await trio.sleep_forever()

    with pytest.raises(trio.TooSlowError):
        run(main, seed=1)


# A new Trio.


def test_trio_is_as_it_should_be() -> None:
    check_trio()


@pytest.mark.parametrize("name", ["_r", "_ALLOW_DETERMINISTIC_SCHEDULING"])
@pytest.mark.parametrize("value", [None, "gone"])
def test_what_a_new_trio_lacks_is_named(
    name: str, value: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = {"_r": "_ALLOW", "_ALLOW_DETERMINISTIC_SCHEDULING": "_r "}[name]
    if value is None:
        monkeypatch.delattr(core, name)
    else:
        monkeypatch.setattr(core, name, value)
    for use in (check_trio, deterministic(1).__enter__):
        with pytest.raises(RuntimeError, match=f"trio {trio.__version__} has no {name} ") as caught:
            use()
        assert other not in str(caught.value)


def test_all_that_a_new_trio_lacks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(core, "_r")
    monkeypatch.delattr(core, "_ALLOW_DETERMINISTIC_SCHEDULING")
    with pytest.raises(RuntimeError, match="no _r and no _ALLOW_DETERMINISTIC_SCHEDULING any"):
        check_trio()


def test_our_own_chance_is_not_trios() -> None:
    random.seed(1)
    before = random.getstate()
    run(story, 1, seed=1)
    assert random.getstate() == before


# --- a deadlock ------------------------------------------------------------------------------


def test_a_run_in_which_all_wait_for_nothing_is_an_error_that_names_them():
    async def wait_for_ever() -> None:
        await trio.sleep_forever()

    async def main() -> None:
        await trio.sleep(1000)  # a deadline is no deadlock
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait_for_ever)
            await trio.Event().wait()

    complaint = r"no deadline is set:(?s:.*)wait_for_ever at .*:\d+, in a nursery of"
    with pytest.raises(Deadlock, match=complaint) as caught:
        run(main, seed=5)
    assert "seed 5" in caught.value.__notes__[0]


def test_what_a_deadlocked_task_raises_as_it_is_cancelled_comes_first():
    async def main() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise LookupError("cleaning up")

    with pytest.raises(LookupError, match="cleaning up"):
        run(main, seed=5)
