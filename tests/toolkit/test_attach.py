"""Links: order, policies and ends, on a WebSocket and on channels in memory."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import cast

import hypothesis
import hypothesis.strategies as st
import pytest
import trio
import trio.testing

import trioweb
from tests.channels import channel_pair
from tests.helpers import guard, tasks
from trioweb import (
    Close,
    Limits,
    LinkLimits,
    Message,
    Overflow,
    Policy,
    ServerOptions,
    Timeouts,
)
from trioweb.testing import Conditions, open_pair
from trioweb.toolkit.attach import Link, LinkStatistics, attach
from trioweb.toolkit.ends import CodedChannel, close_channel

WAIT, CLOSE = Policy(Overflow.WAIT), Policy(Overflow.CLOSE)
OLDEST, NEWEST = Policy(Overflow.DROP_OLDEST), Policy(Overflow.DROP_NEWEST)

#: An outbox and an inbox of one message, so that a link has something to do.
LITTLE = Limits(outbox_frames=1, inbox_messages=1, read=64)
FILLER = "." * 500


def latest(key: str) -> Policy:
    return Policy(Overflow.COALESCE, key=key)


def told(missed: int) -> str:
    return f"missed {missed}"


@pytest.fixture
def clock(autojump_clock: trio.testing.MockClock) -> trio.testing.MockClock:
    return autojump_clock


@pytest.fixture(params=["websocket", "memory", "eager"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@asynccontextmanager
async def linked(kind: str, **options) -> AsyncIterator[tuple[Link, trio.abc.Channel[Message]]]:
    """Attach a link to one end of a channel that holds next to nothing; yield the other end too."""
    with guard():
        if kind == "websocket":
            little = ServerOptions(limits=LITTLE, heartbeat=None, timeouts=Timeouts(write=math.inf))
            async with (
                open_pair(conditions=Conditions(buffer=64), server=little, client=little) as pair,
                attach(pair.server, **options) as link,
            ):
                yield link, pair.client
        else:
            ours, theirs = channel_pair(1, eager=kind == "eager")
            async with attach(ours, **options) as link:
                yield link, theirs


@asynccontextmanager
async def stalled(kind: str, **options) -> AsyncIterator[tuple[Link, Reader]]:
    """Do so, and fill the channel until the link's backlog is at work, but empty."""
    async with linked(kind, **options) as (link, channel):
        while link.statistics().backlog_messages == 0:
            link.send_nowait(FILLER, WAIT)
            await trio.sleep(1)  # an unattended end reads on after a while
        yield link, Reader(channel)


class Reader:
    """The other end of a stalled channel."""

    def __init__(self, channel: trio.abc.Channel[Message]) -> None:
        self.channel = channel

    async def receive(self) -> Message:
        """Return the next message that is no filler."""
        while (message := await self.channel.receive()) == FILLER:
            pass
        return message

    async def until(self, last: Message) -> list[Message]:
        found = [await self.receive()]
        while found[-1] != last:
            found.append(await self.receive())
        return found


async def test_what_is_sent_is_received_either_way(kind):
    async with linked(kind) as (link, other):
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def _() -> None:
                for number in range(100):
                    if number % 2:
                        await link.send(f"{number}")
                    else:
                        assert link.send_nowait(f"{number}".encode())

            for number in range(100):
                expected = f"{number}" if number % 2 else f"{number}".encode()
                assert await other.receive() == expected
        await other.send("back")
        assert await link.receive() == "back"
        await other.send("again")
        async for message in link:
            assert message == "again"
            break
        assert link.statistics() == LinkStatistics(0, 0, 0, 0, 0)


async def test_no_task_while_the_channel_takes_all(clock):
    async with open_pair() as pair:
        before = tasks()
        async with attach(pair.server) as link:
            for _ in range(100):
                await link.send("x")
                assert link.send_nowait("x")
            assert tasks() - before == set()


async def test_no_task_is_left_behind(kind, clock):
    before = tasks()
    async with stalled(kind) as (link, reader):
        link.send_nowait("x")
        assert any(task.name == "link writer" for task in tasks() - before)
        await reader.until("x")
    await trio.testing.wait_all_tasks_blocked()
    assert tasks() == before


async def test_everything_goes_behind_what_waits(kind, clock):
    async with stalled(kind) as (link, reader):
        assert link.send_nowait("1")
        await link.send("2")
        assert link.send_nowait("3", OLDEST)
        await link.send("4", policy=WAIT)
        await link.send("5", policy=NEWEST)
        assert link.statistics().backlog_messages == 6  # with the one that is being sent
        assert await reader.until("5") == list("12345")
        await trio.testing.wait_all_tasks_blocked()
        assert link.statistics().backlog_messages == 0
        assert link.behind is (kind == "memory")


