"""The protocol machine: its states, its limits, its refusals, and both ends against each other."""

from __future__ import annotations

import itertools
import struct
import tracemalloc
from collections.abc import Callable, Iterator

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
    Frame,
    close_frame,
    frame,
    frames_in,
    header,
    looping,
)
from trioweb.config import Limits
from trioweb.protocol import machine as module
from trioweb.protocol.machine import (
    MAX_REASON,
    TABLE,
    Event,
    Failed,
    Machine,
    Pause,
    PeerClosed,
    Ping,
    Pong,
    check_close,
    fit_reason,
)
from trioweb.types import Close, CloseCode, Side, State

REGISTERED = [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014]
MAY_BE_SENT = [*REGISTERED, 3000, 3999, 4000, 4999]
MAY_NOT_BE_SENT = [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535]


def opened(side: Side = Side.SERVER, limits: Limits = Limits(), behind: bytes = b"") -> Machine:
    machine = Machine(side, limits)
    machine.upgraded(behind)
    return machine


def drain(machine: Machine) -> list[Event]:
    """Return what is there, less the pauses: their place depends on the cuts."""
    events: list[Event] = []
    while (event := machine.next_event()) is not None:
        if not isinstance(event, Pause):
            events.append(event)
    return events


def heard(*pieces: bytes, limits: Limits = Limits(), side: Side = Side.SERVER) -> list[Event]:
    """Return what a machine makes of these pieces."""
    machine = opened(side, limits)
    events: list[Event] = []
    for piece in pieces:
        machine.feed(piece)
        events += drain(machine)
    return events


def outcome(*pieces: bytes, limits: Limits) -> list[object]:
    """Return the events, less the words of a failure: they say where in a piece it was."""
    events = heard(*pieces, limits=limits)
    return [one.close.code if isinstance(one, Failed) else one for one in events]


def failure(*pieces: bytes, limits: Limits = Limits(), side: Side = Side.SERVER) -> Close:
    """Return the close of the failure that these pieces end with, and check all about it."""
    machine = opened(side, limits)
    events: list[Event] = []
    for piece in pieces:
        machine.feed(piece)
        events += drain(machine)
    failed = events[-1]
    assert isinstance(failed, Failed), events
    assert not any(isinstance(event, (Failed, PeerClosed)) for event in events[:-1])
    assert not failed.close.by_peer
    assert (machine.state, machine.reads, machine.may_send) == (State.CLOSING, False, True)
    # The machine is deaf from now on, whatever comes.
    machine.feed(frame(TEXT, "too late"))
    assert machine.next_event() is None
    # Exactly one close frame, with the code and words of the failure.
    (sent,) = frames_in(machine.close(failed.response()))
    assert sent.close == (failed.close.code, failed.close.reason)
    assert failed.close.reason
    assert (machine.state, machine.reads, machine.may_send) == (State.CLOSED, False, False)
    return failed.close


# The size of a message.


def test_a_message_of_just_the_limit_is_taken():
    limits = Limits(max_message=1000)
    assert heard(frame(BINARY, bytes(1000)), limits=limits) == [bytes(1000)]


def test_a_message_one_byte_above_the_limit_is_refused_with_1009():
    close = failure(frame(BINARY, bytes(1001)), limits=Limits(max_message=1000))
    assert close == Close(1009, "message of at least 1001 bytes, limit 1000")


@pytest.mark.parametrize("length", [1001, 65535, 65536, 2**20, 2**62, 2**63 - 1])
def test_too_big_a_header_is_refused_before_its_mask_and_payload(length):
    close = failure(header(BINARY, length), limits=Limits(max_message=1000))
    assert close.code == CloseCode.MESSAGE_TOO_BIG
    assert str(length) in close.reason


def test_too_big_a_header_is_refused_at_a_client_too():
    head = header(TEXT, 1001, masked=False)
    assert failure(head, limits=Limits(max_message=1000), side=Side.CLIENT).code == 1009


def test_the_default_limit_is_one_mebibyte():
    assert heard(frame(BINARY, bytes(2**20), mask=bytes(4))) == [bytes(2**20)]
    assert failure(header(BINARY, 2**20 + 1)).code == 1009


def test_the_limit_of_text_counts_its_bytes():
    limits = Limits(max_message=10)
    assert heard(frame(TEXT, "ü" * 5), limits=limits) == ["üüüüü"]
    assert failure(frame(TEXT, "ü" * 5 + "x"), limits=limits).code == 1009


