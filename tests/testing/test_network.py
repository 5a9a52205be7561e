"""Hosts, listeners, links and scripts; trioweb's own clients and servers on all that."""

from __future__ import annotations

import errno
import math
import random
import re
import socket
import ssl
from contextlib import suppress
from typing import Any

import pytest
import trio
import trustme

import trioweb
from tests.helpers import echo
from tests.testing.ends import connected, joined, silent, virtual
from trioweb.errors import ConnectFailed, ConnectionBroken, HandshakeTimeout
from trioweb.host import current_host
from trioweb.listening import is_loopback, url_of
from trioweb.testing import (
    Conditions,
    Fault,
    HalfOpen,
    Partition,
    Recorder,
    Reset,
    Stall,
    Step,
    VirtualHost,
    VirtualNetwork,
    open_pair,
    run,
)
from trioweb.testing.network import VirtualListener

# Hosts.


@virtual
async def test_a_block_runs_on_its_host_and_what_is_around_it_does_not() -> None:
    network = VirtualNetwork()
    outside = current_host.get()
    with network.host("alice") as alice:
        assert current_host.get() is alice
        with network.host("bob") as bob:
            assert current_host.get() is bob
        assert current_host.get() is alice
    assert current_host.get() is outside
    with network.host("alice") as again:
        assert again is alice
    with pytest.raises(ZeroDivisionError), network.host("alice"):
        raise ZeroDivisionError
    assert current_host.get() is outside
    assert list(network.hosts) == ["alice", "bob"]


@virtual
async def test_tasks_on_two_hosts_do_not_disturb_each_other() -> None:
    network = VirtualNetwork()

    async def child(name: str) -> None:
        for _ in range(5):
            await trio.sleep(1)
            assert current_host.get() is network.hosts[name]

    async def program(name: str) -> None:
        with network.host(name):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(child, name)
                for _ in range(5):
                    await trio.sleep(1)
                    assert current_host.get() is network.hosts[name]

    outside = current_host.get()
    async with trio.open_nursery() as nursery:
        for name in ("alice", "bob", "carol"):
            nursery.start_soon(program, name)
        await trio.sleep(2)
        assert current_host.get() is outside


@pytest.mark.parametrize(
    "name", ["", "Alice", "zoë", "a b", "a/b", "a:1", "[x]", "10.0.0.1", "127.0.0.1", "-a", "a."]
)
def test_a_host_that_no_url_could_name_is_refused(name: str) -> None:
    with pytest.raises(
        ValueError, match=re.escape(f"lower-case letters, digits, '-', '_' and '.', not '{name}'")
    ):
        VirtualNetwork().host(name).__enter__()


@virtual
async def test_a_host_that_is_not_there_is_not_found() -> None:
    network = VirtualNetwork()
    with network.host("client") as client:
        with pytest.raises(socket.gaierror, match="no host 'nowhere' on this network") as caught:
            await client.open_stream("nowhere", 80)
        assert caught.value.errno == socket.EAI_NONAME
        with pytest.raises(ConnectFailed, match=r"no connection to nowhere:80: .*no host"):
            async with trioweb.connect("ws://nowhere"):
                pass


@virtual
async def test_a_port_where_nobody_listens_refuses_after_a_round_trip() -> None:
    network = VirtualNetwork(conditions=Conditions(latency=1))
    with network.host("server"), network.host("client") as client:
        with pytest.raises(ConnectionRefusedError) as caught:
            await client.open_stream("server", 80)
        assert caught.value.errno == errno.ECONNREFUSED
        assert trio.current_time() == 2
        with pytest.raises(ConnectFailed, match=r"server:81.*refused"):
            async with trioweb.connect("ws://server:81"):
                pass


@virtual
async def test_connecting_takes_a_round_trip() -> None:
    network = VirtualNetwork(conditions=Conditions(latency=0.5))
    with network.host("server") as server:
        (listener,) = await server.open_listeners(80, None)
    with network.host("client") as client:
        await joined(client, listener)
    assert trio.current_time() == 1


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "::1", "alice"])
@virtual
async def test_every_host_is_its_own_localhost(name: str) -> None:
    network = VirtualNetwork()
    with network.host("bob") as bob, network.host("alice") as alice:
        (listener,) = await alice.open_listeners(80, "localhost")
        assert is_loopback([listener])
        stream = await alice.open_stream(name, 80)
        other = await listener.accept()
        await stream.send_all(b"x")
        assert await other.receive_some() == b"x"
        if name != "alice":
            with pytest.raises(ConnectionRefusedError):
                await bob.open_stream(name, 80)