@pytest.mark.parametrize(
    ("policy", "expected"),
    [(OLDEST, ["missed 2", *"cde"]), (NEWEST, [*"abc", "missed 2"]), (latest("k"), ["e"])],
)
async def test_what_is_dropped_is_counted_and_told(kind, clock, policy, expected):
    async with stalled(kind, limits=LinkLimits(messages=3), gap=told) as (link, reader):
        taken = [link.send_nowait(one, policy) for one in "abcde"]
        assert taken == [True, True, True, *[policy is not NEWEST] * 2]
        assert link.statistics().dropped == (0 if policy.key else 2)
        assert link.statistics().coalesced == (4 if policy.key else 0)
        assert await reader.until(expected[-1]) == expected


async def test_the_links_policy_is_for_what_has_none(kind, clock):
    async with stalled(kind, limits=LinkLimits(messages=1), policy=NEWEST) as (link, _):
        assert link.send_nowait("a")
        assert not link.send_nowait("b")


async def test_waiting_has_a_deadline_and_leaves_nothing(kind, clock):
    async with stalled(kind, limits=LinkLimits(messages=1)) as (link, reader):
        link.send_nowait("a")
        with pytest.raises(trio.WouldBlock):
            link.send_nowait("b", WAIT)
        start = trio.current_time()
        with pytest.raises(trio.TooSlowError):
            await link.send("c", policy=Policy(Overflow.WAIT, timeout=3))
        assert trio.current_time() - start == 3
        with trio.move_on_after(5) as scope:
            await link.send("d")
        assert scope.cancelled_caught
        assert await reader.receive() == "a"
        await link.send("e")
        assert await reader.receive() == "e"
        assert link.statistics().dropped == 0


async def test_those_who_wait_have_their_turn_in_order(kind, clock):
    async with stalled(kind, limits=LinkLimits(messages=1), policy=OLDEST) as (link, reader):
        link.send_nowait("kept", CLOSE)
        async with trio.open_nursery() as nursery:
            for number in range(5):
                nursery.start_soon(link.send, f"{number}")
                await trio.testing.wait_all_tasks_blocked()
            for _ in range(10):
                link.send_nowait("news")
            with pytest.raises(trio.WouldBlock):
                link.send_nowait("late", WAIT)
            found = await reader.until("4")
        assert [one for one in found if one != "news"] == ["kept", *"01234"]


async def test_a_message_is_made_when_there_is_room(kind, clock):
    limits = LinkLimits(messages=2)
    made = []

    def make() -> str:
        made.append(trio.current_time())
        return f"made {len(made)}"

    async with stalled(kind, limits=limits, policy=WAIT) as (link, other):
        with suppress(trio.WouldBlock):
            while True:
                link.send_nowait(FILLER)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(link.send_made, make)
            with trio.move_on_after(1):
                await link.send_made(make)
            assert made == []
            assert await other.receive() == "made 1"
            await link.send_made(make)
            assert await other.receive() == "made 2"
    with pytest.raises((trio.ClosedResourceError, trio.BrokenResourceError)):
        await link.send_made(make)
    assert len(made) == 2


async def test_what_must_be_kept_drops_what_need_not(kind, clock):
    async with stalled(kind, limits=LinkLimits(messages=2), gap=told) as (link, reader):
        link.send_nowait("a", OLDEST)
        link.send_nowait("b", NEWEST)
        assert link.send_nowait("K", CLOSE)
        assert await reader.until("K") == ["missed 1", "b", "K"]


async def test_a_slow_consumer_is_closed(kind, clock):
    seen: list[Link] = []
    async with stalled(kind, limits=LinkLimits(messages=1)) as (link, reader):
        link.watch(seen.append)
        link.send_nowait("a")
        with pytest.raises(trio.BrokenResourceError, match="slow consumer"):
            link.send_nowait("b")
        assert link.ended
        assert seen == [link]
        for policy in (None, OLDEST, CLOSE, WAIT):
            with pytest.raises(trio.BrokenResourceError, match="slow consumer"):
                link.send_nowait("c", policy)
            with pytest.raises(trio.BrokenResourceError, match="slow consumer"):
                await link.send("d", policy=policy)
        with pytest.raises(trio.BrokenResourceError, match="slow consumer"):
            await link.receive()
        with pytest.raises(trio.BrokenResourceError, match="slow consumer"):
            await anext(link)
        with pytest.raises(trio.BrokenResourceError, match="slow consumer"):
            await link.wait_written()
        assert link.statistics().discarded == 2
        if kind == "websocket":
            assert isinstance(link.channel, trioweb.WebSocket)
            assert link.channel.closed == Close(1013, "slow consumer")
            with pytest.raises(trioweb.ConnectionBroken) as end:
                await reader.until("never")
            assert end.value.code == 1013
        else:
            with pytest.raises(trio.EndOfChannel):
                await reader.until("never")


