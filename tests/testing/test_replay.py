"""Replay: what clients said once is said again, and a handler shows what it makes of it now."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

import pytest
import trio

from tests.helpers import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    asking,
    close_frame,
    echo,
    forever,
    frame,
    header,
    tasks,
)
from tests.testing.test_sniffer import hand_made
from trioweb import Heartbeat, Response, Timeouts, WebSocket, broadcast, connect, open_server
from trioweb.options import ServerOptions
from trioweb.testing import (
    Conditions,
    Entry,
    Fault,
    HalfOpen,
    Link,
    Recorder,
    Reset,
    VirtualNetwork,
    parse_recording,
    replay,
    run,
)

Handler = Callable[[WebSocket], Awaitable[object]]
LINK = Conditions(latency=0.01)
Actor = Callable[[VirtualNetwork], Awaitable[object]]


def record(
    handler: Handler,
    *actors: Actor,
    seed: int = 0,
    conditions: Conditions = LINK,
    recorder: Recorder | None = None,
    **options: Any,
) -> Recorder:
    """Record a server and what actors, each in a task, do on its network."""
    recorder = recorder or Recorder()

    async def main() -> None:
        network = VirtualNetwork(seed, conditions=conditions)
        network.taps.append(recorder)
        with network.host("server"):
            async with open_server(handler, 80, **options):
                async with trio.open_nursery() as nursery:
                    for actor in actors:
                        nursery.start_soon(actor, network)
                # The server's own end is no part of what clients did: let it see theirs.
                await trio.sleep(60)

    run(main, seed=seed)
    return recorder


def again(
    recording: Recorder | str | list[Entry],
    handler: Handler,
    *,
    network: Callable[[], VirtualNetwork] | None = None,
    seed: int = 0,
    **options: Any,
) -> Recorder:
    """Replay, and see that it leaves no task behind."""

    async def main() -> Recorder:
        before = tasks()
        made = network() if network is not None else None
        recorder = await replay(recording, handler, network=made, **options)
        assert tasks() == before
        return recorder

    return run(main, seed=seed)


def said(recorder: Recorder) -> dict[tuple[str, int], list[tuple[str, bytes]]]:
    """Return what the server said to each client: handshakes, messages, closes."""
    found: dict[tuple[str, int], list[tuple[str, bytes]]] = {}
    for entry in recorder.entries:
        is_control = entry.size is None or entry.kind in ("ping", "pong")
        if entry.source == ("server", 80) and not is_control:
            found.setdefault(entry.target, []).append((entry.kind, entry.data))
    return found


def kinds(recorder: Recorder, source: str, target: str) -> list[str]:
    return [entry.kind for entry in recorder.between(source, target)]


@asynccontextmanager
async def dialling(network: VirtualNetwork, name: str):
    """Open a connection from a host and say nothing."""
    with network.host(name) as host:
        stream = await host.open_stream("server", 80)
    async with stream:
        yield stream


def speaker(*writes: bytes, wait: float = 1, name: str = "client") -> Actor:
    """Write bytes as they are, a while apart, and leave when the server does or after a while."""

    async def act(network: VirtualNetwork) -> None:
        async with dialling(network, name) as stream:
            with suppress(trio.BrokenResourceError):
                for data in writes:
                    await stream.send_all(data)
                    await trio.sleep(wait)
                with trio.move_on_after(100 * wait):
                    while await stream.receive_some():
                        pass

    return act


class Chat:
    """Numbers what is said, and tells it to everybody who is here: its state is its history."""

    def __init__(self, welcome: str = "welcome") -> None:
        self.here: dict[str, WebSocket] = {}
        self.count = 0
        self.welcome = welcome

    async def __call__(self, ws: WebSocket) -> None:
        name = ws.request.path
        self.here[name] = ws
        try:
            await ws.send(f"{self.welcome} {name}, number {len(self.here)}")
            async for message in ws:
                self.count += 1
                broadcast(self.here.values(), f"{self.count} {name}: {message!r}")
        finally:
            del self.here[name]
            broadcast(self.here.values(), f"{name} left")


def chatter(name: str, start: float, *messages: str | bytes, pause: float = 1) -> Actor:
    async def act(network: VirtualNetwork) -> None:
        await trio.sleep(start)
        with network.host(name):
            async with connect(f"ws://server/{name}") as ws, trio.open_nursery() as nursery:
                nursery.start_soon(forever, ws)
                for message in messages:
                    await ws.send(message)
                    await trio.sleep(pause)
                nursery.cancel_scope.cancel()

    return act


CHATTERS = (
    chatter("alice", 0, "hello", "anybody there?", b"\0\1", "x" * 70_000, pause=20),
    chatter("bob", 0.5, "hi", "", "bye", pause=7),
    chatter("carol", 30.25, "am I late?"),
    chatter("alice", 90, "I am back"),
)


# The same again.


@pytest.mark.parametrize("latency", [0, 0.01, 3])
def test_a_handler_that_has_not_changed_says_the_same(latency, tmp_path):
    recorder = record(Chat(), *CHATTERS, conditions=Conditions(latency=latency))
    then = said(recorder)
    assert len(then) == 4
    assert min(map(len, then.values())) > 3
    path = tmp_path / "chat.txt"
    path.write_text(str(recorder), encoding="utf-8")
    for recording in (recorder, path.read_text(encoding="utf-8"), recorder.entries):
        now = again(recording, Chat())
        assert said(now) == then
        for name in ("alice", "bob", "carol"):
            assert now.messages("server", name) == recorder.messages("server", name) != []
            assert now.messages(name, "server") == recorder.messages(name, "server") != []
            assert kinds(now, name, "server") == kinds(recorder, name, "server")


def test_a_recording_that_is_read_again_can_be_compared():
    recorder = record(Chat(), *CHATTERS)
    text = str(recorder)
    then = Recorder(parse_recording(text))
    now = again(text, Chat())
    assert now.messages("server", "bob") == then.messages("server", "bob") != []


@pytest.mark.parametrize("clients", [1, 2, 5])
def test_what_happens_in_no_time_happens_in_its_order(clients):
    # On a perfect network all of this is at the time 0, and yet one thing leads to another.
    async def act(network: VirtualNetwork) -> None:
        chance = random.Random(1)
        sockets: list[WebSocket] = []
        async with AsyncExitStack() as stack:
            for number in range(clients):
                with network.host(f"client{number}"):
                    ws = await stack.enter_async_context(connect(f"ws://server/{number}"))
                await ws.receive()
                sockets.append(ws)
            for number in range(30):
                await chance.choice(sockets).send(str(number))
                for ws in sockets:
                    await ws.receive()

    recorder = record(Chat(), act, conditions=Conditions())
    assert {entry.time for entry in recorder.entries} == {0}
    now = again(recorder, Chat())
    assert said(now) == said(recorder)
    assert len(now.messages("server", "client0")) == 31 + clients - 1


def test_the_times_are_kept_and_the_first_line_is_now():
    recorder = record(Chat(), *CHATTERS)
    start = recorder.entries[0].time
    assert start == 0.02

    async def main() -> Recorder:
        await trio.sleep(1000)
        return await replay(recorder, Chat())

    now = run(main, seed=0)
    for name in ("alice", "bob", "carol"):
        assert [entry.time for entry in now.between(name, "server")] == [
            pytest.approx(1000 + entry.time - start, abs=2e-6)
            for entry in recorder.between(name, "server")
        ]
    last = recorder.entries[-1].time - start
    assert now.entries[-1].time == pytest.approx(1000 + last, abs=2e-6)


def test_a_pause_of_the_clients_is_a_pause():
    pauses: list[float] = []

    async def measure(ws: WebSocket) -> None:
        await ws.receive()
        start = trio.current_time()
        await ws.receive()
        pauses.append(trio.current_time() - start)

    recorder = record(measure, chatter("client", 0, "a", "b", pause=20), heartbeat=None)
    again(recorder, measure, heartbeat=None)
    assert pauses == [pytest.approx(20), pytest.approx(20, abs=2e-6)]


def test_the_clients_have_their_addresses():
    seen: list[Any] = []

    async def look(ws: WebSocket) -> None:
        seen.append((ws.request.client_address, ws.remote_address))
        await forever(ws)

    async def twice(network: VirtualNetwork) -> None:
        with network.host("server") as server:
            server._free_port()  # connections of before took ports
        await chatter("server", 0, "to myself")(network)
        await chatter("client", 0, "hello")(network)

    recorder = record(look, twice)
    then = seen.copy()
    assert [address for address, _ in then] == [("server", 49153), ("client", 49152)]
    seen.clear()
    now = again(recorder, look)
    assert seen == then
    assert said(now) == said(recorder)


def test_a_replay_can_be_repeated_and_replayed():
    recorder = record(Chat(), *CHATTERS)
    one = again(recorder, Chat(), seed=1)
    assert str(again(recorder, Chat(), seed=1)) == str(one)
    assert said(again(one, Chat(), seed=2)) == said(one)


def whole(recorder: Recorder) -> dict[tuple[str, int], list[tuple[str, bytes]]]:
    """Return what was said without the frames that broke off: their parts may be longer now."""
    return {
        client: [word for word in words if word[0] != "bytes"]
        for client, words in said(recorder).items()
    }


def leave(how: str, link: Link, ws: WebSocket) -> None:
    """Cut this one connection off: a link's own faults strike all of them."""
    for ours, theirs in link.connections:
        if ours.local_address == ws.local_address:
            if how == "reset":
                ours.fail("reset")
                theirs.fail("reset")
            elif how == "vanish":
                ours.fail("vanished")
                theirs.deafen()


