"""The streams of the virtual network: a transport as a socket is, a stream as Trio has them."""

from __future__ import annotations

import random
from itertools import pairwise
from typing import Any, NamedTuple

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers import guard
from tests.testing.ends import Ends, arrivals, connected, fill, rest, silent, virtual
from trioweb.testing import Conditions, Fault, Partition, Reset, Stall, run
from trioweb.testing.wires import VirtualStream


class Wire:
    """A tap that keeps what it hears."""

    def __init__(self) -> None:
        self.heard: list[tuple[float, str, str]] = []
        self.data: dict[str, bytes] = {"client": b"", "server": b""}

    def connected(self, stream: VirtualStream) -> None:
        self._note(stream, "connected")

    def sent(self, stream: VirtualStream, data: bytes) -> None:
        self.data[stream.local_address[0]] += data

    def ended(self, stream: VirtualStream, how: str) -> None:
        self._note(stream, how)

    def _note(self, stream: VirtualStream, what: str) -> None:
        self.heard.append((trio.current_time(), stream.local_address[0], what))


# Trio's own checks.


@pytest.mark.parametrize(
    "conditions",
    [
        {},
        {"buffer": 1000},
        {"latency": 0.1, "jitter": 0.1, "chunk": 1000},
    ],
    ids=str,
)
@virtual
async def test_it_is_a_half_closeable_stream(conditions: dict[str, Any]) -> None:
    async def make() -> tuple[VirtualStream, VirtualStream]:
        return (await connected(**conditions))[:2]

    async def make_clogged() -> tuple[VirtualStream, VirtualStream]:
        one, other = await make()
        fill(one)
        fill(other)
        return one, other

    await trio.testing.check_half_closeable_stream(make, make_clogged)


@virtual
async def test_two_send_all_are_busy_even_when_there_is_room_between_them() -> None:
    ends = await connected(buffer=10)

    async def read() -> None:
        while True:  # as soon as there is something
            await ends.server.read(3)

    async def send() -> None:
        await trio.sleep(1)
        await ends.client.send_all(bytes(1000))

    with pytest.RaisesGroup(trio.BusyResourceError):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            nursery.start_soon(send)
            nursery.start_soon(send)


# Reading and writing without waiting.


@virtual
async def test_a_read_gives_what_is_there_or_none_or_the_end() -> None:
    client, server, _, _ = await connected()
    assert server.read_nowait(100) is None
    assert client.write_nowait(b"abc") == 3
    assert client.write_nowait(memoryview(b"de")) == 2
    assert server.read_nowait(2) == b"ab"
    assert server.read_nowait(100) == b"cde"
    assert server.read_nowait(100) is None
    client.write_nowait(b"f")
    await client.send_eof()
    assert server.read_nowait(100) == b"f"
    assert server.read_nowait(100) == b""
    assert server.read_nowait(100) == b""


@virtual
async def test_a_write_takes_what_there_is_room_for() -> None:
    client, server, _, _ = await connected(buffer=10)
    assert client.write_nowait(b"0123456") == 7
    assert client.write_nowait(b"789ab") == 3
    assert client.write_nowait(b"ab") == 0
    assert server.read_nowait(4) == b"0123"
    assert client.write_nowait(b"abcdef") == 4
    assert server.read_nowait(100) == b"456789abcd"
    assert server.write_nowait(bytes(100)) == 10, "each way has its own room"
    assert client.write_nowait(b"") == 0


@virtual
async def test_what_was_written_does_not_change_with_the_buffer_that_held_it() -> None:
    client, server, _, _ = await connected(latency=1)
    buffer = bytearray(b"abc")
    client.write_nowait(memoryview(buffer))
    buffer[:] = b"xyz"
    assert await server.read(3) == b"abc"


