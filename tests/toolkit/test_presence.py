"""Presence: one user however many connections, and a grace time on a virtual clock."""

from __future__ import annotations

import logging
import math
from collections import Counter

import hypothesis
import hypothesis.strategies as st
import pytest
import trio
import trio.testing

from tests.helpers import tasks
from trioweb.toolkit.presence import Presence, Present


@pytest.fixture
def clock(autojump_clock: trio.testing.MockClock) -> trio.testing.MockClock:
    return autojump_clock


class Diary:
    """What was told, and when."""

    def __init__(self) -> None:
        self.start = trio.current_time()
        self.events: list[tuple[float, str, str, object]] = []

    def joined(self, topic: str, user: object, _info: object) -> None:
        self._note("join", topic, user)

    def left(self, topic: str, user: object, _info: object) -> None:
        self._note("leave", topic, user)

    def _note(self, what: str, topic: str, user: object) -> None:
        self.events.append((round(trio.current_time() - self.start, 3), what, topic, user))


def presence_of(diary: Diary, grace: float = 5, **options) -> Presence:
    return Presence(grace=grace, on_join=diary.joined, on_leave=diary.left, **options)


async def test_a_user_joins_once_and_leaves_after_the_grace_time(clock):
    diary = Diary()
    async with presence_of(diary) as presence:
        with presence.enter("tea", "ann", {"name": "Ann"}):
            assert presence.users("tea") == [Present("ann", {"name": "Ann"}, 1)]
            with presence.enter("tea", "ann"):
                assert presence.get("tea", "ann") == Present("ann", {"name": "Ann"}, 2)
            await trio.sleep(10)
        assert presence.users("tea") == [Present("ann", {"name": "Ann"}, 0)]
        await trio.sleep(10)
        assert presence.users("tea") == []
        assert presence.topics() == []
    assert diary.events == [(0, "join", "tea", "ann"), (15, "leave", "tea", "ann")]


async def test_a_quick_reconnect_is_no_leave_and_no_join(clock):
    diary = Diary()
    async with presence_of(diary) as presence:
        for _ in range(5):
            with presence.enter("tea", "ann"):
                await trio.sleep(1)
            await trio.sleep(4.9)
        assert presence.count("tea") == 1
    assert diary.events == [(0, "join", "tea", "ann"), (29.5, "leave", "tea", "ann")]


async def test_each_has_a_grace_time_of_their_own(clock):
    diary = Diary()
    async with presence_of(diary) as presence:
        visits = [presence.enter("tea", name) for name in "abc"]
        for visit in visits:
            visit.leave()
            await trio.sleep(1)
        visits[1] = presence.enter("tea", "b")
        await trio.sleep(10)
        visits[1].leave()
        await trio.sleep(10)
    assert diary.events[3:] == [
        (5, "leave", "tea", "a"),
        (7, "leave", "tea", "c"),
        (18, "leave", "tea", "b"),
    ]


async def test_topics_are_apart(clock):
    diary = Diary()
    async with presence_of(diary, grace=0) as presence:
        with presence.enter("tea", "ann"), presence.enter("coffee", "ann"):
            assert presence.topics() == ["tea", "coffee"]
            assert (presence.count("tea"), presence.count("milk")) == (1, 0)
            assert presence.get("milk", "ann") is None
    assert [event[1:] for event in diary.events] == [
        ("join", "tea", "ann"),
        ("join", "coffee", "ann"),
        ("leave", "coffee", "ann"),
        ("leave", "tea", "ann"),
    ]


async def test_the_newest_info_stands(clock):
    infos = []

    def left(topic: str, user: object, info: object) -> None:
        infos.append(info)

    async with Presence(on_leave=left) as presence:
        for info in (None, 1, None, 2, None):
            presence.enter("tea", "ann", info)
        assert presence.users("tea") == [Present("ann", 2, 5)]
    assert infos == [2]


async def test_leaving_for_good_has_no_grace(clock):
    diary = Diary()
    async with presence_of(diary) as presence:
        one, other = presence.enter("tea", "ann"), presence.enter("tea", "ann")
        one.leave(for_good=True)
        one.leave(for_good=True)
        assert len(diary.events) == 1
        other.leave(for_good=True)
        assert presence.users("tea") == []
        assert diary.events[1:] == [(0, "leave", "tea", "ann")]