def drawn(seed: int) -> list[Actor]:
    """Draw clients that say things, ping, leave in all manners, or are cut off."""
    chance = random.Random(seed)

    def client(number: int) -> Actor:
        name = f"c{number % 3}"  # several connections of one host, too
        start, steps = chance.uniform(0, 3), chance.randrange(10)
        plan = [
            (chance.choice(["text", "bytes", "big", "ping"]), chance.random()) for _ in range(steps)
        ]
        end = chance.choice(["leave", "close", "raise", "reset", "vanish"])

        async def act(network: VirtualNetwork) -> None:
            await trio.sleep(start)
            with network.host(name), suppress(ZeroDivisionError):
                async with connect(f"ws://server/{number}") as ws:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(forever, ws)
                        for what, pause in plan:
                            if what == "ping":
                                await ws.ping()
                            else:
                                text = f"{number} says {what}" * (5000 if what == "big" else 1)
                                await ws.send(text.encode() if what == "bytes" else text)
                            await trio.sleep(pause)
                        nursery.cancel_scope.cancel()
                    if end == "raise":
                        raise ZeroDivisionError
                    if end == "close":
                        await ws.aclose(4000 + number, "that was it")
                    leave(end, network.link(name, "server"), ws)

        return act

    return [client(number) for number in range(chance.randrange(1, 6))]


