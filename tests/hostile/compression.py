"""Attacks by way of permessage-deflate (RFC 7692), against a server that offers it."""

from __future__ import annotations

import struct
import zlib
from dataclasses import replace

from tests.helpers import BINARY, CONTINUATION, MASK, PING, PONG, TEXT, close_frame, frame, header
from tests.hostile.attack import REFUSALS, Answer, Attack, Reply, any_of, ask
from tests.hostile.frames import LIMIT

__all__ = ["COMPRESSION", "bomb", "deflated"]

NAME = "permessage-deflate"
TAIL = b"\0\0\xff\xff"
BAD_DATA = any_of(1002, 1003)


def deflated(data: bytes, bits: int = 15, *, final: bool = False) -> bytes:
    """Compress as RFC 7692, 7.2.1 says; ``final`` ends the stream with BFINAL."""
    stream = zlib.compressobj(9, zlib.DEFLATED, -bits)
    if final:
        return stream.compress(data) + stream.flush()
    return (stream.compress(data) + stream.flush(zlib.Z_SYNC_FLUSH))[:-4]


def bomb(size: int) -> bytes:
    """Compress so many zeros, about a thousandth of them."""
    return deflated(bytes(size))


def packed(opcode: int, payload: bytes, *, fin: bool = True) -> bytes:
    """Write the first frame of a compressed message."""
    return frame(opcode, payload, fin=fin, rsv=4)


def offer(*parameters: str) -> bytes:
    return ask("Sec-WebSocket-Extensions: " + "; ".join([NAME, *parameters]))


AGREED = offer()


def declined(name: str, *offers: str) -> Attack:
    """An offer that gets no answer: the connection is there, and works uncompressed."""
    request = ask("Sec-WebSocket-Extensions: " + ", ".join(offers))
    return Attack(
        *(name, "compression", frame(TEXT, "x" * 300), 1000, "RFC 7692, 7.1", REFUSALS),
        *(request, ((TEXT, b"x" * 300),), close_frame(1000)),
        lacks=NAME.encode(),
    )


def agreed(
    name: str,
    request: bytes,
    rule: str,
    *also: Answer,
    data: bytes = b"",
    replies: tuple[Reply, ...] = (),
    holds: bytes = NAME.encode(),
) -> Attack:
    """Odd and right."""
    return Attack(
        *(name, "compression", data or packed(TEXT, deflated(b"x" * 300)), 1000, rule),
        *(frozenset(also), request, replies or ((TEXT, b"x" * 300),), close_frame(1000)),
        holds=holds,
    )


def breach(
    name: str, data: bytes, code: int, rule: str, *also: Answer, request: bytes = AGREED
) -> Attack:
    """A breach: its close frame, and nothing else."""
    return Attack(name, "compression", data, code, rule, frozenset(also), request)


def no_deflate(name: str, payload: bytes, rule: str) -> Attack:
    """What zlib cannot make sense of."""
    return breach(name, packed(BINARY, payload), 1007, rule, *BAD_DATA)


OFFERS = [
    declined("an unknown parameter", f"{NAME}; level=9"),
    declined("a parameter twice", f"{NAME}; server_max_window_bits=9; server_max_window_bits=9"),
    declined("a window of 7", f"{NAME}; client_max_window_bits=7"),
    declined("a window of 16", f"{NAME}; server_max_window_bits=16"),
    declined("a window of abc", f"{NAME}; client_max_window_bits=abc"),
    declined("a window of 08", f"{NAME}; server_max_window_bits=08"),
    declined("a window below zero", f"{NAME}; server_max_window_bits=-15"),
    declined("a window of 4,000 digits", f"{NAME}; server_max_window_bits={'1' * 4000}"),
    declined("no value where one is due", f"{NAME}; server_max_window_bits"),
    declined("a value where none is due", f"{NAME}; server_no_context_takeover=1"),
    declined("half a quotation", f'{NAME}; client_max_window_bits="10'),
    declined("an empty parameter", f"{NAME};;"),
    declined("a thousand other offers", *["x-foo"] * 1000),
    declined("500 offers that are all wrong", *[f"{NAME}; x"] * 500),
    agreed("a quoted window", offer('client_max_window_bits="10"'), "RFC 7692, 7.1"),
    agreed(
        "a second offer behind a wrong one",
        ask(f"Sec-WebSocket-Extensions: {NAME}; x=1, {NAME}"),
        "RFC 7692, 5",
    ),
    agreed(
        "the smallest window there is",
        *(offer("server_max_window_bits=8"), "RFC 7692, 7.1.2.1"),
        data=frame(TEXT, b"x" * 300),
        holds=b"",
    ),
    agreed(
        "an offer of 15 bits to a server of fewer",
        *(offer("server_max_window_bits=15", "client_max_window_bits=15"), "RFC 7692, 7.1.2"),
    ),
]

