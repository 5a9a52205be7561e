"""Origins (RFC 6455, 10.2), how many connections a client may have, and how fast it may talk."""

from __future__ import annotations

import ssl
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Literal

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

import trioweb
from tests.guarantees.peers import Link, TCPLink, TLSLink, VirtualLink
from tests.helpers import (
    TEXT,
    Answer,
    Peer,
    asking,
    close_frame,
    dialling,
    echo,
    fetch,
    frame,
    get,
    numeric_url,
    port_of,
    serving,
    tasks,
    upgraded,
    virtual_clock,
)
from trioweb import Excess, Guard, Rate, RateLimit, Timeouts, TrustedProxies
from trioweb.guard import Gate, Visit, is_allowed_origin
from trioweb.testing import CollectingObserver, open_pair

PROXIES = TrustedProxies(["127.0.0.1"], header="X-Forwarded-For")


def _request(origin: str | None, host: str = "example.org") -> trioweb.Request:
    headers = [("Host", host)] + ([("Origin", origin)] if origin is not None else [])
    return trioweb.Request("/", trioweb.Headers(headers))


@pytest.mark.parametrize(
    ("origin", "host", "allowed"),
    [
        (None, "example.org", True),
        ("https://example.org", "example.org", True),
        ("HTTP://Example.ORG", "example.org", True),
        ("https://example.org", "example.org:443", True),
        ("http://localhost:8000", "localhost:8000", True),
        ("http://[::1]:8000", "[::1]:8000", True),
        ("http://localhost:8000", "localhost:8001", False),
        ("http://localhost", "localhost:8000", False),
        ("https://evil.org", "example.org", False),
        ("https://example.org.evil.org", "example.org", False),
        ("null", "example.org", False),
        ("", "example.org", False),
        ("file://", "example.org", False),
        ("https://example.org, https://evil.org", "example.org", False),
        ("https://example.org:99999", "example.org", False),
        ("https://[broken", "example.org", False),
    ],
)
def test_a_page_of_the_same_host_passes(origin: str | None, host: str, allowed: bool) -> None:
    assert is_allowed_origin(_request(origin, host), ()) is allowed


@pytest.mark.parametrize(
    ("origin", "host", "allowed"),
    [
        ("https://example.org", "example.org", True),
        ("https://example.org", "example.org:443", True),
        ("https://example.org:8443", "example.org:8443", True),
        ("http://example.org", "example.org", False),
        ("http://example.org", "example.org:443", False),
        ("http://example.org:443", "example.org", False),
        ("https://example.org:80", "example.org", False),
    ],
)
def test_over_tls_the_page_must_have_come_by_tls_too(origin: str, host: str, allowed: bool) -> None:
    request = replace(_request(origin, host), scheme="https")
    assert is_allowed_origin(request, ()) is allowed


def test_others_must_be_listed() -> None:
    assert is_allowed_origin(_request("https://app.example.com"), ["https://App.example.com/"])
    assert not is_allowed_origin(_request("https://app.example.com"), ["https://example.com"])
    assert is_allowed_origin(_request("https://anybody"), None)


async def _echo(ws: trioweb.WebSocket) -> None:
    async for message in ws:
        await ws.send(message)


@pytest.mark.parametrize("origins", [(), ["https://friend.org"]])
async def test_a_server_refuses_a_strange_page(origins: list[str]) -> None:
    async with trioweb.open_server(_echo, 0, host="127.0.0.1", origins=origins) as server:
        with pytest.raises(trioweb.HandshakeRejected) as caught:
            async with trioweb.connect(server.url, headers={"Origin": "https://evil.org"}):
                pass
        assert caught.value.status == 403
        for origin in origins:
            async with trioweb.connect(server.url, headers={"Origin": origin}) as ws:
                await ws.send("x")
                assert await ws.receive() == "x"


