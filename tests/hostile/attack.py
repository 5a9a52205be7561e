"""What an attack is, how it is carried out on one connection, and what counts as its answer.

An attack is data: bytes and the answer that is due to them, so that the same table runs against
other servers. Where bytes are not enough, it is a small script that plays on an `Attacker`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from tests.helpers import BINARY, PONG, TEXT
from tests.hostile.line import SECRET, Answer, Attacker, Line, Reply, Seen, any_of, ask

__all__ = [
    "REFUSALS",
    "SECRET",
    "Answer",
    "Attack",
    "Attacker",
    "Line",
    "Reply",
    "Script",
    "Seen",
    "any_of",
    "ask",
    "flaw",
]

Family: TypeAlias = Literal["handshake", "frames", "compression", "resources"]

#: Any refusal will do where RFC 6455, 4.2.1 asks for "an appropriate HTTP error code".
REFUSALS: frozenset[Answer] = frozenset({*range(400, 500), 501, 503, 505})


Script: TypeAlias = Callable[[Attacker], Awaitable[Seen]]


@dataclass(frozen=True, slots=True)
class Attack:
    """One defect, and the answer that is due to it."""

    name: str
    family: Family
    #: What is sent: at once, with nothing awaited in between. With ``request`` behind the 101.
    data: bytes
    #: What trioweb answers.
    answer: Answer
    #: Where that is written.
    rule: str
    #: What would be right, too.
    also: frozenset[Answer] = frozenset()
    #: The upgrade that goes before; None if the data stand alone.
    request: bytes | None = None
    #: Messages and pongs that come before the answer.
    replies: tuple[Reply, ...] = ()
    #: What is sent when the replies are here.
    then: bytes = b""
    #: Played instead of sending ``data``.
    script: Script | None = None
    #: The transports that it makes sense on.
    over: tuple[str, ...] = ("tcp", "tls")
    #: Whether it needs a server that compresses.
    deflate: bool = False
    #: Whether this is what trioweb promises beyond the RFCs, so that others need not.
    ours: bool = False
    #: What the head of the 101 must not, or must, have in it.
    lacks: bytes = b""
    holds: bytes = b""

    @property
    def logged(self) -> int:
        """How many lines in the log are due: one, but none where nothing is wrong."""
        return 0 if self.answer in (1000, 1001, 1005) else 1

    @property
    def refuses(self) -> bool:
        """Whether an HTTP status is due."""
        return isinstance(self.answer, int) and self.answer < 1000

    async def run(self, attacker: Attacker) -> Seen:
        """Attack."""
        if self.script is not None:
            return await self.script(attacker)
        async with attacker.dial() as line:
            if self.request is None:
                await line.send(self.data)
                if await line.head() != 101:
                    return await line.finish()
                if self.refuses:  # it is not, and nothing more will come
                    return line.seen
            elif await line.upgrade(self.request):
                await line.send(self.data)
            else:
                return await line.finish()
            await line.replies(len(self.replies))
            if self.then and line.seen.close is None:
                await line.send(self.then)
            return await line.finish()


def flaw(attack: Attack, seen: Seen, *, strict: bool = True) -> str:
    """Say what is wrong with what was seen; "" if nothing is.

    Not strict is for other servers: whatever the RFCs allow, and HTTP connections that stay open.
    """
    allowed = {attack.answer} if strict else {attack.answer, *attack.also}
    if attack.refuses and seen.status == 101 and not allowed & {1000, 1005}:
        return "101"
    if seen.answer not in allowed:
        return "accepted" if seen.answer == "hung" and seen.replies else f"{seen.answer}"
    if seen.answer == attack.answer and tuple(seen.replies) != attack.replies:
        return f"{seen.answer}, but as replies {_short(seen.replies)}"
    if seen.status == 101 and attack.lacks and attack.lacks in seen.head.lower():
        return f"{attack.lacks.decode()} was accepted"
    if seen.status == 101 and attack.holds not in seen.head.lower():
        return f"{attack.holds.decode()} was not accepted"
    if seen.behind:
        return f"{seen.answer}, and {seen.behind} bytes more"
    if strict and seen.end != "end" and attack.answer not in ("reset", "hung"):
        return f"{seen.answer}, then {seen.end}"
    return ""


def _short(replies: list[Reply]) -> str:
    if len(replies) > 3:
        return f"{len(replies)} times"
    names = {TEXT: "text", BINARY: "binary", PONG: "pong"}
    return (
        ", ".join(f"{names.get(opcode, opcode)} {data[:8]!r}" for opcode, data in replies) or "no"
    )
