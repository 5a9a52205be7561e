"""`attach`: any channel of messages gets a bounded outgoing queue with overflow policies."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import trio

from ..config import LinkLimits, Overflow, Policy
from ..connection import WebSocket, check_message, lifecycle_of
from ..lifecycle import Lifecycle
from ..nursery import OwnNursery
from ..protocol.assembler import size_of
from ..types import Close, CloseCode, Message
from .backlog import Backlog, Gap
from .ends import CodedChannel, close_channel

__all__ = ["Link", "LinkStatistics", "attach"]

_KEPT = frozenset({Overflow.WAIT, Overflow.CLOSE})
_KEEP = Policy(Overflow.WAIT)


class _SlowConsumer(Exception):
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


class Link(CodedChannel):
    """A channel of messages with a bounded outgoing queue; itself a channel. Made by `attach`.

    Any number of tasks may send; for receiving the channel's own rules hold. What is sent goes
    straight to the channel where that has room and nothing waits, else into the backlog, in order.
    No user's cancel scope ever cancels a write.

    It ends as its channel does, with the channel's exceptions. After an end by `Overflow.CLOSE` all
    raise `trio.BrokenResourceError`.
    """

    __slots__ = (
        "__weakref__",
        "_backlog",
        "_channel",
        "_discarded",
        "_error",
        "_in_hand",
        "_limits",
        "_nursery",
        "_policy",
        "_send_nowait",
        "_started",
        "_turnstile",
        "_waiting",
        "_watchers",
        "_work",
        "_writing",
        "behind",
        "ended",
        "life",
        "principal",
    )

    def __init__(
        self,
        channel: trio.abc.Channel[Message],
        nursery: trio.Nursery,
        limits: LinkLimits,
        policy: Policy,
        gap: Gap | None,
        principal: Any,
    ) -> None:
        #: Who is at the other end, as far as somebody has said so.
        self.principal: Any = principal
        #: Whether what is sent has to go behind what waits here.
        self.behind = True
        #: Whether it is over: the channel's end was met, or the block left.
        self.ended = False
        #: The inner life of a WebSocket, for broadcasts.
        self.life: Lifecycle | None = None
        self._channel = channel
        self._nursery = nursery
        self._limits = limits
        self._policy = policy
        self._backlog = Backlog(limits, gap)
        self._send_nowait: Callable[[Message], None] | None = None
        if isinstance(channel, _SendsNowait):
            self._send_nowait = channel.send_nowait
            self.behind = False
        if isinstance(channel, WebSocket):
            self.life = lifecycle_of(channel)
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
        self._watchers: dict[Callable[[Link], None], None] = {}

    # --- sending -----------------------------------------------------------------------------

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
        return self.queue(value, policy or self._policy)

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

    async def wait_written(self) -> None:
        """Wait until the channel has taken all that was sent, so that nothing waits here.

        On a `WebSocket` until the transport has. Raises as `send` does.
        """
        await self.flush()
        if self.ended:
            raise self._end_error()
        if isinstance(self._channel, WebSocket):
            await self._channel.wait_written()

    def queue(self, value: Message, policy: Policy) -> bool:
        """Put a message into the backlog, past a channel that is known to be full."""
        if self.ended:
            raise self._end_error()
        if policy.overflow in _KEPT and (self._turnstile.locked() or not self._backlog.make_room()):
            if policy.overflow is Overflow.WAIT:
                raise trio.WouldBlock
            self._refuse()
            raise self._end_error()
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
            raise self._end_error()
        self._put(value, _KEEP)

    def _put(self, value: Message, policy: Policy) -> bool:
        taken = self._backlog.put(check_message(value), policy)
        self._wake_writer()
        return taken

    def _wake_writer(self) -> None:
        self.behind = True
        if self._started:
            self._work.unpark_all()
        else:
            self._started = True
            self._nursery.start_soon(self._write, name="link writer")

    async def _write(self) -> None:
        with self._writing:
            while True:
                message = self._backlog.take()
                if message is None:
                    self.behind = self._send_nowait is None
                    self._waiting.unpark_all()
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

    # --- receiving ---------------------------------------------------------------------------

    async def receive(self) -> Message:
        """Return the channel's next message; raises what the channel raises."""
        try:
            return await self._channel.receive()
        except trio.ClosedResourceError:
            self._look_refused()
            raise

    async def __anext__(self) -> Message:
        # Not by `receive`: a WebSocket has a way of its own that is quicker.
        try:
            return await self._channel.__anext__()
        except trio.ClosedResourceError:
            self._look_refused()
            raise

    def _look_refused(self) -> None:
        if isinstance(self._error, _SlowConsumer):
            raise self._end_error() from None

    # --- ends --------------------------------------------------------------------------------

    async def aclose(self, code: int = CloseCode.NORMAL, reason: str = "") -> None:
        """Close the channel, within `LinkLimits.close` after what waits has left, or not.

        Where the channel can tell them, the peer hears ``code`` and ``reason``.
        """
        try:
            with trio.move_on_after(self._limits.close):
                await self.flush()
        finally:
            self.end(None)
            await close_channel(self._channel, code, reason)

    def watch(self, ended: Callable[[Link], None]) -> None:
        """Call a function once when the link ends: its own end, or the channel's that it met."""
        self._watchers[ended] = None

    def forget(self, ended: Callable[[Link], None]) -> None:
        """Do not call it."""
        self._watchers.pop(ended, None)

    def end(self, error: Exception | None) -> None:
        """Send no more: because of the channel's error, or since the link's time is over."""
        if self.ended:
            return
        self.ended = self.behind = True
        self._error = error
        self._discarded = self._backlog.clear() + (self._in_hand is not None)
        self._in_hand = None
        self._writing.cancel()
        self._waiting.unpark_all()
        watchers, self._watchers = self._watchers, {}
        for ended in watchers:
            ended(self)

    def _refuse(self) -> None:
        if self.life is not None:
            self.life.refuse(Close(CloseCode.TRY_AGAIN_LATER, "slow consumer"))
        else:
            self._nursery.start_soon(self._close_slow, name="link closer")
        self.end(_SlowConsumer("slow consumer"))

    async def _close_slow(self) -> None:
        with trio.move_on_after(self._limits.close), suppress(trio.BrokenResourceError):
            await close_channel(self._channel, CloseCode.TRY_AGAIN_LATER, "slow consumer")

    def _end_error(self) -> Exception:
        if self.life is not None and self.life.closed is not None:
            return self.life.send_error()
        if self._error is None:
            return trio.ClosedResourceError("the link has ended")
        error = trio.BrokenResourceError(str(self._error))
        error.__cause__ = self._error
        return error

    # --- looking -----------------------------------------------------------------------------

    @property
    def channel(self) -> trio.abc.Channel[Message]:
        """What it is attached to."""
        return self._channel

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

    def __repr__(self) -> str:
        return f"<Link {self.principal!r:.40} of {self._channel!r:.100}>"


@asynccontextmanager
async def attach(
    channel: trio.abc.Channel[Message],
    *,
    limits: LinkLimits = LinkLimits(),
    policy: Policy = Policy(),
    gap: Gap | None = None,
    principal: Any = None,
) -> AsyncGenerator[Link]:
    """Give a channel a bounded outgoing queue for the length of a block, which gets the link.

    The channel stays the caller's: the block does not close it. At the block's normal end what
    waits may leave within `LinkLimits.close`; at an exception or a cancellation it is discarded.
    The block's exception comes out as it is.

    ``policy`` is for messages that are sent without one of their own. ``gap``, called with a count,
    makes the message that tells the receiver how many messages are missing in its place.
    ``principal`` is whatever the application knows of the other end; None: a WebSocket's own.
    """
    if principal is None and isinstance(channel, WebSocket):
        principal = channel.principal
    async with OwnNursery() as nursery:
        link = Link(channel, nursery, limits, policy, gap, principal)
        try:
            yield link
            with trio.move_on_after(limits.close):
                await link.flush()
        finally:
            link.end(None)
