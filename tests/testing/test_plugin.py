"""The pytest plug-in: here at once, and in a project of its own, in a folder of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from trio.testing import MockClock

import trioweb
from trioweb.host import current_host
from trioweb.testing import Conditions, VirtualHost, VirtualNetwork, plugin

KIT = """
import socket

import pytest
import trio

import trioweb
from trioweb.host import System, current_host
from trioweb.testing import Conditions


class RealDNS(Exception):
    pass


@pytest.fixture
def no_dns(monkeypatch):
    def explode(*args, **kwargs):
        raise RealDNS

    monkeypatch.setattr(socket, "getaddrinfo", explode)


async def order_of_tasks():
    async def note(number):
        for _ in range(3):
            await trio.lowlevel.checkpoint()
            seen.append(number)

    seen = []
    async with trio.open_nursery() as nursery:
        for number in range(8):
            nursery.start_soon(note, number)
    return seen


@pytest.fixture(scope="module")
def run_of_whoever_is_first():
    trio.run(order_of_tasks)


@pytest.fixture
def order_at_setup(virtual_network, request):
    order = trio.run(order_of_tasks)
    request.getfixturevalue("run_of_whoever_is_first")
    return order


async def test_echo(virtual_network, order_at_setup, echo_server, autojump_clock):
    assert current_host.get() is virtual_network.hosts["test"]
    async with trioweb.connect(echo_server.url) as ws:
        await ws.send("hello")
        assert await ws.receive() == "hello"
    assert list(virtual_network.hosts) == ["test", "server"]


async def test_pair(open_pair, autojump_clock):
    async with open_pair(conditions=Conditions(latency=2)) as pair:
        await pair.client.send("hello")
        start = trio.current_time()
        assert await pair.server.receive() == "hello"
        assert trio.current_time() - start == 2


async def test_unknown_name(virtual_network, no_dns):
    with pytest.raises(trioweb.ConnectFailed, match="nowhere.example"):
        async with trioweb.connect("ws://nowhere.example"):
            pass
    with pytest.raises(RealDNS):
        await trio.open_tcp_stream("nowhere.example", 80)


@pytest.mark.trio
async def test_broken(order_at_setup, echo_server, open_pair, autojump_clock):
    print("setup:", order_at_setup)
    print("tasks:", await order_of_tasks())
    async with open_pair(conditions=Conditions(latency=1, jitter=1, chunk=9)) as pair:
        await pair.client.send("x" * 100)
        await pair.server.receive()
        print("faults:", trio.current_time())
        print("ids:", pair.client.id)
    raise RuntimeError("broken")


def test_broken_without_network():
    raise RuntimeError("no seed is to blame")


def test_the_real_host_is_back():
    assert isinstance(current_host.get(), System)
"""

ORPHANS = """
import pytest
import trio
from hypothesis import Phase, given, settings
from hypothesis import strategies as st


async def lost():
    await trio.sleep_forever()


async def leave_one():
    trio.lowlevel.spawn_system_task(lost)


@pytest.mark.trio
async def test_leaves(orphan_check):
    await leave_one()


async def test_leaves_none(orphan_check, nursery, echo_server):
    async with trio.open_nursery() as own:
        own.start_soon(trio.lowlevel.checkpoint)
    nursery.start_soon(trio.sleep_forever)


async def test_leaves_and_raises(orphan_check):
    await leave_one()
    raise KeyError("this one")


async def test_unchecked():
    await leave_one()


class TestClass:
    pytestmark = pytest.mark.usefixtures("orphan_check")

    async def test_leaves(self):
        await leave_one()


def test_sync(orphan_check):
    pass


quick = settings(max_examples=5, database=None, deadline=None, phases=[Phase.generate])


@quick
@given(number=st.integers())
async def test_examples_leave(orphan_check, number):
    if number:
        await leave_one()


@quick
@given(number=st.integers())
async def test_examples_leave_none(orphan_check, number):
    await trio.lowlevel.checkpoint()


@pytest.mark.parametrize("leave", [False, True])
@quick
@given(number=st.integers())
async def test_examples_twice(orphan_check, leave, number):
    if leave:
        await leave_one()


@quick
@given(number=st.integers())
async def test_examples_on_a_network(orphan_check, number):
    from trioweb.testing import open_pair  # each example is a run of its own, with its network

    async with open_pair() as pair:
        await pair.client.send(str(number))
        assert await pair.server.receive() == str(number)
"""

ALONE = """
import sys

import trio