@pytest.mark.parametrize("seed", range(20))
def test_whatever_clients_do_the_server_says_the_same(seed):
    conditions = Conditions(latency=0.001)
    recorder = record(Chat(), *drawn(seed), seed=seed, conditions=conditions, heartbeat=None)
    now = again(str(recorder), Chat(), heartbeat=None)
    then = whole(recorder)
    assert whole(now) == then
    assert all(len(words) > 1 for words in then.values())


# Something else.


def test_a_handler_that_has_changed_shows_it():
    recorder = record(Chat(), *CHATTERS)
    now = again(recorder, Chat("good evening"))
    assert recorder.messages("server", "bob")[0] == "welcome /bob, number 2"
    assert now.messages("server", "bob")[0] == "good evening /bob, number 2"
    assert now.messages("server", "bob")[1:] == recorder.messages("server", "bob")[1:]


def test_a_server_that_goes_first_this_time_is_let_go():
    async def curt(ws: WebSocket) -> None:
        await ws.receive()
        await ws.aclose(4001, "enough")

    recorder = record(echo, chatter("client", 0, *"abcdef", pause=20))
    now = again(recorder, curt)
    assert recorder.messages("server", "client") == list("abcdef")
    assert now.messages("server", "client") == []
    assert said(now)["client", 49152][1:] == [("close", b"\x0f\xa1enough")]
    # The server's own deadline ends it, for this client says nothing to the close.
    (end,) = [entry.time for entry in now.between("server", "client") if entry.kind == "closed"]
    assert end == pytest.approx(Timeouts().close, abs=0.1)