@pytest.mark.parametrize(
    ("name", "allowed"),
    [
        ("localhost", True),
        ("app.localhost", True),
        ("127.0.0.1", True),
        ("[::1]", True),
        ("example.org", False),
        ("localhost.example.org", False),
    ],
)
@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "::ffff:127.0.0.1"])
def test_on_loopback_a_name_that_may_be_anybodys_is_not_our_own(
    name: str, allowed: bool, address: str
) -> None:
    request = _request(f"http://{name}:8000", f"{name}:8000")
    assert is_allowed_origin(request, (), local_address=(address, 8000)) is allowed
    assert is_allowed_origin(request, [f"http://{name}:8000"], local_address=(address, 8000))
    for other in (("192.0.2.1", 8000), ("server", 8000), None):
        assert is_allowed_origin(request, (), local_address=other)


async def test_a_page_whose_name_was_made_to_lead_here_is_turned_away() -> None:
    async with serving() as server:
        port = port_of(server)
        for name, status in (("localhost", 101), ("evil.example", 403)):
            headers = {"Host": f"{name}:{port}", "Origin": f"http://{name}:{port}"}
            async with dialling(server) as peer:
                await peer.send(asking("/", headers))
                assert (await peer.answer()).status == status


# Connections and handshakes of one client.


async def _refused(server: trioweb.Server, headers: dict[str, str | None] | None = None) -> Answer:
    async with dialling(server) as peer:
        await peer.send(asking("/", headers))
        answer = await peer.answer()
        assert await peer.rest() == b""
        return answer


@pytest.fixture
def clock() -> MockClock:
    return virtual_clock()


@pytest.mark.parametrize("wrong", [0, -1])
def test_a_guards_numbers_must_make_sense(wrong: int) -> None:
    with pytest.raises(ValueError, match="per_client must be positive"):
        Guard(per_client=wrong)
    with pytest.raises(ValueError, match="one handshake at least"):
        Guard(handshakes=Rate(1, 0.5))


async def test_a_client_has_so_many_connections_and_others_are_let_in() -> None:
    observer = CollectingObserver()
    guard = Guard(per_client=2)
    async with serving(guard=guard, proxies=PROXIES, authenticate=None, observers=[observer]) as (
        server
    ):

        def by(address: str) -> dict[str, str | None]:
            return {"X-Forwarded-For": address}

        async with upgraded(server, "/", by("192.0.2.1")):
            async with upgraded(server, "/", by("192.0.2.1")):
                answer = await _refused(server, by("192.0.2.1"))
                assert (answer.status, answer.headers["retry-after"]) == (429, "10")
                async with upgraded(server, "/", by("192.0.2.2")):
                    assert server.statistics().clients == 2
                assert server.statistics().refused == {"client": 1}
            while server.statistics().connections > 1:
                await trio.sleep(0.01)
            async with upgraded(server, "/", by("192.0.2.1")):
                assert server.statistics().upgraded == 4
    assert ("answered", "/", 429) in observer.events


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("[2001:db8:0:1::1]", "[2001:db8:0:1:ffff::2]", True),
        ("[2001:db8:0:1::1]", "[2001:db8:0:2::1]", False),
        ("[::ffff:192.0.2.1]", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("_hidden", "_hidden", True),
        ("_hidden", "_other", False),
    ],
)
async def test_an_ipv6_client_is_a_whole_network(one: str, other: str, same: bool) -> None:
    proxies = TrustedProxies(["127.0.0.1"], header="Forwarded")
    async with (
        serving(guard=Guard(per_client=1), proxies=proxies, authenticate=None) as server,
        upgraded(server, "/", {"Forwarded": f'for="{one}"'}),
        dialling(server) as peer,
    ):
        await peer.send(asking("/", {"Forwarded": f'for="{other}"'}))
        assert (await peer.answer()).status == (429 if same else 101)


async def test_handshakes_under_way_count_too_and_a_refused_one_does_not(clock: MockClock) -> None:
    timeouts = Timeouts(handshake=5)
    async with (
        serving(guard=Guard(per_client=2), timeouts=timeouts) as server,
        dialling(server) as mute,
        dialling(server) as other,
    ):
        while server.statistics().others < 2:
            await trio.sleep(0.01)
        for _ in range(3):
            assert (await _refused(server)).status == 429
        assert await mute.rest() == await other.rest() == b""
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert server.statistics().refused == {"client": 3, "timeout": 2}
        assert server.statistics().clients == 0
        async with upgraded(server):
            pass