from trioweb.testing import open_pair


def test_sync(virtual_network):
    async def main():
        async with open_pair(network=virtual_network) as pair:
            await pair.client.send("hello")
            assert await pair.server.receive() == "hello"

    trio.run(main)
    assert "pytest_trio" not in sys.modules
    assert "hypothesis" not in sys.modules


async def test_async(echo_server):
    pass
"""


@dataclass
class Run:
    """What pytest said, and what became of each test."""

    output: str

    @property
    def outcomes(self) -> dict[str, str]:
        found = re.findall(r"^(PASSED|FAILED|ERROR) \w+\.py::(\S+)", self.output, re.MULTILINE)
        return {name: outcome for outcome, name in found}

    def report(self, name: str) -> str:
        """Return what is said about one test that failed."""
        reports = re.split(
            r"^_{3,} (?:ERROR at setup of )?(\S+) _{3,}$", self.output, flags=re.MULTILINE
        )
        return dict(zip(reports[1::2], reports[2::2], strict=True))[name]

    def find(self, pattern: str) -> str:
        (found,) = set(re.findall(pattern, self.output))
        assert isinstance(found, str)
        return found


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of somebody's project."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "pytest.ini").write_text("[pytest]\ntrio_mode = true\n")
    (folder / "test_kit.py").write_text(KIT)
    (folder / "test_orphans.py").write_text(ORPHANS)
    return folder


def run(folder: Path, *arguments: str) -> Run:
    command = [sys.executable, "-W", "error", "-m", "pytest", "-W", "error", "-rA"]
    # The project's own options alone count, and its terminal is wide enough for long names.
    environment = {**os.environ, "COLUMNS": "200", "PYTEST_ADDOPTS": ""}
    done = subprocess.run(
        [*command, "-p", "no:cacheprovider", *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )
    return Run(done.stdout)


@pytest.fixture(scope="module")
def whole(project: Path) -> Run:
    """Run all tests of the project."""
    return run(project)


# In a project of its own.


def test_every_test_ends_as_it_should(whole: Run) -> None:
    assert whole.outcomes == {
        "test_echo": "PASSED",
        "test_pair": "PASSED",
        "test_unknown_name": "PASSED",
        "test_broken": "FAILED",
        "test_broken_without_network": "FAILED",
        "test_the_real_host_is_back": "PASSED",
        "test_leaves": "FAILED",
        "test_leaves_none": "PASSED",
        "test_leaves_and_raises": "FAILED",
        "test_unchecked": "PASSED",
        "TestClass::test_leaves": "FAILED",
        "test_sync": "FAILED",
        "test_examples_leave": "FAILED",
        "test_examples_leave_none": "PASSED",
        "test_examples_twice[False]": "PASSED",
        "test_examples_twice[True]": "FAILED",
        "test_examples_on_a_network": "PASSED",
    }


@pytest.mark.parametrize(
    "name",
    ["test_leaves", "TestClass.test_leaves", "test_examples_leave", "test_examples_twice[True]"],
)
def test_a_task_that_is_left_is_named(whole: Run, name: str) -> None:
    report = whole.report(name)
    assert "OrphanTasks: 1 task is left running:" in report
    assert re.search(
        r"test_orphans\.lost at \S+/test_orphans\.py:9, in a nursery of <init>", report
    )


def test_what_the_test_itself_raises_is_shown_instead(whole: Run) -> None:
    report = whole.report("test_leaves_and_raises")
    assert "KeyError: 'this one'" in report
    assert "OrphanTasks" not in report


def test_a_sync_test_is_told_that_it_cannot_be_checked(whole: Run) -> None:
    (message,) = whole.report("test_sync").strip().splitlines()[:1]
    assert message == (
        "orphan_check needs an async test: test_orphans.py::test_sync is none, and starts no tasks"
    )


def test_the_printed_seed_repeats_the_run(whole: Run, project: Path) -> None:
    option = whole.find(r"Repeat the test with (--trioweb-seed=\d+)\n")
    assert f"trioweb seed: {option.partition('=')[2]}\n" in whole.output
    assert option in whole.report("test_broken")
    assert "trioweb-seed" not in whole.report("test_broken_without_network")

    # Alone, and marked instead of by pytest-trio's mode.
    alone = ("-o", "trio_mode=false", "test_kit.py::test_broken", "test_orphans.py::test_leaves")
    again, other = run(project, *alone, option), run(project, *alone)
    for repeated in (again, other):
        assert repeated.outcomes == {"test_broken": "FAILED", "test_leaves": "FAILED"}
        assert "OrphanTasks" in repeated.report("test_leaves")
    for what in ("setup: (.*)", "tasks: (.*)", "faults: (.*)", "ids: (.*)", r"the seed (\d+)"):
        first, second, third = (each.find(what) for each in (whole, again, other))
        assert first == second != third, what


def test_neither_pytest_trio_nor_hypothesis_is_needed(tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "test_alone.py").write_text(ALONE)
    without = ("-p", "no:trio", "-p", "no:hypothesispytest")
    alone = run(tmp_path, *without)
    assert alone.outcomes == {"test_sync": "PASSED", "test_async": "ERROR"}
    assert "'test_async' requested an async fixture 'echo_server'" in alone.report("test_async")

    shown = run(tmp_path, *without, "--fixtures").output
    ours = shown.partition("fixtures defined from trioweb.testing.plugin")[2]
    for name in plugin.__all__:
        (explanation,) = re.findall(rf"^{name} .*-- .*\n    (\S.*)", ours, re.MULTILINE)
        assert explanation.endswith(".")


# At once.


async def test_the_test_and_its_fixtures_are_on_the_virtual_network(
    virtual_network: VirtualNetwork, echo_server: trioweb.Server, autojump_clock: MockClock
) -> None:
    here = current_host.get()
    assert isinstance(here, VirtualHost)
    assert here.name == "test"
    assert virtual_network.hosts["test"] is here
    async with trioweb.connect(echo_server.url) as ws:
        for message in ("hello", b"\x00"):
            await ws.send(message)
            assert await ws.receive() == message
    assert current_host.get() is here


async def test_pairs_are_on_the_tests_network_with_their_conditions(
    open_pair, virtual_network: VirtualNetwork, autojump_clock: MockClock, orphan_check: None
) -> None:
    for conditions in (None, Conditions(latency=2), Conditions(latency=1)):
        async with open_pair(conditions=conditions) as pair:
            assert pair.link is virtual_network.link("server", "client")
            start = trio.current_time()
            await pair.client.send("hello")
            assert await pair.server.receive() == "hello"
            assert trio.current_time() - start == (conditions.latency if conditions else 0)
    client, server = {"subprotocols": ["a", "b"]}, {"subprotocols": ["b"]}
    async with open_pair(client=client, server=server) as pair:
        assert pair.client.subprotocol == "b"
    with pytest.raises(TypeError, match="seed"):
        open_pair(seed=1)


async def test_a_pair_ends_as_its_block_does(open_pair, autojump_clock: MockClock) -> None:
    error = KeyError("mine")
    with pytest.raises(KeyError) as caught:
        async with open_pair() as pair:
            raise error
    assert caught.value is error
    assert pair.client.closed == trioweb.Close(1001)
    async with open_pair() as pair:
        pass
    assert pair.client.closed == pair.server.closed == trioweb.Close(1000)
    with pytest.raises(trioweb.HandshakeRejected):
        async with open_pair(server={"authenticate": lambda _: trioweb.Refused()}):
            pass


@pytest.fixture
async def one_pair(open_pair):
    async with open_pair() as pair:
        yield pair


@pytest.fixture
async def another_pair(open_pair):
    async with open_pair() as pair:
        yield pair


@pytest.mark.parametrize("number", range(10))
async def test_fixtures_that_are_set_up_together_stay_on_their_hosts(
    number: int, one_pair, another_pair, echo_server, virtual_network, autojump_clock: MockClock
) -> None:
    assert current_host.get() is virtual_network.hosts["test"]
    for pair in (one_pair, another_pair):
        assert pair.client.local_address[0] == "client"
        assert pair.server.local_address[0] == "server"


async def test_a_connection_to_the_echo_server_leaves_no_orphan_behind(
    echo_server: trioweb.Server, autojump_clock: MockClock, orphan_check: None
) -> None:
    async with trioweb.connect(echo_server.url) as ws:
        await ws.send("x")
        await trio.sleep(60)


def test_a_tests_seed_is_stable_and_its_own() -> None:
    def seed(session: int, nodeid: str) -> int:
        options = SimpleNamespace(option=SimpleNamespace(trioweb_seed=session))
        item: Any = SimpleNamespace(config=options, nodeid=nodeid)
        return plugin._seed(item)

    assert seed(1, "test_a.py::test_b") == 2212621890
    assert len({seed(1, "a"), seed(1, "b"), seed(2, "a"), seed(1, "\udcff")}) == 4
