"""Unix sockets: the file and whose it is, serving on one, and clients that come by it."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import socket
import stat
import subprocess
from functools import partial
from pathlib import Path

import pytest
import trio

import trioweb
from tests.conftest import missing
from tests.helpers import Peer, asking, echo, forever, guard, serving
from trioweb import TrustedProxies, open_unix_listener
from trioweb.listening import is_loopback


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "socket"


def leave_behind(path: Path) -> None:
    """Do as a server that dies: leave the file of a socket."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        sock.listen()


async def dial(path: Path) -> Peer:
    return Peer(await trio.open_unix_socket(path))


# The file.


@pytest.mark.parametrize("options", [{}, {"mode": 0o660}, {"mode": 0o666}])
async def test_the_file_is_there_while_it_listens_with_its_mode(path, options):
    before = os.umask(0o777)
    try:
        listener = open_unix_listener(path, **options)
    finally:
        os.umask(before)
    status = path.lstat()
    assert stat.S_ISSOCK(status.st_mode)
    assert stat.S_IMODE(status.st_mode) == options.get("mode", 0o600)
    await listener.aclose()
    assert not path.exists()
    await listener.aclose()


async def test_the_file_of_a_dead_server_is_replaced(path):
    leave_behind(path)
    listener = open_unix_listener(path)
    peer = await dial(path)
    async with await listener.accept(), peer.stream, listener:
        pass


@pytest.mark.parametrize("backlog", [5, 0])
async def test_a_socket_with_a_listener_is_left_alone(path, backlog):
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen(backlog)
        waiting = [socket.socket(socket.AF_UNIX) for _ in range(backlog == 0)]
        for each in waiting:  # so that its backlog is full
            each.connect(str(path))
        with pytest.raises(OSError, match="in use") as caught:
            open_unix_listener(path)
        assert caught.value.errno == errno.EADDRINUSE
        for each in waiting:
            each.close()
    assert path.exists()


async def test_a_second_listener_on_a_path_is_refused_and_does_no_harm(path):
    async with serving(listeners=[open_unix_listener(path)]):
        with pytest.raises(OSError, match="in use"):
            open_unix_listener(path)
        async with trioweb.connect("ws://x/", stream=await trio.open_unix_socket(path)) as ws:
            await ws.send("still here")
            assert await ws.receive() == "still here"


@pytest.mark.parametrize("kind", ["file", "folder", "link", "dangling"])
async def test_what_is_no_socket_is_left_alone(path, tmp_path, kind):
    if kind == "file":
        path.write_text("precious")
    elif kind == "folder":
        path.mkdir()
    elif kind == "link":
        leave_behind(tmp_path / "other")
        path.symlink_to(tmp_path / "other")
    else:
        path.symlink_to(tmp_path / "nowhere")
    with pytest.raises(OSError, match="in use"):
        open_unix_listener(path)
    assert [each.name for each in tmp_path.iterdir()].count(path.name) == 1
    assert kind != "link" or (tmp_path / "other").exists()


@pytest.mark.parametrize("name", ["nowhere/socket", "x" * 200])
async def test_a_path_that_is_not_to_be_had_is_an_os_error(tmp_path, name):
    with pytest.raises(OSError, match=r"No such file|too long"):
        open_unix_listener(tmp_path / name)
    assert not list(tmp_path.iterdir())


async def test_the_file_of_a_successor_stays(path):
    first = open_unix_listener(path)
    path.unlink()
    second = open_unix_listener(path)
    await first.aclose()
    assert path.exists()
    await second.aclose()
    assert not path.exists()


async def test_a_file_that_is_gone_already_is_no_error(path):
    listener = open_unix_listener(path)
    path.unlink()
    await listener.aclose()


