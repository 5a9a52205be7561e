"""The benchmark: its load finds out every wrong answer, and its report says what was measured."""

from __future__ import annotations

import json
import shutil
import ssl
import subprocess
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
import trio

import trioweb
from benchmarks import build, report, sample
from benchmarks.plot import NAMESPACE, draw
from benchmarks.results import Plan, Results
from benchmarks.rows import ROWS, SYSTEMS
from benchmarks.targets import TARGETS, Target
from tests.conftest import missing
from tests.helpers import Peer, accepting, frame, port_of, scripted, serving

Handler = Callable[[trioweb.WebSocket], Awaitable[object]]


@pytest.fixture(scope="session")
def program() -> str:
    """Return the load, built by the machine's C compiler."""
    if shutil.which("cc") is None:
        missing("a C compiler (apt-get install gcc)")
    return str(build.load())


async def load(
    program: str, mode: str, port: int, **options: object
) -> subprocess.CompletedProcess[bytes]:
    given = {"seconds": 0.1, **options}
    command = [program, mode, str(port), *(f"{name}={value}" for name, value in given.items())]
    return await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False)


def measured(done: subprocess.CompletedProcess[bytes]) -> dict[str, float]:
    assert (done.returncode, done.stderr) == (0, b"")
    numbers: dict[str, float] = json.loads(done.stdout)
    assert numbers["rate"] > 0
    return numbers


def complaint(done: subprocess.CompletedProcess[bytes]) -> str:
    assert (done.returncode, done.stdout) == (1, b"")
    return done.stderr.decode()


@pytest.mark.parametrize("opcode", [1, 2])
@pytest.mark.parametrize("size", [1, 125, 126, 65535, 65536, 200_000])
async def test_echo(program: str, size: int, opcode: int) -> None:
    kind, echoed = (str, bytes)[opcode - 1], 0

    async def counting(ws: trioweb.WebSocket) -> None:
        nonlocal echoed
        async for message in ws:
            assert (type(message), len(message)) == (kind, size)
            await ws.send(message)
            echoed += 1
        assert ws.closed is not None
        assert ws.closed.code == 1000

    async with serving(counting) as server:
        options = {"connections": 3, "window": 4, "size": size, "opcode": opcode}
        numbers = measured(await load(program, "echo", port_of(server), **options))
    assert numbers["bytes"] > size / 2  # what was under way at either end is cut off
    assert 0 < numbers["p50"] <= numbers["p99"]
    assert numbers["rate"] * numbers["seconds"] <= echoed


async def test_echo_over_tls(program: str, server_tls: ssl.SSLContext) -> None:
    async with serving(ssl_context=server_tls) as server:
        done = await load(program, "echo", port_of(server), connections=2, size=100_000, tls=1)
    if b"built without TLS" in done.stderr:
        missing("OpenSSL's header (apt-get install libssl-dev, and rm benchmarks/build/load)")
    measured(done)


async def test_echo_of_compressed_messages(program: str) -> None:
    async with serving() as server:
        await trio.to_thread.run_sync(sample.check_compressed, port_of(server))
        options = {"connections": 3, "deflate": 1, "frames": sample.mixed()}
        measured(await load(program, "echo", port_of(server), **options))


async def test_will_not_measure_without_compression_what_should_have_it(program: str) -> None:
    async with serving(deflate=None) as server:
        done = await load(program, "echo", port_of(server), deflate=1, frames=sample.mixed())
    assert "would not compress" in complaint(done)


async def test_echo_of_bytes(program: str) -> None:
    async def copy(peer: Peer) -> None:
        async for data in peer.stream:
            await peer.stream.send_all(data)

    async with scripted(copy) as url:
        port = int(url.rpartition(":")[2])
        measured(await load(program, "echo", port, connections=2, window=3, raw=1))


async def test_broadcast(program: str) -> None:
    async def to_all(ws: trioweb.WebSocket) -> None:
        async for message in ws:
            for _ in range(3):
                trioweb.broadcast(server.connections, message)
            await trio.lowlevel.checkpoint()

    async with serving(to_all) as server:
        measured(await load(program, "broadcast", port_of(server), connections=5, batch=3))


