"""One end of a connection under `check_transport`: every call is checked and remembered."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Awaitable, Callable
from typing import Generic, NamedTuple, TypeVar

import trio
from trio.testing import MockClock, assert_checkpoints

from ...transport import NonblockingTransport, Transport
from .promises import plain, require, shown

__all__ = ["FLOOD", "PIECE", "Flow", "NonblockingEnd", "Promise", "TransportEnd", "Vigil"]

_T = TypeVar("_T")
_Near = TypeVar("_Near", bound="TransportEnd")

#: The largest read and write.
PIECE = 2**16
#: More than any honest transport holds.
FLOOD = 2**26

#: How much crosses each way at least, in bytes or writes.
_LENGTH = 2**16
_WRITES = 150

#: What crosses, over and over; its length has no factor in common with that of buffers.
_NOISE = random.Random(0).randbytes(PIECE + 1)  # noqa: S311 - noise that can be repeated
_TWICE = memoryview(_NOISE * 2)

#: Turns of the scheduler without any call's end, after which tasks spin: in virtual time no
#: deadline comes while they do.
_TURNS = 10_000


class Promise(NamedTuple, Generic[_Near]):
    """What holds between the near end of a connection and the far one."""

    words: str
    check: Callable[[_Near, TransportEnd], Awaitable[None]]
    #: Whether writes must come to wait for it.
    fills: bool = False


class Vigil(trio.abc.Instrument):
    """Cancels its scope when it has lasted too long, or tasks spin; tells which calls went on."""

    def __init__(self, patience: float) -> None:
        self.scope = trio.CancelScope(deadline=trio.current_time() + patience)
        self._turns = 0
        self._patience = patience
        self._spins = False
        self._unfinished: list[str] = []

    def __enter__(self) -> None:
        # Where time goes on by itself the deadline comes anyhow, and a turn may be somebody else's.
        if isinstance(trio.lowlevel.current_clock(), MockClock):
            trio.lowlevel.add_instrument(self)

    def __exit__(self, *_error: object) -> None:
        if isinstance(trio.lowlevel.current_clock(), MockClock):
            trio.lowlevel.remove_instrument(self)

    def before_io_wait(self, timeout: float) -> None:  # noqa: ARG002 - nothing depends on it
        """Count a turn of the scheduler."""
        self._turns += 1
        if self._turns > _TURNS and not self._spins:
            self._spins = True
            self.scope.cancel()

    async def watch(self, what: str, call: Awaitable[_T]) -> _T:
        """Await a call, which must run a checkpoint."""
        try:
            with assert_checkpoints():
                result = await call
        except trio.Cancelled:
            if self.scope.cancel_called:
                self._unfinished.append(what)
            raise
        except AssertionError as error:
            own = "did not yield" in str(error)  # else the transport's
            raise AssertionError(f"{what} {'ran no checkpoint' if own else error}") from error
        self._turns = 0
        return result

    def report(self) -> str:
        """Say what went on when it was too much."""
        how = "it spins" if self._spins else f"not over after {self._patience} s"
        return f"{how}, in {' and '.join(self._unfinished) or 'no call at all'}"


class Flow:
    """One direction of a connection: how far it has been written, and read."""

    def __init__(self) -> None:
        self.sent = 0
        self.received = 0
        self.writes = 0
        #: How much more may arrive than was taken.
        self.held = 0
        #: Where it ends, as soon as that is known.
        self.last: int | None = None

    def upcoming(self, size: int) -> memoryview:
        """Return the bytes to write next."""
        start = self.sent % len(_NOISE)
        return _TWICE[start : start + size]

    def take(self, what: str, taken: int, least: int, most: int) -> int:
        """Hear how many of the bytes were taken."""
        require(least <= taken <= most, f"{what} says that it took {taken!r} of {most} bytes")
        self.sent += taken
        self.writes += 1
        return taken

    def arrive(self, what: str, data: bytes) -> None:
        """Compare what was read with what was written there."""
        start = self.received % len(_NOISE)
        wanted = bytes(_TWICE[start : start + len(data)])
        if data != wanted:
            at = next(at for at, byte in enumerate(data) if byte != wanted[at])
            raise AssertionError(f"{what}: byte {self.received + at:,} is not the one written")
        self.received += len(data)


class TransportEnd:
    """One end; its methods are the transport's, with the promises that hold for any call."""

    def __init__(
        self, name: str, transport: Transport, outgoing: Flow, incoming: Flow, vigil: Vigil
    ) -> None:
        require(isinstance(transport, Transport), f"{shown(transport)} is no Transport")  # pyright: ignore[reportUnnecessaryIsInstance]  # that is the check
        self.name = name
        self.transport = transport
        self.outgoing = outgoing
        self.incoming = incoming
        if isinstance(transport, NonblockingTransport):
            outgoing.held = transport.holds
        self._vigil = vigil
        self._chance = random.Random(name)  # noqa: S311 - chance that can be repeated

    async def read(self, max_bytes: int = PIECE) -> bytes:
        """Read once."""
        what = f"{self.name}.read({max_bytes})"
        data = await self._vigil.watch(what, self.transport.read(max_bytes))
        return self._came(what, data, max_bytes)

    async def write(self, size: int = 1000) -> int:
        """Write the next bytes once."""
        what = f"{self.name}.write({size} bytes)"
        taken = await self._vigil.watch(what, self.transport.write(self._next(size)))
        return self.outgoing.take(what, taken, 1, size)

    async def send_eof(self) -> None:
        """Send the end."""
        await self._vigil.watch(f"{self.name}.send_eof()", self.transport.send_eof())

    async def aclose(self) -> None:
        """Close."""
        await self._vigil.watch(f"{self.name}.aclose()", self.transport.aclose())

    async def send(self, size: int) -> None:
        """Write so many bytes, in pieces of every size."""
        end = self.outgoing.sent + size
        while (left := end - self.outgoing.sent) > 0:
            await self.write(min(left, self._piece()))

    async def receive(self, size: int) -> None:
        """Read so many bytes, in pieces of every size."""
        end = self.incoming.received + size
        while (left := end - self.incoming.received) > 0:
            require(await self.read(self._piece()), f"{self.name}.read: {left} bytes are missing")

    async def send_stream(self) -> None:
        """Write a lot, in pieces of every size."""
        while self._more():
            await self.write(self._piece())
        await self.write(1)

    async def receive_stream(self) -> None:
        """Read what the peer's `send_stream` writes."""
        while self._wants_more():
            require(await self.read(self._piece()), f"{self.name}.read came to an end too early")

    async def receive_rest(self) -> None:
        """Read to the end, before which all that was written must come."""
        while await self.read(self._piece()):
            pass
        sent, received = self.incoming.sent, self.incoming.received
        told = f"{self.name}.read came to the end at {received}, not at {sent}"
        require(sent <= received <= sent + self.incoming.held, told)
        for _ in range(2):
            data = await self.read()
            require(not data, f"{self.name}.read gave {data!r} after the end")

    async def flood(self) -> None:
        """Write for ever."""
        start = self.outgoing.sent
        while self.outgoing.sent < start + FLOOD:
            await self.write(PIECE)
        raise AssertionError(f"{self.name}.write took {FLOOD:,} bytes that nobody read")

    async def expect_peer_closed(self) -> None:
        """Find by reading that the peer has closed, though nothing was sent."""
        with contextlib.suppress(trio.BrokenResourceError):
            await self.read()

    def _more(self) -> bool:
        """Tell whether to write more than one last byte; a reader can then wait for that."""
        flow = self.outgoing
        if flow.sent < _LENGTH and flow.writes < _WRITES:
            return True
        flow.last = flow.sent + 1
        return False

    def _wants_more(self) -> bool:
        """Tell whether more of the peer's stream is due, beyond which nothing may come."""
        flow = self.incoming
        if flow.last is None or flow.received < flow.last:
            return True
        beyond = flow.received - flow.last
        require(beyond <= flow.held, f"{self.name}.read: {beyond} bytes more than were written")
        return False

    def _next(self, size: int) -> bytes | memoryview:
        data = self.outgoing.upcoming(size)
        return data if self._chance.random() < 0.5 else bytes(data)  # both are allowed

    def _piece(self) -> int:
        return int(2 ** self._chance.uniform(0, 15))

    def _came(self, what: str, data: bytes, max_bytes: int) -> bytes:
        require(isinstance(data, bytes), f"{what} gave a {type(data).__name__}, not bytes")  # pyright: ignore[reportUnnecessaryIsInstance]  # that is the check
        require(len(data) <= max_bytes, f"{what} gave {len(data)} bytes")
        self.incoming.arrive(what, data)
        return data


