"""Clients: addresses, what goes wrong on the way, and what comes out of the block."""

from __future__ import annotations

import gc
import os
import socket
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest
import trio
import trio.testing
from trio.testing import MockClock

import trioweb
from tests.helpers import (
    CLOSE,
    PING,
    TEXT,
    Peer,
    accepting,
    close_frame,
    dialling,
    echo,
    forever,
    frame,
    guard,
    header,
    numeric_url,
    port_of,
    scripted,
    serving,
    tasks,
    virtual_clock,
)
from trioweb import Limits, Timeouts
from trioweb.abc import Observer


@pytest.fixture
def clock() -> MockClock:
    return virtual_clock()


async def connect_to(url: str, **options: object) -> None:
    """Connect to an address that must not lead anywhere."""
    async with trioweb.connect(url, **options):  # type: ignore[arg-type]
        raise AssertionError("the block must not run")


# Addresses.


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://localhost", "not a ws:// or wss:// URL"),
        ("localhost:80", "not a ws:// or wss:// URL"),
        ("", "not a ws:// or wss:// URL"),
        ("ws://", "no host"),
        ("ws:///path", "no host"),
        ("ws://:80/", "no host"),
        ("ws://localhost/#here", "no fragment"),
        ("ws://localhost/#", "no fragment"),
        ("ws://user:secret@localhost/", "credentials belong in headers="),
        ("ws://@localhost/", "credentials belong in headers="),
        ("ws://localhost:99999/", "port"),
        ("ws://localhost:x/", "port"),
        ("ws://[::1/", "host or the port"),
        ("ws://user:sec/ret@localhost/", "host or the port"),
        ("http://user:secret@localhost/?token=secret", "its scheme is 'http'"),
        ("ws://localhost/ü?secret", "not a request target"),
        ("ws://a b/", "not a host"),
        ("ws://localhost/a b", "not a request target"),
        ("ws://localhost/ü", "not a request target"),
        ("ws://" + "x" * 70 + ".example/", "label"),
        ("ws://" + "ü" * 70 + ".example/", "label"),
    ],
)
async def test_a_url_that_makes_no_sense_is_a_value_error(url, why):
    with guard(), pytest.raises(ValueError, match=why) as caught:
        await connect_to(url)
    assert "sec" not in str(caught.value)
    assert caught.value.__cause__ is None or "sec" not in str(caught.value.__cause__)


@pytest.mark.parametrize(
    ("url", "host", "target"),
    [
        ("ws://127.0.0.1:{}", "127.0.0.1:{}", "/"),
        ("ws://127.0.0.1:{}/", "127.0.0.1:{}", "/"),
        ("WS://127.0.0.1:{}/a/b?c=d&e=%20", "127.0.0.1:{}", "/a/b?c=d&e=%20"),
        ("ws://127.0.0.1:{}?x=1", "127.0.0.1:{}", "/?x=1"),
        ("ws://LocalHost:{}/", "localhost:{}", "/"),
    ],
)
async def test_the_host_and_the_target_of_a_url(url, host, target):
    asked = []

    async def handler(ws: trioweb.WebSocket) -> None:
        asked.append((ws.request.headers["host"], ws.request.target))

    async with serving(handler) as server:
        port = port_of(server)
        async with trioweb.connect(url.format(port)) as ws:
            assert ws.request.target == target
    assert asked == [(host.format(port), target)]


