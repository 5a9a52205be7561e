"""permessage-deflate without a connection: agreeing, and the two streams."""

from __future__ import annotations

import functools
import random
import zlib
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wsproto.extensions import PerMessageDeflate
from wsproto.frame_protocol import FrameProtocol, Opcode, RsvBits

from trioweb.config import Deflate
from trioweb.errors import ProtocolError
from trioweb.protocol.deflate import (
    NAME,
    Agreement,
    Deflater,
    Inflater,
    Setting,
    answer,
    check_answer,
    offer,
)
from trioweb.types import CloseCode, Side

PLAIN = Agreement()
#: The agreement of `PLAIN`, but for the window.
Keep = functools.partial(Deflate, context_takeover=True)
SMALL = Keep(window_bits=10, max_window_bits=11)


# --- a server answers ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offered", "options", "said"),
    [
        ("", Keep(window_bits=15), ""),
        ("", Keep(), "server_max_window_bits=12"),
        ("client_max_window_bits", Keep(), "server_max_window_bits=12"),
        ("server_max_window_bits=10", Keep(), "server_max_window_bits=10"),
        ("server_max_window_bits=14", Keep(), "server_max_window_bits=12"),
        ('server_max_window_bits="10"', Keep(), "server_max_window_bits=10"),
        (r'server_max_window_bits="1\0"', Keep(), "server_max_window_bits=10"),
        (" server_max_window_bits = 10 ", Keep(), "server_max_window_bits=10"),
        ("server_max_window_bits=8", Keep(), "server_max_window_bits=8"),
        ("client_max_window_bits", SMALL, "server_max_window_bits=10; client_max_window_bits=11"),
        ("client_max_window_bits=9", SMALL, "server_max_window_bits=10; client_max_window_bits=9"),
        (
            "client_max_window_bits=15",
            SMALL,
            "server_max_window_bits=10; client_max_window_bits=11",
        ),
        (
            "server_no_context_takeover; client_no_context_takeover",
            Keep(window_bits=15),
            "server_no_context_takeover; client_no_context_takeover",
        ),
        ("server_no_context_takeover", Keep(window_bits=15), "server_no_context_takeover"),
        (
            "",
            Deflate(window_bits=15),
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
        'client_max_window_bits=10"',
        'client_max_window_bits=""',
        'client_max_window_bits="1 0"',
        'client_max_window_bits="10;"',
        'client_no_context_takeover=""',
        "Client_max_window_bits=10",
        "client_max_window_bits=\u0661\u0660",
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
    assert answer([f"{NAME}; {offered}"], Keep()) is None
    found = answer([f"{NAME}; {offered}", "other", NAME], Keep(window_bits=15))
    assert found == (PLAIN, NAME)


@pytest.mark.parametrize("name", ["Permessage-Deflate", "permessage-deflate-2", "", "x; " + NAME])
def test_another_name_is_another_extension(name: str) -> None:
    assert answer([name], Keep()) is None
    with pytest.raises(ValueError, match="not offered"):
        check_answer([name], Keep())


def test_a_client_that_cannot_be_told_to_use_less_memory_gets_no_compression() -> None:
    assert answer([NAME], SMALL) is None
    assert answer([NAME, f"{NAME}; client_max_window_bits"], SMALL) is not None


@given(st.text(alphabet='abc_;="1589 ,tkenoxdrviw', max_size=60))
def test_no_offer_is_an_exception(text: str) -> None:
    answer([f"{NAME};{text}", text], Keep())


# --- a client checks -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "options", "agreed"),
    [
        ("", Keep(), Agreement(False, False, 15, 12)),
        ("client_max_window_bits=10", Keep(), Agreement(False, False, 15, 10)),
        ("client_max_window_bits=8", Keep(), Agreement(False, False, 15, 8)),
        ("server_max_window_bits=9", Keep(), Agreement(False, False, 9, 12)),
        ("server_no_context_takeover", Keep(), Agreement(True, False, 15, 12)),
        ("client_no_context_takeover", Keep(), Agreement(False, True, 15, 12)),
    ],
)
def test_an_answer_is_agreed_to(said: str, options: Deflate, agreed: Agreement) -> None:
    assert check_answer([f"{NAME}; {said}" if said else NAME], options) == agreed


@pytest.mark.parametrize(
    ("extensions", "options"),
    [
        ([NAME], None),
        (["other"], Keep()),
        ([NAME, NAME], Keep()),
        ([f"{NAME}; client_max_window_bits=10; client_max_window_bits=10"], Keep()),
        ([f"{NAME}; server_no_context_takeover=1"], Keep()),
        ([f"{NAME}; unknown"], Keep()),
        ([f"{NAME}; client_max_window_bits"], Keep()),
        ([f"{NAME}; server_max_window_bits"], Keep()),
        ([f"{NAME}; server_max_window_bits=16"], Keep()),
        ([NAME], SMALL),
        ([f"{NAME}; server_max_window_bits=12"], SMALL),
        ([NAME], Deflate()),
    ],
)
def test_an_answer_that_may_not_be_given(extensions: list[str], options: Deflate | None) -> None:
    with pytest.raises(ValueError, match=r"offered|malformed|larger|against"):
        check_answer(extensions, options)


def test_what_a_client_offers() -> None:
    """Its own window as a hint, and as conditions only what it needs for its own memory."""
    loose = Keep(window_bits=15)
    assert offer(loose) == f"{NAME}; client_max_window_bits"
    strict = Deflate(window_bits=11, max_window_bits=10, context_takeover=False)
    assert offer(strict) == (
        f"{NAME}; client_max_window_bits=11; server_max_window_bits=10; "
        "client_no_context_takeover; server_no_context_takeover"
    )


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
    inflater = Inflater(PLAIN, Side.SERVER, 10_000)
    for _ in range(3):
        assert inflate(inflater, final * 4 + b"\0") == b""
    with pytest.raises(ProtocolError, match="too many final blocks") as caught:
        inflater.feed(final * 10_000)
    assert caught.value.code == CloseCode.POLICY_VIOLATION


def test_a_long_message_may_have_more_final_blocks() -> None:
    stream = zlib.compressobj(wbits=-15)
    block = stream.compress(bytes(1024)) + stream.flush(zlib.Z_FINISH)
    inflater = Inflater(PLAIN, Side.SERVER, 10**6)
    assert inflate(inflater, block * 500 + b"\0") == bytes(1024 * 500)


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


def a_message(size: int = 3000) -> bytes:
    return bytes(random.Random(size).choices(b"abcdefghij", k=size))


def test_a_message_that_ends_inside_a_block_is_1007() -> None:
    """Else what follows would be taken for its rest, and garbage for the message."""
    payload = Deflater(Deflate(), PLAIN, Side.SERVER).compress(a_message())
    stored = zlib.compressobj(0, wbits=-15)
    raw = (stored.compress(a_message()) + stored.flush(zlib.Z_SYNC_FLUSH))[:-4]
    for whole in (payload, raw):
        assert inflate(Inflater(PLAIN, Side.CLIENT, 10_000), whole) == a_message()
    # A stored block's first byte is an empty message, and its last four may be those that a
    # receiver has to put behind every message (RFC 7692, 7.2.2).
    cuts = [payload[:end] for end in range(1, len(payload))]
    cuts += [raw[:end] for end in range(2, len(raw)) if end != len(raw) - 5]
    for cut in cuts:
        with pytest.raises(ProtocolError) as caught:
            inflate(Inflater(PLAIN, Side.CLIENT, 10_000), cut)
        assert caught.value.code == CloseCode.INVALID_DATA


@pytest.mark.parametrize("context_takeover", [True, False])
def test_a_message_without_a_byte_and_one_that_ends_with_a_last_block(
    context_takeover: bool,
) -> None:
    agreement = Agreement(server_no_context_takeover=not context_takeover)
    inflater = Inflater(agreement, Side.CLIENT, 10_000)
    final = zlib.compressobj(wbits=-15)
    finished = final.compress(a_message()) + final.flush(zlib.Z_FINISH)
    for _ in range(2):
        assert inflate(inflater) == b""
        assert inflate(inflater, finished) == a_message()
        assert inflate(inflater, bytes.fromhex("f248cdc9c90700")) == b"Hello"


@pytest.mark.parametrize("takes_over", [True, False])
@pytest.mark.parametrize("bits", [8, 9, 15])
def test_between_messages_only_the_window_is_kept(takes_over: bool, bits: int) -> None:
    agreement = Agreement(server_no_context_takeover=not takes_over, server_max_window_bits=bits)
    deflater = Deflater(Deflate(window_bits=max(bits, 9)), agreement, Side.SERVER)
    inflater = Inflater(agreement, Side.CLIENT, 10**6)
    for size in (1, 100, 300, 600, 40_000, 5):
        message = a_message(size)
        assert inflate(inflater, deflater.compress(message)) == message
        assert inflater._stream is None
        assert len(inflater._window) <= (2**bits if takes_over else 0)
        assert (deflater._stream is None) is not takes_over
        assert not takes_over or inflater._window.endswith(message[-(2**bits) :])


def test_references_beyond_the_window_agreed_on_are_refused() -> None:
    inflater = Inflater(Agreement(server_max_window_bits=9), Side.CLIENT, 10_000)
    wide = Deflater(Deflate(window_bits=15), PLAIN, Side.SERVER)
    far = random.Random(1).randbytes(1000)
    assert inflate(inflater, wide.compress(far)) == far
    with pytest.raises(ProtocolError, match="too far back") as caught:
        inflate(inflater, wide.compress(far))
    assert caught.value.code == CloseCode.INVALID_DATA


def strictly(payload: bytes, bits: int) -> bytes:
    """Inflate byte for byte: only so zlib knows no more than the window."""
    stream = zlib.decompressobj(-bits)
    rest, out = payload + b"\0\0\xff\xff\x03\x00", []
    while not stream.eof:
        out.append(stream.decompress(rest, 1))
        rest = stream.unconsumed_tail
        assert out[-1] or rest or stream.eof
    return b"".join(out)


@pytest.mark.parametrize("memory_level", [1, 5, 9])
@pytest.mark.parametrize("level", range(1, 10))
def test_the_smallest_window_is_written_by_zlibs_next_larger_one(
    level: int, memory_level: int
) -> None:
    options = Deflate(level=level, memory_level=memory_level, window_bits=9)
    chance = random.Random(level)
    for distance in (100, *range(245, 270)):
        message = chance.randbytes(distance) * 5
        deflater = Deflater(options, Agreement(server_max_window_bits=8), Side.SERVER)
        payload = deflater.compress(message)
        assert strictly(payload, 8) == message
        assert distance > 100 or len(payload) < len(message) * 0.7
    wide = Deflater(Deflate(window_bits=15, level=level), PLAIN, Side.SERVER)
    payload = wide.compress(chance.randbytes(300) * 5)
    with pytest.raises(zlib.error, match="too far back"):
        strictly(payload, 8)


# --- what is compressed, and in which pieces -------------------------------------------------


SETTING = Setting(level=1, memory_level=5, window_bits=12, threshold=100)


def test_the_threshold_and_the_wish_decide() -> None:
    for takes_over in (True, False):
        agreement = Agreement(not takes_over)
        deflater = Deflater(Deflate(threshold=100), agreement, Side.SERVER)
        assert deflater.pack(bytes(99)) is None
        assert deflater.pack(bytes(100)) is not None
        assert deflater.pack(bytes(100), False) is None
        assert deflater.pack(b"x", True) is not None
    assert SETTING.pack(bytes(99)) is None
    assert SETTING.pack(bytes(100)) is not None


def test_what_gains_nothing_goes_as_it_is_unless_somebody_wishes_it() -> None:
    noise = random.Random(1).randbytes(1000)
    assert SETTING.pack(noise) is None
    assert SETTING.pack(noise, True) is not None
    for takes_over in (True, False):
        agreement = Agreement(not takes_over)
        deflater = Deflater(Deflate(threshold=100), agreement, Side.SERVER)
        inflater = Inflater(agreement, Side.CLIENT, 10_000)
        for message in (a_message(), noise, noise + a_message(), a_message()):
            payload = deflater.pack(message)
            assert (payload is None) is (message == noise)
            # Nothing refers to what the other end's window does not have.
            assert payload is None or inflate(inflater, payload) == message
        assert inflate(inflater, deflater.pack(noise, True) or b"") == noise


def test_a_message_for_many_may_come_between_two_of_ones_own() -> None:
    deflater = Deflater(Deflate(context_takeover=True), PLAIN, Side.SERVER)
    inflater = Inflater(PLAIN, Side.CLIENT, 10_000)
    for number in range(4):
        own = a_message(500 + number)
        assert inflate(inflater, deflater.compress(own)) == own
        shared = deflater.setting.pack(a_message(400), True)
        assert shared is not None
        assert inflate(inflater, shared) == a_message(400)
        deflater.release()


def test_without_the_release_the_window_would_be_wrong() -> None:
    deflater = Deflater(Deflate(context_takeover=True), PLAIN, Side.SERVER)
    inflater = Inflater(PLAIN, Side.CLIENT, 10_000)
    assert inflate(inflater, deflater.compress(a_message(500))) == a_message(500)
    assert inflate(inflater, deflater.setting.pack(a_message(400), True) or b"") == a_message(400)
    assert inflate(inflater, deflater.compress(a_message(500))) != a_message(500)


PIECES = st.lists(
    st.one_of(st.just(b""), st.binary(max_size=300), st.sampled_from([bytes(9000), b"ab" * 400])),
    min_size=1,
    max_size=6,
)


def in_pieces(deflater: Deflater, pieces: Sequence[bytes]) -> list[bytes]:
    return [
        *(deflater.compress(piece, last=False) for piece in pieces[:-1]),
        deflater.compress(pieces[-1]),
    ]


@given(OPTIONS, st.lists(PIECES, max_size=4), st.data())
@settings(max_examples=150)
def test_a_message_in_pieces(options: Deflate, messages: list[list[bytes]], data: Any) -> None:
    agreement = Agreement(not options.context_takeover, True, options.window_bits)
    deflater, inflater = (
        Deflater(options, agreement, Side.SERVER),
        Inflater(agreement, Side.CLIENT, 10**6),
    )
    other = zlib.decompressobj(-15)
    for pieces in messages:
        payloads = in_pieces(deflater, pieces)
        whole = b"".join(payloads)
        assert other.decompress(whole + b"\0\0\xff\xff") == b"".join(pieces)
        # What has been sent can be read, before the next piece.
        for piece, payload in zip(pieces[:-1], payloads[:-1], strict=True):
            assert inflater.feed(payload) == piece
        assert inflater.feed(payloads[-1]) + inflater.finish() == pieces[-1]
        assert (deflater._stream is not None) <= options.context_takeover
        if data.draw(st.booleans()):
            deflater.release()


def test_the_pieces_of_one_message_share_a_window_without_context_takeover() -> None:
    deflater = Deflater(Deflate(), Agreement(server_no_context_takeover=True), Side.SERVER)
    first, second = in_pieces(deflater, [a_message(900), a_message(900)])
    assert len(second) < len(first) / 10
    assert deflater._stream is None
    # A context may be given up between the pieces, too.
    halves = [deflater.compress(a_message(900), last=False)]
    deflater.release()
    halves.append(deflater.compress(a_message(900)))
    inflater = Inflater(Agreement(server_no_context_takeover=True), Side.CLIENT, 10_000)
    assert inflate(inflater, *halves) == a_message(900) * 2


# --- against wsproto's own -------------------------------------------------------------------


def theirs(client: bool, agreement: Agreement) -> FrameProtocol:
    extension = PerMessageDeflate(
        agreement.client_no_context_takeover,
        agreement.client_max_window_bits,
        agreement.server_no_context_takeover,
        agreement.server_max_window_bits,
    )
    extension._enabled = True
    return FrameProtocol(client, [extension])


AGREEMENTS = st.builds(
    Agreement, st.booleans(), st.booleans(), st.integers(9, 15), st.integers(9, 15)
)


@given(AGREEMENTS, OPTIONS, PIECES, st.integers(1, 4))
@settings(max_examples=100)
def test_wsproto_inflates_what_we_compress(
    agreement: Agreement, options: Deflate, pieces: list[bytes], times: int
) -> None:
    peer = theirs(True, agreement)
    deflater = Deflater(options, agreement, Side.SERVER)
    for _ in range(times):
        got = b""
        for number, payload in enumerate(in_pieces(deflater, pieces)):
            first = 0 if number else 0x42
            fin = 0x80 if number == len(pieces) - 1 else 0
            head = bytes([first | fin, 127]) + len(payload).to_bytes(8, "big")
            if len(payload) < 126:
                head = bytes([first | fin, len(payload)])
            elif len(payload) < 2**16:
                head = bytes([first | fin, 126]) + len(payload).to_bytes(2, "big")
            peer.receive_bytes(head + payload)
            for one in peer.received_frames():
                assert isinstance(one.payload, (bytes, bytearray))
                got += one.payload
        assert got == b"".join(pieces)


@given(AGREEMENTS, st.lists(st.binary(max_size=500), max_size=4))
@settings(max_examples=100)
def test_we_inflate_what_wsproto_compresses(agreement: Agreement, messages: list[bytes]) -> None:
    peer = theirs(False, agreement)
    extension = peer.extensions[0]
    inflater = Inflater(agreement, Side.CLIENT, 10**6)
    for message in messages:
        _, payload = extension.frame_outbound(
            peer, Opcode.BINARY, RsvBits(False, False, False), message, True
        )
        assert inflate(inflater, payload) == message


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
