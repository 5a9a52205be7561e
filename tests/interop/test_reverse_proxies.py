"""nginx and HAProxy in front of our server, with and without TLS towards the client."""

from __future__ import annotations

import getpass
import socket
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from ssl import SSLContext
from typing import NamedTuple, Protocol

import pytest
import trio

import trioweb
from tests.helpers import port_of
from tests.interop.kit import (
    check_seen,
    our_server,
    output_of,
    program,
    python_program,
    running,
    try_server,
)


class Ports(NamedTuple):
    """Where a proxy listens."""

    tcp: int
    tls: int


class Proxy(Protocol):
    """Puts a proxy in front of a server for the length of a block."""

    def __call__(self, server: trioweb.Server) -> AbstractAsyncContextManager[Ports]: ...


NGINX = """
user {user};
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
events {{ }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    map $http_upgrade $connection_upgrade {{ default upgrade; "" close; }}
    server {{
        listen 127.0.0.1:{ports.tcp};
        listen 127.0.0.1:{ports.tls} ssl;
        ssl_certificate {pem};
        ssl_certificate_key {pem};
        location / {{
            proxy_pass http://127.0.0.1:{port};
            proxy_http_version 1.1;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection $connection_upgrade;
            proxy_set_header Host $http_host;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_set_header X-Forwarded-Proto $scheme;
        }}
    }}
}}
"""

HAPROXY = """
defaults
    mode http
    timeout connect 5s
    timeout client 30s
    timeout server 30s
    timeout tunnel 1h
frontend all
    bind fd@{tcp}
    bind fd@{tls} ssl crt {pem}
    option forwardfor
    http-request set-header X-Forwarded-Proto https if {{ ssl_fc }}
    http-request set-header X-Forwarded-Proto http if !{{ ssl_fc }}
    default_backend ours
backend ours
    server one 127.0.0.1:{port}
"""

# As a mere relay of connections, TLS and all, with the client's address in front.
RELAY = """
defaults
    mode tcp
    timeout connect 5s
    timeout client 30s
    timeout server 30s
listen all
    bind fd@{tcp}
    server one 127.0.0.1:{port} {word}
"""


def listener() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0))


def port_number(listening: socket.socket) -> int:
    number: int = listening.getsockname()[1]
    return number


@pytest.fixture
def nginx(tmp_path: Path, server_pem: Path) -> Proxy:
    """Return nginx, or skip."""
    path = program("nginx")

    @asynccontextmanager
    async def in_front(server: trioweb.Server) -> AsyncIterator[Ports]:
        with listener() as tcp, listener() as tls:  # free until a moment ago
            ports = Ports(port_number(tcp), port_number(tls))
        config = tmp_path / "nginx.conf"
        config.write_text(
            NGINX.format(
                user=getpass.getuser(),
                folder=tmp_path,
                ports=ports,
                pem=server_pem,
                port=port_of(server),
            )
        )
        command = [path, "-c", str(config), "-p", str(tmp_path), "-e", "stderr", "-g"]
        async with running([*command, "error_log stderr notice;"], stderr=True) as lines:
            await lines.until("start worker process ")
            yield ports

    return in_front


@pytest.fixture
def haproxy(tmp_path: Path, server_pem: Path) -> Proxy:
    """Return HAProxy, or skip."""
    path = program("haproxy")

    @asynccontextmanager
    async def in_front(server: trioweb.Server) -> AsyncIterator[Ports]:
        with listener() as tcp, listener() as tls:
            fds = tcp.fileno(), tls.fileno()
            config = tmp_path / "haproxy.cfg"
            config.write_text(
                HAPROXY.format(tcp=fds[0], tls=fds[1], pem=server_pem, port=port_of(server))
            )
            # It inherits both, so whoever connects waits in them until it is there.
            async with running([path, "-q", "-db", "-f", str(config)], pass_fds=fds):
                yield Ports(port_number(tcp), port_number(tls))

    return in_front


@asynccontextmanager
async def relaying(server: trioweb.Server, folder: Path, word: str) -> AsyncIterator[int]:
    """Run HAProxy as a relay for the length of a block, which gets its port."""
    path = program("haproxy")
    with listener() as tcp:
        config = folder / "relay.cfg"
        config.write_text(RELAY.format(tcp=tcp.fileno(), port=port_of(server), word=word))
        command = [path, "-q", "-db", "-f", str(config)]
        async with running(command, pass_fds=[tcp.fileno()]):
            yield port_number(tcp)


@pytest.fixture(params=["nginx", "haproxy"])
def proxy(request: pytest.FixtureRequest) -> Proxy:
    """Return each of the proxies."""
    chosen: Proxy = request.getfixturevalue(request.param)
    return chosen


def url_of(ports: Ports, *, secure: bool, scheme: str = "ws") -> str:
    return f"{scheme}{'s' * secure}://127.0.0.1:{ports.tls if secure else ports.tcp}"


