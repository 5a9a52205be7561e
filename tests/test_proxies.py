"""Proxies: HTTP CONNECT and SOCKS5, by hand on real sockets, in memory, and real ones."""

from __future__ import annotations

import base64
import gc
import shutil
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import trio
import trio.testing
from trio.testing import MockClock

import trioweb
from tests.conftest import missing
from tests.helpers import (
    Peer,
    echo,
    guard,
    numeric_url,
    port_of,
    scripted,
    serving,
    tasks,
)
from tests.helpers import virtual_clock as make_clock
from tests.programs import free_port, running
from trioweb import Limits, Proxy, Timeouts
from trioweb.addresses import Address, choose_proxy
from trioweb.host import current_host
from trioweb.testing import VirtualNetwork


@pytest.fixture
def clock() -> MockClock:
    return make_clock()


# Proxies by hand.


async def pump(source: trio.abc.Stream, target: trio.abc.Stream) -> None:
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        async for data in source:
            await target.send_all(data)
        if isinstance(target, trio.abc.HalfCloseableStream):
            await target.send_eof()
        else:
            await target.aclose()


async def splice(one: trio.abc.Stream, other: trio.abc.Stream) -> None:
    """Carry bytes both ways until both have ended."""
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pump, one, other)
            nursery.start_soon(pump, other, one)
    finally:
        await trio.aclose_forcefully(other)


class HttpProxy:
    """Answers CONNECT, and asks for these credentials if there are any."""

    def __init__(self, credentials: str = "", *, before: bytes = b"", ok: bytes = b"200 OK"):
        self.credentials = credentials
        self.before = before
        self.ok = ok
        self.asked: list[bytes] = []

    async def __call__(self, stream: trio.abc.Stream) -> None:
        peer = Peer(stream)
        try:
            head = await peer.head()
        except (EOFError, trio.BrokenResourceError):
            return  # no TLS with us, say
        self.asked.append(head)
        token = base64.b64encode(self.credentials.encode())
        if self.credentials and b"\r\nProxy-Authorization: Basic " + token + b"\r\n" not in head:
            await peer.send(
                b'HTTP/1.1 407 Who?\r\nProxy-Authenticate: Basic realm="x"\r\n'
                b"Content-Length: 3\r\n\r\nno\n"
            )
            return
        host, _, port = head.split()[1].decode().rpartition(":")
        other = await current_host.get().open_stream(host.strip("[]"), int(port))
        await peer.send(self.before, b"HTTP/1.1 ", self.ok, b"\r\n\r\n")
        await splice(stream, other)


class SocksProxy:
    """Speaks SOCKS5 (RFC 1928), with a user and a password if there are any (RFC 1929)."""

    def __init__(self, credentials: tuple[str, str] | None = None, *, reply: int = 0):
        self.credentials = credentials
        self.reply = reply
        self.asked: list[tuple[int, str]] = []

    async def __call__(self, stream: trio.abc.Stream) -> None:
        with suppress(EOFError):
            await self.serve(Peer(stream))

    async def serve(self, peer: Peer) -> None:
        version, count = await peer.take(2)
        methods = await peer.take(count)
        assert version == 5
        method = 2 if self.credentials else 0
        if method not in methods:
            await peer.send(b"\x05\xff")
            return
        await peer.send(bytes([5, method]))
        if self.credentials:
            assert await peer.take(1) == b"\x01"
            given = [(await peer.take((await peer.take(1))[0])).decode() for _ in range(2)]
            right = tuple(given) == self.credentials
            await peer.send(b"\x01\x00" if right else b"\x01\x01")
            if not right:
                return
        kind = (await peer.take(4))[3]
        size = {1: 4, 4: 16}.get(kind) or (await peer.take(1))[0]
        name = await peer.take(size)
        family = {1: socket.AF_INET, 4: socket.AF_INET6}.get(kind)
        host = name.decode() if family is None else socket.inet_ntop(family, name)
        port = int.from_bytes(await peer.take(2), "big")
        self.asked.append((kind, host))
        if self.reply:
            await peer.send(bytes([5, self.reply, 0, 1]), bytes(6))
            return
        other = await current_host.get().open_stream(host, port)
        await peer.send(b"\x05\x00\x00\x01", bytes(6))
        await splice(peer.stream, other)


