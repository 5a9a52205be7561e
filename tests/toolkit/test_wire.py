"""The wire protocol's messages: what stands in `tests/vectors/wire.json`, and whatever comes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers import looping
from trioweb.errors import InvalidMessage
from trioweb.testing import check_codec
from trioweb.toolkit.wire import (
    JSON,
    MSGPACK,
    Call,
    Cancel,
    Error,
    Event,
    Item,
    Malformed,
    More,
    Notify,
    Result,
    convert,
)

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "wire.json").read_text())


def vectors(section):
    return pytest.mark.parametrize("vector", VECTORS[section], ids=lambda vector: vector["name"])


def message_of(vector):
    return vector["text"] if "text" in vector else bytes.fromhex(vector["binary"])


@vectors("messages")
def test_messages_are_the_same_in_both_formats(vector):
    text, binary = json.dumps(vector["message"]), bytes.fromhex(vector["msgpack"])
    value = JSON.decode(text)
    assert value == JSON.decode(binary) == MSGPACK.decode(text)
    assert json.loads(JSON.encode(value)) == vector["message"]
    assert MSGPACK.encode(value) == binary


@vectors("means")
def test_messages_may_be_written_in_other_ways(vector):
    value = JSON.decode(message_of(vector))
    assert value == MSGPACK.decode(message_of(vector))
    assert json.loads(JSON.encode(value)) == vector["means"]


@pytest.mark.parametrize("vector", VECTORS["bytes"], ids=lambda vector: vector["data"])
def test_bytes_are_base64_in_json(vector):
    event = Event(vector["message"]["topic"], data=bytes.fromhex(vector["data"]))
    assert MSGPACK.encode(event) == bytes.fromhex(vector["msgpack"])
    assert json.loads(JSON.encode(event)) == vector["message"]
    assert JSON.decode(MSGPACK.encode(event)) == event


@vectors("malformed")
def test_malformed_messages_have_an_answer(vector):
    with pytest.raises(Malformed) as caught:
        JSON.decode(message_of(vector))
    answer = json.loads(JSON.encode(caught.value.answer))
    assert answer.pop("message")
    assert answer == vector["answer"]
    assert caught.value.call == vector.get("fails")


def test_what_is_nested_too_deeply_is_malformed():
    for depth in (10**5, 10**6):
        for message in (
            '{"type":"call","id":1,"method":"m","params":' + "[" * depth,
            '{"type":"call","id":1,"method":"m","other":' + '{"":' * depth,
            b"\x82\xa4type\xa5event\xa4data" + b"\x91" * depth,
        ):
            with pytest.raises(Malformed), looping():
                JSON.decode(message)


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
ids = st.integers(1, 2**53 - 1)
counts = st.integers(0, 2**53 - 1)
codes = st.text(max_size=9)
messages = st.one_of(
    st.builds(
        Call,
        ids,
        st.text(),
        values,
        st.none() | st.floats(0, 1e9),
        st.none() | st.text(min_size=1, max_size=200),
        counts,
    ),
    st.builds(Cancel, ids),
    st.builds(Result, ids, values),
    st.builds(Item, ids, values),
    st.builds(More, ids, counts),
    st.builds(
        Error,
        id=st.none() | ids,
        code=codes,
        message=st.text(),
        path=st.none() | codes,
        data=values,
    ),
    st.builds(Notify, st.text(), values),
    st.builds(Event, st.text(), counts, values),
)


@given(messages)
def test_every_message_survives_its_way(message):
    for format_ in (JSON, MSGPACK):
        assert format_.decode(format_.encode(message)) == message


def answer_to(message):
    """Return what a peer answers to a message that is malformed, or None."""
    try:
        JSON.decode(message)
    except Malformed as error:
        return error.answer
    return None


@given(st.binary() | st.text() | values.map(json.dumps))
def test_whatever_comes_is_a_message_or_malformed(message):
    answer = answer_to(message)
    assert answer is None or JSON.decode(JSON.encode(answer)) == answer


@given(st.data(), messages)
def test_a_damaged_message_is_a_message_or_malformed(data, message):
    encoded = MSGPACK.encode(message)
    assert isinstance(encoded, bytes)
    damaged = bytearray(encoded)
    at = data.draw(st.integers(0, len(damaged) - 1))
    damaged[at] = data.draw(st.integers(0, 255))
    answer = answer_to(bytes(damaged))
    assert answer is None or answer.code in ("invalid", "unknown-type")


@pytest.mark.parametrize("format_", [JSON, MSGPACK], ids=["json", "msgpack"])
async def test_both_formats_are_codecs(format_):
    check_codec(
        format_,
        [Call(1, "m", {"a": [1, None]}, 2.5, "k", 3), Result(1), Event("t", 1, "x")],
    )


def test_what_cannot_be_expressed_is_a_type_error():
    endless: list[object] = []
    endless.append(endless)
    for value in (object(), "\ud800", endless, {(1, 2): 3, "b": object()}):
        for format_ in (JSON, MSGPACK):
            with pytest.raises(TypeError):
                format_.encode(Result(1, value))
    with pytest.raises(TypeError):
        MSGPACK.encode(Result(1, 2**64))


def test_what_a_peer_made_up_is_repeated_in_part_only():
    with pytest.raises(Malformed) as caught:
        JSON.decode(json.dumps({"type": "x" * 10_000}))
    assert len(caught.value.answer.message) <= 200


def test_convert_checks_a_value_and_says_where_it_is_wrong():
    assert convert({"1": "YQ=="}, dict[int, bytes]) == {1: b"a"}
    assert convert({1: b"a"}, dict[int, bytes]) == {1: b"a"}
    with pytest.raises(InvalidMessage) as caught:
        convert([1, "2"], list[int])
    assert caught.value.path == "$[1]"


def test_formats_have_names():
    assert (repr(JSON), MSGPACK.name) == ("<Format JSON>", "MessagePack")
