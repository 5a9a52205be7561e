"""MessagePack in JavaScript against msgspec's: the same values, and the same bytes refused."""

from __future__ import annotations

import math
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

SCRIPT = Path(__file__).parent / "client" / "msgpack.mjs"


@pytest.fixture(scope="module")
def again(node: str) -> Iterator[Callable[[bytes], str]]:
    """Return what makes JavaScript read bytes, and returns in hexadecimal what that writes."""
    with subprocess.Popen(
        [node, SCRIPT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        stdin, stdout = process.stdin, process.stdout

        def ask(data: bytes) -> str:
            stdin.write(data.hex() + "\n")
            stdin.flush()
            return stdout.readline().rstrip("\n")

        yield ask
        stdin.close()


#: Where an integer's form changes.
EDGES = [
    sign * 2**n + d for n in (5, 7, 8, 15, 16, 31, 32, 53) for d in (-1, 0, 1) for sign in (1, -1)
]

# JavaScript's dates have milliseconds, and more years than Python's.
moments = st.integers(-62_000_000_000_000, 253_000_000_000_000).map(
    lambda ms: datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=ms)
)
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.sampled_from(EDGES)
    | st.floats(allow_nan=False)
    | st.text()
    | st.text("a", min_size=250, max_size=260)
    | st.binary()
    | moments
)
values = st.recursive(
    scalars,
    lambda inside: st.lists(inside) | st.dictionaries(st.text(), inside),
    max_leaves=30,
)


@given(values)
@example({"__proto__": {"a": 1}, "constructor": None, "1": 2})
@example("é" * 40_000)
@example(bytes(70_000))
@example([0] * 70_000)
@example({str(n): n for n in range(66_000)})
@settings(max_examples=80)
def test_values_survive(again: Callable[[bytes], str], value: Any) -> None:
    answer = again(msgspec.msgpack.encode(value))
    assert not answer.startswith(("refused", "failed")), answer
    assert msgspec.msgpack.decode(bytes.fromhex(answer)) == value


def is_plain(value: Any) -> bool:
    """Whether JavaScript has all of a value: no keys but text, no extensions."""
    if isinstance(value, dict):
        return all(isinstance(key, str) for key in value) and all(map(is_plain, value.values()))
    if isinstance(value, list):
        return all(map(is_plain, value))
    return not isinstance(value, msgspec.msgpack.Ext | datetime)


@given(
    st.binary(max_size=40)
    | st.tuples(values, st.binary(max_size=3), st.integers(0, 40)).map(
        lambda parts: msgspec.msgpack.encode(parts[0])[: parts[2]] + parts[1]
    )
)
@settings(max_examples=150)
def test_bytes_mean_the_same_or_are_refused(again: Callable[[bytes], str], data: bytes) -> None:
    answer = again(data)
    assert not answer.startswith("failed"), answer
    try:
        value = msgspec.msgpack.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, TypeError):
        # A timestamp may be one for JavaScript alone.
        assert answer.startswith("refused") or b"\xff" in data
        return
    if is_plain(value):
        assert not answer.startswith("refused"), answer
        back = msgspec.msgpack.decode(bytes.fromhex(answer))
        assert repr(as_javascript(back)) == repr(as_javascript(value))  # NaN is not equal to NaN


def as_javascript(value: Any) -> Any:
    """Return a value as it comes back: whole floats are integers, and keys may change places."""
    if isinstance(value, dict):
        return {key: as_javascript(value[key]) for key in sorted(value)}
    if isinstance(value, list):
        return [as_javascript(item) for item in value]
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return value if math.copysign(1, value) < 0 and value == 0 else int(value)
    return value
