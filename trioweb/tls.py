"""TLS over a transport that can be tried without waiting, and can then be tried itself.

`trio.SSLStream` must not be cancelled in the midst of a read or a write, so that it needs tasks of
its own for both. Here OpenSSL works on memory alone, and nothing is ever under way.
"""

from __future__ import annotations

import ssl
from contextlib import suppress

import trio

from .transport import NonblockingTransport, StreamTransport, Transport, adapt

__all__ = ["TlsTransport", "speak_tls"]

#: The most bytes in one record (RFC 8446, 5.1). OpenSSL reads records one by one, and
#: `Timeouts.write` counts progress by them.
_RECORD = 2**14
#: Bytes that may wait before nothing more is read: a record, and what TLS itself answers.
_MOST_UNSENT = 2**17
#: How much is read from below at once.
_READ = 2**16


async def speak_tls(
    stream: trio.abc.Stream,
    context: ssl.SSLContext,
    *,
    server_side: bool = False,
    server_hostname: str | None = None,
) -> tuple[Transport, str | None]:
    """Shake hands on a stream; return the transport, and the protocol that ALPN agreed on.

    Takes the stream over, and closes it when cancelled, or with a `trio.BrokenResourceError`.
    """
    below = adapt(stream)
    try:
        if isinstance(below, NonblockingTransport):
            transport = TlsTransport(
                below, context, server_side=server_side, server_hostname=server_hostname
            )
            await transport.do_handshake()
            return transport, transport.protocol
        tls = trio.SSLStream(
            stream,
            context,
            server_side=server_side,
            server_hostname=server_hostname,
            https_compatible=not server_side,
        )
        await tls.do_handshake()
        return StreamTransport(tls), tls.selected_alpn_protocol()
    except BaseException:
        with trio.CancelScope(shield=True):  # what is on its way goes on
            await trio.aclose_forcefully(below)
        raise


