"""The contract of a `trioweb.transport.Transport`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import trio
from trio.testing import wait_all_tasks_blocked

from ...transport import NonblockingTransport, Transport
from .calls import Call, cancelled, check_closed, clogged, exchange, send_and_close, waiting
from .ends import Flow, NonblockingEnd, Promise, TransportEnd, Vigil
from .nonblocking import NONBLOCKING
from .promises import keeps, require

__all__ = ["MakePair", "check_transport"]

#: Gives the two ends of a new connection.
MakePair = Callable[[], Awaitable[tuple[Transport, Transport]]]


async def check_transport(
    make_pair: MakePair, *, bounded: bool = True, patience: float = 10
) -> None:
    """Check the promises of a transport, with each end of a connection in turn.

    ``make_pair`` is an async function that returns the two ends of a new connection; the check
    calls it for each promise, and closes what it gets. ``bounded=False`` leaves out what needs a
    write to wait, for a stream that takes any amount (`trio.testing.memory_stream_pair`). A
    promise that takes more than ``patience`` seconds of Trio's clock is broken.

    Of every transport:

    - bytes arrive whole and in order, both ways at once, however they are cut;
    - ``read`` gives at most ``max_bytes``, and at the end ``b""``, again and again; ``write``
      takes at least one byte;
    - every call runs a checkpoint, delivers a pending cancellation, and can be cancelled while it
      waits;
    - a peer that does not read makes ``write`` wait;
    - ``send_eof`` leaves the other direction as it is, and this one too unless it `half_closes`;
    - after ``aclose``, also a second or a cancelled one, and for who waits meanwhile: ``read`` and
      ``write`` raise `trio.ClosedResourceError`;
    - the peer's ``aclose`` ends ``read`` by ``b""`` or `trio.BrokenResourceError`, and ``write`` by
      `trio.BrokenResourceError`, also for who waits meanwhile.

    Of a `NonblockingTransport` also:

    - ``read_nowait`` gives None and ``write_nowait`` 0 where one must wait; ``wait_readable`` and
      ``wait_writable`` wait just then, and return when there is something or room;
    - ``interrupt`` wakes both, also at the very moment at which they begin;
    - a cancelled ``read`` loses nothing, and a cancelled ``write`` has taken nothing, though up to
      ``holds`` bytes may have left;
    - ``close`` closes at once.

    Not checked: addresses, speed, two readers or writers at a time (trioweb has one of each), and
    what a broken link below does. Raises `AssertionError`. A call that shields itself for ever
    hangs the check.
    """
    for flipped in (False, True):
        for promise in _PROMISES:
            if bounded or not promise.fills:
                async with _ends(make_pair, promise.words, patience, flipped=flipped) as ends:
                    await promise.check(*ends)
        for more in NONBLOCKING:
            async with _ends(make_pair, more.words, patience, flipped=flipped) as (near, far):
                if not isinstance(near, NonblockingEnd):
                    break
                if bounded or not more.fills:
                    await more.check(near, far)


@asynccontextmanager
async def _ends(
    make_pair: MakePair, promise: str, patience: float, *, flipped: bool
) -> AsyncGenerator[tuple[TransportEnd, TransportEnd]]:
    pair = await make_pair()
    vigil = Vigil(patience)
    there, back = Flow(), Flow()
    with keeps(promise, vigil.scope, vigil.report), vigil:
        async with AsyncExitStack() as stack:
            for transport in pair:
                stack.push_async_callback(trio.aclose_forcefully, transport)
            one = _end("first", pair[0], there, back, vigil)
            other = _end("second", pair[1], back, there, vigil)
            yield (other, one) if flipped else (one, other)


def _end(
    name: str, transport: Transport, outgoing: Flow, incoming: Flow, vigil: Vigil
) -> TransportEnd:
    if isinstance(transport, NonblockingTransport):
        return NonblockingEnd(name, transport, outgoing, incoming, vigil)
    return TransportEnd(name, transport, outgoing, incoming, vigil)


async def _carries(near: TransportEnd, far: TransportEnd) -> None:
    async with trio.open_nursery() as nursery:
        for one, other in (near, far), (far, near):
            nursery.start_soon(one.send_stream)
            nursery.start_soon(other.receive_stream)


async def _ends_once(near: TransportEnd, far: TransportEnd) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(send_and_close, near)
        await wait_all_tasks_blocked()  # what was not read yet counts too
        await far.receive_rest()


async def _cancels(near: TransportEnd, far: TransportEnd) -> None:
    """Cancel calls that need not wait: bytes and room are there."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(far.send, 10)
        await wait_all_tasks_blocked()
        calls: dict[str, Callable[[], Awaitable[object]]] = {"read": near.read, "write": near.write}
        if isinstance(near, NonblockingEnd):
            calls |= {"wait_readable": near.wait_readable, "wait_writable": near.wait_writable}
        for name, call in calls.items():
            with trio.CancelScope() as scope:
                scope.cancel()
                await call()
            require(scope.cancelled_caught, f"{near.name}.{name} did not deliver it")
        nursery.cancel_scope.cancel()