def test_fragments_count_together_and_the_header_that_is_too_much_is_refused():
    limits = Limits(max_message=1000)
    first = frame(BINARY, bytes(600), fin=False)
    assert heard(first, frame(CONTINUATION, bytes(400)), limits=limits) == [bytes(1000)]
    close = failure(first, header(CONTINUATION, 401, fin=False), limits=limits)
    assert close == Close(1009, "message of at least 1001 bytes, limit 1000")


def test_the_next_message_counts_from_zero():
    limits = Limits(max_message=1000)
    data = frame(BINARY, bytes(600), fin=False) + frame(CONTINUATION, bytes(400))
    assert heard(data * 3, frame(TEXT, "x" * 1000), limits=limits) == [
        *[bytes(1000)] * 3,
        "x" * 1000,
    ]


def test_control_frames_within_a_message_do_not_count():
    limits = Limits(max_message=10, max_fragments=2)
    pings = frame(PING, bytes(125)) * 5
    parts = frame(TEXT, "12345", fin=False), pings, frame(CONTINUATION, "67890")
    assert heard(*parts, limits=limits) == [*[Ping(bytes(125))] * 5, "1234567890"]


def test_a_message_too_big_is_refused_although_it_is_not_masked_yet():
    # wsproto may show us one header twice: when the mask behind it has not come.
    limits = Limits(max_message=10, max_fragments=2)
    data = frame(TEXT, "12345", fin=False) + frame(CONTINUATION, "67890")
    assert heard(*(data[at : at + 1] for at in range(len(data))), limits=limits) == ["1234567890"]


# The number of fragments.


def test_a_message_in_as_many_fragments_as_allowed_is_taken():
    parts = [frame(TEXT, "a", fin=False), frame(CONTINUATION, "b", fin=False)]
    parts.append(frame(CONTINUATION, "c"))
    assert heard(*parts, limits=Limits(max_fragments=3)) == ["abc"]


def test_one_fragment_more_is_refused_with_1009_at_its_header():
    parts = [frame(TEXT, "a", fin=False), *[frame(CONTINUATION, "b", fin=False)] * 2]
    close = failure(*parts, header(CONTINUATION, 1), limits=Limits(max_fragments=3))
    assert close == Close(1009, "message of more than 3 fragments")


def test_ten_thousand_empty_continuations_are_one_failure_and_no_event_each():
    machine = opened()
    machine.feed(frame(BINARY, fin=False))
    machine.feed(frame(CONTINUATION, fin=False) * 10_000)
    (failed,) = drain(machine)
    assert failed == Failed(Close(1009, "message of more than 4096 fragments"))


def test_fragments_that_make_no_message_give_others_a_turn():
    machine = opened()
    machine.feed(frame(BINARY, fin=False) + frame(CONTINUATION, fin=False) * 1000)
    pauses = 0
    while (event := machine.next_event()) is not None:
        assert event == Pause()
        pauses += 1
    assert 5 <= pauses <= 50
    machine.feed(frame(CONTINUATION, b"end"))
    assert machine.next_event() == b"end"


def test_a_mebibyte_in_fragments_of_256_bytes_passes():
    parts = [
        frame(BINARY if at == 0 else CONTINUATION, bytes(256), fin=False) for at in range(4095)
    ]
    assert heard(b"".join(parts), frame(CONTINUATION, bytes(256))) == [bytes(2**20)]


def test_a_message_that_dribbles_in_by_the_byte_is_one_event():
    data = frame(TEXT, "ünï", fin=False) + frame(CONTINUATION, "çødé")
    assert heard(*(data[at : at + 1] for at in range(len(data)))) == ["ünïçødé"]


# What breaks the protocol (RFC 6455, 5 and 8.1).

