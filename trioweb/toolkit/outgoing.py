"""The sending half of a link: three ways out, one order, and the task that writes what waits."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import trio

from ..config import LinkLimits, Overflow, Policy
from ..connection import WebSocket, check_message, lifecycle_of
from ..errors import ConnectionBroken, ConnectionEnded
from ..lifecycle import Lifecycle
from ..protocol.assembler import size_of
from ..types import Close, CloseCode, Message
from .backlog import Backlog, Gap
from .ends import close_channel

__all__ = ["LinkStatistics", "Outgoing", "SlowConsumer"]

_KEPT = frozenset({Overflow.WAIT, Overflow.CLOSE})
_KEEP = Policy(Overflow.WAIT)


class SlowConsumer(Exception):
    """The receiver was closed by `Overflow.CLOSE`."""


@runtime_checkable
class _SendsNowait(Protocol):
    """A channel with an outgoing queue of its own: a WebSocket, a memory channel."""

    def send_nowait(self, value: Message, /) -> None:
        """Send, or raise `trio.WouldBlock`."""


@dataclass(frozen=True, slots=True)
class LinkStatistics:
    """A snapshot of one link: what waits now, and counts since it was attached."""

    #: Messages in the backlog, and their bytes; the one that is being sent counts.
    backlog_messages: int
    backlog_bytes: int
    #: Messages left out by an overflow policy.
    dropped: int
    #: Messages that a newer one of their key has replaced.
    coalesced: int
    #: Messages that still waited when the link ended.
    discarded: int


class Outgoing:
    """Sends to a channel, by a backlog where it does not take a message at once.

    Any task may send. One task writes what waits; it starts when it is first needed.
    """

    __slots__ = (
        "_backlog",
        "_channel",
        "_discarded",
        "_error",
        "_in_hand",
        "_limits",
        "_nursery",
        "_send_nowait",
        "_started",
        "_turnstile",
        "_waiting",
        "_work",
        "_writing",
        "behind",
        "ended",
        "free",
        "life",
        "policy",
    )

    def __init__(
        self,
        channel: trio.abc.Channel[Message],
        nursery: trio.Nursery,
        limits: LinkLimits,
        policy: Policy,
        gap: Gap | None,
    ) -> None:
        #: Whether what is sent has to go behind what waits here.
        self.behind = True
        #: Whether it is over: the channel's end was met, or the block left.
        self.ended = False
        self._channel = channel
        self._nursery = nursery
        self._limits = limits
        #: For messages that are sent without one of their own.
        self.policy = policy
        self._backlog = Backlog(limits, gap)
        self._send_nowait: Callable[[Message], None] | None = None
        if isinstance(channel, _SendsNowait):
            self._send_nowait = channel.send_nowait
            self.behind = False
        #: The inner life of a WebSocket, for broadcasts.
        self.life = lifecycle_of(channel) if isinstance(channel, WebSocket) else None
        #: The same while nothing waits here, so that a broadcast may go past us; else None.
        self.free: Lifecycle | None = self.life
        #: The size of the message that the writer has taken.
        self._in_hand: int | None = None
        self._started = False
        self._writing = trio.CancelScope()
        self._work = trio.lowlevel.ParkingLot()
        #: Those who wait for room, or for an empty backlog.
        self._waiting = trio.lowlevel.ParkingLot()
        self._turnstile = trio.StrictFIFOLock()
        self._discarded = 0
        #: Why it ended, if that was not the end of the block.
        self._error: Exception | None = None

    def send_nowait(self, value: Message, policy: Policy | None = None) -> bool:
        """Send without waiting; return False if the message was dropped, which is counted.

        ``policy`` says what happens where there is no room; None: what the link has for all. Under
        `Overflow.WAIT` that is `trio.WouldBlock`. Raises what the channel raises at its end,
        `trio.BrokenResourceError` if the receiver is, or was, closed for being slow, and
        `trio.ClosedResourceError` after the link's block.
        """
        if not self.behind:
            assert self._send_nowait is not None
            try:
                self._send_nowait(value)
            except trio.WouldBlock:
                pass
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                self.end(error)
                raise
            else:
                return True
        return self._queue(value, policy or self.policy)

    async def send(self, value: Message, *, policy: Policy | None = None) -> None:
        """Send, waiting for room; `trio.Cancelled` means that the message was not queued.

        Without a policy there is no deadline but that of the caller's cancel scopes. Under
        `Overflow.WAIT` there is, and beyond it `trio.TooSlowError`: not sent. Under any other
        policy this is `send_nowait` with a checkpoint. Raises as that does.
        """
        if policy is None:
            await self._send(value)
        elif policy.overflow is Overflow.WAIT:
            with trio.fail_after(policy.timeout):
                await self._send(value)
        else:
            await trio.lowlevel.checkpoint()
            self.send_nowait(value, policy)

    async def send_made(self, make: Callable[[], Message]) -> None:
        """Send what ``make`` returns, called once there is room, so that nobody waits with it.

        `trio.Cancelled` means that nothing was queued. Raises as `send` does, and what it raises.
        """
        await trio.lowlevel.checkpoint()
        async with self._turnstile:
            while self.behind and not (self.ended or self._backlog.make_room()):
                await self._waiting.park()
            if self.ended:
                raise self.end_error()
            self._put(make(), _KEEP)

    def _queue(self, value: Message, policy: Policy) -> bool:
        if self.ended:
            raise self.end_error()
        if policy.overflow in _KEPT and (self._turnstile.locked() or not self._backlog.make_room()):
            if policy.overflow is Overflow.WAIT:
                raise trio.WouldBlock
            self._refuse()
            raise self.end_error()
        return self._put(value, policy)

    def miss(self, policy: Policy) -> None:
        """Leave a message out that there was no time to wait for, and count it."""
        if not self.ended:
            self._backlog.miss(policy)
            self._wake_writer()

    async def _send(self, value: Message) -> None:
        if not self.behind:
            try:
                await self._channel.send(value)
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                self.end(error)
                raise
            return
        await trio.lowlevel.checkpoint()
        if self._turnstile.locked() or not self._backlog.make_room():
            async with self._turnstile:
                while not (self.ended or self._backlog.make_room()):
                    await self._waiting.park()
        if self.ended:
            raise self.end_error()
        self._put(value, _KEEP)

    def _put(self, value: Message, policy: Policy) -> bool:
        taken = self._backlog.put(check_message(value), policy)
        self._wake_writer()
        return taken

    def _wake_writer(self) -> None:
        self.behind = True
        self.free = None
        if self._started:
            self._work.unpark_all()
        else:
            self._started = True
            self._nursery.start_soon(self._write, name="link writer")

    async def _write(self) -> None:
        with self._writing:
            while True:
                message = self._backlog.take()
                self._waiting.unpark_all()
                if message is None:
                    if self.ended:
                        return
                    self.behind = self._send_nowait is None
                    self.free = self.life
                    await self._work.park()
                    continue
                self._in_hand = size_of(message)
                try:
                    await self._channel.send(message)
                except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                    self.end(error)
                    return
                self._in_hand = None
                self._waiting.unpark_all()

    async def flush(self) -> None:
        """Wait until nothing waits in the backlog, or the link is over."""
        await trio.lowlevel.checkpoint()
        while not self.ended and (self._backlog or self._in_hand is not None):
            await self._waiting.park()

    def end(self, error: Exception | None) -> None:
        """Send no more: because of the channel's error, or since the link's time is over."""
        if self.ended:
            return
        self.ended = self.behind = True
        self.free = None
        self._error = error
        self._discarded = self._backlog.clear() + (self._in_hand is not None)
        self._in_hand = None
        self._writing.cancel()
        self._waiting.unpark_all()

    def look(self) -> None:
        """Notice it if a WebSocket is over."""
        if self.life is not None and self.life.closed is not None:
            self.end(self.life.send_error())

    def _refuse(self) -> None:
        if self.life is not None:
            self.life.refuse(Close(CloseCode.TRY_AGAIN_LATER, "slow consumer"))
        else:
            self._nursery.start_soon(self._close_slow, name="link closer")
        self.end(SlowConsumer("slow consumer"))

    async def _close_slow(self) -> None:
        with trio.move_on_after(self._limits.close), suppress(trio.BrokenResourceError):
            await close_channel(self._channel, CloseCode.TRY_AGAIN_LATER, "slow consumer")

    def end_error(self) -> Exception:
        """Return what is raised now that it is over."""
        if self.life is not None and self.life.closed is not None:
            return self.life.send_error()
        if self._error is None:
            return trio.ClosedResourceError("the link has ended")
        if isinstance(self._error, ConnectionEnded):
            return ConnectionBroken(self._error.close)
        error = trio.BrokenResourceError(str(self._error))
        error.__cause__ = self._error
        return error

    def statistics(self) -> LinkStatistics:
        """Return the counts as they are now."""
        backlog = self._backlog
        return LinkStatistics(
            backlog_messages=backlog.messages + (self._in_hand is not None),
            backlog_bytes=backlog.bytes + (self._in_hand or 0),
            dropped=backlog.dropped,
            coalesced=backlog.coalesced,
            discarded=self._discarded,
        )

    @property
    def dropped(self) -> int:
        """Messages left out by an overflow policy."""
        return self._backlog.dropped