def test_a_handler_that_raises_shows_as_an_internal_error(caplog):
    async def fail(ws: WebSocket) -> None:
        raise LookupError(await ws.receive())

    now = again(record(echo, chatter("client", 0, "a", "b")), fail)
    assert said(now)["client", 49152][1:] == [("close", b"\x03\xf3internal error")]
    assert "the handler failed" in caplog.text


def test_what_a_handler_raises_to_end_the_program_ends_the_replay():
    async def stop(ws: WebSocket) -> None:
        raise SystemExit(await ws.receive())

    with pytest.raises(SystemExit, match="a"):
        again(record(echo, chatter("client", 0, "a", "b")), stop)


@pytest.mark.parametrize("size", [10, 10**6])
def test_a_server_that_stalls_holds_up_nobody_but_its_own_client(size):
    async def stall(ws: WebSocket) -> None:
        if ws.request.path == "/bad":
            await trio.sleep(10**5)
        await echo(ws)

    recorder = record(
        echo,
        chatter("bad", 0, *["x" * size] * 5, pause=1),
        chatter("good", 0.5, *"abcdef", pause=1),
        conditions=Conditions(),
    )
    now = again(recorder, stall)
    assert now.messages("server", "bad") == []
    assert now.between("server", "good") != []
    assert [(e.time, e.data) for e in now.between("server", "good") if e.kind == "text"] == [
        (e.time, e.data) for e in recorder.between("server", "good") if e.kind == "text"
    ]
    assert now.entries[-1].time < recorder.entries[-1].time + 2 * Timeouts().close


def test_the_options_are_the_servers():
    async def page(request) -> Response | None:
        return Response.make(200, "a page\n") if request.path == "/page" else None

    options: ServerOptions = {"on_request": page, "heartbeat": Heartbeat(3, 3)}
    plain = speaker(b"GET /page HTTP/1.1\r\nHost: a\r\n\r\n")
    recorder = record(echo, plain, chatter("client", 0, "a", "b", pause=20), **options)
    now = again(recorder, echo, **options)
    assert said(now) == said(recorder)
    assert ("bytes", b"a page\n") in said(now)["client", 49152] + said(now)["client", 49153]
    assert kinds(now, "server", "client").count("ping") == 12
    other = again(recorder, echo, heartbeat=None)
    assert "ping" not in kinds(other, "server", "client")
    assert ("bytes", b"not found\n") not in said(other)["client", 49152]


# What is wrong is as wrong again.


PLAIN = b"GET / HTTP/1.1\r\nHost: server\r\n\r\n"
WRONG: dict[str, list[bytes]] = {
    "an opcode": [frame(3, "x")],
    "a control opcode": [frame(0xB, "x")],
    "reserved bits": [frame(TEXT, "x", rsv=2)],
    "no mask": [frame(TEXT, "x", mask=None)],
    "no mask, nothing to mask": [frame(PING, mask=None)],
    "a long length": [hand_made(TEXT, b"x", fin=True, rsv=0, mask=b"abcd", form=64)],
    "a longish length": [hand_made(TEXT, b"x", fin=True, rsv=0, mask=b"abcd", form=16)],
    "a long length of much": [hand_made(TEXT, b"x" * 200, fin=True, rsv=0, mask=b"abcd", form=64)],
    "no text": [frame(TEXT, b"\xff\xfe")],
    "no beginning": [frame(CONTINUATION, "x")],
    "no end": [frame(TEXT, "x", fin=False), frame(TEXT, "y")],
    "half a ping": [frame(PING, "x", fin=False)],
    "a long ping": [frame(PING, "x" * 126)],
    "close code 999": [close_frame(999, "x")],
    "close code 1005": [close_frame(1005)],
    "half a close code": [frame(CLOSE, b"\x03")],
    "a reason that is no text": [frame(CLOSE, b"\x03\xe8\xff")],
    "too much": [header(BINARY, 2**40) + b"\0\0\0\0" + bytes(1000)],
    "a length with a sign": [header(BINARY, 2**63) + b"\0\0\0\0" + bytes(100)],
    "data behind a close": [close_frame(1000) + frame(TEXT, "late")],
    "half a frame": [frame(TEXT, "x" * 100)[:50]],
    "one byte": [b"\x81"],
    "random bytes": [random.Random(0).randbytes(200)],
}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("text", [True, False])
def test_a_breach_of_the_protocol_is_the_same_breach(wrong, text):
    good = frame(TEXT, "good", mask=b"\1\2\3\4")
    actor = speaker(asking("/a"), good, frame(PING, "?"), *WRONG[wrong], good)
    recorder = record(echo, actor)
    now = again(str(recorder) if text else recorder, echo)
    assert said(now) == said(recorder)
    words = said(now)["client", 49152]
    assert words[1] == ("text", b"good")
    assert kinds(now, "server", "client")[:3] == ["http", "text", "pong"]
    assert words[-1][0] == "close" or "half" in wrong or wrong == "one byte"


