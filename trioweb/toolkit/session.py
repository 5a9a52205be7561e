"""A client that survives its connection: `open_session`."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar, Unpack, overload

import trio

from ..client import connect
from ..config import Backoff, CallLimits, Overflow, Policy, SessionLimits
from ..connection import WebSocket
from ..errors import (
    CallError,
    CallLost,
    CallTimeout,
    ConnectionBroken,
    ConnectionClosedByUs,
    SessionEnded,
)
from ..host import current_host
from ..nursery import OwnNursery
from ..parking import Parking
from ..positions import Position
from ..reconnect import ConnectOptions, Dial, reconnect
from ..retrying import FAILURES
from ..states import Phase, States
from ..types import Message
from .feed import Missed, Recover
from .methods import Methods
from .notices import SessionMethods
from .queueing import Outgoing
from .rpc import Peer, open_peer
from .subscription import Subscription
from .topics import Place, Topics
from .wire import JSON, Event, Format, Notify

__all__ = [
    "WAIT",
    "Event",
    "Missed",
    "Session",
    "SessionStatistics",
    "Subscription",
    "open_session",
]

_T = TypeVar("_T")

#: Nothing is left out unless told.
WAIT = Policy(Overflow.WAIT)

#: Seconds that the notifications still queued have at the end of the block, with a connection.
_LAST_WORDS = 5

#: Seconds in which a channel of another library tells why it is over.
_LAST_LOOK = 1


@dataclass(frozen=True, slots=True)
class SessionStatistics:
    """A snapshot of one session: what waits now, and counts since it was opened."""

    #: Connections there were up to now.
    connections: int
    subscriptions: int
    #: Calls that were made again, for the connection broke before their answer.
    repeated: int
    #: Notifications that wait for a connection, and their bytes.
    queued_messages: int
    queued_bytes: int
    #: Notifications left out by an overflow policy, and those that a newer one has replaced.
    dropped: int
    coalesced: int


class Session:
    """One end of a conversation that goes on over any number of connections; see `open_session`.

    Any number of tasks may use it at the same time.
    """

    def __init__(
        self,
        methods: Methods | None,
        format_: Format,
        backoff: Backoff,
        limits: SessionLimits,
        calls: CallLimits,
    ) -> None:
        #: Connecting, open, waiting, ended: an async iterable, see `trioweb.States`.
        self.states = States()
        self._topics = Topics(backoff, limits)
        self._methods = SessionMethods(methods or Methods(), self._topics)
        self._format = format_
        self._backoff = backoff
        self._calls = calls
        self._outgoing = Outgoing(limits)
        self._peer: Peer | None = None
        self._changed = Parking()
        self._cause: BaseException | None = None
        self._using = trio.CancelScope()
        self._closing = False
        self._over = False
        self._connections = 0
        self._repeated = 0

    # --- what users call ---------------------------------------------------------------------

    @overload
    async def call(
        self,
        method: str,
        params: object = None,
        *,
        result: type[_T],
        timeout: float | None = None,  # noqa: ASYNC109 - it travels
        repeat: bool = False,
        key: str | None = None,
    ) -> _T: ...
    @overload
    async def call(
        self,
        method: str,
        params: object = None,
        *,
        result: Any = Any,
        timeout: float | None = None,  # noqa: ASYNC109 - it travels
        repeat: bool = False,
        key: str | None = None,
    ) -> Any: ...
    async def call(
        self,
        method: str,
        params: object = None,
        *,
        result: Any = Any,
        timeout: float | None = None,  # noqa: ASYNC109 - it travels
        repeat: bool = False,
        key: str | None = None,
    ) -> Any:
        """Run a method at the server and return its result, as the type ``result``.

        While there is no connection it waits for one, under the caller's cancel scopes and
        ``timeout``, which is in seconds and for all. If the connection breaks before the answer,
        that is `CallLost`: the method may have run, or not. With ``repeat`` the call is made again
        on the next connection, with a ``key`` by which the server runs it once; give one yourself
        to repeat a call of an earlier session, or of another program.

        Raises as `Peer.call` does, and `SessionEnded` when no connection will come any more.
        """
        if timeout is not None:
            with trio.move_on_after(timeout) as scope:
                return await self.call(method, params, result=result, repeat=repeat, key=key)
            assert scope.cancelled_caught
            raise CallTimeout(f"{method} took more than {timeout} s")
        if repeat and key is None:
            key = current_host.get().token_bytes(16).hex()
        while True:
            peer = await self.peer()
            try:
                return await peer.call(method, params, result=result, key=key)
            except CallLost as error:
                self._down(peer)
                if error.sent and not repeat:
                    raise
                self._repeated += error.sent
            except CallError as error:
                # A server that goes away has cancelled it. The connection will break; or not.
                if error.code != "cancelled" or not repeat:
                    raise
                self._repeated += 1
                with trio.move_on_after(self._backoff.base):
                    await peer.wait_ended()

    async def publish(
        self, topic: str, data: object, *, repeat: bool = True, key: str | None = None
    ) -> Position | None:
        """Publish on a topic, once, over as many connections as it takes; return its position.

        None where the topic keeps no history. The server must take calls with a key
        (``Methods(once=...)``); without ``repeat`` it need not, and a break is `CallLost`. Raises
        as `call` does.
        """
        params = {"topic": topic, "data": data}
        answer = await self.call("publish", params, result=Place | None, repeat=repeat, key=key)
        return None if answer is None else answer.position

    async def notify(self, method: str, params: object = None, *, policy: Policy = WAIT) -> bool:
        """Run a method at the server without an answer; return False if it was dropped.

        While there is no connection it is queued, within `SessionLimits`; where that is full,
        ``policy`` decides: wait so many seconds, leave out the oldest or this one, or replace
        the one of the same key. What a breaking connection has taken already is lost, or not:
        nobody tells. Use `call` to know.

        Raises `trio.TooSlowError` if there was no room in time, `SessionEnded`, and `TypeError` for
        params that cannot be encoded; `ValueError` for `Overflow.CLOSE`, which has no meaning here.
        """
        if policy.overflow is Overflow.CLOSE:
            raise ValueError("a session does not close for its own queue: choose another overflow")
        message = self._format.encode(Notify(method, params))
        peer = self._peer
        if peer is not None and not len(self._outgoing):
            try:
                if policy.overflow is Overflow.WAIT:
                    await peer.link.send(message, policy=policy)
                    return True
                await trio.lowlevel.checkpoint()
                return peer.link.send_nowait(message, policy)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                self._down(peer)
        return await self._outgoing.put(message, policy)

    def subscribe(
        self, topic: str, *, position: Position | None = None, recover: Recover = "all"
    ) -> AbstractAsyncContextManager[Subscription]:
        """Subscribe to a topic for the length of an ``async with`` block.

        The block begins when the server has answered, and gets a `Subscription`, an async iterable
        of `Event`, each once and in order, whatever happens to connections, and of `Missed` where
        something could not be had. ``position`` is where an earlier subscription stood; None:
        now. ``recover="latest"`` is for values of which the newest alone counts.

        Raises `CallError` if the server refuses, `SessionEnded`, and `ValueError` if this session
        is subscribed to the topic already.
        """
        return self._topics.subscribe(topic, position, recover)

    async def peer(self) -> Peer:
        """Wait for a connection, and return the peer at its other end: for streams, say.

        It lasts as long as its connection, no longer. Raises `SessionEnded`.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        while self._peer is None:
            if self._over:
                raise self._ended()
            await self._changed.park()
        return self._peer

    def statistics(self) -> SessionStatistics:
        """Return the counts as they are now."""
        queue = self._outgoing
        return SessionStatistics(
            connections=self._connections,
            subscriptions=len(self._topics),
            repeated=self._repeated,
            queued_messages=len(queue),
            queued_bytes=queue.size,
            dropped=queue.dropped,
            coalesced=queue.coalesced,
        )

    def __repr__(self) -> str:
        return f"<Session {self.states.current}>"

    # --- its connections ---------------------------------------------------------------------

    async def run(self, dial: Dial[trio.abc.Channel[Message]]) -> None:
        """Make one connection after the other, until the session ends for good."""
        try:
            await reconnect(self._use, dial, backoff=self._backoff, states=self.states)
        except FAILURES as error:
            self.end(error)

    async def _use(self, channel: trio.abc.Channel[Message]) -> None:
        async with open_peer(
            channel,
            self._methods,
            format=self._format,
            limits=self._calls,
            on_event=self._topics.event,
        ) as peer:
            try:
                async with OwnNursery() as nursery:
                    nursery.start_soon(self._topics.run, peer)
                    nursery.start_soon(self._send_queued, peer)
                    with trio.CancelScope() as self._using:
                        self._up(peer)
                        await peer.wait_ended()
            finally:
                self._down(peer)
        if not self._closing:
            raise await _end_of(channel)

    def _up(self, peer: Peer) -> None:
        self._connections += 1
        self._peer = peer
        self._changed.unpark_all()

    def _down(self, peer: Peer) -> None:
        if self._peer is peer:
            self._peer = None
            self._topics.lost(peer)

    async def _send_queued(self, peer: Peer) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await self._outgoing.run(peer.link.send)

    async def close(self) -> None:
        """Close the connection, if there is one, after what is queued has left."""
        if self._peer is not None:
            with trio.move_on_after(_LAST_WORDS):
                await self._outgoing.flush()
        self._closing = True
        if self._peer is not None:
            self._using.cancel()
            await self.states.wait_for(Phase.WAITING, Phase.CONNECTING)

    def end(self, cause: BaseException | None) -> None:
        """End for good, for what the last connection ended with, or by the end of the block."""
        if not self._over:
            self._over = True
            self._cause = cause
            self._topics.end(self._ended)
            self._outgoing.end(self._ended)
            self._changed.unpark_all()

    def _ended(self) -> SessionEnded:
        error = SessionEnded(str(self._cause) if self._cause else "the session's block is over")
        error.__cause__ = self._cause
        return error