async def test_broadcast_though_one_reads_nothing(program: str) -> None:
    stalled: set[str] = set()

    async def to_all(ws: trioweb.WebSocket) -> None:
        async for message in ws:
            trioweb.broadcast(server.connections, message, overflow=trioweb.Overflow.DROP_NEWEST)
            stalled.update(ws.id for ws in server.connections if ws.statistics().messages_dropped)
            await trio.lowlevel.checkpoint()

    # Two orders are under way at any time: whoever reads, however slowly, has room for them.
    async with serving(to_all, limits=trioweb.Limits(outbox_bytes=400_000)) as server:
        options = {"connections": 3, "size": 100_000, "stalled": 1, "seconds": 0.5}
        numbers = measured(await load(program, "broadcast", port_of(server), **options))
    assert 0 < numbers["p50"] <= numbers["p99"]
    assert len(stalled) == 1


async def test_a_load_in_which_nobody_reads_is_refused(program: str) -> None:
    assert "nobody is left" in complaint(await load(program, "broadcast", 1, stalled=1))


async def test_handshakes(program: str) -> None:
    async with serving() as server:
        measured(await load(program, "handshakes", port_of(server), connections=3))


async def test_idle_connections_are_held_until_told(program: str) -> None:
    async with serving() as server, trio.open_nursery() as nursery:
        frames = sample.four_kibibytes()
        command = [program, "idle", str(port_of(server)), "connections=20", "deflate=1"]
        command.append(f"frames={frames}")
        piped = partial(trio.run_process, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        process = await nursery.start(piped, command)
        assert await process.stdout.receive_some() == b"ready\n"
        assert len(server.connections) == 20
        await process.stdin.aclose()


async def answer_otherwise(ws: trioweb.WebSocket) -> None:
    async for message in ws:
        await ws.send("x" * len(message))


async def answer_longer(ws: trioweb.WebSocket) -> None:
    async for message in ws:
        assert isinstance(message, str)
        await ws.send(message + "x")


async def answer_shorter(ws: trioweb.WebSocket) -> None:
    async for message in ws:
        await ws.send(message[:-1])


async def answer_bytes(ws: trioweb.WebSocket) -> None:
    async for message in ws:
        assert isinstance(message, str)
        await ws.send(message.encode())


async def answer_twice(ws: trioweb.WebSocket) -> None:
    async for message in ws:
        await ws.send(message)
        await ws.send(message)


async def answer_once(ws: trioweb.WebSocket) -> None:
    await ws.send(await ws.receive())


async def spoil_the_second(ws: trioweb.WebSocket) -> None:
    await ws.send(await ws.receive())
    async for message in ws:
        assert isinstance(message, str)
        await ws.send(message[:-1] + "\n")


async def keep_all(ws: trioweb.WebSocket) -> None:
    async for _ in ws:
        pass


async def spoil_the_middle(ws: trioweb.WebSocket) -> None:
    async for message in ws:
        assert isinstance(message, str)
        half = len(message) // 2
        await ws.send(message[:half] + "\n" + message[half + 1 :])


@pytest.mark.parametrize("size", [32, 100_000])
@pytest.mark.parametrize(
    ("handler", "says"),
    [
        (answer_otherwise, "is not the echo"),
        (answer_longer, "too long"),
        (answer_shorter, "an echo of "),
        (answer_bytes, "opcode 2"),
        (answer_twice, "more echoes than messages"),
        (answer_once, "closed a connection"),
        (keep_all, "nothing came for 0.5 seconds"),
        (spoil_the_second, "is not the echo"),
        (spoil_the_middle, "is not the echo"),
    ],
)
async def test_finds_wrong_answers(program: str, handler: Handler, says: str, size: int) -> None:
    async with serving(handler) as server:
        options = {"connections": 2, "size": size, "patience": 0.5}
        done = await load(program, "echo", port_of(server), **options)
    assert says in complaint(done)


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n", "no upgrade: HTTP/1.1 403"),
        (b"garbage\r\n\r\n", "no upgrade: garbage"),
        (accepting("dGhlIHNhbXBsZSBub25jZQ=="), "no upgrade: HTTP/1.1 101"),  # to another key
        (accepting("A" * 22 + "==") + b"x", "no answer"),
        (b"", "no answer"),
    ],
)
async def test_finds_wrong_handshakes(program: str, answer: bytes, says: str) -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(answer)
        await peer.stream.aclose()

    async with scripted(script) as url:
        done = await load(program, "echo", int(url.rpartition(":")[2]))
    assert says in complaint(done)


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (frame(1, "x" * 32), "a mask"),
        (frame(1, "x" * 32, mask=None, rsv=4), "reserved bits"),
        (frame(0, "x" * 32, mask=None), "opcode 0"),
        (frame(9, "x", mask=None, fin=False), "a control frame that is none"),
        (frame(11, "x", mask=None), "a control frame that is none"),
        (b"\x81\x7f" + b"\xff" * 8, "too long"),
    ],
)
async def test_finds_wrong_frames(program: str, answer: bytes, says: str) -> None:
    async def script(peer: Peer) -> None:
        await peer.accept()
        await peer.frame()
        await peer.send(answer)
        await peer.rest()

    async with scripted(script) as url:
        done = await load(program, "echo", int(url.rpartition(":")[2]))
    assert says in complaint(done)