@pytest.mark.parametrize(
    ("url", "address", "host"),
    [
        ("ws://example.com/", ("example.com", 80), b"example.com"),
        ("ws://example.com:80/", ("example.com", 80), b"example.com"),
        ("ws://example.com:443/", ("example.com", 443), b"example.com:443"),
        ("ws://[::1]/", ("::1", 80), b"[::1]"),
        ("ws://[::1]:8080/", ("::1", 8080), b"[::1]:8080"),
        ("ws://bücher.example/", ("xn--bcher-kva.example", 80), b"xn--bcher-kva.example"),
    ],
)
async def test_the_port_is_that_of_the_scheme_and_then_left_out_of_host(
    monkeypatch, url, address, host
):
    ours, theirs = trio.testing.memory_stream_pair()

    async def open_tcp_stream(*where: object) -> trio.abc.Stream:
        assert where == address
        return ours

    async def answer() -> None:
        peer = Peer(theirs)
        await peer.accept()
        assert b"\r\nHost: " + host + b"\r\n" in peer.request
        await peer.send(close_frame(1000, mask=None))
        assert (await peer.frame()).close == (1000, "")
        await theirs.aclose()

    monkeypatch.setattr(trio, "open_tcp_stream", open_tcp_stream)
    with guard():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer)
            async with trioweb.connect(url) as ws:
                with pytest.raises(trioweb.EndOfChannel):
                    await ws.receive()


async def test_the_port_of_wss_is_443(monkeypatch):
    async def open_tcp_stream(*where: object) -> trio.abc.Stream:
        raise OSError(f"no way to {where}")

    monkeypatch.setattr(trio, "open_tcp_stream", open_tcp_stream)
    with pytest.raises(trioweb.ConnectFailed, match=r"no way to \('example\.com', 443\)"):
        await connect_to("wss://example.com/")


async def test_headers_and_subprotocols_go_with_the_request():
    asked: list[object] = []

    async def handler(ws: trioweb.WebSocket) -> None:
        asked.append((ws.request.headers["authorization"], ws.request.headers.get_all("x")))
        asked.append((ws.request.headers["sec-websocket-protocol"], ws.subprotocol))

    async with serving(handler, subprotocols=["chat"]) as server:
        for headers in (
            {"Authorization": "Bearer x", "X": "1"},
            [("Authorization", "Bearer x"), ("X", "1")],
        ):
            async with trioweb.connect(
                server.url, headers=headers, subprotocols=["other", "chat"]
            ) as ws:
                assert ws.subprotocol == "chat"
                assert ws.request.headers["authorization"] == "Bearer x"
                assert ws.response.status == 101
                assert ws.response.headers["Sec-WebSocket-Protocol"] == "chat"
    assert asked == [("Bearer x", ["1"]), ("other, chat", "chat")] * 2


async def test_a_header_may_be_sent_in_several_lines():
    asked = []

    async def handler(ws: trioweb.WebSocket) -> None:
        asked.append(ws.request.headers.get_all("x"))

    async with serving(handler) as server:
        lines = [("X", "1"), ("X", "2")]
        for headers in (lines, trioweb.Headers(lines)):
            async with trioweb.connect(server.url, headers=headers):
                pass
    assert asked == [["1", "2"], ["1", "2"]]


@pytest.mark.parametrize(
    "options",
    [
        {"headers": {"Sec-WebSocket-Key": "x"}},
        {"headers": {"Host": "x"}},
        {"headers": {"X": "a\r\nY: b"}},
        {"headers": {"X": "€"}},
        {"subprotocols": ["a b"]},
        {"subprotocols": ["a", "a"]},
        {"subprotocols": "chat"},
    ],
)
async def test_what_cannot_be_asked_for_is_a_value_error_before_anything_is_sent(options):
    async with serving() as server:
        with pytest.raises(ValueError, match=r"."):
            await connect_to(server.url, **options)
        assert len(server.connections) == 0


# No connection.


async def test_a_refused_port_is_connect_failed_and_an_os_error():
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    await listeners[0].aclose()
    with guard(), pytest.raises(trioweb.ConnectFailed) as caught:
        await connect_to(f"ws://127.0.0.1:{port}/")
    assert isinstance(caught.value, OSError)
    assert isinstance(caught.value.__cause__, OSError)
    assert f"127.0.0.1:{port}" in str(caught.value)


