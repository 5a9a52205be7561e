"""Token buckets: never more than was said, never less in the long run, and whoever waits comes."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from trioweb import Excess, Rate, RateLimit, TokenBucket
from trioweb.buckets import Meter
from trioweb.protocol.assembler import Piece

#: Floating-point seconds and tokens are this exact.
CLOSE = 1e-6

rates = st.floats(0.1, 1000)
bursts = st.floats(1, 100)


@pytest.fixture
def clock(autojump_clock: MockClock) -> MockClock:
    return autojump_clock


@pytest.mark.parametrize("kind", [Rate, RateLimit, TokenBucket])
@pytest.mark.parametrize("wrong", [0, -1, math.inf, math.nan])
def test_numbers_must_make_sense(kind: type, wrong: float) -> None:
    with pytest.raises(ValueError, match="per_second must be positive"):
        kind(wrong, 10)
    with pytest.raises(ValueError, match="burst must be positive"):
        kind(10, wrong)


def test_limits_must_make_sense() -> None:
    with pytest.raises(ValueError, match="at least one message"):
        RateLimit(10, 0.5)
    assert RateLimit(10, 0.5, of="bytes").burst == 0.5
    with pytest.raises(ValueError, match="of is messages or bytes"):
        RateLimit(10, 10, of="frames")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="per is connection"):
        RateLimit(10, 10, per="city")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def test_a_bucket_is_full_at_first_and_fills_again(clock: MockClock) -> None:
    bucket = TokenBucket(2, 3)
    assert bucket.tokens == 3
    assert [bucket.take_nowait() for _ in range(4)] == [True, True, True, False]
    await trio.sleep(0.5)
    assert bucket.take_nowait()
    assert not bucket.take_nowait()
    await trio.sleep(100)
    assert bucket.tokens == 3
    assert bucket.take_nowait(3.5)  # more than ever fit: a full bucket is enough
    assert bucket.tokens == -0.5
    with pytest.raises(ValueError, match="taken, not given"):
        bucket.take_nowait(-1)
    with pytest.raises(ValueError, match="taken, not given"):
        await bucket.take(math.nan)


async def test_who_waits_gets_them_in_order_and_before_who_does_not(clock: MockClock) -> None:
    bucket = TokenBucket(1, 2)
    assert bucket.take_nowait(2)
    start, came = trio.current_time(), []

    async def take(name: str, count: float) -> None:
        await bucket.take(count)
        came.append((name, trio.current_time() - start))

    async with trio.open_nursery() as nursery:
        for name, count in (("large", 2), ("small", 1), ("last", 1)):
            nursery.start_soon(take, name, count)
            await trio.testing.wait_all_tasks_blocked()
        await trio.sleep(1)
        assert bucket.tokens == 1
        assert not bucket.take_nowait()
    assert came == [("large", 2), ("small", 3), ("last", 4)]


async def test_cancelled_it_has_taken_nothing(clock: MockClock) -> None:
    bucket = TokenBucket(1, 1)
    assert bucket.take_nowait()
    with trio.move_on_after(0.5) as scope:
        await bucket.take()
    assert scope.cancelled_caught
    start = trio.current_time()
    await bucket.take()  # half of it has come already
    assert trio.current_time() - start == 0.5
    await trio.sleep(5)
    with trio.CancelScope() as scope:
        scope.cancel()
        await bucket.take()
    assert scope.cancelled_caught
    assert bucket.tokens == 1


@given(
    rate=rates,
    burst=bursts,
    tries=st.lists(st.tuples(st.floats(0, 5), st.floats(0.1, 1)), max_size=50),
)
def test_no_stretch_of_time_has_more_than_was_said(
    rate: float, burst: float, tries: list[tuple[float, float]]
) -> None:
    bucket, now = TokenBucket(rate, burst), 0.0
    taken: list[tuple[float, float]] = []
    for pause, part in tries:
        now += pause
        count = part * burst
        if bucket.due(count, now) == now:
            bucket.spend(count)
            taken.append((now, count))
    for first in range(len(taken)):
        total = 0.0
        for at, count in taken[first:]:
            total += count
            assert total <= rate * (at - taken[first][0]) + burst + CLOSE


@given(
    rate=rates,
    burst=bursts,
    tasks=st.lists(
        st.tuples(st.floats(0, 5), st.floats(0.1, 1), st.none() | st.floats(0, 3)), max_size=12
    ),
)
def test_nobody_who_waits_starves_and_together_they_keep_to_it(
    rate: float, burst: float, tasks: list[tuple[float, float, float | None]]
) -> None:
    taken: list[tuple[float, float]] = []

    async def main() -> None:
        bucket = TokenBucket(rate, burst)
        asked = 0.0

        async def take(pause: float, count: float, patience: float | None) -> None:
            nonlocal asked
            await trio.sleep(pause)
            start, before = trio.current_time(), asked
            asked += count
            with trio.move_on_after(math.inf if patience is None else patience):
                await bucket.take(count)
                now = trio.current_time()
                taken.append((now, count))
                # All those before it, and it, take so long at the most.
                assert now - start <= (before + count) / rate + CLOSE

        async with trio.open_nursery() as nursery:
            for pause, part, patience in tasks:
                nursery.start_soon(take, pause, part * burst, patience)
        assert len(taken) >= sum(patience is None for _, _, patience in tasks)

    trio.run(main, clock=MockClock(autojump_threshold=0))
    for first in range(len(taken)):
        total = 0.0
        for at, count in taken[first:]:
            total += count
            assert total <= rate * (at - taken[first][0]) + burst + CLOSE


# What a connection takes in.

messages = st.lists(st.text(max_size=20) | st.binary(max_size=40), min_size=1, max_size=20)
limits = st.lists(
    st.builds(
        RateLimit,
        rates,
        bursts,
        of=st.sampled_from(["messages", "bytes"]),
        excess=st.sampled_from(Excess),
    ),
    min_size=1,
    max_size=3,
)


def _size(message: str | bytes) -> int:
    return len(message.encode() if isinstance(message, str) else message)


@given(limits=limits, batches=st.lists(st.tuples(st.floats(0, 3), messages), max_size=12))
def test_a_meter_keeps_to_every_limit_and_loses_nothing_unsaid(
    limits: list[RateLimit], batches: list[tuple[float, list[str | bytes]]]
) -> None:
    meter = Meter()
    for limit in limits:
        meter.add(limit, TokenBucket(limit.per_second, limit.burst))
    now = 0.0
    came: list[str | bytes | Piece] = []
    admitted: list[tuple[float, str | bytes]] = []

    def let_in(at: float, those: list[str | bytes | Piece]) -> None:
        for one in those:
            assert not isinstance(one, Piece)
            admitted.append((at, one))

    for pause, batch in batches:
        now += pause
        while meter.ahead and not meter.broken:  # more is decoded when those are in
            due, now = meter.due, max(now, meter.due)
            released = meter.release(now)
            let_in(due, released[:1])  # it is paid for since then, whoever was late
            let_in(now, released[1:])
        if meter.broken:
            break
        came += batch
        if meter.covers([*batch], 0, now):
            let_in(now, [*batch])
        else:
            let_in(now, meter.hold([*batch], now))
    assert len(admitted) + meter.dropped + len(meter.ahead) == len(came)
    rest = iter(came)
    assert all(any(one is other for other in rest) for _, one in admitted)  # in their order
    if all(limit.excess is Excess.WAIT for limit in limits):
        assert meter.dropped == 0
    assert meter.broken <= any(limit.excess is Excess.CLOSE for limit in limits)
    for limit in limits:
        largest = max((_size(one) for one in came if isinstance(one, (str, bytes))), default=0)
        burst = max(limit.burst, largest) if limit.of == "bytes" else limit.burst
        # With several limits one may hold up what another has been paid for.
        for first in range(len(admitted) if len(limits) == 1 else min(1, len(admitted))):
            total = 0
            for at, one in admitted[first:]:
                total += _size(one) if limit.of == "bytes" else 1
                most = limit.per_second * (at - admitted[first][0]) + limit.burst
                assert total <= most + (burst - limit.burst) + CLOSE


def test_a_message_in_pieces_is_not_dropped_once_it_has_begun() -> None:
    meter = Meter()
    meter.add(RateLimit(1, 1, excess=Excess.DROP), TokenBucket(1, 1))
    pieces: list[str | bytes | Piece] = [
        Piece(data, last=data == b"c") for data in (b"a", b"b", b"c")
    ]
    assert meter.covers(["x"], 0, 0.0)
    assert meter.hold([*pieces], 0.0) == pieces
    assert meter.dropped == 0
    assert meter.hold(["y"], 1.0) == []  # it is paid for now
    assert meter.dropped == 1


def test_due_times_follow_each_other() -> None:
    meter = Meter()
    meter.add(RateLimit(4, 1), TokenBucket(4, 1))
    admitted = meter.hold([str(number) for number in range(5)], 0.0)
    assert admitted == ["0"]
    times = []
    while meter.ahead:
        times.append(meter.due)
        assert len(meter.release(meter.due)) == 1
    assert [second - first for first, second in pairwise(times)] == [0.25] * 3
