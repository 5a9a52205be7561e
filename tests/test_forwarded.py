"""Headers of proxies: who is believed, whom they name, and what a malformed one gets."""

from __future__ import annotations

import ipaddress
import logging
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import trioweb
from tests.helpers import asking, dialling, looping, serving, upgraded
from trioweb import Headers, Request, Response, TrustedProxies
from trioweb.forwarded import ForwardedError

TRUSTED = ["127.0.0.1", "10.0.0.0/8", "2001:db8:1::/48", "unix"]
FORWARDED = TrustedProxies(TRUSTED, header="Forwarded")
X_FORWARDED = TrustedProxies(TRUSTED, header="X-Forwarded-For", also=["proto", "host"])


def asked(proxies: TrustedProxies, *lines: tuple[str, str]) -> Request:
    headers = Headers([("Host", "inner"), *lines])
    return proxies.resolve(Request("/", headers, client_address=("127.0.0.1", 5)))


# Forwarded.


@pytest.mark.parametrize(
    ("lines", "client"),
    [
        (["for=192.0.2.43"], ("192.0.2.43", 0)),
        (["For=192.0.2.43"], ("192.0.2.43", 0)),
        (['for="192.0.2.43:47011"'], ("192.0.2.43", 47011)),
        (["for=192.0.2.43:47011"], ("192.0.2.43", 47011)),  # should be quoted, and often is not
        (['for="[2001:DB8:cafe::17]"'], ("2001:db8:cafe::17", 0)),
        (['for="[2001:db8:cafe::17]:4711"'], ("2001:db8:cafe::17", 4711)),
        (["for=[2001:db8:cafe::17]:4711"], ("2001:db8:cafe::17", 4711)),
        ([r'for="192.0.2.4\3"'], ("192.0.2.43", 0)),
        (["for=unknown"], ("unknown", 0)),
        (["for=_hidden"], ("_hidden", 0)),
        (['for="_hidden:_port"'], ("_hidden", 0)),
        (['for="192.0.2.43:_port"'], ("192.0.2.43", 0)),
        (["by=10.0.0.1;for=192.0.2.43;proto=http"], ("192.0.2.43", 0)),
        (["by=10.0.0.1"], ("unknown", 0)),
        (["for=192.0.2.43;"], ("192.0.2.43", 0)),
        (["  for=192.0.2.43 ; proto=http  "], ("192.0.2.43", 0)),
        (["for=192.0.2.43, ,"], ("192.0.2.43", 0)),
        # The last one that is not trusted counts, from our end.
        (["for=192.0.2.1, for=192.0.2.43"], ("192.0.2.43", 0)),
        (["for=192.0.2.1", "for=192.0.2.43"], ("192.0.2.43", 0)),
        (["for=192.0.2.43, for=10.1.2.3"], ("192.0.2.43", 0)),
        (["for=192.0.2.43", 'for="[2001:db8:1::9]:80"', "for=10.1.2.3"], ("192.0.2.43", 0)),
        (["for=10.9.9.9, for=10.1.2.3"], ("10.9.9.9", 0)),
        (["for=10.9.9.9, for=unknown, for=10.1.2.3"], ("unknown", 0)),
        (["for=10.9.9.9", "for=192.0.2.43", "for=10.1.2.3"], ("192.0.2.43", 0)),
        (["for=[::ffff:c000:22b]", 'for="[::ffff:10.1.2.3]"'], ("192.0.2.43", 0)),
        (["for=[::ffff:10.1.2.3]", 'for="[::ffff:10.1.2.3]"'], ("10.1.2.3", 0)),
        # What stands in lines before it is anybody's invention, and harms nobody.
        (['for="never closed', "for=192.0.2.43"], ("192.0.2.43", 0)),
        (["nonsense", "for=192.0.2.43"], ("192.0.2.43", 0)),
    ],
)
def test_forwarded_names_the_client(lines, client):
    assert asked(FORWARDED, *(("Forwarded", line) for line in lines)).client_address == client


