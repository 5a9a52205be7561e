"""What people may be called, what they may say, and whose name is whose."""

from __future__ import annotations

import msgspec
import pytest

from examples.chat.members import MAX_MEMBERS, Member, Members
from examples.chat.rules import MAX_TEXT, BrokenRule, Message, clean_name, clean_text, fold
from examples.chat.said import REMEMBERED, Said
from trioweb import Retention, TopicOptions
from trioweb.stores.memory import MemoryStore
from trioweb.stores.sqlite import SQLiteStore
from trioweb.toolkit.pubsub import Hub

KEY = "k" * 20
KEPT = TopicOptions(history=Retention())


@pytest.mark.parametrize(
    ("name", "clean"),
    [
        ("  Ada \t Lovelace ", "Ada Lovelace"),
        ("ﬁona", "fiona"),
        ("O'Brien-Smith Jr.", "O'Brien-Smith Jr."),
        ("हिन्दी", "हिन्दी"),
        ("李", "李"),
        ("R2-D2", "R2-D2"),
    ],
)
def test_names(name: str, clean: str) -> None:
    assert clean_name(name) == clean


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("", "needs at least one letter"),
        ("...", "needs at least one letter"),
        ("1234", "needs at least one letter"),
        ("a" * 21, "at most 20"),
        ("Ada/Bob", "not /"),
        ("Ada\u202eadA", r"not '\\u202e'"),
        ("<b>", "not <"),
        ("Ada👑", "letters and digits"),
    ],
)
def test_names_that_cannot_be(name: str, why: str) -> None:
    with pytest.raises(BrokenRule, match=why):
        clean_name(name)


def test_names_that_are_too_much_alike() -> None:
    assert fold("Ada Lovelace") == fold("ADA-lovelace") == fold("a.d.a.lovelace")
    assert fold("Straße") == fold("STRASSE")
    assert fold("Ada") != fold("Eda")


def test_texts() -> None:
    assert clean_text("  one\r\n two\t\x00\x1b[31m \ud800 ") == "one\n two\t[31m"
    assert clean_text("👩‍👩‍👧") == "👩‍👩‍👧"
    assert clean_text("x" * MAX_TEXT) == "x" * MAX_TEXT
    for text, why in ((" \n\x00", "say something"), ("x" * (MAX_TEXT + 1), "at most 2,000")):
        with pytest.raises(BrokenRule, match=why):
            clean_text(text)


async def test_a_name_belongs_to_the_browser_that_took_it_first(tmp_path) -> None:
    async with SQLiteStore(tmp_path / "chat.db") as store:
        members = Members(store)
        await members.load()
        ada = await members.claim("Ada", KEY)
        assert not ada.is_moderator
        assert KEY.encode() not in ada.key
        assert await members.claim("ada ", KEY) == ada
        with pytest.raises(BrokenRule, match="the name Ada is taken"):
            await members.claim("A.D.A", "another key, not hers")
        chief = await members.claim("Ada", KEY, is_moderator=True)
        assert chief.is_moderator
    async with SQLiteStore(tmp_path / "chat.db") as store:  # and so it is after a restart
        members = Members(store)
        await members.load()
        assert members.get("ADA") == chief
        assert await members.claim("Ada", KEY) == chief
        assert members.get("Bob") is None
        with pytest.raises(BrokenRule, match="taken"):
            await members.claim("Ada", "another key, not hers", is_moderator=True)


async def test_more_members_than_one_page_holds() -> None:
    store = MemoryStore()
    members = Members(store)
    await members.load()
    for number in range(2100):
        await members.claim(f"guest {number}", KEY)
    again = Members(store)
    await again.load()
    assert again._members == members._members
    again._members = dict.fromkeys(map(str, range(MAX_MEMBERS)), Member("x", b""))
    with pytest.raises(BrokenRule, match="no names left"):
        await again.claim("Ada", KEY)


async def test_what_was_said_is_known_again() -> None:
    store = MemoryStore()
    one, other = (Message(f"key {n}", "Ada", "#lobby", "hi", 1.5) for n in range(2))
    async with Hub({"*": KEPT}, store=store) as hub:
        said = Said(store)
        assert not await said.has("room/lobby", one)
        await hub.publish("room/lobby", msgspec.to_builtins(one))
        said.add("room/lobby", one)
        assert await said.has("room/lobby", one)
        assert not await said.has("room/lobby", other)
        assert not await said.has("room/kitchen", one)
        after_restart = Said(store)
        assert await after_restart.has("room/lobby", one)
        assert not await after_restart.has("room/lobby", other)
        await hub.publish("room/lobby", msgspec.to_builtins(other))
        after_restart.forget("room/lobby")
        assert await after_restart.has("room/lobby", other)


async def test_what_is_remembered_is_bounded() -> None:
    said = Said(MemoryStore())
    messages = [Message(f"key {n}", "Ada", "", "", 0) for n in range(REMEMBERED + 1)]
    assert not await said.has("a", messages[0])
    for message in messages:
        said.add("a", message)
    assert not await said.has("a", messages[0])
    assert await said.has("a", messages[1])
    for number in range(1500):
        await said.has(f"topic {number}", messages[0])
    assert len(said._topics) == 1000
