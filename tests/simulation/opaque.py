"""Streams that hide what they can do, as TLS does: the connection's own tasks read and write."""

from __future__ import annotations

import trio


class Opaque(trio.abc.Stream):
    """A stream that can neither be tried without waiting nor half closed, as TLS."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self._stream.receive_some(max_bytes)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self._stream.aclose()


class OpaqueListener(trio.abc.Listener[trio.abc.Stream]):
    """Hides what it accepts."""

    def __init__(self, listener: trio.abc.Listener[trio.abc.Stream]) -> None:
        self._listener = listener

    async def accept(self) -> trio.abc.Stream:
        return Opaque(await self._listener.accept())

    async def aclose(self) -> None:
        await self._listener.aclose()
