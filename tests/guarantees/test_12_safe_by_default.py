"""Guarantee 12: loopback unless told, authenticate off loopback, and nothing mounted unasked."""

from __future__ import annotations

import ipaddress

import pytest
from trio.testing import MockClock

import trioweb
from tests.guarantees.peers import Link, echo


async def test_loopback_unless_told() -> None:
    async with trioweb.open_server(echo, 0) as server:
        addresses = [each.socket.getsockname()[0] for each in server.listeners]  # type: ignore[attr-defined]  # they are sockets
        assert addresses
        assert all(ipaddress.ip_address(address).is_loopback for address in addresses)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", None])
async def test_off_loopback_authenticate_must_be_written_out(host: str | None) -> None:
    with pytest.raises(ValueError, match="authenticate"):
        async with trioweb.open_server(echo, 0, host=host):
            pass


async def test_and_none_may_be_written_out() -> None:
    async with trioweb.open_server(echo, 0, host="0.0.0.0", authenticate=None) as server:
        async with trioweb.connect(server.url) as ws:
            await ws.send("x")
            assert await ws.receive() == "x"


@pytest.mark.parametrize("path", ["/", "/health", "/metrics", "/debug"])
async def test_nothing_is_mounted_unasked(clock: MockClock, link: Link, path: str) -> None:
    async with link.server(echo) as server, await link.open_stream(server) as stream:
        await stream.send_all(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert (await stream.receive_some()).startswith(b"HTTP/1.1 426")


async def test_a_message_has_a_limit_by_default(clock: MockClock, link: Link) -> None:
    async with link.server(echo) as server, link.client(server) as ws:
        await ws.send(b"x" * (2**20 + 1))
        with pytest.raises(trioweb.ConnectionBroken, match="1009"):
            await ws.receive()
