"""Attacks by weight or by patience, each on one connection: floods, and peers that will not go."""

from __future__ import annotations

import itertools

import trio

from tests.helpers import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, close_frame, frame
from tests.hostile.attack import Answer, Attack, Attacker, Script, Seen, any_of, ask
from tests.hostile.compression import AGREED, bomb, packed
from tests.hostile.frames import LIMIT

__all__ = ["CUT", "FLOODS", "resource"]

#: Whatever ends it: a peer that will not hear, or will not go, is told nothing that it reads.
CUT = any_of("end", "reset", "hung", 400, 408, 503, 1000, 1001, 1002, 1006, 1008, 1009, 1011)


def resource(
    name: str,
    rule: str,
    script: Script,
    answer: Answer = "end",
    also: frozenset[Answer] = CUT,
    over: tuple[str, ...] = ("tcp", "tls"),
    *,
    deflate: bool = False,
) -> Attack:
    """A script, and how it may end; "hung" is for others, whose deadlines are their own matter."""
    return Attack(
        *(name, "resources", b"", answer, rule, also), script=script, over=over, deflate=deflate
    )


def unread(piece: bytes, times: int, request: bytes = b"") -> Script:
    """Send, and never read before the server has waited long enough, nor answer its pings."""

    async def script(attacker: Attacker) -> Seen:
        async with attacker.dial() as line:
            line.honest = False
            line.narrow()
            await line.upgrade(request)
            await line.pour(piece, times)
            return await line.sink()

    return script


def read(piece: bytes, times: int, request: bytes = b"") -> Script:
    """Send, and read what comes back meanwhile; close in order."""

    async def script(attacker: Attacker) -> Seen:
        async with attacker.dial() as line:
            await line.upgrade(request)
            async with trio.open_nursery() as nursery:

                async def pour() -> None:
                    await line.pour(piece, times)
                    await line.send(close_frame(1000))

                nursery.start_soon(pour)
                await line.drain()
            return line.seen

    return script


def after(path: str, first: bytes, piece: bytes) -> Script:
    """Talk on after the server has closed."""

    async def script(attacker: Attacker) -> Seen:
        async with attacker.dial() as line:
            line.honest = False
            await line.upgrade(ask(line=f"GET {path} HTTP/1.1"))
            await line.send(first)
            while line.seen.close is None and await line.frame():
                pass
            return await line.dribble(itertools.repeat(piece, 100), 0.1)

    return script


async def _deaf_to_the_close(attacker: Attacker) -> Seen:
    async with attacker.dial() as line:
        await line.upgrade(ask(line="GET /bye HTTP/1.1"))
        return await line.finish()


async def _deaf_to_pings(attacker: Attacker) -> Seen:
    async with attacker.dial() as line:
        line.honest = False
        await line.upgrade()
        return await line.finish()


async def _talks_after_its_refusal(attacker: Attacker) -> Seen:
    async with attacker.dial() as line:
        await line.send(b"nonsense\r\n\r\n")
        await line.head()
        return await line.dribble(itertools.repeat(b"nonsense\r\n" * 1000, 100), 0.1)


