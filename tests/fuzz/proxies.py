"""What must hold for what proxies say of the client: PROXY headers, Forwarded, X-Forwarded-*."""

from __future__ import annotations

import ipaddress
import itertools
from collections.abc import Sequence
from typing import TypeAlias

from trioweb.forwarded import ForwardedError, TrustedProxies
from trioweb.protocol.http import check_host
from trioweb.protocol.proxy import ProxyHeaderError, ProxyReader
from trioweb.types import Headers, Request

__all__ = ["check_forwarded", "check_proxy_header"]

#: The most that a PROXY header may take of us (`trioweb.protocol.proxy`).
_MOST = 4096
_V2 = b"\r\n\r\n\0\r\nQUIT\n"
_TRUSTED = ["127.0.0.1", "10.0.0.0/8", "::1"]
_READS = (
    TrustedProxies(_TRUSTED, header="Forwarded"),
    TrustedProxies(_TRUSTED, header="X-Forwarded-For"),
)

_Outcome: TypeAlias = tuple[object, ...]


def check_proxy_header(data: bytes, *cuttings: Sequence[int]) -> _Outcome:
    """A stream begins with a header, or does not, however it is cut; nothing is read behind it."""
    outcomes = [_read(data, sizes) for sizes in ((_MOST,), *cuttings)]
    assert all(one == outcomes[0] for one in outcomes), f"{data!r}: {outcomes}"
    return outcomes[0]


def _read(data: bytes, sizes: Sequence[int]) -> _Outcome:
    reader, at = ProxyReader(), 0
    for size in itertools.cycle(sizes):
        if at == len(data):
            return ("more",)
        piece = data[at : at + min(max(size, 1), reader.needs)]
        at += len(piece)
        try:
            reader.feed(piece)
        except ProxyHeaderError:
            return ("wrong",)
        assert at + reader.needs <= _MOST
        if not reader.needs:
            break
    header = data[:at]
    if header.startswith(_V2):
        length = int.from_bytes(header[14:16], "big")
        assert at == 16 + length
        if reader.source is not None:
            assert length >= {0x11: 12, 0x21: 36}[header[13]]
    else:
        assert header.index(b"\r\n") == at - 2
        assert at <= 107
    if reader.source is not None:
        _check_address(reader.source)
        assert str(ipaddress.ip_address(reader.source[0])) == reader.source[0]
    return ("header", reader.source, at)


def check_forwarded(values: Sequence[str]) -> None:
    """A header of a trusted proxy gives a request that can be believed, or one kind of error."""
    lines = [
        *(("Forwarded", value) for value in values),
        *(("X-Forwarded-For", value) for value in values[:2]),
        *(("X-Forwarded-Proto", value) for value in values[2:3]),
        *(("X-Forwarded-Host", value) for value in values[3:4]),
    ]
    request = Request("/", Headers([("Host", "a"), *lines]), client_address=("127.0.0.1", 1))
    for proxies in _READS:
        try:
            found = proxies.resolve(request)
        except ForwardedError:
            continue
        assert found.scheme in ("http", "https")
        check_host(found.headers["Host"])
        _check_address(found.client_address)


def _check_address(address: object) -> None:
    match address:
        case (str() as host, int() as port):
            assert host.isascii()
            assert host.isprintable()
            assert 0 <= port <= 65535
        case _:
            raise AssertionError(f"not an address: {address!r}")
