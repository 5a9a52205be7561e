"""permessage-deflate without a connection: agreeing, and the two streams."""

from __future__ import annotations

import sys
import zlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trioweb.config import Deflate
from trioweb.errors import ProtocolError
from trioweb.protocol.deflate import (
    NAME,
    Agreement,
    Deflater,
    Inflater,
    answer,
    check_answer,
    offer,
)
from trioweb.types import CloseCode, Side

PLAIN = Agreement()
SMALL = Deflate(window_bits=10, max_window_bits=11)


# --- a server answers ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offered", "options", "said"),
    [
        ("", Deflate(window_bits=15), ""),
        ("", Deflate(), "server_max_window_bits=12"),
        ("client_max_window_bits", Deflate(), "server_max_window_bits=12"),
        ("server_max_window_bits=10", Deflate(), "server_max_window_bits=10"),
        ("server_max_window_bits=14", Deflate(), "server_max_window_bits=12"),
        ('server_max_window_bits="10"', Deflate(), "server_max_window_bits=10"),
        ("server_max_window_bits=8", Deflate(), "server_max_window_bits=8"),
        ("client_max_window_bits", SMALL, "server_max_window_bits=10; client_max_window_bits=11"),
        ("client_max_window_bits=9", SMALL, "server_max_window_bits=10; client_max_window_bits=9"),
        (
            "client_max_window_bits=15",
            SMALL,
            "server_max_window_bits=10; client_max_window_bits=11",
        ),
        (
            "server_no_context_takeover; client_no_context_takeover",
            Deflate(window_bits=15),
            "server_no_context_takeover; client_no_context_takeover",
        ),
        ("server_no_context_takeover", Deflate(window_bits=15), "server_no_context_takeover"),
        (
            "",
            Deflate(window_bits=15, context_takeover=False),
            "server_no_context_takeover; client_no_context_takeover",
        ),
    ],
)
def test_an_offer_is_answered(offered: str, options: Deflate, said: str) -> None:
    found = answer([f"{NAME}; {offered}" if offered else NAME], options)
    assert found is not None
    assert found[1] == (f"{NAME}; {said}" if said else NAME)


@pytest.mark.parametrize(
    "offered",
    [
        "unknown",
        "unknown=1",
        "server_no_context_takeover=1",
        "client_no_context_takeover=",
        "server_no_context_takeover; server_no_context_takeover",
        "client_max_window_bits=abc",
        "client_max_window_bits=7",
        "client_max_window_bits=16",
        "client_max_window_bits=08",
        "client_max_window_bits=",
        'client_max_window_bits="10',
        "client_max_window_bits=10; client_max_window_bits=10",
        "client_max_window_bits; client_max_window_bits=10",
        "server_max_window_bits",
        "server_max_window_bits=",
        "server_max_window_bits=+9",
        "server_max_window_bits=1 0",
        ";",
    ],
)
def test_a_malformed_offer_is_declined_and_the_next_one_taken(offered: str) -> None:
    assert answer([f"{NAME}; {offered}"], Deflate()) is None
    found = answer([f"{NAME}; {offered}", "other", NAME], Deflate(window_bits=15))
    assert found == (PLAIN, NAME)


def test_a_client_that_cannot_be_told_to_use_less_memory_gets_no_compression() -> None:
    assert answer([NAME], SMALL) is None
    assert answer([NAME, f"{NAME}; client_max_window_bits"], SMALL) is not None


@given(st.text(alphabet='abc_;="1589 ,tkenoxdrviw', max_size=60))
def test_no_offer_is_an_exception(text: str) -> None:
    answer([f"{NAME};{text}", text], Deflate())