# Listeners.


@pytest.mark.parametrize("host", [None, "", "localhost", "0.0.0.0", "::", "server"])
@virtual
async def test_a_listener_hears_whatever_name_it_was_given(host: str | None) -> None:
    network = VirtualNetwork()
    with network.host("server"):
        listeners = await trioweb.open_listeners(80, host)
        with pytest.raises(OSError, match="in use") as caught:
            await trioweb.open_listeners(80, host)
    assert caught.value.errno == errno.EADDRINUSE
    assert url_of(listeners, host, tls=False) == "ws://server:80"
    with network.host("other"):
        await trioweb.open_listeners(80, host if host != "server" else None)
    with network.host("client") as client:
        await client.open_stream("server", 80)


@virtual
async def test_a_host_cannot_listen_for_another() -> None:
    network = VirtualNetwork()
    words = "'alice' is no name of the host 'bob'"
    with (
        network.host("alice"),
        network.host("bob"),
        pytest.raises(OSError, match=words) as caught,
    ):
        await trioweb.open_listeners(80, "alice")
    assert caught.value.errno == errno.EADDRNOTAVAIL
    assert network.hosts["bob"].listeners == {}


@virtual
async def test_port_0_is_a_free_port_each_time() -> None:
    network = VirtualNetwork()
    with network.host("server") as server:
        await server.open_listeners(49153, None)
        ports = [(await server.open_listeners(0, None))[0].address[1] for _ in range(20)]
    assert len({49153, *ports}) == 21
    assert all(49152 <= port <= 65535 for port in ports)


@virtual
async def test_ports_do_not_run_out_by_using_them() -> None:
    network = VirtualNetwork()
    with network.host("server") as server:
        (listener,) = await server.open_listeners(0, None)
        server._last_port = 65533  # many connections later
        seen = [(await joined(server, listener))[0].local_address[1] for _ in range(5)]
        assert seen == [65534, 65535, 49153, 49154, 49155], "the listener has 49152"
        async with trioweb.open_server(echo, 0) as running, trioweb.connect(running.url) as ws:
            await ws.send("x")
            assert await ws.receive() == "x"


@virtual
async def test_closing_a_listener_resets_who_was_not_accepted_and_frees_the_port() -> None:
    network = VirtualNetwork(conditions=Conditions(latency=1))
    with network.host("server") as server:
        (listener,) = await server.open_listeners(80, None)
    with network.host("client") as client:
        accepted, _ = await joined(client, listener)
        left = [await client.open_stream("server", 80) for _ in range(3)]
        await listener.aclose()
        closed = trio.current_time()
        for stream in left:
            with pytest.raises(trio.BrokenResourceError, match="reset"):
                await stream.receive_some()
            assert trio.current_time() == closed + 1
        assert await silent(accepted), "it has its end at the server"
        with pytest.raises(ConnectionRefusedError):
            await client.open_stream("server", 80)
    (again,) = await server.open_listeners(80, None)
    await listener.aclose()
    assert server.listeners == {80: again}


@virtual
async def test_closing_a_listener_wakes_who_accepts() -> None:
    network = VirtualNetwork()
    with network.host("server") as server:
        (listener,) = await server.open_listeners(80, None)

    async def accept() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await listener.accept()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(accept)
        await trio.sleep(1)
        await listener.aclose()
    await accept()


async def connecting(
    client: VirtualHost, listener: VirtualListener, count: int, nursery: trio.Nursery
) -> list[trio.abc.Stream]:
    """Connect so often; return those connections that need not wait."""
    made: list[trio.abc.Stream] = []

    async def connect() -> None:
        made.append(await client.open_stream(*listener.address))

    for _ in range(count):
        nursery.start_soon(connect)
    await trio.sleep(1)
    return made


@virtual
async def test_who_connects_waits_while_too_many_are_not_accepted() -> None:
    network = VirtualNetwork()
    with network.host("server") as server, network.host("client") as client:
        (listener,) = await server.open_listeners(80, None)
        async with trio.open_nursery() as nursery:
            made = await connecting(client, listener, 200, nursery)
            assert len(made) == 128
            for _ in range(100):
                await listener.accept()
            await trio.sleep(1)
            assert len(made) == 200
        assert len(network.link("client", "server").connections) == 200