async def test_even_turning_one_client_away_is_bounded(clock: MockClock) -> None:
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(
            serving(guard=Guard(per_client=1), heartbeat=None, timeouts=Timeouts(handshake=5))
        )
        await stack.enter_async_context(upgraded(server))
        for _ in range(40):
            await stack.enter_async_context(dialling(server))
        while sum(server.statistics().refused.values()) < 40:
            await trio.sleep(0.01)
        assert server.statistics().refused == {"client": 32, "cut": 8}


async def test_so_it_is_where_a_proxy_tells_who_comes(clock: MockClock) -> None:
    """Each refused one holds the link open, so that its answer arrives."""
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(
            serving(guard=Guard(per_client=1), proxies=PROXIES, authenticate=None, heartbeat=None)
        )
        await stack.enter_async_context(upgraded(server))
        peers = [await stack.enter_async_context(dialling(server)) for _ in range(40)]
        for peer in peers:
            await peer.send(asking())
        while sum(server.statistics().refused.values()) < 40:
            await trio.sleep(0.01)
        answers = [await peer.rest() for peer in peers]
        assert sum(answer.startswith(b"HTTP/1.1 429") for answer in answers) == 32
        assert answers.count(b"") == 8
        assert server.statistics().refused == {"client": 32, "cut": 8}


async def test_by_the_proxy_protocol_handshakes_under_way_count_too(clock: MockClock) -> None:
    proxies = TrustedProxies(["127.0.0.1"], proxy_protocol=True)
    line = b"PROXY TCP4 192.0.2.%d 192.0.2.9 1000 80\r\n"
    async with (
        serving(guard=Guard(per_client=1), proxies=proxies, authenticate=None) as server,
        dialling(server) as mute,
        dialling(server) as second,
        dialling(server) as other,
    ):
        await mute.send(line % 1)
        while server.statistics().clients < 1:
            await trio.sleep(0.01)
        await second.send(line % 1 + asking())
        assert (await second.answer()).status == 429
        await other.send(line % 2 + asking())
        assert (await other.answer()).status == 101


async def test_handshakes_come_no_faster_than_their_rate(clock: MockClock) -> None:
    guard = Guard(handshakes=Rate(0.5, burst=3))
    async with serving(guard=guard, heartbeat=None) as server:
        for _ in range(3):
            assert (await get(server, "/")).status == 426  # plain requests count
        answer = await _refused(server)
        assert (answer.status, answer.headers["retry-after"]) == (429, "2")
        await trio.sleep(2)
        async with upgraded(server):
            assert (await _refused(server)).status == 429
        assert server.statistics().refused == {"request": 3, "rate": 2}


async def test_behind_a_proxy_everybody_has_a_rate_of_their_own() -> None:
    guard = Guard(handshakes=Rate(0.001, burst=1))
    async with serving(guard=guard, proxies=PROXIES, authenticate=None) as server:
        for address, status in (("192.0.2.1", 426), ("192.0.2.1", 429), ("192.0.2.2", 426)):
            request = f"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: {address}\r\n\r\n"
            assert (await fetch(server, request.encode())).status == status


async def test_the_peers_of_a_unix_socket_are_not_told_apart(tmp_path: Path) -> None:
    listener = trioweb.open_unix_listener(tmp_path / "socket")
    guard = Guard(per_client=1, handshakes=Rate(1, burst=1))
    async with serving(listeners=[listener], guard=guard) as server:
        for _ in range(3):
            stream = await trio.open_unix_socket(str(tmp_path / "socket"))
            async with stream:
                peer = Peer(stream)
                await peer.send(asking())
                assert (await peer.answer()).status == 101
        assert server.statistics().clients == 0