MALFORMED = [
    "nonsense",
    "for",
    "for=",
    "=x",
    "for = 192.0.2.43",
    'for="192.0.2.43',
    'for=192.0.2.43"',
    'for="192.0.2.43"x',
    "for=192.0.2.43 proto=http",
    "for=192.0.2.43;for=192.0.2.44",
    "for=192.0.2.256",
    "for=192.0.2.043",
    "for=192.0.2.43:65536",
    "for=192.0.2.43:",
    "for=192.0.2.43:123456",
    "for=[::1",
    "for=[192.0.2.43]",
    "for=[12345::]",
    "for=example.org",
    "for=_",
    'for=""',
    'for="a\\"',
    "for=192.0.2.43;proto=ftp",
    'for=192.0.2.43;proto="https, http"',
    'for=192.0.2.43;host="a b"',
    'for=192.0.2.43;host="[::1"',
    # A client's quote that swallows what its proxy adds is its own loss.
    'for="x, for=192.0.2.43',
    'for="x, for="[2001:db8::5]"',
]


@pytest.mark.parametrize("line", MALFORMED)
def test_a_malformed_forwarded_is_refused(line):
    with pytest.raises(ForwardedError):
        asked(FORWARDED, ("Forwarded", line))


def test_scheme_and_host_are_those_of_the_clients_own_element():
    request = asked(
        FORWARDED,
        ("Forwarded", "for=192.0.2.1;proto=http;host=evil.org, for=192.0.2.43;proto=HTTPS"),
        ("Forwarded", 'for=10.1.2.3;host="inner:80";proto=http'),
    )
    assert (request.client_address, request.scheme) == (("192.0.2.43", 0), "https")
    assert request.headers["Host"] == "inner"
    request = asked(FORWARDED, ("Forwarded", 'for=192.0.2.43;host="example.org:8443"'))
    assert request.headers.get_all("Host") == ["example.org:8443"]
    assert request.scheme == "http"


# X-Forwarded-For.


@pytest.mark.parametrize(
    ("lines", "client"),
    [
        (["192.0.2.43"], ("192.0.2.43", 0)),
        (["192.0.2.43:4711"], ("192.0.2.43", 4711)),
        (["2001:db8:cafe::17"], ("2001:db8:cafe::17", 0)),
        (["[2001:db8:cafe::17]"], ("2001:db8:cafe::17", 0)),
        (["[2001:db8:cafe::17]:4711"], ("2001:db8:cafe::17", 4711)),
        (["unknown"], ("unknown", 0)),
        (["192.0.2.1, 192.0.2.43"], ("192.0.2.43", 0)),
        (["192.0.2.43,10.1.2.3 , 2001:db8:1::9"], ("192.0.2.43", 0)),
        (["192.0.2.43", "10.1.2.3"], ("192.0.2.43", 0)),
        (["10.9.9.9, 10.1.2.3"], ("10.9.9.9", 0)),
        (["garbage\x80, 192.0.2.43, 10.1.2.3"], ("192.0.2.43", 0)),
        ([", 192.0.2.43,"], ("192.0.2.43", 0)),
    ],
)
def test_x_forwarded_for_names_the_client(lines, client):
    request = asked(X_FORWARDED, *(("X-Forwarded-For", line) for line in lines))
    assert request.client_address == client


@pytest.mark.parametrize(
    "line",
    [
        "x",
        "192.0.2",
        "192.0.2.43:x",
        "fe80::1%\xa0x",
        "[fe80::1%x]",
        "[::1",
        "for=1.2.3.4",
        "a, 10.1.1.1",
    ],
)
def test_a_malformed_x_forwarded_for_is_refused(line):
    with pytest.raises(ForwardedError):
        asked(X_FORWARDED, ("X-Forwarded-For", line))


@pytest.mark.parametrize(
    ("addresses", "schemes", "hosts", "scheme", "host"),
    [
        ("192.0.2.43", None, None, "http", "inner"),
        ("192.0.2.43", "https", "example.org", "https", "example.org"),
        ("192.0.2.43", "wss", "example.org:81", "https", "example.org:81"),
        ("192.0.2.43, 10.1.2.3", "https", "example.org", "https", "example.org"),
        ("192.0.2.43, 10.1.2.3", "https, http", "example.org, middle", "https", "example.org"),
        ("192.0.2.43", "https, http", "evil.org, example.org", "http", "example.org"),
    ],
)
def test_scheme_and_host_are_those_of_the_clients_own_place(
    addresses, schemes, hosts, scheme, host
):
    lines = {
        "X-Forwarded-For": addresses,
        "X-Forwarded-Proto": schemes,
        "X-Forwarded-Host": hosts,
    }
    pairs = [(name, value) for name, value in lines.items() if value is not None]
    request = asked(X_FORWARDED, *pairs)
    assert (request.scheme, request.headers["Host"]) == (scheme, host)


