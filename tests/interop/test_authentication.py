"""Credentials as others send them: websockets' client, and pages in a real browser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio
from playwright.sync_api import sync_playwright
from websockets.exceptions import InvalidStatus
from websockets.trio.client import connect as their_connect
from websockets.typing import Subprotocol

import trioweb
from tests.helpers import serving
from trioweb import (
    AnyOf,
    Basic,
    Bearer,
    CookieToken,
    MessageToken,
    Passwords,
    QueryToken,
    SubprotocolToken,
    Tokens,
    WebSocket,
)

CHECK = Tokens({"s3cret": "ann", "ключ+/=": "bob"})
WAYS = AnyOf(
    Bearer(CHECK),
    Basic(Passwords({"ann": "pass: wörd"})),
    CookieToken(CHECK),
    SubprotocolToken(CHECK),
    QueryToken(CHECK),
    MessageToken(CHECK, code=4401),
)


async def whoami(ws: WebSocket) -> None:
    await ws.send(f"{ws.principal} {ws.subprotocol}")
    async for _ in ws:
        pass


# --- websockets ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("user", "path", "options", "who"),
    [
        ("", "/", {"additional_headers": {"Authorization": "Bearer s3cret"}}, "ann None"),
        ("ann:pass%3A%20w%C3%B6rd@", "/", {}, "ann None"),
        ("", "/", {"additional_headers": {"Cookie": "theme=dark; session=s3cret"}}, "ann None"),
        ("", "/?token=s3cret", {}, "ann None"),
        (
            "",
            "/",
            {"subprotocols": [Subprotocol("token.0LrQu9GO0YcrLz0"), Subprotocol("chat")]},
            "bob chat",
        ),
    ],
    ids=["bearer", "basic", "cookie", "query", "subprotocol"],
)
async def test_websockets_comes_in(user: str, path: str, options: dict[str, Any], who: str):
    async with serving(whoami, authenticate=WAYS, subprotocols=["chat"]) as server:
        url = server.url.replace("//", f"//{user}") + path
        async with their_connect(url, proxy=None, **options) as ws:
            assert await ws.recv() == who


async def test_websockets_comes_in_by_its_first_message():
    async with (
        serving(whoami, authenticate=WAYS, subprotocols=["chat"]) as server,
        their_connect(server.url, proxy=None) as ws,
    ):
        await ws.send("ключ+/=")
        assert await ws.recv() == "bob None"


async def test_websockets_hears_what_is_wanted():
    async with serving(whoami, authenticate=WAYS, subprotocols=["chat"]) as server:
        with pytest.raises(InvalidStatus) as caught:
            async with their_connect(server.url + "/?token=wrong", proxy=None):
                raise AssertionError("the block must not run")
    response = caught.value.response
    assert response.status_code == 401
    assert response.headers.get_all("WWW-Authenticate") == [
        "Bearer",
        'Basic realm="WebSocket", charset="UTF-8"',
    ]


# --- a browser -------------------------------------------------------------------------------

PAGE = """<!doctype html>
<link rel="icon" href="data:,">
<title>authentication</title>
<script type="module" src="auth.js"></script>
"""
SCRIPT = """
const base = location.origin.replace(/^http/, "ws");
const outcome = (path, protocols, first) => new Promise((done) => {
  const ws = new WebSocket(base + path, protocols);
  if (first !== undefined) ws.addEventListener("open", () => ws.send(first));
  ws.addEventListener("message", ({ data }) => { done([data, ws.protocol]); ws.close(); });
  ws.addEventListener("close", ({ code }) => done(code));
});
const bytes = new TextEncoder().encode("ключ+/=");
const base64url = btoa(String.fromCharCode(...bytes))
  .replace(/\\+/g, "-").replace(/\\//g, "_").replace(/=+$/, "");
async function run() {
  const seen = {
    subprotocol: await outcome("/", ["token." + base64url, "chat"]),
    query: await outcome("/?token=" + encodeURIComponent("ключ+/="), []),
    message: await outcome("/", [], "s3cret"),
    wrongQuery: await outcome("/?token=wrong", []),
    wrongMessage: await outcome("/", [], "wrong"),
  };
  document.cookie = "session=s3cret";
  seen.cookie = await outcome("/", []);
  return seen;
}
window.result = run().catch((error) => String(error));
"""


def visit(chromium: str, url: str) -> object:
    """Open a page and return what its script resolved to; runs in a thread of its own."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        try:
            page = browser.new_page()
            page.goto(url)
            return page.evaluate("window.result")
        finally:
            browser.close()


async def test_a_page_comes_in(chromium: str, tmp_path: Path):
    (tmp_path / "index.html").write_text(PAGE)
    (tmp_path / "auth.js").write_text(SCRIPT)
    async with serving(
        whoami,
        authenticate=WAYS,
        subprotocols=["chat"],
        on_request=trioweb.Site({"/": tmp_path}),
    ) as server:
        url = server.url.replace("ws", "http", 1) + "/"
        seen = await trio.to_thread.run_sync(visit, chromium, url)
    assert seen == {
        "subprotocol": ["bob chat", "chat"],
        "query": ["bob None", ""],
        "message": ["ann None", ""],
        "wrongQuery": 1006,
        "wrongMessage": 4401,
        "cookie": ["ann None", ""],
    }
