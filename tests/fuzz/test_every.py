"""What is few enough to be tried one by one, so that nothing is left to luck."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from tests.helpers import KEY, MASK
from trioweb.protocol.deflate import Agreement
from trioweb.types import Side

from .handshakes import ACCEPT, check_client, check_server
from .proxies import check_forwarded, check_proxy_header
from .streams import Setup, check_stream
from .targets import LINES, deflated, frame_as

#: Where a frame may come: at the beginning, inside a message, inside a compressed one, behind one.
_BEFORE: tuple[list[tuple[int, bytes]], ...] = (
    [],
    [(0x01, b"a")],
    [(0x41, deflated(b"a", 1))],
    [(0x01, b"a" * 60), (0x80, b"a" * 60)],
)
_SETUPS = [
    pytest.param(Setup(side, limit, 2, agreement, streams), id=f"{side.value}-{name}")
    for side in Side
    for name, limit, agreement, streams in (
        ("plain", 125, None, False),
        ("larger", 126, None, False),
        ("deflate", 126, Agreement(), False),
        ("stream", 126, Agreement(), True),
    )
]


def _beginnings(setup: Setup, mask: bytes | None) -> Iterator[bytes]:
    for frames in _BEFORE:
        if setup.agreement is not None or not any(first & 0x40 for first, _ in frames):
            yield b"".join(frame_as(first, payload, mask) for first, payload in frames)


@pytest.mark.parametrize("setup", _SETUPS)
def test_every_first_byte(setup: Setup) -> None:
    mask = MASK if setup.side is Side.SERVER else None
    for before, first, payload in itertools.product(
        _beginnings(setup, mask), range(256), (b"", b"\x00")
    ):
        check_stream(setup, before + frame_as(first, payload, mask))
        check_stream(setup, before + frame_as(first, payload, mask)[:-1])


@pytest.mark.parametrize("setup", _SETUPS)
def test_every_length(setup: Setup) -> None:
    mask = MASK if setup.side is Side.SERVER else None
    sizes = (0, 1, 2, 100, 124, 125, 126, 127)
    firsts = (0x00, 0x01, 0x80, 0x81, 0x82, 0x88, 0x89, 0x8A, 0xC1)
    for before, first, size, form in itertools.product(
        _beginnings(setup, mask), firsts, sizes, (None, 126, 127)
    ):
        right = frame_as(first, b"\x0f\xa0"[:size] + b"a" * (size - 2), mask, form=form)
        wrong = frame_as(first, b"a" * size, None if mask else MASK, form=form)
        check_stream(setup, before + right + frame_as(0x89, b"", mask), (3,))
        check_stream(setup, before + right[:-1])
        check_stream(setup, before + wrong)


@pytest.mark.parametrize("first", [0x81, 0x01, 0xC1, 0x41, 0x88], ids="{:02x}".format)
def test_every_beginning_of_text(first: int) -> None:
    """Text fails at the first byte that is wrong, whatever is still to come."""
    setup = Setup(Side.CLIENT, agreement=Agreement())
    edges = (0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0)
    for begin, second, size in itertools.product(range(0x7E, 0x100), edges, (1, 2, 3)):
        payload = bytes([begin, second, 0x80])[:size]
        if first & 0x40:
            payload = deflated(payload, 0)
        if first == 0x88:
            payload = b"\x03\xe8" + payload
        check_stream(setup, frame_as(first, payload, None), (1,))
        # The rest of the frame has not come.
        check_stream(setup, frame_as(first, payload + b"\x80", None)[:-1], (1,))


def test_every_close_code() -> None:
    setup = Setup()
    for code in range(0x10000 // 8):
        check_stream(setup, frame_as(0x88, code.to_bytes(2, "big"), MASK))


# --- heads -----------------------------------------------------------------------------------

_REQUEST = (
    b"GET / HTTP/1.1\r\n",
    b"Host: a\r\n",
    b"Upgrade: websocket\r\n",
    b"Connection: Upgrade\r\n",
    f"Sec-WebSocket-Key: {KEY}\r\n".encode(),
    b"Sec-WebSocket-Version: 13\r\n",
    b"Sec-WebSocket-Protocol: a\r\n",
    b"X-Any: a\r\n",
    b"\r\n",
)
_ANSWER = (
    b"HTTP/1.1 101 Switching Protocols\r\n",
    b"Upgrade: websocket\r\n",
    b"Connection: Upgrade\r\n",
    f"Sec-WebSocket-Accept: {ACCEPT}\r\n".encode(),
    b"X-Any: a\r\n",
    b"\r\n",
)


def _with_other_lines(head: tuple[bytes, ...]) -> Iterator[bytes]:
    """Drop each line, repeat it, and put each other line before it, or in its place."""
    for at in range(len(head)):
        before, line, behind = head[:at], head[at], head[at + 1 :]
        yield b"".join(before + behind)
        yield b"".join((*before, line, line, *behind))
        for other in LINES:
            yield b"".join((*before, other, line, *behind))
            yield b"".join((*before, other, *behind))


def test_every_line_of_a_request() -> None:
    outcomes = [check_server(head, (7,)) for head in _with_other_lines(_REQUEST)]
    assert {"request", "refused", "left"} == {outcome[0] for outcome in outcomes}


def test_every_line_of_an_answer() -> None:
    outcomes = [check_client(head, (7,)) for head in _with_other_lines(_ANSWER)]
    assert {"accepted", "rejected", "invalid"} == {outcome[0] for outcome in outcomes}


def test_every_byte_of_a_head() -> None:
    """A byte that is wrong anywhere."""
    request, answer = b"".join(_REQUEST), b"".join(_ANSWER)
    for byte in b"\0\t\n\r ,:;=A\x7f\x80\xa0\xff":
        for at in range(len(request)):
            check_server(request[:at] + bytes([byte]) + request[at + 1 :])
        for at in range(len(answer)):
            check_client(answer[:at] + bytes([byte]) + answer[at + 1 :])


# --- proxies ---------------------------------------------------------------------------------


def test_every_kind_of_node() -> None:
    hosts = ["1.2.3.4", "[::1]", "[::ffff:1.2.3.4]", "1.2.3", "256.1.1.1", "::1", "unknown", "_a"]
    ports = ["", ":0", ":65535", ":65536", ":99999", ":123456", ":_p", ":", ":-1", ":\xb2"]
    for host, port in itertools.product(hosts, ports):
        check_forwarded([f'for="{host}{port}"', host + port])
        check_forwarded([host + port])


def test_every_command_and_family() -> None:
    for command, family, size in itertools.product(
        range(256), (0, 0x11, 0x12, 0x21, 0x22, 0x31, 0xFF), (0, 11, 12, 35, 36, 216)
    ):
        head = b"\r\n\r\n\0\r\nQUIT\n" + bytes([command, family]) + size.to_bytes(2, "big")
        check_proxy_header(head + bytes(size) + b"behind")
