"""Attacks on the opening handshake (RFC 6455, 4.2.1): its headers, and what comes behind them."""

from __future__ import annotations

import trio

from tests.helpers import BINARY, KEY, TEXT, close_frame, frame
from tests.hostile.attack import REFUSALS, Attack, Attacker, Seen, any_of, ask
from tests.hostile.handshake_http import accepted, refused

__all__ = ["UPGRADE"]


def host(value: str) -> bytes:
    return ask(f"Host: {value}", without="Host")


def upgrade(value: str) -> bytes:
    return ask(f"Upgrade: {value}", without="Upgrade")


def connection(value: str) -> bytes:
    return ask(f"Connection: {value}", without="Connection")


def key(value: str) -> bytes:
    return ask(f"Sec-WebSocket-Key: {value}", without="Sec-WebSocket-Key")


def version(*values: str) -> bytes:
    lines = [f"Sec-WebSocket-Version: {value}" for value in values]
    return ask(*lines, without="Sec-WebSocket-Version")


HOST = [
    refused("no Host", ask(without="Host"), 400, "RFC 9112, 3.2"),
    refused("two Hosts", ask("Host: localhost"), 400, "RFC 9112, 3.2"),
    refused("an empty Host", host(""), 400, "RFC 6455, 4.2.1"),
    refused("no ASCII in Host", host("\xe4.example"), 400, "RFC 9112, 3.2"),
    refused("no ASCII behind xn--", host("xn--\xff"), 400, "RFC 9112, 3.2"),
    accepted("a Host that is no IDNA", host("xn--zzzzzzzzzzzzzzz99"), "RFC 9110, 7.2", *REFUSALS),
    refused("a user in Host", host("me@localhost"), 400, "RFC 9110, 7.2"),
    refused("a path in Host", host("localhost/x"), 400, "RFC 9110, 7.2"),
    refused("a port in letters", host("localhost:http"), 400, "RFC 9110, 7.2"),
    refused("a list in Host", host("localhost, other"), 400, "RFC 9110, 7.2"),
    refused("half an IPv6 address", host("[::1"), 400, "RFC 9110, 7.2"),
]

LISTS = [
    refused("no upgrade at all", ask(without="Upgrade Connection"), 426, "RFC 9110, 15.5.22"),
    refused("no Upgrade", ask(without="Upgrade"), 426, "RFC 6455, 4.2.1"),
    refused("another Upgrade", upgrade("h2c"), 426, "RFC 6455, 4.2.1"),
    refused("nearly the right Upgrade", upgrade("websocket2"), 426, "RFC 6455, 4.2.1"),
    refused("a no-break space in Upgrade", upgrade("websocket\xa0"), 400, "RFC 9110, 5.6.2"),
    refused("no Connection", ask(without="Connection"), 400, "RFC 6455, 4.2.1"),
    refused("another Connection", connection("keep-alive"), 400, "RFC 6455, 4.2.1"),
    refused("no ASCII in Connection", connection("Upgrade\xe4"), 400, "RFC 9110, 5.6.2"),
    accepted("a list in Upgrade", upgrade("foo/1, websocket"), "RFC 9110, 7.8"),
    accepted("two Upgrade lines", ask("Upgrade: foo"), "RFC 9110, 5.3"),
    accepted("two Connection lines", ask("Connection: keep-alive"), "RFC 9110, 5.3"),
    accepted("empty elements of a list", connection(", ,Upgrade,"), "RFC 9110, 5.6.1"),
    accepted(
        "odd cases",
        ask("uPGRADE: WebSocket", "CONNECTION: uPgrade", without="Upgrade Connection"),
        "RFC 9110, 5.1 and 7.8",
    ),
]

KEYS = [
    refused("no key", ask(without="Sec-WebSocket-Key"), 400, "RFC 6455, 4.2.1"),
    refused("two keys", ask(f"Sec-WebSocket-Key: {KEY}"), 400, "RFC 6455, 11.3.1"),
    refused("an empty key", key(""), 400, "RFC 6455, 4.2.1"),
    refused("a key of 6 bytes", key("c2hvcnQK"), 400, "RFC 6455, 4.2.1"),
    refused("a key of 17 bytes", key("dGhlIHNhbXBsZSBub25jZSE="), 400, "RFC 6455, 4.2.1"),
    refused("a key that is no base64", key("!" * 22 + "=="), 400, "RFC 6455, 4.2.1"),
    refused("a key with a space in it", key(KEY[:8] + " " + KEY[9:]), 400, "RFC 6455, 4.2.1"),
    refused("a key of 4,000 bytes", key("A" * 4000), 400, "RFC 6455, 4.2.1"),
]

