"""Frames to bytes: messages whole and in pieces, control frames."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, Frame, frames_in
from trioweb.protocol.encoder import Encoder
from trioweb.protocol.frames import Opcode
from trioweb.types import Close, Side


def encoder(fragment: int = 2**16, side: Side = Side.SERVER) -> Encoder:
    return Encoder(side, fragment)


def test_a_message_may_be_empty():
    assert frames_in(b"".join(encoder(10).message(""))) == [Frame(TEXT, b"")]
    assert frames_in(b"".join(encoder(10).message(b""))) == [Frame(BINARY, b"")]


@pytest.mark.parametrize("size", [9, 10, 11, 20, 21, 25])
@pytest.mark.parametrize("kind", [TEXT, BINARY])
def test_messages_are_cut_into_fragments_of_the_size_asked_for(size, kind):
    message = "x" * size if kind == TEXT else b"x" * size
    frames = frames_in(b"".join(encoder(10).message(message)))
    assert [len(one.payload) for one in frames] == [10] * (size // 10) + [size % 10] * (
        size % 10 > 0
    )
    assert [one.opcode for one in frames] == [kind] + [CONTINUATION] * (len(frames) - 1)
    assert [one.fin for one in frames] == [False] * (len(frames) - 1) + [True]


def test_each_frame_is_bytes_of_its_own():
    frames = encoder(40, Side.CLIENT).message(bytes(100))
    assert [type(one) for one in frames] == [bytes] * 3
    assert [len(frames_in(one)) for one in frames] == [1, 1, 1]


@given(st.text(st.sampled_from("aé€😀"), max_size=50), st.integers(1, 12))
def test_text_is_cut_anywhere_for_only_the_whole_is_text(text, fragment):
    frames = frames_in(b"".join(encoder(fragment).message(text)))
    assert b"".join(one.payload for one in frames).decode() == text
    assert all(len(one.payload) <= fragment for one in frames)
    assert all(one.payload for one in frames) or len(frames) == 1
    assert frames[0].opcode == TEXT
    assert [one.fin for one in frames] == [False] * (len(frames) - 1) + [True]


def test_short_text_with_wide_characters_is_one_frame():
    assert frames_in(b"".join(encoder(6).message("€€"))) == [Frame(TEXT, "€€".encode())]
    # Six characters, but eighteen bytes.
    assert len(encoder(6).message("€" * 6)) == 3


def test_a_lone_surrogate_is_the_senders_error_and_leaves_the_encoder_intact():
    one = encoder(10)
    for text in ("\ud800", "x" * 20 + "\ud800"):
        with pytest.raises(UnicodeEncodeError):
            one.message(text)
    assert frames_in(b"".join(one.message(b"after"))) == [Frame(BINARY, b"after")]


def test_control_frames_are_written():
    one = encoder(10)
    assert frames_in(one.control(Opcode.PING, b"?")) == [Frame(PING, b"?")]
    assert frames_in(one.control(Opcode.PONG, b"!")) == [Frame(PONG, b"!")]


@pytest.mark.parametrize("close", [Close(1000), Close(1014, "no upstream"), Close(4999, "é")])
def test_closes_are_written(close):
    (sent,) = frames_in(encoder().close(close))
    assert sent.close == (close.code, close.reason)


def test_a_close_without_a_code_is_written_as_that():
    assert frames_in(encoder().close(Close(1005))) == [Frame(CLOSE, b"")]


def test_a_message_in_pieces_is_one_message():
    pieces = encoder(4).pieces(text=True)
    first = frames_in(b"".join(pieces.encode(b"abc", last=False)))
    second = frames_in(b"".join(pieces.encode(b"defghi", last=False)))
    third = frames_in(b"".join(pieces.encode(b"", last=True)))
    assert first == [Frame(TEXT, b"abc", fin=False)]
    assert second == [
        Frame(CONTINUATION, b"defg", fin=False),
        Frame(CONTINUATION, b"hi", fin=False),
    ]
    assert third == [Frame(CONTINUATION, b"")]


def test_a_message_of_one_piece_is_one_frame():
    frames = encoder(10).pieces(text=False).encode(b"abc", last=True)
    assert frames_in(b"".join(frames)) == [Frame(BINARY, b"abc")]


@given(st.lists(st.binary(max_size=30)), st.integers(1, 12), st.booleans())
def test_pieces_of_any_size_are_one_message(parts, fragment, text):
    pieces = encoder(fragment).pieces(text=text)
    data = [frame for part in parts for frame in pieces.encode(part, last=False)]
    frames = frames_in(b"".join(data + pieces.encode(b"", last=True)))
    assert b"".join(one.payload for one in frames) == b"".join(parts)
    assert [one.opcode for one in frames][1:] == [CONTINUATION] * (len(frames) - 1)
    assert frames[0].opcode == (TEXT if text else BINARY)
    assert [one.fin for one in frames] == [False] * (len(frames) - 1) + [True]
    assert all(len(one.payload) <= fragment for one in frames)
