"""The PROXY protocol: the reader against its specification, and servers behind it."""

from __future__ import annotations

import ipaddress
import logging
import struct

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

import trioweb
from tests.helpers import (
    TEXT,
    Peer,
    asking,
    close_frame,
    dialling,
    frame,
    serving,
    tasks,
    virtual_clock,
)
from trioweb import Timeouts, TrustedProxies
from trioweb.protocol.proxy import Address, ProxyHeaderError, ProxyReader

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
V4 = ipaddress.ip_address("203.0.113.7").packed + ipaddress.ip_address("192.0.2.1").packed
V6 = ipaddress.ip_address("2001:db8::7").packed + ipaddress.ip_address("2001:db8::1").packed
PORTS = struct.pack("!HH", 56324, 443)
#: The longest of addresses.
FULL = b"ffff:" * 7 + b"ffff"
LINE = b"PROXY TCP4 203.0.113.7 192.0.2.1 56324 443\r\n"


def v2(family: int = 0x11, body: bytes = V4 + PORTS, *, command: int = 0x21) -> bytes:
    return SIGNATURE + struct.pack("!BBH", command, family, len(body)) + body


def read(data: bytes, cuts: list[int] | None = None) -> tuple[Address | None, bytes]:
    """Read a header in pieces; return what it says, and what is left for others."""
    reader = ProxyReader()
    sizes = iter(cuts or [])
    while reader.needs:
        if not data:
            raise EOFError
        size = min(reader.needs, next(sizes, reader.needs))
        piece, data = data[:size], data[size:]
        reader.feed(piece)
    return reader.source, data


RIGHT: list[tuple[bytes, Address | None]] = [
    (LINE, ("203.0.113.7", 56324)),
    (b"PROXY TCP4 0.0.0.0 255.255.255.255 0 65535\r\n", ("0.0.0.0", 0)),
    (b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2\r\n", ("1.1.1.1", 1)),
    (b"PROXY TCP6 2001:DB8::7 ::1 1 2\r\n", ("2001:db8::7", 1)),
    (b"PROXY TCP6 %b %b 65535 65535\r\n" % (FULL, FULL), (FULL.decode(), 65535)),
    (b"PROXY TCP6 ::ffff:1.2.3.4 ::1 1 2\r\n", ("1.2.3.4", 1)),
    (b"PROXY UNKNOWN\r\n", None),
    (b"PROXY UNKNOWN " + b"f" * 91 + b"\r\n", None),  # 107 bytes
    (v2(), ("203.0.113.7", 56324)),
    (v2(0x21, V6 + PORTS), ("2001:db8::7", 56324)),
    (v2(body=V4 + PORTS + b"\x04\x00\x03abc"), ("203.0.113.7", 56324)),  # a TLV
    (v2(body=V4 + PORTS + bytes(4096 - 28)), ("203.0.113.7", 56324)),
    (v2(0x31, bytes(216)), None),  # the client came to the proxy by a Unix socket
    (v2(0x00, b""), None),
    (v2(0x00, b"", command=0x20), None),  # LOCAL: a health check
    (v2(0x77, b"whatever", command=0x20), None),
]


@pytest.mark.parametrize(("data", "source"), RIGHT)
def test_a_header_is_read_to_its_last_byte_and_no_further(data, source):
    assert read(data) == (source, b"")
    assert read(data + b"\x16\x03\x01 and so on") == (source, b"\x16\x03\x01 and so on")


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n",
        b"proxy TCP4 1.1.1.1 2.2.2.2 1 2\r\n",
        b"PROXY\r\n12345678",
        b"PROXY  TCP4 1.1.1.1 2.2.2.2 1 2\r\n",
        b"PROXY TCP4  1.1.1.1 2.2.2.2 1 2\r\n",
        b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2 \r\n",
        b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2 3\r\n",
        b"PROXY TCP4 1.1.1.1 2.2.2.2 1\r\n",
        b"PROXY TCP4 1.1.1.1 2.2.2.2 01 2\r\n",
        b"PROXY TCP4 1.1.1.1 2.2.2.2 1 65536\r\n",
        b"PROXY TCP4 1.1.1.1 2.2.2.2 -1 2\r\n",
        b"PROXY TCP4 1.1.1.01 2.2.2.2 1 2\r\n",
        b"PROXY TCP4 1.1.1 2.2.2.2 1 2\r\n",
        b"PROXY TCP4 1.1.1.1 2.2.2.256 1 2\r\n",
        b"PROXY TCP4 ::1 ::1 1 2\r\n",
        b"PROXY TCP6 1.1.1.1 2.2.2.2 1 2\r\n",
        b"PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n",
        b"PROXY UDP4 1.1.1.1 2.2.2.2 1 2\r\n",
        b"PROXY UNKNOWNS\r\n",
        b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2\n" + b"x" * 100,
        b"PROXY UNKNOWN " + b"f" * 92 + b"\r\n",
        b"PROXY TCP4 1.1.1.1\xff 2.2.2.2 1 2\r\n",
        b"\r\n\r\n\x00\r\nQUIT\r" + bytes(20),
        v2(command=0x11),
        v2(command=0x22),
        v2(command=0x00),
        v2(0x12),  # UDP
        v2(0x22, V6 + PORTS),
        v2(0x32, bytes(216)),
        v2(0x01, b""),
        v2(0x41, bytes(100)),
        v2(body=V4 + PORTS[:-1]),
        v2(0x21, V6 + PORTS[:-1]),
        v2(0x31, bytes(215)),
        v2(body=V4 + PORTS + bytes(4096 - 27)),
        v2(body=bytes(65535)),
        v2(0, bytes(65535), command=0x20),
    ],
)
def test_anything_else_is_refused(data):
    with pytest.raises(ProxyHeaderError):
        read(data)