async def test_answers_pings_amid_a_message_and_takes_fragments(program: str) -> None:
    pongs = 0

    async def script(peer: Peer) -> None:
        nonlocal pongs
        await peer.accept()
        try:
            while (came := await peer.frame()).opcode == 1:
                first = frame(1, came.payload[:5], fin=False, mask=None)
                rest = frame(0, came.payload[5:], fin=False, mask=None)
                ping, last = frame(9, b"are you there", mask=None), frame(0, mask=None)
                for byte in first + ping:
                    await peer.send(bytes([byte]))
                pong = await peer.frame()
                assert (pong.opcode, pong.payload) == (10, b"are you there")
                pongs += 1
                await peer.send(rest, last)
        except EOFError:
            pass

    async with scripted(script) as url:
        measured(await load(program, "echo", int(url.rpartition(":")[2])))
    assert pongs


async def test_finds_wrong_broadcasts(program: str) -> None:
    async def forgetful(ws: trioweb.WebSocket) -> None:
        async for message in ws:
            trioweb.broadcast([ws], message)
            await trio.lowlevel.checkpoint()

    async with serving(forgetful) as server:
        options = {"connections": 2, "patience": 0.5}
        done = await load(program, "broadcast", port_of(server), **options)
    assert "nothing came for" in complaint(done)


# The plan, what is made of the numbers, and the report.


def test_each_round_begins_with_another_system() -> None:
    plan = Plan(["64x1-32-text", "deflate", "idle"], ["trioweb", "raw", "aiohttp"], rounds=3)
    assert list(plan.turns()) == [
        *(("64x1-32-text", 0, name) for name in ("trioweb", "raw", "aiohttp")),
        *(("64x1-32-text", 1, name) for name in ("raw", "aiohttp", "trioweb")),
        *(("64x1-32-text", 2, name) for name in ("aiohttp", "trioweb", "raw")),
        *(("deflate", 0, name) for name in ("trioweb", "aiohttp")),
        *(("deflate", 1, name) for name in ("aiohttp", "trioweb")),
        *(("deflate", 2, name) for name in ("trioweb", "aiohttp")),
        *(("idle", 0, name) for name in ("trioweb", "raw", "aiohttp")),
    ]


def test_rows_that_are_compared_have_their_rounds_in_turn() -> None:
    plan = Plan(["broadcast-1", "json", "typed", "room-1"], ["trioweb", "aiohttp"], rounds=2)
    assert list(plan.turns()) == [
        ("broadcast-1", 0, "trioweb"),
        ("broadcast-1", 0, "aiohttp"),
        ("room-1", 0, "trioweb"),
        ("broadcast-1", 1, "aiohttp"),
        ("room-1", 1, "trioweb"),
        ("broadcast-1", 1, "trioweb"),
        ("json", 0, "trioweb"),
        ("typed", 0, "trioweb"),
        ("typed", 1, "trioweb"),
        ("json", 1, "trioweb"),
    ]


