"""One interface over what carries the bytes.

A *non-blocking* transport (a socket, TLS on one, a virtual network) can be read and written without
waiting; then the task that wants a message reads it itself, and a message is written by the task
that sends it. Any other `trio.abc.Stream` is adapted, and its reading and writing are left to the
connection's own tasks, since cancelling those may break a stream.

Every transport raises `trio.BrokenResourceError` when the link is broken, and
`trio.ClosedResourceError` after `aclose`.
"""

from __future__ import annotations

import contextlib
import socket
from abc import abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import trio

from .protocol.framer import framer
from .pure_sockets import translate
from .types import Message

if TYPE_CHECKING or framer() == "pure":
    from .pure_sockets import SocketCalls
else:
    try:
        from ._sockets import SocketCalls
    except ImportError:  # each native module is optional by itself
        from .pure_sockets import SocketCalls

__all__ = [
    "HEAD_READ",
    "NonblockingTransport",
    "SocketTransport",
    "StreamTransport",
    "Transport",
    "adapt",
    "as_tls",
    "host_and_port",
]

#: Bytes to read at once of the head of a request or a response: memory for more is dear.
HEAD_READ = 2**14

#: A piece of an adapted stream: `Timeouts.write` counts progress by these.
_PIECE = 2**14


class Transport(trio.abc.AsyncResource):
    """Carries bytes both ways. One task reads at a time, and one writes.

    Every async call runs a checkpoint. `trioweb.testing.contracts` checks all this.
    """

    #: As ``getsockname`` and ``getpeername`` give them; None where that has no meaning.
    local_address: Any = None
    remote_address: Any = None
    #: Whether `send_eof` can tell the peer that nothing more comes; else only `aclose` can.
    half_closes: bool = True

    @abstractmethod
    async def read(self, max_bytes: int) -> bytes:
        """Wait for bytes, at most so many; ``b""`` is the end, and comes again and again."""

    @abstractmethod
    async def write(self, data: bytes | memoryview) -> int:
        """Wait until some of the bytes are taken, at least one; return how many."""

    @abstractmethod
    async def send_eof(self) -> None:
        """Tell the peer that nothing more comes; unless it `half_closes`, do nothing."""

    @abstractmethod
    async def aclose(self) -> None:
        """Close the transport, and wake who waits in it; when cancelled, close it at once."""

    async def end_writing(self) -> bool:
        """Send an end that the peer sees while somebody reads on; False where that cannot be.

        Only behind a close frame: under TLS its own goodbye, without which the peer could not
        tell an end from a cut, is left out, for Trio cannot say it while a task reads.
        """
        await self.send_eof()
        return self.half_closes

    async def linger(self) -> None:
        """Say that nothing more comes, and throw away what does until the peer has ended too.

        Closing on bytes that nobody read resets a link, and that overtakes what was written just
        before (RFC 9112, 9.6). The caller sets the deadline, and closes the transport.
        """
        await self.send_eof()
        while self.half_closes and await self.read(_PIECE):
            pass


class NonblockingTransport(Transport):
    """A transport that can be tried without waiting."""

    @abstractmethod
    def read_nowait(self, max_bytes: int) -> bytes | None:
        """Return the bytes that are there, ``b""`` at the end, None where one must wait."""

    def borrow_nowait(self, max_bytes: int) -> bytes | memoryview | None:
        """Do as `read_nowait`; what is returned may be valid only until the next read of any.

        Whoever calls this copies what it keeps before others run.
        """
        return self.read_nowait(max_bytes)

    @abstractmethod
    async def wait_readable(self) -> None:
        """Wait until `read_nowait` may have something, an `interrupt`, or the transport's end."""

    @abstractmethod
    def write_nowait(self, data: bytes | memoryview) -> int:
        """Return how many of the bytes were taken, 0 where one must wait."""

    #: How many bytes may have left although `write_nowait` has not said so. Above 0 what it did not
    #: take must come again before anything else, or nothing at all (TLS encrypts whole pieces).
    holds: int = 0

    #: Does as `write_nowait` with a head and a large body, which is not copied; None: it cannot.
    write_both_nowait: Callable[[bytes, Message], int] | None = None

    @abstractmethod
    async def wait_writable(self) -> None:
        """Wait until `write_nowait` may take something, an `interrupt`, or the transport's end."""

    @abstractmethod
    def interrupt(self) -> None:
        """Wake whoever waits in `wait_readable` or `wait_writable`."""

    @abstractmethod
    def close(self) -> None:
        """Close the transport at once."""

    async def read(self, max_bytes: int) -> bytes:
        """Wait for bytes; cancelling it loses none."""
        await trio.lowlevel.checkpoint()
        while True:
            data = self.read_nowait(max_bytes)
            if data is not None:
                return data
            await self.wait_readable()

    async def write(self, data: bytes | memoryview) -> int:
        """Wait until some of the bytes are taken."""
        await trio.lowlevel.checkpoint()
        while True:
            taken = self.write_nowait(data)
            if taken:
                return taken
            await self.wait_writable()

    async def aclose(self) -> None:
        """Close the transport at once."""
        self.close()
        await trio.lowlevel.checkpoint()


