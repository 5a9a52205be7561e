"""The sniffer: the same frames wherever the stream is cut, whatever stands in it."""

from __future__ import annotations

import struct
import tracemalloc

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.helpers import (
    BINARY,
    CLOSE,
    CONTINUATION,
    MASK,
    PING,
    PONG,
    TEXT,
    accepting,
    asking,
    close_frame,
    frame,
    header,
    mask_with,
)
from trioweb.testing.sniffer import FRAME_KIND, Sniffed, Sniffer, compose
from trioweb.types import Side

NAMES = {CONTINUATION: "continuation", TEXT: "text", BINARY: "binary"} | {
    CLOSE: "close",
    PING: "ping",
    PONG: "pong",
}
REQUEST = asking()
ANSWER = accepting("x")


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    """Cut some bytes at places counted from the last cut; a rest in one piece."""
    found = []
    for cut in cuts:
        found.append(data[:cut])
        data = data[cut:]
    return [*found, data]


def sniff(sniffer: Sniffer, *data: bytes) -> list[Sniffed]:
    return [found for piece in data for found in sniffer.feed(piece)]


def joined(found: list[Sniffed]) -> list[Sniffed]:
    """Join opaque bytes, which come as they are written."""
    result: list[Sniffed] = []
    for one in found:
        if result and one.kind == result[-1].kind == "bytes":
            before = result.pop()
            one = Sniffed("bytes", before.size + one.size, before.data + one.data)  # noqa: PLW2901
        result.append(one)
    return result


def hand_made(
    opcode: int, payload: bytes, *, fin: bool, rsv: int, mask: bytes | None, form: int
) -> bytes:
    """Write a frame with a length of 7, 16 or 64 bits, or of more if that does not suffice."""
    first = fin << 7 | rsv << 4 | opcode
    bit, length = (mask is not None) << 7, len(payload)
    if form == 64 or length >= 2**16:
        head = struct.pack("!BBQ", first, bit | 127, length)
    elif form == 16 or length > 125:
        head = struct.pack("!BBH", first, bit | 126, length)
    else:
        head = struct.pack("!BB", first, bit | length)
    return head + payload if mask is None else head + mask + mask_with(mask, payload)


payloads = st.one_of(
    st.binary(max_size=12),
    st.builds(bytes, st.sampled_from([124, 125, 126, 127, 300, 2**16 - 1, 2**16])),
)
cuts = st.lists(st.integers(0, 40), max_size=40)


@st.composite
def frames(draw: st.DrawFn) -> tuple[bytes, Sniffed, bool]:
    """Draw any frame, right or wrong: its bytes, what it is, and whether it is masked."""
    opcode, rsv = draw(st.integers(0, 15)), draw(st.sampled_from([0, 0, 0, 1, 4, 7]))
    fin = draw(st.booleans())
    payload = draw(payloads)
    mask = draw(st.none() | st.binary(min_size=4, max_size=4))
    form = draw(st.sampled_from([7, 7, 16, 64]))
    least = 7 if len(payload) < 126 else 16 if len(payload) < 2**16 else 64
    kind = NAMES.get(opcode, f"opcode-{opcode}")
    kind += f"-rsv{rsv}" if rsv else ""
    kind += f"-len{form}" if form > least else ""
    data = hand_made(opcode, payload, fin=fin, rsv=rsv, mask=mask, form=form)
    unmarked = Sniffed(kind, len(payload), payload)
    return data, unmarked._replace(kind=kind + "+" * (not fin)), mask is not None


def named(sniffed: Sniffed, masked: bool, sender: Side) -> Sniffed:
    """Name what is wrong with a frame's mask, given who sends it."""
    if masked is (sender is Side.CLIENT):
        return sniffed
    kind = sniffed.kind.removesuffix("+")
    more = sniffed.kind[len(kind) :]
    return sniffed._replace(kind=f"{kind}-{'masked' if masked else 'unmasked'}{more}")


