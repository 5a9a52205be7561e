"""Handlers by the type of the message, and middleware on messages."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeAlias, TypeVar, Union

import msgspec
import trio

from ..codecs.json import Json
from ..nothing import NOTHING
from ..types import Message
from .typed import Answer, CodecOf, Tolerance, TypedChannel, error_answer

__all__ = ["MessageHandler", "MessageMiddleware", "Messages"]

_M = TypeVar("_M", bound=msgspec.Struct)

#: Takes the context (see `Messages.serve`) and a message. What it returns is the reply, unless it
#: is None.
MessageHandler: TypeAlias = Callable[[Any, _M], Awaitable[object]]

#: Runs around handlers: ``async def log(context, message, next): ...`` calls ``await next(context,
#: message)`` and returns the reply.
MessageMiddleware: TypeAlias = Callable[[Any, Any, MessageHandler[Any]], Awaitable[object]]


class Messages:
    """Handlers by the type of the message; itself a handler of connections.

    ``@messages.on(Move)`` registers one: ``async def move(context, message)``. Types are tagged
    `msgspec.Struct`; together they are what a peer may send. What is none of them, or does not
    validate, is answered with an error and counted, as a `TypedChannel` does with this
    ``tolerance`` and ``answer``. The messages of one connection are handled one after the other, in
    order; what a handler raises ends the connection, as with any handler.

    ``codec`` makes the codec for the union of the types: `Json`, or `MsgPack`. ``middleware`` runs
    around every handler, the first outermost; what it returns is the reply.
    """

    def __init__(
        self,
        *,
        codec: Callable[[Any], CodecOf[Any]] = Json,
        middleware: Sequence[MessageMiddleware] = (),
        tolerance: Tolerance = Tolerance(),
        answer: Answer = error_answer,
    ) -> None:
        self._make = codec
        self._middleware = tuple(middleware)
        self._tolerance = tolerance
        self._answer = answer
        self._handlers: dict[type[msgspec.Struct], MessageHandler[Any]] = {}
        #: Made when it is first wanted.
        self._codec: CodecOf[Any] | None = None

    def on(self, kind: type[_M]) -> Callable[[MessageHandler[_M]], MessageHandler[_M]]:
        """Register the decorated function for messages of one type.

        Raises `ValueError` for a type without a tag, with the tag of another, or with the tag in
        another field. A connection that is open already does not learn new types.
        """

        def register(handler: MessageHandler[_M]) -> MessageHandler[_M]:
            self._add(kind, handler)
            return handler

        return register

    def include(self, other: Messages) -> None:
        """Take over the handlers of another, with the middleware that runs around them there.

        Its codec, tolerance and answer are left out. Raises as `on` does.
        """
        for kind, handler in other._handlers.items():
            self._add(kind, handler)

    @property
    def codec(self) -> CodecOf[Any]:
        """The codec for all types that have a handler now."""
        if self._codec is None:
            if not self._handlers:
                raise RuntimeError("there are no handlers of messages")
            self._codec = self._make(Union[tuple(self._handlers)])  # noqa: UP007 - of a variable
        return self._codec

    def open(self, channel: trio.abc.Channel[Message]) -> TypedChannel[Any]:
        """Return the typed channel over a channel of messages, to send through and to `serve`."""
        return TypedChannel(channel, self.codec, tolerance=self._tolerance, answer=self._answer)

    async def serve(
        self, channel: trio.abc.Channel[Message] | TypedChannel[Any], context: object = None
    ) -> None:
        """Handle the messages of a channel until its end.

        ``context`` is what the handlers get beside the message: whatever they need to know of the
        connection. If it is None they get the `TypedChannel`, whose ``channel`` is the connection.
        Where the context is to send by itself, make it with what `open` returns, and pass that as
        the channel.

        Returns at a clean end; raises what the handlers do, and what the channel's ``receive``
        and ``send`` do at any other end.
        """
        typed: TypedChannel[Any]
        typed = channel if isinstance(channel, TypedChannel) else self.open(channel)
        about = typed if context is None else context
        handlers = self._handlers
        take, offer = typed.take, typed.offer
        while True:
            # As ``async for`` and ``send``, less two coroutines: this runs for every message.
            message = take()
            if message is NOTHING:
                try:
                    message = await typed.receive()
                except trio.EndOfChannel:
                    return
            reply = await handlers[type(message)](about, message)
            if reply is not None and (rest := offer(reply)) is not None:
                await typed.channel.send(rest)

    async def __call__(self, channel: trio.abc.Channel[Message]) -> None:
        """Handle the messages of a connection: `serve` without a context."""
        await self.serve(channel)

    def _add(self, kind: type[msgspec.Struct], handler: MessageHandler[Any]) -> None:
        config = kind.__struct_config__
        if config.tag is None:
            raise ValueError(f"{kind.__name__} has no tag to be known by")
        for other in self._handlers:
            its = other.__struct_config__
            if its.tag_field != config.tag_field:
                raise ValueError(
                    f"{kind.__name__} has its tag in {config.tag_field!r}, {other.__name__} "
                    f"in {its.tag_field!r}"
                )
            if its.tag == config.tag:
                raise ValueError(f"{kind.__name__} and {other.__name__} have one tag, {its.tag!r}")
        for one in reversed(self._middleware):
            handler = _around(one, handler)
        self._handlers[kind] = handler
        self._codec = None


def _around(middleware: MessageMiddleware, handler: MessageHandler[Any]) -> MessageHandler[Any]:
    return lambda context, message: middleware(context, message, handler)