@virtual
async def test_the_bound_holds_under_a_smaller_buffer_than_before() -> None:
    client, server, link, _ = await connected(buffer=10)
    fill(client)
    link.inject(Conditions(buffer=4))
    assert server.read_nowait(6) == bytes(6)
    assert client.write_nowait(b"x") == 0
    assert server.read_nowait(1) == bytes(1)
    assert client.write_nowait(b"xyz") == 1


@virtual
async def test_the_ends_know_their_addresses() -> None:
    client, server, _, _ = await connected()
    assert client.local_address == server.remote_address == ("client", 49152)
    assert client.remote_address == server.local_address == ("server", 80)


# Waiting.


@virtual
async def test_waiting_to_read_ends_with_the_arrival() -> None:
    client, server, _, _ = await connected(latency=3)
    client.write_nowait(b"x")
    await server.wait_readable()
    assert trio.current_time() == 3
    await server.wait_readable()
    assert trio.current_time() == 3
    assert server.read_nowait(1) == b"x"
    await trio.sleep(1)
    await client.send_eof()
    await server.wait_readable()
    assert trio.current_time() == 7
    assert server.read_nowait(1) == b""


@virtual
async def test_waiting_to_write_ends_with_the_room() -> None:
    client, server, _, _ = await connected(buffer=5)
    await client.wait_writable()
    fill(client)

    async def read() -> None:
        await trio.sleep(7)
        server.read_nowait(1)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await client.wait_writable()
        assert trio.current_time() == 7
        assert client.write_nowait(b"xx") == 1


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("settled", [False, True])
def test_an_interrupt_wakes_who_waits(seed: int, settled: bool) -> None:
    """Also who has just begun to: the tasks run in any order."""

    async def main() -> None:
        with guard():
            client, server, _, _ = await connected()
            fill(client)
            server.interrupt()  # wakes nobody, and is forgotten
            waiting = trio.Event()

            async def read() -> None:
                waiting.set()
                await client.wait_readable()

            async def write() -> None:
                waiting.set()
                await client.wait_writable()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(read)
                nursery.start_soon(write)
                await waiting.wait()
                if settled:
                    await trio.testing.wait_all_tasks_blocked()
                client.interrupt()
            assert trio.current_time() == 0
            assert client.read_nowait(1) is None
            assert client.write_nowait(b"x") == 0
            assert await silent(client)

    run(main, seed=seed)


@pytest.mark.parametrize("side", ["readable", "writable"])
@virtual
async def test_a_second_waiter_is_busy_and_does_not_disturb_the_first(side: str) -> None:
    client, server, _, _ = await connected()
    fill(client)
    wait = client.wait_readable if side == "readable" else client.wait_writable

    async def second() -> None:
        for _ in range(2):
            with pytest.raises(trio.BusyResourceError):
                await wait()
        server.write_nowait(b"x")
        server.read_nowait(1)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(second)
    with trio.move_on_after(1):
        await wait()
    await wait()


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("woken", [False, True])
@pytest.mark.parametrize("latency", [0, 1])
def test_who_is_cancelled_makes_room_for_another_at_once(
    seed: int, woken: bool, latency: float
) -> None:
    """A connection's reading role changes hands so, whether or not bytes come just then."""

    async def main() -> None:
        with guard():
            client, server, _, _ = await connected(latency=latency)
            scope = trio.CancelScope()
            got = b""

            async def first() -> None:
                nonlocal got
                with scope:
                    got += await client.read(1)

            async def second() -> None:
                nonlocal got
                if woken:
                    server.write_nowait(b"x")
                scope.cancel()
                await trio.lowlevel.checkpoint()
                while len(got) < 2:
                    got += client.read_nowait(1) or b""
                    if len(got) < 2:
                        await client.wait_readable()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(first)
                await trio.testing.wait_all_tasks_blocked()
                nursery.start_soon(second)
                await trio.testing.wait_all_tasks_blocked()
                server.write_nowait(b"y" if woken else b"yz")
            assert got == (b"xy" if woken else b"yz")

    run(main, seed=seed)


