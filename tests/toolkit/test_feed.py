"""A subscription's feed: each event once, in order, or told; whatever comes in whatever order."""

from __future__ import annotations

from collections import deque

from hypothesis import given
from hypothesis import strategies as st

from trioweb.config import SessionLimits
from trioweb.positions import Position
from trioweb.toolkit.feed import Feed, Missed, Recover
from trioweb.toolkit.wire import Event


def event(offset: int) -> Event:
    return Event("t", offset, offset)


def opened(limits: SessionLimits = SessionLimits(), recover: Recover = "all") -> Feed:
    feed = Feed(None, recover, limits)
    assert feed.ask() is None
    feed.answered(Position("e", 10))
    return feed


def taken(feed: Feed) -> list[int | Missed]:
    """Take all that is there: offsets and gaps."""
    items: list[int | Missed] = []
    while (item := feed.take()) is not None:
        items.append(item if isinstance(item, Missed) else item.offset)
    return items


def test_a_subscription_begins_where_its_answer_says() -> None:
    feed = opened()
    assert feed.position == Position("e", 10)
    feed.live(event(10), 1)
    feed.live(event(11), 1)
    assert taken(feed) == [11]
    assert feed.position == Position("e", 11)


def test_events_that_overtake_their_answer_wait_for_it() -> None:
    feed = Feed(None, "all", SessionLimits())
    feed.live(event(11), 1)
    feed.live(event(12), 1)
    assert taken(feed) == []
    feed.answered(Position("e", 10))
    assert taken(feed) == [11, 12]
    assert not feed.behind


def test_a_silent_topic_recovers_too() -> None:
    feed = opened()
    feed.left()
    assert feed.ask() == Position("e", 10)
    feed.answered(Position("e", 12), [event(11), event(12)])
    assert taken(feed) == [11, 12]


def test_what_one_answer_does_not_hold_comes_from_the_history() -> None:
    feed = opened()
    feed.left()
    feed.answered(Position("e", 14))
    feed.live(event(15), 1)
    assert taken(feed) == []
    assert feed.behind
    assert feed.ask() == Position("e", 10)
    feed.live(event(16), 1)
    feed.paged(Position("e", 15), [event(11), event(12), event(13), event(14), event(15)])
    assert taken(feed) == [11, 12, 13, 14, 15, 16]
    assert not feed.behind


def test_what_the_history_has_no_more_is_told() -> None:
    feed = opened()
    feed.left()
    feed.answered(Position("e", 20))
    feed.paged(Position("e", 20), [event(18), event(19), event(20)])
    assert taken(feed) == [Missed(7), 18, 19, 20]
    feed.left()
    feed.answered(Position("e", 30))
    feed.paged(Position("e", 31), [])
    feed.live(event(32), 1)
    assert taken(feed) == [Missed(11), 32]
    assert feed.missed == 18


def test_another_epoch_is_told_and_read_from_its_beginning() -> None:
    feed = opened()
    feed.live(event(11), 1)
    feed.left()
    feed.answered(Position("f", 2))
    assert feed.behind
    assert feed.ask() == Position("f", 0)
    feed.paged(Position("f", 2), [event(1), event(2)])
    assert feed.take() == event(11)
    assert feed.position == Position("e", 11)
    assert taken(feed) == [Missed(), 1, 2]
    assert feed.position == Position("f", 2)


def test_a_page_of_another_epoch_asks_for_a_new_subscription() -> None:
    feed = opened()
    feed.dropped(1)
    feed.paged(Position("f", 2), [event(1), event(2)])
    assert not feed.joined
    assert taken(feed) == []


def test_without_a_history_every_break_is_told_once() -> None:
    feed = Feed(None, "all", SessionLimits())
    feed.answered(None)
    feed.live(Event("t", 0, "a"), 1)
    for _ in range(3):
        feed.left()
        feed.answered(None)
    feed.live(Event("t", 0, "b"), 1)
    assert taken(feed) == [0, Missed(), 0]
    assert feed.position is None
    assert not feed.behind
    feed.dropped(5)
    assert taken(feed) == [Missed(5)]
    feed.dropped(5)
    feed.dropped(0)
    assert taken(feed) == [Missed()]


def test_a_slow_reader_of_a_topic_without_history_is_told_how_much_it_missed() -> None:
    feed = Feed(None, "all", SessionLimits(feed_events=2))
    feed.answered(None)
    for _ in range(5):
        feed.live(Event("t"), 1)
    assert taken(feed) == [0, 0, Missed(3)]


