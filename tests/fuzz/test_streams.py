"""Any stream of bytes, cut anywhere, to either end: events or one failure, and the right ones."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers import BINARY, CONTINUATION, MASK, PING, TEXT, frame
from trioweb.protocol.deflate import Agreement
from trioweb.protocol.machine import Machine
from trioweb.types import Message, Side

from .reference import judge
from .strategies import agreements, cuts, messages, setups, streams
from .streams import Setup, check_memory, check_round_trip, check_stream, cut, observe
from .targets import deflated

#: Every byte by itself.
BYTES = (1,)


@given(st.data(), setups, cuts, st.integers(0, 3))
def test_a_stream_means_what_the_standard_says(
    data: st.DataObject, setup: Setup, sizes: Sequence[int], most: int
) -> None:
    check_stream(setup, data.draw(streams(setup)), sizes, BYTES, most=most or None)


@given(
    st.none() | agreements,
    st.lists(st.tuples(messages, st.none() | st.booleans()), max_size=5),
    st.sampled_from(Side),
    st.sampled_from([1, 7, 125, 126, 4096, 2**16]),
    st.lists(st.integers(1, 5000), max_size=3),
)
def test_both_ends_and_the_standard_agree(
    agreement: Agreement | None,
    sends: Sequence[tuple[Message, bool | None]],
    side: Side,
    fragment: int,
    sizes: Sequence[int],
) -> None:
    # A frame of a byte each for 66,000 bytes says no more than for 6,600.
    sends = [(message[: 400 * fragment], compress) for message, compress in sends]
    check_round_trip(agreement, sends, side=side, fragment=fragment, sizes=sizes)


# --- memory ----------------------------------------------------------------------------------

_BOMB = deflated(bytes(2**20), 0x0B)
_FLOODS = {
    "messages": frame(TEXT, "x" * 900, mask=None),
    "pings": frame(PING, b"x" * 125, mask=None),
    "empty messages": frame(BINARY, b"", mask=None),
    "a large frame": frame(BINARY, bytes(900), mask=None)[:500],
    "fragments": frame(TEXT, "x" * 5, fin=False, mask=None)
    + frame(CONTINUATION, "x", mask=None) * 2,
    "wide text": frame(TEXT, "😀" * 225, mask=None),
    "bombs": frame(BINARY, _BOMB, rsv=4, mask=None),
    "small bombs": frame(BINARY, deflated(bytes(1000), 0x0B), rsv=4, mask=None),
    "empty blocks": frame(BINARY, b"\0\0\0\xff\xff" * 150 + b"\0", rsv=4, mask=None),
}


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize("agreement", [None, Agreement(), Agreement(True, True, 9, 9)])
@pytest.mark.parametrize("flood", _FLOODS.values(), ids=_FLOODS)
def test_a_flood_takes_no_memory(flood: bytes, agreement: Agreement | None, streams: bool) -> None:
    setup = Setup(Side.CLIENT, 1000, 8, agreement, streams)
    # Far more than is allowed, on the wire or once inflated; some of it fails at once.
    pieces = cut(flood * min(2**18 // len(flood), 3000), (1460,))
    check_memory(setup, pieces, 1460)


@given(st.data(), setups, cuts)
def test_no_stream_takes_memory(data: st.DataObject, setup: Setup, sizes: Sequence[int]) -> None:
    stream = data.draw(streams(setup))
    check_memory(setup, cut(stream, sizes), max(sizes, default=len(stream)))


def test_the_bound_on_memory_would_show_a_leak(monkeypatch: pytest.MonkeyPatch) -> None:
    hoard: list[bytes] = []
    feed = Machine.feed

    def keep(machine: Machine, data: bytes) -> None:
        hoard.append(data + b"!")
        feed(machine, data)

    monkeypatch.setattr(Machine, "feed", keep)
    with pytest.raises(AssertionError, match="bytes at the peak"):
        check_memory(Setup(Side.CLIENT, 1000), cut(_FLOODS["messages"] * 300, (1460,)), 1460)


# --- the checks themselves --------------------------------------------------------------------


def test_a_wrong_machine_is_found_out() -> None:
    setup = Setup(Side.SERVER)
    stream = frame(TEXT, "a") + frame(PING) + frame(TEXT, b"\xff")
    verdict = judge(setup.ending(), stream)
    seen = observe(setup, cut(stream, (3,)))
    assert verdict.allows(seen.events, seen.failure)
    for events, failure in itertools.product(
        [seen.events[:1], seen.events[::-1], [*seen.events, ("text", "")]], [None, 1002, 1007]
    ):
        assert not verdict.allows(events, failure)
    assert not verdict.allows(seen.events, 1002)
    assert not verdict.allows(seen.events, None)


def test_a_stream_is_cut_into_all_of_it() -> None:
    assert list(cut(b"abcdefg", (1, 2))) == [b"a", b"bc", b"d", b"ef", b"g"]
    assert list(cut(MASK, ())) == [MASK]
    assert list(cut(b"", (3,))) == []
