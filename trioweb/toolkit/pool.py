"""Sessions over several endpoints: `open_pool`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any, TypeVar, Unpack, overload

from ..config import Backoff, CallLimits, HealthCheck, Policy, SessionLimits
from ..nursery import OwnNursery
from ..positions import Position
from ..reconnect import ConnectOptions
from ..states import Phase
from .endpoints import Endpoint, Endpoints
from .feed import Recover
from .methods import Methods
from .session import WAIT, Session, open_session
from .subscription import Subscription
from .wire import JSON, Format

__all__ = ["Endpoint", "Pool", "open_pool"]

_T = TypeVar("_T")


class Pool:
    """Sessions, each with a connection to one of several servers that do the same.

    What is asked of the pool goes to one session after the other, those with a connection first.
    See `open_pool`.
    """

    def __init__(self, sessions: Sequence[Session], endpoints: Endpoints) -> None:
        #: All of them: for what must go over one connection, such as what belongs together.
        self.sessions = tuple(sessions)
        self._endpoints = endpoints
        self._turn = 0

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """What is known of the servers now."""
        return self._endpoints.snapshot()

    def session(self) -> Session:
        """Return the session whose turn it is."""
        count = len(self.sessions)
        turns = [self.sessions[(self._turn + step) % count] for step in range(count)]
        for phases in ({Phase.OPEN}, {Phase.CONNECTING, Phase.WAITING}, {Phase.ENDED}):
            for step, session in enumerate(turns):
                if session.states.current.phase in phases:
                    self._turn = (self._turn + step + 1) % count
                    return session
        raise AssertionError("there are no other phases")

    @overload
    async def call(
        self,
        method: str,
        params: object = None,
        *,
        result: type[_T],
        timeout: float | None = None,  # noqa: ASYNC109 - it travels
        repeat: bool = False,
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
    ) -> Any: ...
    async def call(
        self,
        method: str,
        params: object = None,
        *,
        result: Any = Any,
        timeout: float | None = None,  # noqa: ASYNC109 - it travels
        repeat: bool = False,
    ) -> Any:
        """Run a method as `Session.call` does, at the server whose turn it is.

        With ``repeat`` it may run at two of them, unless they share what they keep of calls with a
        key.
        """
        session = self.session()
        return await session.call(method, params, result=result, timeout=timeout, repeat=repeat)

    async def publish(self, topic: str, data: object) -> Position | None:
        """Publish on a topic, as `Session.publish` does."""
        return await self.session().publish(topic, data)

    async def notify(self, method: str, params: object = None, *, policy: Policy = WAIT) -> bool:
        """Run a method without an answer, as `Session.notify` does."""
        return await self.session().notify(method, params, policy=policy)

    def subscribe(
        self, topic: str, *, position: Position | None = None, recover: Recover = "all"
    ) -> AbstractAsyncContextManager[Subscription]:
        """Subscribe to a topic, as `Session.subscribe` does, over one session.

        Where the servers do not share a store, a failover is another epoch: what is lost is told.
        """
        return self.session().subscribe(topic, position=position, recover=recover)


@asynccontextmanager
async def open_pool(
    urls: Sequence[str],
    *,
    size: int = 1,
    check: HealthCheck | None = HealthCheck(),
    methods: Methods | None = None,
    format: Format = JSON,  # noqa: A002 - as for a peer
    backoff: Backoff = Backoff(),
    session_limits: SessionLimits = SessionLimits(),
    call_limits: CallLimits = CallLimits(),
    **options: Unpack[ConnectOptions],
) -> AsyncGenerator[Pool]:
    """Keep up ``size`` sessions with the servers of ``urls`` for the length of a block.

    Each session keeps its server until that fails, and then goes to the healthy one with the
    fewest connections of this pool, after a wait by ``backoff``. A server that fails is unhealthy
    until a ``check`` finds otherwise, or until there is no better one. Servers without a connection
    are checked in the background; None: they are not. One that turns us away for good is left
    alone; a session ends only when all have, or for a close code that is final.

    All else is as for `open_session`. Raises `ValueError` for no URL, or one that is there twice.
    """
    if size < 1:
        raise ValueError(f"size must be at least 1, not {size}")
    endpoints = Endpoints(urls, check, options)
    async with OwnNursery() as nursery, AsyncExitStack() as stack:
        sessions = [
            await stack.enter_async_context(
                open_session(
                    endpoints.dial,
                    methods=methods,
                    format=format,
                    backoff=backoff,
                    session_limits=session_limits,
                    call_limits=call_limits,
                )
            )
            for _ in range(size)
        ]
        nursery.start_soon(endpoints.watch)
        yield Pool(sessions, endpoints)
