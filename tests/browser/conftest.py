"""What browser tests share: a browser, and pages that may not complain."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Error, Page, sync_playwright

from tests.conftest import missing

#: What Chromium itself writes when nobody listens on the port; a page cannot keep it from that.
REFUSED = re.compile(r"WebSocket connection to .* failed")


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Return a headless Chromium: the machine's own, or playwright's."""
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    path = next(filter(None, map(shutil.which, names)), None)
    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        except Error as error:
            if path is not None or "Executable doesn't exist" not in str(error):
                raise
            missing("Chromium (`apt install chromium` or `playwright install chromium`)")
        yield browser
        with suppress(Error):
            browser.close()


class Visitor:
    """A page in a browser profile of its own, and what it complained about."""

    def __init__(self, browser: Browser, options: dict[str, Any]) -> None:
        self.context = browser.new_context(**options)
        self.page: Page = self.context.new_page()
        self.complaints: list[str] = []
        #: True while the server is away on purpose.
        self.server_is_away = False
        self.page.set_default_timeout(30_000)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", lambda message: self._hear(message.type, message.text))

    def _hear(self, kind: str, text: str) -> None:
        expected = self.server_is_away and REFUSED.search(text)
        if kind in ("error", "warning") and not expected:
            self.complaints.append(f"{kind}: {text}")


class Visitors:
    """Opens pages, and closes them all at the end of a test."""

    def __init__(self, browser: Browser) -> None:
        self._browser = browser
        self.all: list[Visitor] = []

    def new(self, **options: Any) -> Visitor:
        options.setdefault("viewport", {"width": 1280, "height": 720})
        visitor = Visitor(self._browser, options)
        self.all.append(visitor)
        return visitor

    def server_is_away(self, away: bool) -> None:
        for visitor in self.all:
            visitor.server_is_away = away


@pytest.fixture
def visitors(browser: Browser) -> Iterator[Visitors]:
    """Open pages with `Visitors.new`; a complaint in the console of any fails the test."""
    opened = Visitors(browser)
    yield opened
    for visitor in opened.all:
        visitor.context.close()
    assert [visitor.complaints for visitor in opened.all] == [[] for _ in opened.all]


@pytest.fixture(scope="session")
def screenshots() -> Path:
    """Return the folder for screenshots: `ARENA_SCREENSHOTS`, or ``artifacts/``."""
    default = Path(__file__).parents[2] / "artifacts"
    folder = Path(os.environ.get("ARENA_SCREENSHOTS") or default)
    folder.mkdir(parents=True, exist_ok=True)
    return folder
