"""The lane of values: the native one and the one in Python do the same."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import missing
from trioweb import Limits, pure_lanes, values
from trioweb.codecs.json import Json
from trioweb.codecs.msgpack import MsgPack
from trioweb.nothing import NOTHING

PureLane: Any = values._ValueLane
native_lanes: Any = None
native_values: Any = None
with contextlib.suppress(ImportError):  # no compiler
    native_lanes = importlib.import_module("trioweb._lanes")
    native_values = importlib.import_module("trioweb._values")


@pytest.fixture(autouse=True, scope="module")
def _native() -> None:
    if native_values is None:
        missing("the native lane of values (a C compiler, and then `pip install -e .`)")


def outcome(call: Callable[..., Any], *args: Any) -> Any:
    try:
        return call(*args)
    except TypeError as error:
        return str(error)


def stay(_: object) -> None:
    """Write nothing: what is sent is to be seen in the queue."""


VALUES = st.one_of(
    st.none() | st.integers() | st.text(max_size=20) | st.binary(max_size=20),
    st.sampled_from([object(), "\ud800", "x" * 20_000, {1: 2}, msgspec.Raw(b"\xff")]),
)
MESSAGES = st.one_of(
    st.sampled_from(["null", "1", '"ä"', "{", "[" * 5000, b"\xc0", b"\xc1", b"null"]),
    VALUES.filter(lambda value: isinstance(value, str | bytes)),
)


@given(
    st.sampled_from([Json, MsgPack]),
    st.lists(
        st.one_of(
            st.tuples(st.just("offer"), VALUES),
            st.tuples(st.just("come"), MESSAGES),
            st.sampled_from([("take", None), ("receive", None)]),
        ),
        max_size=40,
    ),
    st.sampled_from([10, 10**6]),
)
def test_both_do_the_same(
    kind: Callable[[Any], Any], steps: list[tuple[str, Any]], room: int
) -> None:
    seen: list[list[Any]] = []
    lanes: Any
    for lanes, make in ((native_lanes, native_values.ValueLane), (pure_lanes, PureLane)):
        codec = kind(object)
        limits = Limits(outbox_bytes=room)
        inlane = lanes.InLane(lanes.Turn(), None, limits, 0.0)
        outlane = type("Out", (lanes.OutLane,), {"schedule": stay})(lanes.Turn(), [], limits)
        outlane.plain = 100_000
        bare = codec.makes, codec.bare_decode, codec.bare_encode, codec.encode
        lane: Any = make(inlane, outlane, *bare)
        log: list[Any] = []
        for what, value in steps:
            if what == "offer":
                log.append(outcome(lane.offer, value))
            elif what == "come":
                inlane.inbox.append(value)
            elif what == "take":
                log.append(lane.take())
            else:
                lane.found = None
            log += [lane.found, *inlane.inbox, outlane.size, *outlane.data]
        seen.append(log)
    assert seen[0] == seen[1]


def test_nothing_is_taken_before_what_is_wrong_is_gone() -> None:
    for lanes, make in ((native_lanes, native_values.ValueLane), (pure_lanes, PureLane)):
        codec = Json(int)
        inlane = lanes.InLane(lanes.Turn(), None, Limits(), 0.0)
        outlane = lanes.OutLane(lanes.Turn(), [], Limits())
        bare = codec.makes, codec.bare_decode, codec.bare_encode, codec.encode
        lane: Any = make(inlane, outlane, *bare)
        inlane.inbox.extend(["1", "{", "2"])
        assert [lane.take() for _ in range(3)] == [1, NOTHING, NOTHING]
        assert lane.found == "{"
        lane.found = None
        assert lane.take() == 2