@asynccontextmanager
async def listening(
    run: Callable[[trio.abc.Stream], Awaitable[object]], tls: ssl.SSLContext | None = None
) -> AsyncIterator[str]:
    """Run a proxy for the length of a block, which gets its host and port."""
    listeners: list[trio.abc.Listener[trio.abc.Stream]] = []
    listeners += await trio.open_tcp_listeners(0, host="127.0.0.1")
    assert isinstance(listeners[0], trio.SocketListener)
    port = listeners[0].socket.getsockname()[1]
    if tls is not None:
        listeners = [trio.SSLListener(listeners[0], tls, https_compatible=True)]
    with guard():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, run, listeners)
            yield f"localhost:{port}" if tls else f"127.0.0.1:{port}"
            nursery.cancel_scope.cancel()


def answering(data: bytes, *, then: str = "stay") -> Callable[[trio.abc.Stream], Awaitable[None]]:
    """Return a proxy that takes one request and says this, whatever it is asked."""

    async def run(stream: trio.abc.Stream) -> None:
        peer = Peer(stream)
        await stream.receive_some()
        with suppress(trio.BrokenResourceError):  # the client may have heard enough
            await peer.send(data)
        if then == "stay":
            await peer.rest()
        elif then == "reset":
            peer.reset()

    return run


async def talk(url: str, **options: object) -> None:
    async with trioweb.connect(url, **options) as ws:  # type: ignore[arg-type]
        await ws.send("hi")
        assert await ws.receive() == "hi"


async def failure(url: str, **options: object) -> trioweb.ConnectFailed:
    """Return why there is no connection, which must not say any secret."""
    with pytest.raises(trioweb.ConnectFailed) as caught:
        await talk(url, **options)
    error: BaseException | None = caught.value
    while error is not None:
        assert "secret" not in str(error)
        assert "secret" not in repr(error)
        error = error.__cause__
    await trio.testing.wait_all_tasks_blocked(0.02)
    gc.collect()  # a socket that was left open would say so now
    return caught.value


# HTTP CONNECT.


async def test_a_connection_through_an_http_proxy():
    proxy = HttpProxy()
    async with serving(echo) as server, listening(proxy) as where:
        url = numeric_url(server, "/path?query")
        async with trioweb.connect(url, proxy=f"http://{where}") as ws:
            await ws.send("hi")
            assert await ws.receive() == "hi"
            # What is at the other end of our socket is the proxy.
            assert ws.remote_address == ("127.0.0.1", int(where.rpartition(":")[2]))
            assert ws.request.target == "/path?query"
        target = f"127.0.0.1:{port_of(server)}"
        assert proxy.asked == [f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode()]


async def test_headers_for_the_server_do_not_go_to_the_proxy(server_tls, client_tls):
    proxy = HttpProxy()
    async with serving(echo, ssl_context=server_tls) as server, listening(proxy) as where:
        await talk(
            server.url,
            proxy=f"http://{where}",
            ssl_context=client_tls,
            headers={"Authorization": "Bearer secret"},
        )
    assert b"secret" not in proxy.asked[0]
    assert proxy.asked[0].startswith(b"CONNECT localhost:")


@pytest.mark.parametrize("target_tls", [False, True])
@pytest.mark.parametrize("proxy_tls", [False, True])
@pytest.mark.parametrize("credentials", ["", "me:secret"])
async def test_tls_to_the_proxy_and_through_it(
    target_tls, proxy_tls, credentials, server_tls, client_tls
):
    proxy = HttpProxy(credentials)
    async with (
        serving(echo, ssl_context=server_tls if target_tls else None) as server,
        listening(proxy, server_tls if proxy_tls else None) as where,
    ):
        scheme = "https" if proxy_tls else "http"
        at = f"{credentials}@" if credentials else ""
        way = Proxy(f"{scheme}://{at}{where}", client_tls if proxy_tls else None)
        await talk(server.url, proxy=way, ssl_context=client_tls)
        assert len(proxy.asked) == 1


async def test_credentials_may_hold_anything_in_percent_escapes():
    proxy = HttpProxy("ü/@x:p:a%s")
    async with serving(echo) as server, listening(proxy) as where:
        await talk(numeric_url(server), proxy=f"http://%C3%BC%2F%40x:p%3Aa%25s@{where}")
        await talk(numeric_url(server), proxy=f"http://%C3%BC%2F%40x:p:a%25s@{where}")


