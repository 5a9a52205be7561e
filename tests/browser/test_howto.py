"""The how-to's page in a real browser: what it shows is what the text promises."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

from tests.browser.conftest import Visitors
from tests.programs import free_port
from tests.test_readme import ROOT, scenarios


def wait_until_served(port: int) -> None:
    for _ in range(400):
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise AssertionError("nobody listens")


def test_the_page_shows_what_is_published(visitors: Visitors, tmp_path: Path) -> None:
    text = (ROOT / "docs" / "howto" / "toolkit" / "browser.md").read_text()
    (scenario,) = scenarios("browser.md", text)
    for path, body in scenario.files.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(body)
    assert scenario.server is not None
    port = free_port()
    source = scenario.server.replace("8765", str(port)).replace("trio.sleep(1)", "trio.sleep(0.05)")
    command = [sys.executable, "-c", source]
    with subprocess.Popen(
        command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}
    ) as server:
        try:
            page = visitors.new().page
            wait_until_served(port)
            page.goto(f"http://localhost:{port}/")
            page.get_by_text("seconds later").nth(2).wait_for()
            assert page.title() == "open"
        finally:
            server.kill()