@virtual
async def test_who_gives_up_waiting_leaves_nothing() -> None:
    network = VirtualNetwork()
    with network.host("server") as server, network.host("client") as client:
        (listener,) = await server.open_listeners(80, None)
        async with trio.open_nursery() as nursery:
            await connecting(client, listener, 130, nursery)
            nursery.cancel_scope.cancel()
        assert len(network.link("client", "server").connections) == 128
        for _ in range(128):
            await listener.accept()
        with trio.move_on_after(1) as scope:
            await listener.accept()
        assert scope.cancelled_caught


@virtual
async def test_closing_a_listener_resets_also_who_was_waiting_for_it() -> None:
    network = VirtualNetwork()
    with network.host("server") as server, network.host("client") as client:
        (listener,) = await server.open_listeners(80, None)
        async with trio.open_nursery() as nursery:
            made = await connecting(client, listener, 130, nursery)
            await listener.aclose()
        assert len(made) == 130
        for stream in made:
            with pytest.raises(trio.BrokenResourceError, match="reset"):
                await stream.receive_some()


# Links.


@virtual
async def test_a_link_is_the_same_from_both_ends() -> None:
    network = VirtualNetwork()
    with network.host("alice"), network.host("bob"):
        link = network.link("alice", "bob")
        assert network.link("bob", "alice") is link
        assert set(link.hosts) == {"alice", "bob"}
        assert str(link) == "alice-bob"
        assert network.link("alice", "alice") is not link


@pytest.mark.parametrize(("one", "other"), [("alice", "bbo"), ("bbo", "alice"), ("bbo", "bbo")])
@virtual
async def test_a_link_that_is_not_there_is_named(one: str, other: str) -> None:
    network = VirtualNetwork()
    with pytest.raises(LookupError, match="none yet"):
        network.link(one, other)
    with network.host("alice"), network.host("bob"):
        pass
    with pytest.raises(LookupError, match=r"no host 'bbo'.*\(hosts: alice, bob\)") as caught:
        network.link(one, other)
    assert f"no link between {one!r} and {other!r}" in str(caught.value)


@pytest.mark.parametrize("fault", [Stall(to="carol"), HalfOpen("carol")])
@virtual
async def test_a_fault_at_a_host_that_is_not_on_the_link_is_named(fault: Fault) -> None:
    _, server, link, network = await connected()
    with network.host("carol"), pytest.raises(ValueError, match=r"client-server.*'carol'"):
        link.inject(fault)
    assert network.faults == {}
    assert not server.over


@virtual
async def test_connections_are_those_with_an_end_that_lives() -> None:
    network = VirtualNetwork()
    with network.host("server") as server:
        (listener,) = await server.open_listeners(80, None)
    with network.host("client") as client:
        pairs = [await joined(client, listener) for _ in range(50)]
        link = network.link("server", "client")
        assert link.connections == pairs
        for one, other in pairs[:45]:
            one.close()
            other.close()
        pairs[45][0].close()
        assert link.connections == pairs[45:]
        for _ in range(500):
            for end in await joined(client, listener):
                end.close()
        pairs += [await joined(client, listener) for _ in range(50)]
        assert link.connections == pairs[45:]
        assert len(link._connections) < 200, "those that are over are forgotten"


# Scripts.

FAULTS: list[Fault] = [
    Stall(),
    Stall(to="client"),
    Stall(3, to="server"),
    Partition(),
    Reset(),
    HalfOpen("client"),
]


async def drawn(seed: int, **changes: float) -> list[Step]:
    _, _, link, network = await connected(seed=seed)
    options = {"until": 1000, "every": 5, **changes}
    return network.draw([link, network.link("client", "client")], faults=FAULTS[:1], **options)


@virtual
async def test_the_same_seed_draws_the_same_script_and_another_seed_another() -> None:
    scripts = [[str(step) for step in await drawn(seed)] for seed in (1, 1, 2)]
    assert scripts[0] == scripts[1] != scripts[2]


@virtual
async def test_a_drawn_script_has_all_that_it_was_given_at_its_pace() -> None:
    _, _, link, network = await connected()
    await trio.sleep(100)
    script = network.draw([link], until=10_100, every=5, faults=FAULTS)
    assert 1700 < len(script) < 2300
    assert all(100 < step.time < 10_100 for step in script)
    assert [step.time for step in script] == sorted(step.time for step in script)
    assert {type(step.fault) for step in script} == {Stall, Partition, Reset, HalfOpen}
    assert Stall(3, "server") in [step.fault for step in script], "its own end stands"
    drawn = [step.fault for step in script if isinstance(step.fault, (Stall, Partition))]
    stalls = [fault for fault in drawn if isinstance(fault, Stall)]
    assert {fault.to for fault in stalls} == {None, "client", "server"}
    assert {fault.seconds for fault in stalls if fault.to == "server"} == {3}
    lasting = [fault.seconds for fault in drawn if fault.seconds != 3]
    assert len(lasting) == len(set(lasting))
    assert 4 < sum(lasting) / len(lasting) < 6
    assert network.faults == {}, "it is not played yet"


