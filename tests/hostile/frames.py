"""Attacks by frames (RFC 6455, 5 to 8), each behind a handshake that is in order."""

from __future__ import annotations

import struct

import trio

from tests.helpers import (
    BINARY,
    CLOSE,
    CONTINUATION,
    MASK,
    PING,
    PONG,
    TEXT,
    close_frame,
    frame,
    header,
)
from tests.hostile.attack import Answer, Attack, Attacker, Reply, Seen, any_of, ask

__all__ = ["FRAMES", "LIMIT", "breach", "harmless"]

#: The limit on messages that every server of the suite is set to.
LIMIT = 2**20

HELD = ((TEXT, b"before"),)


def breach(
    name: str, data: bytes, code: int, rule: str, *also: Answer, replies: tuple[Reply, ...] = ()
) -> Attack:
    """A breach: the close frame says which, and nothing comes behind it."""
    return Attack(name, "frames", data, code, rule, frozenset(also), ask(), replies)


def harmless(
    name: str, data: bytes, rule: str, *replies: Reply, code: int = 1000, then: bytes = b""
) -> Attack:
    """Odd and right: all of it is answered, and the connection ends in order."""
    then = then or close_frame(1000)
    return Attack(name, "frames", data, code, rule, any_of(1000), ask(), replies, then)


def ours(name: str, data: bytes, code: int, rule: str, *replies: Reply) -> Attack:
    """A breach that is answered at once, or behind what came before it in the same write."""
    return Attack(name, "frames", data, code, rule, frozenset(), ask(), replies, ours=True)


HEADERS = [
    breach("RSV2", frame(TEXT, "x", rsv=2), 1002, "RFC 6455, 5.2"),
    breach("RSV3", frame(BINARY, "x", rsv=1), 1002, "RFC 6455, 5.2"),
    breach("all reserved bits on a ping", frame(PING, "x", rsv=7), 1002, "RFC 6455, 5.2"),
    breach("RSV2 on a continuation", frame(CONTINUATION, "x", rsv=2), 1002, "RFC 6455, 5.2"),
    breach("the reserved data opcode 3", frame(0x3, "x"), 1002, "RFC 6455, 5.2"),
    breach("the reserved data opcode 7", frame(0x7, "x"), 1002, "RFC 6455, 5.2"),
    breach("the reserved control opcode 11", frame(0xB), 1002, "RFC 6455, 5.2"),
    breach("the reserved control opcode 15", frame(0xF, "x", fin=False), 1002, "RFC 6455, 5.2"),
    breach("text without a mask", frame(TEXT, "x", mask=None), 1002, "RFC 6455, 5.1"),
    breach("a ping without a mask", frame(PING, mask=None), 1002, "RFC 6455, 5.1"),
    breach("a close without a mask", close_frame(1000, mask=None), 1002, "RFC 6455, 5.1"),
    breach(
        "a length of 125 in 16 bits",
        *(struct.pack("!BBH", 0x82, 0x80 | 126, 125) + MASK + bytes(125), 1002, "RFC 6455, 5.2"),
    ),
    breach(
        "a length of 1,000 in 64 bits",
        *(struct.pack("!BBQ", 0x82, 0x80 | 127, 1000) + MASK + bytes(1000), 1002, "RFC 6455, 5.2"),
    ),
    breach(
        "a length with the highest bit set",
        *(struct.pack("!BBQ", 0x82, 0x80 | 127, 2**63 + 5) + MASK, 1002, "RFC 6455, 5.2", 1009),
    ),
    breach("a length of 2**62", header(BINARY, 2**62) + MASK, 1009, "RFC 6455, 10.4", "hung"),
    breach("one byte above the limit", header(TEXT, LIMIT + 1) + MASK, 1009, "10.4", "hung"),
    breach(
        "fragments above the limit",
        frame(BINARY, bytes(LIMIT), fin=False, mask=bytes(4)) + header(CONTINUATION, 1) + MASK,
        *(1009, "RFC 6455, 10.4", "hung"),
    ),
    harmless(
        "as long as the limit",
        frame(BINARY, bytes(LIMIT), mask=bytes(4)),
        *("RFC 6455, 10.4", (BINARY, bytes(LIMIT))),
    ),
    harmless("a mask of zeros", frame(TEXT, "x", mask=bytes(4)), "RFC 6455, 5.3", (TEXT, b"x")),
    harmless("an empty message", frame(TEXT), "RFC 6455, 5.6", (TEXT, b"")),
]