async def test_a_user_without_a_password():
    proxy = HttpProxy("me:")
    async with serving(echo) as server, listening(proxy) as where:
        await talk(numeric_url(server), proxy=f"http://me@{where}")


async def test_a_proxy_that_wants_other_credentials_is_a_proxy_error_with_its_answer():
    proxy = HttpProxy("me:other")
    async with serving(echo) as server, listening(proxy) as where:
        for at in ("", "me:secret@"):
            error = await failure(numeric_url(server), proxy=f"http://{at}{where}")
            assert isinstance(error, trioweb.ProxyError)
            assert str(error) == f"the proxy http://{where} answered 407 to CONNECT"
            assert error.response is not None
            assert error.response.status == 407
            assert error.response.headers["Proxy-Authenticate"] == 'Basic realm="x"'
        assert len(server.connections) == 0


async def test_the_body_of_a_refusal_is_kept_up_to_the_limit_and_never_waited_for(clock):
    answer = b"HTTP/1.1 503 Busy\r\nContent-Length: 99999\r\n\r\n" + b"x" * 5000
    async with listening(answering(answer)) as where:
        start = trio.current_time()
        for limit in (10, 4096):
            error = await failure(
                "ws://127.0.0.1/",
                proxy=f"http://{where}",
                limits=Limits(max_response_body=limit),
            )
            assert isinstance(error, trioweb.ProxyError)
            assert error.response is not None
            assert error.response.body == b"x" * limit
        assert trio.current_time() - start < 1


@pytest.mark.parametrize("ok", [b"200 Connection established", b"200", b"204 x", b"299 x"])
async def test_any_2xx_is_a_yes(ok):
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n"
    proxy = HttpProxy(before=hints, ok=ok)
    async with serving(echo) as server, listening(proxy) as where:
        await talk(numeric_url(server), proxy=f"http://{where}")


@pytest.mark.parametrize(
    "header", [b"Content-Length: 9", b"Transfer-Encoding: chunked", b"Connection: close"]
)
async def test_a_yes_has_no_body_whatever_it_says(header):
    proxy = HttpProxy(ok=b"200 OK\r\n" + header)  # RFC 9110, 9.3.6
    async with serving(echo) as server, listening(proxy) as where:
        await talk(numeric_url(server), proxy=f"http://{where}")


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"", "left before its answer"),
        (b"HTTP/1.1 200 O", "left before its answer"),
        (b"HTTP/1.1 103 Early Hints\r\n\r\n", "left before its answer"),
        (b"220 smtp.example ESMTP\r\n\r\n", "not HTTP"),
        (b"\x15\x03\x03\x00\x02\x02\x46", "not HTTP"),
        (b"\x05\xff", "not HTTP"),
        (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", "no answer to CONNECT"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 20000, "too large"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 101 + b"\r\n", "too many header lines"),
        (b"HTTP/1.1 103 x\r\n\r\n" * 2000, "too large"),
        (b"HTTP/1.1 200 OK\r\nX y\r\n\r\n", "no answer to CONNECT"),
        (b"HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 101 Switching", "more than its answer"),
        (b"HTTP/1.1 302 Found\r\nLocation: http://login/\r\n\r\n", "answered 302 to CONNECT"),
        (b"HTTP/1.1 502 Bad Gateway\r\n\r\n", "answered 502 to CONNECT"),
    ],
)
async def test_a_bad_answer_to_connect_is_a_proxy_error(answer, why):
    async with listening(answering(answer, then="leave")) as where:
        error = await failure("ws://127.0.0.1/", proxy=f"http://me:secret@{where}")
    assert isinstance(error, trioweb.ProxyError)
    assert why in str(error)
    assert f"http://{where}" in str(error)


async def test_a_proxy_that_resets_is_a_proxy_error():
    for scheme in ("http", "socks5h"):
        async with listening(answering(b"", then="reset")) as where:
            error = await failure("ws://127.0.0.1/", proxy=f"{scheme}://me:secret@{where}")
        assert isinstance(error, trioweb.ProxyError)
        assert "broke off" in str(error)


