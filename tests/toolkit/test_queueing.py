"""The queue that outlives connections: in order, bounded, nothing lost that nobody has taken."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trioweb import Message, Overflow, Policy, SessionLimits
from trioweb.toolkit.queueing import Outgoing

WAIT = Policy(Overflow.WAIT)


class Gone(Exception):
    """The end of a session."""


async def test_what_a_connection_did_not_take_is_the_first_for_the_next() -> None:
    queue, sent = Outgoing(SessionLimits()), list[Message]()
    for number in range(5):
        await queue.put(str(number), WAIT)

    async def send(message: Message) -> None:
        await trio.lowlevel.checkpoint()
        if message == "2" and len(sent) == 2:
            sent.append("broken")
            raise trio.BrokenResourceError
        if message == "3" and sent[-1] == "2":
            sent.append("stalled")
            await trio.sleep_forever()
        sent.append(message)

    with pytest.raises(trio.BrokenResourceError):
        await queue.run(send)
    assert len(queue) == 3
    async with trio.open_nursery() as nursery:
        nursery.start_soon(queue.run, send)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert queue.size == 2
    async with trio.open_nursery() as nursery:
        nursery.start_soon(queue.run, send)
        await queue.flush()
        nursery.cancel_scope.cancel()
    assert sent == ["0", "1", "broken", "2", "stalled", "3", "4"]


async def test_bytes_are_bounded_too(autojump_clock: MockClock) -> None:
    queue = Outgoing(SessionLimits(queue_bytes=10))
    await queue.put("x" * 100, WAIT)
    with pytest.raises(trio.WouldBlock):
        queue.put_nowait("y", WAIT)
    with pytest.raises(trio.TooSlowError):
        await queue.put("y", Policy(Overflow.WAIT, timeout=3))
    assert trio.current_time() == 3
    assert (len(queue), queue.size, queue.dropped) == (1, 100, 0)


async def test_those_who_wait_are_served_in_order_and_a_cancelled_one_queues_nothing() -> None:
    queue, sent = Outgoing(SessionLimits(queue_messages=1)), list[Message]()
    scopes = {name: trio.CancelScope() for name in "abc"}

    async def put(name: str) -> None:
        with scopes[name]:
            await queue.put(name, WAIT)

    async def send(message: Message) -> None:
        sent.append(message)
        await trio.lowlevel.checkpoint()

    await queue.put("first", WAIT)
    async with trio.open_nursery() as nursery:
        for name in scopes:
            nursery.start_soon(put, name)
            await wait_all_tasks_blocked()
        scopes["b"].cancel()
        await wait_all_tasks_blocked()
        nursery.start_soon(queue.run, send)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert sent == ["first", "a", "c"]


async def test_the_end_discards_and_wakes() -> None:
    queue = Outgoing(SessionLimits(queue_messages=1))
    await queue.put("one", WAIT)
    async with trio.open_nursery() as nursery:

        async def wait() -> None:
            with pytest.raises(Gone):
                await queue.put("two", WAIT)

        nursery.start_soon(wait)
        nursery.start_soon(queue.flush)
        await wait_all_tasks_blocked()
        queue.end(Gone)
    assert queue.discarded == 1
    assert len(queue) == 0
    for policy in (WAIT, Policy(Overflow.DROP_OLDEST)):
        with pytest.raises(Gone):
            queue.put_nowait("three", policy)