class SocketTransport(SocketCalls, NonblockingTransport):
    """A connected stream socket; takes it over and closes it."""

    __slots__ = ("_socket", "_waiting", "local_address", "remote_address")

    def __init__(self, sock: socket.socket, remote_address: Any = None) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._waiting = 0
        self.attach(sock)
        try:
            self.local_address = sock.getsockname()
        except OSError as error:
            raise translate(error) from error
        self.remote_address = remote_address
        if remote_address is None:
            with contextlib.suppress(OSError):  # a peer that is gone already is found by the read
                self.remote_address = sock.getpeername()

    @classmethod
    def from_stream(cls, stream: trio.SocketStream) -> SocketTransport:
        """Take the socket out of a stream, which is closed by that."""
        inner = stream.socket
        family, kind, proto = inner.family, inner.type, inner.proto
        return cls(socket.socket(family, kind, proto, fileno=inner.detach()))

    async def wait_readable(self) -> None:
        self._waiting += 1
        try:
            await trio.lowlevel.wait_readable(self._descriptor())
        except (trio.ClosedResourceError, OSError):
            await trio.lowlevel.checkpoint()  # interrupted or closed: the next try tells
        finally:
            self._waiting -= 1

    async def wait_writable(self) -> None:
        self._waiting += 1
        try:
            await trio.lowlevel.wait_writable(self._descriptor())
        except (trio.ClosedResourceError, OSError):
            await trio.lowlevel.checkpoint()
        finally:
            self._waiting -= 1

    async def send_eof(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)
        await trio.lowlevel.checkpoint()

    def _descriptor(self) -> int:
        descriptor = self._socket.fileno()
        if descriptor == -1:  # Trio would remember a waiter for that, and find the next one busy
            raise trio.ClosedResourceError("transport is closed")
        return descriptor

    def interrupt(self) -> None:
        if self._waiting and self._socket.fileno() != -1:
            trio.lowlevel.notify_closing(self._socket)

    def close(self) -> None:
        self.interrupt()
        self.detach()
        self._socket.close()


class StreamTransport(Transport):
    """Any `trio.abc.Stream`; takes it over and closes it."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._ended = False
        self.half_closes = isinstance(stream, trio.abc.HalfCloseableStream)
        inner = stream
        while (tls := as_tls(inner)) is not None:
            inner = tls.transport_stream
        self._innermost = inner
        if isinstance(inner, Transport):
            self.local_address = inner.local_address
            self.remote_address = inner.remote_address
        elif isinstance(inner, trio.SocketStream):
            with contextlib.suppress(OSError):
                self.local_address = inner.socket.getsockname()
                self.remote_address = inner.socket.getpeername()

    async def read(self, max_bytes: int) -> bytes:
        try:
            data = bytes(await self._stream.receive_some(max_bytes))
        except trio.BrokenResourceError:
            if not self._ended:
                raise
            # Behind an end without a goodbye TLS has nothing more to say, and says so thus.
            await trio.lowlevel.checkpoint()
            return b""
        self._ended = not data
        return data

    async def write(self, data: bytes | memoryview) -> int:
        piece = data[:_PIECE]
        await self._stream.send_all(piece)
        return len(piece)

    async def send_eof(self) -> None:
        await self._end(self._stream)

    async def end_writing(self) -> bool:
        return await self._end(self._innermost)

    async def _end(self, stream: trio.abc.Stream) -> bool:
        if not isinstance(stream, trio.abc.HalfCloseableStream):
            await trio.lowlevel.checkpoint()
            return False
        try:
            await stream.send_eof()
        except trio.BusyResourceError:  # TLS has something to say of its own
            return False
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        return True

    async def linger(self) -> None:
        tls = as_tls(self._stream)
        if tls is None:
            await super().linger()
            return
        # TLS cannot end one direction and read on in the other: from its end we read below it.
        inner = tls.transport_stream
        try:
            with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await tls.unwrap()
            with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                if isinstance(inner, trio.abc.HalfCloseableStream):
                    await inner.send_eof()
                while await inner.receive_some(_PIECE):
                    pass
        finally:
            await trio.aclose_forcefully(inner)  # `tls` no longer has it, and would leave it open

    async def aclose(self) -> None:
        # A peer that went away without a TLS goodbye is no error: the close frames were it.
        # Nor is a second task of ours that closes it meanwhile.
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await self._stream.aclose()


def adapt(stream: trio.abc.Stream | Transport) -> Transport:
    """Return the best transport for a stream, and take the stream over.

    A stream that is a `Transport` itself stays as it is.
    """
    if isinstance(stream, Transport):
        return stream
    if type(stream) is trio.SocketStream:
        return SocketTransport.from_stream(stream)
    return StreamTransport(stream)


def host_and_port(address: Any) -> tuple[str, int] | None:
    """Return what an address of a transport begins with; None for one of another kind."""
    return (str(address[0]), int(address[1])) if isinstance(address, tuple) else None  # pyright: ignore[reportUnknownArgumentType]  # as the system gives it


def as_tls(stream: trio.abc.Stream) -> trio.SSLStream[trio.abc.Stream] | None:
    """Return the stream if it speaks TLS."""
    if isinstance(stream, trio.SSLStream):
        return cast("trio.SSLStream[trio.abc.Stream]", stream)
    return None