@pytest.mark.parametrize("scheme", ["http", "https", "socks5", "socks5h"])
async def test_a_proxy_that_is_not_there_is_a_proxy_error(scheme):
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    await listeners[0].aclose()
    with guard():
        error = await failure("ws://192.0.2.1/", proxy=f"{scheme}://me:secret@127.0.0.1:{port}")
    assert isinstance(error, trioweb.ProxyError)
    assert error.response is None
    assert f"no connection to the proxy {scheme}://127.0.0.1:{port}" in str(error)


async def test_the_tls_of_a_proxy_that_fails_is_a_proxy_error(server_tls):
    async with listening(HttpProxy(), server_tls) as where:
        error = await failure("ws://127.0.0.1/", proxy=f"https://me:secret@{where}")
    assert isinstance(error, trioweb.ProxyError)
    assert "certificate verify failed" in str(error)
    assert f"no TLS with the proxy https://{where}" in str(error)


async def test_the_tls_of_the_server_that_fails_is_not_the_proxys_fault(server_tls):
    async with serving(ssl_context=server_tls) as server, listening(HttpProxy()) as where:
        port = port_of(server)
        error = await failure(server.url, proxy=f"http://me:secret@{where}")
    assert not isinstance(error, trioweb.ProxyError)
    assert f"no TLS with localhost:{port}: " in str(error)
    assert "certificate verify failed" in str(error)


async def test_what_the_server_says_through_a_proxy_is_the_servers():
    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(b"HTTP/1.1 407 x\r\nContent-Length: 0\r\n\r\n")

    async with scripted(script) as url, listening(HttpProxy()) as where:
        with pytest.raises(trioweb.HandshakeRejected) as caught:
            await talk(url, proxy=f"http://{where}")
    assert caught.value.status == 407


# Deadlines.


async def silent(stream: trio.abc.Stream) -> None:
    await Peer(stream).rest()


@pytest.mark.parametrize("scheme", ["http", "https", "socks5", "socks5h"])
@pytest.mark.parametrize("seconds", [3, 90])
async def test_a_silent_proxy_is_cut_at_the_connect_deadline(scheme, seconds, clock):
    async with listening(silent) as where:
        await trio.testing.wait_all_tasks_blocked()
        before = tasks()
        start = trio.current_time()
        with pytest.raises(trioweb.HandshakeTimeout) as caught:
            await talk(
                "wss://192.0.2.1/",
                proxy=f"{scheme}://me:secret@{where}",
                timeouts=Timeouts(connect=seconds),
            )
        assert trio.current_time() - start == pytest.approx(seconds)
        assert str(caught.value) == (
            f"no connection to 192.0.2.1:443 by {scheme}://{where} within {seconds} s"
        )
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert tasks() == before


async def test_the_connect_deadline_holds_for_tls_through_a_tunnel(clock, client_tls):
    async with scripted(lambda peer: peer.rest()) as url, listening(HttpProxy()) as where:
        start = trio.current_time()
        with pytest.raises(trioweb.HandshakeTimeout):
            await talk(
                url.replace("ws:", "wss:"),
                proxy=f"http://{where}",
                ssl_context=client_tls,
                timeouts=Timeouts(connect=3),
            )
        assert trio.current_time() - start == pytest.approx(3)


async def test_an_answer_that_dribbles_does_not_stretch_the_deadline(clock):
    async def dribble(stream: trio.abc.Stream) -> None:
        await Peer(stream).head()
        with suppress(trio.BrokenResourceError):
            for byte in b"HTTP/1.1 200 OK\r\nX: " + b"y" * 1000:
                await trio.sleep(1)
                await stream.send_all(bytes([byte]))

    async with listening(dribble) as where:
        start = trio.current_time()
        with pytest.raises(trioweb.HandshakeTimeout):
            await talk("ws://192.0.2.1/", proxy=f"http://{where}")
        assert trio.current_time() - start == pytest.approx(10)


