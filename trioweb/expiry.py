"""Credentials that end: the connection that stands on one ends with it."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import trio

from .attendant import Watch
from .errors import Refused
from .lifecycle import Lifecycle
from .protocol.machine import fit_reason
from .types import Close

__all__ = ["Credential"]

#: 4000 and the status that HTTP has for it.
_UNAUTHORIZED = 4401
_EXPIRED = "credential expired"


class Credential:
    """A principal for a time: what a check returns instead of the principal alone.

    From now on ``expires_in`` seconds are left, of Trio's clock: for a JWT ``exp - time.time()``;
    ``math.inf`` has no end yet. At its end the connection is closed with 4401, "credential
    expired", unless `extend` was called, say for a new token that the peer sent.

    ``await renew()`` is asked ``early`` seconds before the end (10; for a short time, at half of
    it) for how many seconds it goes on from then; `Refused` ends it at once, None leaves its time.
    A renewal that fails otherwise is logged, and closes the connection with 1011.

    It stands for one connection, as ``ws.credential``: make one for each. While the connection
    lasts it costs no task, but for a renewal that is under way.
    """

    __slots__ = (
        "_due",
        "_early",
        "_life",
        "_renew",
        "_renewal",
        "_watch",
        "expires_at",
        "principal",
    )

    def __init__(
        self,
        principal: Any,
        *,
        expires_in: float,
        renew: Callable[[], Awaitable[float | None]] | None = None,
        early: float = 10,
    ) -> None:
        if not early > 0:
            raise ValueError(f"early must be positive, not {early!r}")
        self.principal: Any = principal
        #: When it ends, on Trio's clock.
        self.expires_at = math.inf
        #: When something is to be done: it ends, or is to be renewed.
        self._due = math.inf
        self._early = early
        self._renew = renew
        self._renewal: trio.CancelScope | None = None
        self._life: Lifecycle | None = None
        self._watch: Watch | None = None
        self.extend(expires_in)

    @property
    def expired(self) -> bool:
        """Whether its time is over."""
        return self.expires_at <= trio.current_time() if self.expires_at < math.inf else False

    def extend(self, seconds: float) -> None:
        """Let it end so many seconds from now instead, sooner or later; 0 is at once.

        Raises `ValueError` for a number that is none.
        """
        if math.isnan(seconds):
            raise ValueError("seconds must be a number, not nan")
        if seconds < math.inf:
            self.expires_at = trio.current_time() + seconds
            early = 0 if self._renew is None else max(0, min(self._early, seconds / 2))
            self._due = self.expires_at - early
        else:
            self._due = self.expires_at = math.inf
        self._stop_renewal()
        if self._life is not None:
            self._arm(self._life)

    def begin(self, life: Lifecycle) -> None:
        """Let a connection stand on it, which closes at once if the time is over.

        Raises `RuntimeError` if another one does.
        """
        if self._life is not None:
            raise RuntimeError("a credential stands for one connection: make one for each")
        self._life = life
        if self.expired:
            _refuse(life, _EXPIRED)
        self._arm(life)

    def end(self, life: Lifecycle) -> None:
        """Forget a connection whose handler is over, if it is the one that stands on this."""
        if self._life is not life:
            return
        if self._watch is not None:
            life.attendant.forget(self._watch)
        self._watch = self._life = None
        self._stop_renewal()

    def next_due(self) -> float | None:
        """Return when something is to be done; if that is now, do it."""
        life = self._life
        if life is None or life.closed is not None:
            self._watch = None
            return None
        if self._due > trio.current_time():
            return self._due
        if self.expired:
            self._watch = None
            _refuse(life, _EXPIRED)
            return None
        self._due = self.expires_at  # whatever becomes of the renewal
        self._renewal = trio.CancelScope(deadline=self.expires_at)
        life.start("renewal", partial(self._run, life, self._renewal))
        return self._due

    def _arm(self, life: Lifecycle) -> None:
        if self._watch is not None and self._watch.due <= self._due:
            return  # it will then hear of the new time
        if self._watch is not None:
            life.attendant.forget(self._watch)
        self._watch = None
        if self._due < math.inf and life.closed is None:
            self._watch = life.attendant.watch(self, self._due)

    def _stop_renewal(self) -> None:
        """Whatever it still says counts no more: a thread cannot be stopped, for one."""
        if self._renewal is not None:
            self._renewal.cancel()
            self._renewal = None

    async def _run(self, life: Lifecycle, renewal: trio.CancelScope) -> None:
        assert self._renew is not None
        with renewal:
            await trio.lowlevel.checkpoint_if_cancelled()  # extended before this could run
            try:
                seconds = await self._renew()
            except Refused as refused:
                if self._renewal is renewal:
                    _refuse(life, fit_reason(refused.reason) or _EXPIRED)
            else:
                if self._renewal is renewal and seconds is not None:
                    self.extend(seconds)

    def __repr__(self) -> str:
        """Leave out the principal, which may be a secret of its own."""
        return f"<Credential until {self.expires_at:g}>"


def _refuse(life: Lifecycle, reason: str) -> None:
    life.refuse(Close(_UNAUTHORIZED, reason))