class NoNames(trio.abc.HostnameResolver):
    """A machine without a name service."""

    async def getaddrinfo(self, *_args):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    async def getnameinfo(self, *_args):
        raise NotImplementedError


async def test_a_name_that_does_not_exist_is_connect_failed():
    trio.socket.set_custom_hostname_resolver(NoNames())
    with pytest.raises(trioweb.ConnectFailed, match="not known"):
        await connect_to("ws://nowhere.invalid/")


async def test_tls_to_a_plain_server_is_connect_failed(client_tls):
    async with serving() as server:
        with pytest.raises(trioweb.ConnectFailed, match="no TLS") as caught:
            await connect_to(f"wss://localhost:{port_of(server)}", ssl_context=client_tls)
        assert isinstance(caught.value.__cause__, trio.BrokenResourceError)


async def test_a_certificate_of_an_unknown_authority_is_connect_failed(server_tls):
    async with serving(ssl_context=server_tls) as server:
        with pytest.raises(trioweb.ConnectFailed, match="certificate verify failed"):
            await connect_to(server.url)


async def test_a_certificate_for_another_name_is_connect_failed(ca, client_tls):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ca.issue_cert("elsewhere.example").configure_cert(context)
    async with serving(ssl_context=context) as server:
        with pytest.raises(trioweb.ConnectFailed, match="certificate verify failed"):
            await connect_to(server.url, ssl_context=client_tls)


async def test_a_tls_context_of_a_server_is_a_value_error_and_leaves_nothing_open(server_tls):
    async with serving(ssl_context=server_tls) as server:
        with pytest.raises(ValueError, match="ssl_context"):
            await connect_to(server.url, ssl_context=server_tls)
        await trio.testing.wait_all_tasks_blocked(0.02)
        gc.collect()  # a socket that was left open would say so now


async def test_tls_works_by_name_and_by_address(server_tls, client_tls):
    async with serving(ssl_context=server_tls) as server:
        assert server.url.startswith("wss://localhost:")
        for url in (server.url, server.url.replace("localhost", "127.0.0.1")):
            async with trioweb.connect(url, ssl_context=client_tls) as ws:
                await ws.send("secret")
                assert await ws.receive() == "secret"
                assert ws.remote_address[1] == port_of(server)
                assert ws.local_address[0] in ("127.0.0.1", "::1")


async def test_a_peer_that_hangs_up_in_tls_is_connect_failed(client_tls):
    async def hang_up(peer: Peer) -> None:
        await peer.take(5)

    async with scripted(hang_up) as url:
        with pytest.raises(trioweb.ConnectFailed, match="no TLS"):
            await connect_to(url.replace("ws:", "wss:"), ssl_context=client_tls)


async def test_the_connect_timeout_holds_for_tcp(clock, monkeypatch):
    async def open_tcp_stream(*where: object) -> trio.abc.Stream:
        await trio.sleep_forever()
        raise AssertionError

    monkeypatch.setattr(trio, "open_tcp_stream", open_tcp_stream)
    with guard(), pytest.raises(trioweb.HandshakeTimeout, match="within 3 s") as caught:
        await connect_to("ws://192.0.2.1/", timeouts=Timeouts(connect=3))
    assert isinstance(caught.value, trio.TooSlowError)
    assert trio.current_time() == pytest.approx(3)


async def silent(peer: Peer) -> None:
    """Take everything and say nothing."""
    await peer.rest()


async def test_the_connect_timeout_holds_for_tls_and_leaves_nothing_open(clock, client_tls):
    before = tasks()
    async with scripted(silent) as url:
        await trio.testing.wait_all_tasks_blocked()
        inside = tasks()
        start = trio.current_time()
        with pytest.raises(trioweb.HandshakeTimeout, match="no connection to"):
            await connect_to(
                url.replace("ws:", "wss:"), ssl_context=client_tls, timeouts=Timeouts(connect=3)
            )
        assert trio.current_time() - start == pytest.approx(3)
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert tasks() == inside
    assert tasks() == before