BROKEN = {
    "a reserved bit": (frame(TEXT, "x", rsv=4), 1002),
    "another reserved bit": (frame(BINARY, b"x", rsv=2), 1002),
    "a reserved bit on a ping": (frame(PING, b"x", rsv=1), 1002),
    "a reserved data opcode": (frame(0x3, "x"), 1002),
    "a reserved control opcode": (frame(0xB, "x"), 1002),
    "a frame without a mask": (frame(TEXT, "x", mask=None), 1002),
    "a ping in fragments": (frame(PING, b"x", fin=False), 1002),
    "a close in fragments": (frame(CLOSE, b"", fin=False), 1002),
    "a ping that is too long": (frame(PING, bytes(126)), 1002),
    "a close that is too long": (frame(CLOSE, struct.pack("!H", 1000) + bytes(124)), 1002),
    "a close with half a code": (frame(CLOSE, b"\x03"), 1002),
    "a close whose reason is not UTF-8": (frame(CLOSE, b"\x03\xe8\xff"), 1007),
    "a length in more bytes than it needs": (b"\x82\xfe\x00\x7d" + MASK, 1002),
    "a length in many more bytes": (b"\x82\xff" + struct.pack("!Q", 65535) + MASK, 1002),
    "a whole frame whose length is in more bytes than it needs": (
        b"\x82\xfe\x00\x7d" + bytes(4 + 125),
        1002,
    ),
    "a length with its highest bit set": (b"\x82\xff" + struct.pack("!Q", 2**63) + MASK, 1002),
    "a continuation of nothing": (frame(CONTINUATION, "x"), 1002),
    "an empty continuation of nothing": (frame(CONTINUATION, b"", fin=False), 1002),
    "a message within a message": (frame(TEXT, "x", fin=False) + frame(TEXT, "y"), 1002),
    "a binary message within text": (frame(TEXT, "x", fin=False) + frame(BINARY, b"y"), 1002),
    "text that is not UTF-8": (frame(TEXT, b"\xce\xba\xff"), 1007),
    "text that ends within a character": (frame(TEXT, b"\xce"), 1007),
    "an encoded surrogate": (frame(TEXT, b"\xed\xa0\x80"), 1007),
    "an overlong encoding": (frame(TEXT, b"\xc0\xaf"), 1007),
    "beyond the last code point": (frame(TEXT, b"\xf4\x90\x80\x80"), 1007),
    "fragments that end within a character": (
        frame(TEXT, b"\xce", fin=False) + frame(CONTINUATION, b""),
        1007,
    ),
}


@pytest.mark.parametrize(("data", "code"), BROKEN.values(), ids=BROKEN)
def test_a_broken_peer_is_a_failure_and_not_a_close(data, code):
    assert failure(data).code == code


@pytest.mark.parametrize(("data", "code"), BROKEN.values(), ids=BROKEN)
def test_a_broken_peer_is_found_out_however_its_bytes_are_cut(data, code):
    assert failure(*(data[at : at + 1] for at in range(len(data)))).code == code


@pytest.mark.parametrize(
    "parts",
    [
        (frame(TEXT, "x", fin=False), frame(TEXT, "y")),
        (frame(TEXT, "x", fin=False), frame(PING), frame(BINARY, b"y")),
        (frame(TEXT, b"", fin=False), frame(CONTINUATION, b"", fin=False), frame(TEXT, "y")),
        (frame(TEXT, "x", fin=False), frame(CONTINUATION, "y"), frame(CONTINUATION, "z")),
        (frame(TEXT, "whole"), frame(CONTINUATION, "x")),
    ],
)
def test_a_message_within_a_message_is_refused_although_each_frame_comes_by_itself(parts):
    assert failure(*parts).code == 1002
    assert failure(b"".join(parts)).code == 1002


def test_a_masked_frame_is_refused_by_a_client():
    assert failure(frame(TEXT, "x"), side=Side.CLIENT).code == 1002


def test_bad_text_is_refused_at_its_first_bad_byte():
    # Fail fast: the rest of the message need not come (RFC 6455, 8.1).
    assert failure(header(TEXT, 1000) + bytes(4) + b"fine so far \xff").code == 1007


def test_what_came_before_the_failure_is_delivered_first():
    machine = opened()
    machine.feed(frame(TEXT, "one") + frame(PING, b"?") + frame(0x3, "x") + frame(TEXT, "two"))
    events = drain(machine)
    assert events[:2] == ["one", Ping(b"?")]
    assert isinstance(events[2], Failed)
    assert len(events) == 3


def test_the_reason_of_a_failure_always_fits_its_frame():
    for data, _ in BROKEN.values():
        assert len(failure(data).reason.encode()) <= MAX_REASON


def test_bytes_after_a_failure_are_not_kept():
    machine = opened()
    machine.feed(frame(0x3, "x"))
    drain(machine)
    tracemalloc.start()
    for _ in range(100):
        machine.feed(bytes(2**16))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**17


# Closing (RFC 6455, 5.5.1 and 7).


@pytest.mark.parametrize("code", MAY_BE_SENT)
def test_codes_that_a_peer_may_send(code):
    machine = opened()
    machine.feed(close_frame(code, "très bien"))
    (event,) = drain(machine)
    assert event == PeerClosed(Close(code, "très bien", by_peer=True))
    assert isinstance(event, PeerClosed)
    assert event.response() == Close(code)
    assert frames_in(machine.close(event.response())) == [Frame(CLOSE, struct.pack("!H", code))]
    assert machine.state is State.CLOSED


