"""Origins (RFC 6455, 10.2): a page of another host gets 403, before the upgrade."""

from __future__ import annotations

from dataclasses import replace

import pytest

import trioweb
from tests.helpers import asking, dialling, port_of, serving
from trioweb.guard import is_allowed_origin


def _request(origin: str | None, host: str = "example.org") -> trioweb.Request:
    headers = [("Host", host)] + ([("Origin", origin)] if origin is not None else [])
    return trioweb.Request("/", trioweb.Headers(headers))


@pytest.mark.parametrize(
    ("origin", "host", "allowed"),
    [
        (None, "example.org", True),
        ("https://example.org", "example.org", True),
        ("HTTP://Example.ORG", "example.org", True),
        ("https://example.org", "example.org:443", True),
        ("http://localhost:8000", "localhost:8000", True),
        ("http://[::1]:8000", "[::1]:8000", True),
        ("http://localhost:8000", "localhost:8001", False),
        ("http://localhost", "localhost:8000", False),
        ("https://evil.org", "example.org", False),
        ("https://example.org.evil.org", "example.org", False),
        ("null", "example.org", False),
        ("", "example.org", False),
        ("file://", "example.org", False),
        ("https://example.org, https://evil.org", "example.org", False),
        ("https://example.org:99999", "example.org", False),
        ("https://[broken", "example.org", False),
    ],
)
def test_a_page_of_the_same_host_passes(origin: str | None, host: str, allowed: bool) -> None:
    assert is_allowed_origin(_request(origin, host), ()) is allowed


@pytest.mark.parametrize(
    ("origin", "host", "allowed"),
    [
        ("https://example.org", "example.org", True),
        ("https://example.org", "example.org:443", True),
        ("https://example.org:8443", "example.org:8443", True),
        ("http://example.org", "example.org", False),
        ("http://example.org", "example.org:443", False),
        ("http://example.org:443", "example.org", False),
        ("https://example.org:80", "example.org", False),
    ],
)
def test_over_tls_the_page_must_have_come_by_tls_too(origin: str, host: str, allowed: bool) -> None:
    request = replace(_request(origin, host), scheme="https")
    assert is_allowed_origin(request, ()) is allowed


def test_others_must_be_listed() -> None:
    assert is_allowed_origin(_request("https://app.example.com"), ["https://App.example.com/"])
    assert not is_allowed_origin(_request("https://app.example.com"), ["https://example.com"])
    assert is_allowed_origin(_request("https://anybody"), None)


async def _echo(ws: trioweb.WebSocket) -> None:
    async for message in ws:
        await ws.send(message)


@pytest.mark.parametrize("origins", [(), ["https://friend.org"]])
async def test_a_server_refuses_a_strange_page(origins: list[str]) -> None:
    async with trioweb.open_server(_echo, 0, host="127.0.0.1", origins=origins) as server:
        with pytest.raises(trioweb.HandshakeRejected) as caught:
            async with trioweb.connect(server.url, headers={"Origin": "https://evil.org"}):
                pass
        assert caught.value.status == 403
        for origin in origins:
            async with trioweb.connect(server.url, headers={"Origin": origin}) as ws:
                await ws.send("x")
                assert await ws.receive() == "x"


@pytest.mark.parametrize(
    ("name", "allowed"),
    [
        ("localhost", True),
        ("app.localhost", True),
        ("127.0.0.1", True),
        ("[::1]", True),
        ("example.org", False),
        ("localhost.example.org", False),
    ],
)
@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "::ffff:127.0.0.1"])
def test_on_loopback_a_name_that_may_be_anybodys_is_not_our_own(
    name: str, allowed: bool, address: str
) -> None:
    request = _request(f"http://{name}:8000", f"{name}:8000")
    assert is_allowed_origin(request, (), local_address=(address, 8000)) is allowed
    assert is_allowed_origin(request, [f"http://{name}:8000"], local_address=(address, 8000))
    for other in (("192.0.2.1", 8000), ("server", 8000), None):
        assert is_allowed_origin(request, (), local_address=other)


async def test_a_page_whose_name_was_made_to_lead_here_is_turned_away() -> None:
    async with serving() as server:
        port = port_of(server)
        for name, status in (("localhost", 101), ("evil.example", 403)):
            headers = {"Host": f"{name}:{port}", "Origin": f"http://{name}:{port}"}
            async with dialling(server) as peer:
                await peer.send(asking("/", headers))
                assert (await peer.answer()).status == status
