"""Bytes to frames: what both framers do, the native one and the pure one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from typing import TypeAlias

import pytest

from tests.conftest import missing
from tests.fuzz.framers import native
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
from trioweb.protocol import pure
from trioweb.protocol.frames import ControlFrame, Opcode
from trioweb.types import Close, Side

Make: TypeAlias = Callable[..., pure.Framer]


@pytest.fixture(params=["native", "pure"])
def framer(request: pytest.FixtureRequest) -> Make:
    """Return what makes one of the two framers, a server's unless told otherwise."""
    if request.param == "pure":
        kind = pure.Framer
    elif native is None:
        missing("the native framer (a C compiler, and then `pip install -e .`)")
    else:
        kind = native.Framer  # type: ignore[assignment]  # of one shape

    def make(side: Side = Side.SERVER, limits: Limits = Limits()) -> pure.Framer:
        return kind(side, limits)

    return make


def test_without_bytes_there_is_nothing(framer):
    one = framer()
    assert one.next() is None
    one.feed(b"")
    assert one.next() is None


def test_frames_come_one_by_one(framer):
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
def test_a_frame_of_any_size_is_whole_only_with_its_last_byte(framer, payload, side):
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
def test_after_a_close_there_is_nothing_for_ever(framer, behind):
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
def test_an_error_comes_once_and_then_nothing_for_ever(framer, data, code, behind):
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
def test_text_fails_at_the_first_byte_that_is_wrong(framer, bad, cut):
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


def test_text_fails_at_the_first_byte_that_is_wrong_across_fragments(framer):
    one = framer()
    one.feed(frame(TEXT, b"\xed", fin=False) + frame(PING))
    assert one.next() == ControlFrame(Opcode.PING, b"")
    one.feed(header(CONTINUATION, 2**19) + MASK + mask_with(MASK, b"\xa0"))
    with pytest.raises(ProtocolError) as caught:
        one.next()
    assert caught.value.code == 1007


def test_what_looks_like_a_surrogate_in_bytes_or_in_another_message_is_none(framer):
    one = framer()
    one.feed(frame(BINARY, b"\xed\xa0", fin=False) + frame(CONTINUATION, b""))
    assert one.next() == b"\xed\xa0"
    one.feed(frame(TEXT, b"\xed\x9f", fin=False) + frame(CONTINUATION, b"\xbf"))
    assert one.next() == "\ud7ff"
    one.feed(frame(BINARY, b"\xed", fin=False) + frame(CONTINUATION, b""))
    assert one.next() == b"\xed"
    one.feed(frame(TEXT, b"\xc2", fin=False) + frame(CONTINUATION, b"\xa0"))
    assert one.next() == "\xa0"


# --- the choice ------------------------------------------------------------------------------


def _chosen(**environment: str) -> str:
    """Return what another Python says runs there."""
    program = "import trioweb; from trioweb.protocol import framer; "
    program += "print(trioweb.framer(), framer.Framer.__module__)"
    ours = {name: value for name, value in os.environ.items() if name != "TRIOWEB_PURE"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=ours | environment, stdout=subprocess.PIPE, check=True
    )
    return done.stdout.decode().strip()


def test_the_native_one_is_chosen_where_it_is_there():
    if native is None:
        missing("the native framer (a C compiler, and then `pip install -e .`)")
    assert _chosen() == "native trioweb.protocol._framer"
    assert _chosen(TRIOWEB_PURE="0") == _chosen(TRIOWEB_PURE="") == _chosen()


def test_the_pure_one_can_be_asked_for():
    assert _chosen(TRIOWEB_PURE="1") == "pure trioweb.protocol.pure"
