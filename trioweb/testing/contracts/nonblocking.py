"""What `check_transport` asks of a `NonblockingTransport`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from .calls import Call, check_closed, exchange, full, send_and_close, waiting
from .ends import NonblockingEnd, Promise, TransportEnd
from .promises import require

__all__ = ["NONBLOCKING"]

#: How often what depends on the order of tasks is tried.
_ROUNDS = 24


async def _tries(near: NonblockingEnd, far: TransportEnd) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(near.try_to_send_stream)
        nursery.start_soon(far.receive_stream)
        nursery.start_soon(far.send_stream)
        nursery.start_soon(near.try_to_receive_stream)


async def _waits_for_bytes(near: NonblockingEnd, far: TransportEnd) -> None:
    require(near.read_nowait() is None, f"{near.name}.read_nowait gave something: nothing was sent")
    async with trio.open_nursery() as nursery:
        call = await waiting(nursery, near.wait_readable, f"{near.name}.wait_readable")
        nursery.start_soon(far.send, 100)
        await call.done.wait()
        await near.receive(100)
    async with trio.open_nursery() as nursery:
        call = await waiting(nursery, near.wait_readable, f"{near.name}.wait_readable")
        nursery.start_soon(far.aclose)
        await call.done.wait()
    while near.read_nowait() is None:
        await near.wait_readable()


async def _waits_for_room(near: NonblockingEnd, far: TransportEnd) -> None:
    async with trio.open_nursery() as nursery:
        call = await full(nursery, near)
        nursery.start_soon(far.receive_rest)
        await call.done.wait()
        while not near.write_nowait():
            await near.wait_writable()
        await send_and_close(near)


async def _interrupts_reading(near: NonblockingEnd, far: TransportEnd) -> None:
    async with trio.open_nursery() as nursery:
        call = await waiting(nursery, near.wait_readable, f"{near.name}.wait_readable")
        near.interrupt()
        await call.done.wait()
        await _interrupt_at_once(nursery, near, near.wait_readable)
    await exchange(far, near)


async def _interrupts_writing(near: NonblockingEnd, far: TransportEnd) -> None:
    async with trio.open_nursery() as nursery:
        call = await full(nursery, near)
        near.interrupt()
        await call.done.wait()
        await _interrupt_at_once(nursery, near, near.wait_writable)
        nursery.start_soon(send_and_close, near)
        await far.receive_rest()


async def _interrupt_at_once(
    nursery: trio.Nursery, near: NonblockingEnd, wait: Callable[[], Awaitable[object]]
) -> None:
    for _ in range(_ROUNDS):
        call = Call(wait, "a wait")
        nursery.start_soon(call.run)
        while not call.begun:
            await trio.lowlevel.checkpoint()
        near.interrupt()
        await call.done.wait()


async def _cancelled_reads(near: NonblockingEnd, far: TransportEnd) -> None:
    """Cancel before the bytes are there, with them, and after them."""
    for count in range(_ROUNDS):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(far.send, 10)
            await _pass_turns(count % 4)
            call = Call(near.read, "a read")
            nursery.start_soon(call.run)
            await _pass_turns(count // 4 % 4)
            call.scope.cancel()
            await call.done.wait()
            await near.receive(10 * (count + 1) - near.incoming.received)


async def _cancelled_writes(near: NonblockingEnd, far: TransportEnd) -> None:
    for count in range(_ROUNDS):
        async with trio.open_nursery() as nursery:
            call = Call(near.write, "a write")
            nursery.start_soon(call.run)
            await _pass_turns(count % 4)
            call.scope.cancel()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(send_and_close, near)
        await far.receive_rest()


async def _closes_now(near: NonblockingEnd, far: TransportEnd) -> None:
    async with trio.open_nursery() as nursery:
        call = await waiting(nursery, near.wait_readable, f"{near.name}.wait_readable")
        for _ in range(2):
            near.close()
            await call.done.wait()
    await check_closed(near)
    near.interrupt()
    await far.expect_peer_closed()


async def _pass_turns(count: int) -> None:
    for _ in range(count):
        await trio.lowlevel.checkpoint()


NONBLOCKING = [
    Promise("reading can be tried", _waits_for_bytes),
    Promise("writing can be tried", _waits_for_room, fills=True),
    Promise("bytes arrive whole and in order when tried", _tries),
    Promise("interrupt wakes wait_readable", _interrupts_reading),
    Promise("interrupt wakes wait_writable", _interrupts_writing, fills=True),
    Promise("a cancelled read loses nothing", _cancelled_reads),
    Promise("a cancelled write takes nothing", _cancelled_writes),
    Promise("close closes at once", _closes_now),
]