@virtual
async def test_a_script_is_drawn_over_all_links() -> None:
    assert {str(step.link) for step in await drawn(1)} == {"client-server", "client-client"}


@virtual
async def test_a_draw_that_makes_no_sense_is_refused() -> None:
    _, _, link, network = await connected()
    await trio.sleep(10)
    with pytest.raises(ValueError, match=r"until 9 ends in the past: it is 10\.000000 now"):
        network.draw([link], until=9, every=1, faults=FAULTS)
    for links, until, every, faults in [
        ([link], math.inf, 1, FAULTS),
        ([link], 20, 0, FAULTS),
        ([link], 20, -1, FAULTS),
        ([link], 20, math.inf, FAULTS),
        ([], 20, 1, FAULTS),
        ([link], 20, 1, []),
    ]:
        with pytest.raises(ValueError, match=f"until={until}, every={every}, {len(links)} links"):
            network.draw(links, until=until, every=every, faults=faults)
    assert network.draw([link], until=10, every=1, faults=FAULTS) == []


@virtual
async def test_a_script_is_played_in_time_and_counted() -> None:
    client, server, link, network = await connected()
    script = [
        Step(10, link, None),
        Step(30, link, Reset()),
        Step(5, link, Stall()),
        Step(20, link, Stall(to="server")),
        Step(20, link, None),
    ]
    read_at = []

    async def read() -> None:
        with suppress(trio.BrokenResourceError):
            while await server.read(1):
                read_at.append(trio.current_time())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        nursery.start_soon(network.play, script)
        for second in (1, 6, 19.5, 25):
            await trio.sleep_until(second)
            client.write_nowait(b"x")
    assert read_at == [1, 10, 19.5, 25]
    assert trio.current_time() == 30
    assert network.faults == {"Stall": 2, "Reset": 1}


@virtual
async def test_an_empty_script_is_over_at_once() -> None:
    await VirtualNetwork().play([])
    assert trio.current_time() == 0


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ((5, Partition(3)), r"in the past, for it is 10\.000000 now: 5\.000000 client-server Par"),
        ((5, None), r"in the past, .*: 5\.000000 client-server heals"),
        ((25, Stall(to="carol")), r"client-server: it does not lead to 'carol'"),
    ],
)
@virtual
async def test_a_script_with_a_bad_step_is_not_played_at_all(
    bad: tuple[float, Fault | None], words: str
) -> None:
    client, _, link, network = await connected()
    await trio.sleep(10)
    script = [Step(10, link, Reset()), Step(bad[0], link, bad[1]), Step(20, link, Reset())]
    with pytest.raises(ValueError, match=words):
        await network.play(script)
    assert network.faults == {}
    assert not client.over
    assert trio.current_time() == 10


@virtual
async def test_playing_can_be_cancelled() -> None:
    _, _, link, network = await connected()
    with trio.move_on_after(15):
        await network.play([Step(10, link, Partition()), Step(20, link, Reset())])
    assert network.faults == {"Partition": 1}


# trioweb on it.


@virtual
async def test_a_url_leads_to_its_server_from_every_host() -> None:
    network = VirtualNetwork()
    with network.host("server"):
        async with trioweb.open_server(echo, 8765) as server:
            assert server.url == "ws://server:8765"
            for name in ("client", "server"):
                with network.host(name):
                    async with trioweb.connect(server.url) as ws:
                        assert ws.local_address[0] == name
                        assert ws.remote_address == ("server", 8765)
                        await ws.send("hi")
                        assert await ws.receive() == "hi"
    assert trio.current_time() < 0.5


@pytest.mark.parametrize(
    ("chunk", "largest"), [(1, 500), (7, 4000), (100, 70_000), (5000, 2**20), (None, 2**20)]
)
@virtual
async def test_messages_come_back_however_they_are_cut(chunk: int | None, largest: int) -> None:
    network = VirtualNetwork(conditions=Conditions(latency=0.01, jitter=0.01, chunk=chunk))
    chance = random.Random(0)
    messages: list[str | bytes] = ["täxt" * 100]
    messages += [chance.randbytes(size) for size in (0, 1, 126, largest)]
    with network.host("server"):
        async with trioweb.open_server(echo, 0) as server:
            with network.host("client"):
                async with trioweb.connect(server.url) as ws:
                    for message in messages:
                        await ws.send(message)
                        assert await ws.receive() == message


