"""Servers that do the same, and which of them are worth a try: `Endpoints`."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from urllib.parse import urlsplit, urlunsplit

import trio

from ..client import connect
from ..config import HealthCheck
from ..connection import WebSocket
from ..errors import CallError, ConnectFailed, ConnectionBroken, HandshakeRejected
from ..nursery import OwnNursery
from ..reconnect import ConnectOptions
from ..retrying import FAILURES, fraction, is_terminal
from .rpc import open_peer

__all__ = ["Endpoint", "Endpoints"]


@dataclass(slots=True)
class Endpoint:
    """One server."""

    url: str
    #: Whether the last that was heard of it was good; so it is taken to be before the first.
    healthy: bool = True
    #: Why not.
    error: Exception | None = None
    #: Connections of the pool's that it has now.
    connections: int = 0
    #: Connections and checks that have failed so far.
    failures: int = 0
    #: When the last one did, on Trio's clock.
    failed_at: float = -math.inf
    #: It has turned us away for good: there is no further try.
    refused: bool = False


class Endpoints:
    """Chooses an endpoint for each connection, and checks those that have none."""

    def __init__(
        self, urls: Sequence[str], check: HealthCheck | None, options: ConnectOptions
    ) -> None:
        if not urls:
            raise ValueError("a pool needs one endpoint at least")
        if len(set(urls)) < len(urls):
            raise ValueError(f"an endpoint is named twice: {', '.join(urls)}")
        self._check = check
        self._options = options
        # Each client has an order of its own, so that they spread over the servers.
        self._endpoints = sorted(map(Endpoint, urls), key=lambda _: fraction())

    def snapshot(self) -> tuple[Endpoint, ...]:
        """Return copies of all, as they are now."""
        return tuple(replace(one) for one in self._endpoints)

    def choose(self) -> Endpoint:
        """Return the endpoint for a new connection.

        Of the healthy ones that with the fewest connections; without any, the one whose failure
        is the longest ago. Raises its error if every one has turned us away for good.
        """
        left = [one for one in self._endpoints if not one.refused]
        if not left:
            last = max(self._endpoints, key=lambda one: one.failed_at)
            assert last.error is not None
            raise last.error
        healthy = [one for one in left if one.healthy]
        if healthy:
            return min(healthy, key=lambda one: one.connections)
        return min(left, key=lambda one: one.failed_at)

    @asynccontextmanager
    async def dial(self) -> AsyncGenerator[WebSocket]:
        """Connect to the endpoint that is chosen now, for the length of a block.

        Its failures are final for the caller only when no endpoint is left.
        """
        endpoint = self.choose()
        endpoint.connections += 1
        try:
            async with AsyncExitStack() as stack:
                try:
                    ws = await stack.enter_async_context(connect(endpoint.url, **self._options))
                except FAILURES as error:
                    _failed(endpoint, error)
                    endpoint.refused = is_terminal(error)
                    if self._is_last(endpoint):
                        raise
                    raise ConnectFailed(f"{endpoint.url.partition('?')[0]}: {error}") from error
                endpoint.healthy, endpoint.error = True, None
                yield ws
                if ws.closed is not None:
                    _failed(endpoint, ConnectionBroken(ws.closed))
        finally:
            endpoint.connections -= 1

    async def watch(self) -> None:
        """Check the endpoints that have no connection, until cancelled."""
        if self._check is None:
            return
        async with OwnNursery() as nursery:
            for endpoint in self._endpoints:
                nursery.start_soon(self._watch, endpoint, self._check)
            await trio.sleep_forever()

    def _is_last(self, endpoint: Endpoint) -> bool:
        """Whether there is no other one to go to at once."""
        if endpoint.refused:
            return all(one.refused for one in self._endpoints)
        return not any(one.healthy for one in self._endpoints)

    async def _watch(self, endpoint: Endpoint, check: HealthCheck) -> None:
        while not endpoint.refused:
            await trio.sleep(check.interval * (0.5 + fraction()))
            if endpoint.connections:
                continue
            try:
                with trio.fail_after(check.timeout):
                    await self._look(endpoint.url, check.path)
            except FAILURES as error:
                if not endpoint.connections:  # else it is known by now
                    _failed(endpoint, error)
            else:
                endpoint.healthy, endpoint.error = True, None

    async def _look(self, url: str, path: str | None) -> None:
        """Return if an endpoint is well; raises one of `FAILURES` if not."""
        if path is not None:
            page = urlunsplit(urlsplit(url)._replace(path=path, query=""))
            try:
                async with connect(page, **self._options):
                    return
            except HandshakeRejected as answer:
                if 200 <= answer.status <= 299:
                    return
                raise
        async with connect(url, **self._options) as ws, open_peer(ws) as peer:
            try:
                await peer.call("ping")
            except CallError as error:
                if error.code != "unknown-method":
                    raise


def _failed(endpoint: Endpoint, error: Exception) -> None:
    endpoint.healthy = False
    endpoint.error = error
    endpoint.failures += 1
    endpoint.failed_at = trio.current_time()
