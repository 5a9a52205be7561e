"""TLS on the server: the handshake and its deadline, ALPN, listeners that bring their own."""

from __future__ import annotations

import logging
import socket
import ssl
import weakref

import pytest
import trio
import trio.testing
import trustme
from trio.testing import MockClock

import trioweb
from tests.helpers import (
    TEXT,
    asking,
    dialling,
    echo,
    frame,
    guard,
    serving,
    tasks,
    upgraded,
    virtual_clock,
)
from trioweb import Timeouts
from trioweb.tls import TlsTransport
from trioweb.transport import SocketTransport


@pytest.fixture
def clock() -> MockClock:
    return virtual_clock()


def client_context(ca: trustme.CA, *protocols: str) -> ssl.SSLContext:
    context = ssl.create_default_context()
    ca.configure_trust(context)
    if protocols:
        context.set_alpn_protocols(list(protocols))
    return context


def server_context(ca: trustme.CA, *protocols: str) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ca.issue_cert("localhost", "127.0.0.1").configure_cert(context)
    if protocols:
        context.set_alpn_protocols(list(protocols))
    return context


def hello(context: ssl.SSLContext) -> bytes:
    """Return the first bytes of a client."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


async def shaken(
    client_tls: ssl.SSLContext, server_tls: ssl.SSLContext
) -> tuple[TlsTransport, TlsTransport, SocketTransport]:
    """Return both ends of a connection, and what is below the server's."""
    one, other = map(SocketTransport, socket.socketpair())
    client = TlsTransport(one, client_tls, server_hostname="localhost")
    server = TlsTransport(other, server_tls, server_side=True)
    with guard():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.do_handshake)
            nursery.start_soon(server.do_handshake)
    return client, server, other


async def talk(server: trioweb.Server, context: ssl.SSLContext) -> None:
    async with upgraded(server, tls=context, behind=frame(TEXT, "x")) as peer:
        assert (await peer.frame()).payload == b"x"


# The deadline.


@pytest.mark.parametrize("listener", [False, True])
@pytest.mark.parametrize("said", ["nothing", "half", "drop by drop"])
async def test_a_peer_that_does_not_come_to_the_point_is_cut(
    clock, caplog, server_tls, client_tls, listener, said
):
    caplog.set_level(logging.INFO, "trioweb")
    options: trioweb.ServerOptions = {"timeouts": Timeouts(handshake=5), "heartbeat": None}
    if listener:
        tcp = await trio.open_tcp_listeners(0, host="127.0.0.1")
        options["listeners"] = [trio.SSLListener(each, server_tls) for each in tcp]
    else:
        options["ssl_context"] = server_tls
    data = hello(client_tls)
    async with serving(**options) as server:
        await trio.testing.wait_all_tasks_blocked()
        idle = tasks()
        async with dialling(server) as peer, trio.open_nursery() as nursery:
            start = trio.current_time()

            async def drip() -> None:
                for at in range(len(data) - 1):
                    await trio.sleep(0.4)
                    try:
                        await peer.send(data[at : at + 1])
                    except trio.BrokenResourceError:
                        return

            if said == "half":
                await peer.send(data[:100])
            elif said == "drop by drop":
                nursery.start_soon(drip)
            assert await peer.rest() == b""
            assert trio.current_time() - start == pytest.approx(5)
        await trio.testing.wait_all_tasks_blocked()
        assert tasks() == idle
        await talk(server, client_tls)
    (line,) = [one.message for one in caplog.records if "timeout" in one.message]
    assert "handshake timeout" in line


async def test_a_request_must_come_in_what_is_left_of_the_deadline(clock, server_tls, client_tls):
    timeouts = Timeouts(handshake=5)
    async with (
        serving(ssl_context=server_tls, timeouts=timeouts, heartbeat=None) as server,
        dialling(server, tls=client_tls) as peer,
    ):
        start = trio.current_time()
        await trio.sleep(3)
        await peer.send(asking()[:20])
        assert await peer.rest() == b""
        assert trio.current_time() - start == pytest.approx(5)


# ALPN (RFC 7301).


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ([], []),
        ([], ["http/1.1"]),
        ([], ["h2", "http/1.1"]),
        (["http/1.1"], []),
        (["http/1.1"], ["http/1.1"]),
        (["http/1.1"], ["h2", "http/1.1"]),
        (["h2", "http/1.1"], []),
        (["h2", "http/1.1"], ["http/1.1"]),
    ],
)
async def test_http_1_1_is_spoken_to_who_offers_it_or_nothing(ca, ours, theirs):
    async with serving(ssl_context=server_context(ca, *ours)) as server:
        await talk(server, client_context(ca, *theirs))


