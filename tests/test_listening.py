"""Listeners: one port for both families, what is missing is skipped, a URL, taking people in."""

from __future__ import annotations

import errno
import os
import socket
from functools import partial

import pytest
import trio

from tests.conftest import missing
from tests.helpers import guard
from tests.programs import free_port
from trioweb import listening
from trioweb.listening import accept_all, is_loopback, url_of
from trioweb.transport import SocketTransport

Listeners = list[trio.SocketListener]


async def open_listeners(port: int, host: str | None) -> Listeners:
    opened = await listening.open_listeners(port, host)
    return [listener for listener in opened if isinstance(listener, trio.SocketListener)]


def names(listeners: Listeners) -> list[tuple[str, int]]:
    return [listener.socket.getsockname()[:2] for listener in listeners]


async def close(listeners: Listeners) -> None:
    for listener in listeners:
        await listener.aclose()


@pytest.fixture
def ipv6() -> None:
    with socket.socket(socket.AF_INET6) as sock:
        try:
            sock.bind(("::1", 0))
        except OSError:
            missing("IPv6 on loopback")


@pytest.fixture
def opening(monkeypatch):
    """Decide how the attempts to listen end, over and over again."""
    real = trio.open_tcp_listeners
    calls: list[tuple[str | None, int]] = []
    opened: Listeners = []

    def install(*ends: OSError | None) -> None:
        async def fake(port: int, *, host: str | None = None) -> Listeners:
            error = ends[len(calls) % len(ends)]
            calls.append((host, port))
            if error is not None:
                raise error
            # An address that every machine has stands in for ::1.
            got = await real(0, host="127.0.0.1")
            opened.extend(got)
            return got

        monkeypatch.setattr(trio, "open_tcp_listeners", fake)

    install.calls = calls  # type: ignore[attr-defined]
    install.opened = opened  # type: ignore[attr-defined]
    return install


async def test_port_0_of_localhost_is_one_port_for_both_families(ipv6):
    listeners = await open_listeners(0, "localhost")
    (first, port), (second, other) = names(listeners)
    assert (first, second) == ("127.0.0.1", "::1")
    assert port == other != 0
    await close(listeners)


async def test_a_port_of_localhost_is_opened_on_both_families(ipv6):
    port = free_port()
    listeners = await open_listeners(port, "localhost")
    assert names(listeners) == [("127.0.0.1", port), ("::1", port)]
    await close(listeners)


async def test_a_host_is_opened_alone():
    listeners = await open_listeners(0, "127.0.0.1")
    assert [name for name, _ in names(listeners)] == ["127.0.0.1"]
    await close(listeners)


@pytest.mark.parametrize("host", [None, ""])
async def test_no_host_is_every_address(host):
    listeners = await open_listeners(0, host)
    found, local = names(listeners), is_loopback(listeners)
    await close(listeners)
    assert {name for name, _ in found} <= {"0.0.0.0", "::"}
    assert not local
    assert len({port for _, port in found}) == 1, "port 0 is one port for all"


def plain(code: int) -> OSError:
    return OSError(code, "so it is")


def chained(error: OSError, cause: Exception) -> OSError:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "error",
    [
        plain(errno.EADDRNOTAVAIL),
        plain(errno.EAFNOSUPPORT),
        # As Trio raises it when the machine does not know the family at all.
        chained(plain(errno.EAFNOSUPPORT), ExceptionGroup("", [plain(errno.EAFNOSUPPORT)])),
        chained(OSError("so it is"), plain(errno.EADDRNOTAVAIL)),
    ],
)
@pytest.mark.parametrize("port", [0, 1234])
async def test_a_second_family_that_is_missing_is_skipped(opening, error, port):
    opening(None, error)
    listeners = await open_listeners(port, "localhost")
    assert listeners == opening.opened
    assert len(listeners) == 1
    assert [host for host, _ in opening.calls] == ["127.0.0.1", "::1"]
    await close(listeners)