VERSIONS = [
    refused("no version", version(), 426, "RFC 6455, 4.4"),
    refused("version 8", version("8"), 426, "RFC 6455, 4.4"),
    refused("two versions in a line", version("13, 13"), 426, "RFC 6455, 11.3.5"),
    refused("two versions in two lines", version("13", "8"), 426, "RFC 6455, 11.3.5"),
    refused("a version with a zero before it", version("013"), 426, "RFC 6455, 4.1"),
    refused("a version of 4,000 digits", version("1" * 4000), 426, "RFC 6455, 4.4"),
]

CHOICES = [
    refused(
        "a page of another origin",
        *(ask("Origin: https://evil.example"), 403, "RFC 6455, 10.2"),
        ours=True,
    ),
    refused("the origin null", ask("Origin: null"), 403, "RFC 6455, 10.2", ours=True),
    refused(
        "two origins, one of them ours",
        *(ask("Origin: http://localhost", "Origin: https://evil.example"), 403, "RFC 6454, 7.3"),
        ours=True,
    ),
    refused(
        "an origin that begins like ours",
        *(ask("Origin: http://localhost.evil.example"), 403, "RFC 6455, 10.2"),
        ours=True,
    ),
    refused("an unknown path", ask(line="GET /no HTTP/1.1"), 404, "RFC 6455, 4.2.2", ours=True),
    refused(
        "a subprotocol that is no token", ask("Sec-WebSocket-Protocol: a b"), 400, "RFC 6455, 4.1"
    ),
    refused("a subprotocol twice", ask("Sec-WebSocket-Protocol: a, a"), 400, "RFC 6455, 4.1"),
    refused("no ASCII in a subprotocol", ask("Sec-WebSocket-Protocol: \xe4"), 400, "RFC 6455, 4.1"),
    accepted(
        "500 subprotocols",
        ask("Sec-WebSocket-Protocol: " + ", ".join(f"name-{n}" for n in range(500))),
        "RFC 6455, 4.1",
        *REFUSALS,
        lacks=b"sec-websocket-protocol",
    ),
    refused(
        "no ASCII in the extensions", ask("Sec-WebSocket-Extensions: \xe4"), 400, "RFC 6455, 9.1"
    ),
    accepted(
        "an unknown extension",
        ask("Sec-WebSocket-Extensions: x-unknown; a=1"),
        "RFC 6455, 9.1",
        lacks=b"sec-websocket-extensions",
    ),
]


async def _flood(attacker: Attacker) -> Seen:
    """Send 10 MB in the same stream as the request, and read only then."""
    piece = frame(BINARY, bytes(1000)) * 100
    async with attacker.dial() as line, trio.open_nursery() as nursery:

        async def pour() -> None:
            await line.send(ask(), *[piece] * 100)
            await line.send(close_frame(1000))

        nursery.start_soon(pour)
        await line.head()
        seen = await line.finish()
        if len(seen.replies) == 10_000:  # too long for a table
            seen.replies = [(BINARY, b"10,000 times")]
        return seen


async def _half_closed(attacker: Attacker) -> Seen:
    async with attacker.dial() as line:
        await line.send(ask(), frame(TEXT, "hi"))
        await line.head()
        await line.replies(1)
        await line.eof()
        return await line.finish()


async def _reset(attacker: Attacker) -> Seen:
    async with attacker.dial() as line:
        await line.send(ask())
        line.peer.reset()
        return Seen(end="reset")


BEHIND = [
    Attack(
        "a first frame in one write with the request",
        *("handshake", ask() + frame(TEXT, "hi"), 1000, "RFC 6455, 4.1 and TCP"),
        replies=((TEXT, b"hi"),),
        then=close_frame(1000),
    ),
    Attack(
        "10 MB in one write with the request",
        *("handshake", b"", 1000, "back-pressure", any_of(), None, ((BINARY, b"10,000 times"),)),
        script=_flood,
        ours=True,
    ),
    Attack(
        "a second request behind the upgrade",
        *("handshake", ask() * 2, 1002, "RFC 6455, 5.2: it is a frame, and a bad one"),
    ),
    Attack(
        "TLS behind the upgrade",
        *("handshake", bytes.fromhex("1603010200010001"), 1002, "RFC 6455, 5.2", any_of(), ask()),
    ),
    Attack(
        "the end behind the upgrade",
        *("handshake", b"", "end", "RFC 6455, 7.1.7", any_of(1000, 1002, 1006)),
        replies=((TEXT, b"hi"),),
        script=_half_closed,
        over=("tcp",),
    ),
    Attack(
        "a reset behind the upgrade",
        *("handshake", b"", "reset", "RFC 6455, 7.1.5"),
        script=_reset,
    ),
]

UPGRADE = [*HOST, *LISTS, *KEYS, *VERSIONS, *CHOICES, *BEHIND]
