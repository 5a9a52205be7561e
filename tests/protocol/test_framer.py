"""The framer: the interface that a native one must share with wsproto's."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    Frame,
    close_frame,
    frame,
    frames_in,
    header,
)
from trioweb.config import Limits
from trioweb.errors import ProtocolError
from trioweb.protocol.assembler import Assembler
from trioweb.protocol.framer import ControlFrame, Framer, Opcode
from trioweb.types import Close, Side


def framer(side: Side = Side.SERVER, limits: Limits = Limits()) -> Framer:
    return Framer(side, Assembler(limits))


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


def test_a_message_may_be_empty():
    assert frames_in(b"".join(framer().message("", 10))) == [Frame(TEXT, b"")]
    assert frames_in(b"".join(framer().message(b"", 10))) == [Frame(BINARY, b"")]


@pytest.mark.parametrize("size", [9, 10, 11, 20, 21, 25])
@pytest.mark.parametrize("kind", [TEXT, BINARY])
def test_messages_are_cut_into_fragments_of_the_size_asked_for(size, kind):
    message = "x" * size if kind == TEXT else b"x" * size
    frames = frames_in(b"".join(framer().message(message, 10)))
    assert [len(one.payload) for one in frames] == [10] * (size // 10) + [size % 10] * (
        size % 10 > 0
    )
    assert [one.opcode for one in frames] == [kind] + [CONTINUATION] * (len(frames) - 1)
    assert [one.fin for one in frames] == [False] * (len(frames) - 1) + [True]


def test_each_frame_is_bytes_of_its_own():
    frames = framer(Side.CLIENT).message(bytes(100), 40)
    assert [type(one) for one in frames] == [bytes] * 3
    assert [len(frames_in(one)) for one in frames] == [1, 1, 1]


@given(st.text(st.sampled_from("aé€😀"), max_size=50), st.integers(1, 12))
def test_text_is_cut_anywhere_for_only_the_whole_is_text(text, fragment):
    frames = frames_in(b"".join(framer().message(text, fragment)))
    assert b"".join(one.payload for one in frames).decode() == text
    assert all(len(one.payload) <= fragment for one in frames)
    assert all(one.payload for one in frames) or len(frames) == 1
    assert frames[0].opcode == TEXT
    assert [one.fin for one in frames] == [False] * (len(frames) - 1) + [True]


def test_short_text_with_wide_characters_is_one_frame():
    assert frames_in(b"".join(framer().message("€€", 6))) == [Frame(TEXT, "€€".encode())]
    # Six characters, but eighteen bytes.
    assert len(framer().message("€" * 6, 6)) == 3


def test_a_lone_surrogate_is_the_senders_error_and_leaves_the_framer_intact():
    one = framer()
    for text in ("\ud800", "x" * 20 + "\ud800"):
        with pytest.raises(UnicodeEncodeError):
            one.message(text, 10)
    assert frames_in(b"".join(one.message(b"after", 10))) == [Frame(BINARY, b"after")]


def test_control_frames_are_written():
    one = framer()
    assert frames_in(one.control(Opcode.PING, b"?")) == [Frame(PING, b"?")]
    assert frames_in(one.control(Opcode.PONG, b"!")) == [Frame(PONG, b"!")]


@pytest.mark.parametrize("close", [Close(1000), Close(1014, "no upstream"), Close(4999, "é")])
def test_closes_are_written(close):
    (sent,) = frames_in(framer().close(close))
    assert sent.close == (close.code, close.reason)


def test_a_close_without_a_code_is_written_as_that():
    assert frames_in(framer().close(Close(1005))) == [Frame(CLOSE, b"")]