async def test_the_handshake_timeout(clock):
    async with scripted(silent) as url:
        start = trio.current_time()
        with pytest.raises(trioweb.HandshakeTimeout, match="no answer to the upgrade within 5 s"):
            await connect_to(url, timeouts=Timeouts(handshake=5))
        assert trio.current_time() - start == pytest.approx(5)


async def test_an_answer_that_dribbles_does_not_stretch_the_timeout(clock):
    async def dribble(peer: Peer) -> None:
        await peer.head()
        for byte in b"HTTP/1.1 101 Switching Protocols\r\nX: " + b"y" * 1000:
            await trio.sleep(1)
            try:
                await peer.send(bytes([byte]))
            except trio.BrokenResourceError:
                return

    async with scripted(dribble) as url:
        start = trio.current_time()
        with pytest.raises(trioweb.HandshakeTimeout):
            await connect_to(url)
        assert trio.current_time() - start == pytest.approx(10)


# No WebSocket.


def saying(answer: bytes) -> Callable[[Peer], Awaitable[None]]:
    async def script(peer: Peer) -> None:
        await peer.head()
        with suppress(trio.BrokenResourceError):  # the client may have heard enough
            await peer.send(answer)

    return script


async def test_a_rejection_carries_status_headers_and_body():
    answer = b"HTTP/1.1 503 Busy\r\nRetry-After: 7\r\nContent-Length: 5\r\n\r\nlater"
    async with scripted(saying(answer)) as url:
        with pytest.raises(trioweb.HandshakeRejected) as caught:
            await connect_to(url)
    error = caught.value
    assert (error.status, error.headers["retry-after"], error.body) == (503, "7", b"later")
    assert isinstance(error, trioweb.HandshakeError)


async def test_the_body_of_a_rejection_is_kept_up_to_a_limit():
    answer = b"HTTP/1.1 404 Not Found\r\n\r\n" + b"x" * 100_000
    async with scripted(saying(answer)) as url:
        with pytest.raises(trioweb.HandshakeRejected) as caught:
            await connect_to(url)
        assert caught.value.body == b"x" * 4096
        with pytest.raises(trioweb.HandshakeRejected) as caught:
            await connect_to(url, limits=Limits(max_response_body=10))
        assert caught.value.body == b"x" * 10


async def test_a_rejection_whose_body_never_ends_is_known_at_the_deadline(clock):
    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 100\r\n\r\nhalf")
        await peer.rest()

    async with scripted(script) as url:
        start = trio.current_time()
        with pytest.raises(trioweb.HandshakeRejected) as caught:
            await connect_to(url)
        assert (caught.value.status, caught.value.body) == (403, b"half")
        assert trio.current_time() - start == pytest.approx(10)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 101 Switching",
        b"220 smtp.example ESMTP\r\n\r\n",
        b"\x15\x03\x03\x00\x02\x02\x46",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        (
            b"HTTP/1.1 101 S\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: AAAAAAAAAAAAAAAAAAAAAAAAAAA=\r\n\r\n"
        ),
    ],
)
async def test_who_does_not_speak_websocket_is_invalid(answer):
    async with scripted(saying(answer)) as url:
        with pytest.raises(trioweb.HandshakeInvalid):
            await connect_to(url)


async def test_a_server_that_vanishes_in_the_handshake_is_invalid():
    async def vanish(peer: Peer) -> None:
        await peer.head()
        peer.reset()

    async with scripted(vanish) as url:
        with pytest.raises(trioweb.HandshakeInvalid, match="broke during the handshake"):
            await connect_to(url)