FRAGMENTS = [
    breach("a ping in fragments", frame(PING, fin=False), 1002, "RFC 6455, 5.5"),
    breach("a close in fragments", frame(CLOSE, fin=False), 1002, "RFC 6455, 5.5"),
    breach("a ping of 126 bytes", frame(PING, bytes(126)), 1002, "RFC 6455, 5.5"),
    breach("a close of 126 bytes", close_frame(1000, "x" * 124), 1002, "RFC 6455, 5.5"),
    breach("a ping of 2**62 bytes", header(PING, 2**62) + MASK, 1002, "5.5", 1009, "hung"),
    breach("a continuation of nothing", frame(CONTINUATION, "x"), 1002, "RFC 6455, 5.4"),
    breach(
        "text in the midst of text",
        *(frame(TEXT, "x", fin=False) + frame(TEXT, "y"), 1002, "RFC 6455, 5.4"),
    ),
    breach(
        "binary that begins in the midst of text",
        *(frame(TEXT, "x", fin=False) + frame(BINARY, "y", fin=False), 1002, "RFC 6455, 5.4"),
    ),
    breach(
        "10,000 empty fragments",
        frame(TEXT, fin=False) + frame(CONTINUATION, fin=False) * 10_000,
        *(1009, "RFC 6455, 10.4", 1008, "hung"),
    ),
    harmless(
        "pings between fragments",
        frame(TEXT, "a", fin=False)
        + frame(PING, "1")
        + frame(CONTINUATION, fin=False)
        + frame(PING, "2")
        + frame(CONTINUATION, "b"),
        *("RFC 6455, 5.4", (PONG, b"1"), (PONG, b"2"), (TEXT, b"ab")),
    ),
    harmless(
        "a close in the midst of fragments",
        *(frame(TEXT, "x", fin=False), "RFC 6455, 5.5.1"),
    ),
    harmless("a pong that nobody asked for", frame(PONG, "x"), "RFC 6455, 5.5.3"),
]

UTF8 = [
    breach("a byte that begins nothing", frame(TEXT, b"a\x80"), 1007, "RFC 6455, 8.1"),
    breach("a byte that is never used", frame(TEXT, b"\xff"), 1007, "RFC 6455, 8.1"),
    breach("a surrogate", frame(TEXT, b"\xed\xa0\x80"), 1007, "RFC 3629, 3"),
    breach("an overlong encoding", frame(TEXT, b"\xc0\xaf"), 1007, "RFC 3629, 3"),
    breach("a character above U+10FFFF", frame(TEXT, b"\xf4\x90\x80\x80"), 1007, "RFC 3629, 3"),
    breach("a character that stops short", frame(TEXT, b"\xe2\x82"), 1007, "RFC 6455, 8.1"),
    breach(
        "a character that breaks across fragments",
        frame(TEXT, b"\xe2", fin=False) + frame(CONTINUATION, b"\x28\xa1"),
        *(1007, "RFC 6455, 8.1"),
    ),
    ours(
        "a bad byte in the first of many fragments",
        *(frame(TEXT, b"\xff", fin=False), 1007, "RFC 6455, 8.1: at once"),
    ),
    ours(
        "a bad byte in the midst of a frame",
        *(frame(TEXT, b"\xff" * 1000)[:500], 1007, "RFC 6455, 8.1: at once"),
    ),
    harmless(
        "a character across four fragments",
        frame(TEXT, b"\xf0", fin=False)
        + frame(CONTINUATION, b"\x9f", fin=False)
        + frame(CONTINUATION, b"\x98", fin=False)
        + frame(CONTINUATION, b"\x80"),
        *("RFC 6455, 5.6", (TEXT, "\N{GRINNING FACE}".encode())),
    ),
]