@pytest.mark.parametrize("code", MAY_NOT_BE_SENT)
def test_codes_that_a_peer_may_not_send(code):
    assert failure(close_frame(code)).code == CloseCode.PROTOCOL_ERROR


def test_code_1014_is_accepted_in_pieces_with_a_reason_and_without():
    for reason in ("", "no upstream"):
        data = close_frame(1014, reason)
        (event,) = heard(*(data[at : at + 1] for at in range(len(data))))
        assert event == PeerClosed(Close(1014, reason, by_peer=True))


def test_code_1012_is_still_1012():
    assert heard(close_frame(1012)) == [PeerClosed(Close(1012, by_peer=True))]


def test_1014_with_a_reason_that_is_not_utf8_fails():
    assert failure(frame(CLOSE, struct.pack("!H", 1014) + b"\xff")).code == 1007


def test_a_ping_that_looks_like_1014_stays_as_it_is():
    payload = struct.pack("!H", 1014)
    assert heard(frame(PING, payload), frame(BINARY, payload)) == [Ping(payload), payload]


def test_a_close_without_a_code_is_1005_and_answered_without_one():
    machine = opened()
    machine.feed(close_frame(None))
    (event,) = drain(machine)
    assert event == PeerClosed(Close(1005, by_peer=True))
    assert isinstance(event, PeerClosed)
    assert frames_in(machine.close(event.response())) == [Frame(CLOSE, b"")]


def test_a_reason_of_123_bytes_is_received_whole():
    reason = "€" * 41
    assert heard(close_frame(1000, reason)) == [PeerClosed(Close(1000, reason, by_peer=True))]


def test_messages_may_be_answered_while_a_close_waits_behind_them():
    # A close takes effect in its place: the answer to the message before it still leaves.
    machine = opened()
    machine.feed(frame(TEXT, "question") + close_frame(1000))
    assert machine.next_event() == "question"
    assert (machine.state, machine.may_send) == (State.OPEN, True)
    assert frames_in(b"".join(machine.message("answer"))) == [Frame(TEXT, b"answer")]
    closed = machine.next_event()
    assert isinstance(closed, PeerClosed)
    assert (machine.state, machine.may_send) == (State.CLOSING, True)
    assert frames_in(b"".join(machine.message("last word"))) == [Frame(TEXT, b"last word")]
    assert [one.opcode for one in frames_in(machine.close(closed.response()))] == [CLOSE]
    assert machine.state is State.CLOSED


def test_a_ping_before_a_close_in_the_same_read_may_be_answered():
    machine = opened()
    machine.feed(frame(PING, b"there?") + close_frame(1000))
    ping, closed = drain(machine)
    assert isinstance(ping, Ping)
    assert isinstance(closed, PeerClosed)
    assert frames_in(machine.control(ping.response())) == [Frame(PONG, b"there?")]
    assert frames_in(machine.close(closed.response())) == [Frame(CLOSE, struct.pack("!H", 1000))]


def test_answers_while_draining_may_be_sent_after_everything_was_drained():
    # wsproto's own connection raises here: it forbids sending once a close was seen.
    machine = opened()
    machine.feed(frame(TEXT, "a") + frame(TEXT, "b") + close_frame(1001, "bye"))
    events = drain(machine)
    assert events == ["a", "b", PeerClosed(Close(1001, "bye", by_peer=True))]
    assert machine.message("answer to a")
    assert machine.message("answer to b")


def test_a_ping_after_our_own_close_is_no_error_and_may_not_be_answered():
    machine = opened()
    machine.close(Close(1000))
    machine.feed(frame(PING, b"late"))
    assert machine.next_event() == Ping(b"late")
    assert (machine.state, machine.may_send) == (State.CLOSING, False)


def test_messages_sent_before_the_peer_saw_our_close_are_delivered():
    machine = opened()
    machine.close(Close(1000))
    assert machine.reads
    machine.feed(frame(TEXT, "sent earlier") + close_frame(1000))
    assert drain(machine) == ["sent earlier", PeerClosed(Close(1000, by_peer=True))]
    assert (machine.state, machine.reads, machine.may_send) == (State.CLOSED, False, False)


def test_both_may_close_at_the_same_time():
    machine = opened()
    machine.close(Close(1000, "me"))
    machine.feed(close_frame(4000, "you"))
    assert drain(machine) == [PeerClosed(Close(4000, "you", by_peer=True))]
    assert machine.state is State.CLOSED


def test_a_peer_that_breaks_the_protocol_after_our_close_gets_no_second_one():
    machine = opened()
    machine.close(Close(1000))
    machine.feed(frame(0x3, "x"))
    (event,) = drain(machine)
    assert isinstance(event, Failed)
    assert (machine.state, machine.may_send) == (State.CLOSED, False)