async def test_text_that_cannot_be_encoded_harms_nothing(kind, clock):
    async with stalled(kind) as (link, reader):
        with pytest.raises(UnicodeEncodeError):
            link.send_nowait("\ud800")
        with pytest.raises(TypeError, match="not int"):
            link.send_nowait(cast("str", 1))
        link.send_nowait("after")
        assert await reader.receive() == "after"


async def test_the_peers_end_is_the_links_end(kind, clock):
    seen: list[Link] = []
    others: list[Link] = []
    async with stalled(kind) as (link, reader):
        link.watch(seen.append)
        link.watch(others.append)
        link.forget(others.append)
        link.send_nowait("a")
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def _() -> None:
                with pytest.raises(trio.BrokenResourceError):
                    await link.wait_written()

            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(reader.channel.aclose)
            with pytest.raises(trio.EndOfChannel):
                await link.receive()
        assert seen == [link]
        with pytest.raises(trio.BrokenResourceError):
            await link.send("b")
        with pytest.raises(trio.BrokenResourceError):
            link.send_nowait("c")
        assert (seen, others) == ([link], [])


async def test_the_end_is_met_where_nothing_waits(clock):
    for kind in ("websocket", "eager"):
        for is_async in (True, False):
            seen: list[Link] = []
            async with linked(kind) as (link, other):
                link.watch(seen.append)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(other.aclose)
                    with pytest.raises(trio.EndOfChannel):
                        await link.receive()
                with pytest.raises(trio.BrokenResourceError):
                    await link.send("x", policy=None if is_async else CLOSE)
                assert seen == [link]


async def test_what_waits_leaves_at_the_blocks_end(kind, clock):
    async with trio.open_nursery() as nursery, stalled(kind) as (link, reader):
        for one in "abc":
            link.send_nowait(one)
        nursery.start_soon(reader.until, "c")
    assert link.statistics().discarded == 0
    with pytest.raises((trio.ClosedResourceError, trio.BrokenResourceError)):
        await link.send("late")
    with pytest.raises((trio.ClosedResourceError, trio.BrokenResourceError)):
        link.send_nowait("late")


async def test_the_block_ends_though_nobody_reads(kind, clock):
    start = trio.current_time()
    ours, _theirs = channel_pair(0, eager=kind == "eager")
    async with attach(ours, limits=LinkLimits(close=3)) as link:
        link.send_nowait("a")
        link.send_nowait("b")
    assert trio.current_time() - start == 3
    assert link.statistics().discarded == 2
    with pytest.raises(trio.ClosedResourceError):
        link.send_nowait("c")


async def test_the_blocks_exception_comes_out_as_it_is(kind, clock):
    start = trio.current_time()
    ours, _theirs = channel_pair(0)
    error = KeyError("mine")

    async def fail() -> None:
        async with attach(ours) as link:
            link.send_nowait("a")
            await trio.testing.wait_all_tasks_blocked()
            links.append(link)
            raise error

    links: list[Link] = []
    with pytest.raises(KeyError) as raised:
        await fail()
    assert raised.value is error
    assert trio.current_time() == start
    assert links[0].statistics().discarded == 1