@pytest.mark.parametrize(
    "request_",
    [
        PLAIN,
        PLAIN[:20],
        b"G",
        b"\0\1\2\3" * 10,
        frame(TEXT, "no handshake"),
        b"GET / HTTP/1.1\r\nHost: server\r\nContent-Length: 5\r\n\r\nhello",
        asking(headers={"Sec-WebSocket-Version": "12"}),
        asking(headers={"Sec-WebSocket-Key": None}),
        asking(headers={"Origin": "http://caf\xe9.example"}),
        asking("/" + "x" * 20_000),
        asking() + frame(TEXT, "in one write") + frame(PING),
        b"",
    ],
)
def test_any_request_is_answered_the_same(request_):
    recorder = record(echo, speaker(request_, wait=0.1))
    now = again(str(recorder), echo)
    assert said(now) == said(recorder)
    ours = [(e.kind, e.data) for e in recorder.between("client", "server")]
    assert [(e.kind, e.data) for e in now.between("client", "server")] == ours


HALF = frame(TEXT, "x" * 9)[:7]
#: How a connection was cut off, and what was told of the client's end.
ENDINGS: dict[str, tuple[Fault | None, str]] = {
    "reset": (Reset(), "reset"),
    "client vanished": (HalfOpen("client"), "vanished"),
    "server vanished": (HalfOpen("server"), "closed"),
    "closed": (None, "closed"),
}


@pytest.mark.parametrize(
    ("ending", "part"),
    # What is no whole frame is sent when the connection ends: late enough to put off a ping.
    [*((ending, b"") for ending in ENDINGS), ("reset", HALF), ("closed", HALF)],
)
def test_a_connection_that_was_cut_off_is_cut_off_again(ending, part):
    ends: list[tuple[float, str]] = []
    fault, told = ENDINGS[ending]

    async def note(ws: WebSocket) -> None:
        with suppress(trio.EndOfChannel, trio.BrokenResourceError):
            await echo(ws)
        assert ws.closed is not None
        ends.append((round(trio.current_time(), 1), ws.closed.reason))

    async def act(network: VirtualNetwork) -> None:
        async with dialling(network, "client") as stream:
            await stream.send_all(asking() + frame(TEXT, "hello"))
            await trio.sleep(1)
            await stream.send_all(part)
            while await stream.receive_some() and trio.current_time() < 2:
                with trio.move_on_after(1):
                    await stream.receive_some()
            if fault is None:
                await stream.aclose()
            else:
                network.link("client", "server").inject(fault)
            await trio.sleep(100)

    recorder = record(note, act)
    then = ends.copy()
    ends.clear()
    now = again(str(recorder), note)
    assert said(now) == said(recorder)
    assert kinds(recorder, "client", "server")[-1] == told
    assert [entry.kind for entry in now.between("client", "server")] == [
        entry.kind for entry in recorder.between("client", "server")
    ]
    # A client that vanished is missed when it says nothing to the heartbeat.
    ((end, reason),) = then
    assert [reason for _, reason in ends] == [reason]
    assert abs(ends[0][0] - end) < 0.11
    assert (reason == "ping timeout") is (ending == "client vanished")


