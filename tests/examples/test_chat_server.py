"""The chat as pages meet it, over a network in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

import trioweb
from examples.chat.chat import BAN, BURST, KICKED
from trioweb import CallError
from trioweb.stores.sqlite import SQLiteStore

from .chat_kit import WORD, guest, join, refused, serving

pytestmark = pytest.mark.usefixtures("virtual_network")


async def test_what_one_says_all_hear_who_are_in_the_room(autojump_clock: MockClock) -> None:
    async with serving() as (_, url), guest(url, " ada ") as ada, guest(url, "Bob") as bob:
        hello = await ada.peer.call("hello")
        assert hello["name"] == "ada"
        assert hello["is_moderator"] is False
        assert hello["rooms"] == ["lobby", "kitchen", "workshop"]
        for one in (ada, bob):
            await one.subscribe("room/lobby")
        await bob.subscribe("room/kitchen")
        await ada.say("#lobby", " Hello! ")
        await ada.say("#kitchen", "Tea?")
        ((topic, message),) = await ada.until(1)
        assert topic == "room/lobby"
        assert {**message, "key": 0, "at": 0} == {
            "key": 0,
            "by": "ada",
            "to": "#lobby",
            "text": "Hello!",
            "at": 0,
        }
        await bob.until(2)
        assert bob.texts == ["Hello!", "Tea?"]


@pytest.mark.parametrize(
    ("first", "why"),
    [
        (join("ADA", key="not the key of Ada"), "the name Ada is taken"),
        (join("..."), "a name needs at least one letter"),
        (join("Eve", word="open seasick"), "this is not the moderators' word"),
        (join("Eve", key="short"), "Expected `str` of length >= 16 - at `$.key`"),
        ("[]", "Expected `object`, got `array`"),
        ("hello", "JSON is malformed"),
    ],
)
async def test_who_cannot_come_in_hears_why(
    first: str, why: str, autojump_clock: MockClock
) -> None:
    async with serving() as (_, url), guest(url, "Ada") as ada:
        await ada.peer.call("hello")
        code, reason = await refused(url, first)
        assert code == 1008
        assert reason.startswith(why)


async def test_private_messages_are_private(autojump_clock: MockClock) -> None:
    async with (
        serving() as (_, url),
        guest(url, "Ada") as ada,
        guest(url, "Bob") as bob,
        guest(url, "Eve") as eve,
    ):
        for one, name in ((ada, "Ada"), (bob, "Bob"), (eve, "Eve")):
            await one.subscribe(f"inbox/{name}", f"typing/{name}", "room/lobby")
        await ada.peer.notify("typing", {"to": "@bob"})
        await bob.until(1)
        await ada.say("@bob", "psst")
        await bob.until(2)
        await ada.until(1)
        assert bob.heard[0] == ("typing/Bob", {"by": "Ada", "to": "@Bob"})
        assert bob.heard[1][0] == "inbox/Bob"
        assert ada.heard[0] == ("inbox/Ada", bob.heard[1][1])
        assert ada.heard[0][1]["to"] == "@Bob"
        assert eve.heard == []
        for method, topic in [
            ("subscribe", "inbox/Bob"),
            ("subscribe", "inbox/"),
            ("subscribe", "typing/Bob"),
            ("history", "inbox/Bob"),
        ]:
            with pytest.raises(CallError, match="forbidden"):
                await eve.peer.call(method, {"topic": topic, "limit": 5})


@pytest.mark.parametrize(
    ("method", "params", "code"),
    [
        ("publish", {"topic": "room/lobby", "data": {"by": "Bob", "text": "hm"}}, "forbidden"),
        ("publish", {"topic": "people", "data": {"kicked": "Bob"}}, "forbidden"),
        ("history", {"topic": "members", "limit": 9}, "not-found"),
        ("subscribe", {"topic": "room/cellar"}, "not-found"),
        ("say", {"to": "#cellar", "text": "x", "key": "12345678"}, "not-found"),
        ("say", {"to": "@nobody", "text": "x", "key": "12345678"}, "not-found"),
        ("say", {"to": "", "text": "x", "key": "12345678"}, "not-found"),
        ("say", {"to": "@Eve", "text": "x", "key": "12345678"}, "invalid"),
        ("say", {"to": "#lobby", "text": "\x00 ", "key": "12345678"}, "invalid"),
        ("say", {"to": "#lobby", "text": "x" * 2001, "key": "12345678"}, "invalid"),
        ("say", {"to": "#lobby", "text": "x", "key": "1"}, "invalid"),
        ("say", {"to": "#lobby", "text": 7, "key": "12345678"}, "invalid"),
        ("kick", {"name": "Eve"}, "forbidden"),
    ],
)
async def test_what_nobody_may(
    method: str, params: dict[str, Any], code: str, autojump_clock: MockClock
) -> None:
    async with serving() as (_, url), guest(url, "Eve") as eve:
        with pytest.raises(CallError) as error:
            await eve.peer.call(method, params)
        assert error.value.code == code


async def test_a_message_that_is_sent_again_is_said_once(autojump_clock: MockClock) -> None:
    async with serving() as (_, url), guest(url, "Ada") as ada, guest(url, "Bob") as bob:
        await bob.subscribe("room/lobby", "inbox/Bob")
        await ada.subscribe("inbox/Ada")
        for to in ("#lobby", "@Bob"):
            async with trio.open_nursery() as nursery:
                for _ in range(3):  # two of her pages, and one of them twice
                    nursery.start_soon(ada.say, to, "once", "the same key")
        await bob.say("#lobby", "another's key is another's", "the same key")
        await bob.until(3)
        assert bob.texts == ["once", "once", "another's key is another's"]
        assert len(await ada.until(1)) == 1


async def test_so_it_is_when_the_server_was_killed_in_between(tmp_path: Path) -> None:
    async with SQLiteStore(tmp_path / "chat.db") as store:
        async with serving(store) as (_, url), guest(url, "Ada") as ada:
            position = (await ada.subscribe("room/lobby"))["position"]
            await ada.say("#lobby", "before", "the first key")
        # Another process knows nothing but what the store does.
        async with serving(store) as (_, url), guest(url, "Ada") as ada:
            await ada.say("#lobby", "before", "the first key")
            await ada.say("#lobby", "after", "the second key")
            answer = await ada.subscribe("room/lobby", position=position)
            assert answer["recovered"] is True
            assert [one["data"]["text"] for one in answer["events"]] == ["before", "after"]


async def test_typing_is_heard_and_not_kept(autojump_clock: MockClock) -> None:
    async with serving() as (_, url), guest(url, "Ada") as ada, guest(url, "Bob") as bob:
        await bob.subscribe("here/lobby", "here/kitchen")
        bob.heard.clear()
        for _ in range(50):
            await ada.peer.notify("typing", {"to": "#lobby"})
        await trio.sleep(2)
        assert 5 <= len(bob.heard) <= 8  # what is too much is left out
        assert set(map(str, bob.heard)) == {str(("here/lobby", {"by": "Ada", "to": "#lobby"}))}
        with pytest.raises(CallError, match="not-found"):
            await bob.peer.call("history", {"topic": "here/lobby", "limit": 5})


async def test_who_says_too_much_has_to_wait(autojump_clock: MockClock) -> None:
    async with serving() as (_, url), guest(url, "Ada") as ada, guest(url, "Ada") as tab:
        for number in range(BURST // 2):
            await ada.say("#lobby", "blah")
            await tab.say("#lobby", "blah", f"of the tab {number}")
        with pytest.raises(CallError) as error:
            await ada.say("#lobby", "blah", "the one too many")
        assert error.value.code == "rate-limited"
        async with guest(url, "Ada") as again, guest(url, "Bob") as bob:
            with pytest.raises(CallError, match="rate-limited"):  # coming anew is no way out
                await again.say("#lobby", "blah", "another one")
            await bob.say("#lobby", "and others are not concerned")
        await trio.sleep(error.value.data["after"])
        await ada.say("#lobby", "blah", "the one too many")
        await ada.say("#lobby", "blah", "the one too many")  # it is there: that costs nothing


async def test_presence_counts_people_and_not_tabs(autojump_clock: MockClock) -> None:
    async with serving() as (_, url), guest(url, "Ada") as ada:
        await ada.subscribe("people")
        async with guest(url, "Bob") as bob:
            await bob.subscribe("people")
            async with guest(url, "Bob") as tab:
                await tab.subscribe("people")
                assert await ada.present("people") == {"Ada": 1, "Bob": 2}
            await trio.sleep(10)
        await trio.sleep(1)
        async with guest(url, "Bob") as bob:  # the page was loaded anew
            await bob.subscribe("people")
            await trio.sleep(10)
            assert ada.heard == [("people join", "Ada"), ("people join", "Bob")]
        await trio.sleep(10)
        assert ada.heard[2:] == [("people leave", "Bob")]


async def test_a_moderator_removes_somebody(autojump_clock: MockClock) -> None:
    async with (
        serving() as (_, url),
        guest(url, "Ada", word=WORD) as ada,
        guest(url, "Eve") as eve,
        guest(url, "Eve") as tab,
    ):
        assert (await ada.peer.call("hello"))["is_moderator"] is True
        for one in (eve, tab):
            await one.peer.call("hello")
        await ada.subscribe("people")
        assert (await ada.peer.call("presence", {"topic": "people"}))["users"] == [
            {"user": "Ada", "info": {"moderator": True}, "connections": 1}
        ]
        for name, code in (("nobody", "not-found"), ("ada", "forbidden")):
            with pytest.raises(CallError, match=code):
                await ada.peer.call("kick", {"name": name})
        await ada.peer.call("kick", {"name": "eve", "reason": "spam " + "€" * 40})
        for one in (eve, tab):
            await one.peer.wait_ended()
            assert one.ws.closed is not None
            assert one.ws.closed.code == KICKED
            assert one.ws.closed.reason.startswith("Ada: spam €€€")
            assert trioweb.is_terminal(trioweb.ConnectionBroken(one.ws.closed))
        assert ada.heard[-1][1]["kicked"] == "Eve"
        assert await refused(url, join("Eve")) == (
            1008,
            f"you were removed; come back in {BAN} seconds",
        )
        await trio.sleep(BAN + 1)
        async with guest(url, "Eve") as again:
            await again.peer.call("hello")


async def test_who_was_a_moderator_stays_one(autojump_clock: MockClock) -> None:
    async with serving() as (_, url):
        async with guest(url, "Ada", word=WORD):
            pass
        async with guest(url, "Ada") as ada:
            assert (await ada.peer.call("hello"))["is_moderator"] is True
