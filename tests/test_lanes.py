"""The lanes: the native ones and those in Python do the same, whatever happens."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import missing
from tests.helpers import BINARY, frame
from trioweb import Limits, pure_lanes
from trioweb.protocol.assembler import Piece
from trioweb.protocol.framer import Framer
from trioweb.types import Side

native_lanes: Any = None
with contextlib.suppress(ImportError):  # no compiler
    native_lanes = importlib.import_module("trioweb._lanes")

LIMITS = Limits(outbox_bytes=200, outbox_frames=5)
PLAIN = 20_000


@pytest.fixture(autouse=True, scope="module")
def _native() -> None:
    if native_lanes is None:
        missing("the native lanes (a C compiler, and then `pip install -e .`)")


class Ground:
    """One kind of lane over a transport that takes what a script says, and all that it is told."""

    def __init__(self, lanes: Any, takes: Sequence[int | None], *, masks: bool, both: bool) -> None:
        self.takes = list(takes)
        self.told: list[Any] = []
        self.marked: list[Any] = []
        ground = self

        class Lane(lanes.OutLane):  # type: ignore[misc]  # one of two
            def schedule(self) -> None:
                ground.told.append("schedule")
                self.flush()

            def call_turn(self) -> None:
                ground.told.append("turn")

            def left_over(self, rest: memoryview) -> None:
                self.unwritten = rest
                ground.told.append(("left over", bytes(rest)))

            def broke(self, error: Exception) -> None:
                self.open, self.dead = False, True
                ground.told.append(type(error))

            def failed(self, error: Exception) -> None:
                ground.told.append(("failed", type(error)))

            def wake(self) -> None:
                ground.told.append("wake")

        self.turn = lanes.Turn()
        self.lane = Lane(self.turn, self.marked, LIMITS)
        self.flush_all = lanes.flush_all
        self.lane.plain = PLAIN
        self.lane.write = self.write
        if both and not masks:
            self.lane.write_both = self.write_both
        if masks:
            keys = iter(range(1000))
            self.lane.token_bytes = lambda size: next(keys).to_bytes(size, "big")

    def write(self, data: bytes | memoryview) -> int:
        take = self.takes.pop(0) if self.takes else 10**9
        if take is None:
            raise trio.BrokenResourceError
        self.told.append(bytes(data)[:take])
        return min(take, len(data))

    def write_both(self, head: bytes, body: bytes | str) -> int:
        return self.write(head + (body.encode() if isinstance(body, str) else body))

    def state(self) -> tuple[Any, ...]:
        lane: Any = self.lane
        turn = self.turn
        rest = None if lane.unwritten is None else bytes(lane.unwritten)
        queue = lane.data, lane.control, rest, lane.size, lane.open, lane.dead
        counts = lane.messages_sent, lane.bytes_sent, turn.calls, turn.size
        return *queue, *counts, lane.is_marked, len(self.marked), self.told


def offer(message: Any, waiting: int, paid: bool) -> Callable[[Ground], Any]:
    return lambda ground: ground.lane.offer(message, [0] * waiting, paid)


def offer_encoded(is_text: bool, data: bytes, waiting: int) -> Callable[[Ground], Any]:
    return lambda ground: ground.lane.offer_encoded(is_text, data, [0] * waiting)


def pass_on(encoded: bytes, size: int, later: bool) -> Callable[[Ground], Any]:
    return lambda ground: ground.lane.pass_on(encoded, size, later)


def enqueue(encoded: bytes, later: bool) -> Callable[[Ground], Any]:
    return lambda ground: ground.lane.enqueue(encoded, later=later)


def control(ground: Ground) -> None:
    ground.lane.control.append(b"\x8a\x00")
    ground.lane.size += 2
    ground.lane.mark()


def give(name: str, value: int) -> Callable[[Ground], None]:
    return lambda ground: setattr(ground.lane, name, value)


def call(name: str) -> Callable[[Ground], Any]:
    return lambda ground: getattr(ground.lane, name)()


MESSAGES = st.one_of(
    st.sampled_from(["", "abc", "é" * 40, "x" * 100, b"", b"\xff" * 60, "\U0001f600", "\ud800"]),
    st.sampled_from(["x" * 16_384, b"x" * 20_000, "é" * 16_384, "é" * 5000, "x" * 20_001]),
    st.sampled_from([None, 3, bytearray(b"x")]),
)
STEPS = st.one_of(
    st.builds(offer, MESSAGES, st.integers(0, 2), st.booleans()),
    st.builds(
        offer_encoded,
        st.booleans(),
        st.one_of(st.binary(max_size=70), st.sampled_from([b"x" * 16_384, b"x" * 20_001])),
        st.integers(0, 2),
    ),
    st.builds(pass_on, st.binary(max_size=70), st.sampled_from([3, PLAIN + 1]), st.booleans()),
    st.builds(enqueue, st.binary(max_size=70), st.booleans()),
    st.builds(give, st.just("detours"), st.integers(0, 1)),
    st.builds(give, st.just("parked"), st.integers(0, 1)),
    st.builds(call, st.sampled_from(["flush", "write_all", "mark", "has_room"])),
    st.just(control),
    st.just(lambda ground: ground.flush_all(ground.marked)),
    st.just(lambda ground: ground.turn.due(10)),
    st.just(lambda ground: ground.turn.taken()),
)


def outcome(step: Callable[[Ground], Any], ground: Ground) -> Any:
    try:
        return step(ground)
    except UnicodeEncodeError as error:
        return str(error)


@given(
    st.lists(STEPS, max_size=30),
    st.lists(st.one_of(st.integers(0, 120), st.just(10**9)), max_size=12),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
def test_both_send_the_same(
    steps: Sequence[Callable[[Ground], Any]],
    takes: list[int | None],
    breaks: bool,
    masks: bool,
    both: bool,
) -> None:
    script = [*takes, None] if breaks else takes
    native = Ground(native_lanes, script, masks=masks, both=both)
    pure = Ground(pure_lanes, script, masks=masks, both=both)
    for step in steps:
        assert outcome(step, native) == outcome(step, pure)
        assert native.state() == pure.state()
        assert native.lane.size >= 0
    # What was queued is there, or was written, in one piece and in its order.
    assert native.lane.dead or native.lane.size == (
        sum(map(len, native.lane.data + native.lane.control)) + len(native.lane.unwritten or b"")
    )


@given(
    st.lists(
        st.one_of(
            st.sampled_from(["put", "take", "due", "full"]), st.sampled_from(["large", "piece"])
        ),
        max_size=200,
    )
)
def test_both_receive_the_same(steps: list[str]) -> None:
    seen = []
    for lanes in (native_lanes, pure_lanes):
        lane = lanes.InLane(lanes.Turn(), None, LIMITS, 0.0)
        log: list[Any] = []
        for step in steps:
            if step == "take":
                log.append(lane.take())
            elif step == "due":
                log.append(lane.turn.due(1))
            elif step == "full":
                lane.is_full = True
            else:
                large = {"large": "x" * 40_000, "piece": Piece("x", last=True)}
                lane.inbox.append(large.get(step, b"small"))
                lane.inbox_size += 100
            empty = not lane.inbox
            log += [lane.is_full and not empty, 0 if empty else lane.inbox_size, *lane.inbox]
            log += [lane.turn.calls, lane.turn.size]
        seen.append(log)
    assert seen[0] == seen[1]


@given(
    st.lists(
        st.one_of(
            st.lists(st.sampled_from([0, 3, 20, 40_000]), min_size=1, max_size=20),
            st.sampled_from(["take", "pop"]),
        ),
        max_size=30,
    ),
    st.sampled_from([16, 20_000, 2**18]),
)
def test_both_take_in_the_same(steps: list[list[int] | str], most_read: int) -> None:
    limits = Limits(inbox_bytes=2000, inbox_messages=5, read=most_read)
    seen = []
    for lanes in (native_lanes, pure_lanes):
        lane = lanes.InLane(lanes.Turn(), Framer(Side.CLIENT, limits), limits, 5.0)
        log: list[Any] = [lane.read_size, lane.pace, lane.undecoded]
        for at, step in enumerate(steps):
            if isinstance(step, list):
                lane.keep(b"".join(frame(BINARY, bytes(size)) for size in step), 6.0 + at**2)
                lane.decode()
                lane.check_marks()
            elif lane.inbox or step == "take":
                log.append(getattr(lane, step)())
            else:
                with pytest.raises(IndexError):
                    lane.pop()
            log += [lane.read_size, lane.pace, lane.last_heard, lane.undecoded, lane.is_full]
            log += [lane.bytes_received, lane.messages_received, lane.inbox_size, *lane.inbox]
        seen.append(log)
    assert seen[0] == seen[1]
