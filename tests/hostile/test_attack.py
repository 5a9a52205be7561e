"""The judge itself: servers that answer wrongly, each in its own way, do not pass."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable

import pytest
import trio
from trio.testing import MockClock

from tests.helpers import (
    KEY,
    TEXT,
    Peer,
    accepting,
    close_frame,
    frame,
    scripted,
    virtual_clock,
)
from tests.hostile.attack import Attack, Attacker, ask, flaw

REFUSED = Attack("refused", "handshake", ask(), 400, "-")
BREACH = Attack("breach", "frames", frame(0x3), 1002, "-", request=ask())
ECHO = Attack(
    *("echo", "frames", frame(TEXT, "x"), 1000, "-"),
    request=ask(),
    replies=((TEXT, b"x"),),
    then=close_frame(1000),
)
PAGE = b"HTTP/1.1 400 no\r\nContent-Length: 2\r\n\r\nno"
OPEN = accepting(KEY)


@pytest.fixture
def clock() -> MockClock:
    return virtual_clock()


def saying(*pieces: bytes) -> Callable[[Peer], Awaitable[object]]:
    """A server that reads a request, says its piece, and hangs up in order."""

    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(*pieces)
        assert isinstance(peer.stream, trio.SocketStream)
        await peer.stream.send_eof()
        await peer.rest()

    return script


async def hanging(peer: Peer) -> None:
    await peer.head()
    await peer.send(OPEN)
    await trio.sleep_forever()


async def resetting(peer: Peer) -> None:
    await peer.head()
    await peer.send(OPEN, close_frame(1002, mask=None))
    await peer.frame()
    peer.reset()


async def seen_flaw(server: Callable[[Peer], Awaitable[object]], attack: Attack) -> str:
    async with scripted(server) as url:
        return flaw(attack, await attack.run(Attacker(int(url.rpartition(":")[2]))))


RIGHT = {
    "a refusal": (saying(PAGE), REFUSED),
    "a close": (saying(OPEN, close_frame(1002, mask=None)), BREACH),
    "an echo": (saying(OPEN, frame(TEXT, "x", mask=None), close_frame(1000, mask=None)), ECHO),
}

WRONG = {
    "another status": (saying(PAGE.replace(b"400", b"500")), REFUSED, "500"),
    "an upgrade": (saying(OPEN), REFUSED, "101"),
    "no answer": (saying(), REFUSED, "end"),
    "more than the body": (saying(PAGE, b"more"), REFUSED, "400, and 4 bytes more"),
    "another code": (saying(OPEN, close_frame(1000, mask=None)), BREACH, "1000"),
    "no close frame": (saying(OPEN), BREACH, "end"),
    "a frame behind the close": (
        *(saying(OPEN, close_frame(1002, mask=None), frame(TEXT, mask=None)), BREACH),
        "1002, and 2 bytes more",
    ),
    "a reply that is not due": (
        *(saying(OPEN, frame(TEXT, "x", mask=None), close_frame(1002, mask=None)), BREACH),
        "1002, but as replies",
    ),
    "another reply": (
        *(saying(OPEN, frame(TEXT, "y", mask=None), close_frame(1000, mask=None)), ECHO),
        "1000, but as replies",
    ),
    "nothing at all": (hanging, BREACH, "hung"),
    "a reset behind the close": (resetting, BREACH, "1002, then reset"),
}


@pytest.mark.parametrize(("server", "attack"), RIGHT.values(), ids=RIGHT)
async def test_what_is_right_passes(clock, server, attack):
    assert await seen_flaw(server, attack) == ""


@pytest.mark.parametrize(("server", "attack", "said"), WRONG.values(), ids=WRONG)
async def test_what_is_wrong_does_not(clock, server, attack, said):
    assert (await seen_flaw(server, attack)).startswith(said)


async def test_a_server_that_is_gone_is_no_answer(clock):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(OSError, match="all attempts to connect"):
        await BREACH.run(Attacker(port))