def test_it_is_refused_as_soon_as_it_can_be_seen():
    for start in (b"G", b"PROXZ", b"\r\n\r\nG"):
        with pytest.raises(ProxyHeaderError):
            ProxyReader().feed(start)
    reader = ProxyReader()
    reader.feed(v2(body=bytes(5000))[:15])
    with pytest.raises(ProxyHeaderError, match="5016 bytes"):  # before any of them is read
        reader.feed(b"\x88")


def test_more_than_it_needs_is_a_fault_of_the_caller():
    with pytest.raises(RuntimeError, match="lost"):
        ProxyReader().feed(bytes(16))


@given(st.sampled_from(RIGHT), st.lists(st.integers(1, 20)), st.binary(max_size=30))
def test_it_makes_no_difference_how_it_is_cut(right, cuts, behind):
    data, source = right
    assert read(data + behind, cuts) == (source, behind)


_STARTS = st.sampled_from([b"", b"PROXY ", b"PROXY TCP4 ", LINE[:-2], SIGNATURE, v2()[:16]])


@given(_STARTS, st.binary(max_size=200), st.lists(st.integers(1, 20)))
def test_any_bytes_end_in_a_header_a_refusal_or_the_want_of_more(start, data, cuts):
    try:
        source, _ = read(start + data, cuts)
    except (ProxyHeaderError, EOFError):
        return
    if source is not None:
        ipaddress.ip_address(source[0])
        assert 0 <= source[1] <= 65535


@given(st.integers(0, 5000), st.sampled_from([b"PROXY UNKNOWN ", SIGNATURE]))
def test_it_never_holds_more_than_its_bound(size, start):
    reader, fed = ProxyReader(), 0
    data = start + b"\x20" * size
    try:
        while reader.needs and fed < len(data):
            piece = data[fed : fed + reader.needs]
            reader.feed(piece)
            fed += len(piece)
    except ProxyHeaderError:
        pass
    assert fed <= (107 if start.startswith(b"PROXY") else 4096)


# Servers.


@pytest.fixture
def clock() -> MockClock:
    return virtual_clock()


BEHIND = TrustedProxies(["127.0.0.1"], proxy_protocol=True)


async def tell(ws: trioweb.WebSocket) -> None:
    """Say who the client is, and echo."""
    await ws.send(repr((ws.request.client_address, ws.remote_address)))
    async for message in ws:
        await ws.send(message)


async def told(peer: Peer) -> str:
    """Shake hands behind what is sent already, talk, and return what the handler told."""
    assert (await peer.answer()).status == 101
    first = await peer.frame()
    assert await peer.frame() == (TEXT, b"at once", True, None)
    await peer.send(close_frame(1000))
    assert [one.close for one in await peer.last_frames()] == [(1000, "")]
    return first.payload.decode()


@pytest.mark.parametrize(("data", "source"), RIGHT)
async def test_the_client_is_who_the_header_says_and_nothing_behind_it_is_lost(data, source):
    async with (
        serving(tell, proxies=BEHIND, authenticate=None) as server,
        dialling(server) as peer,
    ):
        assert isinstance(peer.stream, trio.SocketStream)
        ours = peer.stream.socket.getsockname()
        await peer.send(data, asking(), frame(TEXT, "at once"))
        assert await told(peer) == repr((source or ours, ours))


@pytest.mark.parametrize(
    ("data", "client"),
    [
        (LINE, "('203.0.113.7', 56324)"),
        (v2(), "('203.0.113.7', 56324)"),
        (v2(0, b"", command=0x20), "('127.0.0.1', "),
    ],
)
async def test_it_comes_before_tls(data, client, server_tls, client_tls):
    async with (
        serving(tell, proxies=BEHIND, authenticate=None, ssl_context=server_tls) as server,
        dialling(server) as plain,
    ):
        await plain.send(data)
        peer = Peer(trio.SSLStream(plain.stream, client_tls, server_hostname="localhost"))
        await peer.send(asking(), frame(TEXT, "at once"))
        assert (await told(peer)).startswith(f"({client}")