def test_many_addresses_leave_nothing_behind() -> None:
    async def main() -> None:
        gate = Gate(Guard(per_client=5, handshakes=Rate(1, burst=5)), 10)
        for number in range(10_000):
            with Visit(gate) as visit:
                visit.identify((f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", 1))
                assert visit.refusal is None
            if number % 100 == 0:
                await trio.sleep(0.1)
            assert gate.buckets <= 1100  # those of the last second, until their token is back
        await trio.sleep(1)
        assert gate.buckets == 0
        assert not gate.clients

    trio.run(main, clock=MockClock(autojump_threshold=0))


def test_even_at_once_they_take_no_more_than_so_much_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("trioweb.guard._FORGOTTEN_ABOVE", 100)

    async def main() -> None:
        gate = Gate(Guard(handshakes=Rate(0.001, burst=1)), 10)
        for number in range(1000):
            with Visit(gate) as visit:
                visit.identify((f"2001:db8:{number:x}::1", 1))
                assert visit.refusal is None
            assert gate.buckets <= 100

    trio.run(main, clock=MockClock())


async def test_every_refusal_has_its_counter() -> None:
    async def check(request: trioweb.Request) -> str:
        if request.path == "/error":
            raise ZeroDivisionError
        raise trioweb.Refused("no")

    async with serving(trioweb.Router({"/": echo, "/error": echo}), authenticate=check) as server:
        assert (await _refused(server, {"Origin": "https://evil.example"})).status == 403
        assert (await _refused(server)).status == 401
        assert (await get(server, "/")).status == 426
        assert (await get(server, "/other")).status == 404
        assert (await fetch(server, b"nonsense\r\n\r\n")).status == 400
        async with dialling(server) as peer:
            await peer.send(asking("/error"))
            assert (await peer.answer()).status == 500
        refused = {"origin": 1, "auth": 1, "request": 2, "path": 1, "error": 1}
        assert server.statistics().refused == refused
        assert server.statistics().upgraded == 0


async def test_a_first_message_that_is_refused_is_counted() -> None:
    async def check(ws: trioweb.WebSocket, message: str | bytes) -> str:
        raise trioweb.Refused("no")

    async with serving(authenticate=trioweb.FirstMessage(check)) as server:
        async with trioweb.connect(server.url) as ws:
            await ws.send("x")
            with pytest.raises(trioweb.ConnectionBroken, match="1008"):
                await ws.receive()
        assert server.statistics().refused == {"auth": 1}


async def test_whoever_leaves_while_it_is_checked_was_not_refused() -> None:
    checking = trio.Event()
    served: list[trioweb.WebSocket] = []

    async def check(ws: trioweb.WebSocket, message: str | bytes) -> str:
        checking.set()
        while ws.closed is None:
            await trio.sleep(0.01)
        return "ann"

    async def handler(ws: trioweb.WebSocket) -> None:
        served.append(ws)

    way, timeouts = trioweb.FirstMessage(check), Timeouts(close=0.1)
    async with serving(handler, authenticate=way, timeouts=timeouts) as server:
        async with trioweb.connect(server.url) as ws:
            await ws.send("x")
            await checking.wait()
        while server.statistics().others:
            await trio.sleep(0.01)
        assert server.statistics().refused == {}
    assert served == []


# The rates of messages, over every kind of link.


LINKS = ["tcp", "tls", "virtual"]


@pytest.fixture(params=LINKS)
def link(
    request: pytest.FixtureRequest, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> Link:
    if request.param == "tls":
        return TLSLink(server_tls, client_tls)
    return TCPLink() if request.param == "tcp" else VirtualLink()


class _Log:
    """A handler that notes what comes, and when."""

    def __init__(self) -> None:
        self.came: list[tuple[str | bytes, float]] = []
        self.connections: list[trioweb.WebSocket] = []

    async def __call__(self, ws: trioweb.WebSocket) -> None:
        self.connections.append(ws)
        async for message in ws:
            self.came.append((message, trio.current_time()))

    def gaps(self) -> list[float]:
        """Return the seconds between one message and the next, as exact as a test can be."""
        return [round(after - before, 1) for (_, before), (_, after) in pairwise(self.came)]


async def test_above_the_rate_messages_wait_and_none_is_lost(clock: MockClock, link: Link) -> None:
    log = _Log()
    guard = Guard(messages=[RateLimit(2, burst=4)])
    async with link.server(log, guard=guard) as server, link.client(server) as ws:
        for number in range(8):
            await ws.send(str(number))
        await trio.sleep(10)
        assert [message for message, _ in log.came] == [*"01234567"]
        assert log.gaps() == [0, 0, 0, 0.5, 0.5, 0.5, 0.5]
        assert log.connections[0].statistics().messages_limited == 0


async def test_who_waits_pushes_back(clock: MockClock, link: Link) -> None:
    log = _Log()
    guard = Guard(messages=[RateLimit(1, burst=1)])
    async with (
        link.server(log, guard=guard, heartbeat=None) as server,
        link.client(server, heartbeat=None) as ws,
    ):
        sent = 0
        with trio.move_on_after(20.5):
            for _ in range(link.enough // 10_000):
                await ws.send(b"x" * 10_000)
                sent += 1
        assert sent < link.enough // 10_000
        assert len(log.came) == 21
        statistics = log.connections[0].statistics()
        assert statistics.inbox_messages <= trioweb.Limits().inbox_bytes // 10_000 + 1
        await ws.aclose()


async def test_bytes_are_limited_as_messages_are(clock: MockClock, link: Link) -> None:
    log = _Log()
    guard = Guard(messages=[RateLimit(100, burst=200, of="bytes")])
    async with link.server(log, guard=guard) as server, link.client(server) as ws:
        for size in (100, 100, 50, 500, 1):
            await ws.send(b"x" * size)
        await trio.sleep(20)
        # The largest waits for all that the bucket holds, and the next for what it owes then.
        assert [len(message) for message, _ in log.came] == [100, 100, 50, 500, 1]
        assert log.gaps() == [0, 0.5, 2, 3]


async def test_above_the_rate_messages_are_dropped_and_counted(
    clock: MockClock, link: Link
) -> None:
    log = _Log()
    guard = Guard(messages=[RateLimit(2, burst=4, excess=Excess.DROP)])
    async with link.server(log, guard=guard) as server, link.client(server) as ws:
        for _ in range(2):
            for number in range(8):
                await ws.send(str(number))
            await trio.sleep(2)
        assert [message for message, _ in log.came] == [*"01230123"]
        assert log.connections[0].statistics().messages_limited == 8
        assert log.connections[0].statistics().messages_received == 16
        assert server.statistics().messages_limited == 8
        await ws.aclose()
        await link.settle()
        assert server.statistics().connections == 0
        assert server.statistics().messages_limited == 8


async def test_above_the_rate_the_connection_is_closed(clock: MockClock, link: Link) -> None:
    log = _Log()
    guard = Guard(messages=[RateLimit(2, burst=4, excess=Excess.CLOSE)])
    async with link.server(log, guard=guard) as server:
        async with link.client(server) as ws:
            for number in range(8):
                await ws.send(str(number))
            with pytest.raises(trioweb.ConnectionBroken) as caught:
                await ws.receive()
            assert (caught.value.code, caught.value.reason) == (1008, "rate limit")
        await link.settle()
        assert [message for message, _ in log.came] == [*"0123"]
        assert server.statistics().refused == {"messages": 1}


async def test_the_connections_of_a_client_share_a_bucket(clock: MockClock, link: Link) -> None:
    log = _Log()
    guard = Guard(messages=[RateLimit(1, burst=3, per="client")])
    async with link.server(log, guard=guard) as server:
        async with link.client(server) as one, link.client(server) as other:
            for number in range(3):
                await one.send(f"one {number}")
                await other.send(f"other {number}")
            await trio.sleep(10)
            assert len(log.came) == 6
            assert log.gaps() == [0, 0, 1, 1, 1]
            assert server.statistics().buckets == 1
        await trio.sleep(10)
        assert server.statistics().buckets == 0  # full, and nobody's


async def test_the_connections_of_a_principal_share_a_bucket(clock: MockClock) -> None:
    async def check(request: trioweb.Request) -> str:
        return request.path

    log = _Log()
    guard = Guard(messages=[RateLimit(1, burst=2, per="principal")])
    async with (
        serving(log, guard=guard, authenticate=check) as server,
        trioweb.connect(numeric_url(server, "/ann")) as one,
        trioweb.connect(numeric_url(server, "/ann")) as other,
        trioweb.connect(numeric_url(server, "/bob")) as bob,
    ):
        for ws in (one, other, bob):
            for number in range(2):
                await ws.send(f"{ws.request.path} {number}")
        await trio.sleep(0.5)
        assert sorted(message for message, _ in log.came) == [
            "/ann 0",
            "/ann 1",
            "/bob 0",
            "/bob 1",
        ]
        await trio.sleep(5)
        assert len(log.came) == 6


async def test_after_a_first_message_the_principal_has_its_bucket(clock: MockClock) -> None:
    async def check(ws: trioweb.WebSocket, message: str | bytes) -> str | bytes:
        return message

    log = _Log()
    guard = Guard(messages=[RateLimit(1, burst=2, per="principal")])
    async with (
        serving(log, guard=guard, authenticate=trioweb.FirstMessage(check)) as server,
        trioweb.connect(numeric_url(server)) as one,
        trioweb.connect(numeric_url(server)) as other,
    ):
        await one.send("ann")
        await other.send("ann")
        while len(server.connections) < 2:
            await trio.sleep(0.01)
        assert server.statistics().buckets == 1
        for ws in (one, other):
            for _ in range(2):
                await ws.send("x")
        await trio.sleep(0.5)
        assert len(log.came) == 2
        await trio.sleep(5)
        assert len(log.came) == 4


async def test_what_came_behind_a_first_message_counts_for_its_principal_too() -> None:
    received: list[trioweb.Message] = []

    async def check(token: str) -> str:
        return token

    async def handler(ws: trioweb.WebSocket) -> None:
        while True:
            received.append(await ws.receive())

    limit = RateLimit(0.001, burst=3, per="principal", excess=Excess.DROP)
    way = trioweb.MessageToken(check)
    async with serving(handler, guard=Guard(messages=[limit]), authenticate=way) as server:
        for _ in range(3):
            behind = [frame(TEXT, "ann"), *(frame(TEXT, f"{number}") for number in range(10))]
            async with upgraded(server, behind=b"".join(behind)) as peer:
                await peer.send(close_frame(1000))
                await peer.farewell()
        assert received == ["0", "1", "2"]
        assert server.statistics().messages_limited == 27


async def test_several_limits_hold_together(clock: MockClock, link: Link) -> None:
    log = _Log()
    guard = Guard(
        messages=[RateLimit(10, burst=2), RateLimit(1, burst=4, per="client", excess=Excess.DROP)]
    )
    async with link.server(log, guard=guard) as server, link.client(server) as ws:
        for number in range(10):
            await ws.send(str(number))
        await trio.sleep(5)
        assert [message for message, _ in log.came] == [*"0123"]
        assert log.gaps() == [0, 0.1, 0.1]
        assert log.connections[0].statistics().messages_limited == 6


async def test_an_end_reaches_a_handler_that_waits_for_its_turn(
    clock: MockClock, link: Link
) -> None:
    """Its own server's drain, that is; the peer's stands behind what is held back."""
    log = _Log()
    guard = Guard(messages=[RateLimit(0.01, burst=1)])
    before = tasks()
    async with link.server(log, guard=guard) as server, link.client(server) as ws:
        for number in range(3):
            await ws.send(str(number))
        await trio.sleep(5)
        start = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.drain)
            with pytest.raises(trioweb.EndOfChannel):
                await ws.receive()
        assert trio.current_time() - start < 1
        assert [message for message, _ in log.came] == ["0"]
        assert log.connections[0].statistics().messages_discarded == 2
    assert tasks() == before


async def test_a_cancelled_receive_loses_nothing_that_is_held_back(
    clock: MockClock, link: Link
) -> None:
    came: list[str | bytes] = []
    tries = 0

    async def impatient(ws: trioweb.WebSocket) -> None:
        nonlocal tries
        while len(came) < 5:
            tries += 1
            with trio.move_on_after(0.3):
                came.append(await ws.receive())

    guard = Guard(messages=[RateLimit(1, burst=1)])
    async with link.server(impatient, guard=guard) as server, link.client(server) as ws:
        for number in range(5):
            await ws.send(str(number))
        await trio.sleep(10)
        assert came == [*"01234"]
        assert tries > 10


async def test_a_busy_handler_finds_its_messages_paid_for(clock: MockClock, link: Link) -> None:
    came: list[str | bytes] = []

    async def busy(ws: trioweb.WebSocket) -> None:
        came.append(await ws.receive())
        await trio.sleep(10)
        while True:
            try:
                came.append(ws.receive_nowait())
            except trio.WouldBlock:
                break
        await ws.send(str(len(came)))

    guard = Guard(messages=[RateLimit(1, burst=2)])
    async with link.server(busy, guard=guard) as server, link.client(server) as ws:
        for number in range(10):
            await ws.send(str(number))
        # The burst, the one that was due first, and the burst that was saved meanwhile.
        assert await ws.receive() in ("4", "5", "10")
        assert came == [str(number) for number in range(len(came))]


@pytest.mark.parametrize("excess", Excess)
async def test_a_message_received_as_a_stream_counts_as_one(
    clock: MockClock, link: Link, excess: Excess
) -> None:
    came: list[tuple[int, float]] = []

    async def note(ws: trioweb.WebSocket) -> None:
        start = trio.current_time()
        while True:
            reader = await ws.receive_stream()
            size = 0
            async with reader:
                async for piece in reader:
                    size += len(piece)
            came.append((size, round(trio.current_time() - start, 1)))

    guard = Guard(messages=[RateLimit(1, burst=2, excess=excess)])
    async with link.server(note, guard=guard) as server, link.client(server) as ws:
        for _ in range(4):
            with suppress(trioweb.ConnectionBroken):
                await ws.send(b"x" * 200_000)  # leaves in fragments
        await trio.sleep(10)
    if excess is Excess.WAIT:
        assert came == [(200_000, 0), (200_000, 0), (200_000, 1), (200_000, 2)]
    elif excess is Excess.DROP:  # too late, once it has begun
        assert came == [(200_000, 0)] * 4
    else:
        assert came == [(200_000, 0)] * 2


@pytest.mark.parametrize("excess", Excess)
async def test_the_last_of_many_frames_is_what_counts(
    clock: MockClock, link: Link, excess: Excess
) -> None:
    log = _Log()
    guard = Guard(messages=[RateLimit(1, burst=1, excess=excess)])
    async with link.server(log, guard=guard) as server, link.by_hand(server) as peer:
        for number in range(3):
            await peer.send(1, b"a", fin=False)
            await peer.send(0, str(number).encode())
        await trio.sleep(5)
    expected = ["a0", "a1", "a2"] if excess is Excess.WAIT else ["a0"]
    assert [message for message, _ in log.came] == expected


@given(
    rate=st.floats(0.5, 50),
    burst=st.integers(1, 10),
    pauses=st.lists(st.floats(0, 2), min_size=1, max_size=40),
    per=st.sampled_from(["connection", "client"]),
)
def test_whatever_a_peer_sends_comes_in_whole_and_no_faster(
    rate: float, burst: int, pauses: list[float], per: Literal["connection", "client"]
) -> None:
    came: list[tuple[str | bytes, float]] = []

    async def main() -> None:
        guard = Guard(messages=[RateLimit(rate, burst, per=per)])
        options: trioweb.ServerOptions = {"guard": guard, "heartbeat": None}
        async with open_pair(server=options, client={"heartbeat": None}) as pair:

            async def send() -> None:
                for number, pause in enumerate(pauses):
                    await trio.sleep(pause)
                    await pair.client.send(str(number))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(send)
                # None starves: the last comes when all before it have come, at the latest.
                with trio.fail_after(sum(pauses) + len(pauses) / rate + 0.001):
                    for _ in pauses:
                        message = await pair.server.receive()
                        came.append((message, trio.current_time()))

    trio.run(main, clock=MockClock(autojump_threshold=0))
    assert [message for message, _ in came] == [str(number) for number in range(len(pauses))]
    for first, (_, start) in enumerate(came):
        for count, (_, at) in enumerate(came[first:], 1):
            assert count <= rate * (at - start) + burst + 1e-6