async def test_our_client_through_a_proxy(
    proxy: Proxy, secure: bool, deflate: bool, client_tls: SSLContext
):
    async with our_server(deflate=trioweb.Deflate()) as (server, ours), proxy(server) as ports:
        await try_server(
            url_of(ports, secure=secure),
            deflate=deflate,
            ssl_context=client_tls if secure else None,
        )
    assert ours.closes[0] == trioweb.Close(4000, "done, größer", by_peer=True)


@pytest.mark.parametrize("peer", ["ws", "websockets", "aiohttp"])
async def test_their_clients_through_a_proxy(
    request: pytest.FixtureRequest, proxy: Proxy, peer: str, ca_file: Path
):
    if peer == "ws":
        script = Path(__file__).parent / "node" / "client.cjs"
        command = [*request.getfixturevalue("node_with_packages"), str(script)]
    else:
        command = python_program(f"{peer}_client.py", peer)
    async with our_server(deflate=trioweb.Deflate()) as (server, ours), proxy(server) as ports:
        seen = await output_of([*command, url_of(ports, secure=True), "true", str(ca_file)])
    check_seen(seen, ours, deflate=True, fragments=peer != "aiohttp")


async def test_a_drain_reaches_the_client_behind_a_proxy(proxy: Proxy):
    async with (
        our_server() as (server, _),
        proxy(server) as ports,
        trioweb.connect(url_of(ports, secure=False) + "/echo") as ws,
        trio.open_nursery() as nursery,
    ):
        await ws.send("x")
        assert await ws.receive() == "x"
        nursery.start_soon(partial(server.drain, reason="restart"))
        with pytest.raises(trioweb.EndOfChannel) as caught:
            await ws.receive()
        assert caught.value.close == trioweb.Close(1001, "restart", by_peer=True)


async def test_a_rejection_passes_a_proxy(proxy: Proxy):
    async def rejecting(request: trioweb.Request) -> trioweb.Response:
        return trioweb.Response.make(418, "no coffee\n")

    async with our_server(on_request=rejecting) as (server, _), proxy(server) as ports:
        with pytest.raises(trioweb.HandshakeRejected) as caught:
            async with trioweb.connect(url_of(ports, secure=False)):
                raise AssertionError("the block must not run")
    assert (caught.value.status, caught.value.body) == (418, b"no coffee\n")


async def test_pages_pass_a_proxy(proxy: Proxy, secure: bool, ca_file: Path, tmp_path: Path):
    folder = tmp_path / "static"
    folder.mkdir()
    (folder / "large.bin").write_bytes(bytes(range(256)) * 2**14)
    site = trioweb.Site({"/": folder})
    async with our_server(on_request=site) as (server, _), proxy(server) as ports:
        url = url_of(ports, secure=secure, scheme="http") + "/large.bin"
        curl = [program("curl"), "--silent", "--show-error", "--noproxy", "*"]
        for _ in range(3):
            body = await output_of([*curl, "--cacert", str(ca_file), url])
            assert body == (folder / "large.bin").read_bytes()


async def test_the_client_is_known_behind_a_proxy(
    proxy: Proxy, secure: bool, client_tls: SSLContext
):
    proxies = trioweb.TrustedProxies(["127.0.0.1"], header="X-Forwarded-For", also=["proto"])
    async with (
        our_server(proxies=proxies, authenticate=None) as (server, ours),
        proxy(server) as ports,
        # It is on loopback too, and so believed like one more proxy.
        trioweb.connect(
            url_of(ports, secure=secure) + "/echo",
            headers={"X-Forwarded-For": "192.0.2.1"},
            ssl_context=client_tls if secure else None,
        ) as ws,
    ):
        await ws.send("x")
        await ws.receive()
    assert ours.requests[0].headers["X-Forwarded-For"] == "192.0.2.1, 127.0.0.1"
    assert ours.requests[0].client_address == ("192.0.2.1", 0)
    assert ours.requests[0].scheme == ("https" if secure else "http")


@pytest.mark.parametrize("word", ["send-proxy", "send-proxy-v2", "send-proxy-v2-ssl"])
async def test_the_proxy_protocol_of_haproxy(
    word: str, secure: bool, server_tls: SSLContext, client_tls: SSLContext, tmp_path: Path
):
    proxies = trioweb.TrustedProxies(["127.0.0.1"], proxy_protocol=True)
    tls = server_tls if secure else None
    async with (
        our_server(proxies=proxies, authenticate=None, ssl_context=tls) as (server, ours),
        relaying(server, tmp_path, word) as port,
        trioweb.connect(
            f"{'wss' if secure else 'ws'}://127.0.0.1:{port}/echo",
            ssl_context=client_tls if secure else None,
        ) as ws,
    ):
        for message in ("x", "y" * 2**20):
            await ws.send(message)
            assert await ws.receive() == message
        assert ours.requests[0].client_address == ws.local_address