def test_a_client_that_leaves_with_something_unread_resets_again():
    async def flood(ws: WebSocket) -> None:
        with suppress(trio.BrokenResourceError):
            while True:
                await ws.send(bytes(1000))
                await trio.sleep(0.1)

    async def act(network: VirtualNetwork) -> None:
        async with dialling(network, "client") as stream:
            await stream.send_all(asking())
            await trio.sleep(5.05)
            await stream.send_all(frame(TEXT, "bye") + close_frame(1001))

    for latency in (0, 0.01, 1):
        recorder = record(flood, act, conditions=Conditions(latency=latency))
        assert kinds(recorder, "client", "server")[-2:] == ["close", "closed"]
        now = again(str(recorder), flood)
        # It spoke to nobody for as long as the reset took to get there, and no longer.
        count = len(said(recorder)["client", 49152]) - len(said(now)["client", 49152])
        assert abs(count) <= 20 * latency
        assert "close" not in kinds(recorder, "server", "client")
        assert "close" not in kinds(now, "server", "client")
        assert kinds(now, "server", "client")[-1] == kinds(recorder, "server", "client")[-1]


def test_a_client_that_is_gone_at_once_gets_no_answer_to_its_last_words():
    # On a perfect network the reset overtakes the close frame: nobody had a turn in between.
    async def busy(ws: WebSocket) -> None:
        with suppress(trio.BrokenResourceError):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(forever, ws)
                for _ in range(10):
                    await ws.send("hello")
                    await trio.sleep(0.1)

    async def act(network: VirtualNetwork) -> None:
        async with dialling(network, "client") as stream:
            await stream.send_all(asking())
            await trio.sleep(0.45)
            await stream.send_all(close_frame(1001))

    recorder = record(busy, act, conditions=Conditions())
    assert kinds(recorder, "client", "server") == ["connect", "http", "close", "closed"]
    assert kinds(recorder, "server", "client") == ["http", *["text"] * 5, "reset"]
    now = again(recorder, busy)
    assert kinds(now, "server", "client") == kinds(recorder, "server", "client")


def test_a_frame_that_was_too_long_to_be_whole_is_too_long_again():
    async def act(network: VirtualNetwork) -> None:
        async with dialling(network, "client") as stream:
            await stream.send_all(asking() + header(BINARY, 2**40) + bytes(1000))
            await trio.sleep(5)
            network.link("client", "server").inject(Reset())

    recorder = record(echo, act)
    assert kinds(recorder, "client", "server") == ["connect", "http", "bytes", "reset"]
    now = again(recorder, echo)
    assert said(now) == said(recorder)
    assert said(now)["client", 49152][1][1].startswith(b"\x03\xf1")


def test_a_client_that_stops_sending_does_so_again():
    heard: list[str] = []

    async def listen(ws: WebSocket) -> None:
        with suppress(trio.BrokenResourceError):
            await forever(ws)
        assert ws.closed is not None
        heard.append(ws.closed.reason)

    async def act(network: VirtualNetwork) -> None:
        async with dialling(network, "client") as stream:
            await stream.send_all(asking() + frame(TEXT, "hello"))
            await trio.sleep(5)
            await stream.send_eof()
            await trio.sleep(5)

    recorder = record(listen, act)
    now = again(recorder, listen)
    assert len(set(heard)) == 1
    assert len(heard) == 2
    assert kinds(now, "client", "server") == ["connect", "http", "text", "eof", "closed"]
    assert said(now) == said(recorder)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_ping_of_the_server_is_answered_as_it_was(seed):
    # Pings are random bytes: the pongs of then would answer nothing now.
    latencies: list[float] = []

    async def measure(ws: WebSocket) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(forever, ws)
            for _ in range(3):
                latencies.append(round(await ws.ping(), 3))
                await trio.sleep(5)
            nursery.cancel_scope.cancel()

    async def slow(network: VirtualNetwork) -> None:
        with network.host("client"):
            async with connect("ws://server") as ws:
                await forever(ws)

    recorder = record(measure, slow, seed=7, conditions=Conditions(latency=0.25))
    pongs = [entry.data for entry in recorder.between("client", "server") if entry.kind == "pong"]
    assert latencies == [0.5] * 3
    latencies.clear()
    now = again(recorder, measure, network=lambda: VirtualNetwork(seed))
    # The first ping leaves with the upgrade, and the client's clock was behind the server's then.
    assert latencies == [0.5] * 3
    assert kinds(now, "client", "server") == kinds(recorder, "client", "server")
    others = [entry.data for entry in now.between("client", "server") if entry.kind == "pong"]
    assert len(set(others) | set(pongs)) == 6


