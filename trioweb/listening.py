"""Addresses: listeners to serve on, and the URL that leads to them."""

from __future__ import annotations

import errno
import ipaddress
import os
import resource
import socket
import stat
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import trio

from .host import NamedListener, current_host

__all__ = ["default_room", "is_loopback", "open_listeners", "open_unix_listener", "url_of"]

#: What a server holds unless told, if there are file descriptors for it.
_ROOM = 10_000

#: As many as the system allows.
_BACKLOG = 2**16 - 1


async def open_listeners(
    port: int, host: str | None
) -> Sequence[trio.abc.Listener[trio.abc.Stream]]:
    """Listen on every address of a host; None or ``""`` means every address of the machine.

    ``localhost`` is 127.0.0.1 and ::1, as far as the machine has them. Port 0 is one free port
    for all addresses. They are `trio.SocketListener` objects, unless a test runs the program on a
    virtual network. Raises `OSError` when an address cannot be had, `ValueError` for a number
    that is no port.
    """
    if not 0 <= port <= 65535:  # else the number wraps in silence
        raise ValueError(f"a port is a number from 0 to 65535, not {port}")
    return await current_host.get().open_listeners(port, host)


def open_unix_listener(
    path: str | Path, *, mode: int = 0o600
) -> trio.abc.Listener[trio.SocketStream]:
    """Listen on a Unix socket, to serve on: ``listeners=[open_unix_listener("/run/app.sock")]``.

    Whoever may write to the file may connect: ``mode`` says who that is, by default this user
    alone. The file of a server that has died is replaced; it is removed when the listener closes.
    Raises `OSError` if somebody listens there, or if the path is something else or not to be had.
    """
    sock = socket.socket(socket.AF_UNIX)
    file = Path(path).absolute()
    bound = False
    try:
        os.fchmod(sock.fileno(), mode)  # what it is made with, less the umask: never more
        try:
            sock.bind(str(path))
        except OSError as error:
            if error.errno != errno.EADDRINUSE or not _is_stale(str(path)):
                raise
            file.unlink(missing_ok=True)
            sock.bind(str(path))
        bound = True
        sock.listen(_BACKLOG)  # at once: a file without a listener looks stale to others
        file.chmod(mode)
        return _UnixListener(sock, file)
    except BaseException:
        sock.close()
        if bound and not str(path).startswith("\0"):  # Linux's names without a file
            file.unlink(missing_ok=True)
        raise


def _is_stale(path: str) -> bool:
    """Tell whether a path is a socket on which nobody listens any more."""
    with suppress(FileNotFoundError):
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            return False
        with socket.socket(socket.AF_UNIX) as probe:
            probe.setblocking(False)  # a full backlog is somebody, too
            return probe.connect_ex(path) in (errno.ECONNREFUSED, errno.ENOENT)
    return True


class _UnixListener(trio.abc.Listener[trio.SocketStream]):
    """A Unix socket that takes its file with it."""

    def __init__(self, sock: socket.socket, file: Path) -> None:
        self._inner = trio.SocketListener(trio.socket.from_stdlib_socket(sock))
        self._file = file
        self._identity = _identity(file)

    async def accept(self) -> trio.SocketStream:
        return await self._inner.accept()

    async def aclose(self) -> None:
        # Before the socket closes: until then nobody else's file can have this identity.
        if self._identity is not None and _identity(self._file) == self._identity:
            self._file.unlink(missing_ok=True)
        self._identity = None
        await self._inner.aclose()


def _identity(file: Path) -> tuple[int, int] | None:
    with suppress(FileNotFoundError):
        status = file.lstat()
        return status.st_dev, status.st_ino
    return None


def default_room() -> int:
    """Return how many connections a server holds unless told (see `ServerOptions`)."""
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if descriptors == resource.RLIM_INFINITY:
        return _ROOM
    return max(1, min(_ROOM, descriptors * 3 // 4))


def _addresses(listeners: Iterable[trio.abc.Listener[trio.abc.Stream]]) -> list[tuple[str, int]]:
    names: list[tuple[str, int]] = []
    for listener in listeners:
        inner: Any = listener
        while isinstance(inner, trio.SSLListener):
            inner = cast("Any", inner).transport_listener
        if isinstance(inner, NamedListener):
            names.append(inner.address)
        elif isinstance(inner, trio.SocketListener):
            sock = inner.socket
            if sock.family in (socket.AF_INET, socket.AF_INET6):
                names.append(sock.getsockname()[:2])
    return names


def is_loopback(listeners: Iterable[trio.abc.Listener[trio.abc.Stream]]) -> bool:
    """Tell whether only this machine can reach the listeners; unknown kinds count as local."""
    addresses = [_ip_address(name) for name, _ in _addresses(listeners)]
    return all(address is None or address.is_loopback for address in addresses)


def url_of(
    listeners: Sequence[trio.abc.Listener[trio.abc.Stream]], host: str | None, *, tls: bool
) -> str | None:
    """Return one ``ws://`` or ``wss://`` address that leads to the listeners.

    None if none of them is a TCP listener.
    """
    tls = tls or any(isinstance(listener, trio.SSLListener) for listener in listeners)
    names = _addresses(listeners)
    if not names:
        return None
    name, port = names[0]
    address = _ip_address(name)
    if address is None:  # a host of a virtual network
        pass
    elif host == "localhost":
        name = host
    elif address.is_unspecified:
        name = "127.0.0.1" if address.version == 4 else "[::1]"
    elif address.version == 6:
        name = f"[{name}]"
    return f"{'wss' if tls else 'ws'}://{name}:{port}"


def _ip_address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None