class TlsTransport(NonblockingTransport):
    """TLS on a `NonblockingTransport`, which it takes over.

    `do_handshake` must come first. A peer that closes without a goodbye (close_notify) has ended
    like any other: where a message ends the WebSocket protocol says itself, and so does HTTP. A
    peer that renegotiates (TLS 1.2) while we write breaks the connection, as in HTTP/2.
    """

    half_closes = False
    holds = _RECORD

    def __init__(
        self,
        below: NonblockingTransport,
        context: ssl.SSLContext,
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
    ) -> None:
        self._below = below
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(
            self._incoming, self._outgoing, server_side=server_side, server_hostname=server_hostname
        )
        self.local_address = below.local_address
        self.remote_address = below.remote_address
        #: What is encrypted, and not yet taken by the transport below.
        self._unsent = memoryview(b"")
        #: Bytes of a write that are in there. They count as taken when it is gone: until then
        #: whoever writes is to come back with them, for nobody else would see to the rest.
        self._held = 0
        #: Whether OpenSSL has said that it needs more bytes; it may have read some ahead.
        self._dry = False
        self._ended = False
        #: What is wrong with what came, behind all that was right.
        self._failed: ssl.SSLError | None = None
        self._is_up = False
        self._is_closed = False

    @property
    def protocol(self) -> str | None:
        """What ALPN agreed on; None: nothing (RFC 7301)."""
        return self._tls.selected_alpn_protocol()

    async def do_handshake(self) -> None:
        """Shake hands; raises `trio.BrokenResourceError`, with OpenSSL's error as its cause."""
        while not self._is_up:
            try:
                self._tls.do_handshake()
                self._is_up = True
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError as error:
                with suppress(trio.BrokenResourceError):
                    self._push()  # the alert that tells the peer why
                raise _broken(error) from error
            while not self._push():
                await self._below.wait_writable()
            if not self._is_up:
                self._feed(await self._below.read(_READ))
        await trio.lowlevel.checkpoint()

    def read_nowait(self, max_bytes: int) -> bytes | None:
        self._check()
        if len(self._unsent) > _MOST_UNSENT:
            raise trio.BrokenResourceError("the peer takes nothing of what TLS itself has to say")
        data = self._decrypt(max_bytes)
        if data is None:
            # Once: a peer could go on for ever with records that hold nothing for us.
            fresh = self._below.read_nowait(_READ)
            if fresh is not None:
                self._feed(fresh)
                data = self._decrypt(max_bytes)
        if self._outgoing.pending or self._unsent:  # an answer of TLS itself
            with suppress(trio.BrokenResourceError):  # which is no matter of a read
                self._push()
        return data

    async def wait_readable(self) -> None:
        self._check()
        if self._ended or self._failed or not self._dry:
            await trio.lowlevel.checkpoint()
        else:
            await self._below.wait_readable()

    def write_nowait(self, data: bytes | memoryview) -> int:
        self._check()
        taken = 0
        while self._push():
            taken += self._release(len(data) - taken)
            if taken == len(data):
                break
            piece = data[taken : taken + _RECORD]
            try:
                self._held = self._tls.write(piece)
            except ssl.SSLError as error:
                raise _broken(error) from error
        return taken

    async def wait_writable(self) -> None:
        self._check()
        await self._below.wait_writable()

    def interrupt(self) -> None:
        self._below.interrupt()

    async def send_eof(self) -> None:
        await trio.lowlevel.checkpoint()

    async def end_writing(self) -> bool:
        # Without a goodbye: OpenSSL reads no more data behind it.
        return await self._below.end_writing()

    async def linger(self) -> None:
        self._say_goodbye()
        with suppress(trio.BrokenResourceError):  # a peer that left it unread resets the link
            while not self._push():
                await self._below.wait_writable()
            await self._below.linger()

    def close(self) -> None:
        if not self._is_closed:
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                self._say_goodbye()
                self._push()
            self._is_closed = True
        self._below.close()

    def _check(self) -> None:
        if self._is_closed:
            raise trio.ClosedResourceError("transport is closed")

    def _feed(self, data: bytes) -> None:
        """Take bytes from below, or their end."""
        if data:
            self._incoming.write(data)
        elif self._is_up:  # not for OpenSSL, which would answer with an alert
            self._ended = True
        else:
            self._incoming.write_eof()
        self._dry = False

    def _decrypt(self, max_bytes: int) -> bytes | None:
        """Return what is here; None if it is not enough."""
        parts: list[bytes] = []
        left = max_bytes
        while left and not (self._dry or self._ended or self._failed):
            try:
                part = self._tls.read(min(left, _RECORD))
            except ssl.SSLWantReadError:
                self._dry = True
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                self._ended = True
            except ssl.SSLError as error:
                self._failed = error.with_traceback(None)  # which leads back to this
            else:
                self._ended = not part  # a goodbye
                parts.append(part)
                left -= len(part)
        if parts:
            return parts[0] if len(parts) == 1 else b"".join(parts)
        if self._failed is not None:
            with suppress(trio.BrokenResourceError):
                self._push()  # the alert that tells the peer why
            raise _broken(self._failed) from self._failed
        return b"" if self._ended else None

    def _push(self) -> bool:
        """Give what is encrypted to the transport below; return whether it took all."""
        if self._outgoing.pending:
            rest = bytes(self._unsent) if self._unsent else b""
            self._unsent = memoryview(rest + self._outgoing.read())
        if self._unsent:
            self._unsent = self._unsent[self._below.write_nowait(self._unsent) :]
        return not self._unsent

    def _release(self, most: int) -> int:
        """Return how many bytes of a write are gone, that were held until now."""
        count = min(self._held, most)
        self._held -= count
        return count

    def _say_goodbye(self) -> None:
        """Encrypt a close_notify, once."""
        if self._is_up:
            self._is_up = False
            with suppress(ssl.SSLError):  # the peer's goodbye is not here, as a rule
                self._tls.unwrap()


def _broken(error: ssl.SSLError) -> trio.BrokenResourceError:
    return trio.BrokenResourceError(f"TLS failed: {error}")