CLOSES = [
    breach("a close of one byte", frame(CLOSE, b"\x03"), 1002, "RFC 6455, 5.5.1"),
    breach("code 0", close_frame(0), 1002, "RFC 6455, 7.4.2"),
    breach("code 999", close_frame(999), 1002, "RFC 6455, 7.4.2"),
    breach("code 1004, reserved", close_frame(1004), 1002, "RFC 6455, 7.4.1"),
    breach("code 1005, for no code", close_frame(1005), 1002, "RFC 6455, 7.4.1"),
    breach("code 1006, for no close", close_frame(1006), 1002, "RFC 6455, 7.4.1"),
    breach("code 1015, for TLS", close_frame(1015), 1002, "RFC 6455, 7.4.1"),
    breach("code 1016, unassigned", close_frame(1016), 1002, "RFC 6455, 7.4.2"),
    breach("code 2999, for extensions", close_frame(2999), 1002, "RFC 6455, 7.4.2"),
    breach("code 5000", close_frame(5000), 1002, "RFC 6455, 7.4.2"),
    breach("code 65535", close_frame(65535), 1002, "RFC 6455, 7.4.2"),
    breach("a reason that is no UTF-8", frame(CLOSE, b"\x03\xe8\xff"), 1007, "8.1", 1002),
    breach(
        "a reason that stops short", frame(CLOSE, b"\x03\xe8\xe2\x82"), 1007, "RFC 6455, 8.1", 1002
    ),
    harmless("no code", b"", "RFC 6455, 5.5.1", code=1005, then=close_frame(None)),
    harmless(
        *("a reason of 123 bytes", b"", "RFC 6455, 5.5"),
        then=close_frame(1000, "x" * 123),
    ),
    harmless("code 1014, registered", b"", "IANA", code=1014, then=close_frame(1014)),
    harmless("code 3000", b"", "RFC 6455, 7.4.2", code=3000, then=close_frame(3000)),
    harmless("code 4999", b"", "RFC 6455, 7.4.2", code=4999, then=close_frame(4999)),
    harmless(
        *("a message behind the close", b"", "RFC 6455, 5.5.1"),
        then=close_frame(1000) + frame(TEXT, "x"),
    ),
    harmless(
        *("a ping behind the close", b"", "RFC 6455, 5.5.2"), then=close_frame(1000) + frame(PING)
    ),
    harmless(
        *("a breach behind the close", b"", "RFC 6455, 7.1.4"),
        then=close_frame(1000) + frame(0x3, "x", rsv=7, mask=None),
    ),
    harmless(*("a thousand closes", b"", "RFC 6455, 5.5.1"), then=close_frame(1000) * 1000),
]

ORDER = [
    ours("a message, then a breach", frame(TEXT, "before") + frame(0x3), 1002, "A6", *HELD),
    ours(
        "a ping, then a breach",
        *(frame(PING, "p") + frame(TEXT, b"\xff"), 1007, "RFC 6455, 5.5.2", (PONG, b"p")),
    ),
    ours("a message, then a close", frame(TEXT, "before") + close_frame(1000), 1000, "A6", *HELD),
    breach("a breach, then a message", frame(0x3) + frame(TEXT, "after"), 1002, "RFC 6455, 7.1.7"),
    breach("a breach, then a close", frame(0x3) + close_frame(1000), 1002, "RFC 6455, 7.1.7"),
    breach("a breach, then 1 MB", frame(0x3) + bytes(10**6), 1002, "RFC 6455, 7.1.7"),
]


async def _dribbled(attacker: Attacker) -> Seen:
    async with attacker.dial() as line:
        await line.upgrade()
        for byte in frame(TEXT, "slowly"):
            await line.send(bytes([byte]))
            await trio.lowlevel.checkpoint()
        await line.replies(1)
        await line.send(close_frame(1000))
        return await line.finish()


async def _cut(attacker: Attacker) -> Seen:
    """End in the midst of a frame; over TLS without a word of it."""
    async with attacker.dial() as line:
        await line.upgrade()
        await line.send(frame(TEXT, bytes(1000))[:500])
        await line.eof()
        return await line.finish()


async def _reset(attacker: Attacker) -> Seen:
    async with attacker.dial() as line:
        await line.upgrade()
        await line.send(frame(TEXT, bytes(1000), fin=False) + header(CONTINUATION, 1000))
        line.peer.reset()
        return Seen(end="reset")


PACE = [
    Attack(
        *("a frame byte by byte", "frames", b"", 1000, "TCP has no packets"),
        replies=((TEXT, b"slowly"),),
        script=_dribbled,
    ),
    Attack(
        *("the end in the midst of a frame", "frames", b"", "end", "RFC 6455, 7.1.5"),
        also=any_of(1002, 1006, "reset"),
        script=_cut,
    ),
    Attack(
        *("a reset in the midst of a message", "frames", b"", "reset", "RFC 6455, 7.1.5"),
        script=_reset,
    ),
]

FRAMES = [*HEADERS, *FRAGMENTS, *UTF8, *CLOSES, *ORDER, *PACE]