async def _behind_a_plain_request(attacker: Attacker) -> Seen:
    async with attacker.dial() as line, trio.open_nursery() as nursery:
        nursery.start_soon(line.send, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", bytes(10**7))
        await line.head()
        return await line.finish()


async def _one_message_in_bytes(attacker: Attacker) -> Seen:
    """1 MiB as fragments of one byte: 4,096 fragments are allowed."""
    async with attacker.dial() as line:
        await line.upgrade()
        await line.send(frame(BINARY, b"x", fin=False))
        await line.pour(frame(CONTINUATION, b"x", fin=False) * 1000, 1000)
        return await line.finish()


def cheap(opcode: int, payload: bytes = b"", *, fin: bool = True) -> bytes:
    return frame(opcode, payload, fin=fin, mask=bytes(4))


WIDE = ("\N{GRINNING FACE}" + "x" * 250_000).encode()
MIB = cheap(BINARY, bytes(LIMIT))
NOTHING = cheap(CONTINUATION, fin=False)

#: The client compresses; the server would need a window that zlib does not have, and does not.
UNEQUAL = ask(
    "Sec-WebSocket-Extensions: "
    "permessage-deflate; server_max_window_bits=8, permessage-deflate; client_max_window_bits"
)

FLOODS = [
    resource(
        "pings whose pongs are never read",
        *("back-pressure", unread(cheap(PING, bytes(125)) * 1000, 100)),
    ),
    resource("30,000 pings", "RFC 6455, 5.5.2", read(cheap(PING, b"x") * 1000, 30), 1000, any_of()),
    resource("50,000 pongs", "RFC 6455, 5.5.3", read(cheap(PONG, b"x") * 1000, 50), 1000, any_of()),
    resource(
        "a million empty fragments",
        *("RFC 6455, 10.4", read(cheap(TEXT, fin=False) + NOTHING * 10_000, 100), 1009),
        any_of(1008, 1002),
    ),
    resource("a message of bytes, each a fragment", "RFC 6455, 10.4", _one_message_in_bytes, 1009),
    resource(
        "30,000 messages of one byte",
        *("RFC 6455, 5.6", read(cheap(TEXT, b"x") * 1000, 30), 1000, any_of(1011)),
    ),
    resource(
        "small messages whose echoes are never read",
        *("back-pressure", unread(cheap(BINARY, bytes(50)) * 1000, 300)),
    ),
    resource(
        "empty messages whose echoes are never read",
        *("back-pressure", unread(cheap(BINARY) * 1000, 100)),
        over=("tcp",),
    ),
    resource("large messages whose echoes are never read", "back-pressure", unread(MIB, 30)),
    resource(
        "wide characters whose echoes are never read",
        *("back-pressure", unread(cheap(TEXT, WIDE), 100)),
    ),
    resource(
        "a million closes", "RFC 6455, 5.5.1", read(cheap(CLOSE, b"\x03\xe8") * 1000, 1000), 1000
    ),
    resource("deaf to the server's close", "RFC 6455, 7.1.1", _deaf_to_the_close, 1000, any_of()),
    resource("deaf to pings", "heartbeat", _deaf_to_pings, 1011, CUT),
    resource(
        "messages after the server's close",
        *("RFC 6455, 7.1.1", after("/bye", b"", cheap(TEXT, b"x") * 1000), 1000, any_of()),
    ),
    resource(
        "pings after its own breach",
        *("RFC 6455, 7.1.7", after("/", frame(0x3), cheap(PING, b"x") * 1000), 1002, any_of()),
    ),
    resource(
        "nonsense after its refusal",
        *("RFC 9112, 9.6", _talks_after_its_refusal, 400, any_of("end", "reset")),
    ),
    resource(
        "10 MB behind a plain request",
        *("RFC 9112, 9.6", _behind_a_plain_request, 426, any_of(400, 404, 200, "end")),
    ),
    resource(
        "messages of 1 KB that inflate to 1 MiB, unread",
        *("lazy decoding", unread(packed(BINARY, bomb(LIMIT)), 300, UNEQUAL)),
        deflate=True,
    ),
    resource(
        "300 of them in one write, unread",
        *("lazy decoding", unread(packed(BINARY, bomb(LIMIT)) * 300, 1, UNEQUAL)),
        deflate=True,
    ),
    resource(
        "100 messages that inflate to 1 MiB, read",
        *("RFC 7692, 6", read(packed(BINARY, bomb(LIMIT)), 100, AGREED), 1000, any_of(1011)),
        deflate=True,
    ),
    resource(
        "empty blocks, 1 MiB of them, ten times",
        "RFC 7692, 7.2.3.5",
        read(packed(BINARY, b"\0\0\0\xff\xff" * 200_000 + b"\0"), 10, AGREED),
        1000,
        CUT,
        deflate=True,
    ),
]
