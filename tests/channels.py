"""Channels of messages without a WebSocket, for the toolkit's tests."""

from __future__ import annotations

import math

import trio

from trioweb import Message


class MemoryChannel(trio.abc.Channel[Message]):
    """One end of two memory channels, which knows nothing but what `trio.abc.Channel` says."""

    def __init__(
        self, sender: trio.MemorySendChannel[Message], receiver: trio.MemoryReceiveChannel[Message]
    ) -> None:
        self.sender = sender
        self.receiver = receiver

    async def send(self, value: Message) -> None:
        await self.sender.send(value)

    async def receive(self) -> Message:
        return await self.receiver.receive()

    async def aclose(self) -> None:
        self.sender.close()
        self.receiver.close()
        await trio.lowlevel.checkpoint()


class EagerChannel(MemoryChannel):
    """One that can be sent to without waiting, too."""

    def send_nowait(self, value: Message) -> None:
        self.sender.send_nowait(value)


def channel_pair(
    size: float = math.inf, *, eager: bool = False
) -> tuple[MemoryChannel, MemoryChannel]:
    """Return the two ends of a connection in memory, which holds so many messages each way."""
    kind = EagerChannel if eager else MemoryChannel
    there = trio.open_memory_channel[Message](size)
    back = trio.open_memory_channel[Message](size)
    return kind(there[0], back[1]), kind(back[0], there[1])
