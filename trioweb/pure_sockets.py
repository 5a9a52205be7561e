"""Reads and writes of a socket that never wait, in Python: the twin of the native `_sockets`."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable

import trio

__all__ = ["SocketCalls"]


class SocketCalls:
    """The calls of a non-blocking socket; whoever made it owns the descriptor."""

    __slots__ = ("_recv", "_send")

    _recv: Callable[[int], bytes]
    _send: Callable[[bytes | memoryview], int]

    def attach(self, sock: socket.socket) -> None:
        """Use a socket from now on."""
        self._recv = sock.recv
        self._send = sock.send

    def detach(self) -> None:
        """Use it no more: it is about to be closed, and its number given to another."""

    def read_nowait(self, max_bytes: int) -> bytes | None:
        """Return the bytes that are there, ``b""`` at the end, None where one must wait."""
        try:
            return self._recv(max_bytes)
        except BlockingIOError:
            return None
        except OSError as error:
            raise translate(error) from error

    def write_nowait(self, data: bytes | memoryview) -> int:
        """Return how many of the bytes were taken, 0 where one must wait."""
        try:
            return self._send(data)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise translate(error) from error


def translate(error: OSError) -> trio.BrokenResourceError | trio.ClosedResourceError:
    """Return what a transport raises for an error of the system."""
    if error.errno == errno.EBADF:  # we closed it
        return trio.ClosedResourceError("transport is closed")
    return trio.BrokenResourceError(f"{error.strerror or error}")
