"""Addresses: listeners to serve on, and the URL that leads to them."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable, Sequence
from typing import Any, cast

import trio

from .host import NamedListener, current_host

__all__ = ["is_loopback", "open_listeners", "url_of"]


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