BITS = [
    breach(
        "RSV1 that was not agreed on",
        *(packed(TEXT, deflated(b"x")), 1002, "RFC 6455, 5.2"),
        request=ask(),
    ),
    breach(
        "RSV1 after a declined offer",
        *(packed(TEXT, deflated(b"x")), 1002, "RFC 6455, 5.2"),
        request=offer("x"),
    ),
    breach("RSV1 on a ping", frame(PING, "x", rsv=4), 1002, "RFC 7692, 6.1"),
    breach("RSV1 on a close", frame(0x8, b"\x03\xe8", rsv=4), 1002, "RFC 7692, 6.1"),
    breach(
        "RSV1 on a continuation",
        frame(TEXT, "x", fin=False) + frame(CONTINUATION, deflated(b"x"), rsv=4),
        *(1002, "RFC 7692, 6.1"),
    ),
    breach("RSV2 beside RSV1", frame(TEXT, deflated(b"x"), rsv=6), 1002, "RFC 6455, 5.2"),
    agreed(
        "a ping within a compressed message",
        *(AGREED, "RFC 6455, 5.4"),
        data=packed(TEXT, deflated(b"split")[:3], fin=False)
        + frame(PING, "p")
        + frame(CONTINUATION, deflated(b"split")[3:]),
        replies=((PONG, b"p"), (TEXT, b"split")),
    ),
    agreed(
        "plain messages between compressed ones",
        *(AGREED, "RFC 7692, 6"),
        data=packed(TEXT, deflated(b"a")) + frame(TEXT, "b") + packed(TEXT, deflated(b"c")),
        replies=((TEXT, b"a"), (TEXT, b"b"), (TEXT, b"c")),
    ),
]


def _far(between: bytes = b"") -> tuple[bytes, bytes]:
    """Two messages of one stream; the second is nothing but a distance into the first."""
    # The first refers to nothing before it, so that it suits any window.
    stream = zlib.compressobj(9, zlib.DEFLATED, -15, 8, zlib.Z_HUFFMAN_ONLY)
    first = stream.compress(PATTERN + between) + stream.flush(zlib.Z_SYNC_FLUSH)
    stream = zlib.compressobj(9, zlib.DEFLATED, -15, zdict=PATTERN + between)
    second = stream.compress(PATTERN) + stream.flush(zlib.Z_SYNC_FLUSH)
    return first[:-4], second[:-4]


PATTERN = bytes(range(256)) * 2
NOISE = b"".join(struct.pack("!I", n * 2_654_435_761 % 2**32) for n in range(750))
_FIRST, _SECOND = _far()
_FAR_FIRST, _FAR_SECOND = _far(NOISE)

