"""How one connection lives and ends: its nursery, its background tasks, its way down.

An end has one cause, the first. It is made known at once (`Lifecycle.finish` is synchronous: the
state changes, everyone who waits is woken), and then carried out by one task, within
`Timeouts.close`: write what is queued and the close frame, wait for the peer's, close.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import cast

import trio

from .abc import Connection, Observer
from .attendant import Attendant, Watch
from .config import Heartbeat, Limits, Timeouts
from .errors import ConnectionBroken, ConnectionClosedByUs, ConnectionEnded, EndOfChannel
from .heartbeat import beat
from .host import current_host
from .nursery import OwnNursery
from .outbox import Outbox
from .parking import Gate
from .pings import Pings, SentPing
from .protocol.machine import Compression, Failed, Machine, PeerClosed, Ping
from .reading import Reading
from .transport import NonblockingTransport, Transport
from .types import Close, CloseCode, Side

__all__ = ["Lifecycle"]

logger = logging.getLogger("trioweb.connection")

#: Seconds in which a stream that is cut may take the close frame; it does if it is idle.
_LAST_WORDS = 0.05

#: Seconds without a byte after which a peer that failed has sent what it had; where it cannot
#: be told that nothing more comes, it would else wait for our end as we for its.
_QUIET = 1

_CLEAN = frozenset({CloseCode.NORMAL, CloseCode.GOING_AWAY, CloseCode.NO_STATUS})


class Lifecycle:
    """One connection's parts and nursery; an async context manager around its use.

    Leaving the block normally closes with 1000. Leaving it by an exception sends 1001 without
    waiting and cuts the connection, unless the exception is nothing but this connection's end.
    The block's exception comes out as it is, never in a group.
    """

    __slots__ = (
        "_by_us",
        "_heartbeat",
        "_heartbeat_payload",
        "_heartbeat_scope",
        "_nursery",
        "_observers",
        "_own",
        "_own_attendant",
        "_receive_error",
        "_timeouts",
        "_token_bytes",
        "_watch",
        "_way_down",
        "attendant",
        "closed",
        "connection",
        "down",
        "dropped",
        "id",
        "limits",
        "machine",
        "outbox",
        "pings",
        "reading",
        "side",
        "transport",
    )

    def __init__(
        self,
        transport: Transport,
        side: Side,
        *,
        trailing_data: bytes = b"",
        compression: Compression | None = None,
        attendant: Attendant | None = None,
        limits: Limits,
        timeouts: Timeouts,
        heartbeat: Heartbeat | None,
        observers: Sequence[Observer] = (),
    ) -> None:
        self._token_bytes = current_host.get().token_bytes
        #: A short random name for logs.
        self.id = self._token_bytes(4).hex()
        #: How it ended, once that is decided; an object of its own, by which its errors are known.
        self.closed: Close | None = None
        #: Open when the transport is closed.
        self.down = Gate()
        self.pings = Pings()
        self.dropped = 0
        self.transport = transport
        self.machine = Machine(side, limits, self._token_bytes, compression)
        self.machine.upgraded(trailing_data)
        self.attendant = attendant or Attendant()
        self._own_attendant = attendant is None
        self.outbox = Outbox(transport, self.machine, self.attendant, limits, timeouts, self)
        self.reading = Reading(
            transport, self.machine, self.outbox, limits, timeouts, self.attendant, self
        )
        #: What observers and logs get to see; set by whoever makes the public object.
        self.connection: Connection | None = None
        self.side = side
        self.limits = limits
        self._timeouts = timeouts
        self._heartbeat = heartbeat
        self._heartbeat_scope: trio.CancelScope | None = None
        self._heartbeat_payload = b""
        #: When the attendant asks whether the peer is silent; None while the heartbeat does.
        self._watch: Watch | None = None
        self._observers = observers
        self._receive_error: type[ConnectionEnded] = ConnectionBroken
        self._by_us = False
        self._way_down: trio.CancelScope | None = None
        self._own = OwnNursery()
        self._nursery: trio.Nursery | None = None

    async def __aenter__(self) -> None:
        self._nursery = await self._own.__aenter__()
        if self._own_attendant:
            self._nursery.start_soon(self.attendant.run, name=f"websocket {self.id} attendant")
        self._watch_silence()
        self.reading.begin()
        self._tell("opened")

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                await self.end(Close(CloseCode.NORMAL))
            elif self.is_own_end(error):
                with suppress(trio.Cancelled):  # the error is on its way, and goes before
                    await self.end(Close(CloseCode.NORMAL))
            else:
                self.cut(Close(CloseCode.GOING_AWAY))
        finally:
            self.reading.discard()
            self.connection = None  # what it holds goes with it, not with the next collection
            await self._own.__aexit__(None, None, None)
            self.outbox.disown()
            self.reading.disown()

    def start(self, task: str, run: Callable[[], Awaitable[None]] | None = None) -> None:
        """Start a background task, named for the connection: one of its own, or ``run``."""
        assert self._nursery is not None
        own = {
            "reader": self.reading.run,
            "writer": self.outbox.run,
            "heartbeat": self._beat,
            "closer": self._go_down,
        }
        name = f"websocket {self.id} {task}"
        self._nursery.start_soon(self._run, task, run or own[task], name=name)

    async def _run(self, task: str, run: Callable[[], Awaitable[None]]) -> None:
        try:
            await run()
        except Exception:
            if self.side is Side.CLIENT:
                raise  # bare, out of the block that connected
            logger.exception("%s: its %s failed", self.id, task)  # nobody else may suffer
            self.cut(Close(CloseCode.INTERNAL_ERROR, "internal error"))
            self.down.open()

    def _watch_silence(self) -> None:
        if self._heartbeat is not None and self.closed is None:
            due = self.reading.last_heard + self._heartbeat.interval
            self._watch = self.attendant.watch(self, due)

    def next_due(self) -> float | None:
        """Return when the peer will have been silent too long; if it is, start the heartbeat."""
        assert self._heartbeat is not None
        due = self.reading.last_heard + self._heartbeat.interval
        if due > trio.current_time():
            return due
        self._watch = None
        self.start("heartbeat")
        return None

    async def _beat(self) -> None:
        assert self._heartbeat is not None
        with trio.CancelScope() as self._heartbeat_scope:
            if self.closed is not None:  # decided in the turn that started this
                return
            await beat(self._heartbeat, self.reading, self._heartbeat_ping, self._silent)
        self._heartbeat_scope = None
        self._watch_silence()

    # --- ends --------------------------------------------------------------------------------

    def ended(self) -> bool:
        """Tell whether the end is decided."""
        return self.closed is not None

    def is_own_end(self, error: BaseException) -> bool:
        """Tell whether an exception is nothing but the end of this connection, or several."""
        if isinstance(error, ExceptionGroup):
            return all(map(self.is_own_end, cast("ExceptionGroup[Exception]", error).exceptions))
        return isinstance(error, ConnectionEnded) and error.close is self.closed

    def peer_ended(self, event: PeerClosed | Failed) -> None:
        """Let the peer's close, or its breach of the protocol, take effect."""
        clean = isinstance(event, PeerClosed) and event.close.code in _CLEAN
        error = EndOfChannel if clean else ConnectionBroken
        self.finish(event.close, error, frame=event.response())

    def lost(self, error: Exception | None) -> None:
        """Take the end of the transport; a close that came before it stands."""
        self.machine.lost()
        self.outbox.abandon()
        if self.reading.pending is not None:
            self.peer_ended(self.reading.pending)
        reason = str(error) if error is not None else "connection lost without a close frame"
        self.finish(Close(CloseCode.ABNORMAL, reason, by_peer=True), ConnectionBroken)

    def stalled(self) -> None:
        """Give up a peer that takes nothing."""
        self.outbox.abandon()  # half a frame may be out
        self.cut(Close(CloseCode.ABNORMAL, "write timeout: the peer reads nothing"))

    def _heartbeat_ping(self) -> None:
        self.machine.release()
        self.pings.forget(self._heartbeat_payload)  # any byte may have counted as its answer
        self._heartbeat_payload, _ = self.ping()

    def _silent(self) -> None:
        self.cut(Close(CloseCode.INTERNAL_ERROR, "ping timeout"))

    def drain(self, close: Close) -> None:
        """Close for our own side's going away: `receive` ends cleanly."""
        self.finish(close, EndOfChannel, frame=close)

    def refuse(self, close: Close) -> None:
        """Close for what the peer does or fails to do."""
        self.finish(close, ConnectionBroken, frame=close)

    def cut(self, close: Close) -> None:
        """Send what the transport takes at once, and a close frame; wait for nothing."""
        self.outbox.retire_writer()
        self.finish(close, ConnectionBroken, frame=close)
        if self._way_down is not None:
            self._way_down.cancel()
        if isinstance(self.transport, NonblockingTransport):
            self.outbox.abandon()
            self.transport.close()

    async def aclose(self, close: Close) -> None:
        """Close for the user, who may then use it no more; wait until it is done."""
        self._by_us = True
        await self.end(close)

    async def end(self, close: Close) -> None:
        """Close, unless that is decided already, and wait until it is done."""
        if self.closed is None:
            if self.reading.pending is not None:
                self.peer_ended(self.reading.pending)
            else:
                self.finish(close, ConnectionBroken, frame=close)
        self.reading.discard()
        try:
            await trio.lowlevel.checkpoint()
            await self.down.wait()
        except trio.Cancelled:
            if not self.down.is_open:
                self.cut(close)
            raise

    def finish(
        self, close: Close, receive_error: type[ConnectionEnded], frame: Close | None = None
    ) -> None:
        """Decide the end: the first decision stands. Then let a task carry it out."""
        if self.closed is not None:
            return
        self.closed = Close(close.code, close.reason, close.by_peer)
        self.outbox.open = False
        self._receive_error = receive_error
        if close.code not in _CLEAN:
            words = str(close)  # the peer's, maybe: they must not write lines of their own
            logger.info("%s: ended: %s", self.id, words if words.isprintable() else ascii(words))
        if frame is not None and frame.code != CloseCode.ABNORMAL:
            self.outbox.close(frame)
        if self._watch is not None:
            self.attendant.forget(self._watch)
        if self._heartbeat_scope is not None:
            self._heartbeat_scope.cancel()
        self.pings.give_up()
        self.outbox.wake()
        if self._is_through():
            self._drop()
        else:
            self._way_down = trio.move_on_after(self._timeouts.close)
            self.start("closer")
        self.reading.wake()
        self._tell("ended")

    def _is_through(self) -> bool:
        """Whether both close frames are out, and we, the server, are to end the link."""
        return (
            self.side is Side.SERVER
            and isinstance(self.reading.pending, PeerClosed)
            and isinstance(self.transport, NonblockingTransport)
            and self.outbox.idle
        )

    def _drop(self) -> None:
        """Close a transport that needs no waiting for that."""
        assert isinstance(self.transport, NonblockingTransport)
        self.outbox.abandon()
        self.machine.lost()
        self.reading.eof = True
        self.transport.close()
        self.down.open()

    async def _go_down(self) -> None:
        """Carry out the end: everything here is bounded by `Timeouts.close`."""
        assert self._way_down is not None
        try:
            with self._way_down:
                await self.outbox.wait_written()
                await self.reading.wait_peer_closed()
                failed = isinstance(self.reading.pending, Failed)
                if failed and self.side is Side.SERVER:
                    # Closing on unread bytes would reset the link, and overtake our close frame.
                    if await self.transport.end_writing():
                        await self.reading.wait_eof()
                    else:
                        await self.reading.wait_quiet(_QUIET)
                elif self.side is Side.CLIENT:  # the server closes first (RFC 6455, 7.1.1)
                    await self.reading.wait_eof()
                await self.transport.aclose()
        finally:
            with trio.CancelScope(shield=True):
                await self._cut_off()

    async def _cut_off(self) -> None:
        if isinstance(self.transport, NonblockingTransport):
            self._drop()
            return
        # It cannot be written without waiting: give the last frame a moment.
        with trio.move_on_after(_LAST_WORDS):
            await self.outbox.write_last()
        self.outbox.abandon()
        self.machine.lost()
        await trio.aclose_forcefully(self.transport)
        self.down.open()

    # --- pings and errors

    def ping(self) -> tuple[bytes, SentPing]:
        """Send a ping, and see that somebody reads its answer."""
        payload, ping = self.pings.make(self._token_bytes(4))
        self.outbox.put_control(Ping(payload), now=True)
        self.reading.wake_reader()
        return payload, ping

    def pong(self, payload: bytes) -> None:
        """Take a pong."""
        self.pings.answered(payload)

    def receive_error(self) -> ConnectionEnded:
        """Return what `receive` raises now that it is over."""
        return self._error(self._receive_error)

    def send_error(self) -> ConnectionEnded:
        """Return what `send` and `ping` raise now that it is over."""
        return self._error(ConnectionBroken)

    def _error(self, kind: type[ConnectionEnded]) -> ConnectionEnded:
        assert self.closed is not None
        return (ConnectionClosedByUs if self._by_us else kind)(self.closed)

    def _tell(self, what: str) -> None:
        if self.connection is None:
            return
        for observer in self._observers:
            try:
                if what == "opened":
                    observer.opened(self.connection)
                elif self.closed is not None:
                    observer.ended(self.connection, self.closed)
            except Exception:
                logger.exception("%s: observer %r failed in %s", self.id, observer, what)
