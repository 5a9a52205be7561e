"""One end of one connection, which carries out its part of a program."""

from __future__ import annotations

import contextlib
import functools
import math

import trio

from tests.simulation.ledger import LEEWAY, Ledger, Verdict
from tests.simulation.program import (
    Action,
    Ending,
    How,
    Part,
    Ping,
    Program,
    Send,
    Sleep,
    Taking,
    WaitWritten,
)
from trioweb import (
    ConnectionClosedByUs,
    ConnectionEnded,
    EndOfChannel,
    MessageReader,
    Overflow,
    WebSocket,
    broadcast,
)
from trioweb.testing.steps import cancelled_at
from trioweb.types import Message

#: The peer's codes that end `receive` cleanly.
CLEAN = (1000, 1001, 1005)
#: What a frame has beside its payload, at most.
HEADER = 14


class Boom(Exception):
    """What a part raises."""


class Actor:
    """Sends, receives and ends as told; everything unexpected goes to the verdict."""

    def __init__(
        self,
        program: Program,
        part: Part,
        ws: WebSocket,
        outgoing: Ledger,
        incoming: Ledger,
    ) -> None:
        self.part = part
        self.ws = ws
        #: What it raises, if its part says so.
        self.boom = Boom(outgoing.name)
        self._program = program
        self._outgoing = outgoing
        self._incoming = incoming
        self._verdict: Verdict = outgoing.verdict
        self._ended = trio.Event()
        #: The message that it receives in pieces, and those that have come.
        self._reader: MessageReader | None = None
        self._pieces: list[Message] = []
        #: Whether the peer has closed cleanly, so that nothing may be missing.
        self.heard_all = False

    async def run(self) -> None:
        """Play the part; raises `Boom` if that is its ending."""
        part = self.part
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._receive)
            async with trio.open_nursery() as senders:
                for number in range(part.senders):
                    senders.start_soon(self._act, part.actions[number :: part.senders])
            if part.ending is Ending.STAY:
                await self._ended.wait()
            elif part.ending is Ending.ACLOSE:
                await self._aclose()
            elif part.ending is Ending.ACLOSE_CANCELLED:
                await cancelled_at(part.cancel_at, self._aclose)
            nursery.cancel_scope.cancel()
        if part.ending is Ending.RAISE:
            raise self.boom

    async def _act(self, actions: tuple[Action, ...]) -> None:
        try:
            for action in actions:
                await self._do(action)
                self._check_bounds()
        except ConnectionEnded as error:
            self._check_end(error)

    async def _do(self, action: Action) -> None:
        match action:
            case Send():
                await self._send(action)
            case Sleep(seconds):
                await trio.sleep(seconds)
            case Ping(cancel_at):
                await self._maybe_cancelled(cancel_at, self.ws.ping)
            case WaitWritten(cancel_at):
                await self._maybe_cancelled(cancel_at, self.ws.wait_written)

    async def _send(self, action: Send) -> None:
        message = self._outgoing.make(action.size, text=action.text)
        if action.how is How.STREAM:
            await self._send_stream(message)
            return
        if action.how is How.SEND:
            taken = await self._maybe_cancelled(action.cancel_at, self.ws.send, message)
        elif action.how is How.NOWAIT:
            try:
                self.ws.send_nowait(message)
                taken = True
            except trio.WouldBlock:
                taken = False
        else:
            delivery = broadcast([self.ws], message, overflow=Overflow.DROP_NEWEST)
            taken = delivery.written + delivery.queued == 1
        if taken:
            self._outgoing.took(message)
        if action.how is not How.SEND:
            await trio.lowlevel.checkpoint()

    async def _send_stream(self, message: Message) -> None:
        third = len(message) // 3 + 1
        async with self.ws.send_stream(text=isinstance(message, str)) as stream:
            for at in range(0, len(message), third):
                await stream.send(message[at : at + third])
                if at == 0:  # its place is here, whatever is sent before its end
                    self._outgoing.took(message)
                    self._outgoing.unfinished += 1
        self._outgoing.unfinished -= 1

    async def _maybe_cancelled(self, step: int | None, call, *args) -> bool:
        """Call, cancelled at a step or not; return whether it was done."""
        if step is None:
            await call(*args)
            return True
        cancelled = await cancelled_at(step, call, *args)
        self._verdict.faults["cancel at a checkpoint"] += cancelled
        return not cancelled

    async def _receive(self) -> None:
        try:
            for taking in self.part.takings:
                await self._take(taking)
            while True:
                await self._receive_one(stream=False)
        except ConnectionEnded as error:
            self._check_end(error)
            clean = error.close.by_peer and error.close.code in CLEAN
            if clean and self._reader is None and not isinstance(error, ConnectionClosedByUs):
                self._verdict.expect(
                    isinstance(error, EndOfChannel), "a clean end is EndOfChannel", repr(error)
                )
                self.heard_all = True
        self._ended.set()

    async def _take(self, taking: Taking) -> None:
        if taking.pause:
            await trio.sleep(taking.pause)
        if taking.nowait and self._reader is None:
            with contextlib.suppress(trio.WouldBlock):
                self._got(self.ws.receive_nowait())
            return
        receive = functools.partial(self._receive_one, stream=taking.stream)
        await self._maybe_cancelled(taking.cancel_at, receive)

    async def _receive_one(self, *, stream: bool) -> None:
        """Receive a message, be it the rest of one that was begun before a cancellation."""
        if self._reader is None:
            if not stream:
                self._got(await self.ws.receive())
                return
            self._reader = await self.ws.receive_stream(limit=math.inf)
        async for piece in self._reader:
            self._pieces.append(piece)
        text = "".join(piece for piece in self._pieces if isinstance(piece, str))
        data = b"".join(piece for piece in self._pieces if isinstance(piece, bytes))
        message: Message = text if self._reader.text else data
        self._reader = None
        self._pieces.clear()
        self._got(message)

    def _got(self, message: Message) -> None:
        self._incoming.take(message)
        self._check_bounds()

    async def _aclose(self) -> None:
        start = trio.current_time()
        await self.ws.aclose(self.part.code, "simulated")
        took = trio.current_time() - start
        self._verdict.expect(
            took <= self._program.timeouts.close + LEEWAY,
            "every ending is within its deadline",
            f"aclose took {took} s of {self._program.timeouts.close}",
        )

    def _check_end(self, error: ConnectionEnded) -> None:
        self._verdict.expect(
            error.close is self.ws.closed and self.ws.closed is not None,
            "the end that is raised is the connection's",
            f"{error!r}, {self.ws.closed!r}",
        )

    def _check_bounds(self) -> None:
        limits, now = self._program.limits, self.ws.statistics()
        largest = self._outgoing.largest
        frames = largest // limits.fragment + 2
        # A control frame has at most 125 bytes; a close frame may come behind the last message.
        control = (limits.outbox_control + 2) * (125 + HEADER)
        bytes_bound = limits.outbox_bytes + largest + frames * HEADER + control
        frames_bound = limits.outbox_frames + frames + limits.outbox_control + 2
        if self.part.streams:  # what waits behind a message in pieces has the same bound again
            bytes_bound += limits.outbox_bytes + largest + frames * HEADER
            frames_bound += limits.outbox_frames + frames
        # Counted from outside, too: what was sent less what the transport has.
        queued = 0
        if self.ws.closed is None and self._program.deflate is None:
            queued = self._outgoing.size - now.bytes_sent
        self._verdict.expect(
            max(now.outbox_bytes, queued) <= bytes_bound
            and now.outbox_bytes >= 0
            and now.outbox_frames <= frames_bound
            and now.inbox_messages <= limits.inbox_messages,
            "buffers are within their bounds",
            now,
        )
