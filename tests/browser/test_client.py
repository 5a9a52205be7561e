"""The client in a real browser, and in Node: calls both ways, and topics over a server's death."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page

from tests.browser.conftest import Visitors
from tests.programs import free_port

ROOT = Path(__file__).parents[2]
NODE_CLIENT = Path(__file__).parent / "client" / "client.mjs"


class Server:
    """The server in a process of its own, on one port, with one file."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._process: subprocess.Popen[str] | None = None
        self.port = free_port()

    def start(self) -> None:
        command = [sys.executable, "-m", "tests.browser.topics_server", str(self.port)]
        self._process = subprocess.Popen(
            [*command, str(self._file)], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path / "topics")
    server.start()
    yield server
    server.kill()


def open_page(visitors: Visitors, server: Server, user: str, format_: str = "json") -> Page:
    page = visitors.new().page
    page.goto(f"http://localhost:{server.port}/")
    wait_for(page, "'client' in window", True)
    page.evaluate("options => client.begin(options)", {"user": user, "format": format_})
    return page


def wait_for(page: Page, expression: str, value: object) -> None:
    """Wait until an expression has a value; `wait_for_function` is against the page's policy."""
    for _ in range(600):
        if (found := page.evaluate(expression)) == value:
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"{expression} is {found!r}, not {value!r}")


@pytest.mark.parametrize("format_", ["json", "msgpack"])
def test_calls_both_ways(server: Server, visitors: Visitors, format_: str) -> None:
    page = open_page(visitors, server, "ada", format_)
    seen = page.evaluate("client.calls()")
    statistics = seen.pop("statistics")
    assert seen == {
        "sum": 2**40 + 2,
        "invalid": ["CallError", "invalid", "Expected `int`, got `str`"],
        "unknown": ["CallError", "unknown-method", "there is no method 'nothing'"],
        "late": ["CallTimeout", "timeout", "the call took too long"],
        "cancelled": "AbortError",
        "items": True,
        "back": 42,
        "backStream": list(range(20)),
        "backFails": ["CallError", "conflict", "not now"],
        "running": 0,
    }
    assert {statistics[name] for name in ("calls", "answers", "queuedItems", "malformed")} == {0}


def test_two_pages_miss_nothing_over_a_servers_death(server: Server, visitors: Visitors) -> None:
    pages = [
        open_page(visitors, server, "ada"),
        open_page(visitors, server, "bob", "msgpack"),
    ]
    ada, bob = pages
    for page in pages:
        page.evaluate("client.listen('news')")
    ada.evaluate("client.publish('news', 'a1', 'a2')")
    bob.evaluate("client.publish('news', 'b1')")
    for page in pages:
        wait_for(page, "client.got()", ["a1", "a2", "b1"])
    visitors.server_is_away(True)
    server.kill()
    for page in pages:
        wait_for(page, "client.state() !== 'open'", True)
    ada.evaluate("void client.publish('news', 'a3', 'a4')")
    server.start()
    for page in pages:
        wait_for(page, "client.got()", ["a1", "a2", "b1", "a3", "a4"])
        wait_for(page, "client.state()", "open")
    visitors.server_is_away(False)
    bob.evaluate("client.publish('news', 'b2')")
    for page in pages:
        wait_for(page, "client.got()", ["a1", "a2", "b1", "a3", "a4", "b2"])
    assert sorted(ada.evaluate("client.users('news')")) == ["ada", "bob"]
    history = ada.evaluate("client.history('news')")
    assert [event["data"] for event in history["events"]] == ["a4", "b2"]
    for page in pages:
        page.evaluate("client.close()")
        assert page.evaluate("client.state()") == "closed"


def test_who_is_there(server: Server, visitors: Visitors) -> None:
    ada = open_page(visitors, server, "ada")
    ada.evaluate("client.listen('room')")
    bob = open_page(visitors, server, "bob", "msgpack")
    bob.evaluate("client.listen('room')")
    wait_for(ada, "client.presence()", [["join", "ada"], ["join", "bob"]])
    assert sorted(ada.evaluate("client.users('room')")) == ["ada", "bob"]
    bob.evaluate("client.close()")
    wait_for(ada, "client.presence()", [["join", "ada"], ["join", "bob"], ["leave", "bob"]])
    assert ada.evaluate("client.users('room')") == ["ada"]


def test_a_topic_that_is_not_for_all(server: Server, visitors: Visitors) -> None:
    page = open_page(visitors, server, "ada")
    refused = page.evaluate("client.failure(client.subscribe('secret'))")
    assert refused == ["Unsubscribed", "forbidden"]
    assert page.evaluate("client.state()") == "open"


def test_a_slow_reader_and_the_history(server: Server, visitors: Visitors) -> None:
    page = open_page(visitors, server, "ada", "msgpack")
    page.evaluate("client.publish('news', ...Array(100).keys())")
    other = open_page(visitors, server, "bob")
    position = other.evaluate("client.history('news')")["position"]
    options = {"position": {**position, "offset": 0}, "buffer": {"items": 7}}
    other.evaluate("options => client.listen('news', options)", options)
    wait_for(other, "client.got()", [*range(100)])


def test_a_link_that_breaks_in_the_midst(server: Server, visitors: Visitors) -> None:
    page = open_page(visitors, server, "ada")
    page.evaluate("client.listen('news')")
    for number in range(3):
        page.evaluate("client.leave('leave-me')")
        page.evaluate("number => client.publish('news', number)", number)
    wait_for(page, "client.got()", [0, 1, 2])


def test_in_node(server: Server, node_with_packages: list[str]) -> None:
    done = subprocess.run(
        [*node_with_packages, NODE_CLIENT, f"ws://localhost:{server.port}/"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"sum": 3, "items": [0, 1, 2], "events": ["a", "b"]}
