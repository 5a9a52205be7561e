"""Every fault does what its docstring says, to whom it says, from when until when it says."""

from __future__ import annotations

import math
from typing import Any

import pytest
import trio

from tests.testing.ends import arrivals, connected, fill, joined, rest, silent, virtual
from trioweb.testing import Conditions, Fault, HalfOpen, Partition, Reset, Stall, VirtualNetwork
from trioweb.testing.wires import VirtualStream


async def expect_broken(*streams: VirtualStream, how: str = "reset") -> None:
    for stream in streams:
        with pytest.raises(trio.BrokenResourceError, match=how):
            stream.read_nowait(1)
        with pytest.raises(trio.BrokenResourceError, match=how):
            stream.write_nowait(b"x")
        with pytest.raises(trio.BrokenResourceError, match=how):
            await stream.send_all(b"x")


# Conditions.


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("latency", [-0.1, math.inf, math.nan]),
        ("jitter", [-0.1, math.inf, math.nan]),
        ("bandwidth", [0, -1, math.nan]),
        ("chunk", [0, -1]),
        ("buffer", [0, -1]),
    ],
)
def test_conditions_out_of_range_are_refused_by_name(name: str, values: list[float]) -> None:
    for value in values:
        with pytest.raises(ValueError, match=f"Conditions.{name} must be .*, not {value}"):
            Conditions(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fault", "name"),
    [
        (lambda: Stall(-1), "Stall.seconds"),
        (lambda: Stall(math.nan), "Stall.seconds"),
        (lambda: Partition(-1), "Partition.seconds"),
        (lambda: Reset(after_bytes=-1), "Reset.after_bytes"),
        (lambda: HalfOpen(after_bytes=-1), "HalfOpen.after_bytes"),
    ],
)
def test_faults_out_of_range_are_refused_by_name(fault, name):
    with pytest.raises(ValueError, match=f"{name} must be not below 0, not"):
        fault()


@virtual
async def test_new_conditions_are_for_what_is_sent_from_then_on() -> None:
    client, server, link, _ = await connected(latency=5)
    client.write_nowait(b"a")
    await trio.sleep(1)
    link.inject(Conditions(latency=10))
    client.write_nowait(b"b")
    assert await arrivals(server, 2) == [(5, 1), (11, 1)]


@virtual
async def test_a_larger_buffer_lets_a_writer_go_on() -> None:
    client, _, link, _ = await connected(buffer=10)
    fill(client)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.wait_writable)
        await trio.sleep(1)
        link.inject(Conditions(buffer=15))
    assert fill(client) == 5


@virtual
async def test_connections_of_a_link_share_its_bandwidth_and_other_links_do_not() -> None:
    network = VirtualNetwork(conditions=Conditions(bandwidth=1000))
    with network.host("server") as server:
        (listener,) = await server.open_listeners(80, None)
    ends = []
    for name in ("alice", "alice", "bob"):
        with network.host(name) as host:
            ends.append(await joined(host, listener))
    done = {}

    async def measure(stream: VirtualStream) -> None:
        done[stream] = (await arrivals(stream, 1000))[-1][0]

    async with trio.open_nursery() as nursery:
        for one, other in ends:
            one.write_nowait(bytes(1000))
            nursery.start_soon(measure, other)
    assert [done[other] for _, other in ends] == [1, 2, 1]


@virtual
async def test_connections_have_a_buffer_each() -> None:
    network = VirtualNetwork(conditions=Conditions(buffer=10))
    with network.host("server") as server:
        (listener,) = await server.open_listeners(80, None)
    with network.host("client") as client:
        ends = [await joined(client, listener) for _ in range(3)]
    assert [fill(end) for pair in ends for end in pair] == [10] * 6


# Stall.


@virtual
async def test_a_stall_lets_nothing_arrive_until_its_end() -> None:
    client, server, link, network = await connected(latency=1, buffer=3)
    client.write_nowait(b"a")
    await trio.sleep(0.5)
    link.inject(Stall(10))
    client.write_nowait(b"b")
    server.write_nowait(b"c")
    client.write_nowait(b"xyz")
    assert client.write_nowait(b"!") == 0, "its buffer fills"
    assert await arrivals(server, 3) == [(10.5, 3)]
    assert client.read_nowait(1) == b"c"
    assert network.faults == {"Stall": 1}


@pytest.mark.parametrize(("to", "other"), [("client", "server"), ("server", "client")])
@virtual
async def test_a_stall_to_one_host_leaves_the_other_alone(to: str, other: str) -> None:
    client, server, link, _ = await connected()
    streams = {"client": client, "server": server}
    link.inject(Stall(to=to))
    streams[other].write_nowait(b"x")
    streams[to].write_nowait(b"y")
    assert streams[other].read_nowait(1) == b"y"
    assert await silent(streams[to])


