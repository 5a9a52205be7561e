"""The messages of the arena: what they look like, and what is refused with which words."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples.arena import wire
from examples.arena.world import Rules


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"t":"join","name":"Ada"}', wire.Join("Ada")),
        ('{"t":"join","name":"Ada","key":"k"}', wire.Join("Ada", "k")),
        ('{"t":"input","seq":1,"dx":0,"dy":-1}', wire.Input(1, 0, -1)),
        ('{"dy":0.5,"dx":0.25,"seq":9,"t":"input"}', wire.Input(9, 0.25, 0.5)),
        ('{"t":"ping","at":12.5}', wire.Ping(12.5)),
    ],
)
def test_what_clients_say(text: str, message: wire.FromClient) -> None:
    assert wire.decode(text) == message


@pytest.mark.parametrize(
    ("message", "complaint"),
    [
        (b'{"t":"ping","at":1}', "binary"),
        ("", "truncated"),
        ("hello", "malformed"),
        ("[]", "Expected `object`, got `array`"),
        ("{}", "missing required field `t`"),
        ('{"t":"cheat"}', "Invalid value 'cheat' - at `$.t`"),
        ('{"t":"input","seq":1,"dx":0}', "missing required field `dy`"),
        ('{"t":"input","seq":1,"dx":0,"dy":1.01}', "<= 1.0 - at `$.dy`"),
        ('{"t":"input","seq":1,"dx":-2,"dy":0}', ">= -1.0 - at `$.dx`"),
        ('{"t":"input","seq":1,"dx":1e999,"dy":0}', "out of range - at `$.dx`"),
        ('{"t":"input","seq":1,"dx":NaN,"dy":0}', "malformed"),
        ('{"t":"input","seq":1,"dx":"1","dy":0}', "got `str` - at `$.dx`"),
        ('{"t":"input","seq":1,"dx":true,"dy":0}', "got `bool` - at `$.dx`"),
        ('{"t":"input","seq":1,"dx":null,"dy":0}', "got `null` - at `$.dx`"),
        ('{"t":"input","seq":0,"dx":0,"dy":0}', ">= 1 - at `$.seq`"),
        ('{"t":"input","seq":1.5,"dx":0,"dy":0}', "got `float` - at `$.seq`"),
        ('{"t":"input","seq":99999999999999999999,"dx":0,"dy":0}', "at `$.seq`"),
        ('{"t":"input","seq":1,"dx":0,"dy":0,"x":5}', "unknown field `x`"),
        ('{"t":"join","name":7}', "got `int` - at `$.name`"),
        (json.dumps({"t": "join", "name": "x" * 65}), "length <= 64 - at `$.name`"),
        ("[" * 5000, "Expected `object`"),
        ('{"at":' + "[" * 5000, "deep"),
    ],
)
def test_what_is_refused_and_why(message: str | bytes, complaint: str) -> None:
    with pytest.raises(wire.MalformedError) as caught:
        wire.decode(message)
    assert complaint in str(caught.value)


@given(st.text() | st.binary())
def test_no_message_raises_anything_else(message: str | bytes) -> None:
    try:
        wire.decode(message)
    except wire.MalformedError as error:
        assert str(error)  # noqa: PT017 - most examples are malformed, some are not


def test_the_first_message_must_be_a_join() -> None:
    assert wire.decode_join('{"t":"join","name":"Ada"}') == wire.Join("Ada")
    with pytest.raises(wire.MalformedError, match="must be a join"):
        wire.decode_join('{"t":"ping","at":1}')


@given(
    st.builds(wire.Pong, st.floats(allow_nan=False, allow_infinity=False))
    | st.builds(wire.Error, st.text())
    | st.builds(wire.Welcome, st.integers(1, 2**53), st.text(), st.just(Rules()))
)
def test_what_the_server_says_is_understood(message: wire.FromServer) -> None:
    assert wire.decode_from_server(wire.encode(message)) == message


def test_a_state_carries_changes_that_were_encoded_before() -> None:
    changes = wire.Changes(players=(wire.PlayerRow(3, x=5),), coins_gone=(8,))
    raw = wire.encode_raw(changes)
    text = wire.encode(wire.State(9, 8, 77, 5, (-1, 2), raw))
    assert json.loads(text) == {
        "t": "state",
        "n": 9,
        "since": 8,
        "tick": 77,
        "ack": 5,
        "v": [-1, 2],
        "w": {"p": [{"i": 3, "x": 5}], "cg": [8]},
    }
    state = wire.decode_from_server(text)
    assert isinstance(state, wire.State)
    assert wire.decode_changes(state.changes) == changes


def test_a_bad_state_is_refused_too() -> None:
    with pytest.raises(wire.MalformedError, match=r"\$\.t"):
        wire.decode_from_server('{"t":"nonsense"}')
    with pytest.raises(wire.MalformedError, match=r"\$\.p"):
        wire.decode_changes(msgspec.Raw(b'{"p":1}'))