async def _end_of(channel: trio.abc.Channel[Message]) -> Exception:
    """Return why a connection is over: what the peer did, or our own end of a server's nonsense."""
    if isinstance(channel, WebSocket) and channel.closed is not None:
        return ConnectionBroken(channel.closed)
    try:
        with trio.move_on_after(_LAST_LOOK):
            await channel.receive()
    except ConnectionClosedByUs as error:
        return ConnectionBroken(error.close)
    except (trio.EndOfChannel, trio.BrokenResourceError) as error:
        return error
    except trio.ClosedResourceError:
        pass
    return trio.EndOfChannel("the connection has ended")


@asynccontextmanager
async def open_session(
    url: str | Dial[trio.abc.Channel[Message]],
    *,
    methods: Methods | None = None,
    format: Format = JSON,  # noqa: A002 - what it is
    backoff: Backoff = Backoff(),
    session_limits: SessionLimits = SessionLimits(),
    call_limits: CallLimits = CallLimits(),
    **options: Unpack[ConnectOptions],
) -> AsyncGenerator[Session]:
    """Keep up a conversation with a server for the length of a block, which gets the `Session`.

    It connects, and connects again by ``backoff`` whenever a connection breaks, in the
    background; the block begins at once. ``url`` and the ``options`` are those of
    `trioweb.connect`, or ``url`` is a function that returns the context manager of each
    connection, as in `trioweb.reconnect`. ``methods`` are those that the server may call.

    When it ends for good, for a close code or an answer that is final (`trioweb.is_terminal`) or
    the last of `Backoff.attempts`, the block goes on: `Session.states` tells, and whatever is asked
    of the session raises `SessionEnded`. What makes no sense, such as a malformed URL, ends the
    block with its `ValueError`. A normal exit sends what is queued, and closes with 1000; an exit
    by an exception discards and cuts. What the block raises comes out as it is.
    """
    dial = partial(connect, url, **options) if isinstance(url, str) else url
    async with OwnNursery() as nursery:
        session = Session(methods, format, backoff, session_limits, call_limits)
        nursery.start_soon(session.run, dial, name="session")
        try:
            yield session
            await session.close()
        finally:
            session.end(None)