@virtual
async def test_two_hundred_connections_at_once() -> None:
    network = VirtualNetwork(conditions=Conditions(latency=0.05, jitter=0.05))
    done = []

    async def client(number: int, url: str) -> None:
        with network.host(f"client{number % 7}"):
            async with trioweb.connect(url) as ws:
                for count in range(3):
                    await ws.send(f"{number} {count}")
                    assert await ws.receive() == f"{number} {count}"
                done.append(number)

    with network.host("server"):
        async with trioweb.open_server(echo, 0) as server, trio.open_nursery() as nursery:
            for number in range(200):
                nursery.start_soon(client, number, server.url)
    assert sorted(done) == list(range(200))
    assert trio.current_time() < 3


@pytest.fixture(scope="session")
def named_tls(ca: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ca.issue_cert("server.example").configure_cert(context)
    return context


@virtual
async def test_tls_runs_on_it(named_tls: ssl.SSLContext, client_tls: ssl.SSLContext) -> None:
    network = VirtualNetwork(conditions=Conditions(latency=0.1, chunk=500))
    with network.host("server.example"):
        async with trioweb.open_server(echo, 0, ssl_context=named_tls) as server:
            assert server.url.startswith("wss://server.example:")
            with network.host("client"):
                async with trioweb.connect(server.url, ssl_context=client_tls) as ws:
                    assert ws.remote_address[0] == "server.example"
                    for message in (b"hi", bytes(100_000)):
                        await ws.send(message)
                        assert await ws.receive() == message


@virtual
async def test_tls_on_a_host_that_calls_itself_localhost(
    server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    network = VirtualNetwork()
    with network.host("localhost"):
        async with (
            trioweb.open_server(echo, 0, ssl_context=server_tls) as server,
            trioweb.connect(server.url, ssl_context=client_tls) as ws,
        ):
            await ws.send("hi")
            assert await ws.receive() == "hi"


@virtual
async def test_a_partition_meets_the_timeout_of_connect() -> None:
    network = VirtualNetwork()
    timeouts = trioweb.Timeouts(connect=7)
    with network.host("server"):
        async with trioweb.open_server(echo, 0) as server:
            with network.host("client"):
                link = network.link("client", "server")
                link.inject(Partition())
                with pytest.raises(HandshakeTimeout):
                    async with trioweb.connect(server.url, timeouts=timeouts):
                        pass
                assert trio.current_time() == 7
                link.heal()
                link.inject(Partition(5))
                async with trioweb.connect(server.url, timeouts=timeouts):
                    assert trio.current_time() == 12


@virtual
async def test_a_lost_link_is_an_end_of_the_connection_at_both_ends() -> None:
    network = VirtualNetwork()
    ends: list[trioweb.Close | None] = []

    async def handler(ws: trioweb.WebSocket) -> None:
        try:
            await ws.receive()
        finally:
            ends.append(ws.closed)

    with network.host("server"):
        async with trioweb.open_server(handler, 0) as server:
            with network.host("client"):
                async with trioweb.connect(server.url) as ws:
                    network.link("client", "server").inject(Reset())
                    with pytest.raises(ConnectionBroken):
                        await ws.receive()
                    assert ws.closed is not None
    assert [end.code for end in ends if end is not None] == [1006]
    assert ws.closed.code == 1006


@pytest.mark.parametrize("fault", [Reset, Conditions, "reset", None])
def test_what_is_no_fault_is_refused_by_name(fault: Any) -> None:
    async def main() -> None:
        network = VirtualNetwork()
        with network.host("a"), network.host("b"):
            link = network.link("a", "b")
        with pytest.raises(TypeError, match=re.escape(f"not a fault: {fault!r}")):
            link.inject(fault)
        assert not network.faults

    run(main, seed=0)


def test_taps_may_be_replaced_at_any_time() -> None:
    async def main() -> None:
        network = VirtualNetwork()
        async with open_pair(network=network) as (client, server, _):
            recorder = Recorder()
            network.taps = [recorder]
            await client.send("seen")
            await server.receive()
            assert "seen" in str(recorder)

    run(main, seed=0)


def test_a_network_belongs_to_one_run() -> None:
    network = VirtualNetwork()

    async def main() -> None:
        async with open_pair(network=network):
            pass

    run(main, seed=0)
    with pytest.raises(RuntimeError, match=r"used in another trio.run: make one for each"):
        run(main, seed=0)