async def _read_waits(near: TransportEnd, far: TransportEnd) -> None:
    async with trio.open_nursery() as nursery:
        call = await waiting(nursery, near.read, f"{near.name}.read")
        await cancelled(call, near, far)


async def _write_waits(near: TransportEnd, far: TransportEnd) -> None:
    async with trio.open_nursery() as nursery:
        await cancelled(await clogged(nursery, near), near, far)


async def _sends_eof(near: TransportEnd, far: TransportEnd) -> None:
    half_closes = near.transport.half_closes
    async with trio.open_nursery() as nursery:
        nursery.start_soon(near.send, 100)
        await far.receive(100)
    await near.send_eof()
    if half_closes:
        await far.receive_rest()
    await exchange(far, near)
    if not half_closes:
        await exchange(near, far)
    await near.send_eof()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(send_and_close, far)
        await near.receive_rest()


async def _closes(near: TransportEnd, far: TransportEnd) -> None:
    for _ in range(2):
        await near.aclose()
        await check_closed(near)
    await far.expect_peer_closed()


async def _closes_when_cancelled(near: TransportEnd, far: TransportEnd) -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        await near.aclose()
    await check_closed(near)
    await far.expect_peer_closed()


async def _closes_under_a_read(near: TransportEnd, _far: TransportEnd) -> None:
    async with trio.open_nursery() as nursery:
        call = await waiting(nursery, near.read, f"{near.name}.read")
        await near.aclose()
        await call.expect(trio.ClosedResourceError)


async def _closes_under_a_write(near: TransportEnd, _far: TransportEnd) -> None:
    async with trio.open_nursery() as nursery:
        call = await clogged(nursery, near)
        await trio.aclose_forcefully(near.transport)  # a graceful one may wait for the write
        await call.expect(trio.ClosedResourceError)


async def _peer_closes(near: TransportEnd, far: TransportEnd) -> None:
    await far.aclose()
    await near.expect_peer_closed()
    for _ in range(2):
        call = Call(near.flood, f"{near.name}.write after the peer's aclose")
        await call.run()
        await call.expect(trio.BrokenResourceError)


async def _peer_closes_under_a_read(near: TransportEnd, far: TransportEnd) -> None:
    async with trio.open_nursery() as nursery:
        call = await waiting(nursery, near.expect_peer_closed, f"{near.name}.read")
        await far.aclose()
        await call.done.wait()


async def _peer_closes_under_a_write(near: TransportEnd, far: TransportEnd) -> None:
    async with trio.open_nursery() as nursery:
        call = await clogged(nursery, near)
        await trio.aclose_forcefully(far.transport)
        await call.expect(trio.BrokenResourceError)


_PROMISES = [
    Promise("a read waits for bytes and can be cancelled", _read_waits),
    Promise("a write waits for room and can be cancelled", _write_waits, fills=True),
    Promise("calls deliver a pending cancellation", _cancels),
    Promise("bytes arrive whole and in order, both ways at once", _carries),
    Promise("the peer's aclose wakes a read", _peer_closes_under_a_read),
    Promise("what is written before aclose arrives, and then the end", _ends_once),
    Promise("send_eof ends one direction at most", _sends_eof),
    Promise("aclose closes, twice too", _closes),
    Promise("a cancelled aclose closes", _closes_when_cancelled),
    Promise("aclose wakes a read", _closes_under_a_read),
    Promise("a forceful aclose wakes a write", _closes_under_a_write, fills=True),
    Promise("the peer's aclose is noticed", _peer_closes),
    Promise("the peer's aclose wakes a write", _peer_closes_under_a_write, fills=True),
]