@pytest.mark.parametrize("data", [frame(TEXT, "x"), frame(PING), close_frame(1000), b"\xff" * 9])
def test_bytes_after_closed_are_ignored(data):
    machine = opened()
    machine.close(Close(1000))
    machine.feed(close_frame(1000) + data)
    assert len(drain(machine)) == 1
    assert machine.state is State.CLOSED
    machine.feed(data)
    assert drain(machine) == []
    assert machine.state is State.CLOSED


def test_bytes_behind_the_peers_close_are_ignored():
    machine = opened()
    machine.feed(close_frame(1000) + frame(TEXT, "late") + b"\xff\xff\xff")
    assert drain(machine) == [PeerClosed(Close(1000, by_peer=True))]
    machine.feed(frame(TEXT, "later"))
    assert drain(machine) == []


# Codes and reasons that we send.


@pytest.mark.parametrize("code", MAY_BE_SENT)
def test_codes_that_may_be_sent_are_sent_as_they_are(code):
    close = check_close(code, "why")
    assert close == Close(code, "why")
    assert type(close.code) is int
    (sent,) = frames_in(opened().close(close))
    assert sent.close == (code, "why")


@pytest.mark.parametrize("code", [*MAY_NOT_BE_SENT, -1, 65536, 70000])
def test_codes_that_may_not_be_sent_are_a_value_error(code):
    with pytest.raises(ValueError, match=f"close code {code} may not be sent"):
        check_close(code, "")


def test_an_enumerated_code_may_be_sent():
    assert check_close(CloseCode.GOING_AWAY, "") == Close(1001)


@pytest.mark.parametrize("reason", ["x" * 123, "é" * 61 + "x", "€" * 41])
def test_a_reason_of_123_bytes_may_be_sent_whole(reason):
    (sent,) = frames_in(opened().close(check_close(1000, reason)))
    assert sent.close == (1000, reason)


@pytest.mark.parametrize("reason", ["x" * 124, "é" * 62, "€" * 42])
def test_a_longer_reason_is_a_value_error_and_never_cut(reason):
    with pytest.raises(ValueError, match="longer than 123 bytes"):
        check_close(1000, reason)


def test_a_reason_that_cannot_be_encoded_is_a_value_error():
    with pytest.raises(ValueError, match="surrogates"):
        check_close(1000, "\ud800")


@given(st.text(max_size=200))
@example("€" * 100)
@example("x" + "é" * 100)
@example("😀" * 31)
def test_a_foreign_reason_is_cut_to_what_fits_between_characters(reason):
    fitted = fit_reason(reason)
    assert reason.startswith(fitted)
    assert len(fitted.encode()) <= MAX_REASON
    assert len(fitted.encode()) > MAX_REASON - 4 or len(fitted) == len(reason)
    check_close(1000, fitted)


def test_a_foreign_reason_with_a_lone_surrogate_still_fits():
    assert fit_reason("a\ud800b") == "a?b"


# Pings.


def test_a_ping_is_answered_with_its_payload():
    machine = opened()
    machine.feed(frame(PING, bytes(range(125))))
    (ping,) = drain(machine)
    assert isinstance(ping, Ping)
    assert ping.response() == Pong(bytes(range(125)))
    assert frames_in(machine.control(ping.response())) == [Frame(PONG, bytes(range(125)))]


def test_pongs_are_events():
    assert heard(frame(PONG, b"beat"), frame(PONG)) == [Pong(b"beat"), Pong()]


def test_pings_between_fragments_come_before_their_message():
    parts = frame(TEXT, "a", fin=False), frame(PING, b"1"), frame(CONTINUATION, "b", fin=False)
    assert heard(*parts, frame(PING, b"2"), frame(CONTINUATION, "c")) == [
        Ping(b"1"),
        Ping(b"2"),
        "abc",
    ]


def test_a_close_between_fragments_ends_the_message_with_it():
    assert heard(frame(TEXT, "half", fin=False), close_frame(1000)) == [
        PeerClosed(Close(1000, by_peer=True))
    ]


def test_a_ping_of_ours_may_carry_125_bytes():
    assert frames_in(opened().control(Ping(bytes(125)))) == [Frame(PING, bytes(125))]
    with pytest.raises(ValueError, match="too long"):
        opened().control(Ping(bytes(126)))


# Events come one at a time, and only then change the state.


