"""Real proxies in front of a server: HAProxy and nginx, whose words for the client are read."""

from __future__ import annotations

import os
import shutil
import ssl
from pathlib import Path

import pytest
import trio

import trioweb
from tests.conftest import missing
from tests.helpers import serving
from tests.programs import free_port, running
from trioweb import TrustedProxies

HAPROXY = """
defaults
    mode {mode}
    timeout connect 5s
    timeout client 20s
    timeout server 20s
    {option}
frontend outside
    bind 127.0.0.1:{port} {bind}
    default_backend inside
backend inside
    server trioweb {server} {send}
"""

NGINX = """
daemon off;
{user}
pid {folder}/nginx.pid;
error_log stderr;
worker_processes 1;
events {{ }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://{server};
            proxy_http_version 1.1;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection "upgrade";
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_set_header X-Forwarded-Proto $scheme;
            proxy_set_header X-Forwarded-Host $http_host;
        }}
    }}
}}
"""


def program(name: str) -> str:
    return shutil.which(name, path="/usr/local/sbin:/usr/sbin:/usr/local/bin:/usr/bin") or missing(
        f"{name} (Debian's package of that name)"
    )


async def tell(ws: trioweb.WebSocket) -> None:
    request = ws.request
    await ws.send(repr((request.client_address, request.scheme, request.headers["Host"])))
    async for message in ws:
        await ws.send(message)


async def ask(
    url: str, headers: dict[str, str] | None = None, tls: ssl.SSLContext | None = None
) -> tuple[str, str]:
    """Return our own address, and what the server tells behind the proxy."""
    async with trioweb.connect(url, headers=headers or {}, ssl_context=tls) as ws:
        told = await ws.receive()
        await ws.send("x" * 2**18)
        assert await ws.receive() == "x" * 2**18
        assert isinstance(told, str)
        return repr(ws.local_address), told


async def haproxy(folder: Path, port: int, **words: object) -> list[str]:
    config = trio.Path(folder / "haproxy.cfg")
    usual = {"mode": "tcp", "option": "", "bind": "", "send": ""}
    await config.write_text(HAPROXY.format(**(usual | {"port": port} | words)))
    return [program("haproxy"), "-q", "-db", "-f", str(config)]


@pytest.mark.parametrize("send", ["send-proxy", "send-proxy-v2", "send-proxy-v2 check inter 50ms"])
async def test_haproxy_names_the_client_by_the_proxy_protocol(send, tmp_path):
    proxies = TrustedProxies(["127.0.0.1"], proxy_protocol=True)
    async with serving(tell, proxies=proxies, authenticate=None) as server:
        port = free_port()
        inside = server.url.removeprefix("ws://").replace("localhost", "127.0.0.1")
        command = await haproxy(tmp_path, port, server=inside, send=send)
        async with running(command, port):
            ours, told = await ask(f"ws://127.0.0.1:{port}/")
    assert told == f"({ours}, 'http', '127.0.0.1:{port}')"


async def test_haproxy_relays_tls_behind_the_proxy_protocol(tmp_path, server_tls, client_tls):
    proxies = TrustedProxies(["127.0.0.1"], proxy_protocol=True)
    async with serving(tell, proxies=proxies, authenticate=None, ssl_context=server_tls) as server:
        port = free_port()
        inside = server.url.removeprefix("wss://").replace("localhost", "127.0.0.1")
        command = await haproxy(tmp_path, port, server=inside, send="send-proxy-v2")
        async with running(command, port):
            ours, told = await ask(f"wss://127.0.0.1:{port}/", tls=client_tls)
    assert told == f"({ours}, 'https', '127.0.0.1:{port}')"


async def test_haproxy_comes_by_a_unix_socket_with_the_proxy_protocol(tmp_path):
    path = tmp_path / "socket"
    proxies = TrustedProxies(["unix"], proxy_protocol=True)
    listeners = [trioweb.open_unix_listener(path)]
    async with serving(tell, proxies=proxies, authenticate=None, listeners=listeners):
        port = free_port()
        command = await haproxy(tmp_path, port, server=f"unix@{path}", send="send-proxy-v2")
        async with running(command, port):
            ours, told = await ask(f"ws://127.0.0.1:{port}/")
    assert told == f"({ours}, 'http', '127.0.0.1:{port}')"


@pytest.mark.parametrize("tls", [False, True])
async def test_haproxy_names_the_client_by_x_forwarded_for(tls, tmp_path, ca, client_tls):
    proxies = TrustedProxies(["127.0.0.0/30"], header="X-Forwarded-For", also=["proto", "host"])
    bind = ""
    if tls:
        pem = tmp_path / "both.pem"
        ca.issue_cert("localhost", "127.0.0.1").private_key_and_cert_chain_pem.write_to_path(pem)
        bind = f"ssl crt {pem}"
    async with serving(tell, proxies=proxies, authenticate=None) as server:
        port = free_port()
        inside = server.url.removeprefix("ws://").replace("localhost", "127.0.0.1")
        command = await haproxy(
            tmp_path,
            port,
            server=inside,
            mode="http",
            option="option forwardfor",
            bind=bind,
            send="\n    http-request set-header X-Forwarded-Proto %[ssl_fc,iif(https,http)]",
        )
        lie = {"X-Forwarded-For": "192.0.2.66", "X-Forwarded-Proto": "gopher"}
        scheme = "wss" if tls else "ws"
        async with running(command, port):
            _, told = await ask(f"{scheme}://127.0.0.1:{port}/", lie, client_tls if tls else None)
    # The client is a trusted address here, and so the last word is that of whom it names.
    assert told == f"(('192.0.2.66', 0), '{'https' if tls else 'http'}', '127.0.0.1:{port}')"


async def test_nginx_names_the_client_by_x_forwarded_for(tmp_path):
    # Only the socket's address is trusted, by way of the Unix socket: so 127.0.0.1 is a client.
    path = tmp_path / "socket"
    proxies = TrustedProxies(["unix"], header="X-Forwarded-For", also=["proto", "host"])
    listeners = [trioweb.open_unix_listener(path, mode=0o666)]
    async with serving(tell, proxies=proxies, authenticate=None, listeners=listeners):
        port = free_port()
        # As root, its workers become somebody else, who has no way into the test's folder.
        user = "user root;" if os.geteuid() == 0 else ""
        config = trio.Path(tmp_path / "nginx.conf")
        await config.write_text(
            NGINX.format(user=user, folder=tmp_path, port=port, server=f"unix:{path}:")
        )
        command = [program("nginx"), "-p", str(tmp_path), "-e", "stderr", "-c", str(config)]
        lie = {"X-Forwarded-For": "192.0.2.66", "X-Forwarded-Host": "evil.org"}
        async with running(command, port):
            _, told = await ask(f"ws://127.0.0.1:{port}/", lie)
    assert told == f"(('127.0.0.1', 0), 'http', '127.0.0.1:{port}')"