@virtual
async def test_one_may_wait_to_read_while_another_waits_to_write() -> None:
    client, server, _, _ = await connected()
    fill(client)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.wait_readable)
        nursery.start_soon(client.wait_writable)
        await trio.testing.wait_all_tasks_blocked()
        server.write_nowait(b"x")
        server.read_nowait(1)


@pytest.mark.parametrize("call", ["wait_readable", "wait_writable", "read", "write", "send_eof"])
@virtual
async def test_every_call_delivers_a_pending_cancellation_first(call: str) -> None:
    client, server, _, _ = await connected(buffer=5)
    server.write_nowait(b"12345")
    calls = {
        "wait_readable": client.wait_readable,
        "wait_writable": client.wait_writable,
        "read": lambda: client.read(5),
        "write": lambda: client.write(b"12345"),
        "send_eof": client.send_eof,
    }
    with trio.CancelScope() as scope:
        scope.cancel()
        await calls[call]()
    assert scope.cancelled_caught
    assert client.read_nowait(5) == b"12345"
    if call != "send_eof":  # it is done, and the peer reads the end
        assert server.read_nowait(5) is None
    else:
        assert server.read_nowait(5) == b""


@virtual
async def test_cancelling_a_read_loses_nothing() -> None:
    client, server, _, _ = await connected(latency=0.01, jitter=0.05, chunk=7)
    expected = random.Random(0).randbytes(3000)
    got = b""
    cancelled = 0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.send_all, expected)
        while len(got) < len(expected):
            with trio.move_on_after(0.001) as scope:
                while True:
                    got += await server.read(5)
            cancelled += scope.cancelled_caught
    assert got == expected
    assert cancelled > 10


# Ends.


@virtual
async def test_closing_with_all_read_ends_the_peers_reading_behind_the_last_byte() -> None:
    client, server, _, _ = await connected(latency=1)
    client.write_nowait(b"bye")
    client.close()
    assert await rest(server) == b"bye"
    assert trio.current_time() == 1
    assert await rest(server) == b""


@virtual
async def test_after_close_every_call_is_refused_and_who_waits_is_woken() -> None:
    client, _, _, _ = await connected()
    fill(client)

    async def read() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await client.read(1)

    async def write() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await client.write(b"x")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        nursery.start_soon(write)
        await trio.testing.wait_all_tasks_blocked()
        client.close()
        client.close()
    assert client.over
    with pytest.raises(trio.ClosedResourceError):
        client.read_nowait(1)
    with pytest.raises(trio.ClosedResourceError):
        client.write_nowait(b"x")
    with pytest.raises(trio.ClosedResourceError):
        await client.wait_send_all_might_not_block()
    await client.wait_readable()
    await client.wait_writable()
    await client.send_eof()


@virtual
async def test_send_eof_ends_one_way() -> None:
    client, server, _, _ = await connected(latency=1)
    await client.send_eof()
    with pytest.raises(trio.ClosedResourceError):
        client.write_nowait(b"x")
    with pytest.raises(trio.ClosedResourceError):
        await client.send_all(b"")
    assert await server.read(1) == b""
    server.write_nowait(b"still here")
    server.close()
    assert await rest(client) == b"still here"
    client.close()
    assert not await silent(client)


@virtual
async def test_send_eof_wakes_who_reads() -> None:
    client, server, _, _ = await connected(latency=1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.wait_readable)
        await trio.sleep(5)
        await client.send_eof()
    assert trio.current_time() == 6
    assert server.read_nowait(1) == b""


@virtual
async def test_closing_with_unread_bytes_resets_the_peer() -> None:
    client, server, _, _ = await connected(latency=1)
    client.write_nowait(b"x")
    server.write_nowait(b"y")
    await trio.sleep(5)
    server.close()
    await trio.sleep(0.5)
    assert client.read_nowait(1) == b"y"
    with pytest.raises(trio.BrokenResourceError, match="reset"):
        await client.read(1)
    assert trio.current_time() == 6
    with pytest.raises(trio.BrokenResourceError, match="reset"):
        client.write_nowait(b"z")
    assert client.over


