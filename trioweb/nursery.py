"""A nursery for tasks of our own, which the user's code never gets to see."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import cast

import trio

__all__ = ["OwnNursery"]


class OwnNursery:
    """Runs background tasks beside a block, and ends them with it.

    The block's exception passes as it is, never in a group. A background task that fails (which
    is a bug, or a KeyboardInterrupt) cancels the block, and its exception comes out bare.
    """

    __slots__ = ("_manager", "_nursery")

    def __init__(self) -> None:
        self._manager: AbstractAsyncContextManager[trio.Nursery] = trio.open_nursery()
        self._nursery: trio.Nursery | None = None

    async def __aenter__(self) -> trio.Nursery:
        self._nursery = await self._manager.__aenter__()
        return self._nursery

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._nursery is not None
        # The tasks end now, and we see them end even if we are cancelled ourselves.
        self._nursery.cancel_scope.shield = True
        self._nursery.cancel_scope.cancel()
        try:
            await self._manager.__aexit__(None, None, None)
        except BaseExceptionGroup as group:
            # The block's own error, if it has one beside the cancellation, stays to be seen.
            own = None if isinstance(error, trio.Cancelled) else error
            raise _only_one(group) from own


def _only_one(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the one exception in a group, or the group if there are several."""
    first, *others = group.exceptions
    if others:
        return group
    if isinstance(first, BaseExceptionGroup):
        return _only_one(cast("BaseExceptionGroup[BaseException]", first))
    return first