async def test_early_hints_are_passed_over():
    async def script(peer: Peer) -> None:
        await peer.send(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n")
        await peer.accept()
        await peer.send(frame(TEXT, "ready", mask=None))
        assert (await peer.frame()).opcode == CLOSE
        await peer.send(close_frame(1000, mask=None))

    async with scripted(script) as url, trioweb.connect(url) as ws:
        assert await ws.receive() == "ready"


async def test_a_failed_handshake_closes_the_connection():
    closed = trio.Event()

    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
        assert await peer.rest() == b""
        closed.set()

    async with scripted(script) as url:
        with pytest.raises(trioweb.HandshakeRejected):
            await connect_to(url)
        await closed.wait()


@pytest.mark.parametrize(
    ("rest", "body"),
    [
        (b"Transfer-Encoding: chunked\r\n\r\n2\r\nno\r\n4; x=y\r\n way\r\n0\r\n\r\n", b"no way"),
        (b"Transfer-Encoding: chunked\r\n\r\n2\r\nno\r\nhuh", b"no"),
        (b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\na\r\n" * 9000, b"a" * 4096),
        (b"\r\nup to the end", b"up to the end"),
        (b"Content-Length: 6\r\n\r\nno", b"no"),
        (b"Content-Length: 2\r\n\r\nno way", b"no"),
        (b"Content-Length: 0\r\n\r\n", b""),
    ],
)
@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
async def test_the_body_of_a_rejection_however_it_is_framed(rest, body, version):
    async with scripted(saying(b"HTTP/" + version + b" 401 Who?\r\n" + rest)) as url:
        with pytest.raises(trioweb.HandshakeRejected) as caught:
            await connect_to(url)
    assert (caught.value.status, caught.value.body) == (401, body)


async def test_the_message_of_a_rejection_is_one_line_whatever_the_server_wrote():
    body = b"<html>\r\n  <b>\x1b[2J no\x00\x7f</b>\xe2\x80\xa8way"
    async with scripted(saying(b"HTTP/1.1 403 x\r\n\r\n" + body)) as url:
        with pytest.raises(trioweb.HandshakeRejected) as caught:
            await connect_to(url)
    assert str(caught.value) == "server answered 403: <html> <b>\ufffd[2J no\ufffd\ufffd</b> way"
    assert caught.value.body == body


async def test_interim_answers_without_end_are_invalid():
    async def script(peer: Peer) -> None:
        await peer.head()
        with suppress(trio.BrokenResourceError):
            while True:
                await peer.send(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 10)

    async with scripted(script) as url:
        with pytest.raises(trioweb.HandshakeInvalid, match="too large"):
            await connect_to(url)


@pytest.mark.parametrize(
    "interim",
    [b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 x\r\nLink: </x>\r\n\r\n" * 3],
)
async def test_a_rejection_behind_interim_answers_is_one(interim):
    async with scripted(saying(interim + b"HTTP/1.1 404 x\r\nContent-Length: 0\r\n\r\n")) as url:
        with pytest.raises(trioweb.HandshakeRejected) as caught:
            await connect_to(url)
    assert caught.value.status == 404


@pytest.mark.parametrize(
    "headers",
    [
        "Content-Length: 10\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Connection: keep-alive\r\n",
        "Set-Cookie: a=b\r\nSet-Cookie: c=d\r\n",
    ],
)
async def test_a_101_has_no_body_whatever_it_says(headers):
    async def script(peer: Peer) -> None:
        await peer.accept(headers, behind=frame(TEXT, "ready", mask=None))  # RFC 9112, 6.3
        assert (await peer.frame()).opcode == CLOSE
        await peer.send(close_frame(1000, mask=None))

    async with scripted(script) as url, trioweb.connect(url) as ws:
        assert await ws.receive() == "ready"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"Upgrade: websocket", b"UPGRADE:\t WebSocket \t"),
        (b"Connection: Upgrade", b"connection:upgrade"),
        (b"Connection: Upgrade", b"Connection: keep-alive\r\nConnection: foo, UPGRADE"),
        (b"Sec-WebSocket-Accept: ", b"sec-websocket-accept: \t  "),
        (b"\r\n\r\n", b" \t \r\n\r\n"),  # behind the accept token (RFC 6455, 4.1)
        (b"\r\n", b"\n"),
        (b" Switching Protocols", b" "),
        (b" Switching Protocols", b" \xc3\xa9t\xc3\xa9"),
    ],
)
async def test_an_unusual_101_is_taken(old, new):
    async def script(peer: Peer) -> None:
        key = (await peer.head()).split(b"Sec-WebSocket-Key: ")[1].split(b"\r\n")[0]
        answer = accepting(key.decode())
        assert old in answer
        await peer.send(answer.replace(old, new))
        assert (await peer.frame()).opcode == CLOSE
        await peer.send(close_frame(1000, mask=None))

    async with scripted(script) as url, trioweb.connect(url) as ws:
        assert ws.subprotocol is None


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        (b"HTTP/1.1", b"HTTP/1.0", "another HTTP"),
        (b"Upgrade: websocket", b"Upgrade: websocket, h2c", "Upgrade is not"),
        (b"Upgrade: websocket\r\n", b"", "Upgrade is not"),
        (b"Connection: Upgrade", b"Connection: close", "does not list"),
        (b"\r\n\r\n", b"x\r\n\r\n", "does not match the key"),
        (b"\r\n\r\n", b"\r\nSec-WebSocket-Protocol: b\r\n\r\n", "subprotocol"),
        (b"\r\n\r\n", b"\r\nSec-WebSocket-Protocol: A\r\n\r\n", "subprotocol"),
        (b"\r\n\r\n", b"\r\nSec-WebSocket-Extensions: x-other\r\n\r\n", "extension"),
    ],
)
async def test_a_101_that_is_wrong_is_invalid_and_the_connection_is_closed(old, new, why):
    ended = trio.Event()

    async def script(peer: Peer) -> None:
        key = (await peer.head()).split(b"Sec-WebSocket-Key: ")[1].split(b"\r\n")[0]
        await peer.send(accepting(key.decode()).replace(old, new, 1))
        assert await peer.rest() == b""
        ended.set()

    async with scripted(script) as url:
        with pytest.raises(trioweb.HandshakeInvalid, match=why):
            await connect_to(url, subprotocols=["a"])
        await ended.wait()


