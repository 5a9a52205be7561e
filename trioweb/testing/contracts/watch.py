"""An observer under `check_observer`: what it is told, and what it does then."""

from __future__ import annotations

import inspect
import socket
import sys
import warnings
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import trio

from ...abc import Connection, Observer
from ...types import Close, Request, Response
from .promises import plain, require, shown

__all__ = ["Watch"]

_HOOKS = ("opened", "ended", "handler_failed", "answered")

#: Functions in C that wait, by their qualified names.
_WAITS = frozenset(
    {
        *("time.sleep", "select.select", "epoll.poll", "poll.poll", "_socket.getaddrinfo"),
        *("posix.system", "posix.waitpid", "posix.wait", "builtins.input"),
    }
)
#: The same of sockets, unless they are set not to wait.
_SOCKET_WAITS = frozenset({"accept", "connect", "recv", "recv_into", "recvfrom", "sendall"})
_RUNS = frozenset({trio.run.__code__, trio.from_thread.run.__code__})


class Watch(Observer):
    """Stands before the observer, and sees what it is told and what it does then."""

    def __init__(self, observer: Observer) -> None:
        require(
            isinstance(observer, Observer),  # pyright: ignore[reportUnnecessaryIsInstance]  # that is the check
            f"{shown(observer)} is no Observer: it would lack the hooks of later versions",
        )
        for name in _HOOKS:
            hook = getattr(observer, name)
            require(
                not (
                    inspect.iscoroutinefunction(hook)
                    or inspect.isgeneratorfunction(hook)
                    or inspect.isasyncgenfunction(hook)
                ),
                f"{name} is async or a generator: it must be a plain function, or it never runs",
            )
        self._observer = observer
        self._breaches: list[tuple[str, Exception | None]] = []
        self._lives: dict[str, list[str]] = {}
        self._objects: dict[str, Connection] = {}
        self.opened_connections: list[Connection] = []
        self.failures: list[tuple[Connection, BaseException]] = []
        self.answers: list[tuple[Request | None, Response]] = []

    # --- the hooks ---------------------------------------------------------------------------

    def opened(self, connection: Connection) -> None:
        """Hear that a connection is there."""
        self._note(connection, "opened")
        self.opened_connections.append(connection)
        self._pass("opened", connection)

    def ended(self, connection: Connection, close: Close) -> None:
        """Hear that one has ended."""
        self._note(connection, "ended")
        if connection.closed is None or connection.closed is not close:
            words = f"ended was told {close!r} while closed was {connection.closed!r}"
            self._breaches.append((words, None))
        self._pass("ended", connection, close)

    def handler_failed(self, connection: Connection, error: BaseException) -> None:
        """Hear that a handler raised."""
        self._note(connection, "handler_failed")
        self.failures.append((connection, error))
        self._pass("handler_failed", connection, error)

    def answered(self, request: Request | None, response: Response) -> None:
        """Hear that a request was answered."""
        self.answers.append((request, response))
        self._pass("answered", request, response)

    def _note(self, connection: Connection, what: str) -> None:
        self._lives.setdefault(connection.id, []).append(what)
        if self._objects.setdefault(connection.id, connection) is not connection:
            words = f"{what} was told another object than before for connection {connection.id}"
            self._breaches.append((words, None))

    def _pass(self, name: str, *args: Any) -> None:
        call = f"{name}({', '.join(map(shown, args))})"
        waits: list[str] = []
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                with _listening_for_waits(waits):
                    result = getattr(self._observer, name)(*args)
                plain(name, result)
            except Exception as error:  # noqa: BLE001 - the core would log it
                self._breaches.append((f"{call} raised {error!r}", error))
        unawaited = [str(one.message) for one in caught if "never awaited" in str(one.message)]
        self._breaches += [(f"{call} must not wait, but: {words}", None) for words in unawaited]
        self._breaches += [(f"{call} must not wait, but calls {wait}", None) for wait in waits]

    # --- what came of it ---------------------------------------------------------------------

    def check_breaches(self) -> None:
        """Raise the first thing that a hook, or who called it, did wrong."""
        for words, cause in self._breaches:
            raise AssertionError(words) from cause

    def _check_lives(self) -> None:
        for name, life in self._lives.items():
            counts = Counter(life)
            for hook in ("opened", "ended"):
                require(
                    counts[hook] == 1,
                    f"{hook} was called {counts[hook]} times for the connection {name}: {life}",
                )
            require(life[0] == "opened", f"opened was not the first for {name}: {life}")

    def check_seen(self, *connections: Connection) -> None:
        """Check that these, and no others, were opened and then ended."""
        self._check_lives()
        require(
            Counter(map(id, connections)) == Counter(map(id, self.opened_connections)),
            f"opened was told {self.opened_connections!r}, and there were {connections!r}",
        )


@contextmanager
def _listening_for_waits(waits: list[str]) -> Generator[None]:
    """Note the calls in the block that make a thread wait: Python's profiler hears them."""

    def hear(frame: FrameType, event: str, function: Any) -> None:
        if event == "call" and frame.f_code in _RUNS:
            waits.append(frame.f_code.co_qualname)
        elif event == "c_call":
            module, owner = getattr(function, "__module__", None), getattr(function, "__self__", 0)
            name = f"{module}.{function.__name__}" if module else function.__qualname__
            if name in _WAITS or (
                isinstance(owner, socket.socket)
                and function.__name__ in _SOCKET_WAITS
                and owner.gettimeout() != 0
            ):
                waits.append(name)

    if sys.getprofile() is not None:  # somebody else listens, and there is room for one
        yield
        return
    sys.setprofile(hear)
    try:
        yield
    finally:
        sys.setprofile(None)
