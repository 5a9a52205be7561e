"""The machine that a program runs on: its network, its source of random bytes, its calendar.

A test can put a virtual machine in its place: see `trioweb.testing.VirtualNetwork`.
"""

from __future__ import annotations

import errno
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from contextlib import suppress
from contextvars import ContextVar

import trio

__all__ = ["Host", "NamedListener", "System", "current_host"]

#: Names that stand for an address of each family; the second may be missing.
_BOTH: dict[str | None, list[str | None]] = {
    "localhost": ["127.0.0.1", "::1"],
    None: ["0.0.0.0", "::"],  # noqa: S104 - what None says
}

#: How often a port that is free on one family of addresses may be taken on the other.
_TRIES = 20


class NamedListener(trio.abc.Listener[trio.abc.Stream]):
    """A listener that is no socket, and yet has a name and a port."""

    address: tuple[str, int]


class Host(ABC):
    """What a program has of its machine."""

    @abstractmethod
    async def open_stream(self, host: str, port: int) -> trio.abc.Stream:
        """Connect by TCP; raises `OSError` if there is no connection."""

    @abstractmethod
    async def open_listeners(
        self, port: int, host: str | None
    ) -> Sequence[trio.abc.Listener[trio.abc.Stream]]:
        """Listen on every address of a host; raises `OSError` if one cannot be had."""

    @abstractmethod
    def token_bytes(self, count: int) -> bytes:
        """Return so many bytes that nobody can foresee: keys, masks, names."""

    def now(self) -> float:
        """Return the seconds since the epoch, for dates; deadlines are on Trio's clock."""
        return time.time()


class System(Host):
    """The machine itself."""

    async def open_stream(self, host: str, port: int) -> trio.abc.Stream:
        """Connect by TCP."""
        return await trio.open_tcp_stream(host, port)

    async def open_listeners(self, port: int, host: str | None) -> Sequence[trio.SocketListener]:
        """Listen by TCP; port 0 is one free port for all addresses."""
        names = _BOTH.get(host or None, [host])
        if port != 0 or len(names) == 1:
            return await _listen(names, port)
        for _ in range(_TRIES - 1):
            with suppress(OSError):
                return await _listen(names, 0)
        return await _listen(names, 0)

    def token_bytes(self, count: int) -> bytes:
        """Return bytes of the operating system's secure source."""
        return secrets.token_bytes(count)


#: The machine of the running task, and of the tasks that it starts.
current_host: ContextVar[Host] = ContextVar("trioweb.host", default=System())  # noqa: B039 - it has no state


async def _listen(names: Iterable[str | None], port: int) -> list[trio.SocketListener]:
    listeners: list[trio.SocketListener] = []
    try:
        for name in names:
            try:
                opened = await trio.open_tcp_listeners(port, host=name)
            except OSError as error:
                # A family of addresses may be missing; anything else is a fault.
                if not listeners or not _family_is_missing(error):
                    raise
                continue
            listeners += opened
            port = listeners[0].socket.getsockname()[1]
    except BaseException:
        for listener in listeners:
            listener.socket.close()
        raise
    return listeners


def _family_is_missing(error: OSError) -> bool:
    codes = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}
    return error.errno in codes or getattr(error.__cause__, "errno", None) in codes