@virtual
async def test_closing_before_the_bytes_come_resets_the_peer_when_they_do() -> None:
    client, server, _, _ = await connected(latency=1)
    await trio.sleep(1)
    client.write_nowait(b"under way")
    server.close()
    assert await client.read(1) == b"", "the end was quicker"
    assert trio.current_time() == 2
    await client.wait_readable()
    client.write_nowait(b"not answered yet")
    await trio.sleep(1)
    with pytest.raises(trio.BrokenResourceError, match="reset"):
        client.read_nowait(1)


@virtual
async def test_writing_to_a_closed_peer_is_answered_by_a_reset_one_round_trip_later() -> None:
    client, server, _, _ = await connected(latency=1)
    server.close()
    await trio.sleep(10)
    assert client.read_nowait(1) == b""
    assert client.write_nowait(b"x") == 1
    await trio.sleep(1.9)
    assert client.write_nowait(b"x") == 1
    assert fill(client) > 0
    await client.wait_writable()
    assert trio.current_time() == 12
    with pytest.raises(trio.BrokenResourceError, match="reset"):
        client.write_nowait(b"x")


@virtual
async def test_that_reset_wakes_a_reader_and_a_writer() -> None:
    client, server, _, _ = await connected(latency=1)
    woken: list[tuple[str, float]] = []

    async def read() -> None:
        with pytest.raises(trio.BrokenResourceError):
            await client.read(1)
        woken.append(("reader", trio.current_time()))

    async def write() -> None:
        fill(client)
        with pytest.raises(trio.BrokenResourceError):
            await client.write(b"x")
        woken.append(("writer", trio.current_time()))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await trio.sleep(1)
        server.abort()
        nursery.start_soon(write)
    assert sorted(woken) == [("reader", 2), ("writer", 2)]


@pytest.mark.parametrize("healed", [3.0, 50.0])
@virtual
async def test_a_reset_waits_for_the_bytes_that_a_stall_holds_up(healed: float) -> None:
    client, server, link, _ = await connected(latency=1)
    link.inject(Stall(20, to="server"))
    client.write_nowait(b"x")
    server.close()
    assert await client.read(1) == b""
    assert trio.current_time() == 1
    await trio.sleep_until(min(healed, 20))
    assert client.write_nowait(b"x") == 1
    link.heal()
    await trio.sleep(0.9)
    client.write_nowait(b"x")
    await trio.sleep(0.1)
    with pytest.raises(trio.BrokenResourceError, match="reset"):
        client.write_nowait(b"x")


@virtual
async def test_a_reset_waits_for_the_end_of_a_stall_on_its_own_way() -> None:
    client, server, link, _ = await connected()
    client.write_nowait(b"x")
    link.inject(Stall(20, to="client"))
    await trio.sleep(1)
    server.close()
    assert await silent(client, 18)
    assert client.write_nowait(b"x") == 1
    with pytest.raises(trio.BrokenResourceError, match="reset"):
        await client.read(1)
    assert trio.current_time() == 20


@virtual
async def test_abort_resets_with_nothing_unread() -> None:
    client, server, _, network = await connected(latency=1)
    wire = Wire()
    network.taps.append(wire)
    client.abort()
    client.abort()
    client.close()
    with pytest.raises(trio.ClosedResourceError):
        client.read_nowait(1)
    with pytest.raises(trio.BrokenResourceError, match="reset"):
        await server.read(1)
    assert trio.current_time() == 1
    server.abort()
    assert wire.heard == [(0, "client", "reset"), (1, "server", "reset")]


