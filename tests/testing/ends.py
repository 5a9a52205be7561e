"""What the tests of the virtual network share: two ends of a connection, and a way to run."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, ParamSpec

import trio

from tests.helpers import guard
from trioweb.testing import Conditions, Link, VirtualHost, VirtualNetwork, run
from trioweb.testing.network import VirtualListener
from trioweb.testing.wires import VirtualStream

P = ParamSpec("P")


def virtual(test: Callable[P, Awaitable[None]]) -> Callable[P, None]:
    """Run a test in virtual time, from 0 on; one that hangs fails after a year of it."""

    @functools.wraps(test)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> None:
        async def main() -> None:
            with guard():
                await test(*args, **kwargs)

        run(main, seed=0)

    return wrapper


class Ends(NamedTuple):
    """A connection of the host "client" to the host "server"."""

    client: VirtualStream
    server: VirtualStream
    link: Link
    network: VirtualNetwork


async def connected(*, seed: int = 0, **conditions: Any) -> Ends:
    """Connect, which takes no time; then the link gets its conditions."""
    network = VirtualNetwork(seed)
    with network.host("server") as server:
        (listener,) = await server.open_listeners(80, None)
    with network.host("client") as client:
        pass
    link = network.link("client", "server")
    one, other = await joined(client, listener)
    if conditions:
        link.inject(Conditions(**conditions))
        network.faults.clear()
    return Ends(one, other, link, network)


async def joined(
    client: VirtualHost, listener: VirtualListener
) -> tuple[VirtualStream, VirtualStream]:
    """Return the two ends of a new connection to a listener."""
    one = await client.open_stream(*listener.address)
    other = await listener.accept()
    assert isinstance(one, VirtualStream)
    assert isinstance(other, VirtualStream)
    return one, other


async def arrivals(stream: VirtualStream, count: int) -> list[tuple[float, int]]:
    """Read so many bytes; return when each piece came, and its size."""
    pieces: list[tuple[float, int]] = []
    while count > 0:
        data = await stream.read(count)
        assert data, "the stream ended"
        pieces.append((round(trio.current_time(), 6), len(data)))
        count -= len(data)
    return pieces


async def rest(stream: VirtualStream) -> bytes:
    """Read to the end."""
    return b"".join([data async for data in stream])


def fill(stream: VirtualStream) -> int:
    """Write until there is no room; return how many bytes that took."""
    count = 0
    while taken := stream.write_nowait(bytes(1000)):
        count += taken
    return count


async def silent(stream: VirtualStream, seconds: float = 1000) -> bool:
    """Tell whether there is nothing to read for so long."""
    with trio.move_on_after(seconds) as scope:
        await stream.wait_readable()
    return scope.cancelled_caught