class Stuck(CodedChannel):
    """Never does anything, but for sending what it is told to fail with."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.failure = failure
        self.sent: Message | None = None
        self.closed: tuple[int, str] | None = None

    async def send(self, value: Message) -> None:
        self.sent = value
        if self.failure is not None:
            raise self.failure
        await trio.sleep_forever()

    async def receive(self) -> Message:
        await trio.sleep_forever()

    async def aclose(self, code: int = 1000, reason: str = "") -> None:
        self.closed = code, reason
        await trio.sleep_forever()


async def test_a_bug_in_a_channel_comes_out_bare(clock):
    async def fail() -> None:
        async with attach(Stuck(ZeroDivisionError())) as link:
            link.send_nowait("a")
            await trio.sleep_forever()

    with pytest.raises(ZeroDivisionError):
        await fail()


async def test_closing_lets_what_waits_leave(kind, clock):
    async with stalled(kind) as (link, reader), trio.open_nursery() as nursery:
        for one in "abc":
            link.send_nowait(one)

        @nursery.start_soon
        async def _() -> None:
            assert await reader.until("c") == ["a", "b", "c"]
            with pytest.raises((trio.EndOfChannel, trioweb.ConnectionBroken)) as end:
                await reader.receive()
            assert isinstance(end.value, trioweb.ConnectionEnded) is (kind == "websocket")
            if isinstance(end.value, trioweb.ConnectionEnded):
                assert (end.value.code, end.value.reason) == (4000, "bye")

        await link.aclose(4000, "bye")
        with pytest.raises(trio.ClosedResourceError):
            await link.send("late")
        with pytest.raises(trio.ClosedResourceError):
            link.send_nowait("late")


async def test_closing_is_bounded_and_a_cancelled_one_closes_too(clock):
    for seconds in (math.inf, 1):
        ours, theirs = channel_pair(0)
        start = trio.current_time()
        async with attach(ours, limits=LinkLimits(close=3)) as link:
            link.send_nowait("a")
            with trio.move_on_after(seconds):
                await link.aclose()
            assert trio.current_time() - start == min(seconds, 3)
            with pytest.raises(trio.EndOfChannel):
                await theirs.receive()


async def test_a_channel_that_will_not_close_does_not_hold_the_link(clock):
    stuck = Stuck()
    start = trio.current_time()
    async with attach(stuck, limits=LinkLimits(messages=1, close=3)) as link:
        link.send_nowait("a")
        await trio.testing.wait_all_tasks_blocked()
        link.send_nowait("b")
        with pytest.raises(trio.BrokenResourceError, match="slow consumer"):
            link.send_nowait("c")
        await trio.testing.wait_all_tasks_blocked()
        assert stuck.closed == (1013, "slow consumer")
    assert trio.current_time() - start <= 3


async def test_a_websockets_principal_is_the_links(clock):
    async with open_pair() as pair:
        pair.server.principal = "ann"
        async with attach(pair.server) as link:
            assert link.principal == "ann"
            assert "ann" in repr(link)
        async with attach(pair.server, principal="bob") as link:
            assert link.principal == "bob"


async def test_closing_any_channel(clock):
    async with open_pair() as pair, trio.open_nursery() as nursery:
        nursery.start_soon(close_channel, pair.server, 4001, "why")
        with pytest.raises(trioweb.ConnectionBroken) as end:
            await pair.client.receive()
        assert (end.value.code, end.value.reason) == (4001, "why")
    ours, theirs = channel_pair()
    await close_channel(ours, 4001, "why")
    with pytest.raises(trio.EndOfChannel):
        await theirs.receive()


KINDS = {
    "wait": WAIT,
    "close": CLOSE,
    "oldest": OLDEST,
    "newest": NEWEST,
    "a": latest("a"),
    "b": latest("b"),
}
#: A message under a policy, with the bytes that it fills, or a pause that ends as many seconds on.
STEPS = st.lists(
    st.tuples(st.sampled_from(sorted(KINDS)), st.integers(0, 200)) | st.floats(0.1, 3), max_size=60
)


@hypothesis.settings(max_examples=60)
@hypothesis.given(
    kind=st.sampled_from(["websocket", "memory", "eager"]),
    steps=STEPS,
    pauses=st.lists(st.floats(0, 3), max_size=30),
    messages=st.integers(1, 6),
)
def test_order_and_counts_whatever_the_policies_and_stalls(kind, steps, pauses, messages):
    got: list[str] = []
    sent: list[str] = []

    async def main() -> None:
        async with linked(kind, limits=LinkLimits(messages=messages), gap=told) as (link, other):
            async with trio.open_nursery() as nursery:

                @nursery.start_soon
                async def _() -> None:
                    waits = iter(pauses)
                    while (message := await other.receive()) != "end":
                        got.append(str(message))
                        await trio.sleep(next(waits, 0))

                for number, step in enumerate(steps):
                    if isinstance(step, float):
                        await trio.sleep(step)
                        continue
                    name, size = step
                    text = f"{number} {name} {'x' * size}"
                    held = link.statistics()
                    assert held.backlog_messages <= messages + 1
                    assert held.backlog_bytes <= (messages + 1) * 250
                    if name in ("wait", "close"):
                        await link.send(text)
                    else:
                        link.send_nowait(text, KINDS[name])
                    sent.append(text)
                nursery.start_soon(link.send, "end")
            counts = link.statistics()
            missed = [int(one.split()[1]) for one in got if one.startswith("missed")]
            received = [one for one in got if not one.startswith("missed")]
            assert sum(missed) == counts.dropped
            assert len(received) == len(sent) - counts.dropped - counts.coalesced
            assert counts.discarded == 0
            assert {one for one in sent if one.split()[1] in ("wait", "close")} <= set(received)
            numbers = [(int(one.split()[0]), one.split()[1]) for one in received]
            for at, (number, name) in enumerate(numbers):
                for other_number, other_name in numbers[at + 1 :]:
                    assert number < other_number or {name, other_name} == {"a", "b"}

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