@virtual
async def test_a_broken_end_sends_nothing_more() -> None:
    client, server, link, network = await connected()
    wire = Wire()
    network.taps.append(wire)
    link.inject(Reset())
    for end in (client, server):
        await end.send_eof()
        end.abort()
        end.close()
    assert wire.heard == [(0, "client", "reset"), (0, "server", "reset")]


@virtual
async def test_a_tap_hears_what_happens() -> None:
    client, server, link, network = await connected(latency=1, buffer=5)
    wire = Wire()
    network.taps.append(wire)
    client.write_nowait(b"123456789")
    server.write_nowait(b"x")
    await client.send_eof()
    await client.send_eof()
    await trio.sleep(2)
    server.close()  # on unread bytes
    await trio.sleep(2)
    client.close()
    assert wire.data == {"client": b"12345", "server": b"x"}
    assert wire.heard == [(0, "client", "eof"), (2, "server", "closed"), (4, "client", "closed")]
    assert link.connections == []


# Whatever the network does, bytes stay in order.

HOSTS = st.sampled_from([None, "client", "server"])
SECONDS = st.sampled_from([0, 0.1, 1, 3])
CONDITIONS = st.builds(
    Conditions,
    latency=st.sampled_from([0, 0.05, 2]),
    jitter=st.sampled_from([0, 0.3]),
    bandwidth=st.sampled_from([float("inf"), 1e4]),
    chunk=st.sampled_from([None, 1, 50]),
    buffer=st.sampled_from([1, 100, 5000]),
)
FAULTS = st.one_of(
    CONDITIONS,
    st.builds(Stall, SECONDS | st.just(float("inf")), to=HOSTS),
    st.builds(Partition, SECONDS),
    st.just("heal"),
)


class Sender(NamedTuple):
    """One way of a connection: what went in, and what came out."""

    near: VirtualStream
    far: VirtualStream
    sent: bytearray
    got: bytearray

    async def write(self, chance: random.Random) -> None:
        while True:
            with trio.move_on_after(chance.uniform(0, 1)):
                data = chance.randbytes(chance.choice([1, 30, 1000]))
                self.sent.extend(data[: await self.near.write(data)])
                await trio.sleep(chance.uniform(0, 0.3))

    async def read(self, chance: random.Random) -> None:
        while True:
            with trio.move_on_after(chance.uniform(0, 0.5)):
                self.got.extend(await self.far.read(chance.choice([1, 100, 2**16])))


@settings(max_examples=40)
@given(
    st.integers(0, 2**32),
    CONDITIONS,
    st.lists(st.tuples(FAULTS, SECONDS), max_size=8),
)
def test_what_is_read_is_what_was_written_in_order(
    seed: int, first: Conditions, script: list[tuple[Fault | str, float]]
) -> None:
    async def main() -> None:
        with guard():
            ends = await connected(seed=seed)
            ends.link.inject(first)
            client, server = ends.client, ends.server
            ways = [
                Sender(client, server, bytearray(), bytearray()),
                Sender(server, client, bytearray(), bytearray()),
            ]
            chance = random.Random(seed)
            largest = first.buffer
            async with trio.open_nursery() as nursery:
                for way in ways:
                    nursery.start_soon(way.write, chance)
                    nursery.start_soon(way.read, chance)
                for fault, seconds in script:
                    if isinstance(fault, str):
                        ends.link.heal()
                    else:
                        ends.link.inject(fault)
                    if isinstance(fault, Conditions):
                        largest = max(largest, fault.buffer)
                    await trio.sleep(seconds)
                    for way in ways:
                        assert way.sent.startswith(way.got)
                        assert len(way.sent) - len(way.got) <= largest
                nursery.cancel_scope.cancel()
            await healed_to_the_end(ends, ways)

    run(main, seed=seed)


async def healed_to_the_end(ends: Ends, ways: list[Sender]) -> None:
    ends.link.heal()
    ends.link.inject(Conditions())
    for way in ways:
        await way.near.send_eof()
    for way in ways:
        way.got.extend(await rest(way.far))
        assert way.got == way.sent


