"""What waits: order, bounds, and what each policy may leave out."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

import hypothesis
import hypothesis.strategies as st
import pytest

from trioweb import LinkLimits, Message, Overflow, Policy
from trioweb.toolkit.backlog import Backlog

WAIT, CLOSE = Policy(Overflow.WAIT), Policy(Overflow.CLOSE)
OLDEST, NEWEST = Policy(Overflow.DROP_OLDEST), Policy(Overflow.DROP_NEWEST)


def latest(key: str) -> Policy:
    return Policy(Overflow.COALESCE, key=key)


def told(missed: int) -> str:
    return f"missed {missed}"


def taken(backlog: Backlog) -> list[Message]:
    found = []
    while (message := backlog.take()) is not None:
        found.append(message)
    assert (len(backlog), backlog.messages, backlog.bytes) == (0, 0, 0)
    return found


def filled(policy: Policy, *messages: Message, size: int = 3, gap=told) -> Backlog:
    backlog = Backlog(LinkLimits(messages=size), gap)
    for message in messages:
        backlog.put(message, policy)
    return backlog


def test_what_goes_in_comes_out_in_order():
    assert taken(filled(WAIT, "a", b"b", "c")) == ["a", b"b", "c"]


def test_the_oldest_goes_and_leaves_one_notice_in_its_place():
    backlog = filled(OLDEST, *"abcde")
    assert backlog.dropped == 2
    assert taken(backlog) == ["missed 2", "c", "d", "e"]


def test_the_newest_goes_and_leaves_one_notice_behind_the_others():
    backlog = filled(NEWEST, *"abcde")
    assert backlog.take() == "a"
    backlog.put("f", NEWEST)
    assert taken(backlog) == ["b", "c", "missed 2", "f"]


def test_without_a_notice_it_is_counted_all_the_same():
    backlog = filled(OLDEST, *"abcde", gap=None)
    assert backlog.dropped == 2
    assert taken(backlog) == ["c", "d", "e"]


def test_each_class_of_messages_has_its_own_notice_for_one_gap():
    news = Policy(Overflow.DROP_NEWEST, gap=lambda missed: f"news {missed}")
    backlog = filled(WAIT, *"abc")
    for policy in (news, NEWEST, news):
        backlog.put("x", policy)
    assert taken(backlog) == ["a", "b", "c", "news 2", "missed 1"]


def test_a_notice_made_anew_for_each_message_does_not_grow_the_backlog():
    backlog = filled(WAIT, *"abc")
    for _ in range(1000):
        backlog.put("x", Policy(Overflow.DROP_NEWEST, gap=lambda missed: f"one {missed}"))
    *found, last = taken(backlog)
    assert found[:4] == ["a", "b", "c", "one 1"]
    assert len(found) < 100
    assert last == told(1000 - found.count("one 1"))


def test_what_must_be_kept_takes_the_place_of_what_need_not():
    backlog = filled(OLDEST, *"abc")
    assert backlog.make_room()
    backlog.put("K", CLOSE)
    assert taken(backlog) == ["missed 1", "b", "c", "K"]


def test_there_is_no_room_where_all_must_be_kept():
    backlog = filled(CLOSE, *"abc")
    assert not backlog.make_room()
    assert not backlog.put("d", OLDEST)
    assert not backlog.put("e", latest("e"))
    assert taken(backlog) == ["a", "b", "c", "missed 2"]


def test_the_newer_takes_the_place_of_the_older():
    backlog = Backlog(LinkLimits())
    for message in ("a1", "b1", "a2", "b2", "a3"):
        backlog.put(message, latest(message[0]))
    assert (backlog.messages, backlog.bytes) == (2, 4)
    assert (backlog.coalesced, backlog.dropped) == (3, 0)
    assert taken(backlog) == ["a3", "b2"]


def test_the_newer_never_overtakes_a_message_of_another_class():
    backlog = Backlog(LinkLimits(), told)
    backlog.put("a1", latest("a"))
    backlog.put("K", OLDEST)
    backlog.put("a2", latest("a"))
    backlog.put("a3", latest("a"))
    assert backlog.coalesced == 2
    assert taken(backlog) == ["K", "a3"]


def test_a_newer_one_that_is_larger_keeps_to_the_bytes():
    backlog = Backlog(LinkLimits(bytes=100))
    for number in range(10):
        backlog.put(bytes(1), latest(str(number)))
    for number in range(10):
        backlog.put(bytes(90), latest(str(number)))
        assert backlog.bytes < 190
    assert backlog.dropped > 0


def test_text_counts_as_what_it_is_on_the_wire():
    backlog = filled(WAIT, "a", "ä", b"abc")
    assert backlog.bytes == 6
    with pytest.raises(UnicodeEncodeError):
        backlog.put("\ud800", latest("a"))
    assert backlog.messages == 3


def test_cleared_it_says_how_many_there_were():
    backlog = filled(OLDEST, *"abcde")
    assert backlog.clear() == 3
    assert taken(backlog) == []


@pytest.mark.parametrize("policy", [OLDEST, NEWEST, latest("a")])
def test_what_was_taken_is_not_held(policy):
    backlog = filled(policy)
    for _ in range(1000):
        backlog.put("x", policy)
        assert backlog.take() == "x"
    assert not backlog._droppable
    assert not backlog._keyed


class Sent(NamedTuple):
    """What a message says of itself."""

    number: int
    overflow: Overflow
    key: str


POLICIES = {
    Overflow.WAIT: WAIT,
    Overflow.CLOSE: CLOSE,
    Overflow.DROP_OLDEST: OLDEST,
    Overflow.DROP_NEWEST: NEWEST,
}
PUTS = st.tuples(st.sampled_from(list(Overflow)), st.sampled_from("ab"), st.integers(0, 6))


@hypothesis.given(st.lists(PUTS | st.none(), max_size=200), st.integers(1, 5), st.integers(1, 20))
def test_order_bounds_and_counts(steps, messages, size):
    limits = LinkLimits(messages=messages, bytes=size)
    backlog = Backlog(limits, lambda missed: b"%d" % missed)
    sent: dict[str, Sent] = {}
    out: list[Message] = []
    for number, step in enumerate(steps):
        if step is None:
            if (message := backlog.take()) is not None:
                out.append(message)
            continue
        overflow, key, length = step
        policy = POLICIES.get(overflow) or latest(key)
        if overflow in (Overflow.WAIT, Overflow.CLOSE) and not backlog.make_room():
            continue
        text = f"{number}:" + "x" * length
        backlog.put(text, policy)
        sent[text] = Sent(number, overflow, key)
        # No more than the mark and one message, and not much beside it.
        assert backlog.messages <= messages
        assert backlog.bytes < size + 10
        assert len(backlog._queue) <= 2 * messages + 66
        assert len(backlog._droppable) <= 2 * messages + 66
    out += taken(backlog)
    received = [sent[one] for one in out if isinstance(one, str)]
    missed = sum(int(one) for one in out if isinstance(one, bytes))
    # Each is received, dropped or replaced, and the notices say how many were dropped.
    assert missed == backlog.dropped
    assert len(received) == len(sent) - backlog.dropped - backlog.coalesced
    assert len(set(received)) == len(received)
    kept = (Overflow.WAIT, Overflow.CLOSE)
    lost = Counter(one.overflow for one in set(sent.values()) - set(received))
    assert not any(lost[overflow] for overflow in kept)
    # Nothing overtakes anything, but for values of different keys among themselves.
    for at, one in enumerate(received):
        for other in received[at + 1 :]:
            if one.number > other.number:
                assert one.overflow is other.overflow is Overflow.COALESCE
                assert one.key != other.key


@hypothesis.given(
    st.sampled_from([OLDEST, NEWEST]), st.integers(1, 20), st.lists(st.booleans(), max_size=500)
)
def test_a_long_slowness_loses_no_count(policy, size, takes):
    """Each dropped message had a place of its own once; their counts come together."""
    backlog = Backlog(LinkLimits(messages=size), told)
    found: list[Message] = []
    for number, take in enumerate(takes):
        backlog.put(str(number), policy)
        if take and (message := backlog.take()) is not None:
            found.append(message)
    found += taken(backlog)
    missed = [int(str(one).split()[1]) for one in found if str(one).startswith("missed")]
    assert len(found) - len(missed) + sum(missed) == len(takes)