async def test_a_context_that_prefers_another_protocol_is_cut_before_it_is_misunderstood(
    ca, caplog
):
    caplog.set_level(logging.INFO, "trioweb")
    async with serving(ssl_context=server_context(ca, "h2", "http/1.1")) as server:
        async with dialling(server, tls=client_context(ca, "h2")) as peer:
            await peer.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
            assert await peer.rest() == b""
        await talk(server, client_context(ca, "http/1.1"))
    assert "another protocol" in caplog.text


@pytest.mark.parametrize("ours", [(), ("http/1.1",)])
async def test_http_2_without_agreement_is_answered_with_505(ca, ours):
    async with (
        serving(ssl_context=server_context(ca, *ours)) as server,
        dialling(server, tls=client_context(ca, "h2")) as peer,
    ):
        await peer.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        assert (await peer.answer()).status == 505
        assert await peer.rest() == b""


async def test_the_context_of_the_user_is_left_as_it_is(ca):
    context = server_context(ca)
    before = {name: getattr(context, name) for name in dir(context) if name.islower()}
    async with serving(ssl_context=context) as server, dialling(server) as plain:
        tls = trio.SSLStream(
            plain.stream, client_context(ca, "http/1.1"), server_hostname="localhost"
        )
        await tls.do_handshake()
        assert tls.selected_alpn_protocol() is None
    values = {name: value for name, value in before.items() if not callable(value)}
    assert values
    assert all(getattr(context, name) == value for name, value in values.items())


# The wrong one of the two.


async def test_tls_to_a_plain_port_is_answered_at_once(client_tls, caplog):
    caplog.set_level(logging.INFO, "trioweb")
    async with serving() as server, dialling(server) as peer:
        await peer.send(hello(client_tls))
        assert (await peer.answer()).status == 400
        assert await peer.rest() == b""
    assert "answered 400" in caplog.text


async def test_no_tls_is_cut_at_once_and_the_log_says_why(server_tls, client_tls, caplog):
    caplog.set_level(logging.INFO, "trioweb")
    async with serving(ssl_context=server_tls) as server:
        async with dialling(server) as peer:
            await peer.send(asking())
            assert b"HTTP" not in await peer.rest()
        await talk(server, client_tls)
    (line,) = [one.message for one in caplog.records if "left during" in one.message]
    assert "HTTP_REQUEST" in line.upper().replace(" ", "_")


async def test_a_certificate_that_the_client_refuses_ends_that_connection_only(
    server_tls, client_tls, caplog
):
    caplog.set_level(logging.INFO, "trioweb")
    async with serving(ssl_context=server_tls) as server:
        with pytest.raises(trio.BrokenResourceError):
            async with dialling(server, tls=ssl.create_default_context()) as peer:
                await peer.send(asking())
        await talk(server, client_tls)
    assert not [one for one in caplog.records if one.levelno >= logging.WARNING]


# Listeners, sockets, requests.


async def test_a_listener_may_bring_its_own_tls(server_tls, client_tls):
    tcp = await trio.open_tcp_listeners(0, host="127.0.0.1")
    listeners = [trio.SSLListener(each, server_tls) for each in tcp]
    async with serving(listeners=listeners, host="localhost") as server:
        assert server.url.startswith("wss://localhost:")
        await talk(server, client_tls)
        async with dialling(server, tls=client_tls) as peer:
            await peer.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert (await peer.answer()).status == 426
            assert await peer.rest() == b""


@pytest.mark.parametrize("tls", [False, True])
async def test_the_handler_sees_whether_the_client_came_by_tls(tls, server_tls, client_tls):
    async def tell(ws: trioweb.WebSocket) -> None:
        await ws.send(ws.request.scheme)

    async with (
        serving(tell, ssl_context=server_tls if tls else None) as server,
        upgraded(server, tls=client_tls if tls else None) as peer,
    ):
        assert (await peer.frame()).payload == (b"https" if tls else b"http")


@pytest.mark.parametrize("tls", [False, True])
async def test_small_frames_do_not_wait_for_company(tls, server_tls, client_tls, monkeypatch):
    """TCP_NODELAY is set on what is accepted."""
    seen = []
    real = trio.SocketListener.accept

    async def accept(listener: trio.SocketListener) -> trio.SocketStream:
        stream = await real(listener)
        seen.append(stream.socket.dup())
        return stream

    monkeypatch.setattr(trio.SocketListener, "accept", accept)
    async with (
        serving(echo, ssl_context=server_tls if tls else None) as server,
        upgraded(server, tls=client_tls if tls else None, behind=frame(TEXT, "x")) as peer,
    ):
        assert (await peer.frame()).payload == b"x"
        (sock,) = seen
        with sock:
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0


