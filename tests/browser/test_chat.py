"""The chat as people meet it: real pages in a real browser, and a server that is killed."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import trio
from playwright.sync_api import Locator, Page, expect

from examples.chat.rules import Message
from trioweb import Retention, TopicOptions
from trioweb.stores.sqlite import SQLiteStore
from trioweb.toolkit.pubsub import Hub

from .conftest import Visitor, Visitors

ROOT = Path(__file__).parents[2]
WORD = "open-sesame"
KEPT = TopicOptions(history=Retention(max_age=1e9))
PHONE = {
    "viewport": {"width": 390, "height": 844},
    "device_scale_factor": 2,
    "has_touch": True,
    "is_mobile": True,
    "color_scheme": "dark",
}


class ChatProcess:
    """``python -m examples.chat`` in a process of its own, always on the same port and file."""

    def __init__(self, history: Path) -> None:
        self.history = history
        self._process: subprocess.Popen[str] | None = None
        self.address = ""

    def start(self) -> None:
        port = self.address.rstrip("/").rpartition(":")[2] or "0"
        command = [sys.executable, "-m", "examples.chat", "--port", port, "--word", WORD]
        self._process = subprocess.Popen(
            [*command, "--history", str(self.history), "--log-level", "error"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        found = re.match(r"Chat: (http://localhost:\d+/)", line)
        assert found, f"the chat did not start, but said {line!r}"
        self.address = found[1]

    def end(self, how: signal.Signals = signal.SIGKILL) -> int:
        """End it, and return its exit status."""
        if self._process is None:
            return 0
        self._process.send_signal(how)
        self._process.communicate(timeout=20)
        status = self._process.returncode
        self._process = None
        return status


@pytest.fixture
def chat(tmp_path: Path) -> Iterator[ChatProcess]:
    process = ChatProcess(tmp_path / "chat.db")
    process.start()
    yield process
    process.end()


def join(visitor: Visitor, chat: ChatProcess, name: str, word: str = "") -> Page:
    page = visitor.page
    page.goto(chat.address + (f"#word={word}" if word else ""))
    ask_for(page, name)
    expect(page.get_by_label("Message", exact=True)).to_be_visible()
    return page


def ask_for(page: Page, name: str) -> None:
    page.get_by_label("Your name").fill(name)
    page.get_by_role("button", name="Join").click()


def say(page: Page, text: str) -> None:
    page.get_by_label("Message", exact=True).fill(text)
    page.keyboard.press("Enter")


def try_now(*pages: Page) -> None:
    for page in pages:
        page.evaluate("document.getElementById('retry').click()")  # it may be hidden by now


def bubbles(page: Page) -> Locator:
    """What has arrived in the open conversation; what is on its way is elsewhere."""
    return page.get_by_role("log").locator(".bubble")


def place(page: Page, name: str) -> Locator:
    return page.get_by_role("navigation").get_by_role("button", name=name)


def people(page: Page) -> Locator:
    return page.get_by_role("complementary").locator(".person .label")


def test_a_server_that_is_killed_between_two_messages(
    chat: ChatProcess, visitors: Visitors, screenshots: Path
) -> None:
    ada, bob = join(visitors.new(), chat, "Ada"), join(visitors.new(), chat, "Bob")
    said = ["Is the kettle on?", "It is.", "Then I am coming."]
    for page, text in zip((ada, bob, ada), said, strict=True):
        say(page, text)
        expect(bubbles(bob)).to_have_text(said[: said.index(text) + 1])

    visitors.server_is_away(True)
    chat.end(signal.SIGKILL)
    for page in (ada, bob):
        expect(page.get_by_text("The connection is lost.")).to_be_visible()
    # What is said now waits, and stays in order.
    for text in ("Hello?", "Is anybody there?"):
        say(ada, text)
    on_their_way = ada.get_by_role("list", name="On their way").locator(".bubble")
    expect(on_their_way).to_have_text(["Hello?", "Is anybody there?"])
    ada.screenshot(path=screenshots / "chat-away.png")
    chat.start()
    try_now(ada, bob)
    for page in (ada, bob):
        expect(page.get_by_text("The connection is lost.")).to_be_hidden()
    visitors.server_is_away(False)

    said += ["Hello?", "Is anybody there?"]
    expect(bubbles(bob)).to_have_text(said)
    say(bob, "I am here again.")
    said += ["I am here again."]
    for page in (ada, bob):
        expect(bubbles(page)).to_have_text(said)
    expect(on_their_way).to_have_count(0)
    # And so does somebody see it who comes only now.
    late = join(visitors.new(), chat, "Grace")
    expect(bubbles(late)).to_have_text(said)
    visitors.server_is_away(True)
    assert chat.end(signal.SIGTERM) == 0


def test_every_message_once_whenever_the_server_is_killed(
    chat: ChatProcess, visitors: Visitors
) -> None:
    ada, bob = join(visitors.new(), chat, "Ada"), join(visitors.new(), chat, "Bob")
    visitors.server_is_away(True)
    said = [f"message {number}" for number in range(6)]
    for number, text in enumerate(said):
        say(ada, text)  # and it is on the way, or at the server, or on the disk, or back
        if number in (1, 3):
            chat.end(signal.SIGKILL)
            chat.start()
            try_now(ada, bob)
    for page in (ada, bob):
        expect(bubbles(page)).to_have_text(said)
    visitors.server_is_away(False)
    ada.reload()
    expect(bubbles(ada)).to_have_text(said)


def test_rooms_typing_presence_and_letters(
    chat: ChatProcess, visitors: Visitors, screenshots: Path
) -> None:
    ada, bob = join(visitors.new(), chat, "Ada"), join(visitors.new(), chat, "Bob")
    expect(people(ada)).to_have_text(["Ada (you)", "Bob"])
    bob.reload()  # no leave and no join
    expect(people(bob)).to_have_text(["Ada", "Bob (you)"])
    tab = bob.context.new_page()  # several tabs are one person
    tab.goto(chat.address)
    expect(people(tab)).to_have_text(["Ada", "Bob (you)"])
    expect(people(ada)).to_have_text(["Ada (you)", "Bob"])
    expect(ada.get_by_text("2 people here")).to_be_visible()
    tab.close()

    bob.get_by_label("Message", exact=True).press_sequentially("I am wri")
    expect(ada.get_by_text("Bob is typing")).to_be_visible()
    say(bob, "<img src=x onerror=alert(1)> & https://example.org/?a=1.")
    expect(ada.get_by_text("Bob is typing")).to_have_count(0)
    expect(bubbles(ada)).to_have_text(["<img src=x onerror=alert(1)> & https://example.org/?a=1."])
    link = bubbles(ada).get_by_role("link")
    assert link.get_attribute("href") == "https://example.org/?a=1"

    # Another room: what is said meanwhile is counted, and stands below a line.
    place(ada, "kitchen").click()
    expect(ada.get_by_text("Nobody has said anything here yet.")).to_be_visible()
    say(bob, "one")
    say(bob, "two")
    expect(place(ada, "lobby 2 unread")).to_be_visible()
    expect(ada).to_have_title("(2) #kitchen · Chat")
    say(ada, "Tea is ready")
    expect(bubbles(ada)).to_have_text(["Tea is ready"])
    ada.keyboard.press("Alt+ArrowUp")
    expect(ada.get_by_role("log").locator("li.new + .message .bubble")).to_have_text("one")
    expect(ada).to_have_title("#lobby · Chat")
    expect(place(bob, "kitchen 1 unread")).to_be_visible()

    # In private.
    ada.get_by_role("complementary").get_by_role("button", name="Bob").click()
    say(ada, "This is between us")
    expect(place(bob, "Ada 1 unread")).to_be_visible()
    eve = join(visitors.new(), chat, "Eve")
    expect(eve.get_by_text("Choose somebody from the list of people")).to_be_visible()
    tab = bob.context.new_page()
    tab.goto(chat.address)
    expect(place(tab, "Ada 1 unread")).to_be_visible()
    place(bob, "Ada 1 unread").click()
    expect(bubbles(bob)).to_have_text(["This is between us"])
    expect(place(tab, "Ada 1 unread")).to_have_count(0)  # he has read it here
    tab.close()
    ada.get_by_label("Message", exact=True).press_sequentially("an")
    expect(bob.get_by_text("Ada is typing")).to_be_visible()
    ada.screenshot(path=screenshots / "chat.png")
    bob.reload()  # it is where it was, with all that was said
    expect(bubbles(bob)).to_have_text(["This is between us"])


def test_moderation(chat: ChatProcess, visitors: Visitors, screenshots: Path) -> None:
    ada, eve = join(visitors.new(), chat, "Ada", WORD), join(visitors.new(), chat, "Eve")
    assert WORD not in ada.url
    # Who is too quick waits, and all is said in order in the end.
    spam = [f"buy {number}" for number in range(10)]
    for text in spam:
        say(eve, text)
    expect(eve.get_by_text("Not so fast")).to_be_visible()
    eve.reload()  # what waits outlives the page
    expect(bubbles(ada)).to_have_text(spam)

    ada.get_by_role("complementary").get_by_text("Eve").hover()
    ada.get_by_role("button", name="Remove Eve").click()
    ada.get_by_label("Reason").fill("nobody buys")
    ada.keyboard.press("Enter")
    expect(eve.get_by_role("heading", name="You were removed")).to_be_visible()
    expect(eve.get_by_role("alert")).to_have_text("Removed by Ada: nobody buys")
    expect(ada.get_by_role("log")).to_contain_text("Eve was removed by Ada: nobody buys")
    expect(people(ada)).to_have_text(["Ada (you)"])
    eve.screenshot(path=screenshots / "chat-removed.png")
    eve.get_by_role("button", name="Join").click()
    expect(eve.get_by_role("alert")).to_contain_text("you were removed; come back in")
    expect(eve.get_by_role("button", name="Remove Ada")).to_have_count(0)


def test_a_phone(chat: ChatProcess, visitors: Visitors, screenshots: Path) -> None:
    ada = join(visitors.new(), chat, "Ada")
    page = visitors.new(**PHONE).page
    page.goto(chat.address)
    ask_for(page, "ada")
    expect(page.get_by_role("alert")).to_have_text("the name Ada is taken")
    ask_for(page, "Grace")
    say(ada, "word " * 60 + "https://example.org/" + "x" * 200)
    expect(bubbles(page)).to_have_count(1)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.screenshot(path=screenshots / "chat-phone.png")
    page.get_by_role("button", name="Rooms and private messages").click()
    place(page, "kitchen").click()
    expect(page.get_by_role("navigation")).to_be_hidden()
    expect(page.get_by_role("heading", name="#kitchen")).to_be_visible()
    page.get_by_role("button", name="People", exact=True).click()
    page.get_by_role("complementary").get_by_role("button", name="Ada").click()
    expect(page.get_by_role("complementary")).to_be_hidden()
    say(page, "hi")
    expect(place(ada, "Grace 1 unread")).to_be_visible()


async def fill(history: Path, total: int) -> None:
    async with SQLiteStore(history) as store, Hub({"*": KEPT}, store=store) as hub:
        for number in range(total):
            message = Message(f"key {number}", "Bob", "#lobby", f"message {number}", number * 60)
            await hub.publish("room/lobby", msgspec.to_builtins(message))


def test_what_was_said_long_ago(chat: ChatProcess, visitors: Visitors) -> None:
    trio.run(fill, chat.history, 120)
    ada = join(visitors.new(), chat, "Ada")
    said = [f"message {number}" for number in range(120)]
    earlier = ada.get_by_role("button", name="Show earlier messages")
    expect(bubbles(ada)).to_have_text(said[70:])
    expect(bubbles(ada).last).to_be_in_viewport()
    earlier.click()
    expect(bubbles(ada)).to_have_text(said[20:])
    expect(bubbles(ada).nth(50)).to_be_in_viewport()  # where she was
    earlier.click()
    expect(bubbles(ada)).to_have_text(said)
    expect(earlier).to_be_hidden()
    say(ada, "now")
    expect(bubbles(ada)).to_have_text([*said, "now"])
    expect(bubbles(ada).last).to_be_in_viewport()