STREAMS = [
    no_deflate("a block of the reserved type", b"\x07", "RFC 1951, 3.2.3"),
    no_deflate("random bytes", b"\xff" * 64, "RFC 1951"),
    no_deflate("zlib's own header", zlib.compress(b"x"), "RFC 7692, 7.2.1"),
    no_deflate("gzip's header", zlib.compress(b"x" * 99, wbits=31), "RFC 7692, 7.2.1"),
    no_deflate("a stored block with a wrong check", b"\0\x05\0\0\0hello", "RFC 1951, 3.2.4"),
    no_deflate("a distance that leads to before the start", _SECOND, "RFC 1951, 3.2.3"),
    no_deflate(
        "a stored block that stops short",
        b"\0" + struct.pack("<HH", 100, 100 ^ 0xFFFF) + b"only ten b",
        "RFC 7692, 7.2.2",
    ),
    Attack(
        "a distance beyond the window that was agreed on",
        *("compression", packed(BINARY, _FAR_FIRST) + packed(BINARY, _FAR_SECOND), 1007),
        *("RFC 7692, 7.1.2.2", BAD_DATA, offer("client_max_window_bits=9")),
        ((BINARY, PATTERN + NOISE),),
    ),
    Attack(
        "a window that was to be forgotten",
        *("compression", packed(BINARY, _FIRST) + packed(BINARY, _SECOND), 1007),
        *("RFC 7692, 7.1.1.2", BAD_DATA, offer("client_no_context_takeover")),
        ((BINARY, PATTERN),),
    ),
    breach("no UTF-8 once inflated", packed(TEXT, deflated(b"a\xff")), 1007, "RFC 6455, 8.1"),
    Attack(
        "no UTF-8 once inflated, in the first of many fragments",
        *("compression", packed(TEXT, deflated(b"\xff" * 99), fin=False), 1007),
        *("RFC 6455, 8.1: at once", any_of(), AGREED),
        ours=True,
    ),
    agreed(
        "no payload at all",
        *(AGREED, "RFC 7692, 7.2.3.6"),
        data=packed(TEXT, b"\x00") + packed(BINARY, b""),
        replies=((TEXT, b""), (BINARY, b"")),
    ),
    agreed(
        "a final block, and a message behind it",
        *(AGREED, "RFC 7692, 7.2.3.4"),
        data=packed(TEXT, deflated(b"one", final=True) + b"\0") + packed(TEXT, deflated(b"two")),
        replies=((TEXT, b"one"), (TEXT, b"two")),
    ),
    agreed(
        "ten thousand empty blocks",
        *(AGREED, "RFC 7692, 7.2.3.5"),
        data=packed(TEXT, (b"\0" + TAIL) * 10_000 + deflated(b"x")),
        replies=((TEXT, b"x"),),
    ),
    breach(
        "ten thousand final blocks",
        *(
            packed(BINARY, b"\x03\x00" * 10_000),
            1008,
            "RFC 7692, 8",
            1000,
            1007,
            1009,
            1002,
            "hung",
        ),
    ),
]

_HUGE = bomb(2**26)
_STEPS = [_HUGE[at : at + 1000] for at in range(0, len(_HUGE), 1000)]

BOMBS = [
    breach("a bomb", packed(BINARY, _HUGE), 1009, "RFC 6455, 10.4"),
    breach(
        "a bomb in fragments",
        packed(BINARY, _STEPS[0], fin=False)
        + b"".join(frame(CONTINUATION, step, fin=False) for step in _STEPS[1:])
        + frame(CONTINUATION),
        *(1009, "RFC 6455, 10.4"),
    ),
    breach(
        "a bomb of text",
        *(packed(TEXT, deflated(b"x" * 2**24)), 1009, "RFC 6455, 10.4"),
    ),
    Attack(
        "a bomb in an unfinished frame",
        *("compression", packed(BINARY, _HUGE)[:30_000], 1009),
        *("RFC 6455, 10.4: while it inflates", any_of(), AGREED),
        ours=True,
    ),
    breach(
        "one byte above the limit once inflated",
        *(packed(BINARY, bomb(LIMIT + 1)), 1009, "RFC 6455, 10.4"),
    ),
    breach(
        "a length above the limit already on the wire",
        *(bytes([0xC2]) + header(BINARY, 2**40)[1:] + MASK, 1009, "RFC 6455, 10.4"),
    ),
    agreed(
        "as long as the limit once inflated",
        *(AGREED, "RFC 6455, 10.4"),
        data=packed(BINARY, bomb(LIMIT)),
        replies=((BINARY, bytes(LIMIT)),),
    ),
    Attack(
        "a ping, then a bomb",
        *("compression", frame(PING, "p") + packed(BINARY, _HUGE), 1009, "RFC 6455, 5.5.2"),
        request=AGREED,
        replies=((PONG, b"p"),),
        ours=True,
    ),
]

#: A declined offer is declined by every server; all else needs one that compresses.
COMPRESSION = [
    replace(attack, deflate=not attack.lacks) for attack in (*OFFERS, *BITS, *STREAMS, *BOMBS)
]