# SOCKS5.


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("credentials", [None, ("me", "p@ss word")])
@pytest.mark.parametrize("scheme", ["socks5", "socks5h"])
async def test_a_connection_through_socks(scheme, credentials, tls, server_tls, client_tls):
    proxy = SocksProxy(credentials)
    at = "me:p%40ss%20word@" if credentials else ""
    async with (
        serving(echo, ssl_context=server_tls if tls else None) as server,
        listening(proxy) as where,
    ):
        await talk(server.url, proxy=f"{scheme}://{at}{where}", ssl_context=client_tls)
    # Who looks the name up is what tells the two apart.
    ((kind, host),) = proxy.asked
    assert (kind, host) in {
        "socks5": [(1, "127.0.0.1"), (4, "::1")],
        "socks5h": [(3, "localhost")],
    }[scheme]


@pytest.mark.parametrize(("host", "kind"), [("127.0.0.1", 1), ("[::1]", 4)])
async def test_an_address_is_sent_as_one(host, kind):
    proxy = SocksProxy(reply=4)
    async with listening(proxy) as where:
        for scheme in ("socks5", "socks5h"):
            await failure(f"ws://{host}/", proxy=f"{scheme}://{where}")
    assert proxy.asked == [(kind, host.strip("[]"))] * 2


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        (1, "General SOCKS server failure"),
        (2, "Connection not allowed"),
        (3, "Network unreachable"),
        (4, "Host unreachable"),
        (5, "Connection refused"),
        (8, "Address type not supported"),
        (77, "Invalid reply code"),
    ],
)
async def test_a_refusal_of_socks_is_a_proxy_error(reply, why):
    async with listening(SocksProxy(("me", "secret"), reply=reply)) as where:
        error = await failure("ws://nowhere.example/", proxy=f"socks5h://me:secret@{where}")
    assert isinstance(error, trioweb.ProxyError)
    assert error.response is None
    assert f"the proxy socks5h://{where} does not lead to nowhere.example:80: " in str(error)
    assert why in str(error)


async def test_wrong_credentials_of_socks_are_a_proxy_error():
    async with listening(SocksProxy(("me", "other"))) as where:
        error = await failure("ws://nowhere.example/", proxy=f"socks5h://me:secret@{where}")
        assert isinstance(error, trioweb.ProxyError)
        assert "authentication failure" in str(error)
        error = await failure("ws://nowhere.example/", proxy=f"socks5h://{where}")
        assert "authentication method" in str(error)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\x05",
        b"\x04\x00",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\x05\x02\x01\x00",
        b"\x05\x00\x05",
        b"\x05\x00\x05\x00\x00\x09\x00\x00\x00\x00\x00\x00",
        b"\x05\x00\x05\x00\x07\x01\x00\x00\x00\x00\x00\x00",
        b"\x05\x00\x05\x00\x00\x03\x02\xff\xfe\x00\x00",
        b"\x05\x00\x05\x00\x00\x03\xff" + b"x" * 10,
    ],
)
async def test_a_malformed_answer_of_socks_is_a_proxy_error(answer):
    async with listening(answering(answer, then="leave")) as where:
        error = await failure("ws://nowhere.example/", proxy=f"socks5h://{where}")
    assert isinstance(error, trioweb.ProxyError)


class NoNames(trio.abc.HostnameResolver):
    """A machine without a name service."""

    async def getaddrinfo(self, *_args):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    async def getnameinfo(self, *_args):
        raise NotImplementedError


async def test_a_name_that_socks5_cannot_look_up_is_connect_failed():
    async with listening(SocksProxy()) as where:
        trio.socket.set_custom_hostname_resolver(NoNames())
        error = await failure("ws://nowhere.example/", proxy=f"socks5://{where}")
    assert not isinstance(error, trioweb.ProxyError)
    assert str(error).startswith("no connection to nowhere.example:80: ")
    assert "not known" in str(error)


