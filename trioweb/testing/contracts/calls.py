"""Calls under `check_transport` that go on while something else happens, and what they share."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio
from trio.testing import wait_all_tasks_blocked

from .ends import FLOOD, PIECE, NonblockingEnd, TransportEnd
from .promises import require

__all__ = [
    "Call",
    "cancelled",
    "check_closed",
    "clogged",
    "exchange",
    "full",
    "send_and_close",
    "waiting",
]

#: How often a transport may say wrongly that there is room.
_TRIES = 24


class Call:
    """A call, for a task of its own: when it began, and what came of it."""

    def __init__(self, function: Callable[[], Awaitable[object]], what: str) -> None:
        self.what = what
        self.scope = trio.CancelScope()
        self.begun = False
        self.done = trio.Event()
        self._function = function
        self._error: Exception | None = None

    async def run(self) -> None:
        """Make the call, and keep what it raises of a transport's own errors."""
        try:
            with self.scope:
                self.begun = True
                await self._function()
        except (trio.ClosedResourceError, trio.BrokenResourceError) as error:
            self._error = error
        self.done.set()

    async def expect(self, kind: type[Exception]) -> None:
        """Wait for its end, which must be this exception."""
        await self.done.wait()
        require(
            isinstance(self._error, kind),
            f"{self.what} must raise {kind.__name__}, but {self.outcome}",
        )

    @property
    def outcome(self) -> str:
        """How it ended."""
        if not self.done.is_set():
            return "it goes on"
        return "it returned" if self._error is None else f"it raised {self._error!r}"


async def exchange(sender: TransportEnd, receiver: TransportEnd) -> None:
    """Let some bytes cross."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sender.send, 100)
        await receiver.receive(100)


async def send_and_close(end: TransportEnd) -> None:
    """Write some bytes, and close."""
    await end.send(300)
    await end.aclose()


async def check_closed(end: TransportEnd) -> None:
    """Check that whatever is tried says that we closed."""
    calls: dict[str, Callable[[], Awaitable[object]]] = {"read": end.read, "write": end.write}
    for name, function in calls.items():
        call = Call(function, f"{end.name}.{name} after aclose")
        await call.run()
        await call.expect(trio.ClosedResourceError)
    if isinstance(end, NonblockingEnd):
        for name, attempt in {"read": end.read_nowait, "write": end.write_nowait}.items():
            try:
                attempt()
            except trio.ClosedResourceError:
                continue
            require(False, f"{end.name}.{name}_nowait did not raise ClosedResourceError")
        for wait in (end.wait_readable, end.wait_writable):
            await Call(wait, "a wait").run()  # it may tell already, but must not hang


async def waiting(nursery: trio.Nursery, call: Callable[[], Awaitable[object]], what: str) -> Call:
    """Begin a call that must wait."""
    begun = Call(call, what)
    nursery.start_soon(begun.run)
    await wait_all_tasks_blocked()
    require(
        not begun.done.is_set(), f"{what} did not wait, though nothing had come: {begun.outcome}"
    )
    return begun


async def clogged(nursery: trio.Nursery, near: TransportEnd) -> Call:
    """Write until a write waits, for nobody reads."""
    call = Call(near.flood, f"{near.name}.write")
    nursery.start_soon(call.run)
    taken = -1
    while near.outgoing.sent > taken:
        taken = near.outgoing.sent
        await wait_all_tasks_blocked()
    require(not call.done.is_set(), f"{call.what} does not wait when full: {call.outcome}")
    return call


async def full(nursery: trio.Nursery, near: NonblockingEnd) -> Call:
    """Write without waiting until it waits for room, for nobody reads."""
    for _ in range(_TRIES):
        while near.outgoing.sent < FLOOD and near.write_nowait(PIECE):
            pass
        require(near.outgoing.sent < FLOOD, f"{near.name} took {FLOOD:,} bytes that nobody read")
        call = Call(near.wait_writable, f"{near.name}.wait_writable")
        nursery.start_soon(call.run)
        await wait_all_tasks_blocked()
        if not call.done.is_set():
            return call
        # A network may make some room behind our back, but not for ever.
    raise AssertionError(f"{near.name}.wait_writable does not wait where write_nowait gives 0")


async def cancelled(call: Call, near: TransportEnd, far: TransportEnd) -> None:
    """Cancel a call that waits, and see it end; if it does not, it ends by closing."""
    call.scope.cancel()
    await wait_all_tasks_blocked()
    caught = call.scope.cancelled_caught
    if not caught:  # let it come to its end some other way
        for end in (near, far):
            await trio.aclose_forcefully(end.transport)
    require(caught, f"{call.what} cannot be cancelled while it waits")
