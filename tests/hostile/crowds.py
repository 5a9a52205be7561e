"""Attacks by number: many connections at once, or one after the other in no time."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable, Iterable

import trio

from tests.helpers import BINARY, TEXT, frame, header
from tests.hostile.attack import Answer, Attacker, Line, Script, Seen, any_of, ask
from tests.hostile.compression import AGREED, bomb, packed
from tests.hostile.floods import CUT, resource
from tests.hostile.frames import LIMIT
from tests.hostile.handshake_http import HELLO

__all__ = ["CROWDS"]

#: Handshakes under way at once, from one attacker.
_AT_ONCE = 20

Part = Callable[[Line], Awaitable[object]]


def crowd(count: int, part: Part, *allowed: Answer, raw: bool = False) -> Script:
    """Play one part on many connections at once; return what the first odd one saw."""

    async def script(attacker: Attacker) -> Seen:
        seen: list[Seen] = []
        limit = trio.CapacityLimiter(_AT_ONCE)

        async def one() -> None:
            async with limit:
                dialling = attacker.dial(raw=raw)
                line = await dialling.__aenter__()
                if isinstance(line.stream, trio.SSLStream):
                    await line.stream.do_handshake()
            try:
                await part(line)
                seen.append(line.seen)
            finally:
                await dialling.__aexit__(None, None, None)

        async with trio.open_nursery() as nursery:
            for _ in range(count):
                nursery.start_soon(one)
        assert len(seen) == count
        return next((one for one in seen if one.answer not in allowed), seen[0])

    return script


def churn(count: int, part: Part, *, raw: bool = False, at_once: int = 20) -> Script:
    """Play one part on many connections, some at a time, and vanish from each by a reset."""

    async def script(attacker: Attacker) -> Seen:
        async def some() -> None:
            for _ in range(count // at_once):
                async with attacker.dial(raw=raw) as line:
                    await part(line)
                    line.peer.reset()

        async with trio.open_nursery() as nursery:
            for _ in range(at_once):
                nursery.start_soon(some)
        return Seen(end="reset")

    return script


async def _silent(line: Line) -> None:
    await line.finish()


def _slowly(pieces: Callable[[], Iterable[bytes]]) -> Part:
    async def part(line: Line) -> None:
        await line.dribble(pieces(), 0.3)

    return part


def _line() -> Iterable[bytes]:
    return itertools.chain([b"GET /"], itertools.repeat(b"x", 100))


def _headers() -> Iterable[bytes]:
    return itertools.chain([ask()[:-2]], itertools.repeat(b"X: y\r\n", 90))


def _blank_lines() -> Iterable[bytes]:
    return itertools.repeat(b"\r\n" * 100, 100)


def _hello() -> Iterable[bytes]:
    return (HELLO[at : at + 1] for at in range(len(HELLO)))


async def _bare_cr(line: Line) -> None:
    await line.send(ask(end="\r"))
    await line.finish()


def _saying(*pieces: bytes, request: bytes = b"") -> Part:
    """Upgrade if there is a request, and say something."""

    async def part(line: Line) -> None:
        if request:
            await line.upgrade(request)
        await line.send(*pieces)

    return part


def _waiting(data: bytes, request: bytes = b"") -> Part:
    """Upgrade, say something, and wait for the end, without an answer to pings."""

    async def part(line: Line) -> None:
        line.honest = False
        await line.upgrade(request)
        await line.send(data)
        await line.finish()

    return part


async def _plain(line: Line) -> None:
    """Ask for a page, and stay."""
    await line.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    await line.head()
    await line.finish()


async def _large_echo(line: Line) -> None:
    await line.upgrade()
    await line.send(frame(BINARY, bytes(LIMIT), mask=bytes(4)))
    await line.stream.receive_some(1)


SLOW: tuple[Answer, ...] = ("end", "reset", 408, 400, 503)
HALF = frame(BINARY, bytes(1000))[:500]
FINAL = packed(BINARY, b"\x03\x00" * 500_000)

CROWDS = [
    resource("300 that say nothing", "the deadline", crowd(300, _silent, *SLOW)),
    resource(
        "300 slow request lines", "the deadline", crowd(300, _slowly(_line), *SLOW), over=("tcp",)
    ),
    resource("300 slow handshakes", "the deadline", crowd(300, _slowly(_headers), *SLOW)),
    resource(
        "100 with nothing but empty lines",
        "2.2",
        crowd(100, _slowly(_blank_lines), *SLOW),
        over=("tcp",),
    ),
    resource(
        "50 with nothing but bare CRs", "RFC 9112, 2.2", crowd(50, _bare_cr, *SLOW), over=("tcp",)
    ),
    resource(
        "300 slow ClientHellos",
        *("the deadline", crowd(300, _slowly(_hello), *SLOW, raw=True), "end", CUT, ("tls",)),
    ),
    resource(
        "2,000 half-open connections",
        *("the deadline", crowd(2000, _silent, *SLOW, raw=True)),
    ),
    resource("1,000 that come and go", "RFC 9293", churn(1000, _saying(), raw=True), "reset"),
    resource(
        "300 resets in the midst of the handshake",
        *("RFC 9293", churn(300, _saying(ask()[:60])), "reset"),
    ),
    resource(
        "300 resets in the midst of the ClientHello",
        *("RFC 8446", churn(300, _saying(HELLO[:50]), raw=True), "reset", CUT, ("tls",)),
    ),
    resource(
        "300 resets behind the request",
        *("RFC 6455, 4.2.2", churn(300, _saying(ask())), "reset"),
    ),
    resource(
        "300 resets in the midst of a frame",
        *("RFC 6455, 7.1.5", churn(300, _saying(HALF, request=ask())), "reset"),
    ),
    resource(
        "100 resets in the midst of a large message",
        "RFC 6455, 7.1.5",
        churn(100, _saying(frame(TEXT, "x" * 500_000, fin=False), request=ask()), at_once=5),
        "reset",
    ),
    resource(
        "100 resets in the midst of a large answer",
        *("RFC 6455, 7.1.5", churn(100, _large_echo, at_once=5), "reset"),
    ),
    resource(
        "500 that open and say no more",
        *("heartbeat", crowd(500, _waiting(b""), *CUT), 1011, CUT, ("tcp",)),
    ),
    resource(
        "500 with the header of a frame and no more",
        "heartbeat",
        crowd(500, _waiting(header(BINARY, LIMIT)), *CUT),
        *(1011, CUT, ("tcp",)),
    ),
    resource(
        "10 with all but the last byte of 1 MiB",
        "RFC 6455, 10.4",
        crowd(10, _waiting(frame(BINARY, bytes(LIMIT), mask=bytes(4))[:-1]), *CUT),
        1011,
    ),
    resource(
        "10 with all but the last byte of 1 MiB of text",
        "RFC 6455, 10.4",
        crowd(10, _waiting(frame(TEXT, "x" * LIMIT, mask=bytes(4))[:-1]), *CUT),
        1011,
    ),
    resource(
        "300 that stay when they are answered",
        "RFC 9112, 9.6",
        crowd(300, _plain, 426, 400, 404),
        426,
    ),
    resource(
        "20 bombs at once",
        "RFC 6455, 10.4",
        crowd(20, _waiting(packed(BINARY, bomb(2**26)), AGREED), 1009),
        *(1009, any_of()),
        deflate=True,
    ),
    resource(
        "20 with half a million final blocks each",
        *("RFC 7692, 8", crowd(20, _waiting(FINAL, AGREED), 1008, *CUT), 1008, CUT),
        deflate=True,
    ),
]