async def test_without_python_socks_socks_is_an_import_error_that_says_how_to_get_it(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("python_socks.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "python_socks", None)
    async with listening(SocksProxy()) as where:
        with pytest.raises(ImportError, match=r"pip install 'trioweb\[socks\]'"):
            await talk("ws://localhost/", proxy=f"socks5://{where}")
        async with serving(echo) as server, listening(HttpProxy()) as other:
            await talk(numeric_url(server), proxy=f"http://{other}")


# What is not a proxy.


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("", "its scheme is missing"),
        ("localhost:3128", "its scheme is missing"),
        ("ws://me:secret@localhost", "its scheme is 'ws'"),
        ("socks4://me:secret@localhost", r"http, https, socks5, socks5h.* 'socks4'"),
        ("http://", "no host"),
        ("http://:3128", "no host"),
        ("http://me:secret@:3128", "no host"),
        ("http://a b:3128", "not a host"),
        ("http://localhost:x", "malformed"),
        ("http://localhost:99999", "malformed"),
        ("http://[::1", "malformed"),
        ("http://me:sec/ret@localhost", "malformed"),
        ("http://me:/secret@localhost", "has no path"),
        ("http://me?secret@localhost", "has no path"),
        ("http://me#secret@localhost", "has no path"),
        ("http://localhost/path", "has no path"),
        ("http://me%3Ax:secret@localhost", "colon"),
        ("socks5://me@localhost", "SOCKS takes"),
        ("socks5://:secret@localhost", "SOCKS takes"),
        ("socks5h://me:secret%C3%BC@localhost", "SOCKS takes"),
        ("socks5h://me:" + "secret" * 50 + "@localhost", "SOCKS takes"),
    ],
)
async def test_a_proxys_url_that_makes_no_sense_is_a_value_error_without_secrets(url, why):
    with pytest.raises(ValueError, match=why) as caught:
        Proxy(url)
    assert "sec" not in str(caught.value)
    assert caught.value.__cause__ is None
    with guard(), pytest.raises(ValueError, match=why):
        await talk("ws://localhost/", proxy=url)


def test_a_proxy_shows_no_secret(server_tls):
    proxy = Proxy("HTTP://me:secret@[::1]")
    assert repr(proxy) == "<Proxy http://[::1]:80>"
    assert str(proxy) == "http://[::1]:80"
    assert (proxy.host, proxy.port, proxy.credentials) == ("::1", 80, ("me", "secret"))
    assert str(Proxy("https://a/")) == "https://a:443"
    assert str(Proxy("socks5://a")) == "socks5://a:1080"
    assert str(Proxy("socks5h://bücher.example:1")) == "socks5h://xn--bcher-kva.example:1"
    with pytest.raises(ValueError, match="ssl_context is a server's"):
        Proxy("https://a", server_tls)


async def test_a_proxy_beside_a_stream_of_ones_own_is_a_value_error():
    ours, _ = trio.testing.memory_stream_pair()
    for proxy in ("http://localhost", True):
        with pytest.raises(ValueError, match="proxy="):
            await talk("ws://localhost/", stream=ours, proxy=proxy)


# The environment.


@pytest.fixture
def environment(monkeypatch) -> Callable[..., None]:
    for scheme in ("ws", "wss", "http", "https", "all", "no"):
        for name in (f"{scheme}_proxy", f"{scheme.upper()}_PROXY"):
            monkeypatch.delenv(name, raising=False)

    def change(**variables: str) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return change


@pytest.mark.parametrize(
    ("variables", "ws", "wss"),
    [
        ({}, None, None),
        ({"HTTP_PROXY": "http://a:1"}, "http://a:1", None),
        ({"https_proxy": "http://a:1"}, None, "http://a:1"),
        ({"ALL_PROXY": "socks5h://a"}, "socks5h://a:1080", "socks5h://a:1080"),
        ({"all_proxy": "http://a", "wss_proxy": "http://b"}, "http://a:80", "http://b:80"),
        ({"http_proxy": "http://a", "ws_proxy": "http://b"}, "http://b:80", None),
        ({"http_proxy": "me:secret@a:3128"}, "http://a:3128", None),
        ({"all_proxy": "http://a", "no_proxy": "x.example,target.example"}, None, None),
        ({"all_proxy": "http://a", "no_proxy": ".example"}, None, None),
        ({"all_proxy": "http://a", "no_proxy": "*"}, None, None),
        ({"all_proxy": "http://a", "no_proxy": "other.example"}, "http://a:80", "http://a:80"),
    ],
)
def test_the_environment_names_proxies_as_for_curl(environment, variables, ws, wss):
    environment(**variables)
    for scheme, expected in (("ws", ws), ("wss", wss)):
        found = choose_proxy(True, Address.parse(f"{scheme}://target.example/"))
        assert (found and str(found)) == expected


