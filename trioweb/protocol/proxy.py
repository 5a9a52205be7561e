"""The PROXY protocol, versions 1 and 2, without I/O: who is behind a proxy that relays bytes.

HAProxy, nginx, AWS and others write one header at the very start of a connection, before TLS
(https://www.haproxy.org/download/2.6/doc/proxy-protocol.txt). The reader asks for bytes in
amounts that never reach beyond the header, so that whoever reads next finds all that is theirs.
"""

from __future__ import annotations

import ipaddress
import re
import struct

__all__ = ["Address", "IPAddress", "ProxyHeaderError", "ProxyReader", "canonical"]

#: The client's address and port.
Address = tuple[str, int]

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

_V1 = b"PROXY "
_V2 = b"\r\n\r\n\x00\r\nQUIT\n"

#: The longest line of version 1, its CRLF included (section 2.1).
_V1_MOST = 107
#: The shortest header of version 1 is ``PROXY UNKNOWN`` CRLF, that of version 2 has 16 bytes.
_V1_LEAST = 15
_V2_LEAST = 16
#: The longest header of version 2 that we take, where the format allows 64 KiB: the addresses
#: take 232 bytes at most, and the usual TLVs (names, TLS versions, sums) a few hundred more.
_V2_MOST = 4096

_V1_LINE = re.compile(
    rb"PROXY (TCP4|TCP6) ([0-9a-fA-F:.]+) ([0-9a-fA-F:.]+) (0|[1-9][0-9]{0,4}) (0|[1-9][0-9]{0,4})"
)
_LOCAL, _PROXY = 0x20, 0x21
#: Version 2: of a family and TCP, the bytes of one IP address.
_SIZES = {0x11: 4, 0x21: 16}
#: Addresses that say nothing to us: unspecified, and Unix sockets.
_NAMELESS = {0x00: 0, 0x31: 216}


def canonical(address: IPAddress) -> str:
    """Write an address in the one way that lists of addresses have it.

    IPv4 on a socket for both families is IPv4.
    """
    return str((isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped) or address)


class ProxyHeaderError(ValueError):
    """What comes is no PROXY header, or not one that we take."""


class ProxyReader:
    """Reads one header: `feed` it what it `needs`, until that is nothing.

    Raises `ProxyHeaderError` at the first byte that cannot belong to a header.
    """

    def __init__(self) -> None:
        self._data = bytearray()
        #: How many bytes may be read next, at most; 0 when the header is whole.
        self.needs = _V1_LEAST
        #: The client's address; None if the proxy speaks for itself (LOCAL, a health check) or
        #: does not say (UNKNOWN, a Unix socket): the socket's address then counts.
        self.source: Address | None = None

    def feed(self, data: bytes) -> None:
        """Take bytes, at most as many as are needed."""
        if len(data) > self.needs:
            raise RuntimeError("more than the reader needs: bytes would be lost")
        self._data += data
        if _V2.startswith(self._data[: len(_V2)]):
            self._read_v2()
        elif _V1.startswith(self._data[: len(_V1)]):
            self._read_v1()
        else:
            raise ProxyHeaderError("no PROXY header")

    def _read_v1(self) -> None:
        size = len(self._data)
        if self._data.endswith(b"\r\n"):
            self.source = _parse_v1(bytes(self._data[:-2]))
            self.needs = 0
        elif b"\r\n" in self._data:  # the first read asked for more than the line was
            raise ProxyHeaderError("the PROXY line is malformed")
        elif size >= _V1_MOST:
            raise ProxyHeaderError("the PROXY line is too long")
        elif size < _V1_LEAST:
            self.needs = _V1_LEAST - size
        else:  # the line may end with the next byte, or with the one behind it
            self.needs = 1 if self._data.endswith(b"\r") else min(2, _V1_MOST - size)

    def _read_v2(self) -> None:
        size, whole = len(self._data), _V2_LEAST
        if size >= _V2_LEAST:
            whole += int.from_bytes(self._data[14:16], "big")
            if whole > _V2_MOST:
                raise ProxyHeaderError(f"a PROXY header of {whole} bytes is too long")
            _check_v2(self._data[12], self._data[13], whole - _V2_LEAST)
        self.needs = whole - size
        if self.needs == 0:
            self.source = _parse_v2(self._data)


def _parse_v1(line: bytes) -> Address | None:
    if line == b"PROXY UNKNOWN" or line.startswith(b"PROXY UNKNOWN "):
        return None  # whatever follows is to be ignored
    match = _V1_LINE.fullmatch(line)
    if match is None:
        raise ProxyHeaderError("the PROXY line is malformed")
    family, source, destination, *ports = match.groups()
    kind = ipaddress.IPv4Address if family == b"TCP4" else ipaddress.IPv6Address
    try:
        address, _ = (kind(text.decode("ascii")) for text in (source, destination))
    except ValueError:
        raise ProxyHeaderError("an address in the PROXY line is malformed") from None
    if max(map(int, ports)) > 65535:
        raise ProxyHeaderError("a port in the PROXY line is malformed")
    return canonical(address), int(ports[0])


def _check_v2(command: int, family: int, length: int) -> None:
    """Refuse what is not version 2, or not TCP, as soon as it can be seen (section 2.2)."""
    if command == _LOCAL:
        return  # whatever follows is to be ignored
    if command != _PROXY:
        raise ProxyHeaderError("the PROXY header has another version or command")
    least = _NAMELESS.get(family)
    if least is None:
        if family not in _SIZES:
            raise ProxyHeaderError("the PROXY header is for another transport than TCP")
        least = 2 * _SIZES[family] + 4
    if length < least:
        raise ProxyHeaderError("the PROXY header is too short for its addresses")


def _parse_v2(data: bytearray) -> Address | None:
    size = _SIZES.get(data[13])
    if data[12] == _LOCAL or size is None:
        return None
    source = ipaddress.ip_address(bytes(data[16 : 16 + size]))
    (port,) = struct.unpack_from("!H", data, 16 + 2 * size)
    return canonical(source), port