async def test_a_first_family_that_is_missing_is_an_error(opening):
    opening(plain(errno.EADDRNOTAVAIL))
    with pytest.raises(OSError, match="so it is"):
        await open_listeners(1234, "localhost")


async def test_a_port_that_is_taken_on_the_second_family_is_an_error_and_leaves_nothing_open(
    opening,
):
    opening(None, plain(errno.EADDRINUSE))
    with pytest.raises(OSError, match="so it is"):
        await open_listeners(1234, "localhost")
    assert [listener.socket.fileno() for listener in opening.opened] == [-1]


async def test_a_free_port_that_is_taken_on_the_second_family_is_tried_again(opening):
    opening(*[None, plain(errno.EADDRINUSE)] * 3, None, None)
    listeners = await open_listeners(0, "localhost")
    assert [host for host, _ in opening.calls] == ["127.0.0.1", "::1"] * 4
    # Each pair asks for any port first, and then for the one it got.
    ports = [port for _, port in opening.calls]
    assert ports[0::2] == [0] * 4
    assert all(ports[1::2])
    assert [one for one in opening.opened if one.socket.fileno() != -1] == listeners
    await close(listeners)


async def test_it_is_not_tried_for_ever(opening):
    opening(None, plain(errno.EADDRINUSE))
    with pytest.raises(OSError, match="so it is"):
        await open_listeners(0, "localhost")
    assert len(opening.calls) == 40
    assert all(listener.socket.fileno() == -1 for listener in opening.opened)


async def test_an_address_in_use_is_an_os_error():
    listeners = await open_listeners(0, "127.0.0.1")
    with pytest.raises(OSError, match="in use") as caught:
        await open_listeners(names(listeners)[0][1], "127.0.0.1")
    assert caught.value.errno == errno.EADDRINUSE
    await close(listeners)


# Loopback or not.


def bound(family: socket.AddressFamily, address: str) -> trio.SocketListener:
    sock = socket.socket(family)
    sock.bind(address if family == socket.AF_UNIX else (address, 0))
    sock.listen(1)
    return trio.SocketListener(trio.socket.from_stdlib_socket(sock))


async def test_loopback_is_what_only_this_machine_can_reach(tmp_path):
    v4 = bound(socket.AF_INET, "127.0.0.1")
    other = bound(socket.AF_INET, "127.3.2.1")
    every = bound(socket.AF_INET, "0.0.0.0")
    unix = bound(socket.AF_UNIX, str(tmp_path / "socket"))
    assert is_loopback([v4])
    assert is_loopback([other, unix])
    assert is_loopback([])
    assert not is_loopback([every])
    assert not is_loopback([v4, every])
    await close([v4, other, every, unix])


async def test_tls_around_a_listener_does_not_hide_its_address(server_tls):
    every = trio.SSLListener(bound(socket.AF_INET, "0.0.0.0"), server_tls)
    assert not is_loopback([every])
    assert not is_loopback([trio.SSLListener(every, server_tls)])
    await every.aclose()


# The URL.


@pytest.mark.parametrize(
    ("address", "host", "tls", "url"),
    [
        ("127.0.0.1", "localhost", False, "ws://localhost:{}"),
        ("127.0.0.1", "localhost", True, "wss://localhost:{}"),
        ("127.0.0.1", "127.0.0.1", False, "ws://127.0.0.1:{}"),
        ("127.0.0.1", None, True, "wss://127.0.0.1:{}"),
        ("0.0.0.0", "0.0.0.0", False, "ws://127.0.0.1:{}"),
        ("0.0.0.0", None, False, "ws://127.0.0.1:{}"),
    ],
)
async def test_the_url_of_listeners(address, host, tls, url):
    listener = bound(socket.AF_INET, address)
    port = listener.socket.getsockname()[1]
    assert url_of([listener], host, tls=tls) == url.format(port)
    await listener.aclose()


@pytest.mark.parametrize(("address", "name"), [("::1", "[::1]"), ("::", "[::1]")])
async def test_the_url_of_ipv6_listeners(ipv6, address, name):
    listener = bound(socket.AF_INET6, address)
    port = listener.socket.getsockname()[1]
    assert url_of([listener], address, tls=False) == f"ws://{name}:{port}"
    await listener.aclose()