@pytest.mark.parametrize("sender", Side)
@given(drawn=st.lists(frames(), max_size=6), cuts=cuts, keep=st.sampled_from([1, 5, 126, 2**17]))
@example(drawn=[], cuts=[1] * len(REQUEST), keep=1)
def test_any_frames_are_the_same_wherever_the_stream_is_cut(sender, drawn, cuts, keep):
    head = REQUEST if sender is Side.CLIENT else ANSWER
    stream = head + b"".join(data for data, _, _ in drawn)
    expected = [Sniffed("http", len(head), head)]
    expected += [named(sniffed, masked, sender) for _, sniffed, masked in drawn]
    expected = [one._replace(data=one.data[:keep]) for one in expected]
    sniffer = Sniffer(keep, sender)
    assert sniff(sniffer, *pieces(stream, cuts)) == expected
    assert sniffer.rest() is None


@given(st.binary(max_size=300), cuts, st.sampled_from([None, *Side]), st.integers(1, 50))
@example(b"\x16\x03\x01", [1, 1], None, 50)
@example(b"GET / HTTP/1.1\r\n\r\n\x81\x01a", [17], Side.CLIENT, 50)
@example(b"HTTP/1.1 200 OK\r\n\r\nbody", [20], Side.SERVER, 50)
@example(b"GET\n\x81\x00", [3], None, 50)
def test_of_any_bytes_at_all_none_is_lost_and_the_cuts_do_not_matter(data, cuts, sender, keep):
    def all_of(*parts: bytes) -> list[Sniffed]:
        sniffer = Sniffer(2**20, sender)
        found = sniff(sniffer, *parts)
        rest = sniffer.rest()
        return joined(found + ([rest] if rest is not None else []))

    whole = all_of(data)
    assert all_of(*pieces(data, cuts)) == whole
    for one in whole:
        assert one.size == len(one.data)
        assert one.kind in ("http", "bytes") or FRAME_KIND.fullmatch(one.kind), one
    # Each frame's header is 2 to 14 bytes; all else is payload.
    count = sum(one.kind not in ("http", "bytes") for one in whole)
    assert 2 * count <= len(data) - sum(one.size for one in whole) <= 14 * count
    limited = Sniffer(keep, sender)
    assert all(len(one.data) <= keep for one in sniff(limited, *pieces(data, cuts)))
    rest = limited.rest()
    assert rest is None or len(rest.data) <= keep
    assert limited.rest() is None


