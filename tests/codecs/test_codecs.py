"""The codecs of msgspec: round trips, errors that name the path, and nothing but those."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import trioweb
from trioweb.abc import Codec
from trioweb.codecs.json import Json
from trioweb.codecs.msgpack import MsgPack
from trioweb.testing import check_codec


class Move(msgspec.Struct, tag="move"):
    x: int
    y: int = 0
    by: dict[str, int] = {}


class Say(msgspec.Struct, tag="say", forbid_unknown_fields=True):
    text: Annotated[str, msgspec.Meta(max_length=300)]
    moves: list[Move] = []


class Checks(msgspec.Struct, tag="checks"):
    def __post_init__(self):
        raise ValueError("never good")


class Other(msgspec.Struct, tag="other"):
    pass


class Pair(msgspec.Struct, tag="pair", array_like=True):
    one: int


BOTH = Json(Move | Say), MsgPack(Move | Say)
VALUES = [Move(1), Move(-1, 2**40, {"a": 3}), Say("ä\0\U0001f600", [Move(5)]), Say("")]
codecs = pytest.mark.parametrize("codec", BOTH, ids=["json", "msgpack"])


@codecs
def test_keeps_the_promises_of_a_codec(codec):
    check_codec(
        codec,
        VALUES,
        refused=[{"a": "\ud800"}, Say("\ud800"), {"a": 1j}],
        malformed=["", "[", b"", b"\x81", b"\xc1", codec.encode(None), codec.encode({"type": "x"})],
    )


@pytest.mark.parametrize("kind", [Json, MsgPack])
def test_keeps_them_for_any_type_too(kind):
    check_codec(kind(Any), [None, [1, 2.5, {"a": [True, "x"]}], {}, "text"])


@pytest.mark.parametrize("codec", BOTH)
def test_is_a_codec(codec):
    assert codec.kind == Move | Say
    assert isinstance(codec, Codec)


@codecs
@pytest.mark.parametrize(
    ("value", "path", "code", "says"),
    [
        ({"type": "move", "x": "1"}, "$.x", "invalid", "Expected `int`, got `str`"),
        ({"type": "move", "x": 1, "by": {"k": None}}, "$.by[...]", "invalid", "Expected `int`"),
        ({"type": "say", "text": "", "moves": [{"type": "say"}]}, "$.moves[0].type", "invalid", ""),
        ({"type": "say", "text": "x" * 301}, "$.text", "invalid", "length"),
        ({"type": "say"}, "$", "invalid", "missing required field `text`"),
        ({"type": "say", "text": "", "z - at `x": 0}, "$", "invalid", "unknown field"),
        ({"type": "nobody"}, "$.type", "unknown-type", "Invalid value 'nobody'"),
        ({"x": 1}, "$", "invalid", "missing required field `type`"),
        ({"type": 7}, "$.type", "invalid", "Expected `str`"),
        ([1], "$", "invalid", "Expected `object`, got `array`"),
    ],
)
def test_an_error_names_the_path(codec, value, path, code, says):
    with pytest.raises(trioweb.InvalidMessage) as caught:
        codec.decode(codec.encode(value))
    error = caught.value
    assert (error.path, error.code) == (path, code)
    assert says in error.message
    assert str(error) == f"{error.message} - at {error.path}"
    assert isinstance(error, ValueError)
    assert error.__cause__ is None


@pytest.mark.parametrize(
    ("codec", "message", "says"),
    [
        (BOTH[0], BOTH[1].encode(VALUES[0]), "Expected a text message"),
        (BOTH[1], BOTH[0].encode(VALUES[0]), "Expected a binary message"),
        (BOTH[0], '{"type":"say","text":"\ud800"}', "not Unicode"),
        (BOTH[1], b"\x82\xa4type\xa3say\xa4text\xa1\xff", "not Unicode"),
        (Json(Any), "[" * 100_000, "too deep"),
        (MsgPack(Any), b"\x91" * 100_000, "too deep"),
        (MsgPack(Any), b"\x81\x80\x01", "hashable"),
        (Json(Checks), '{"type":"checks"}', "never good"),
        (Json(dict[int, int]), '{"a":1}', "Expected `int`"),
        (BOTH[0], "{", "truncated"),
    ],
)
def test_what_is_none_at_all_is_an_invalid_message_too(codec, message, says):
    with pytest.raises(trioweb.InvalidMessage, match=says) as caught:
        codec.decode(message)
    assert (caught.value.path, caught.value.code) == ("$", "invalid")


@pytest.mark.parametrize(
    ("kind", "message", "code"),
    [
        (Other, '{"type":"it"}', "unknown-type"),
        (Pair, '["it",1]', "unknown-type"),
        (Pair, '["pair","x"]', "invalid"),
        (list[Other], '[{"type":"it"}]', "invalid"),
    ],
)
def test_the_type_is_that_of_the_whole_message(kind, message, code):
    with pytest.raises(trioweb.InvalidMessage) as caught:
        Json(kind).decode(message)
    assert caught.value.code == code


def test_an_error_repeats_little_of_what_the_peer_wrote():
    with pytest.raises(trioweb.InvalidMessage) as caught:
        BOTH[0].decode(BOTH[0].encode({"type": "x" * 10_000}))
    assert len(caught.value.message) == 200
    with pytest.raises(trioweb.InvalidMessage) as caught:
        BOTH[0].decode(BOTH[0].encode({"type": "say", "text": "", "z - at `" + "x" * 10_000: 1}))
    assert len(str(caught.value)) < 410


def test_json_cannot_tell_what_is_no_number():
    assert Json(Any).encode([float("nan"), float("inf")]) == "[null,null]"


moves = st.builds(
    Move, st.integers(-(2**63), 2**63 - 1), by=st.dictionaries(st.text(), st.integers(0, 9))
)
says = st.builds(Say, st.text(max_size=300), st.lists(moves, max_size=3))


@codecs
@given(value=moves | says)
def test_what_is_encoded_comes_back(codec, value):
    assert codec.decode(codec.encode(value)) == value


@codecs
@given(data=st.data())
def test_no_message_does_anything_else_than_raise(codec, data):
    message: str | bytes
    if data.draw(st.booleans()):
        message = data.draw(st.text() | st.binary())
    else:  # a good one with a bad place
        encoded = codec.encode(data.draw(moves | says))
        at = data.draw(st.integers(0, len(encoded)))
        bad = data.draw(st.text(max_size=3) if isinstance(encoded, str) else st.binary(max_size=3))
        message = encoded[:at] + bad + encoded[at + data.draw(st.integers(0, 3)) :]
    try:
        value = codec.decode(message)
    except trioweb.InvalidMessage:
        return
    assert isinstance(value, Move | Say)
