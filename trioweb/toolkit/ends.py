"""How the toolkit closes a channel, whichever kind it is."""

from __future__ import annotations

from abc import abstractmethod

import trio

from ..connection import WebSocket
from ..types import CloseCode, Message

__all__ = ["CodedChannel", "close_channel"]


class CodedChannel(trio.abc.Channel[Message]):
    """A channel of messages that can say why it closes; the base of links and adapters."""

    __slots__ = ()

    @abstractmethod
    async def aclose(self, code: int = CloseCode.NORMAL, reason: str = "") -> None:
        """Close with a close code and a reason (RFC 6455, 7.4)."""


async def close_channel(
    channel: trio.abc.AsyncResource, code: int = CloseCode.NORMAL, reason: str = ""
) -> None:
    """Close a channel; the peer hears ``code`` and ``reason`` where the channel can tell them.

    That is on a `WebSocket` and on every `CodedChannel`. Raises `ValueError`, on those, for a code
    that may not be sent or a reason above 123 bytes.
    """
    if isinstance(channel, (WebSocket, CodedChannel)):
        await channel.aclose(code, reason)
    else:
        await channel.aclose()