@virtual
async def test_a_stall_without_an_end_holds_until_it_is_healed_and_its_peer_stays() -> None:
    client, server, link, _ = await connected()
    link.inject(Stall())
    client.write_nowait(b"x")
    await client.send_eof()
    assert await silent(server, 1e6)
    link.heal()
    assert await rest(server) == b"x"
    server.write_nowait(b"y")
    assert client.read_nowait(1) == b"y"


@virtual
async def test_healing_a_stall_wakes_who_waits_at_once() -> None:
    client, server, link, _ = await connected()
    link.inject(Stall(100))
    client.write_nowait(b"x")

    async def heal() -> None:
        await trio.sleep(3)
        link.heal()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(heal)
        assert await arrivals(server, 1) == [(3, 1)]


@virtual
async def test_what_would_arrive_after_a_healed_stall_arrives_in_its_own_time() -> None:
    client, server, link, _ = await connected(latency=5)
    link.inject(Stall(100))
    client.write_nowait(b"x")
    await trio.sleep(1)
    link.heal()
    assert await arrivals(server, 1) == [(5, 1)]


@pytest.mark.parametrize(
    ("first", "second", "end"),
    [(10, 20, 23), (20, 5, 20), (3, 4, 7), (20, math.inf, math.inf), (math.inf, 1, math.inf)],
)
@virtual
async def test_of_two_stalls_the_longer_one_stands(first: float, second: float, end: float) -> None:
    client, server, link, _ = await connected()
    link.inject(Stall(first))
    client.write_nowait(b"x")
    await trio.sleep(3)  # at its end, for one of them
    link.inject(Stall(second))
    client.write_nowait(b"y")
    if end == math.inf:
        assert await silent(server)
        link.heal()
        assert server.read_nowait(2) == b"xy"
    else:
        assert await arrivals(server, 2) == [(end, 2)]


@virtual
async def test_a_stall_at_the_moment_of_a_heal_holds_all_that_waits() -> None:
    client, server, link, _ = await connected()
    link.inject(Stall())
    client.write_nowait(b"x")
    await trio.sleep(1)
    link.heal()
    link.inject(Stall(5))
    assert await arrivals(server, 1) == [(6, 1)]


@virtual
async def test_a_later_stall_does_not_take_back_what_has_arrived() -> None:
    client, server, link, _ = await connected()
    client.write_nowait(b"a")
    await trio.sleep(1)
    link.inject(Stall(2))
    client.write_nowait(b"b")
    assert server.read_nowait(10) == b"a"
    await trio.sleep(3)
    link.inject(Stall())
    assert server.read_nowait(10) == b"b"


@virtual
async def test_nor_does_a_stall_after_a_heal() -> None:
    client, server, link, _ = await connected()
    link.inject(Stall(1))
    await trio.sleep(2)
    client.write_nowait(b"a")
    await trio.sleep(1)
    link.heal()
    link.inject(Stall())
    assert server.read_nowait(10) == b"a"


@virtual
async def test_a_stall_strikes_every_connection_of_its_link_and_no_other() -> None:
    network = VirtualNetwork()
    with network.host("server") as server:
        (listener,) = await server.open_listeners(80, None)
    with network.host("alice") as alice:
        one, two = await joined(alice, listener), await joined(alice, listener)
    with network.host("bob") as bob:
        three = await joined(bob, listener)
    network.link("server", "alice").inject(Stall())
    for client, _ in (one, two, three):
        client.write_nowait(b"x")
    assert [pair[1].read_nowait(1) for pair in (one, two, three)] == [None, None, b"x"]


@virtual
async def test_connections_of_later_are_stalled_too() -> None:
    network = VirtualNetwork()
    with network.host("server") as server:
        (listener,) = await server.open_listeners(80, None)
    with network.host("client") as client:
        network.link("server", "client").inject(Stall(5))
        one, other = await joined(client, listener)
    one.write_nowait(b"x")
    assert await arrivals(other, 1) == [(5, 1)]


# Partition.


@virtual
async def test_a_partition_holds_what_is_under_way_both_ways() -> None:
    client, server, link, network = await connected(latency=1)
    client.write_nowait(b"x")
    server.write_nowait(b"y")
    await trio.sleep(0.5)
    link.inject(Partition(10))
    client.write_nowait(b"z")
    assert await arrivals(server, 2) == [(10.5, 2)]
    assert client.read_nowait(1) == b"y"
    assert network.faults == {"Partition": 1}