def test_events_are_decoded_one_at_a_time():
    machine = opened()
    machine.feed(frame(TEXT, "1") + frame(BINARY, b"2") + frame(PONG) + close_frame(1000))
    states = []
    events = []
    while (event := machine.next_event()) is not None:
        events.append(event)
        states.append(machine.state)
    assert events == ["1", b"2", Pong(), PeerClosed(Close(1000, by_peer=True))]
    assert states == [State.OPEN, State.OPEN, State.OPEN, State.CLOSING]


def test_a_frame_behind_the_handshake_is_kept():
    machine = opened(behind=frame(TEXT, "at once") + frame(TEXT, "and again")[:5])
    assert drain(machine) == ["at once"]
    machine.feed(frame(TEXT, "and again")[5:])
    assert drain(machine) == ["and again"]


def test_before_the_upgrade_nothing_is_read_or_sent():
    machine = Machine(Side.SERVER, Limits())
    assert (machine.state, machine.reads, machine.may_send) == (State.CONNECTING, False, False)
    machine.feed(frame(TEXT, "too early"))
    assert machine.next_event() is None
    machine.upgraded()
    assert (machine.state, machine.reads, machine.may_send) == (State.OPEN, True, True)
    assert machine.next_event() is None


def test_a_lost_connection_is_closed_whatever_was_before():
    for make in PHASES.values():
        machine = make()
        machine.lost()
        assert (machine.state, machine.reads, machine.may_send) == (State.CLOSED, False, False)
        machine.lost()
        machine.feed(frame(TEXT, "x"))
        assert machine.next_event() is None


# What we send.


@pytest.mark.parametrize("side", Side)
def test_clients_mask_and_servers_do_not(side):
    machine = opened(side)
    sent = [*machine.message("text"), *machine.message(b"bytes"), machine.control(Ping(b"?"))]
    sent += [machine.control(Pong(b"!")), machine.close(Close(1000))]
    frames = frames_in(b"".join(sent))
    assert [one.opcode for one in frames] == [TEXT, BINARY, PING, PONG, CLOSE]
    assert [one.payload for one in frames][:4] == [b"text", b"bytes", b"?", b"!"]
    assert all((one.mask is not None) == (side is Side.CLIENT) for one in frames)


def test_every_frame_of_a_client_has_another_mask():
    machine = opened(Side.CLIENT, Limits(fragment=16))
    sent = b"".join(b"".join(machine.message(bytes(100))) for _ in range(10))
    masks = {one.mask for one in frames_in(sent)}
    assert len(masks) == 70


def test_long_messages_leave_in_fragments():
    machine = opened(limits=Limits(fragment=10))
    assert frames_in(b"".join(machine.message(bytes(range(25))))) == [
        Frame(BINARY, bytes(range(10)), fin=False),
        Frame(CONTINUATION, bytes(range(10, 20)), fin=False),
        Frame(CONTINUATION, bytes(range(20, 25))),
    ]


# Properties: any bytes, any messages, cut anywhere.


def pieces(data: bytes, cuts: list[int]) -> Iterator[bytes]:
    """Cut bytes at these places, wherever they fall."""
    places = sorted({cut % (len(data) + 1) for cut in cuts} | {0, len(data)})
    yield from (data[a:b] for a, b in itertools.pairwise(places))


CUTS = st.lists(st.integers(0, 10_000), max_size=12)
MASKS = st.sampled_from([MASK, bytes(4), None])
PAYLOADS = st.one_of(
    st.binary(max_size=140),
    st.text(max_size=40).map(str.encode),
    st.integers(0, 65535).map(lambda code: struct.pack("!H", code)),
)
FRAMES = st.builds(
    lambda opcode, payload, fin, rsv, mask: frame(opcode, payload, fin=fin, rsv=rsv, mask=mask),
    st.sampled_from([0, 1, 1, 2, 8, 9, 10, 3, 11, 15]),
    PAYLOADS,
    st.booleans(),
    st.sampled_from([0, 0, 0, 0, 1, 4]),
    MASKS,
)
HONEST = st.builds(
    lambda opcode, payload: frame(opcode, payload, mask=MASK),
    st.sampled_from([TEXT, BINARY, PING, PONG]),
    st.text(max_size=40),
)
STREAMS = st.lists(
    st.one_of(HONEST, HONEST, HONEST, FRAMES, st.binary(max_size=20)), max_size=10
).map(b"".join)


