"""Node's ws, websockets on asyncio, and aiohttp: both ways round, in processes of their own."""

from __future__ import annotations

from pathlib import Path
from ssl import SSLContext

import pytest

import trioweb
from tests.helpers import guard
from tests.interop.kit import (
    FRAGMENTS,
    HERE,
    check_seen,
    our_server,
    output_of,
    python_program,
    running,
    try_server,
)


@pytest.fixture(params=["ws", "websockets", "aiohttp"])
def peer(request: pytest.FixtureRequest) -> str:
    """Return the name of the program at the other end."""
    name: str = request.param
    return name


def command(request: pytest.FixtureRequest, peer: str, role: str) -> list[str]:
    if peer == "ws":
        return [*request.getfixturevalue("node_with_packages"), str(HERE / "node" / f"{role}.cjs")]
    return python_program(f"{peer}_{role}.py", peer)


async def test_their_client_with_our_server(
    request: pytest.FixtureRequest,
    peer: str,
    secure: bool,
    deflate: bool,
    server_tls: SSLContext,
    ca_file: Path,
):
    client = command(request, peer, "client")
    async with our_server(
        ssl_context=server_tls if secure else None,
        deflate=trioweb.Deflate() if deflate else None,
    ) as (server, ours):
        # They offer compression in any case: without it, ours declines.
        seen = await output_of([*client, server.url, "true", str(ca_file) if secure else ""])
    check_seen(seen, ours, deflate=deflate, fragments=peer != "aiohttp")


async def test_our_server_with_a_client_that_offers_no_compression(
    request: pytest.FixtureRequest, peer: str
):
    async with our_server(deflate=trioweb.Deflate()) as (server, ours):
        seen = await output_of([*command(request, peer, "client"), server.url, "false", ""])
    check_seen(seen, ours, deflate=False, fragments=peer != "aiohttp")


async def test_their_server_with_our_client(
    request: pytest.FixtureRequest,
    peer: str,
    secure: bool,
    deflate: bool,
    server_pem: Path,
    client_tls: SSLContext,
):
    server = command(request, peer, "server")
    arguments = ["true" if deflate else "false", str(server_pem) if secure else ""]
    with guard():
        async with running([*server, *arguments]) as lines:
            url = f"{'wss' if secure else 'ws'}://127.0.0.1:{int(await lines.next())}"
            tls = client_tls if secure else None
            await try_server(url, lines, deflate=deflate, ssl_context=tls)
            if peer != "aiohttp":  # it has no way to send fragments
                async with trioweb.connect(
                    url + "/fragments",
                    ssl_context=tls,
                    deflate=trioweb.Deflate() if deflate else None,
                ) as ws:
                    assert await ws.receive() == FRAGMENTS