@pytest.mark.parametrize("healed", [False, True])
@virtual
async def test_new_connections_wait_for_the_end_of_a_partition(healed: bool) -> None:
    network = VirtualNetwork(conditions=Conditions(latency=1))
    with network.host("server") as server:
        (listener,) = await server.open_listeners(80, None)
    with network.host("client") as client:
        link = network.link("client", "server")
        link.inject(Partition(math.inf if healed else 100))
        async with trio.open_nursery() as nursery:

            async def heal() -> None:
                await trio.sleep(50)
                link.inject(Partition(1))  # the longer one stands
                if healed:
                    link.heal()

            nursery.start_soon(heal)
            await joined(client, listener)
    assert trio.current_time() == (52 if healed else 102)


@virtual
async def test_of_two_partitions_the_longer_one_stands() -> None:
    network = VirtualNetwork()
    with network.host("server") as server:
        (listener,) = await server.open_listeners(80, None)
    with network.host("client") as client:
        for seconds in (1, 10, 5):
            network.link("client", "server").inject(Partition(seconds))
        await joined(client, listener)
    assert trio.current_time() == 10


@virtual
async def test_a_partition_catches_a_connection_that_is_being_made() -> None:
    network = VirtualNetwork(conditions=Conditions(latency=1))
    with network.host("server") as server:
        (listener,) = await server.open_listeners(80, None)

    async def divide() -> None:
        await trio.sleep(1.5)
        network.link("client", "server").inject(Partition(10))

    with network.host("client") as client:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(divide)
            await joined(client, listener)
    assert trio.current_time() == 13.5


@virtual
async def test_a_partition_is_between_two_hosts_only() -> None:
    network = VirtualNetwork()
    with network.host("server") as server:
        (listener,) = await server.open_listeners(80, None)
    with network.host("alice"), network.host("bob") as bob:
        network.link("server", "alice").inject(Partition())
        await joined(bob, listener)
    assert trio.current_time() == 0


# Reset.


@virtual
async def test_a_reset_breaks_both_ends_and_loses_what_is_unread() -> None:
    client, server, link, network = await connected(latency=1)
    client.write_nowait(b"arrived")
    await trio.sleep(2)
    server.write_nowait(b"under way")
    link.inject(Reset())
    await expect_broken(client, server)
    assert client.over
    assert server.over
    assert link.connections == []
    assert network.faults == {"Reset": 1}
    await client.send_eof()
    client.close()
    with pytest.raises(trio.ClosedResourceError):
        client.read_nowait(1)


@virtual
async def test_a_reset_wakes_readers_and_writers_at_both_ends() -> None:
    client, server, link, _ = await connected()
    fill(client)
    fill(server)
    link.inject(Stall())
    woken = 0

    async def wait(call, *args) -> None:
        nonlocal woken
        with pytest.raises(trio.BrokenResourceError, match="reset"):
            await call(*args)
        woken += 1

    async with trio.open_nursery() as nursery:
        for end in (client, server):
            nursery.start_soon(wait, end.receive_some, 1)
            nursery.start_soon(wait, end.send_all, b"x")
        await trio.sleep(1)
        link.inject(Reset())
    assert woken == 4
    assert trio.current_time() == 1


@virtual
async def test_a_reset_leaves_new_connections_alone() -> None:
    network = VirtualNetwork()
    with network.host("server") as server:
        (listener,) = await server.open_listeners(80, None)
    with network.host("client") as client:
        one, other = await joined(client, listener)
        network.link("server", "client").inject(Reset())
        await expect_broken(one, other)
        one, other = await joined(client, listener)
        one.write_nowait(b"x")
        assert other.read_nowait(1) == b"x"


# Half open.


@pytest.mark.parametrize("vanished", [None, "client", "server"])
@virtual
async def test_one_end_vanishes_and_the_other_hears_nothing(vanished: str | None) -> None:
    client, server, link, network = await connected(latency=1, buffer=10)
    gone, left = (server, client) if vanished == "server" else (client, server)
    link.inject(HalfOpen(vanished))
    await expect_broken(gone, how="vanished")
    gone.close()
    assert left.write_nowait(bytes(7)) == 7
    assert left.write_nowait(bytes(7)) == 3
    assert left.write_nowait(bytes(7)) == 0
    assert await silent(left, 1e6)
    with trio.move_on_after(1e6) as scope:
        await left.wait_writable()
    assert scope.cancelled_caught
    assert link.connections == [(client, server)]
    left.close()
    assert link.connections == []
    assert network.faults == {"HalfOpen": 1}


@virtual
async def test_what_was_under_way_still_comes_from_who_vanished() -> None:
    client, server, link, _ = await connected(latency=1)
    client.write_nowait(b"last words")
    link.inject(HalfOpen())
    assert await server.read(100) == b"last words"
    assert await silent(server)