async def test_it_comes_before_the_tls_of_a_listener(server_tls, client_tls):
    tcp = await trio.open_tcp_listeners(0, host="127.0.0.1")
    listeners = [trio.SSLListener(each, server_tls) for each in tcp]
    async with (
        serving(tell, proxies=BEHIND, authenticate=None, listeners=listeners) as server,
        dialling(server) as plain,
    ):
        await plain.send(v2())
        peer = Peer(trio.SSLStream(plain.stream, client_tls, server_hostname="localhost"))
        await peer.send(asking(), frame(TEXT, "at once"))
        assert (await told(peer)).startswith("(('203.0.113.7', 56324)")


async def test_the_fast_transport_is_used_behind_it():
    async def kind(ws: trioweb.WebSocket) -> None:
        await ws.send(type(ws._life.transport).__name__)

    async with (
        serving(kind, proxies=BEHIND, authenticate=None) as server,
        dialling(server) as peer,
    ):
        await peer.send(LINE, asking())
        assert (await peer.answer()).status == 101
        assert (await peer.frame()).payload == b"SocketTransport"


@pytest.mark.parametrize(
    "data", [asking(), b"PROXY TCP4 x\r\n" + asking(), v2(0x12) + asking(), b"\x16\x03\x01"]
)
async def test_who_sends_none_is_cut_with_a_line_in_the_log(data, caplog):
    caplog.set_level(logging.INFO, "trioweb")
    async with serving(tell, proxies=BEHIND, authenticate=None) as server:
        async with dialling(server) as peer:
            await peer.send(data)
            assert await peer.rest() == b""
        async with dialling(server) as peer:  # others are served
            await peer.send(LINE, asking(), frame(TEXT, "at once"))
            await told(peer)
    assert [one.message for one in caplog.records if "PROXY" in one.message] != []
    assert all(one.levelno == logging.INFO for one in caplog.records)


async def test_nobody_else_is_believed(caplog):
    caplog.set_level(logging.INFO, "trioweb")
    others = TrustedProxies(["10.0.0.0/8", "::1", "unix"], proxy_protocol=True)
    async with (
        serving(tell, proxies=others, authenticate=None) as server,
        dialling(server) as peer,
    ):
        await peer.send(LINE, asking())
        assert await peer.rest() == b""
    _, line = caplog.messages  # the first says that it serves
    assert line.endswith("not a trusted proxy")


async def test_a_header_comes_within_the_handshakes_deadline(clock, caplog):
    caplog.set_level(logging.INFO, "trioweb")
    before = tasks()
    async with serving(
        tell, proxies=BEHIND, authenticate=None, timeouts=Timeouts(handshake=5)
    ) as server:
        await trio.testing.wait_all_tasks_blocked()
        idle = tasks()
        async with dialling(server) as silent, dialling(server) as half:
            start = trio.current_time()
            await half.send(LINE[:-1])
            assert await silent.rest() == await half.rest() == b""
            await trio.testing.wait_all_tasks_blocked()
            assert trio.current_time() - start == pytest.approx(5)
        assert tasks() == idle
    assert tasks() == before
    _, *lines = caplog.messages  # the first says that it serves
    assert [line.rpartition(": ")[2] for line in lines] == ["handshake timeout"] * 2


async def test_a_peer_that_leaves_before_its_header_is_no_trouble(caplog):
    caplog.set_level(logging.INFO, "trioweb")
    async with serving(tell, proxies=BEHIND, authenticate=None) as server:
        async with dialling(server) as peer:
            await peer.send(LINE[:10])
        async with dialling(server) as peer:
            await peer.send(LINE, asking(), frame(TEXT, "at once"))
            await told(peer)
    assert "left before its PROXY header" in caplog.text


async def test_a_header_of_http_behind_it_is_believed_if_the_client_it_names_is_trusted():
    async def client(ws: trioweb.WebSocket) -> None:
        await ws.send(repr(ws.request.client_address))

    both = TrustedProxies(["127.0.0.1", "203.0.113.0/24"], header="Forwarded", proxy_protocol=True)
    says = {"Forwarded": 'for="[2001:db8::9]:5"'}
    stranger = b"PROXY TCP4 198.51.100.1 192.0.2.1 56324 443\r\n"
    async with serving(client, proxies=both, authenticate=None) as server:
        for line, expected in [
            (LINE, "('2001:db8::9', 5)"),
            (stranger, "('198.51.100.1', 56324)"),
            (b"PROXY UNKNOWN\r\n", "('2001:db8::9', 5)"),
        ]:
            async with dialling(server) as peer:
                await peer.send(line, asking("/", says))
                assert (await peer.answer()).status == 101
                assert (await peer.frame()).payload.decode() == expected
