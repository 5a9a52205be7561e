"""A real browser: a page of ours over HTTP and HTTPS that talks to us through its own WebSocket."""

from __future__ import annotations

from pathlib import Path
from ssl import SSLContext

import trio
from playwright.sync_api import sync_playwright

import trioweb
from tests.interop.kit import BYE, DONE, our_server

PAGE = """<!doctype html>
<link rel="icon" href="data:,">
<title>interop</title>
<script type="module" src="interop.js"></script>
"""
SCRIPT = """
const base = location.origin.replace(/^http/, "ws");
const next = (target, kind) => new Promise((done, fail) => {
  target.addEventListener(kind, done, { once: true });
  if (kind !== "close") target.addEventListener("close", fail, { once: true });
});
async function open(path) {
  const ws = new WebSocket(base + path);
  ws.binaryType = "arraybuffer";
  await next(ws, "open");
  return ws;
}
async function closing(ws) {
  const { code, reason, wasClean } = await next(ws, "close");
  return [code, reason, wasClean];
}
async function echoed(ws, message) {
  ws.send(message);
  const { data } = await next(ws, "message");
  if (typeof message === "string") return data === message;
  const [one, two] = [new Uint8Array(message), new Uint8Array(data)];
  return one.length === two.length && one.every((byte, index) => byte === two[index]);
}
async function run() {
  const ws = await open("/echo");
  const seen = { extensions: ws.extensions, echoed: [] };
  const messages = [
    "hello", "größer als 😀", new Uint8Array([0, 1, 255]).buffer, "", new ArrayBuffer(0),
    "ab".repeat(2 ** 19), new Uint8Array(2 ** 20).map((_, index) => index % 251).buffer,
  ];
  for (const message of messages) seen.echoed.push(await echoed(ws, message));
  ws.close(4000, "done, größer");
  seen.closed = await closing(ws);
  seen.closedByPeer = await closing(await open("/close"));
  const pinged = await open("/ping");
  seen.pinged = (await next(pinged, "message")).data;
  pinged.close();
  seen.closedWithoutCode = await closing(pinged);
  return seen;
}
window.result = run().catch((error) => String(error));
"""


def visit(chromium: str, url: str) -> object:
    """Open a page and return what its script resolved to; runs in a thread of its own."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        try:
            page = browser.new_context(ignore_https_errors=True).new_page()
            page.goto(url)
            return page.evaluate("window.result")
        finally:
            browser.close()


async def test_a_page_and_its_websocket(
    chromium: str, secure: bool, deflate: bool, server_tls: SSLContext, tmp_path: Path
):
    (tmp_path / "index.html").write_text(PAGE)
    (tmp_path / "interop.js").write_text(SCRIPT)
    async with our_server(
        on_request=trioweb.Site({"/": tmp_path}),
        ssl_context=server_tls if secure else None,
        deflate=trioweb.Deflate() if deflate else None,
    ) as (server, ours):
        url = server.url.replace("ws", "http", 1) + "/"
        seen = await trio.to_thread.run_sync(visit, chromium, url)
    assert isinstance(seen, dict), seen
    assert ("permessage-deflate" in seen.pop("extensions")) is deflate
    assert seen == {
        "echoed": [True] * 7,
        "closed": [4000, "", True],
        "closedByPeer": [4001, BYE, True],
        "pinged": "pinged",
        "closedWithoutCode": [1005, "", True],
    }
    assert ours.closes == [
        trioweb.Close(4000, DONE, by_peer=True),
        trioweb.Close(1005, by_peer=True),
    ]
    offered = ours.requests[0].headers
    assert "permessage-deflate" in offered["Sec-WebSocket-Extensions"]
    assert offered["Origin"] == url.rstrip("/")