@given(STREAMS, CUTS, st.sampled_from(list(Side)))
@example(b"", [], Side.SERVER)
@example(frame(CONTINUATION) * 30, [], Side.SERVER)
def test_any_bytes_give_events_or_one_failure_and_never_an_exception(data, cuts, side):
    limits = Limits(max_message=100, max_fragments=4)
    machine = opened(side, limits)
    events: list[Event] = []
    for piece in pieces(data, cuts):
        machine.feed(piece)
        events += drain(machine)
    ends = [event for event in events if isinstance(event, (Failed, PeerClosed))]
    assert len(ends) <= 1
    assert not ends or ends[0] is events[-1]
    assert machine.reads is not bool(ends)
    for event in events:
        if isinstance(event, (str, bytes)):
            assert len(event.encode() if isinstance(event, str) else event) <= 100
        elif isinstance(event, (Failed, PeerClosed)):
            # Whatever it was, it can be answered, and the answer is one legal frame.
            (sent,) = frames_in(machine.close(event.response()))
            if sent.close[0] is not None:
                check_close(sent.close[0], "")


@given(STREAMS, CUTS)
def test_where_the_bytes_are_cut_makes_no_difference(data, cuts):
    limits = Limits(max_message=100, max_fragments=4)
    assert outcome(*pieces(data, cuts), limits=limits) == outcome(data, limits=limits)


@given(st.lists(st.one_of(HONEST, FRAMES), max_size=8))
def test_whether_frames_come_together_or_alone_makes_no_difference(frames):
    limits = Limits(max_message=100, max_fragments=4)
    assert outcome(*frames, limits=limits) == outcome(b"".join(frames), limits=limits)


WIDE = st.text(st.sampled_from("aé€😀"), max_size=60)
MESSAGES = st.lists(st.one_of(st.text(max_size=60), WIDE, st.binary(max_size=200)), max_size=8)


@given(MESSAGES, CUTS, st.integers(4, 70), st.sampled_from(list(Side)))
@example(["€€€€€€€"], [4, 5, 6, 7, 11], 4, Side.CLIENT)
@example(["", b"", "x" * 64, b"x" * 65], [], 64, Side.SERVER)
def test_any_messages_arrive_equal_at_the_other_end(messages, cuts, fragment, side):
    limits = Limits(fragment=fragment)
    other = Side.SERVER if side is Side.CLIENT else Side.CLIENT
    sender, receiver = opened(side, limits), opened(other, limits)
    encoded = [sender.message(message) for message in messages]
    for frames in encoded:
        for one in frames_in(b"".join(frames)):
            assert len(one.payload) <= fragment
            assert one.payload or len(frames) == 1
    arrived: list[Event] = []
    for piece in pieces(b"".join(b"".join(frames) for frames in encoded), cuts):
        receiver.feed(piece)
        arrived += drain(receiver)
    assert arrived == messages
    assert [type(one) for one in arrived] == [type(one) for one in messages]


@pytest.mark.parametrize("fragment", [1, 2, 3])
@pytest.mark.parametrize("text", ["aé", "€uro", "a😀b"])
def test_a_fragment_shorter_than_a_character_is_refused_or_still_sends_the_text(fragment, text):
    try:
        limits = Limits(fragment=fragment)
    except ValueError:
        return
    sender, receiver = opened(Side.CLIENT, limits), opened(Side.SERVER, limits)
    with looping():
        receiver.feed(b"".join(sender.message(text)))
    assert drain(receiver) == [text]


def test_a_message_between_both_ends_and_back_and_a_close():
    client, server = opened(Side.CLIENT), opened(Side.SERVER)
    server.feed(b"".join(client.message("hallo")) + client.control(Ping(b"1")))
    message, ping = drain(server)
    assert message == "hallo"
    assert isinstance(ping, Ping)
    client.feed(server.control(ping.response()) + server.message(b"ok")[0])
    assert drain(client) == [Pong(b"1"), b"ok"]
    server.feed(client.close(Close(4000, "done")))
    (closed,) = drain(server)
    assert isinstance(closed, PeerClosed)
    client.feed(server.close(closed.response()))
    assert drain(client) == [PeerClosed(Close(4000, by_peer=True))]
    assert (client.state, server.state) == (State.CLOSED, State.CLOSED)


# The table of states.

Act = Callable[[Machine], object]


def fed(data: bytes) -> Act:
    def act(machine: Machine) -> None:
        machine.feed(data)
        drain(machine)

    return act


def closing(machine: Machine) -> None:
    """Close as every caller must: only while something may be sent."""
    if machine.may_send:
        machine.close(Close(1000))


def upgrading(machine: Machine) -> None:
    """Upgrade as every caller must: once, at the start."""
    if machine.state is State.CONNECTING:
        machine.upgraded()


