"""The chat's command line, its page, and the file that it keeps."""

from __future__ import annotations

import socket
from functools import partial
from pathlib import Path

import pytest
import trio

from examples.chat.__main__ import main
from examples.chat.server import Options, serve_chat

from .arena_kit import get
from .chat_kit import guest


async def test_the_page_and_the_history(tmp_path: Path) -> None:
    options = Options(history=tmp_path / "chat.db", port=0)
    with trio.fail_after(30):
        for round_ in (1, 2):  # the second server goes on with the file of the first
            async with trio.open_nursery() as nursery:
                server = await nursery.start(partial(serve_chat, options))
                if round_ == 1:
                    await look_at_the_page(server.url)
                async with guest(server.url, "Ada") as ada:
                    await ada.say("#lobby", "hello", f"in round {round_}")
                    params = {"topic": "room/lobby", "limit": 9}
                    found = await ada.peer.call("history", params)
                    assert len(found["events"]) == round_
                await server.drain()


async def look_at_the_page(url: str) -> None:
    for path, kind in [
        ("/", "text/html"),
        ("/chat.css", "text/css"),
        ("/view.js", "text/javascript"),
        ("/chat.js", "text/javascript"),
        ("/trioweb/trioweb.js", "text/javascript"),
    ]:
        status, head, body = await get(url, path)
        assert status == 200
        assert f"content-type: {kind}" in head.lower()
        assert "content-security-policy: default-src 'none'; script-src 'self';" in head.lower()
        assert "http://" not in body.replace("http://www.w3.org/", "")  # nothing from elsewhere
        if kind == "text/html":
            assert "style=" not in body
            assert " onclick" not in body
    assert (await get(url, "/health"))[0] == 200
    assert (await get(url, "/server.py"))[0] == 404


def test_help_lists_the_options(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0
    shown = capsys.readouterr().out
    for option in ("--host", "--port", "--history", "--rooms", "--word", "--log-level"):
        assert option in shown


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--port", "70000"], "expected a port from 0 to 65535"),
        (["--rooms", "a/b"], "expected letters and digits"),
        (["--word", "short"], "at least 8"),
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


def test_a_port_in_use_is_said_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        file = str(tmp_path / "chat.db")
        assert main(["--port", str(port), "--history", file, "--log-level", "error"]) == 1
    assert capsys.readouterr().err.startswith(f"Cannot open port {port} on localhost: ")


def test_a_file_that_cannot_be_is_said_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = str(tmp_path / "nowhere" / "chat.db")
    assert main(["--port", "0", "--history", file, "--log-level", "error"]) == 1
    assert capsys.readouterr().err.startswith(f"Cannot keep the history in {file}: ")