@pytest.mark.parametrize(
    ("name", "value"), [("X-Forwarded-Proto", "gopher"), ("X-Forwarded-Host", "a b")]
)
def test_a_malformed_scheme_or_host_is_refused(name, value):
    with pytest.raises(ForwardedError):
        asked(X_FORWARDED, ("X-Forwarded-For", "192.0.2.43"), (name, value))


# Both.


@pytest.mark.parametrize("proxies", [FORWARDED, X_FORWARDED])
def test_without_the_header_the_proxy_itself_asks(proxies):
    request = Request("/", Headers({"Host": "inner", "X-Forwarded-Proto": "https"}))
    assert proxies.resolve(request) is request
    other = "X-Forwarded-For" if proxies.header == "Forwarded" else "Forwarded"
    assert asked(proxies, (other, "for=192.0.2.1")).client_address == ("127.0.0.1", 5)


_TEXT = st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=60)
_PARTS = st.lists(
    st.sampled_from(
        [*'",;=\\[]: ', "for=", "proto=https", "host=a.b", "10.0.0.1", "::1", "unknown"]
    )
    | _TEXT
)


@given(st.lists(_PARTS.map("".join), max_size=3), st.sampled_from([FORWARDED, X_FORWARDED]))
def test_any_header_ends_in_a_client_or_a_refusal(lines, proxies):
    assert proxies.header is not None
    try:
        request = asked(proxies, *((proxies.header, line) for line in lines))
    except ForwardedError:
        return
    assert isinstance(request.client_address, tuple)
    host, port = request.client_address
    assert 0 <= port <= 65535
    # It goes into logs and access lists: an address, or a plain word.
    if not re.fullmatch(r"(?i:unknown)|_[-._0-9A-Za-z]+", host):
        ipaddress.ip_address(host)


@pytest.mark.parametrize(
    "line",
    [
        " " * 2**14 + "x",
        "for=" + "a" * 2**14 + '"',
        'for="' + "\\a" * 2**13,
        'for="' + "a," * 2**13,
        "for=10.0.0.1," * 1200,
        ";" * 2**14 + "(",
        "10.0.0.1," * 1800 + "x",
        "[" * 2**14,
    ],
)
@pytest.mark.parametrize("proxies", [FORWARDED, X_FORWARDED])
def test_no_header_takes_long(proxies, line):
    # Four times what a head may have: a quadratic search would compute for many seconds.
    with looping(), suppress(ForwardedError):
        asked(proxies, (proxies.header, line * 4))


# Options.


@pytest.mark.parametrize(
    ("addresses", "options"),
    [
        (["127.0.0.1"], {}),
        ([], {"header": "Forwarded"}),
        ("127.0.0.1", {"header": "Forwarded"}),
        (["localhost"], {"header": "Forwarded"}),
        (["10.0.0.1/8"], {"header": "Forwarded"}),
        (["127.0.0.1"], {"header": "X-Real-IP"}),
    ],
)
def test_what_makes_no_sense_is_refused(addresses, options):
    with pytest.raises(ValueError, match=r"trusted|list|network|bits|header"):
        TrustedProxies(addresses, **options)


@pytest.mark.parametrize(
    ("address", "local", "trusted"),
    [
        (("127.0.0.1", 5), ("127.0.0.1", 1), True),
        (("127.0.0.2", 5), ("127.0.0.1", 1), False),
        (("10.255.0.1", 5), ("10.0.0.1", 1), True),
        (("::ffff:10.255.0.1", 5, 0, 0), ("::", 1, 0, 0), True),
        (("2001:db8:1::5", 5, 0, 0), ("::", 1, 0, 0), True),
        (("2001:db8:2::5", 5, 0, 0), ("::", 1, 0, 0), False),
        (("fe80::1%eth0", 5, 0, 2), ("::", 1, 0, 0), False),
        ("", "/run/socket", True),
        ("", b"\0abstract", True),
        ("", ("127.0.0.1", 1), False),
        (None, None, False),
        (("client", 5), ("server", 1), False),
    ],
)
def test_who_is_trusted(address, local, trusted):
    assert FORWARDED.trusts(address, local) is trusted


