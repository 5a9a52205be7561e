"""The next turn of the scheduler, and what is done there."""

from __future__ import annotations

import trio
from trio.testing import wait_all_tasks_blocked

from trioweb.turns import at_next_turn


async def test_calls_come_in_their_order_after_whoever_can_run_now() -> None:
    seen: list[str] = []
    at_next_turn(lambda: seen.append("first"))
    at_next_turn(lambda: seen.append("second"))
    assert seen == []
    await wait_all_tasks_blocked()
    assert seen == ["first", "second"]


async def test_a_call_may_ask_for_another_turn() -> None:
    seen: list[int] = []

    def again() -> None:
        seen.append(len(seen))
        if len(seen) < 3:
            at_next_turn(again)

    at_next_turn(again)
    await wait_all_tasks_blocked()
    assert seen == [0, 1, 2]


def test_each_run_has_its_own_turns() -> None:
    async def main() -> None:
        seen: list[str] = []
        at_next_turn(lambda: seen.append("now"))
        await wait_all_tasks_blocked()
        assert seen == ["now"]

    for _ in range(2):
        trio.run(main)
