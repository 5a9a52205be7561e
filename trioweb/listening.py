"""Listeners: what to serve on, the URL that leads there, and how those who come are taken in."""

from __future__ import annotations

import errno
import ipaddress
import logging
import os
import resource
import socket
import ssl
import stat
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn, cast

import trio

from .forwarded import TrustedProxies, read_proxy_header
from .host import NamedListener, current_host
from .protocol.proxy import Address
from .tls import speak_tls
from .transport import SocketTransport, Transport, adapt, as_tls

__all__ = [
    "accept_all",
    "default_room",
    "enter",
    "is_loopback",
    "name_of",
    "open_listeners",
    "open_unix_listener",
    "url_of",
]

logger = logging.getLogger("trioweb.server")

#: What a server holds unless told, if there are file descriptors for it.
_ROOM = 10_000

#: As many as the system allows.
_BACKLOG = 2**16 - 1

#: What accept(2) says when the system has nothing left, and the seconds until it is asked again.
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})
_PAUSE = 0.1

#: How many of those who wait in line are taken in one turn: then others have theirs.
_AT_ONCE = 32

#: Bytes in the kernel that have not left, up to which it takes more; as Trio has it.
_UNSENT = 2**14


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


async def accept_all(
    listener: trio.abc.Listener[trio.abc.Stream],
    arrived: Callable[[trio.abc.Stream | SocketTransport], None],
    *,
    bare: bool,
) -> NoReturn:
    """Hand over every connection that comes, until cancelled; close the listener then.

    ``bare``: nobody needs a stream, so that what comes by a socket may be a transport already.
    When the system has no descriptor or memory left that is logged, and tried again after 100 ms;
    any other `OSError` is raised.
    """
    async with listener:
        while True:
            try:
                arrived(await listener.accept())
            except OSError as error:
                if error.errno not in _EXHAUSTED:
                    raise
                logger.exception("accepting again in %s seconds", _PAUSE)
                await trio.sleep(_PAUSE)
            else:
                if bare and type(listener) is trio.SocketListener:
                    for transport in _accept_in_line(listener.socket):
                        arrived(transport)


def _accept_in_line(listening: trio.socket.SocketType) -> list[SocketTransport]:
    """Accept those who wait behind one that was accepted: Trio takes a turn for each."""
    found: list[SocketTransport] = []
    if listening.fileno() == -1:  # closed meanwhile
        return found
    same = socket.socket(
        listening.family, listening.type, listening.proto, fileno=listening.fileno()
    )
    try:
        same.setblocking(False)  # whatever `socket.setdefaulttimeout` says
        # Errors end it: the next `accept` meets them, and knows what to do about them.
        with suppress(OSError, trio.BrokenResourceError):
            while len(found) < _AT_ONCE:
                sock, address = same.accept()
                with suppress(OSError, AttributeError):  # a Unix socket, or another system
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT)
                found.append(SocketTransport(sock, address))
    finally:
        same.detach()  # the descriptor is the listener's
    return found


async def enter(
    stream: trio.abc.Stream, context: ssl.SSLContext | None, proxies: TrustedProxies | None
) -> tuple[Transport, str, Address | None]:
    """Read what comes before HTTP: a PROXY header, with the client's address, and TLS.

    Returns what HTTP is spoken on, "http" or "https", and that address. Raises `ProxyHeaderError`,
    `EOFError` and `trio.BrokenResourceError`.
    """
    source: Address | None = None
    if proxies is not None and proxies.proxy_protocol:
        source = await read_proxy_header(stream, proxies)
    if context is not None:
        if isinstance(stream, trio.SocketStream):
            # TLS takes 37 KiB before its first byte: not for those who say nothing at all.
            await trio.lowlevel.wait_readable(stream.socket)
        transport, protocol = await speak_tls(stream, context, server_side=True)
    elif (tls := as_tls(stream)) is not None:
        await tls.do_handshake()
        transport, protocol = adapt(stream), tls.selected_alpn_protocol()
    else:
        return adapt(stream), "http", source
    if protocol not in (None, "http/1.1"):
        await trio.aclose_forcefully(transport)
        raise EOFError("it wants to speak another protocol than HTTP/1.1")
    return transport, "https", source


def name_of(ends: Transport | None) -> str:
    """Name a peer that has no connection yet, for the log."""
    if ends is None:
        return "a peer"
    if isinstance(ends.local_address, (str, bytes)):  # a Unix socket, whose peers have no names
        return f"a peer on {ends.local_address!r}"
    return str(ends.remote_address or "a peer")


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