async def test_listeners_without_tcp_have_no_url(tmp_path):
    unix = bound(socket.AF_UNIX, str(tmp_path / "socket"))
    assert url_of([unix], None, tls=False) is None
    assert url_of([], "localhost", tls=False) is None
    tcp = bound(socket.AF_INET, "127.0.0.1")
    assert str(url_of([unix, tcp], None, tls=False)).startswith("ws://127.0.0.1:")
    await close([unix, tcp])


@pytest.mark.parametrize("port", [-1, 65536])
async def test_a_number_that_is_no_port_is_refused(port):
    with pytest.raises(ValueError, match="port"):
        await open_listeners(port, "localhost")


# Taking in who comes.


class Arrivals:
    """Those who came, and the event that all of them have."""

    def __init__(self, expected: int) -> None:
        self.all: list[trio.abc.Stream | SocketTransport] = []
        self.complete = trio.Event()
        self._expected = expected

    def add(self, one: trio.abc.Stream | SocketTransport) -> None:
        self.all.append(one)
        if len(self.all) == self._expected:
            self.complete.set()

    async def close(self) -> None:
        for one in self.all:
            await one.aclose()


async def taken_in(expected: int, *, bare: bool) -> tuple[Arrivals, set[tuple[str, int]]]:
    """Connect so many times, and only then accept; return who came, and the names of all."""
    (listener,) = await open_listeners(0, "127.0.0.1")
    streams = [await trio.open_tcp_stream(*name) for name in names([listener]) * expected]
    peers = {stream.socket.getsockname() for stream in streams}
    arrivals = Arrivals(expected)
    with guard():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(accept_all, listener, arrivals.add, bare=bare))
            await arrivals.complete.wait()
            nursery.cancel_scope.cancel()
    assert listener.socket.fileno() == -1  # it is closed with the loop
    await close_streams(streams)
    return arrivals, peers


async def close_streams(streams: list[trio.SocketStream]) -> None:
    for stream in streams:
        await stream.aclose()


async def test_those_who_wait_in_line_are_taken_together():
    arrivals, peers = await taken_in(40, bare=True)
    transports = [one for one in arrivals.all if isinstance(one, SocketTransport)]
    assert len(transports) == 38  # Trio's accept took the first, and after 32 more another one
    assert {one.remote_address for one in transports} < peers
    for one in transports:
        descriptor = one._descriptor()
        assert not os.get_blocking(descriptor)
        with socket.socket(fileno=os.dup(descriptor)) as sock:
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0
    await arrivals.close()


async def test_where_a_stream_is_needed_all_come_as_streams():
    arrivals, peers = await taken_in(5, bare=False)
    assert all(isinstance(one, trio.SocketStream) for one in arrivals.all)
    assert len(peers) == 5
    await arrivals.close()


async def test_nobody_is_taken_from_a_listener_that_was_closed_meanwhile():
    (listener,) = await open_listeners(0, "127.0.0.1")
    streams = [await trio.open_tcp_stream(*name) for name in names([listener]) * 2]
    found: list[trio.abc.Stream | SocketTransport] = []

    def arrived(one: trio.abc.Stream | SocketTransport) -> None:
        found.append(one)
        listener.socket.close()

    with guard(), pytest.raises(trio.ClosedResourceError):
        await accept_all(listener, arrived, bare=True)
    (first,) = found
    await first.aclose()
    await close_streams(streams)


async def test_an_error_of_another_kind_comes_out():
    class Broken(trio.abc.Listener[trio.SocketStream]):
        async def accept(self) -> trio.SocketStream:
            await trio.lowlevel.checkpoint()
            raise OSError(errno.EINVAL, "broken")

        async def aclose(self) -> None:
            await trio.lowlevel.checkpoint()

    with pytest.raises(OSError, match="broken"):
        await accept_all(Broken(), lambda _: None, bare=True)
