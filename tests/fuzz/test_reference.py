"""The oracle is tested too: against the examples of the standards, and against zlib."""

from __future__ import annotations

import zlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.helpers import BINARY, CONTINUATION, PING, TEXT, frame
from trioweb.types import CloseCode

from .inflating import Inflating, NotDeflate, TooLarge
from .reference import Ending, bad_utf8, judge
from .strategies import mutated
from .targets import deflated

SERVER = Ending(server=True, max_message=100, max_fragments=3)


def test_the_reference_knows_the_examples_of_the_standard() -> None:
    # RFC 6455, 5.7
    hello = Ending(server=False, max_message=2**17, max_fragments=8)
    for data, events in (
        ("81 05 48 65 6c 6c 6f", [("text", "Hello")]),
        ("01 03 48 65 6c 80 02 6c 6f", [("text", "Hello")]),
        ("89 05 48 65 6c 6c 6f", [("ping", b"Hello")]),
        ("82 7E 0100" + "00" * 256, [("binary", bytes(256))]),
        ("82 7F 0000000000010000" + "00" * 65536, [("binary", bytes(65536))]),
    ):
        verdict = judge(hello, bytes.fromhex(data))
        assert (verdict.events, verdict.failures) == (events, frozenset())
    masked = bytes.fromhex("81 85 37 fa 21 3d 7f 9f 4d 51 58")
    assert judge(SERVER, masked).events == [("text", "Hello")]
    # RFC 7692, 7.2.3.1 to 7.2.3.5
    deflate = Ending(server=False, max_message=100, max_fragments=8, window=15)
    for data in (
        "c1 07 f2 48 cd c9 c9 07 00",
        "41 03 f2 48 cd 80 04 c9 c9 07 00",
        "c1 07 f2 48 cd c9 c9 07 00 c1 05 f2 00 11 00 00",
        "c1 0b 00 05 00 fa ff 48 65 6c 6c 6f 00",
        "c1 08 f3 48 cd c9 c9 07 00 00",
        "c1 0d f2 48 05 00 00 00 ff ff ca c9 c9 07 00",
    ):
        verdict = judge(deflate, bytes.fromhex(data))
        assert set(verdict.events) == {("text", "Hello")}
        assert not verdict.failures
        assert not verdict.doubts


@pytest.mark.parametrize(
    ("data", "failures"),
    [
        (frame(TEXT, b"\xff"), {1007}),
        (frame(TEXT, b"\xe2\x82"), {1007}),
        (frame(TEXT, b"\xe2\x82", fin=False), set()),
        (frame(TEXT, b"", mask=None), {1002}),
        (frame(TEXT, b"", rsv=4), {1002}),
        (frame(3), {1002}),
        (frame(CONTINUATION), {1002}),
        (frame(PING, b"", fin=False), {1002}),
        (frame(TEXT, b"a" * 101)[:2], {1009}),
        (frame(BINARY, b"", fin=False) + frame(CONTINUATION, fin=False) * 3, {1009}),
        (frame(8, b"\x03"), {1002}),
        (frame(8, b"\x03\xec\xff"), {1002, 1007}),
        (frame(3, bytes(101)), {1002, 1009}),
    ],
)
def test_the_reference_fails_what_is_wrong(data: bytes, failures: set[int]) -> None:
    assert judge(SERVER, data).failures == failures


def test_too_much_may_also_be_wrong() -> None:
    # zlib looks one symbol beyond the two bytes that show that one is exceeded.
    end = Ending(server=False, max_message=1, max_fragments=1, window=15)
    payload = bytes.fromhex("8b0f00ffffffff000000ffff")
    assert judge(end, frame(BINARY, payload, rsv=4, mask=None)).failures == {1007, 1009}
    stored = deflated(b"aaaa", 0)
    assert judge(end, frame(BINARY, stored, rsv=4, mask=None)).failures == {1009}


@given(st.binary(max_size=8) | st.text().map(str.encode))
@example(b"\xed\xa0")
@example(b"\xed\x9f")
@example(b"\xf4\x90")
def test_the_reference_knows_utf8(data: bytes) -> None:
    try:
        data.decode()
    except UnicodeDecodeError as error:
        # Of a surrogate Python wants to see all three bytes before it calls them wrong.
        surrogate = data[error.start] == 0xED and data[error.start + 1 :] >= b"\xa0"
        truncated = error.reason == "unexpected end of data" and not surrogate
        assert bad_utf8(data) == (not truncated, truncated)
    else:
        assert bad_utf8(data) == (False, False)


def test_the_reference_knows_close_codes() -> None:
    for code in range(900, 5100):
        failures = judge(SERVER, frame(8, code.to_bytes(2, "big"))).failures
        registered = code in CloseCode._value2member_map_ and CloseCode(code).sendable
        assert (not failures) == (registered or 3000 <= code <= 4999), code


# --- DEFLATE ---------------------------------------------------------------------------------

_CONTENT = st.binary(max_size=80) | st.text("aab\xff", max_size=300).map(str.encode)


def _by_zlib(data: bytes) -> tuple[bytes, str, int]:
    """Inflate byte by byte; return what came out, how it ended, and after how many bytes."""
    stream, out = zlib.decompressobj(-15), b""
    for at in range(len(data)):
        try:
            out += stream.decompress(data[at : at + 1])
        except zlib.error:
            return out, "wrong", at
        if stream.eof:
            return out, "over", at
    return out, "more", len(data)


def _by_ours(data: bytes) -> tuple[bytes, str, int]:
    stream, out = Inflating(), b""
    stream.start(2**20)
    for at in range(len(data)):
        try:
            stream.feed(data[at : at + 1])
        except NotDeflate:
            return out, "wrong", at
        out = bytes(stream.output)
        if stream.final_blocks:
            return out, "over", at
    return out, "more", len(data)


@given(st.data(), _CONTENT, st.integers(0, 255))
def test_the_inflater_is_zlibs_equal(data: st.DataObject, content: bytes, how: int) -> None:
    packed = deflated(content, how)
    assert _by_ours(packed) == _by_zlib(packed)
    damaged = data.draw(mutated(packed))
    assert _by_ours(damaged) == _by_zlib(damaged)


@given(st.binary(max_size=40))
def test_the_inflater_takes_any_bytes_as_zlib_does(data: bytes) -> None:
    assert _by_ours(data) == _by_zlib(data)


def test_the_inflater_tells_what_zlib_does_not() -> None:
    stream = Inflating()
    stream.start(100)
    stream.feed(deflated(b"abcdefgh" * 4, 0x0F))
    assert stream.reach == 8
    assert stream.in_block
    stream.feed(b"\0\0\xff\xff")
    assert not stream.in_block
    stream.feed(deflated(bytes(69), 0x0F) + b"\0\0\xff\xff")
    assert stream.too_large
    with pytest.raises(TooLarge):
        stream.feed(deflated(bytes(300), 0x0F))