# --- a client checks -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "options", "agreed"),
    [
        ("", Deflate(), Agreement(False, False, 15, 12)),
        ("client_max_window_bits=10", Deflate(), Agreement(False, False, 15, 10)),
        ("client_max_window_bits=8", Deflate(), Agreement(False, False, 15, 8)),
        ("server_max_window_bits=9", Deflate(), Agreement(False, False, 9, 12)),
        ("server_no_context_takeover", Deflate(), Agreement(True, False, 15, 12)),
        ("client_no_context_takeover", Deflate(), Agreement(False, True, 15, 12)),
    ],
)
def test_an_answer_is_agreed_to(said: str, options: Deflate, agreed: Agreement) -> None:
    assert check_answer([f"{NAME}; {said}" if said else NAME], options) == agreed


@pytest.mark.parametrize(
    ("extensions", "options"),
    [
        ([NAME], None),
        (["other"], Deflate()),
        ([NAME, NAME], Deflate()),
        ([f"{NAME}; unknown"], Deflate()),
        ([f"{NAME}; client_max_window_bits"], Deflate()),
        ([f"{NAME}; server_max_window_bits"], Deflate()),
        ([f"{NAME}; server_max_window_bits=16"], Deflate()),
        ([NAME], SMALL),
        ([f"{NAME}; server_max_window_bits=12"], SMALL),
        ([NAME], Deflate(context_takeover=False)),
    ],
)
def test_an_answer_that_may_not_be_given(extensions: list[str], options: Deflate | None) -> None:
    with pytest.raises(ValueError, match=r"offered|malformed|larger|against"):
        check_answer(extensions, options)


OPTIONS = st.builds(
    Deflate,
    level=st.integers(1, 9),
    memory_level=st.integers(1, 9),
    window_bits=st.integers(9, 15),
    max_window_bits=st.integers(9, 15),
    context_takeover=st.booleans(),
)


@given(OPTIONS, OPTIONS)
def test_our_ends_agree_with_each_other(client: Deflate, server: Deflate) -> None:
    found = answer([offer(client)], server)
    assert found is not None
    agreement, said = found
    theirs = check_answer([said], client)
    assert theirs is not None
    assert theirs.server_max_window_bits == agreement.server_max_window_bits
    assert theirs.client_max_window_bits <= agreement.client_max_window_bits
    assert theirs.takes_over(Side.SERVER) == agreement.takes_over(Side.SERVER)
    assert agreement.server_max_window_bits <= client.max_window_bits
    assert theirs.client_max_window_bits <= server.max_window_bits


# --- the streams -----------------------------------------------------------------------------


def inflate(inflater: Inflater, *pieces: bytes) -> bytes:
    return b"".join(map(inflater.feed, pieces)) + inflater.finish()


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        ("f248cdc9c90700", b"Hello"),
        ("000500faff48656c6c6f00", b"Hello"),
        ("f348cdc9c9070000", b"Hello"),
        ("f248050000 00ffffcac9c90700", b"Hello"),
        ("00", b""),
    ],
)
def test_the_examples_of_rfc_7692(payload: str, message: bytes) -> None:
    data = bytes.fromhex(payload)
    assert inflate(Inflater(PLAIN, Side.SERVER, 100), data) == message
    bytewise = [data[at : at + 1] for at in range(len(data))]
    assert inflate(Inflater(PLAIN, Side.SERVER, 100), *bytewise) == message


def test_the_window_is_taken_over_as_in_rfc_7692() -> None:
    inflater = Inflater(PLAIN, Side.SERVER, 100)
    assert inflate(inflater, bytes.fromhex("f248cdc9c90700")) == b"Hello"
    assert inflate(inflater, bytes.fromhex("f200110000")) == b"Hello"


def test_a_last_block_does_not_end_the_window() -> None:
    inflater = Inflater(PLAIN, Side.SERVER, 1000)
    text = bytes(range(256))
    whole = zlib.compressobj(wbits=-15)
    assert inflate(inflater, whole.compress(text) + whole.flush(zlib.Z_FINISH) + b"\0") == text
    after = zlib.compressobj(wbits=-15, zdict=text)
    data = after.compress(text) + after.flush(zlib.Z_SYNC_FLUSH)
    assert len(data) < 20
    assert inflate(inflater, data[:-4]) == text


