"""`WebSocket`: one connection, on either end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import trio

from .expiry import Credential
from .lifecycle import Lifecycle
from .protocol.machine import Piece, check_close
from .pure_lanes import LARGE
from .steps import Stepping, at_once_if_room, at_once_if_there
from .streaming import Incoming, MessageReader, MessageWriter
from .types import Close, CloseCode, Message, Request, Response, State

__all__ = ["Statistics", "WebSocket", "check_message", "lifecycle_of"]


@dataclass(frozen=True, slots=True)
class Statistics:
    """A snapshot of one connection: counts since its upgrade, and what is queued now."""

    messages_sent: int
    messages_received: int
    #: Bytes of frames, taken by and from the transport.
    bytes_sent: int
    bytes_received: int
    #: Messages left out by an overflow policy.
    messages_dropped: int
    #: Messages that came and were never taken, since we had closed.
    messages_discarded: int
    #: Messages that came above a `RateLimit` and were dropped.
    messages_limited: int
    inbox_messages: int
    outbox_bytes: int
    outbox_frames: int


class WebSocket(Stepping, trio.abc.Channel[Message]):
    """One WebSocket connection: a `trio.abc.Channel` of ``str`` and ``bytes``.

    Any number of tasks may send, ping and close at the same time; a second concurrent `receive`
    raises `trio.BusyResourceError`. Made by `connect` and the servers, not by hand.

    `receive` and `send` run a full checkpoint at least every 64 calls or 64 KiB of the calling
    task, whichever is first, and `receive` whenever it finds no message decoded already. Pings
    are answered at once while somebody waits in `receive`, else within 100 ms.

    How it ends: `receive` raises `EndOfChannel` after the peer closed with 1000, 1001 or no code,
    or our server drained, and `ConnectionBroken` after any other end. `send` and `ping` raise
    `ConnectionBroken` after every end. After one's own `aclose` all raise `ConnectionClosedByUs`.
    """

    __slots__ = (
        "__weakref__",
        "_inbox",
        "_incoming",
        "_life",
        "_outbox",
        "_reading",
        "credential",
        "principal",
        "request",
        "response",
        "subprotocol",
    )

    def __init__(
        self,
        life: Lifecycle,
        *,
        request: Request,
        response: Response,
        subprotocol: str | None = None,
        principal: Any = None,
    ) -> None:
        super().__init__(life.reading, life.outbox)
        #: The request that became this connection, and the 101 response to it.
        self.request = request
        self.response = response
        #: The subprotocol agreed on, or None.
        self.subprotocol = subprotocol
        #: What the server's ``authenticate`` returned for the peer.
        self.principal: Any = principal
        #: What ends, and may be extended, if ``authenticate`` returned a `Credential`; else None.
        self.credential: Credential | None = None
        self._life = life
        self._outbox = life.outbox
        self._reading = life.reading
        self._inbox = life.reading.inbox
        #: Made for the first message that is received as a stream.
        self._incoming: Incoming | None = None
        life.connection = self

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if cls.receive is not WebSocket.receive and cls.__anext__ is WebSocket.__anext__:
            # Natively a loop would pass by a `receive` of its own.
            cls.__anext__ = trio.abc.Channel.__anext__  # type: ignore[method-assign]  # that is it

    # --- sending -----------------------------------------------------------------------------

    @at_once_if_room
    async def send(
        self, value: Message | bytearray | memoryview, *, compress: bool | None = None
    ) -> None:
        """Send ``str`` as a text message, bytes of any kind as a binary one.

        ``compress`` decides for this message, where compression was agreed on; None leaves it to
        `Deflate.threshold`. Waits for room in the outbox, then queues: `trio.Cancelled` means
        that the message was not queued. Returning does not mean that the peer has it.

        Raises `ConnectionBroken` after the connection's end, `ConnectionClosedByUs` after
        `aclose`, `TypeError` for another type, `UnicodeEncodeError` for a lone surrogate.
        """
        if compress is None and self._outbox.offer(value, self._inbox):
            return
        message = check_message(value)
        if self._outbox.turn.due(len(message)):
            await trio.lowlevel.checkpoint()
            if compress is None and self._outbox.offer(message, self._inbox, True):
                return
        if self._outbox.full and self._life.closed is None:
            await self._outbox.wait_room()
        self._put(message, compress)

    def send_nowait(
        self, value: Message | bytearray | memoryview, *, compress: bool | None = None
    ) -> None:
        """Send as `send` does, or raise `trio.WouldBlock` when the outbox is full."""
        message = check_message(value)
        if self._outbox.full and self._life.closed is None:
            raise trio.WouldBlock
        self._put(message, compress)

    def send_stream(self, *, text: bool, compress: bool | None = None) -> MessageWriter:
        """Return what sends one message in pieces, text or binary, as ``async with`` block.

        Memory stays the same however long the message is, for each piece waits for room.
        ``compress`` None compresses it where that was agreed on, for nobody knows its size.
        """
        return MessageWriter(self._life, text=text, compress=compress)

    async def wait_written(self) -> None:
        """Wait until the transport has taken all that was sent, so that nothing is queued here.

        Of a message in pieces those count that are there. What is made only then and sent next is
        as fresh as can be: the way to send state to slow receivers. Raises as `send` does.
        """
        await trio.lowlevel.checkpoint()
        await self._outbox.wait_written()
        if self._life.closed is not None:
            raise self._life.send_error()

    # --- receiving ---------------------------------------------------------------------------

    @at_once_if_there
    async def receive(self) -> Message:
        """Return the next message. Cancelling it loses none.

        Raises `EndOfChannel` after a clean end, `ConnectionBroken` after any other,
        `ConnectionClosedByUs` after `aclose`, `trio.BusyResourceError` if another task waits.
        """
        reading, inbox = self._reading, self._inbox
        if (message := reading.take()) is not None:
            return message
        while True:
            if inbox:
                if reading.turn.due(len(inbox[0])):
                    await trio.lowlevel.checkpoint()
            elif self._life.closed is None:
                # Not by `_wait_inbox`: each coroutine in between is one more to go through.
                await reading.wait_message()
            if not inbox:  # another task closed, say
                await self._wait_inbox()
            one = reading.pop()
            message = one if isinstance(one, (str, bytes)) else self._pieces().add(one)
            if message is not None:
                return message

    async def receive_stream(self, *, limit: float | None = None) -> MessageReader:
        """Wait for the next message and return it before its end: a channel of its pieces.

        Memory stays the same however long the message is. ``limit`` is the most bytes that it
        may have, 1009 above that; None means `Limits.max_message`, ``math.inf`` no limit. It stands
        from this call on, for `Limits.max_fragments` too: call before the message is due. `receive`
        keeps to `Limits.max_message`. Cancelling this loses nothing; raises as `receive` does, and
        `ValueError` for a limit that is none.
        """
        if limit is not None and not limit > 0:  # refuses NaN too
            raise ValueError(f"limit must be positive, not {limit!r}")
        self._life.machine.stream(self._life.limits.max_message if limit is None else limit)
        reader: MessageReader | None = None
        while reader is None:
            await trio.lowlevel.checkpoint()
            await self._wait_inbox()
            reader = self._pieces().open(self._reading.pop())
        return reader

    async def _wait_inbox(self) -> None:
        while not self._inbox:
            if self._life.closed is not None:
                await trio.lowlevel.checkpoint()
                raise self._life.receive_error()
            await self._reading.wait_message()

    def _pieces(self) -> Incoming:
        if self._incoming is None:
            self._incoming = Incoming(self._life)
        return self._incoming

    def receive_nowait(self) -> Message:
        """Return a message that is here, after at most one read; else `trio.WouldBlock`.

        Raises as `receive` does at the connection's end, and if another task is receiving.
        """
        self._reading.receive_nowait()
        while self._inbox:
            one = self._reading.pop()
            message = self._pieces().add(one) if isinstance(one, Piece) else one
            if message is not None:
                return message
        if self._life.closed is not None:
            raise self._life.receive_error()
        raise trio.WouldBlock

    # --- control -----------------------------------------------------------------------------

    async def ping(self) -> float:
        """Ping the peer and wait for the pong; return the seconds it took (RFC 6455, 5.5.2).

        Has no deadline of its own: use a cancel scope. Raises `ConnectionBroken` when the
        connection ends first.
        """
        await trio.lowlevel.checkpoint()
        while self._life.closed is None and self._outbox.control_full:
            await self._outbox.wait_control_room()
        if self._life.closed is not None:
            raise self._life.send_error()
        payload, ping = self._life.ping()
        try:
            await ping.event.wait()
        finally:
            self._life.pings.forget(payload)
        if not ping.answered:
            raise self._life.send_error()
        return trio.current_time() - ping.sent

    async def aclose(self, code: int = CloseCode.NORMAL, reason: str = "") -> None:
        """Close: what was sent leaves first, then the close frame; then wait for the peer's.

        Returns within `Timeouts.close` whatever the peer does; when cancelled, the connection is
        cut at once. Closing twice is fine. Raises `ValueError` for a code that may not be sent
        or a reason above 123 bytes (RFC 6455, 7.4).
        """
        await self._life.aclose(check_close(code, reason))

    # --- looking -----------------------------------------------------------------------------

    @property
    def id(self) -> str:
        """A short random name, which stands in every log line about this connection."""
        return self._life.id

    @property
    def closed(self) -> Close | None:
        """How the connection ended; None while it has not."""
        return self._life.closed

    @property
    def latency(self) -> float | None:
        """Seconds from the last answered ping, ours or the heartbeat's, to its pong."""
        return self._life.pings.latency

    @property
    def state(self) -> State:
        """Where the connection is in its life."""
        return self._life.machine.state

    @property
    def local_address(self) -> Any:
        """Our end of the transport, as ``getsockname`` gives it; None where there is none."""
        return self._life.transport.local_address

    @property
    def remote_address(self) -> Any:
        """The peer's end of the transport, as ``getpeername`` gives it."""
        return self._life.transport.remote_address

    def statistics(self) -> Statistics:
        """Return the counts as they are now."""
        life, outbox, reading = self._life, self._outbox, self._reading
        return Statistics(
            messages_sent=outbox.messages_sent,
            messages_received=reading.messages_received,
            bytes_sent=outbox.bytes_sent,
            bytes_received=reading.bytes_received,
            messages_dropped=life.dropped + outbox.dropped,
            messages_discarded=reading.discarded,
            messages_limited=0 if reading.meter is None else reading.meter.dropped,
            inbox_messages=len(self._inbox),
            outbox_bytes=outbox.size,
            outbox_frames=outbox.frames,
        )

    def __repr__(self) -> str:
        return f"<WebSocket {self.id} {self.state.value}>"

    def __hash__(self) -> int:
        # Not by its address: a set of connections has the same order wherever the ids are the same.
        return int(self.id, 16)

    def _put(self, message: Message, compress: bool | None) -> None:
        life = self._life
        if life.closed is None:
            # More messages wait: their answers may leave in one write with this one.
            later = bool(self._inbox) and len(message) < LARGE
            self._outbox.put(message, later=later, compress=compress)
        if life.closed is not None:
            raise life.send_error()


def lifecycle_of(ws: WebSocket) -> Lifecycle:
    """Return the inner life of a connection, for the other parts of trioweb."""
    return ws._life  # noqa: SLF001 - the one door for them


def check_message(value: Any) -> Message:
    """Return what may be sent for a value; raises `TypeError` if it is no message."""
    if isinstance(value, (str, bytes)):
        return value
    if isinstance(value, (bytearray, memoryview)):
        return bytes(cast("bytearray", value))
    raise TypeError(f"a message is str or bytes, not {type(value).__name__}")
