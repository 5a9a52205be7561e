"""The pytest plug-in: a network in memory for each test, repeated exactly by a seed.

It is loaded wherever trioweb is installed; ``-p no:trioweb`` turns it off. Asynchronous fixtures
need pytest-trio, which sets up those that do not depend on each other at the same time, and in
one context. If one of them were on another host while it waits, all would be, and each would
leave the others where it found them; so what is on another host here has a task of its own.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import (
    AbstractAsyncContextManager,
    ExitStack,
    contextmanager,
)
from functools import partial, wraps
from inspect import iscoroutinefunction
from typing import Any

import pytest
import trio

from ..connection import WebSocket
from ..server import Server, serve
from . import pairs
from .network import VirtualNetwork
from .orphans import no_orphans
from .scheduling import deterministic

__all__ = ["echo_server", "open_pair", "orphan_check", "virtual_network"]

#: The host on which a test runs.
_HERE = "test"

_seed_of_test = pytest.StashKey[int]()


# --- the seed --------------------------------------------------------------------------------


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--trioweb-seed``."""
    parser.getgroup("trioweb").addoption(
        "--trioweb-seed",
        type=int,
        metavar="N",
        help="repeat a run: what a virtual_network does, and the order of Trio's tasks on it",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Draw the session's seed if none was given; pytest-xdist hands options to its workers."""
    if config.option.trioweb_seed is None:
        config.option.trioweb_seed = secrets.randbelow(2**32)


def pytest_report_header(config: pytest.Config) -> str:
    """Show the session's seed."""
    return f"trioweb seed: {config.option.trioweb_seed}"


def _seed(item: pytest.Item) -> int:
    """Return a test's own seed: the same alone and among others, today and tomorrow."""
    name = f"{item.config.option.trioweb_seed} {item.nodeid}"
    return int.from_bytes(hashlib.sha256(name.encode(errors="backslashreplace")).digest()[:4])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Say how to repeat a test that failed."""
    report = yield
    seed = item.stash.get(_seed_of_test, None)
    if report.failed and seed is not None:
        advice = (
            f"The virtual network of this test had the seed {seed}.\n"
            f"Repeat the test with --trioweb-seed={item.config.option.trioweb_seed}"
        )
        report.sections.append(("trioweb", advice))
    return report


# --- while a test runs -----------------------------------------------------------------------


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Fix the order of tasks, and check for orphans, around the tests that ask for it.

    It is the first, so that what it puts around an ``async def`` is inside what pytest-trio does.
    """
    __tracebackhide__ = True
    with ExitStack() as stack:
        seed = item.stash.get(_seed_of_test, None)
        if seed is not None:
            # Begins the sequence anew: a fixture of a wider scope, set up for whichever test
            # comes first, may have had a run of its own.
            stack.enter_context(deterministic(seed))
        if "orphan_check" in getattr(item, "fixturenames", ()):
            stack.enter_context(_no_orphans_of(item))
        return (yield)


@contextmanager
def _no_orphans_of(item: Any) -> Generator[None]:
    # What Hypothesis runs for each of its examples lies below what pytest calls.
    owner, name = item, "obj"
    if hasattr(item.obj, "hypothesis"):
        owner, name = item.obj.hypothesis, "inner_test"
    test = getattr(owner, name)
    if not iscoroutinefunction(test):
        pytest.fail(
            f"orphan_check needs an async test: {item.nodeid} is none, and starts no tasks",
            pytrace=False,
        )
    setattr(owner, name, _checked(test))
    try:
        yield
    finally:
        setattr(owner, name, test)  # tests made by parametrize share Hypothesis' function


def _checked(test: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    @wraps(test)
    async def checked(*args: Any, **kwargs: Any) -> None:
        __tracebackhide__ = True
        async with no_orphans():
            await test(*args, **kwargs)

    return checked


# --- the fixtures ----------------------------------------------------------------------------


@pytest.fixture
def virtual_network(request: pytest.FixtureRequest) -> Generator[VirtualNetwork]:
    """A `trioweb.testing.VirtualNetwork` with the test's own seed, on whose host "test" it runs.

    What the test and its fixtures do with `trioweb.connect` and `trioweb.serve` touches no real
    network. The seed fixes the order of Trio's tasks too, and is shown if the test fails. Take
    pytest-trio's `autojump_clock` as well to have its latencies and deadlines in virtual time.
    """
    seed = request.node.stash[_seed_of_test] = _seed(request.node)
    network = VirtualNetwork(seed)
    with deterministic(seed), network.host(_HERE):
        yield network


@pytest.fixture
def open_pair(
    virtual_network: VirtualNetwork,
) -> Callable[..., AbstractAsyncContextManager[pairs.Pair]]:
    """`trioweb.testing.open_pair` on the test's `virtual_network`, which has the seed.

    It takes ``client``, ``server`` and ``conditions``, as the function does.
    """
    return partial(pairs.open_pair, network=virtual_network)


@pytest.fixture
async def echo_server(virtual_network: VirtualNetwork) -> AsyncGenerator[Server]:
    """A running `trioweb.Server` on the host "server" of the test's `virtual_network`.

    It sends every message back; `Server.url` leads there. Needs pytest-trio and an async test.
    """

    async def serve_there(task_status: trio.TaskStatus[Server]) -> None:
        with virtual_network.host("server"):
            await serve(_echo, 0, task_status=task_status)

    async with trio.open_nursery() as nursery:
        server: Server = await nursery.start(serve_there, name="echo_server")
        yield server
        await server.drain()


async def _echo(ws: WebSocket) -> None:
    async for message in ws:
        await ws.send(message)


@pytest.fixture(scope="session")  # the hook above does it: Hypothesis may share this
def orphan_check() -> None:
    """Fail the test, which must be async, with the names of the tasks that it leaves running.

    As if its whole body were in ``async with trioweb.testing.no_orphans():``.
    """