MESSAGES = st.lists(
    st.one_of(st.binary(max_size=2000), st.text(alphabet="ab ", max_size=9000).map(str.encode)),
    max_size=6,
)


@given(OPTIONS, OPTIONS, MESSAGES, st.sampled_from(Side), st.data())
@settings(max_examples=200)
def test_what_one_end_compresses_the_other_inflates(
    client: Deflate, server: Deflate, messages: list[bytes], sender: Side, data: st.DataObject
) -> None:
    found = answer([offer(client)], server)
    assert found is not None
    agreement = found[0]
    receiver = Side.SERVER if sender is Side.CLIENT else Side.CLIENT
    deflater = Deflater(client if sender is Side.CLIENT else server, agreement, sender)
    inflater = Inflater(agreement, receiver, 10_000)
    for message in messages:
        payload = deflater.compress(message)
        cuts = sorted(data.draw(st.lists(st.integers(0, len(payload)), max_size=4)))
        pieces = [payload[a:b] for a, b in zip([0, *cuts], [*cuts, len(payload)], strict=True)]
        assert inflate(inflater, *pieces) == message


def test_a_flood_of_final_blocks_is_cut_off() -> None:
    final = b"\x03\x00"  # an empty block, the last one
    inflater = Inflater(PLAIN, Side.SERVER, 1000)
    for _ in range(3):
        assert inflate(inflater, final * 60 + b"\0") == b""
    with pytest.raises(ProtocolError, match="too many final blocks"):
        inflater.feed(final * 10_000)


def test_a_bomb_stops_at_the_limit() -> None:
    packed = Deflater(Deflate(level=9, window_bits=15), PLAIN, Side.SERVER).compress(bytes(2**27))
    inflater = Inflater(PLAIN, Side.CLIENT, 2**20)
    with pytest.raises(ProtocolError) as caught:
        inflater.feed(packed)
    assert caught.value.code == CloseCode.MESSAGE_TOO_BIG


def test_the_limit_is_for_each_message() -> None:
    deflater, inflater = Deflater(Deflate(), PLAIN, Side.SERVER), Inflater(PLAIN, Side.CLIENT, 1000)
    for _ in range(3):
        assert inflate(inflater, deflater.compress(bytes(1000))) == bytes(1000)
    with pytest.raises(ProtocolError):
        inflate(inflater, deflater.compress(bytes(1001)))


def test_what_is_not_deflate_is_1007() -> None:
    with pytest.raises(ProtocolError) as caught:
        Inflater(PLAIN, Side.CLIENT, 1000).feed(b"\xff\xff\xff")
    assert caught.value.code == CloseCode.INVALID_DATA


def test_the_memory_of_many_tiny_messages_is_the_windows() -> None:
    deflater, inflater = Deflater(Deflate(), PLAIN, Side.SERVER), Inflater(PLAIN, Side.CLIENT, 1000)
    for _ in range(2000):
        inflate(inflater, deflater.compress(b"x"))
    assert len(inflater._history) <= 65
    assert sum(map(sys.getsizeof, inflater._history)) < 2**16


def test_a_window_that_zlib_cannot_write_is_not_written() -> None:
    deflater = Deflater(Deflate(), Agreement(server_max_window_bits=8), Side.SERVER)
    assert not deflater.able
    assert not deflater.decide(10_000, True)
    assert Deflater(Deflate(threshold=10), PLAIN, Side.SERVER).decide(10, None)
    assert not Deflater(Deflate(threshold=10), PLAIN, Side.SERVER).decide(9, None)


@pytest.mark.parametrize(
    "options",
    [
        {"level": 0},
        {"level": 10},
        {"memory_level": 0},
        {"window_bits": 8},
        {"max_window_bits": 16},
        {"threshold": -1},
    ],
)
def test_options_out_of_range(options: dict[str, Any]) -> None:
    (name,) = options
    with pytest.raises(ValueError, match=f"Deflate.{name} must"):
        Deflate(**options)