class NonblockingEnd(TransportEnd):
    """One end that can be tried without waiting."""

    transport: NonblockingTransport

    def read_nowait(self, max_bytes: int = PIECE) -> bytes | None:
        """Try to read."""
        what = f"{self.name}.read_nowait({max_bytes})"
        data = plain(what, self.transport.read_nowait(max_bytes))
        return None if data is None else self._came(what, data, max_bytes)

    def write_nowait(self, size: int = 1000) -> int:
        """Try to write the next bytes."""
        what = f"{self.name}.write_nowait({size} bytes)"
        taken = plain(what, self.transport.write_nowait(self._next(size)))
        return self.outgoing.take(what, taken, 0, size)

    async def try_to_send_stream(self) -> None:
        """Send as `send_stream` does."""
        while self._more():
            if not self.write_nowait(self._piece()):
                await self.wait_writable()
        await self.write(1)

    async def try_to_receive_stream(self) -> None:
        """Receive as `receive_stream` does."""
        while self._wants_more():
            data = self.read_nowait(self._piece())
            require(data != b"", f"{self.name}.read_nowait came to an end too early")
            if data is None:
                await self.wait_readable()

    async def wait_readable(self) -> None:
        """Wait until there may be something."""
        await self._vigil.watch(f"{self.name}.wait_readable()", self.transport.wait_readable())

    async def wait_writable(self) -> None:
        """Wait until there may be room."""
        await self._vigil.watch(f"{self.name}.wait_writable()", self.transport.wait_writable())

    def interrupt(self) -> None:
        """Wake who waits."""
        plain(f"{self.name}.interrupt()", self.transport.interrupt())

    def close(self) -> None:
        """Close at once."""
        plain(f"{self.name}.close()", self.transport.close())