async def test_everybody_leaves_at_the_end_and_nobody_comes_after(clock):
    diary = Diary()
    presence = presence_of(diary)
    with pytest.raises(trio.ClosedResourceError):
        presence.enter("tea", "early")
    async with presence:
        visit = presence.enter("tea", "ann")
        presence.enter("tea", "bob").leave()
        await trio.sleep(1)
    assert diary.events[2:] == [(1, "leave", "tea", "ann"), (1, "leave", "tea", "bob")]
    visit.leave()
    assert len(diary.events) == 4
    with pytest.raises(trio.ClosedResourceError):
        presence.enter("tea", "late")


async def test_everybody_leaves_when_the_block_fails_too(clock):
    diary = Diary()

    async def fail() -> None:
        async with presence_of(diary) as presence:
            presence.enter("tea", "ann").leave()
            await trio.testing.wait_all_tasks_blocked()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    assert diary.events[1:] == [(0, "leave", "tea", "ann")]


async def test_one_task_for_all_and_none_when_nobody_is_absent(clock):
    before = tasks()
    async with Presence() as presence:
        visits = [presence.enter("tea", number) for number in range(1000)]
        assert tasks() == before
        for visit in visits:
            visit.leave()
        await trio.sleep(1)
        assert len(tasks() - before) == 1
        await trio.sleep(10)
        assert presence.topics() == []
        assert tasks() == before


async def test_the_absent_are_bounded(clock):
    diary = Diary()
    async with presence_of(diary, max_absent=2) as presence:
        for name in "abcd":
            presence.enter("tea", name).leave()
        assert [one.user for one in presence.users("tea")] == ["c", "d"]
        assert [event[1:] for event in diary.events if event[1] == "leave"] == [
            ("leave", "tea", "a"),
            ("leave", "tea", "b"),
        ]
        assert len(presence._absent) == 2


async def test_a_callback_that_fails_harms_nobody(clock, caplog):
    def fail(topic: str, user: object, info: object) -> None:
        raise ZeroDivisionError

    async with Presence(on_join=fail, on_leave=fail) as presence:
        presence.enter("tea", "ann").leave()
        presence.enter("tea", "bob").leave()
        await trio.sleep(10)
        assert presence.topics() == []
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * 4


@pytest.mark.parametrize("options", [{"grace": -1}, {"grace": math.nan}, {"max_absent": 0}])
def test_nonsense_is_refused(options):
    with pytest.raises(ValueError, match="must"):
        Presence(**options)


STEPS = st.lists(
    st.tuples(st.sampled_from("ab"), st.integers(0, 2), st.booleans()) | st.floats(0.5, 8),
    max_size=50,
)


@hypothesis.given(STEPS)
def test_joins_and_leaves_tell_who_is_there(steps):
    """A listener that only hears the events knows who is there, and a model knows when."""

    async def main() -> None:
        known: set[tuple[str, object]] = set()

        def joined(topic: str, user: object, info: object) -> None:
            assert (topic, user) not in known
            known.add((topic, user))

        def left(topic: str, user: object, info: object) -> None:
            known.remove((topic, user))
            assert connections[topic, user] == 0
            assert trio.current_time() - gone[topic, user] == 5 or over

        over = False
        connections: Counter[tuple[str, object]] = Counter()
        gone: dict[tuple[str, object], float] = {}
        visits: dict[tuple[str, object], list] = {}
        async with Presence(grace=5, on_join=joined, on_leave=left) as presence:
            for step in steps:
                if isinstance(step, float):
                    await trio.sleep(step)
                    await trio.testing.wait_all_tasks_blocked()
                    continue
                topic, user, comes = step
                if comes:
                    connections[topic, user] += 1
                    visits.setdefault((topic, user), []).append(presence.enter(topic, user))
                elif connections[topic, user]:
                    connections[topic, user] -= 1
                    gone[topic, user] = trio.current_time()
                    visits[topic, user].pop().leave()
                for at in known:
                    found = presence.get(*at)
                    assert found is not None
                    assert found.connections == connections[at]
                assert sum(map(presence.count, "ab")) == len(known)
            over = True
            connections.clear()
        assert known == set()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