def test_a_slow_reader_is_referred_to_the_history() -> None:
    feed = opened(SessionLimits(feed_events=4, feed_bytes=100))
    for offset in range(11, 30):
        feed.live(event(offset), 1)
    assert feed.postponed == 15
    assert feed.take() == event(11)
    feed.live(event(30), 1)
    feed.live(event(31), 1)
    assert taken(feed) == [12, 13, 14]
    while feed.behind:
        at = feed.ask()
        assert at is not None
        after = range(at.offset + 1, min(at.offset + 1 + feed.page, 32))
        feed.paged(Position("e", 31), [event(offset) for offset in after])
        assert taken(feed) == list(after)
    feed.live(event(32), 1)
    assert taken(feed) == [32]


def test_bytes_are_bounded_too_and_a_large_event_has_the_room_alone() -> None:
    feed = opened(SessionLimits(feed_bytes=100))
    feed.live(event(11), 1000)
    feed.live(event(12), 1)
    assert taken(feed) == [11]
    assert feed.behind
    feed.paged(Position("e", 12), [event(12)])
    assert taken(feed) == [12]


def test_the_servers_word_about_a_gap_is_looked_into() -> None:
    feed = opened()
    feed.dropped(2)
    assert feed.behind
    feed.ask()
    assert not feed.behind
    feed.dropped(1)  # after the page was made
    feed.paged(Position("e", 12), [event(11), event(12)])
    assert feed.behind
    feed.ask()
    feed.paged(Position("e", 13), [event(13)])
    assert taken(feed) == [11, 12, 13]
    assert not feed.behind


def test_a_hole_that_nobody_has_told_of_is_found() -> None:
    feed = opened()
    feed.live(event(12), 1)
    feed.live(event(14), 1)
    assert feed.behind
    feed.ask()
    feed.live(event(15), 1)
    feed.live(event(17), 1)
    feed.paged(Position("e", 15), [event(offset) for offset in range(11, 16)])
    assert taken(feed) == [11, 12, 13, 14, 15]
    assert feed.behind
    feed.ask()
    feed.paged(Position("e", 17), [event(16), event(17)])
    assert taken(feed) == [16, 17]
    assert not feed.behind


def test_latest_replaces_what_waits() -> None:
    feed = opened(recover="latest")
    feed.live(event(11), 1)
    feed.live(event(12), 1)
    feed.live(event(15), 1)  # the server conflates too
    assert taken(feed) == [15]
    assert feed.skipped == 4
    feed.left()
    feed.live(event(21), 1)
    feed.answered(Position("e", 20), [event(20)])
    assert taken(feed) == [21]
    feed.left()
    feed.answered(Position("f", 3), [event(3)])
    assert taken(feed) == [3]
    feed.left()
    feed.answered(Position("e", 2))  # another numbering, and nothing in it
    assert taken(feed) == [Missed()]
    assert feed.behind
    feed.paged(Position("e", 2), [])
    assert taken(feed) == [Missed(2)]


def test_latest_begins_with_the_newest_there_is() -> None:
    feed = Feed(None, "latest", SessionLimits())
    feed.answered(Position("e", 7), [event(7)])
    assert feed.position == Position("e", 6)
    assert taken(feed) == [7]
    feed.left()
    feed.answered(Position("e", 7), [event(7)])
    assert taken(feed) == []
    assert feed.skipped == 0


def test_latest_keeps_one_event_and_one_gap_for_a_reader_that_never_comes() -> None:
    feed = Feed(None, "latest", SessionLimits())
    feed.answered(None)
    for number in range(100):
        feed.live(Event("t", 0, number), 1)
        feed.dropped(1)
        assert len(feed) <= 2
        feed.live(Event("t", 0, number), 1)
        feed.live(Event("t", 0, number), 1)
        feed.dropped(1)
        feed.dropped(1)
        assert len(feed) <= 2
    assert feed.missed == 300
    assert feed.skipped == 299
    item = feed.take()
    assert isinstance(item, Event)
    assert item.data == 99
    assert taken(feed) == [Missed(300)]


def test_a_page_that_live_events_have_overtaken_does_not_say_what_is_lost() -> None:
    feed = opened(SessionLimits(feed_events=10))
    feed.dropped(0)
    assert feed.ask() == Position("e", 10)
    for offset in range(11, 19):  # while the question is on its way
        feed.live(event(offset), 1)
    feed.dropped(4)  # 19 to 22
    feed.paged(Position("e", 22), [event(offset) for offset in range(11, 16)])
    assert taken(feed) == list(range(11, 19))
    assert feed.behind
    assert feed.ask() == Position("e", 18)
    feed.paged(Position("e", 22), [event(offset) for offset in range(19, 23)])
    assert taken(feed) == list(range(19, 23))
    assert not feed.behind


def test_a_server_that_has_lost_its_last_events_is_followed() -> None:
    feed = opened()
    for offset in (11, 12, 13):
        feed.live(event(offset), 1)
    assert taken(feed) == [11, 12, 13]
    feed.left()
    assert feed.ask() == Position("e", 13)
    feed.answered(Position("e", 11))  # its disk had no more
    feed.live(event(12), 1)
    assert feed.position == Position("e", 11)
    assert taken(feed) == [Missed(), 12]
    assert not feed.behind