# The stream below.


class Watch:
    """Stands in for `trio.open_tcp_stream`, and keeps a second hand on its sockets."""

    def __init__(self) -> None:
        self.sockets: list[socket.socket] = []
        self._open = trio.open_tcp_stream

    async def __call__(self, host: str, port: int) -> trio.SocketStream:
        stream = await self._open(host, port)
        self.sockets.append(socket.socket(fileno=os.dup(stream.socket.fileno())))
        return stream


async def test_small_frames_do_not_wait_for_others_to_go_with(monkeypatch, server_tls, client_tls):
    watch = Watch()
    monkeypatch.setattr(trio, "open_tcp_stream", watch)
    async with (
        serving() as plain,
        serving(ssl_context=server_tls) as secure,
        trioweb.connect(plain.url),
        trioweb.connect(secure.url, ssl_context=client_tls),
    ):
        for one in watch.sockets:
            with one:
                assert one.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
    assert len(watch.sockets) == 2


async def test_tls_asks_for_http_1_1_unless_the_context_is_the_users(
    monkeypatch, ca, server_tls, client_tls
):
    chosen: list[str | None] = []
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ca.issue_cert("localhost").configure_cert(context)
    context.set_alpn_protocols(["h2", "http/1.1"])

    async def serve(stream: trio.abc.Stream) -> None:
        tls = trio.SSLStream(stream, context, server_side=True, https_compatible=True)
        peer = Peer(tls)
        await peer.accept()
        chosen.append(tls.selected_alpn_protocol())
        assert (await peer.frame()).opcode == CLOSE
        await peer.send(close_frame(1000, mask=None))
        await tls.aclose()

    async with scripted(lambda peer: serve(peer.stream)) as where:
        url = where.replace("ws://127.0.0.1", "wss://localhost")
        async with trioweb.connect(url, ssl_context=client_tls):
            pass

        def make() -> ssl.SSLContext:  # the default context, but for whom it trusts
            made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            ca.configure_trust(made)
            return made

        monkeypatch.setattr(ssl, "create_default_context", make)
        async with trioweb.connect(url):
            pass
    assert chosen == [None, "http/1.1"]