async def test_a_relative_path_is_removed_from_where_it_was(path, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    listener = open_unix_listener("socket")
    assert path.exists()
    monkeypatch.chdir("/")
    await listener.aclose()
    assert not path.exists()


def test_it_may_be_opened_before_trio_runs(path):
    listener = open_unix_listener(path)

    async def main() -> None:
        async with serving(listeners=[listener]):
            stream = await trio.open_unix_socket(path)
            async with trioweb.connect("ws://x/", stream=stream) as ws:
                await ws.send("x")
                assert await ws.receive() == "x"

    trio.run(main)
    assert not path.exists()


# Serving.


async def test_a_server_on_a_unix_socket_is_local_has_no_url_and_removes_the_file(path):
    with guard():
        async with trioweb.open_server(echo, 0, listeners=[open_unix_listener(path)]) as server:
            assert is_loopback(server.listeners)  # so authenticate need not be given
            with pytest.raises(ValueError, match="URL"):
                _ = server.url
            stream = await trio.open_unix_socket(path)
            async with trioweb.connect("ws://localhost/", stream=stream) as ws:
                for message in ("text", b"bytes", "x" * 2**20):
                    await ws.send(message)
                    assert await ws.receive() == message
            await server.drain()
            assert not path.exists()
    assert not path.exists()


@pytest.mark.parametrize("how", ["error", "refused"])
async def test_the_file_goes_however_the_server_ends(path, how):
    listeners = [open_unix_listener(path)]
    if how == "error":
        with pytest.raises(KeyError):
            async with trioweb.open_server(echo, 0, listeners=listeners):
                raise KeyError
    else:
        proxies = TrustedProxies(["unix"], header="Forwarded")
        with pytest.raises(ValueError, match="authenticate"):
            async with trioweb.open_server(echo, 0, listeners=listeners, proxies=proxies):
                pass
    assert not path.exists()


async def test_it_serves_beside_tcp(path):
    tcp = await trioweb.open_listeners(0, "127.0.0.1")
    async with serving(listeners=[*tcp, open_unix_listener(path)]) as server:
        for stream in (None, await trio.open_unix_socket(path)):
            async with trioweb.connect(server.url, stream=stream) as ws:
                await ws.send("x")
                assert await ws.receive() == "x"


async def test_tls_on_it(path, server_tls, client_tls):
    async with serving(listeners=[open_unix_listener(path)], ssl_context=server_tls):
        inner = await trio.open_unix_socket(path)
        tls = trio.SSLStream(inner, client_tls, server_hostname="localhost")
        async with trioweb.connect("wss://localhost/", stream=tls) as ws:
            await ws.send("x")
            assert await ws.receive() == "x"


async def test_the_fast_transport_is_used_and_the_peer_has_no_name(path):
    async def tell(ws: trioweb.WebSocket) -> None:
        kind = type(ws._life.transport).__name__
        await ws.send(repr((kind, ws.local_address, ws.remote_address, ws.request.client_address)))

    async with (
        serving(tell, listeners=[open_unix_listener(path)]),
        trioweb.connect("ws://x/", stream=await trio.open_unix_socket(path)) as ws,
    ):
        assert await ws.receive() == repr(("SocketTransport", str(path), "", None))


async def test_bad_input_on_it_has_its_answer_and_its_line_in_the_log(path, caplog):
    caplog.set_level(logging.INFO, "trioweb")
    async with serving(listeners=[open_unix_listener(path)]):
        peer = await dial(path)
        await peer.send(b"nonsense\r\n\r\n")
        assert (await peer.answer()).status == 400
        assert await peer.rest() == b""
        await peer.stream.aclose()
    (line,) = [one.message for one in caplog.records if "answered 400" in one.message]
    assert line.startswith(f"a peer on {str(path)!r}: answered 400")


async def test_a_proxy_that_comes_by_it_is_believed_if_named(path):
    async def tell(ws: trioweb.WebSocket) -> None:
        await ws.send(repr(ws.request.client_address))

    says = {"X-Forwarded-For": "192.0.2.43"}
    for addresses, expected in (["unix"], "('192.0.2.43', 0)"), (["127.0.0.1"], "None"):
        proxies = TrustedProxies(addresses, header="X-Forwarded-For")
        listeners = [open_unix_listener(path)]
        async with serving(tell, listeners=listeners, proxies=proxies, authenticate=None):
            peer = await dial(path)
            await peer.send(asking("/", says))
            assert (await peer.answer()).status == 101
            assert (await peer.frame()).payload.decode() == expected
            await peer.stream.aclose()


async def test_a_proxy_protocol_comes_by_it_too(path):
    async def tell(ws: trioweb.WebSocket) -> None:
        await ws.send(repr(ws.request.client_address))

    proxies = TrustedProxies(["unix"], proxy_protocol=True)
    listeners = [open_unix_listener(path)]
    async with serving(tell, listeners=listeners, proxies=proxies, authenticate=None):
        peer = await dial(path)
        await peer.send(b"PROXY TCP4 203.0.113.7 192.0.2.1 56324 443\r\n", asking())
        assert (await peer.answer()).status == 101
        assert (await peer.frame()).payload.decode() == "('203.0.113.7', 56324)"
        await peer.stream.aclose()


async def test_curl_comes_by_it(path):
    curl = shutil.which("curl") or missing("curl (a package of that name)")

    async def on_request(request: trioweb.Request) -> trioweb.Response | None:
        return None if request.upgrade else trioweb.Response.make(200, f"{request.path}\n")

    async def welcome(ws: trioweb.WebSocket) -> None:
        await ws.send("welcome")
        await forever(ws)

    async with serving(welcome, listeners=[open_unix_listener(path)], on_request=on_request):
        plain = [curl, "--silent", "--show-error", "--max-time", "20", "--unix-socket", str(path)]
        got = await trio.run_process([*plain, "http://localhost/page"], capture_stdout=True)
        assert got.stdout == b"/page\n"
        upgrade = [
            *("--include", "--no-buffer", "--http1.1", "--header", "Connection: Upgrade"),
            *("--header", "Upgrade: websocket", "--header", "Sec-WebSocket-Version: 13"),
            *("--header", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="),
        ]
        async with trio.open_nursery() as nursery:
            run = partial(trio.run_process, stdout=subprocess.PIPE, check=False)
            process = await nursery.start(run, [*plain, *upgrade, "http://localhost/"])
            output = b""
            while b"welcome" not in output:
                piece = await process.stdout.receive_some()
                assert piece, output
                output += piece
            assert output.startswith(b"HTTP/1.1 101 ")
            assert b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in output
            process.terminate()
