"""Any bytes as a PROXY header, and any text as what a proxy says of the client."""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Sequence

from hypothesis import example, given
from hypothesis import strategies as st

from trioweb.forwarded import TrustedProxies
from trioweb.types import Headers, Request

from .proxies import check_forwarded, check_proxy_header
from .strategies import cuts, mutated

#: Every byte by itself.
BYTES = (1,)

_v4 = st.ip_addresses(v=4)
_v6 = st.ip_addresses(v=6)
_ports = st.integers(0, 65535)


@st.composite
def headers(draw: st.DrawFn) -> tuple[bytes, tuple[str, int]]:
    """Write a PROXY header, and say whom it names."""
    addresses = _v4 if draw(st.booleans()) else _v6
    source, destination = draw(addresses), draw(addresses)
    port, other = draw(_ports), draw(_ports)
    mapped = isinstance(source, ipaddress.IPv6Address) and source.ipv4_mapped
    named = (str(mapped or source), port)
    if draw(st.booleans()):
        line = f"PROXY TCP{source.version} {source} {destination} {port} {other}\r\n"
        return line.encode(), named
    body = source.packed + destination.packed + struct.pack("!HH", port, other)
    body += draw(st.binary(max_size=40))  # TLVs
    family = 0x11 if isinstance(source, ipaddress.IPv4Address) else 0x21
    return b"\r\n\r\n\0\r\nQUIT\n" + struct.pack("!BBH", 0x21, family, len(body)) + body, named


@given(headers(), cuts, st.binary(max_size=8))
def test_a_right_header_is_read_up_to_its_end(
    header: tuple[bytes, tuple[str, int]], sizes: Sequence[int], behind: bytes
) -> None:
    data, named = header
    found = check_proxy_header(data + behind, sizes or BYTES, BYTES)
    assert found == ("header", named, len(data))


@given(st.data(), headers(), cuts)
def test_a_header_that_is_nearly_right(
    data: st.DataObject, header: tuple[bytes, object], sizes: Sequence[int]
) -> None:
    check_proxy_header(data.draw(mutated(header[0])), sizes or BYTES, BYTES)


@given(st.binary(max_size=120), cuts)
@example(b'\x01D\r\n\r\n\0\r"', ())  # a line that is over before it can be long enough
def test_any_bytes_are_a_header_or_none(data: bytes, sizes: Sequence[int]) -> None:
    check_proxy_header(data, sizes or BYTES)
    check_proxy_header(b"PROXY " + data, sizes or BYTES)
    check_proxy_header(b"\r\n\r\n\0\r\nQUIT\n" + data, sizes or BYTES)


_nodes = st.one_of(
    _v4.map(str),
    _v6.map(lambda address: f'"[{address}]:443"'),
    st.sampled_from(["unknown", "_x", "10.1.2.3", '"127.0.0.1:80"', "", "::1", "1.2.3", '"\\a"']),
)
_elements = st.lists(
    st.sampled_from(["proto=https", "proto=ftp", "host=a.b", 'host="a b"', "by=_y", ";", "=", '"'])
    | _nodes.map("for={}".format),
    max_size=4,
).map(";".join)
_values = st.lists(_elements | _nodes | st.text(max_size=20), max_size=4).map(", ".join)


@given(st.lists(_values, max_size=4))
def test_any_text_is_a_forwarded_header_or_none(values: Sequence[str]) -> None:
    check_forwarded(values)


@given(_v4.filter(lambda address: address not in ipaddress.ip_network("10.0.0.0/8")), _ports)
def test_the_client_is_who_the_last_trusted_proxy_names(
    address: ipaddress.IPv4Address, port: int
) -> None:
    value = f'for=203.0.113.9, for="{address}:{port}";proto=wss, for=10.0.0.7'
    request = Request("/", Headers([("Forwarded", value)]))
    found = TrustedProxies(["10.0.0.0/8"], header="Forwarded").resolve(request)
    assert found.client_address == (str(address), port)
    assert found.scheme == "https"