@virtual
async def test_what_was_unread_at_the_vanished_end_still_fills_the_buffer() -> None:
    _, server, link, _ = await connected(buffer=10)
    fill(server)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.send_all, b"x")
        await trio.sleep(1)
        link.inject(HalfOpen("client"))
        await trio.sleep(1000)
        assert server.write_nowait(b"x") == 0
        nursery.cancel_scope.cancel()


@virtual
async def test_vanishing_wakes_who_waits_at_that_end() -> None:
    client, _, link, _ = await connected()

    async def read() -> None:
        with pytest.raises(trio.BrokenResourceError, match="vanished"):
            await client.receive_some()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await trio.sleep(1)
        link.inject(HalfOpen("client"))
    assert trio.current_time() == 1


@virtual
async def test_no_reset_comes_from_a_host_that_vanished_after_it_closed() -> None:
    client, server, link, _ = await connected(latency=1)
    client.close()
    link.inject(HalfOpen("client"))
    assert await server.read(1) == b"", "FIN was under way"
    server.write_nowait(b"x")
    await trio.sleep(100)
    assert server.write_nowait(b"x") == 1


@virtual
async def test_a_connection_of_a_host_to_itself_has_an_end_to_vanish() -> None:
    network = VirtualNetwork()
    with network.host("alone") as host:
        (listener,) = await host.open_listeners(80, None)
        one, other = await joined(host, listener)
    network.link("alone", "alone").inject(HalfOpen("alone"))
    await expect_broken(one, how="vanished")
    assert await silent(other)


# At a byte.


@pytest.mark.parametrize("fault", [Reset(after_bytes=10), HalfOpen("client", after_bytes=10)])
@pytest.mark.parametrize("sizes", [[100], [4, 100], [10], [5, 5]])
@virtual
async def test_a_fault_strikes_at_its_byte(fault: Fault, sizes: list[int]) -> None:
    client, server, link, network = await connected()
    link.inject(fault)
    taken = [client.write_nowait(bytes(size)) for size in sizes]
    assert sum(taken) == 10
    assert client.over
    assert server.over == isinstance(fault, Reset)
    assert sum(network.faults.values()) == 1
    if isinstance(fault, HalfOpen):
        assert server.read_nowait(100) == bytes(10)
        assert await silent(server)


@virtual
async def test_a_fault_at_a_byte_does_not_strike_before_and_counts_both_ways() -> None:
    client, server, link, _ = await connected()
    link.inject(Reset(after_bytes=10))
    client.write_nowait(bytes(5))
    server.write_nowait(bytes(4))
    assert server.read_nowait(10) == bytes(5)
    assert not client.over
    client.write_nowait(b"x")
    await expect_broken(client, server)


@virtual
async def test_send_all_breaks_in_its_midst() -> None:
    client, server, link, _ = await connected()
    link.inject(HalfOpen(after_bytes=12345))
    with pytest.raises(trio.BrokenResourceError, match="vanished"):
        await client.send_all(bytes(20_000))
    assert len(server.read_nowait(20_000) or b"") == 12345


@virtual
async def test_a_fault_at_a_byte_waits_for_connections_to_come() -> None:
    network = VirtualNetwork()
    with network.host("server") as server:
        (listener,) = await server.open_listeners(80, None)
    with network.host("client") as client:
        network.link("server", "client").inject(Reset(after_bytes=3))
        one, other = await joined(client, listener)
        assert one.write_nowait(bytes(10)) == 3
        await expect_broken(one, other)


@virtual
async def test_it_strikes_once_and_a_later_one_takes_its_place() -> None:
    client, server, link, network = await connected()
    link.inject(Reset(after_bytes=5))
    link.inject(HalfOpen("server", after_bytes=8))
    assert client.write_nowait(bytes(7)) == 7
    assert not client.over
    assert client.write_nowait(bytes(7)) == 1
    await expect_broken(server, how="vanished")
    assert client.write_nowait(bytes(100)) == 100
    assert not client.over
    assert network.faults == {"Reset": 1, "HalfOpen": 1}


@virtual
async def test_healing_calls_it_off() -> None:
    client, server, link, _ = await connected()
    link.inject(Reset(after_bytes=5))
    client.write_nowait(bytes(4))
    link.heal()
    assert client.write_nowait(bytes(100)) == 100
    assert len(server.read_nowait(1000) or b"") == 104


@pytest.mark.parametrize(
    ("kind", "options"),
    [(Conditions, {"chunk": 1.5}), (Conditions, {"buffer": 1e4}), (Reset, {"after_bytes": 1.5})],
)
def test_counts_of_bytes_are_whole_numbers(kind: Any, options: dict[str, Any]) -> None:
    (name,) = options
    with pytest.raises(TypeError, match=f"{kind.__name__}.{name} must be a whole number, not"):
        kind(**options)