def test_a_pong_that_nobody_asked_for_stays_as_it_is():
    recorder = record(echo, speaker(asking(), frame(PONG, "unasked"), frame(TEXT, "a")))
    now = again(recorder, echo)
    assert [e.data for e in now.between("client", "server") if e.kind == "pong"] == [b"unasked"]


# A network of one's own.


def test_conditions_of_a_network_decide_what_arrives_first():
    def network() -> VirtualNetwork:
        made = VirtualNetwork()
        for name in ("server", "near", "far"):
            with made.host(name):
                pass
        made.link("far", "server").inject(Conditions(latency=3))
        return made

    async def tell(ws: WebSocket) -> None:
        order.extend([message async for message in ws])

    async def act(made: VirtualNetwork) -> None:
        made.link("far", "server").inject(Conditions(latency=3))

    order: list[str | bytes] = []

    async def dial_first(made: VirtualNetwork) -> None:
        with made.host("far"), made.host("near"):
            pass
        await act(made)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(chatter("far", 0, "sent first"), made)
            nursery.start_soon(chatter("near", 14, "sent later"), made)

    # The far client sends at 12 (dialled for 6, shook hands for 6); make it arrive at 15.
    recorder = record(tell, dial_first, conditions=Conditions())
    then = order.copy()
    assert then == ["sent later", "sent first"]
    order.clear()
    again(recorder, tell, network=network)
    assert order == then
    order.clear()
    again(recorder, tell)
    assert order == ["sent first", "sent later"]


def test_a_recording_can_be_played_on_a_bad_network():
    recorder = record(Chat(), *CHATTERS)

    def network() -> VirtualNetwork:
        return VirtualNetwork(3, conditions=Conditions(latency=0.1, jitter=0.2, chunk=7000))

    now = again(recorder, Chat(), network=network)
    assert now.messages("alice", "server") == recorder.messages("alice", "server")
    assert len(now.messages("server", "alice")) == len(recorder.messages("server", "alice"))


def test_a_network_gets_back_its_taps_and_its_port_and_has_no_connection_left():
    recorder = record(Chat(), *CHATTERS)

    async def main() -> None:
        network = VirtualNetwork()
        other = Recorder()
        network.taps.append(other)
        for _ in range(2):
            now = await replay(recorder, Chat(), network=network)
            assert network.taps == [other]
            assert not network.hosts["server"].listeners
            assert not network.link("alice", "server").connections
        assert other.messages("server", "bob") == 2 * now.messages("server", "bob")

    run(main, seed=0)


def test_a_replay_that_is_cancelled_ends_at_once_and_leaves_nothing():
    recorder = record(Chat(), *CHATTERS)

    async def main() -> None:
        before = tasks()
        network = VirtualNetwork()
        with trio.move_on_after(22) as scope:
            await replay(recorder, Chat(), network=network)
        assert scope.cancelled_caught
        assert trio.current_time() == 22
        assert tasks() == before
        assert not network.taps
        assert not network.hosts["server"].listeners
        assert not network.link("alice", "server").connections

    run(main, seed=0)


# A recording that ends before its connections do.


def test_connections_that_had_not_ended_end_with_the_recording():
    left: list[tuple[str, float]] = []

    async def note(ws: WebSocket) -> None:
        with suppress(trio.BrokenResourceError):
            await echo(ws)
        left.append((ws.request.path, round(trio.current_time(), 3)))

    recorder = record(note, chatter("a", 0, "x", pause=50), chatter("b", 1, "y", "z", pause=20))
    left.clear()
    # As taken in the midst of it: to the first line at 21 s or later.
    entries = [entry for entry in recorder.entries if entry.time < 21.5]
    assert not any(entry.kind == "closed" for entry in entries)
    now = again(entries, note)
    last = round(entries[-1].time - entries[0].time, 3)
    assert sorted(left) == [("/a", last), ("/b", last)]
    assert now.messages("server", "b") == ["y", "z"]


# A recording that is not whole, or none for a replay.


def test_a_recording_that_lost_its_first_lines_cannot_be_replayed():
    recorder = record(echo, chatter("client", 0, *"abc"), recorder=Recorder(max_lines=5))
    with pytest.raises(ValueError, match=r"the first \d lines of this recording were dropped"):
        again(recorder, echo)
    with pytest.raises(ValueError, match="no connection is made in this recording"):
        again(str(recorder), echo)