async def test_the_environment_is_read_if_asked_and_only_then(environment):
    proxy = HttpProxy("me:secret")
    async with serving(echo) as server, listening(proxy) as where:
        environment(all_proxy=f"http://me:secret@{where}")
        await talk(numeric_url(server))
        assert proxy.asked == []
        await talk(numeric_url(server), proxy=True)
        assert len(proxy.asked) == 1
        environment(no_proxy="127.0.0.1")
        await talk(numeric_url(server), proxy=True)
        assert len(proxy.asked) == 1


# With the rest of the house.


async def test_redirects_go_through_the_proxy_too():
    proxy = HttpProxy()

    async def lead(peer: Peer) -> None:
        await peer.head()
        await peer.send(f"HTTP/1.1 302 x\r\nLocation: {url}\r\n\r\n".encode())

    async with serving(echo) as server, scripted(lead) as start, listening(proxy) as where:
        url = numeric_url(server, "/there")
        async with trioweb.connect(start, proxy=f"http://{where}") as ws:
            assert ws.request.target == "/there"
        targets = [head.split()[1].decode() for head in proxy.asked]
        assert targets == [start.removeprefix("ws://"), f"127.0.0.1:{port_of(server)}"]


@pytest.mark.parametrize("kind", ["http", "socks5h"])
async def test_a_proxy_on_a_virtual_network(kind, autojump_clock):
    network = VirtualNetwork()
    proxy = HttpProxy() if kind == "http" else SocksProxy()
    with network.host("proxy") as host:
        listeners = await host.open_listeners(3128, None)
    async with trio.open_nursery() as nursery:
        with network.host("proxy"):
            nursery.start_soon(trio.serve_listeners, proxy, list(listeners))
        with network.host("server"):
            async with trioweb.open_server(echo, 80, host=None, authenticate=None):
                with network.host("client"):
                    await talk("ws://server/", proxy=f"{kind}://proxy:3128")
        nursery.cancel_scope.cancel()
    assert len(proxy.asked) == 1


# Real ones.


def program(name: str) -> str:
    return shutil.which(name) or missing(f"{name} (apt-get install {name})")


@pytest.mark.parametrize("tls", [False, True])
async def test_tinyproxy(tls, tmp_path: Path, server_tls, client_tls):
    port = free_port()
    configuration = tmp_path / "tinyproxy.conf"
    lines = [f"Port {port}", "Listen 127.0.0.1", "Timeout 60", "BasicAuth me secret"]
    configuration.write_text("\n".join(lines) + "\n")
    command = [program("tinyproxy"), "-d", "-c", str(configuration)]
    context = server_tls if tls else None
    async with serving(echo, ssl_context=context) as server, running(command, port):
        where = f"127.0.0.1:{port}"
        await talk(server.url, proxy=f"http://me:secret@{where}", ssl_context=client_tls)
        for at, status in (("", 407), ("me:other@", 401)):
            error = await failure(server.url, proxy=f"http://{at}{where}")
            assert isinstance(error, trioweb.ProxyError)
            assert error.response is not None
            assert error.response.status == status
        # Where nobody listens, behind the proxy.
        error = await failure(f"ws://127.0.0.1:{free_port()}", proxy=f"http://me:secret@{where}")
        assert isinstance(error, trioweb.ProxyError)
        assert error.response is not None
        assert error.response.status >= 500


@pytest.mark.parametrize("tls", [False, True])
async def test_microsocks(tls, server_tls, client_tls):
    port = free_port()
    command = [
        program("microsocks"),
        "-i",
        "127.0.0.1",
        "-p",
        str(port),
        "-u",
        "me",
        "-P",
        "secret",
    ]
    context = server_tls if tls else None
    async with serving(echo, ssl_context=context) as server, running(command, port):
        where = f"127.0.0.1:{port}"
        for scheme in ("socks5", "socks5h"):
            proxy = f"{scheme}://me:secret@{where}"
            await talk(server.url, proxy=proxy, ssl_context=client_tls)
            error = await failure(f"ws://127.0.0.1:{free_port()}", proxy=proxy)
            assert "refused" in str(error)
            for at in ("", "me:other@"):
                error = await failure(server.url, proxy=f"{scheme}://{at}{where}")
                assert isinstance(error, trioweb.ProxyError)
