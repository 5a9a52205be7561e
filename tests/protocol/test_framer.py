"""Bytes to frames: the interface that a native framer must share with wsproto's."""

from __future__ import annotations

import pytest

from tests.helpers import (
    BINARY,
    CLOSE,
    CONTINUATION,
    MASK,
    PING,
    PONG,
    TEXT,
    close_frame,
    frame,
    header,
    mask_with,
)
from trioweb.config import Limits
from trioweb.errors import ProtocolError
from trioweb.protocol.framer import Framer
from trioweb.protocol.frames import ControlFrame, Opcode
from trioweb.types import Close, Side


def framer(side: Side = Side.SERVER, limits: Limits = Limits()) -> Framer:
    return Framer(side, limits)


def test_without_bytes_there_is_nothing():
    one = framer()
    assert one.next() is None
    one.feed(b"")
    assert one.next() is None


def test_frames_come_one_by_one():
    one = framer()
    one.feed(frame(TEXT, "a") + frame(PING, b"?") + frame(PONG, b"!") + frame(BINARY, b"b"))
    one.feed(close_frame(4000, "bye"))
    assert one.next() == "a"
    assert one.next() == ControlFrame(Opcode.PING, b"?")
    assert one.next() == ControlFrame(Opcode.PONG, b"!")
    assert one.next() == b"b"
    assert one.next() == ControlFrame(Opcode.CLOSE, Close(4000, "bye", by_peer=True))


@pytest.mark.parametrize("payload", ["", "x", "x" * 125, "x" * 126, "x" * 65535, "x" * 65536])
@pytest.mark.parametrize("side", Side)
def test_a_frame_of_any_size_is_whole_only_with_its_last_byte(payload, side):
    # Three forms of length; and after each frame the count of bytes must be right again.
    data = frame(TEXT, payload, mask=bytes(4) if side is Side.SERVER else None)
    one = framer(side)
    for _ in range(2):
        one.feed(data[:-1])
        assert one.next() is None
        assert one.next() is None
        one.feed(data[-1:])
        assert one.next() == payload
        assert one.next() is None


@pytest.mark.parametrize("behind", [b"", frame(TEXT, "late"), frame(TEXT, "late")[:3]])
def test_after_a_close_there_is_nothing_for_ever(behind):
    one = framer()
    one.feed(close_frame(1000) + behind)
    assert one.next() == ControlFrame(Opcode.CLOSE, Close(1000, by_peer=True))
    assert one.next() is None
    one.feed(frame(TEXT, "later"))
    assert one.next() is None


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (frame(0x7, "x"), 1002),
        (frame(TEXT, b"\xff"), 1007),
        (header(BINARY, 2**21), 1009),
        (frame(CLOSE, b"\x00\x00"), 1002),
    ],
)
@pytest.mark.parametrize("behind", [b"", frame(TEXT, "late"), frame(TEXT, "late")[:3]])
def test_an_error_comes_once_and_then_nothing_for_ever(data, code, behind):
    one = framer()
    one.feed(data + behind)
    with pytest.raises(ProtocolError) as caught:
        one.next()
    assert caught.value.code == code
    assert caught.value.reason
    assert one.next() is None
    one.feed(frame(TEXT, "later"))
    assert one.next() is None


@pytest.mark.parametrize(
    "bad", [b"\xed\xa0", b"a\xed\xbf", b"\xc0", b"\xe0\x80", b"\xf4\x90", b"\xff"]
)
@pytest.mark.parametrize("cut", [0, 1])
def test_text_fails_at_the_first_byte_that_is_wrong(bad, cut):
    # Half of a surrogate is no beginning of anything, though Python's decoder waits for more.
    one = framer()
    one.feed(header(TEXT, 100) + MASK)
    payload = mask_with(MASK, bad)
    one.feed(payload[: len(payload) - cut])
    if cut:
        assert len(bad) == 1 or one.next() is None
        one.feed(payload[len(payload) - cut :])
    with pytest.raises(ProtocolError) as caught:
        one.next()
    assert (caught.value.code, caught.value.reason) == (1007, "text is not UTF-8")


def test_text_fails_at_the_first_byte_that_is_wrong_across_fragments():
    one = framer()
    one.feed(frame(TEXT, b"\xed", fin=False) + frame(PING))
    assert one.next() == ControlFrame(Opcode.PING, b"")
    one.feed(header(CONTINUATION, 2**19) + MASK + mask_with(MASK, b"\xa0"))
    with pytest.raises(ProtocolError) as caught:
        one.next()
    assert caught.value.code == 1007


def test_what_looks_like_a_surrogate_in_bytes_or_in_another_message_is_none():
    one = framer()
    one.feed(frame(BINARY, b"\xed\xa0", fin=False) + frame(CONTINUATION, b""))
    assert one.next() == b"\xed\xa0"
    one.feed(frame(TEXT, b"\xed\x9f", fin=False) + frame(CONTINUATION, b"\xbf"))
    assert one.next() == "\ud7ff"
    one.feed(frame(BINARY, b"\xed", fin=False) + frame(CONTINUATION, b""))
    assert one.next() == b"\xed"
    one.feed(frame(TEXT, b"\xc2", fin=False) + frame(CONTINUATION, b"\xa0"))
    assert one.next() == "\xa0"
