"""curl: the upgrade as it stands on the wire, and plain HTTP on the same port."""

from __future__ import annotations

import os
from pathlib import Path
from ssl import SSLContext
from typing import Any

import pytest

import trioweb
from tests.helpers import KEY, serving
from tests.interop.kit import our_server, output_of, program, running

UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": KEY,
}


class Curl:
    """Runs curl against a server."""

    def __init__(self, ca_file: Path | None) -> None:
        self.command = [program("curl"), "--silent", "--show-error", "--noproxy", "*"]
        self.scheme = "http"
        if ca_file is not None:
            self.command += ["--cacert", str(ca_file)]
            self.scheme = "https"

    def to(self, server: trioweb.Server, path: str, *options: str) -> list[str]:
        return [*self.command, *options, f"{self.scheme}:{server.url.partition(':')[2]}{path}"]

    async def __call__(
        self, server: trioweb.Server, path: str, *options: str, stdin: bytes = b""
    ) -> bytes:
        return await output_of(self.to(server, path, *options), stdin=stdin)

    async def head(
        self, server: trioweb.Server, path: str, *options: str, stdin: bytes = b""
    ) -> tuple[int, dict[str, str], bytes]:
        """Return the status, the headers and the body of the answer."""
        answer = await self(server, path, "--include", *options, stdin=stdin)
        head, _, body = answer.partition(b"\r\n\r\n")
        first, *lines = head.decode().splitlines()
        pairs = (line.split(": ", 1) for line in lines)
        return int(first.split()[1]), {name.lower(): value for name, value in pairs}, body


@pytest.fixture
def tls(secure: bool, server_tls: SSLContext) -> SSLContext | None:
    return server_tls if secure else None


@pytest.fixture
def curl(secure: bool, ca_file: Path) -> Curl:
    return Curl(ca_file if secure else None)


@pytest.fixture
def site(tmp_path: Path) -> trioweb.Site:
    (tmp_path / "sub").mkdir()
    (tmp_path / "index.html").write_text("<h1>hi</h1>")
    (tmp_path / "sub" / "index.html").write_text("sub")
    (tmp_path / "large.bin").write_bytes(bytes(range(256)) * 2**14)
    return trioweb.Site({"/": tmp_path}, health="/health")


async def test_the_upgrade(curl: Curl, tls: SSLContext | None, deflate: bool):
    async def greet(ws: trioweb.WebSocket) -> None:
        await ws.send("hello\n")
        await ws.receive()

    headers = UPGRADE | {"Sec-WebSocket-Extensions": "permessage-deflate"}
    options = [part for name, value in headers.items() for part in ("-H", f"{name}: {value}")]
    settings: dict[str, Any] = {"deflate": trioweb.Deflate() if deflate else None}
    async with serving(greet, ssl_context=tls, **settings) as server:
        command = curl.to(server, "/", "--http1.1", "--include", "--no-buffer", *options)
        async with running(command) as lines:
            assert (await lines.next()).rstrip() == "HTTP/1.1 101 Switching Protocols"
            seen = {}
            while line := (await lines.next()).rstrip():
                name, _, value = line.partition(": ")
                seen[name.lower()] = value
            # The frame's two bytes of header are no UTF-8.
            assert (await lines.next()).endswith("hello")
    assert seen["upgrade"] == "websocket"
    assert seen["connection"] == "Upgrade"
    assert seen["sec-websocket-accept"] == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    assert ("permessage-deflate" in seen.get("sec-websocket-extensions", "")) is deflate


async def test_pages(curl: Curl, tls: SSLContext | None, site: trioweb.Site, tmp_path: Path):
    async with our_server(ssl_context=tls, on_request=site) as (server, _):
        status, headers, body = await curl.head(server, "/")
        assert (status, body) == (200, b"<h1>hi</h1>")
        assert headers["content-type"] == "text/html; charset=utf-8"
        assert headers["connection"] == "close"
        assert "date" in headers

        assert await curl(server, "/health") == b"ok\n"
        status, headers, body = await curl.head(server, "/health", "--head")
        assert (status, headers["content-length"], body) == (200, "3", b"")
        status, headers, body = await curl.head(server, "/large.bin", "--head")
        assert (status, headers["content-length"], body) == (200, str(2**22), b"")
        large = await curl(server, "/large.bin")
        assert large == (tmp_path / "large.bin").read_bytes()
        assert await curl(server, "/sub", "--location") == b"sub"
        assert await curl(server, "/", "--http1.0") == b"<h1>hi</h1>"
        assert (await curl.head(server, "/../secret", "--path-as-is"))[0] == 404


async def test_a_page_that_curl_has_already(
    curl: Curl, tls: SSLContext | None, site: trioweb.Site, tmp_path: Path
):
    os.utime(tmp_path / "index.html", (1e9, 1e9))
    tag = str(tmp_path / "tag")
    async with our_server(ssl_context=tls, on_request=site) as (server, _):
        assert (await curl.head(server, "/", "--etag-save", tag))[0] == 200
        status, headers, body = await curl.head(server, "/", "--etag-compare", tag)
        assert (status, body) == (304, b"")
        assert "content-length" not in headers
        page = str(tmp_path / "index.html")
        assert (await curl.head(server, "/", "--time-cond", page))[0] == 304


@pytest.mark.parametrize("length", [10, 10_000_000])
async def test_a_body_that_nobody_wants_does_not_cost_the_answer(
    curl: Curl, tls: SSLContext | None, site: trioweb.Site, length: int
):
    # From a megabyte on curl waits for "100 Continue", for a second: a final answer comes instead.
    async with our_server(ssl_context=tls, on_request=site) as (server, _):
        for options in ([], ["-H", "Transfer-Encoding: chunked"], ["-H", "Expect:"]):
            for path, expected in {"/": 405, "/nothing": 404}.items():
                status, _, body = await curl.head(
                    server, path, "--data-binary", "@-", *options, stdin=bytes(length)
                )
                assert (status, body[-1:]) == (expected, b"\n")
    async with our_server(ssl_context=tls) as (server, _):
        status, headers, _ = await curl.head(
            server, "/", "--data-binary", "@-", "-H", "Expect:", stdin=bytes(length)
        )
        assert (status, headers["upgrade"]) == (426, "websocket")
