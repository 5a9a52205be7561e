"""The arena's command lines, and its port."""

from __future__ import annotations

import socket

import pytest
import trio
import trio.testing

from examples.arena.__main__ import main
from examples.arena.bots import main as bots_main
from examples.arena.bots import run_bots
from examples.arena.server import open_arena_listeners

from .arena_kit import serving


async def test_both_families_share_the_port() -> None:
    listeners = await open_arena_listeners("localhost", 0)
    sockets = [it for it in listeners if isinstance(it, trio.SocketListener)]
    assert len(sockets) == len(listeners)
    ports = {listener.socket.getsockname()[1] for listener in sockets}
    assert len(ports) == 1
    with pytest.raises(OSError, match="in use"):
        await open_arena_listeners("localhost", ports.pop())
    for listener in listeners:
        await listener.aclose()
    (listener,) = await open_arena_listeners("127.0.0.1", 0)
    await listener.aclose()


async def test_bots_over_the_network(autojump_clock: trio.testing.MockClock) -> None:
    async with serving(coins=30) as running:
        tally = await run_bots(running.url, 6, seconds=5, stalled=1)
        assert tally.errors == 0
        assert tally.states / tally.bots / tally.seconds == pytest.approx(20, rel=0.05)
        assert "6 bots, 4.0 s: " in str(tally)
        assert "0 errors" in str(tally)


# -- the command lines


def test_help_lists_the_options(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0
    shown = capsys.readouterr().out
    for option in ("--host", "--port", "--bots", "--coins", "--size", "--seed", "--log-level"):
        assert option in shown


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--size", "big"], "expected WIDTHxHEIGHT"),
        (["--size", "10x10"], "at least 80 units"),
        (["--bots", "-1"], "expected a number from 0"),
        (["--log-level", "loud"], "invalid choice"),
    ],
)
def test_what_the_command_line_refuses(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    assert complaint in capsys.readouterr().err


def test_a_port_in_use_is_said_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["--port", str(port), "--log-level", "error"]) == 1
    assert capsys.readouterr().err.startswith(f"Cannot open port {port} on localhost: ")


def test_bots_without_a_server_say_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert bots_main(["--url", "ws://localhost:1", "--bots", "1", "--seconds", "5"]) == 1
    assert "Cannot play at ws://localhost:1" in capsys.readouterr().err
