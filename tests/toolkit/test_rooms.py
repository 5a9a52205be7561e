"""Rooms: who is in, what they hear, and that nobody waits for anybody."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import hypothesis
import hypothesis.strategies as st
import pytest
import trio
import trio.testing

import trioweb
from tests.channels import MemoryChannel, channel_pair
from tests.helpers import guard, tasks
from trioweb import (
    Close,
    Deflate,
    Delivery,
    LinkLimits,
    Overflow,
    Policy,
    Refused,
    RoomFull,
)
from trioweb.protocol.encoder import Encoder
from trioweb.testing import Reset, Stall, VirtualNetwork
from trioweb.toolkit.attach import Link, attach
from trioweb.toolkit.rooms import Room, RoomOptions, Rooms, RoomStatistics

WAIT = Policy(Overflow.WAIT, timeout=3)
OLDEST, NEWEST = Policy(Overflow.DROP_OLDEST), Policy(Overflow.DROP_NEWEST)


@pytest.fixture
def clock(autojump_clock: trio.testing.MockClock) -> trio.testing.MockClock:
    return autojump_clock


def told(missed: int) -> str:
    return f"missed {missed}"


@asynccontextmanager
async def links(
    count: int, *, size: float = 100, messages: int = 2
) -> AsyncIterator[tuple[list[Link], list[MemoryChannel]]]:
    """Attach links to channels in memory that take so many messages; yield the other ends too."""
    async with AsyncExitStack() as stack:
        stack.enter_context(guard())
        ours, theirs = [], []
        for number in range(count):
            one, other = channel_pair(size, eager=bool(number % 2))
            theirs.append(other)
            ours.append(
                await stack.enter_async_context(
                    attach(one, limits=LinkLimits(messages=messages), gap=told, principal=number)
                )
            )
        yield ours, theirs
        for link in ours:
            link.end(None)


def heard(channel: MemoryChannel) -> list[object]:
    """Return what has come, without waiting."""
    found: list[object] = []
    try:
        while True:
            found.append(channel.receiver.receive_nowait())
    except (trio.WouldBlock, trio.EndOfChannel):
        return found


# Who is in.


async def test_a_room_lives_from_its_first_member_to_its_last(clock):
    rooms = Rooms()
    async with links(2) as ((ann, bob), _):
        assert "lobby" not in rooms
        assert rooms.get("lobby") is None
        room = await rooms.join("lobby", ann, {"name": "Ann"})
        room.metadata["topic"] = "tea"
        assert await rooms.join("lobby", bob) is room is rooms["lobby"] is rooms.get("lobby")
        assert (list(rooms), len(rooms), len(room)) == (["lobby"], 1, 2)
        assert ann in room
        assert dict(room.members) == {ann: {"name": "Ann"}, bob: None}
        room.describe(bob, "Bob")
        assert room.members[bob] == "Bob"
        assert rooms.leave("lobby", ann)
        assert not rooms.leave("lobby", ann)
        with pytest.raises(KeyError):
            room.describe(ann, "Ann")
        assert list(room.members) == [bob]
        room.leave(bob)
        assert len(rooms) == 0
        with pytest.raises(KeyError):
            rooms["lobby"]
        assert (await rooms.join("lobby", ann)).metadata == {}


async def test_a_member_for_the_length_of_a_block(clock):
    rooms = Rooms()
    async with links(1) as ((ann,), _):
        with suppress(ZeroDivisionError):
            async with rooms.joined("lobby", ann, "Ann") as room:
                assert dict(room.members) == {ann: "Ann"}
                raise ZeroDivisionError
        assert len(rooms) == 0


async def test_twice_is_a_mistake(clock):
    rooms = Rooms()
    async with links(1) as ((ann,), _):
        await rooms.join("lobby", ann)
        with pytest.raises(ValueError, match="already"):
            await rooms.join("lobby", ann)


async def test_a_link_that_ends_leaves_all_rooms(clock):
    left: list[tuple[str, Link]] = []
    rooms = Rooms(on_leave=lambda room, link: left.append((room.name, link)))
    async with links(2) as ((ann, bob), _):
        for name in ("one", "two"):
            await rooms.join(name, ann)
            await rooms.join(name, bob)
        assert rooms.rooms_of(ann) == ["one", "two"]
        ann.end(None)
        assert rooms.rooms_of(ann) == []
        assert left == [("one", ann), ("two", ann)]
        assert dict(rooms["one"].members) == {bob: None}
        with pytest.raises(trio.ClosedResourceError):
            await rooms.join("one", ann)
    assert len(rooms) == 0
    assert rooms._joined == {}


async def test_who_has_left_is_not_watched(clock):
    rooms = Rooms()
    async with links(1) as ((ann,), _):
        for _ in range(3):
            await rooms.join("one", ann)
            await rooms.join("two", ann)
            rooms.leave_all(ann)
            assert ann._watchers == {}
            assert rooms._joined == {}


async def test_a_check_lets_in_or_keeps_out(clock):
    asked: list[tuple[object, str]] = []

    async def check(link: Link, name: str) -> None:
        asked.append((link.principal, name))
        await trio.sleep(1)
        if link.principal == 0:
            raise Refused("banned", status=403)

    def options(name: str) -> RoomOptions:
        return RoomOptions(authorise=check if name == "secret" else None)

    rooms = Rooms(options)
    async with links(2) as ((ann, bob), _):
        await rooms.join("open", ann)
        with pytest.raises(Refused, match="banned"):
            await rooms.join("secret", ann)
        assert list(rooms) == ["open"]
        await rooms.join("secret", bob)
        assert asked == [(0, "secret"), (1, "secret")]


async def test_who_ends_during_the_check_does_not_join(clock):
    async def check(link: Link, name: str) -> None:
        link.end(None)

    rooms = Rooms(RoomOptions(authorise=check))
    async with links(1) as ((ann,), _):
        with pytest.raises(trio.ClosedResourceError):
            await rooms.join("lobby", ann)
    assert len(rooms) == 0


async def test_a_room_may_be_full(clock):
    rooms = Rooms(RoomOptions(max_members=1))
    async with links(2) as ((ann, bob), _):
        await rooms.join("lobby", ann)
        with pytest.raises(RoomFull, match="'lobby' is full: 1 members") as full:
            await rooms.join("lobby", bob)
        assert (full.value.room, full.value.limit) == ("lobby", 1)
        await rooms.join("other", bob)
        rooms.leave("lobby", ann)
        await rooms.join("lobby", bob)
    with pytest.raises(ValueError, match="must be positive"):
        RoomOptions(max_members=0)


async def test_joining_and_leaving_is_told_and_a_failure_there_harms_nobody(clock, caplog):
    told: list[tuple[str, bool]] = []

    def joined(room: Room, link: Link) -> None:
        told.append((room.name, link in room))
        raise ZeroDivisionError

    rooms = Rooms(on_join=joined, on_leave=joined)
    async with links(1) as ((ann,), _):
        await rooms.join("lobby", ann)
        ann.end(None)
    assert told == [("lobby", True), ("lobby", False)]
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * 2


# What they hear.


async def test_all_hear_it_but_those_excluded(clock):
    rooms = Rooms()
    async with links(4, messages=10) as (ours, theirs):
        for link in ours:
            await rooms.join("lobby", link)
        room = rooms["lobby"]
        assert room.broadcast("to all") == Delivery(queued=4)
        assert room.broadcast(b"to some", exclude=[ours[0], ours[3]]) == Delivery(queued=2)
        assert (await room.send("awaited", exclude={ours[0]})).queued == 3
        assert room.send_to(ours[3], "to one")
        await trio.testing.wait_all_tasks_blocked()
        assert heard(theirs[0]) == ["to all"]
        assert heard(theirs[1]) == heard(theirs[2]) == ["to all", b"to some", "awaited"]
        assert heard(theirs[3]) == ["to all", "awaited", "to one"]
        assert room.statistics() == RoomStatistics(4, messages=3, dropped=0, closed=0)
        room.leave(ours[3])
        with pytest.raises(KeyError):
            room.send_to(ours[3], "to one")


@pytest.mark.parametrize("message", [1, None, ["x"]])
async def test_only_text_and_bytes_are_messages(clock, message):
    rooms = Rooms()
    async with links(1) as ((ann,), _):
        room = await rooms.join("lobby", ann)
        with pytest.raises(TypeError, match="a message is str or bytes"):
            room.broadcast(message)
        with pytest.raises(UnicodeEncodeError):
            room.broadcast("\ud800")
        assert room.statistics().messages == 0


async def test_an_empty_room_is_no_delivery(clock):
    rooms = Rooms()
    async with links(1) as ((ann,), _):
        room = await rooms.join("lobby", ann)
        room.leave(ann)
        assert room.broadcast("x") == Delivery()
        assert await room.send("x") == Delivery()


@pytest.fixture
def encoded(monkeypatch):
    """The lengths of what is encoded, and whether it is compressed."""
    seen: list[bool] = []
    real = Encoder._whole

    def count(encoder: Encoder, first: int, data: bytes, packed: bytes | None) -> list[bytes]:
        seen.append(packed is not None)
        return real(encoder, first, data, packed)

    monkeypatch.setattr(Encoder, "_whole", count)
    return seen


@asynccontextmanager
async def served(count: int, deflate: Deflate | None = None):
    """Serve a room on the virtual network; yield it, its clients, and the network."""
    network = VirtualNetwork()
    rooms = Rooms()
    limits = LinkLimits(messages=10)

    async def handler(ws: trioweb.WebSocket) -> None:
        async with (
            attach(ws, limits=limits, gap=told, principal=ws.request.path) as link,
            rooms.joined("lobby", link),
        ):
            async for _ in link:
                pass

    async with AsyncExitStack() as stack:
        stack.enter_context(guard())
        with network.host("server"):
            server = await stack.enter_async_context(
                trioweb.open_server(handler, 0, heartbeat=None, deflate=deflate)
            )
        clients = []
        for number in range(count):
            with network.host(f"client{min(2, number)}"):
                clients.append(
                    await stack.enter_async_context(
                        trioweb.connect(f"{server.url}/{number}", heartbeat=None, deflate=deflate)
                    )
                )
        while len(server.connections) < count or len(rooms.get("lobby") or ()) < count:
            await trio.sleep(0.01)
        yield rooms["lobby"], clients, network


async def test_websockets_share_one_encoding(clock, encoded):
    async with served(20) as (room, clients, _):
        assert room.broadcast("once") == Delivery(written=20)
        assert len(encoded) == 1
        assert [await client.receive() for client in clients] == ["once"] * 20


@pytest.mark.parametrize("compress", [None, False])
async def test_and_are_compressed_for_once(clock, encoded, compress):
    async with served(5, Deflate()) as (room, clients, _):
        delivery = room.broadcast("x" * 5000, compress=compress)
        assert delivery.written + delivery.queued == 5
        assert encoded == [compress is None]
        for client in clients:
            assert await client.receive() == "x" * 5000


async def test_rooms_of_websockets_and_other_channels(clock):
    async with served(2) as (room, clients, _), links(2) as (ours, theirs):
        rooms = Rooms()
        for link in [*room.members, *ours]:
            await rooms.join("mixed", link)
        assert rooms["mixed"].broadcast("x") == Delivery(written=2, queued=2)
        for client in (*clients, *theirs):
            assert await client.receive() == "x"


# Those that do not keep up.


async def until_full(room: Room, link: Link, policy: Policy) -> int:
    """Send until one is dropped; return how many were sent."""
    sent = 0
    while link.dropped == 0:
        room.broadcast(bytes(10_000), policy=policy)
        sent += 1
        await trio.lowlevel.checkpoint()
        assert sent < 10_000
    return sent


@pytest.mark.parametrize("policy", [OLDEST, NEWEST])
async def test_what_is_dropped_is_counted_in_the_room_and_told(clock, policy):
    async with served(1) as (room, (client,), network):
        (link,) = room.members
        network.link("server", "client0").inject(Stall(to="client0"))
        sent = await until_full(room, link, policy)
        assert room.broadcast("again", policy=policy).dropped == (policy is NEWEST)
        assert room.statistics() == RoomStatistics(1, sent + 1, dropped=2, closed=0)
        network.link("server", "client0").heal()
        await link.wait_written()
        room.broadcast("end")
        got = []
        while (message := await client.receive()) != "end":
            got.append(message)
        assert got.count("missed 2") == 1
        assert len(got) == sent
        assert got[-1] == ("missed 2" if policy is NEWEST else "again")


async def test_a_slow_consumer_is_closed_and_leaves(clock):
    async with served(3) as (room, clients, network):
        slow = next(iter(room.members))
        network.link("server", "client0").inject(Stall(to="client0"))
        sent = 0
        while (done := room.broadcast(bytes(10_000))).closed == 0:
            sent += 1
            for client in clients[1:]:
                assert await client.receive() == bytes(10_000)
        assert (done.closed, done.written + done.queued, sent > 10) == (1, 2, True)
        assert slow not in room
        assert isinstance(slow.channel, trioweb.WebSocket)
        assert slow.channel.closed == Close(1013, "slow consumer")
        assert room.statistics() == RoomStatistics(2, sent + 1, dropped=0, closed=1)


async def test_a_broken_one_leaves_and_the_others_hear_it(clock):
    async with served(3) as (room, clients, network):
        gone = next(iter(room.members))
        network.link("server", "client0").inject(Reset())
        assert room.broadcast("x").closed == 1
        assert gone not in room
        assert gone.ended
        assert room.statistics().closed == 1
        for client in clients[1:]:
            assert await client.receive() == "x"


async def test_waiting_ends_with_room_or_a_deadline(clock):
    before = tasks()
    rooms = Rooms(RoomOptions(policy=WAIT))
    async with links(4, size=0, messages=1) as (ours, theirs):
        for link in ours:
            room = await rooms.join("lobby", link)
        for _ in range(2):  # one in hand, one in the backlog
            assert (await room.send("x")).queued == 4
            await trio.testing.wait_all_tasks_blocked()
        start = trio.current_time()
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def _() -> None:
                await trio.sleep(1)
                for one in theirs[:2]:
                    assert await one.receive() == "x"
                ours[2].end(None)

            done = await room.send("late")
            assert done == Delivery(queued=2, dropped=1, closed=1)
        assert trio.current_time() - start == 3
        assert [link.dropped for link in ours] == [0, 0, 0, 1]
        assert room.statistics() == RoomStatistics(3, 3, dropped=1, closed=1)
        # Without time to wait it is left out at once, and so it is when nobody waits any more.
        assert room.broadcast("now") == Delivery(dropped=3)
        with trio.move_on_after(1) as scope:
            await room.send("cancelled")
        assert scope.cancelled_caught
        assert room.statistics().dropped == 7
        assert await theirs[3].receive() == "x"
        assert await theirs[3].receive() == "x"
        assert await theirs[3].receive() == "missed 3"
    assert tasks() == before


async def test_a_send_that_is_cancelled_raises_it_bare(clock):
    rooms = Rooms(RoomOptions(policy=WAIT))
    async with links(3, size=0, messages=1) as (ours, _):
        for link in ours:
            room = await rooms.join("lobby", link)
        seen: list[type[BaseException]] = []
        with trio.move_on_after(1):
            try:
                while True:
                    await room.send("x")
            except BaseException as error:
                seen.append(type(error))
                raise
        assert seen == [trio.Cancelled]


async def test_one_stalled_receiver_in_a_thousand(clock):
    """It costs the others nothing, and the server no more than its bounds."""
    async with served(1000) as (room, clients, network):
        slow = next(iter(room.members))
        network.link("server", "client0").inject(Stall(to="client0"))
        size = 20_000
        news = bytes(size)
        for _ in range(25):
            done = room.broadcast(news, policy=OLDEST)
            # All others have it at once: it is written, or leaves with this turn.
            assert done.written + done.queued == 1000
            await trio.lowlevel.checkpoint()
            for client in clients[1:]:
                assert await client.receive() == news
            others = [link.statistics() for link in room.members if link is not slow]
            assert all(one.backlog_messages == one.dropped == 0 for one in others)
        held = slow.statistics()
        assert held.dropped > 0
        assert held.backlog_messages <= 11
        assert held.backlog_bytes <= 11 * size
        assert isinstance(slow.channel, trioweb.WebSocket)
        assert slow.channel.statistics().outbox_bytes < 2**16 + size + 20
        assert room.statistics().dropped == held.dropped


@hypothesis.settings(max_examples=40)
@hypothesis.given(
    steps=st.lists(
        st.tuples(st.sampled_from(list(Overflow)), st.sets(st.integers(0, 2)), st.booleans())
        | st.tuples(st.sampled_from(["join", "leave", "read"]), st.integers(0, 2)),
        max_size=60,
    )
)
def test_everybody_gets_or_misses_what_was_sent_while_they_were_in(steps):
    async def main() -> None:
        rooms = Rooms()
        async with links(3, size=1) as (ours, theirs):
            expected: list[list[str]] = [[], [], []]
            got: list[list[object]] = [[], [], []]
            keeper, _ = channel_pair()
            async with attach(keeper) as home:
                room = await rooms.join("lobby", home)
                for number, step in enumerate(steps):
                    await trio.testing.wait_all_tasks_blocked()
                    if step[0] == "join":
                        if ours[step[1]] not in room and not ours[step[1]].ended:
                            await rooms.join("lobby", ours[step[1]])
                    elif step[0] == "leave":
                        room.leave(ours[step[1]])
                    elif step[0] == "read":
                        got[step[1]] += heard(theirs[step[1]])
                    else:
                        overflow, excluded, waits = step
                        if overflow is Overflow.CLOSE:
                            overflow = Overflow.WAIT
                        policy = Policy(overflow, timeout=1, key=number % 2)
                        text = str(number)
                        exclude = [ours[one] for one in excluded]
                        present = [one in room and one not in exclude for one in ours]
                        if waits:
                            await room.send(text, exclude=exclude, policy=policy)
                        else:
                            room.broadcast(text, exclude=exclude, policy=policy)
                        for at, is_in in enumerate(present):
                            if is_in:
                                expected[at].append(text)
                for at, other in enumerate(theirs):
                    for _ in range(10):
                        await trio.testing.wait_all_tasks_blocked()
                        got[at] += heard(other)
                    counts = ours[at].statistics()
                    texts = [one for one in got[at] if not str(one).startswith("missed")]
                    assert len(texts) + counts.dropped + counts.coalesced == len(expected[at])
                    assert set(texts) <= set(expected[at])
                    missed = [int(str(one)[7:]) for one in got[at] if str(one)[:6] == "missed"]
                    assert sum(missed) == counts.dropped
                assert room.statistics().dropped == sum(link.dropped for link in ours)

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