@virtual
async def test_what_is_under_way_and_unread_never_passes_the_buffer() -> None:
    client, server, _, _ = await connected(latency=1, jitter=1, chunk=9, buffer=100)
    sent = got = 0
    for _ in range(50):
        sent += fill(client)
        assert sent - got == 100
        await trio.sleep(0.3)
        got += len(server.read_nowait(40) or b"")
    assert got > 100


# How long it takes.


@virtual
async def test_latency_is_the_time_of_every_byte() -> None:
    client, server, _, _ = await connected(latency=0.25)
    client.write_nowait(b"a")
    await trio.sleep(0.1)
    client.write_nowait(b"b")
    assert await arrivals(server, 2) == [(0.25, 1), (0.35, 1)]
    server.write_nowait(b"c")
    assert await arrivals(client, 1) == [(0.6, 1)]


@virtual
async def test_less_latency_does_not_let_bytes_overtake() -> None:
    client, server, link, _ = await connected(latency=2)
    client.write_nowait(b"a")
    link.inject(Conditions(latency=1))
    client.write_nowait(b"b")
    assert await arrivals(server, 2) == [(2, 2)]
    client.write_nowait(b"c")
    assert await arrivals(server, 1) == [(3, 1)]


@virtual
async def test_jitter_delays_by_up_to_so_much_and_keeps_the_order() -> None:
    client, server, _, _ = await connected(latency=1, jitter=0.5)
    delays = []
    for number in range(100):
        start = trio.current_time()
        client.write_nowait(bytes([number]))
        assert await server.read(1) == bytes([number])
        delays.append(trio.current_time() - start)
    assert 1 <= min(delays) < 1.1
    assert 1.4 < max(delays) <= 1.5
    assert len(set(delays)) == 100
    for number in range(100):
        client.write_nowait(bytes([number]))
    await trio.sleep(2)
    assert server.read_nowait(100) == bytes(range(100))


@pytest.mark.parametrize("size", [1, 1000, 50_000, 2**20])
@virtual
async def test_bandwidth_is_the_time_of_many_bytes(size: int) -> None:
    client, server, _, _ = await connected(latency=0.01, bandwidth=1e6)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.send_all, bytes(size))
        pieces = await arrivals(server, size)
    assert pieces[-1][0] == pytest.approx(0.01 + size / 1e6)


@virtual
async def test_a_slow_link_brings_bytes_all_the_time() -> None:
    client, server, _, _ = await connected(bandwidth=1000)
    client.write_nowait(bytes(60_000))
    pieces = await arrivals(server, 60_000)
    times = [0.0] + [time for time, _ in pieces]
    assert times[-1] == pytest.approx(60)
    assert max(after - before for before, after in pairwise(times)) < 2


@virtual
async def test_a_window_smaller_than_the_link_slows_it_down() -> None:
    client, server, _, _ = await connected(latency=1, buffer=1000)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.send_all, bytes(5000))
        assert await arrivals(server, 5000) == [(second, 1000) for second in range(1, 6)]


@virtual
async def test_the_ways_of_a_link_have_a_bandwidth_each() -> None:
    client, server, _, _ = await connected(bandwidth=1000)
    client.write_nowait(bytes(2000))
    server.write_nowait(bytes(3000))
    assert (await arrivals(server, 2000))[-1][0] == 2
    assert (await arrivals(client, 3000))[-1][0] == 3


@virtual
async def test_chunks_have_every_size_up_to_theirs() -> None:
    client, server, _, _ = await connected(chunk=5)
    taken = [client.write_nowait(bytes(100)) for _ in range(200)]
    assert set(taken) == {1, 2, 3, 4, 5}
    read = [len(server.read_nowait(100) or b"") for _ in range(100)]
    assert set(read) == {1, 2, 3, 4, 5}
    assert client.write_nowait(b"x") == 1
    assert len(server.read_nowait(1) or b"") == 1