def test_a_position_of_another_life_goes_on() -> None:
    feed = Feed(Position("e", 5), "all", SessionLimits())
    assert feed.position == feed.ask() == Position("e", 5)
    feed.answered(Position("e", 6), [event(6)])
    assert taken(feed) == [6]
    lost = Feed(Position("e", 5), "all", SessionLimits())
    lost.answered(None)
    assert taken(lost) == [Missed()]


# --- the property ----------------------------------------------------------------------------


class World:
    """A server's topic, the way of its live events, and one feed with its reader."""

    def __init__(self, room: int) -> None:
        self.epoch = 0
        self.log: list[Event] = []
        #: The numbers published, over all epochs.
        self.published: list[int] = []
        #: The oldest offset that the history has.
        self.first = 1
        #: Live events, and how many the server leaves out.
        self.way: deque[Event | int] = deque()
        self.subscribed = False
        self.feed = Feed(None, "all", SessionLimits(feed_events=room, feed_bytes=2 * room))
        self.got: list[int | Missed] = []
        #: Whether the history has had everything up to now.
        self.is_whole = True

    @property
    def position(self) -> Position:
        return Position(str(self.epoch), len(self.log))

    def after(self, position: Position | None, limit: int) -> list[Event]:
        if position is None or position.epoch != str(self.epoch):
            return []
        return self.log[max(position.offset, self.first - 1) :][:limit]

    def publish(self) -> None:
        value = len(self.published) + 1
        self.published.append(value)
        self.log.append(Event("t", len(self.log) + 1, value))
        if self.subscribed:
            self.way.append(self.log[-1])

    def deliver(self) -> None:
        match self.way.popleft() if self.way else None:
            case Event() as live:
                self.feed.live(live, 1)
            case int(count):
                self.feed.dropped(count)

    def drop(self) -> None:
        if self.way:
            self.way[0] = self.way[0] + 1 if isinstance(self.way[0], int) else 1
            if len(self.way) > 1 and isinstance(self.way[1], Event):
                del self.way[1]

    def take(self) -> None:
        if (item := self.feed.take()) is not None:
            self.got.append(item if isinstance(item, Missed) else item.data)

    def leave(self) -> None:
        self.subscribed = False
        self.way.clear()
        self.feed.left()

    def join(self) -> None:
        if self.subscribed:
            return
        asked = self.feed.ask()
        self.subscribed = True
        events = self.after(asked, self.feed.page + 1)
        whole = asked is not None and len(events) == len(self.log) - asked.offset
        events = events if whole and len(events) <= self.feed.page else []
        answer = self.position
        if len(self.published) % 2:  # the next event is looked at before the answer
            self.publish()
            self.deliver()
        self.feed.answered(answer, events)

    def page(self) -> None:
        if not (self.feed.joined and self.feed.behind and len(self.feed) == 0):
            return
        asked = self.feed.ask()
        if len(self.published) % 5 == 0:  # much happens before the question is there
            for _ in range(self.feed.page + 1):
                self.publish()
                self.deliver()
            self.publish()
            self.drop()
            self.deliver()
        answer = self.position, self.after(asked, self.feed.page)
        if len(self.published) % 3 == 0:
            self.publish()
            self.deliver()
        self.feed.paged(*answer)
        if not self.feed.joined:
            self.leave()

    def trim(self) -> None:
        self.is_whole = False
        self.first = len(self.log)

    def forget(self) -> None:
        self.is_whole = False
        self.epoch, self.log, self.first = self.epoch + 1, [], 1
        self.leave()

    def come_to_rest(self) -> None:
        for _ in range(1000):
            while self.way:
                self.deliver()
            while len(self.feed):
                self.take()
            if not self.feed.joined:
                self.join()
            elif self.feed.behind:
                self.page()
            else:
                return
        raise AssertionError("it never catches up")

    def check(self) -> None:
        at: int | None = 0
        for item in self.got:
            if isinstance(item, Missed):
                at = None if item.count is None or at is None else at + item.count
            else:
                assert at is None or self.published[at] == item
                at = item
        assert at in (None, len(self.published))
        if self.is_whole:
            assert not any(isinstance(item, Missed) for item in self.got)
        numbers = [item for item in self.got if not isinstance(item, Missed)]
        assert numbers == sorted(set(numbers))


OFTEN = ["publish"] * 6 + ["deliver"] * 5 + ["take"] * 3 + ["drop", "leave", "join", "page"] * 2


@given(st.lists(st.sampled_from([*OFTEN, "trim", "forget"]), max_size=120), st.integers(1, 5))
def test_exactly_the_published_sequence_or_told(steps: list[str], room: int) -> None:
    world = World(room)
    world.join()
    for name in steps:
        getattr(world, name)()
        assert len(world.feed) <= 2 * room + 1
    world.come_to_rest()
    world.check()