ACTS: dict[str, Act] = {
    "upgrade": upgrading,
    "our close": closing,
    "their close": fed(close_frame(1000)),
    "their breach": fed(frame(0x3, "x")),
    "a message": fed(frame(TEXT, "x")),
    "a ping": fed(frame(PING, "x")),
    "nonsense": fed(b"\xff" * 50),
    "the loss": Machine.lost,
}


def after(*acts: Act) -> Callable[[], Machine]:
    def make() -> Machine:
        machine = Machine(Side.SERVER, Limits())
        for act in acts:
            act(machine)
        return machine

    return make


PHASES = {
    "CONNECTING": after(),
    "OPEN": after(upgrading),
    "CLOSE_SENT": after(upgrading, closing),
    "CLOSE_DUE": after(upgrading, fed(close_frame(1000))),
    "CLOSED": after(upgrading, Machine.lost),
}


@pytest.fixture
def moves(monkeypatch):
    """Record every look into the table; one that is not there raises KeyError as always."""
    seen: set[object] = set()

    class Recorder(dict[object, object]):
        def __getitem__(self, key: object) -> object:
            seen.add(key)
            return super().__getitem__(key)

    monkeypatch.setattr(module, "TABLE", Recorder(TABLE))
    return seen


def test_all_that_can_happen_is_in_the_table_and_all_in_the_table_can_happen(moves):
    # Every sequence of four acts goes through every phase, and every act in each.
    paths: list[tuple[Act, ...]] = [()]
    for _ in range(4):
        paths = [(*path, act) for path in paths for act in ACTS.values()]
    for path in paths:
        after(*path)()
    assert moves == set(TABLE)


def test_the_example_of_each_phase_is_in_that_phase():
    assert {name: make()._phase.name for name, make in PHASES.items()} == {
        name: name for name in PHASES
    }
    assert {phase.name for phase, _ in TABLE} == set(PHASES)


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("data", [close_frame(1000), frame(0x3, "x"), frame(TEXT, b"\xff")])
def test_a_peer_can_move_only_a_machine_that_reads(phase, data):
    machine = PHASES[phase]()
    before = machine.state
    machine.feed(data)
    events = drain(machine)
    if phase in ("OPEN", "CLOSE_SENT"):
        assert len(events) == 1
    else:
        assert events == []
        assert machine.state is before


@pytest.mark.parametrize(
    ("phase", "misuse"),
    [
        *[(phase, Machine.upgraded) for phase in PHASES if phase != "CONNECTING"],
        *[
            (phase, lambda machine: machine.close(Close(1000)))
            for phase in ("CONNECTING", "CLOSE_SENT", "CLOSED")
        ],
    ],
)
def test_a_call_that_is_not_in_the_table_is_refused_and_changes_nothing(phase, misuse):
    machine = PHASES[phase]()
    before = (machine._phase, machine.reads, machine.may_send)
    with pytest.raises(KeyError):
        misuse(machine)
    assert (machine._phase, machine.reads, machine.may_send) == before


def test_every_phase_has_a_public_state():
    states = {name: make().state for name, make in PHASES.items()}
    assert states == {
        "CONNECTING": State.CONNECTING,
        "OPEN": State.OPEN,
        "CLOSE_SENT": State.CLOSING,
        "CLOSE_DUE": State.CLOSING,
        "CLOSED": State.CLOSED,
    }


def test_messages_are_str_and_bytes_themselves():
    (event,) = heard(frame(TEXT, "x"))
    assert type(event) is str
    (event,) = heard(frame(BINARY, b"x"))
    assert type(event) is bytes


@pytest.mark.parametrize(("message", "copies"), [(bytes(2**22), 1.3), ("x" * 2**22, 2.2)])
@pytest.mark.parametrize("side", Side)
def test_a_large_message_costs_its_own_size_and_no_multiple_of_it(
    message: str | bytes, copies: float, side: Side
) -> None:
    # Text is counted twice: as characters, and as the bytes that they are on the wire.
    limits = Limits(max_message=2**22)
    peer = Side.SERVER if side is Side.CLIENT else Side.CLIENT
    sender, receiver = opened(side, limits), opened(peer, limits)

    def peak(work: Callable[[], object]) -> float:
        tracemalloc.start()
        try:
            result = work()
            return tracemalloc.get_traced_memory()[1] / len(message)
        finally:
            tracemalloc.stop()
            del result

    assert peak(lambda: sender.message(message)) < copies
    wire = b"".join(sender.message(message))
    reads = [wire[at : at + 2**16] for at in range(0, len(wire), 2**16)]

    def receive() -> Event | None:
        event: Event | None = None
        for read in reads:
            receiver.feed(read)
            event = receiver.next_event()
        assert event == message
        return event

    assert peak(receive) < copies