async def test_a_page_that_came_without_tls_is_a_stranger_on_tls(server_tls, client_tls):
    async with serving(ssl_context=server_tls) as server:
        for origin, status in (("https://localhost", 101), ("http://localhost", 403)):
            async with dialling(server, tls=client_tls) as peer:
                await peer.send(asking("/", {"Origin": origin}))
                assert (await peer.answer()).status == status


async def test_many_may_shake_hands_at_once(server_tls, client_tls):
    async with serving(ssl_context=server_tls) as server, trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(talk, server, client_tls)


async def test_bytes_of_the_peer_are_not_in_the_log(server_tls, caplog):
    caplog.set_level(logging.INFO, "trioweb")
    async with serving(ssl_context=server_tls) as server, dialling(server) as peer:
        await peer.send(b"\x16\x03\x01\x00\x20secret secret secret secret secret\n\x1b[31m")
        await peer.rest()
    assert "left during the handshake" in caplog.text
    assert "secret" not in caplog.text


@pytest.mark.parametrize("together", [True, False])
async def test_a_goodbye_right_behind_the_last_bytes_is_an_end(server_tls, client_tls, together):
    """The peer waits for ours then, and others hang for ten seconds if it does not come."""
    client, server, _ = await shaken(client_tls, server_tls)
    with guard():
        assert server.write_nowait(b"the last") == 8
        if not together:
            assert await client.read(100) == b"the last"
        server._say_goodbye()
        server._push()
        if together:
            assert await client.read(100) == b"the last"
        for _ in range(2):
            assert await client.read(100) == b""
        client.close()
        assert await server.read(100) == b""
        server.close()


async def test_what_is_no_tls_behind_tls_breaks_the_link_behind_what_came_before(
    server_tls, client_tls
):
    client, server, raw = await shaken(client_tls, server_tls)
    with guard():
        assert server.write_nowait(b"right") == 5
        assert raw.write_nowait(b"\x17\x03\x03\x00\x20" + bytes(32)) == 37
        assert await client.read(100) == b"right"
        for _ in range(2):
            with pytest.raises(trio.BrokenResourceError):
                await client.read(100)
        server.close()
        client.close()
        with pytest.raises(trio.ClosedResourceError):
            client.read_nowait(1)


async def test_records_without_data_do_not_hold_up_others(ca, client_tls):
    """A peer may send them faster than we can read: one read takes one portion of them."""
    context = server_context(ca)
    context.num_tickets = 400  # of some 250 bytes
    client, server, _ = await shaken(client_tls, context)
    with guard():
        assert server.write_nowait(b"behind them") == 11
        assert client.read_nowait(100) is None
        assert await client.read(100) == b"behind them"
        client.close()
        server.close()


async def test_a_peer_that_never_takes_what_tls_answers_is_cut(server_tls, client_tls):
    """It asks for new keys again and again, say; the answers are not kept for ever."""
    client, server, _ = await shaken(client_tls, server_tls)

    def ask_again() -> None:
        for _ in range(1000):
            client._outgoing.write(bytes(2**12))  # as OpenSSL does within a read
            client.read_nowait(1)

    with pytest.raises(trio.BrokenResourceError, match="takes nothing"):
        ask_again()
    client.close()
    server.close()


async def test_a_peer_that_leaves_our_goodbye_unread_has_ended(server_tls, client_tls):
    client, server, _ = await shaken(client_tls, server_tls)
    with guard():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.linger)
            await trio.testing.wait_all_tasks_blocked()
            client.close()
        server.close()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_server_that_misses_a_certificate_says_so(ca, version):
    """In TLS 1.3 the client has shaken hands by then."""
    context = server_context(ca)
    context.verify_mode = ssl.CERT_REQUIRED
    ca.configure_trust(context)
    context.maximum_version = version
    async with serving(ssl_context=context) as server:
        with pytest.raises(trioweb.TriowebError, match=r"(?i)handshake.failure|certificate.re"):
            async with trioweb.connect(server.url, ssl_context=client_context(ca)):
                pass


async def test_a_link_that_is_no_tls_is_not_left_to_the_garbage_collector(server_tls, client_tls):
    client, server, raw = await shaken(client_tls, server_tls)
    raw.write_nowait(b"\x17\x03\x03\x00\x20" + bytes(32))
    with guard(), pytest.raises(trio.BrokenResourceError, match="MAC"):
        await client.read(100)
    server.close()
    client.close()
    gone = weakref.ref(client)
    del client
    assert gone() is None
