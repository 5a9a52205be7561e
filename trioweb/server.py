"""Servers: `serve` until drained, or `open_server` for the length of a block."""

from __future__ import annotations

import logging
import signal
from collections.abc import AsyncGenerator, Iterable, Sequence
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Unpack

import trio

from .attendant import Attendant
from .config import Timeouts
from .connection import WebSocket, lifecycle_of
from .guard import Gate, ServerStatistics, Visit
from .idle import IDLE
from .listening import accept_all, is_loopback, name_of, open_listeners, url_of
from .nursery import OwnNursery
from .options import Options, ServerOptions, check_options
from .principals import Principals
from .protocol.framer import framer
from .protocol.machine import check_close
from .routing import Handler
from .serving import handshake, run_handler
from .transport import SocketTransport, StreamTransport, Transport, host_and_port
from .types import Close, CloseCode

__all__ = ["Server", "open_server", "serve"]

logger = logging.getLogger("trioweb.server")

#: The name of every connection's task; one string for all of them.
_TASK = "trioweb.server.Server._run_handler"

#: Of a drain's timeout, the part at its end in which cancelled handlers may clean up.
_CLEAN_UP = 0.1


class Server:
    """A running server. Made by `serve` and `open_server`, not by hand."""

    def __init__(
        self,
        options: Options,
        listeners: Sequence[trio.abc.Listener[trio.abc.Stream]],
        host: str | None,
    ) -> None:
        self.listeners = listeners
        #: Set when `drain` begins: long-running handlers may wait for it to say good-bye.
        self.draining = trio.Event()
        self._options = options
        self._url = url_of(listeners, host, tls=options.ssl_context is not None)
        self._attendant = Attendant()
        self._handshakes: set[trio.CancelScope] = set()
        self._running: dict[WebSocket, None] = {}
        self._connections: dict[WebSocket, None] = {}
        self._principals = Principals(self._connections)
        self._gate = Gate(options.guard, options.max_connections)
        self._upgraded = 0
        self._changed = trio.lowlevel.ParkingLot()
        self._accepting = trio.CancelScope()
        #: Around all handlers: a drain cancels those that are left all at once.
        self._serving = trio.CancelScope()
        self._deadline: float | None = None
        self._close: Close | None = None
        self._drained = trio.Event()

    @property
    def url(self) -> str:
        """One address that leads here, such as ``ws://localhost:8765``, without a path.

        Raises `ValueError` if the server has no TCP listener.
        """
        if self._url is None:
            raise ValueError("no TCP listener among the listeners: they have no URL")
        return self._url

    @property
    def connections(self) -> AbstractSet[WebSocket]:
        """The connections whose handlers run: a live view, for `broadcast` among others.

        A peer that has yet to pass `FirstMessage` is not among them.
        """
        return self._connections.keys()

    def statistics(self) -> ServerStatistics:
        """Return the counts as they are now."""
        gate = self._gate
        return ServerStatistics(
            connections=len(self._connections),
            others=gate.inside - len(self._connections),
            upgraded=self._upgraded,
            refused=gate.refused.copy(),
            messages_limited=gate.messages_limited
            + sum(ws.statistics().messages_limited for ws in self._running),
            clients=len(gate.clients),
            buckets=gate.buckets,
        )

    def connections_of(self, principal: Any) -> list[WebSocket]:
        """Return the connections of one principal, as it was when its handler began.

        Principals that are equal are one. Those that can be hashed are found at once.
        """
        return self._principals.connections_of(principal)

    async def close_principal(self, principal: Any, *, code: int = 4403, reason: str = "") -> int:
        """Close all connections of a principal, wait until they are, and return how many.

        In their handlers `receive` raises `ConnectionBroken`, whatever has come and was not taken:
        nothing more of theirs is handled. All together take `Timeouts.close` at most; cancelling
        this leaves them closing. Whoever is on the way in is closed on arrival; take the
        credentials back first, so that nobody comes in anew. Raises `ValueError` for a code that
        may not be sent.
        """
        close = check_close(code, reason)
        lives = [lifecycle_of(ws) for ws in self.connections_of(principal)]
        self._principals.close(principal, close)
        for life in lives:
            life.refuse(close)
            life.reading.discard()
        await trio.lowlevel.checkpoint()
        for life in lives:
            await life.down.wait()
        return len(lives)

    async def drain(
        self,
        timeout: float = 10,  # noqa: ASYNC109 - the drain's own deadline is its meaning
        *,
        code: int = CloseCode.GOING_AWAY,
        reason: str = "",
        grace: float = 0,
    ) -> None:
        """Stop: accept nobody more, close every connection, and return within ``timeout``.

        Closes the listeners, sets `draining`, gives handlers ``grace`` seconds for last words,
        closes with ``code`` and ``reason``, waits for the handlers, and cancels those that are
        left when nine tenths of the time are over. A handler that even then goes on is named in
        the log. A second call waits for the first. A handler that calls it waits for itself, and
        is cancelled. Raises `ValueError` for a code that may not be sent.
        """
        close = check_close(code, reason)
        if self.draining.is_set():
            with trio.move_on_after(timeout):
                await self._drained.wait()
            return
        start = trio.current_time()
        self._deadline = start + timeout
        self.draining.set()
        self._accepting.cancel()
        for scope in self._handshakes:
            scope.cancel()
        try:
            with trio.CancelScope(deadline=start + timeout * (1 - _CLEAN_UP)):
                with trio.move_on_after(grace):
                    await self._wait_ended()
                self._close = close
                for ws in self._running:
                    lifecycle_of(ws).drain(close)
                await self._wait_ended()
            self._serving.cancel()
            with trio.CancelScope(deadline=self._deadline):
                await self._wait_ended()
        finally:
            if self._handshakes:
                logger.warning("%d handshakes outlive the drain", len(self._handshakes))
            for ws in self._running:
                logger.warning("%s: the handler %s outlives the drain", ws.id, self._name(ws))
            self._drained.set()
            self._changed.unpark_all()

    async def _wait_ended(self) -> None:
        await trio.lowlevel.checkpoint()
        while self._running or self._handshakes:
            await self._changed.park()

    async def run(self, nursery: trio.Nursery, signals: Iterable[signal.Signals]) -> None:
        """Start accepting in a nursery that the caller ends after `wait_drained`."""
        nursery.start_soon(self._attendant.run, name="trioweb attendant")
        logger.info("serving %s with the %s framer", self._url, framer())
        signals = tuple(signals)
        if signals:
            await nursery.start(self._heed, signals, name="trioweb signals")
        nursery.start_soon(self._accept, name="trioweb accept")

    async def wait_drained(self) -> None:
        """Wait until a drain is over."""
        await self._drained.wait()

    async def _accept(self) -> None:
        with self._serving:
            async with trio.open_nursery() as handlers:

                def arrived(stream: trio.abc.Stream | SocketTransport) -> None:
                    handlers.start_soon(self._run_handler, stream, name=_TASK)

                with self._accepting:
                    async with trio.open_nursery() as nursery:
                        accept = partial(accept_all, bare=self._options.bare)
                        for listener in self.listeners:  # closed by a drain: who comes is refused
                            nursery.start_soon(accept, listener, arrived)

    async def _run_handler(self, stream: trio.abc.Stream | SocketTransport) -> None:
        with Visit(self._gate) as visit:
            ws = await self._shake_hands(stream, visit)
            del stream  # it is the connection's now, or closed
            if ws is None:
                return
            self._upgraded += 1
            lifecycle_of(ws).reading.meter = visit.upgraded()
            self._running[ws] = None
            try:
                await run_handler(ws, self._options, visit, self._admit)
            finally:
                del self._running[ws]
                self._connections.pop(ws, None)
                self._principals.settle()
                self._principals.remove(ws)
                self._changed.unpark_all()
                if ws.closed == IDLE:
                    visit.count("idle")
                if self._deadline is not None and trio.current_time() > self._deadline:
                    logger.warning(
                        "%s: the handler %s ended after the drain's deadline", ws.id, self._name(ws)
                    )

    async def _shake_hands(
        self, stream: trio.abc.Stream | SocketTransport, visit: Visit
    ) -> WebSocket | None:
        ws: WebSocket | None = None
        self._principals.arrive()
        try:
            if self._gate.by_client and self._options.proxies is None:
                visit.identify(host_and_port(_ends(stream).remote_address))
            if visit.cut:
                logger.info("%s: cut, too many are being turned away", name_of(_ends(stream)))
                return None
            ws = await handshake(
                stream, self._options, self._attendant, self.draining, self._handshakes, visit
            )
        finally:
            self._changed.unpark_all()
            if ws is None:
                self._principals.settle()
                await trio.aclose_forcefully(stream)
        return ws

    def _admit(self, ws: WebSocket) -> None:
        self._connections[ws] = None
        self._principals.add(ws)
        missed = self._principals.settle(ws.principal)
        if missed is not None:
            lifecycle_of(ws).refuse(missed)
            lifecycle_of(ws).reading.discard()  # what came behind its first message
        if self._close is not None:  # its upgrade was on its way when the drain began
            lifecycle_of(ws).drain(self._close)

    def _name(self, ws: WebSocket) -> str:
        handler: Any = self._options.handler
        find = getattr(handler, "find", None)
        if find is not None:
            handler = find(ws.request)
        return getattr(handler, "__qualname__", repr(handler))

    async def _heed(
        self,
        signals: tuple[signal.Signals, ...],
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        with trio.open_signal_receiver(*signals) as received:
            task_status.started()
            async with OwnNursery() as nursery:
                async for number in received:
                    name = signal.Signals(number).name
                    if self.draining.is_set():
                        logger.warning("%s again: cancelling what is left", name)
                        self._serving.cancel()
                    else:
                        logger.info("%s: draining", name)
                        nursery.start_soon(self.drain, name="trioweb drain")


async def serve(
    handler: Handler,
    port: int,
    *,
    task_status: trio.TaskStatus[Server] = trio.TASK_STATUS_IGNORED,
    **options: Unpack[ServerOptions],
) -> None:
    """Serve WebSockets until drained or cancelled; `ServerOptions` lists the options.

    ``handler(ws)`` runs in a task for each connection, which is closed with 1000 when it
    returns. An `Exception` that it raises is logged and closes its connection with 1011; the end
    of its own connection is no error. ``port`` 0 finds a free one: see `Server.url`. With
    ``nursery.start`` the `Server` is what it returns. Cancelling it sends 1001 without waiting.

    Raises `OSError` if the address cannot be had, `ValueError` for options that make no sense or
    are unsafe: a server that other machines can reach must be given ``authenticate``.
    """
    async with _listening(handler, port, options) as (server, nursery):
        await server.run(nursery, options.get("signals", ()))
        task_status.started(server)
        await server.wait_drained()


def _ends(stream: trio.abc.Stream | SocketTransport) -> Transport:
    return stream if isinstance(stream, SocketTransport) else StreamTransport(stream)


@asynccontextmanager
async def open_server(
    handler: Handler, port: int, **options: Unpack[ServerOptions]
) -> AsyncGenerator[Server]:
    """Serve for the length of a block, which gets the `Server`; options as for `serve`.

    A normal exit drains within `Timeouts.close`; an exit by an exception or a cancellation sends
    1001 without waiting. What the block raises comes out as it is.
    """
    async with _listening(handler, port, options) as (server, nursery):
        await server.run(nursery, options.get("signals", ()))
        yield server
        await server.drain(options.get("timeouts", Timeouts()).close)


@asynccontextmanager
async def _listening(
    handler: Handler, port: int, options: ServerOptions
) -> AsyncGenerator[tuple[Server, trio.Nursery]]:
    check_options(options)
    host = options.get("host", "localhost")
    listeners = options.get("listeners")
    if listeners is None:
        listeners = await open_listeners(port, host)
    else:
        host = options.get("host")  # names the server in its URL, no more
        await trio.lowlevel.checkpoint()
    try:
        behind = options.get("proxies") is not None
        if "authenticate" not in options and (behind or not is_loopback(listeners)):
            raise ValueError(
                "other machines can reach this server: give authenticate=, or authenticate=None "
                "if everybody may connect"
            )
        server = Server(
            Options.of(handler, options),
            listeners,
            host,
        )
        async with OwnNursery() as nursery:
            yield server, nursery
    finally:
        for listener in listeners:
            await trio.aclose_forcefully(listener)