def test_unix_peers_are_trusted_only_by_name():
    assert not TrustedProxies(["0.0.0.0/0"], header="Forwarded").trusts("", "/run/socket")


async def test_behind_a_proxy_authenticate_must_be_given():
    with pytest.raises(ValueError, match="authenticate"):
        async with trioweb.open_server(_tell, 0, proxies=FORWARDED):
            pass


# Servers.


async def _tell(ws: trioweb.WebSocket) -> None:
    request = ws.request
    await ws.send(repr((request.client_address, request.scheme, request.headers["Host"])))
    assert ws.remote_address[0] == "127.0.0.1"


async def _told(server: trioweb.Server, headers: Mapping[str, str]) -> str:
    async with upgraded(server, headers=headers) as peer:
        return (await peer.frame()).payload.decode()


SAYS = {"Forwarded": "for=192.0.2.43;proto=https;host=example.org"}


async def test_a_server_sees_the_request_as_the_client_made_it():
    async with serving(_tell, proxies=FORWARDED, authenticate=None) as server:
        assert await _told(server, SAYS) == "(('192.0.2.43', 0), 'https', 'example.org')"


@pytest.mark.parametrize(
    "proxies", [None, TrustedProxies(["10.0.0.0/8"], header="Forwarded"), X_FORWARDED]
)
async def test_nobody_else_is_believed(proxies):
    async with serving(_tell, proxies=proxies, authenticate=None) as server:
        told = await _told(server, SAYS)
    assert told.startswith("(('127.0.0.1', ")
    assert told.endswith(", 'http', 'localhost')")


async def test_a_malformed_header_is_400_with_a_line_in_the_log_and_no_secret(caplog):
    caplog.set_level(logging.INFO, "trioweb")
    async with serving(_tell, proxies=FORWARDED, authenticate=None) as server:
        async with dialling(server) as peer:
            await peer.send(asking("/x?token=secret", {"Forwarded": "for=s3cret:evil"}))
            answer = await peer.answer()
            assert (answer.status, answer.body) == (400, b"a forwarded address is malformed\n")
            assert await peer.rest() == b""
        assert (await _told(server, SAYS)).startswith("(('192.0.2.43'")
    (line,) = [one.message for one in caplog.records if "answered 400" in one.message]
    assert "cret" not in line


async def test_the_origin_is_compared_with_the_host_that_the_client_asked_for(caplog):
    caplog.set_level(logging.INFO, "trioweb")
    async with serving(_tell, proxies=FORWARDED, authenticate=None) as server:
        await _told(server, {**SAYS, "Origin": "https://example.org"})
        for origin in ("https://localhost", "http://example.org", "https://example.org:444"):
            async with dialling(server) as peer:
                await peer.send(asking("/", {**SAYS, "Origin": origin}))
                assert (await peer.answer()).status == 403
    lines = [one.message for one in caplog.records if "answered 403" in one.message]
    assert len(lines) == 3
    assert all("('192.0.2.43', 0) via ('127.0.0.1', " in line for line in lines)


async def test_on_request_and_checks_see_the_client_too():
    seen = []

    async def on_request(request: Request) -> Response | None:
        seen.append(request.client_address)
        return None

    async def check(request: Request) -> str:
        seen.append(request.client_address)
        return "somebody"

    async with serving(
        _tell, proxies=FORWARDED, authenticate=check, on_request=on_request
    ) as server:
        await _told(server, SAYS)
    assert seen == [("192.0.2.43", 0)] * 2


def test_what_is_not_named_is_not_believed():
    lines = [
        ("X-Forwarded-For", "192.0.2.43"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-Host", "admin.internal"),
    ]
    request = asked(TrustedProxies(TRUSTED, header="X-Forwarded-For"), *lines)
    assert (request.client_address, request.scheme) == (("192.0.2.43", 0), "http")
    assert request.headers["Host"] == "inner"
    request = asked(TrustedProxies(TRUSTED, header="X-Forwarded-For", also=["proto"]), *lines)
    assert (request.scheme, request.headers["Host"]) == ("https", "inner")
    wrong: list[dict[str, Any]] = [
        {"header": "X-Forwarded-For", "also": ["port"]},
        {"header": "X-Forwarded-For", "also": "host"},
        {"header": "Forwarded", "also": ["host"]},
    ]
    for options in wrong:
        with pytest.raises(ValueError, match="also"):
            TrustedProxies(TRUSTED, **options)