@pytest.fixture
def results() -> Results:
    """A run in which the machine got slower from round to round."""
    row = "64x1-32-text"
    results = Results(Plan([row, "idle", "idle-deflate"], ["trioweb", "aiohttp", "raw"], rounds=3))
    for mine, other in ((300, 100), (150, 75), (60, 20)):
        extra = {"p50": 7.0, "p99": 9.0, "load": 0.25, "bytes": 34.0, "seconds": 1.0}
        results.add(row, "trioweb", {"value": float(mine), **extra})
        results.add(row, "aiohttp", {"value": float(other), **extra})
        results.add(row, "raw", {"value": 1.0})
    results.fail(row, "raw", "it fell over")
    results.add("idle", "trioweb", {"value": 10.0})
    results.add("idle-deflate", "trioweb", {"value": 14.0})
    return results


def test_ratios_are_those_within_the_rounds(results: Results) -> None:
    row = "64x1-32-text"
    assert results.median(row, "trioweb") == 150
    assert results.ratio((row, "trioweb"), (row, "aiohttp")) == 3
    assert results.ratio((row, "trioweb"), (row, "raw")) is None
    assert results.ratio(("idle-deflate", "trioweb"), ("idle", "trioweb")) == pytest.approx(1.4)
    for bare, typed in ((400, 200), (100, 60), (90, 45)):
        results.add("json", "trioweb", {"value": float(bare)})
        results.add("typed", "trioweb", {"value": float(typed)})
    assert results.ratio(("typed", "trioweb"), ("json", "trioweb")) == 0.5  # of medians: 0.6


def test_targets_know_what_is_met(results: Results) -> None:
    found = {(one["row"], one["other"]): one["met"] for one in report.targets(results)}
    assert found == {
        ("64x1-32-text", "raw"): False,  # it fell over
        ("64x1-32-text", "aiohttp"): True,
        ("idle", None): True,
        ("idle-deflate", "trioweb"): False,
    }


@pytest.mark.parametrize("target", TARGETS, ids=lambda one: f"{one.row}-{one.other}")
def test_targets_name_what_there_is(target: Target) -> None:
    row = ROWS[target.other_row or target.row]
    if target.other is not None:
        assert row.kind in SYSTEMS[target.other].kinds
    assert ROWS[target.row].kind in SYSTEMS["trioweb"].kinds


def test_report(results: Results, tmp_path: Path) -> None:
    text, numbers = report.write(results, {"CPU": "abacus"}, tmp_path / "new")
    lines = text.read_text().splitlines()
    assert "- CPU: abacus" in lines
    assert "| 64 x 1, 32 B text (echoes/s) | 150 ± 40% | 75 ± 27% | failed |" in lines
    assert "| 64 x 1, 32 B text | 3 | - |" in lines
    assert "| 64 x 1, 32 B text | at least 1 x aiohttp | 3 | met |" in lines
    assert "- raw Trio TCP, 64 x 1, 32 B text: it fell over" in lines
    assert "## Targets: 2 of 4 met" in lines
    data = json.loads(numbers.read_text())
    assert data["rows"]["64x1-32-text"]["rounds"]["trioweb"][2]["value"] == 60
    assert data["rows"]["64x1-32-text"]["ratio"] == {"trioweb": 1, "aiohttp": 3}


def test_plot(results: Results, tmp_path: Path) -> None:
    picture = ET.parse(draw(results, tmp_path)).getroot()
    kind = f"{{{NAMESPACE}}}"
    words = [one.text for one in picture.iter(f"{kind}text")]
    assert {"64 x 1, 32 B text", "trioweb", "150", "75", "failed", "KiB, less is better"} <= {
        *words
    }
    first = picture.find(f"{kind}g")
    assert first is not None
    widths = [float(bar.attrib["width"]) for bar in first.iter(f"{kind}rect")]
    assert widths == [190, 95]
