"""Fragments to messages: what is put together, and what is refused at a frame's header."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trioweb.config import Limits
from trioweb.errors import ProtocolError
from trioweb.protocol.assembler import Assembler, Piece
from trioweb.types import Message


def assembled(assembler: Assembler, *fragments: Message) -> Message | None:
    """Pass one message through, as a framer does that gets each frame in one piece."""
    message: Message | None = None
    for at, fragment in enumerate(fragments):
        size = len(fragment.encode() if isinstance(fragment, str) else fragment)
        fin = at == len(fragments) - 1
        assembler.check(size, continues=at > 0)
        assembler.finished_frame(fin=fin)
        one = assembler.add(fragment, last=fin)
        assert not isinstance(one, Piece)
        message = one
        assert (message is None) is not fin
    return message


def refused(assembler: Assembler, size: int, *, continues: bool) -> ProtocolError:
    with pytest.raises(ProtocolError) as caught:
        assembler.check(size, continues=continues)
    return caught.value


@pytest.mark.parametrize("message", ["", "text", b"", b"bytes"])
def test_a_message_in_one_frame_is_itself(message):
    assembler = Assembler(Limits())
    assembler.check(len(message), continues=False)
    assembler.finished_frame(fin=True)
    assert assembler.add(message, last=True) is message


def test_fragments_are_joined_in_order_and_the_next_message_is_its_own():
    assembler = Assembler(Limits())
    assert assembled(assembler, "a", "", "b", "c") == "abc"
    assert assembled(assembler, b"1", b"2") == b"12"
    assert assembled(assembler, "d") == "d"


def test_line_ends_stay_as_they_are():
    assert assembled(Assembler(Limits()), "a\r", "\nb\rc\n", "\r\n") == "a\r\nb\rc\n\r\n"


@given(st.lists(st.text(), min_size=1), st.lists(st.binary(), min_size=1))
def test_any_fragments_are_joined(texts, blobs):
    assembler = Assembler(Limits())
    assert assembled(assembler, *texts) == "".join(texts)
    assert assembled(assembler, *blobs) == b"".join(blobs)


def test_the_limit_is_on_the_whole_message():
    assembler = Assembler(Limits(max_message=10))
    assert assembled(assembler, b"12345", b"67890") == b"1234567890"
    assembler.check(5, continues=False)
    assembler.finished_frame(fin=False)
    error = refused(assembler, 6, continues=True)
    assert (error.code, error.reason) == (1009, "message of at least 11 bytes, limit 10")


def test_a_single_frame_above_the_limit_is_refused():
    error = refused(Assembler(Limits(max_message=10)), 2**62, continues=False)
    assert error.code == 1009
    assert str(2**62) in error.reason


def test_the_limit_on_fragments():
    assembler = Assembler(Limits(max_fragments=2))
    assert assembled(assembler, "a", "b") == "ab"
    for continues in (False, True):
        assembler.check(0, continues=continues)
        assembler.finished_frame(fin=False)
    error = refused(assembler, 0, continues=True)
    assert (error.code, error.reason) == (1009, "message of more than 2 fragments")


def test_a_limit_of_one_fragment_forbids_fragments():
    assembler = Assembler(Limits(max_fragments=1))
    assert assembled(assembler, "whole") == "whole"
    assembler.check(1, continues=False)
    assembler.finished_frame(fin=False)
    assert refused(assembler, 1, continues=True).code == 1009


def test_asking_twice_about_one_header_counts_once():
    assembler = Assembler(Limits(max_message=10, max_fragments=2))
    for continues in (False, True):
        for _ in range(3):
            assembler.check(5, continues=continues)
        assembler.finished_frame(fin=continues)


def test_a_message_in_pieces_of_a_byte_costs_about_its_own_size():
    assembler = Assembler(Limits())
    size = 100_000
    tracemalloc.start()
    for _ in range(size):
        assembler.add(b"x", last=False)
    message = assembler.add(b"", last=True)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert message == b"x" * size
    assert peak < 4 * size
