"""The native framer and the pure one give the same, byte for byte."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.conftest import missing
from tests.fuzz.framers import NATIVE_IS_THERE, Change, check_both, native
from tests.fuzz.strategies import cuts, setups, streams
from tests.fuzz.streams import Setup
from tests.fuzz.targets import frame_as
from tests.helpers import BINARY, CONTINUATION, MASK, PING, TEXT, frame, header
from trioweb.config import Limits
from trioweb.protocol import frames, pure
from trioweb.protocol.deflate import Agreement
from trioweb.types import Side

try:
    from trioweb.protocol._frame import cut as native_cut
    from trioweb.protocol._frame import frame as native_frame
    from trioweb.protocol._frame import mask as native_mask
except ImportError:  # no compiler; no test here runs then
    native_cut, native_frame, native_mask = frames.cut, frames.frame, frames.mask

#: Every byte by itself.
BYTES = (1,)


@pytest.fixture(autouse=True, scope="module")
def _native() -> None:
    if not NATIVE_IS_THERE:
        missing("the native framer (a C compiler, and then `pip install -e .`)")


# --- what comes in ---------------------------------------------------------------------------


@st.composite
def _changes(draw: st.DrawFn, data: bytes) -> list[Change]:
    ats = st.integers(0, len(data))
    limits = st.sampled_from([0, 1, 125, 1000, 70_000, float("inf")])
    found = [Change(draw(ats), draw(limits))] if draw(st.booleans()) else []
    if draw(st.integers(0, 3)) == 0:
        found.append(Change(draw(ats)))
    return found


@given(st.data(), setups, cuts, st.integers(0, 3))
def test_both_make_the_same_of_a_stream(
    data: st.DataObject, setup: Setup, sizes: Sequence[int], most: int
) -> None:
    stream = data.draw(streams(setup))
    changes = data.draw(_changes(stream))
    check_both(setup, stream, sizes, BYTES, changes=changes)
    check_both(setup, stream, sizes, BYTES, changes=changes, most=most or None)


@given(
    st.text("aé€😀", max_size=12) | st.text(max_size=12),
    st.lists(st.integers(0, 48), max_size=4),
    st.booleans(),
    st.none() | st.integers(0, 60),
)
def test_both_make_the_same_of_text_in_fragments(
    text: str, edges: Sequence[int], between: bool, at: int | None
) -> None:
    # Fragments and reads end anywhere, inside characters too (RFC 6455, 5.6).
    data = text.encode()
    edges = sorted({0, *(edge for edge in edges if edge < len(data))})
    stream = b""
    for begin, end in itertools.pairwise([*edges, len(data)]):
        opcode, fin = CONTINUATION if begin else TEXT, end == len(data)
        stream += frame(opcode, data[begin:end], fin=fin, mask=None)
        stream += frame(PING, b"?", mask=None) * between
    changes = [] if at is None else [Change(at, 2**20)]
    check_both(Setup(Side.CLIENT), stream, BYTES, (2, 3), changes=changes)


_AGREEMENTS = [None, Agreement()]


@pytest.mark.parametrize("side", Side)
@pytest.mark.parametrize("agreement", _AGREEMENTS, ids=["plain", "deflate"])
@pytest.mark.parametrize("before", [b"", b"\x01\x00"], ids=["first", "within"])
def test_both_say_the_same_of_every_header(side, agreement, before):
    # Reasons, too: they go to the peer, and into logs.
    setup = Setup(side, 126, 2, agreement)
    mask = MASK if side is Side.SERVER else None
    if before and mask:
        before = frame(TEXT, b"", fin=False)
    seconds = {low | high for low in (0, 1, 2, 125, 126, 127) for high in (0, 0x80)}
    for first, second in itertools.product(range(256), seconds):
        check_both(setup, before + bytes([first, second]) + b"\x03\xe8\0\0\0\0\0\0\0\0\0\0", BYTES)


@pytest.mark.parametrize("side", Side)
@pytest.mark.parametrize("first", [0x00, 0x01, 0x82, 0xC1, 0x88, 0x89, 0x83, 0xB2])
@pytest.mark.parametrize("streams", [False, True])
def test_both_say_the_same_of_every_length(side, first, streams):
    mask = MASK if side is Side.SERVER else None
    sizes = [0, 1, 125, 126, 127, 128, 65535, 65536, 2**31, 2**32 - 1, 2**32, 2**62, 2**63 - 1]
    for limit, agreement, size, form, whole in itertools.product(
        (126, 70_000), _AGREEMENTS, [*sizes, 2**63, 2**64 - 1], (125, 126, 127), (True, False)
    ):
        if size >= (126, 2**16, 2**64)[form - 125]:
            continue
        wide = (0, 2, 8)[form - 125]
        head = bytes([first, (form if wide else size) | (0x80 if mask else 0)])
        head += size.to_bytes(wide, "big") if wide else b""
        there = size if whole and size < 200 else min(size, 3)
        check_both(Setup(side, limit, 2, agreement, streams), head + (mask or b"") + bytes(there))


@pytest.mark.parametrize("first", [0x01, 0x02])
@pytest.mark.parametrize("size", [2**62, 2**63 - 2**17, 2**63 - 1])
def test_both_go_on_with_a_frame_as_long_as_can_be_where_nothing_bounds_it(first, size):
    begin = frame_as(first, b"x" * 70_000, None)
    more = bytes([0x00, 127]) + size.to_bytes(8) + b"y" * 70_000
    check_both(Setup(Side.CLIENT, 2**63 - 1), begin + more, (70_000,), (3, 70_000))


@pytest.mark.parametrize("side", Side)
@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 125, 126, 127, 65535, 65536, 65537, 200_000])
@pytest.mark.parametrize("first", [0x81, 0x82, 0x01, 0x02])
def test_both_take_a_message_of_any_size(side, size, first):
    mask = MASK if side is Side.SERVER else None
    for text in ("x", "é", "€"):
        payload = (text * size).encode()[:size]
        last = frame_as(0x80, b"!", mask) if first < 0x80 else b""
        stream = frame_as(first, payload, mask) + last + frame(PING, mask=mask)
        for setup in Setup(side, 2**18), Setup(side, 2**18, streams=True):
            check_both(setup, stream, (1000, 7, 4096), (65535,), (3, 70_000))


def test_a_frame_whose_mask_came_in_two_reads_leaves_no_message_under_way():
    # Else the next one would be allowed what this one was, whatever the new limit.
    for opcode, rest in (TEXT, header(TEXT, 89)), (BINARY, frame(BINARY, b"")):
        stream = frame(opcode, b"x") + rest + MASK
        for agreement in _AGREEMENTS:
            check_both(Setup(agreement=agreement), stream, (3, 4), changes=[Change(7, 0)])


@pytest.mark.parametrize("side", Side)
def test_both_pause_and_go_on(side):
    mask = MASK if side is Side.SERVER else None
    stream = (
        frame(TEXT, b"", fin=False, mask=mask)
        + frame(CONTINUATION, b"", fin=False, mask=mask) * 400
    )
    stream += frame(CONTINUATION, "end", mask=mask)
    check_both(Setup(side, max_fragments=1000), stream, (500,))
    check_both(Setup(side, max_fragments=300), stream, (500,))


# --- memory ----------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "a", "é", "€", "😀", "aé€😀"])
@pytest.mark.parametrize("count", [1, 2, 1000])
def test_what_pull_counts_is_what_python_counts(text, count):
    payload = (text * count).encode()
    stream = frame_as(0x81, payload, MASK) + frame_as(0x82, payload, MASK)
    check_both(Setup(max_message=5000), stream)


def test_pull_stops_at_its_marks_and_at_what_is_no_message():
    assert native is not None
    framer = native.Framer(Side.SERVER, Limits())
    framer.feed(frame(TEXT, "one") + frame(TEXT, "two") + frame(TEXT, "three") + frame(PING))
    inbox: list[Any] = []
    framer.pull(inbox, 2**20, 0)
    framer.pull(inbox, 0, 2**20)
    assert not inbox
    framer.pull(inbox, 1, 2**20)
    assert inbox == ["one"]
    framer.pull(inbox, 2**20, 1)
    assert inbox == ["one", "two"]
    framer.pull(inbox, 2**20, 2**20)
    assert inbox == ["one", "two", "three"]
    assert framer.pull(inbox, 2**20, 2**20) == 0
    assert not framer.empty


# --- what goes out ---------------------------------------------------------------------------

_SURROGATES = st.text(st.characters(), max_size=20)  # lone ones, too
_SIZES = [0, 1, 124, 125, 126, 127, 65535, 65536, 70_000]
_payloads = (
    st.binary(max_size=300)
    | st.text("abc", max_size=300)
    | st.text("abé", max_size=300)
    | st.text(max_size=60)
    | _SURROGATES
    | st.builds(
        lambda unit, size: unit * size,
        st.sampled_from(["x", "é", "€", "😀", b"\xff"]),
        st.sampled_from(_SIZES),
    )
)
_keys = st.none() | st.binary(min_size=4, max_size=4)


def _outcome(function, *arguments):
    try:
        return function(*arguments)
    except UnicodeEncodeError as error:
        return error.args


@given(st.integers(0, 255), _payloads, _keys)
@example(0x81, "\ud800", None)
@example(0x81, "a" * 200 + "\udfff", MASK)
def test_both_write_the_same_frame(first, payload, key):
    theirs = _outcome(frames.frame, first, payload, key)
    assert _outcome(native_frame, first, payload, key) == theirs


@pytest.mark.parametrize("size", [*_SIZES, *range(2, 40), 2**20 + 3])
def test_both_write_the_same_frame_of_every_size(size):
    for payload, key in itertools.product(("x" * size, b"\xa5" * size), (None, MASK)):
        data = payload.encode() if isinstance(payload, str) else payload
        written = native_frame(0x82, payload, key)
        assert written == frames.frame(0x82, payload, key)
        head = header(2, size, masked=key is not None)
        assert written[: len(head)] == head
        body = written[len(head) :]
        assert body == (data if key is None else key + native_mask(data, key))


@given(
    st.sampled_from([0, 1, 2, 0x41]), _payloads, st.integers(1, 40), st.booleans(), st.booleans()
)
@example(1, "", 1, True, True)
@example(1, "a" * 200 + "\udfff", 10, True, True)
@example(2, b"x" * 40, 2**62, True, True)
def test_both_cut_the_same_frames(first, payload, most, masked, last):
    def tokens():
        keys = itertools.count()
        return (lambda size: bytes(size - 1) + bytes([next(keys) & 255])) if masked else None

    theirs = _outcome(frames.cut, first, payload, most, tokens(), last)
    assert _outcome(native_cut, first, payload, most, tokens(), last) == theirs


def test_both_refuse_to_cut_into_nothing():
    for one in native_cut, frames.cut:
        for most in 0, -1:
            with pytest.raises(ValueError, match="a byte at least"):
                one(1, "abc", most, None, True)


class _Text(str):
    __slots__ = ()


class _Bytes(bytes):
    __slots__ = ()


@pytest.mark.parametrize("payload", [_Text("abc"), _Text("é"), _Bytes(b"\xff\0")])
def test_both_write_what_is_a_kind_of_str_or_bytes(payload):
    assert native_frame(0x81, payload, MASK) == frames.frame(0x81, payload, MASK)


@given(st.binary(max_size=300), st.binary(min_size=4, max_size=4), st.integers(0, 9))
def test_both_mask_the_same(data, key, shift):
    masked = native_mask(data[shift:], key)
    assert masked == frames.mask(data[shift:], key)
    assert native_mask(masked, key) == data[shift:]


def test_the_native_one_refuses_what_is_no_key_and_no_payload():
    # Each would be read beyond its end.
    assert native is not None
    for key in b"", b"abc", b"abcde":
        with pytest.raises(ValueError, match="4 bytes"):
            native_frame(0x81, "x", key)
        with pytest.raises(ValueError, match="4 bytes"):
            native_cut(1, "x", 10, {4: key}.__getitem__, True)
        with pytest.raises(ValueError, match="4 bytes"):
            native_mask(b"x", key)
    others: list[Any] = [None, 5, bytearray(b"x"), memoryview(b"x")]
    for wrong in others:
        with pytest.raises(TypeError):
            native_frame(0x81, wrong, None)
        with pytest.raises(TypeError):
            native_cut(1, wrong, 10, None, True)
        with pytest.raises(TypeError):
            native_mask(wrong, MASK)
    framer = native.Framer(Side.SERVER, Limits())
    others = [None, 5, "x", [1]]
    for wrong in others:
        with pytest.raises(TypeError):
            framer.feed(wrong)
    with pytest.raises(ValueError, match="contiguous"):
        framer.feed(memoryview(b"abcdef")[::2])
    assert framer.next() is None


# --- the checks themselves -------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        lambda framer: framer.drop(),
        lambda framer: framer.stream(1),
        lambda framer: framer.feed(frame(PING, b"more")),
    ],
)
def test_a_difference_is_found_out(monkeypatch: pytest.MonkeyPatch, wrong) -> None:
    class Wrong(pure.Framer):
        def __init__(self, *arguments) -> None:
            super().__init__(*arguments)
            wrong(self)

    monkeypatch.setattr(pure, "Framer", Wrong)
    stream = frame(TEXT, "abc") + frame(PING, b"a") + frame(TEXT, "é", fin=False)
    with pytest.raises(AssertionError, match="native"):
        check_both(Setup(max_message=10), stream, BYTES)
