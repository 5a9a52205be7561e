"""What the rows about the toolkit have trioweb serve: typed, routed and rate-limited echoes."""

from __future__ import annotations

import msgspec

import trioweb
from trioweb.toolkit.messages import Messages
from trioweb.toolkit.typed import TypedChannel


class Move(msgspec.Struct, tag="move"):
    """What the load sends (`sample.moves`)."""

    x: int
    y: int


class Say(msgspec.Struct, tag="say"):
    """What it might send."""

    text: str


async def move(_: TypedChannel[object], message: Move) -> Move:
    """Echo a message, decoded and encoded."""
    return message


async def say(_: TypedChannel[object], message: Say) -> Say:
    """Do so with another."""
    return message


def typed() -> trioweb.Router:
    """Return a router whose handler echoes by the type of the message."""
    messages = Messages()
    messages.on(Move)(move)
    messages.on(Say)(say)
    return trioweb.Router({"/": messages, "/say": messages})


#: A limit that counts every message and is never reached.
GENEROUS = trioweb.Guard(messages=[trioweb.RateLimit(1e9, burst=1e9)])