@pytest.mark.parametrize("recording", ["", "\n", [], Recorder()])
def test_an_empty_recording_cannot_be_replayed(recording):
    with pytest.raises(ValueError, match="no connection is made in this recording"):
        again(recording, echo)


def test_a_connection_without_its_beginning_cannot_be_replayed():
    entries = record(echo, chatter("a", 0, "x"), chatter("b", 1, "y")).entries
    at = next(n for n, entry in enumerate(entries) if entry.kind == "connect" and n)
    del entries[at]
    with pytest.raises(
        ValueError, match=r"lacks the beginning of a connection: .* b:49152 > server:80 http"
    ):
        again(entries, echo)


def test_a_payload_of_a_client_that_was_cut_cannot_be_sent():
    entries = record(echo, chatter("client", 0, "hello")).entries
    at = next(n for n, entry in enumerate(entries) if entry.kind == "text")
    entries[at] = replace(entries[at], data=b"hell")
    with pytest.raises(ValueError, match=r'this line\'s payload was cut: .* text 5 "hell" \.\.\.'):
        again(entries, echo)


def test_a_payload_of_the_server_that_was_cut_is_not_needed():
    whole = record(echo, chatter("client", 0, "hello")).entries
    entries = [e if e.source[0] == "client" else replace(e, data=e.data[:1]) for e in whole]
    assert said(again(entries, echo)) == said(Recorder(whole))


def test_a_recording_of_several_servers_is_replayed_for_one_of_them():
    recorder = Recorder()

    async def main() -> None:
        network = VirtualNetwork()
        network.taps.append(recorder)

        async def gateway(ws: WebSocket) -> None:
            async with connect("ws://backend") as backend:
                async for message in ws:
                    await backend.send(message)
                    await ws.send(await backend.receive())

        with network.host("backend"):
            async with open_server(echo, 80):
                with network.host("server"):
                    async with open_server(gateway, 80):
                        await chatter("client", 0, "a", "b")(network)

    run(main, seed=0)
    with pytest.raises(ValueError, match=r"several servers, .*\('backend', 80\), \('server', 80\)"):
        again(recorder, echo)
    backends = [e for e in recorder.entries if "backend" in (e.source[0], e.target[0])]
    now = again(backends, echo)
    assert now.messages("backend", "server") == ["a", "b"]


def test_a_recording_of_tls_cannot_be_replayed(server_tls, client_tls):
    recorder = Recorder()

    async def main() -> None:
        network = VirtualNetwork()
        network.taps.append(recorder)
        with network.host("localhost"):
            async with (
                open_server(echo, 443, ssl_context=server_tls),
                connect("wss://localhost", ssl_context=client_tls) as ws,
            ):
                await ws.send("hello")
                assert await ws.receive() == "hello"

    run(main, seed=0)
    assert {entry.kind for entry in recorder.entries} == {"connect", "bytes", "closed"}
    with pytest.raises(ValueError, match="this connection was encrypted, which cannot be replayed"):
        again(recorder, echo)


def test_a_line_that_is_none_is_named():
    text = str(record(echo, chatter("client", 0, "a"))).replace(" text ", " txet ")
    with pytest.raises(ValueError, match=r"line \d: not a line of a recording: .* no kind 'txet'"):
        again(text, echo)


def test_an_entry_that_is_none_is_named():
    entries = record(echo, chatter("client", 0, "a")).entries
    with pytest.raises(ValueError, match="no frame is called 'txet'"):
        again([replace(e, kind="txet") if e.kind == "text" else e for e in entries], echo)


@pytest.mark.parametrize("option", ["listeners", "ssl_context"])
def test_a_replay_listens_by_itself(option, server_tls):
    options: Any = {option: server_tls if option == "ssl_context" else []}
    with pytest.raises(ValueError, match=f"{option} has no place in it"):
        again(record(echo, chatter("client", 0, "a")), echo, **options)


def test_an_option_that_no_server_has_is_refused():
    with pytest.raises(TypeError, match="unknown options: hosts"):
        again(record(echo, chatter("client", 0, "a")), echo, hosts=None)