async def test_a_unix_socket(tmp_path):
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(path)
        bound.listen()
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(bound.dup()))
    async with serving(echo, listeners=[listener]) as server:
        assert len(server.listeners) == 1
        stream = await trio.open_unix_socket(path)
        async with trioweb.connect("ws://localhost/path", stream=stream) as ws:
            assert ws.request.headers["Host"] == "localhost"
            assert (ws.local_address, ws.remote_address) == ("", path)
            for message in ("hi", bytes(2**20)):
                await ws.send(message)
                assert await ws.receive() == message


async def test_tls_by_address_to_a_server_known_by_name(server_tls, client_tls):
    async with serving(echo, ssl_context=server_tls) as server:
        tcp = await trio.open_tcp_stream("127.0.0.1", port_of(server))
        stream = trio.SSLStream(tcp, client_tls, server_hostname="localhost", https_compatible=True)
        async with trioweb.connect("wss://localhost/", stream=stream) as ws:
            await ws.send("hi")
            assert await ws.receive() == "hi"


# A connection.


async def test_frames_behind_the_handshake_are_kept():
    async def script(peer: Peer) -> None:
        frames = frame(TEXT, "eager", mask=None) + frame(TEXT, "beaver", mask=None)
        await peer.accept(behind=frames + close_frame(1000, mask=None))
        await peer.frame()

    async with scripted(script) as url, trioweb.connect(url) as ws:
        assert [message async for message in ws] == ["eager", "beaver"]
        assert ws.closed == trioweb.Close(1000, by_peer=True)


async def test_a_normal_exit_closes_with_1000_and_waits_for_the_server():
    seen: list[object] = []

    async def script(peer: Peer) -> None:
        await peer.accept()
        last = await peer.frame()
        assert last.mask is not None
        seen.append(last.close)
        await peer.send(close_frame(1000, mask=None))
        # The server closes TCP first (RFC 6455, 7.1.1): the client says nothing more till then.
        with trio.move_on_after(0.05):
            seen.append(await peer.rest())
        seen.append("closing")

    async with scripted(script) as url:
        async with trioweb.connect(url):
            pass
        assert seen == [(1000, ""), "closing"]


async def test_a_normal_exit_is_bounded_by_the_close_timeout(clock):
    async def script(peer: Peer) -> None:
        await peer.accept()
        await peer.rest()

    async with scripted(script) as url:
        async with trioweb.connect(url, timeouts=Timeouts(close=4), heartbeat=None):
            start = trio.current_time()
        assert trio.current_time() - start == pytest.approx(4)


class Boom(Exception):
    pass


@pytest.mark.parametrize("error", [Boom(), KeyboardInterrupt(), ExceptionGroup("x", [Boom()])])
async def test_what_the_block_raises_comes_out_as_it_is_and_1001_goes_out(error, clock):
    seen: list[object] = []
    before = tasks()

    async def script(peer: Peer) -> None:
        await peer.accept()
        seen.extend((await peer.last_frames())[0].close)

    async with scripted(script) as url:
        await trio.testing.wait_all_tasks_blocked()
        inside = tasks()
        start = trio.current_time()
        with pytest.raises(type(error)) as caught:
            async with trioweb.connect(url):
                raise error
        assert caught.value is error
        assert trio.current_time() == start
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert tasks() == inside
    assert tasks() == before
    assert seen == [1001, ""]


