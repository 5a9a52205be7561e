"""Addresses: listeners to serve on, and the URL that leads to them."""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any, cast

import trio

__all__ = ["is_loopback", "open_listeners", "url_of"]

#: Names that stand for an address of each family; the second may be missing.
_BOTH: dict[str | None, list[str | None]] = {
    "localhost": ["127.0.0.1", "::1"],
    None: ["0.0.0.0", "::"],  # noqa: S104 - what None says
}

#: How often a port that is free on one family of addresses may be taken on the other.
_TRIES = 20


async def open_listeners(port: int, host: str | None) -> list[trio.SocketListener]:
    """Listen on every address of a host; None or ``""`` means every address of the machine.

    ``localhost`` is 127.0.0.1 and ::1, as far as the machine has them. Port 0 is one free port
    for all addresses. Raises `OSError` when an address cannot be had,
    `ValueError` for a number that is no port.
    """
    if not 0 <= port <= 65535:  # else the number wraps in silence
        raise ValueError(f"a port is a number from 0 to 65535, not {port}")
    names = _BOTH.get(host or None, [host])
    if port != 0 or len(names) == 1:
        return await _listen(names, port)
    for _ in range(_TRIES - 1):
        with suppress(OSError):
            return await _listen(names, 0)
    return await _listen(names, 0)


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


def _addresses(listeners: Iterable[trio.abc.Listener[trio.abc.Stream]]) -> list[tuple[str, int]]:
    names: list[tuple[str, int]] = []
    for listener in listeners:
        inner: Any = listener
        while isinstance(inner, trio.SSLListener):
            inner = cast("Any", inner).transport_listener
        if isinstance(inner, trio.SocketListener):
            sock = inner.socket
            if sock.family in (socket.AF_INET, socket.AF_INET6):
                names.append(sock.getsockname()[:2])
    return names


def is_loopback(listeners: Iterable[trio.abc.Listener[trio.abc.Stream]]) -> bool:
    """Tell whether only this machine can reach the listeners; unknown kinds count as local."""
    return all(ipaddress.ip_address(host).is_loopback for host, _ in _addresses(listeners))


def url_of(
    listeners: Sequence[trio.abc.Listener[trio.abc.Stream]], host: str | None, *, tls: bool
) -> str:
    """Return one ``ws://`` or ``wss://`` address that leads to the listeners.

    Raises `ValueError` if none of them is a TCP listener.
    """
    tls = tls or any(isinstance(listener, trio.SSLListener) for listener in listeners)
    names = _addresses(listeners)
    if not names:
        raise ValueError("no TCP listener among the listeners: they have no URL")
    address, port = names[0]
    if host == "localhost":
        address = host
    elif ipaddress.ip_address(address).is_unspecified:
        address = "127.0.0.1" if ":" not in address else "[::1]"
    elif ":" in address:
        address = f"[{address}]"
    return f"{'wss' if tls else 'ws'}://{address}:{port}"