@given(st.lists(frames(), max_size=4), cuts)
def test_a_stream_that_breaks_off_leaves_the_bytes_of_what_is_not_whole(drawn, cuts):
    stream = REQUEST + b"".join(data for data, _, _ in drawn)
    ends = [len(REQUEST)]
    for data, _, _ in drawn:
        ends.append(ends[-1] + len(data))
    for at in {len(stream) - 1, len(stream) * 2 // 3, len(REQUEST) + 1, 3}:
        sniffer = Sniffer(2**17, Side.CLIENT)
        found = sniff(sniffer, *pieces(stream[:at], cuts))
        start = max((end for end in ends if end <= at), default=0)
        assert len(found) == sum(end <= at for end in ends)
        left = stream[start:at]
        assert sniffer.rest() == (Sniffed("bytes", len(left), left) if left else None)


@pytest.mark.parametrize("sender", Side)
@pytest.mark.parametrize("payload", [b"", b"x", bytes(125), bytes(126), bytes(2**16)])
@pytest.mark.parametrize(
    "kind",
    [
        *("text", "continuation+", "opcode-3", "opcode-15-rsv7+", "ping-rsv1", "close-unmasked"),
        *("binary-masked", "text-len64+", "pong-rsv2-len64-masked", "opcode-11-unmasked+"),
    ],
)
def test_a_kind_and_a_payload_make_the_frame_that_is_called_so(kind, payload, sender):
    (found,) = sniff(opened(sender), compose(kind, payload, sender))
    usual = "-masked" if sender is Side.CLIENT else "-unmasked"
    long = kind if len(payload) < 2**16 else kind.replace("-len64", "")
    assert found == Sniffed(long.replace(usual, ""), len(payload), payload)


def opened(sender: Side, keep: int = 2**17) -> Sniffer:
    """Return a sniffer that has seen a handshake."""
    sniffer = Sniffer(keep, sender)
    assert len(sniffer.feed(REQUEST if sender is Side.CLIENT else ANSWER)) == 1
    return sniffer


def test_a_length_in_16_bits_that_7_would_do_for_is_noted():
    # Beyond 125 bytes 16 bits are the shortest form, and nothing to note.
    assert sniff(opened(Side.CLIENT), compose("text-len16", bytes(125), Side.CLIENT)) == [
        Sniffed("text-len16", 125, bytes(125))
    ]
    assert sniff(opened(Side.CLIENT), compose("text-len16", bytes(126), Side.CLIENT)) == [
        Sniffed("text", 126, bytes(126))
    ]


@pytest.mark.parametrize(
    "kind", ["http", "bytes", "closed", "opcode-2", "opcode-16", "text-rsv8", "text-rsv0", "Text"]
)
def test_what_is_no_kind_of_frame_makes_none(kind):
    with pytest.raises(ValueError, match=f"no frame is called '{kind}'"):
        compose(kind, b"", Side.CLIENT)


# What is not kept.


@pytest.mark.parametrize("size", [99, 100, 101, 1000, 2**16])
@pytest.mark.parametrize("step", [1, 7, 2**20])
def test_a_long_payload_is_cut_and_skipped_to_its_last_byte(size, step):
    payload = bytes(number % 251 for number in range(size))
    stream = (frame(BINARY, payload) + frame(PING, b"?")) * 2
    sniffer = opened(Side.CLIENT, keep=100)
    found = sniff(sniffer, *(stream[at : at + step] for at in range(0, len(stream), step)))
    assert found == 2 * [Sniffed("binary", size, payload[:100]), Sniffed("ping", 1, b"?")]


def test_a_cut_frame_is_known_with_its_last_byte_and_not_before():
    sniffer = opened(Side.CLIENT, keep=10)
    data = frame(TEXT, "x" * 1000)
    assert sniff(sniffer, data[:500], data[500:-1]) == []
    assert sniffer.feed(data[-1:]) == [Sniffed("text", 1000, b"x" * 10)]


def test_a_connection_that_ends_in_a_cut_frame_tells_how_much_there_was():
    sniffer = opened(Side.CLIENT, keep=10)
    data = frame(TEXT, "x" * 1000)
    assert sniff(sniffer, data[:500], data[500:700]) == []
    assert sniffer.rest() == Sniffed("bytes", 700, data[:10])


@pytest.mark.parametrize("length", [2**62, 2**63 - 1, 2**63, 2**64 - 1])
@pytest.mark.parametrize("masked", [True, False])
def test_a_length_beyond_reason_costs_no_more_than_what_is_kept(length, masked):
    sniffer = opened(Side.CLIENT, keep=1000)
    write = bytes(2**16)
    start = header(BINARY, length, masked=masked) + MASK * masked
    tracemalloc.start()
    try:
        assert sniffer.feed(start) == []
        for _ in range(64):
            assert sniffer.feed(write) == []
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # What is kept, a header and one write; the allocator may take half as much again.
    assert peak < 1.5 * (1000 + 14 + len(write)) + 4096
    rest = sniffer.rest()
    assert rest is not None
    assert rest == ("bytes", len(start) + 64 * len(write), (start + write)[:1000])


def test_many_small_frames_in_one_write_leave_nothing_behind():
    sniffer = opened(Side.CLIENT, keep=10)
    assert len(sniffer.feed(frame(TEXT, "abc") * 10_000)) == 10_000
    assert sniffer.rest() is None


# HTTP.


@pytest.mark.parametrize("keep", [5, 2**20])
def test_a_head_is_found_whatever_is_kept_of_it(keep):
    for head, sender in ((REQUEST, Side.CLIENT), (ANSWER, Side.SERVER)):
        sniffer = Sniffer(keep, sender)
        mask = MASK if sender is Side.CLIENT else None
        found = sniff(sniffer, head + frame(TEXT, "hello", mask=mask))
        assert found == [Sniffed("http", len(head), head[:keep]), Sniffed("text", 5, b"hello")]


def test_behind_an_answer_that_is_no_upgrade_comes_its_body():
    head = b"HTTP/1.1 426 Upgrade Required\r\nContent-Length: 20\r\n\r\n"
    sniffer = Sniffer(100, Side.SERVER)
    found = sniff(sniffer, head, b"this is a ", b"WebSocket\n")
    bodies = [Sniffed("bytes", 10, b"this is a "), Sniffed("bytes", 10, b"WebSocket\n")]
    assert found == [Sniffed("http", len(head), head), *bodies]
    # A body may look like anything, and stays one.
    assert sniffer.feed(frame(TEXT, "x", mask=None)) == [Sniffed("bytes", 3, b"\x81\x01x")]


def test_behind_an_interim_answer_comes_another():
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    found = sniff(Sniffer(1000, Side.SERVER), hints + ANSWER + frame(TEXT, "a", mask=None))
    assert [one.kind for one in found] == ["http", "http", "text"]


def test_behind_a_request_that_asks_for_no_upgrade_comes_no_frame():
    page = b"GET /page HTTP/1.1\r\nHost: localhost\r\n\r\n"
    form = b"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\n"
    assert sniff(Sniffer(100, Side.CLIENT), page + page) == 2 * [Sniffed("http", len(page), page)]
    sniffer = Sniffer(100, Side.CLIENT)
    assert sniff(sniffer, form + b"hello") == [Sniffed("http", len(form), form)]
    assert sniffer.rest() == Sniffed("bytes", 5, b"hello")
    assert sniff(Sniffer(100, Side.CLIENT), form + b"{'a'}")[1] == Sniffed("bytes", 5, b"{'a'}")


def test_the_upgrade_is_found_however_it_is_written():
    head = REQUEST.replace(b"Upgrade:", b"uPGRADE:")
    assert [one.kind for one in Sniffer(9, Side.CLIENT).feed(head + frame(PING))] == [
        "http",
        "ping",
    ]


@pytest.mark.parametrize("step", [1000, 2**20])
def test_a_head_without_end_is_no_head(step):
    head = b"GET /" + b"x" * 70_000
    sniffer = Sniffer(2**20, Side.CLIENT)
    found = sniff(sniffer, *(head[at : at + step] for at in range(0, len(head), step)), b"\r\n\r\n")
    whole = head + b"\r\n\r\n"
    assert joined(found) == [Sniffed("bytes", len(whole), whole)]
    assert Sniffer(2**20, Side.CLIENT).feed(whole) == joined(found)


# Neither.


@pytest.mark.parametrize("sender", [None, *Side])
def test_tls_stays_opaque(sender):
    hello = b"\x16\x03\x01\x02\x00\x01\x00" + bytes(20)
    sniffer = Sniffer(10, sender)
    assert sniffer.feed(hello[:1]) == []
    assert sniffer.feed(hello[1:]) == [Sniffed("bytes", 27, hello[:10])]
    # Whatever comes then, it is none of ours.
    assert sniffer.feed(REQUEST) == [Sniffed("bytes", len(REQUEST), REQUEST[:10])]
    assert sniffer.rest() is None


def test_from_a_client_that_does_not_shake_hands_come_bytes():
    data = frame(TEXT, "hello")
    assert Sniffer(100, Side.CLIENT).feed(data) == [Sniffed("bytes", len(data), data)]


@pytest.mark.parametrize("mask", [MASK, None])
@given(
    payloads=st.lists(st.text(max_size=130), min_size=1, max_size=5),
    first=st.sampled_from([TEXT, BINARY, PING, CLOSE]),
    cuts=cuts,
)
def test_who_joins_in_the_midst_of_a_connection_sees_the_frames_from_there(
    mask, payloads, first, cuts
):
    stream = b"".join(frame(first, payload, mask=mask) for payload in payloads)
    found = sniff(Sniffer(10**6), *pieces(stream, cuts))
    expected = [payload.encode() for payload in payloads]
    assert found == [Sniffed(NAMES[first], len(data), data) for data in expected]


def test_who_joins_in_the_midst_of_compressed_fragments_takes_them_for_no_head():
    stream = frame(TEXT, bytes(70), fin=False, rsv=4, mask=None) + close_frame(1000, mask=None)
    assert stream[:2].isalpha()
    found = sniff(Sniffer(100), *(stream[at : at + 1] for at in range(len(stream))))
    assert [one.kind for one in found] == ["text-rsv4+", "close"]


def test_who_joins_in_the_midst_of_tls_sees_no_frames():
    record = b"\x17\x03\x03\x00\x05hello"
    assert sniff(Sniffer(100), record) == [Sniffed("bytes", 10, record)]