async def test_a_cancelled_block_sends_1001_and_does_not_wait(clock):
    seen: list[object] = []

    async def script(peer: Peer) -> None:
        await peer.accept()
        seen.extend((await peer.last_frames())[0].close)

    async with scripted(script) as url:
        with trio.move_on_after(1) as scope:
            async with trioweb.connect(url):
                await trio.sleep_forever()
        assert scope.cancelled_caught
        await trio.testing.wait_all_tasks_blocked(0.05)
    assert seen == [1001, ""]


async def test_a_broken_server_is_told_so_and_the_client_hears_why():
    seen: list[object] = []

    async def script(peer: Peer) -> None:
        await peer.accept(behind=header(TEXT, 2**62, masked=False))
        seen.extend((await peer.frame()).close)

    async with scripted(script) as url, trioweb.connect(url) as ws:
        with pytest.raises(trioweb.ConnectionBroken) as caught:
            await ws.receive()
        assert caught.value.code == 1009
        assert not caught.value.close.by_peer
    assert seen[0] == 1009


async def test_a_client_answers_pings_and_masks_its_answer():
    async def script(peer: Peer) -> None:
        await peer.accept(behind=frame(PING, b"?", mask=None))
        pong = await peer.frame()
        assert (pong.opcode, pong.payload) == (0xA, b"?")
        assert pong.mask is not None
        await peer.send(close_frame(4001, "enough", mask=None))
        assert (await peer.frame()).close == (4001, "")

    async with scripted(script) as url, trioweb.connect(url) as ws:
        with pytest.raises(trioweb.ConnectionBroken) as caught:
            await ws.receive()
        assert (caught.value.code, caught.value.reason) == (4001, "enough")


async def test_a_stream_of_ones_own_is_used_and_closed():
    ours, theirs = trio.testing.memory_stream_pair()

    async def script() -> None:
        peer = Peer(theirs)
        await peer.accept()
        assert b"\r\nHost: nowhere.example:99\r\n" in peer.request
        assert (await peer.frame()).payload == b"hi"
        assert (await peer.frame()).close == (1000, "")
        await peer.send(close_frame(1000, mask=None))
        await theirs.send_stream.aclose()
        assert await peer.rest() == b""

    with guard():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(script)
            async with trioweb.connect("ws://nowhere.example:99/", stream=ours) as ws:
                assert ws.local_address is None
                await ws.send("hi")
        with pytest.raises(trio.ClosedResourceError):
            await ours.send_all(b"x")


async def test_a_tcp_stream_of_ones_own_may_be_given():
    async with serving() as server:
        stream = await trio.open_tcp_stream("127.0.0.1", port_of(server))
        async with trioweb.connect("ws://elsewhere.example/", stream=stream) as ws:
            await ws.send("hi")
            assert await ws.receive() == "hi"


async def test_observers_of_a_client_see_its_life():
    seen: list[object] = []

    class Notes(Observer):
        def opened(self, connection):
            seen.append(("opened", connection.id))

        def ended(self, connection, close):
            seen.append(("ended", connection.id, close.code))

    async with serving(forever) as server, trioweb.connect(server.url, observers=[Notes()]) as ws:
        pass
    assert seen == [("opened", ws.id), ("ended", ws.id, 1000)]


async def test_many_clients_at_once():
    async def talk(number: int) -> None:
        async with trioweb.connect(server.url) as ws:
            for count in range(5):
                await ws.send(f"{number} {count}")
                assert await ws.receive() == f"{number} {count}"
        done.append(number)

    done: list[int] = []
    async with serving(echo) as server, trio.open_nursery() as nursery:
        for number in range(50):
            nursery.start_soon(talk, number)
    assert sorted(done) == list(range(50))


async def test_the_numeric_url_of_the_helpers_leads_to_the_server():
    async with serving() as server, dialling(server) as peer:
        assert isinstance(peer.stream, trio.SocketStream)
        async with trioweb.connect(numeric_url(server, "/x")) as ws:
            assert ws.remote_address == peer.stream.socket.getpeername()
