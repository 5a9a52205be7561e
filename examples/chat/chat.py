"""The chat itself: who comes in, what may be said where, and who hears it.

The topics are ``room/NAME`` and ``inbox/NAME``, which are kept, and beside them what is only for
the moment: ``here/NAME`` and ``typing/NAME``, and ``people`` for all. The methods are those of the
hub and ``hello``, ``say``, ``typing`` and ``kick``.
"""

from __future__ import annotations

import hmac
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Annotated, Any, Self

import msgspec
import trio
from msgspec import Meta

import trioweb
from trioweb import CallError, Overflow, Retention, TokenBucket, TopicOptions
from trioweb.abc import Store
from trioweb.toolkit.pubsub import Action, Hub
from trioweb.toolkit.rpc import Methods, Once, Peer, serve_peer

from .members import Members
from .rules import MAX_TEXT, BrokenRule, Message, clean_text
from .said import Said

__all__ = ["BAN", "BURST", "KICKED", "PACE", "ROOMS", "Chat"]

logger = logging.getLogger(__name__)

ROOMS = ("lobby", "kitchen", "workshop")

#: Messages that one may say each second, and at once after a pause.
PACE, BURST = 1.0, 8

#: Close code for who was removed by a moderator: from 4500 on sessions do not come back.
KICKED = 4503

#: Seconds for which the name of who was removed cannot come in.
BAN = 60

_MONTH = 30 * 24 * 3600

#: What is kept of a room, and of all the private messages of one person.
_KEPT = Retention(max_entries=5000, max_bytes=2**23, max_age=_MONTH)

#: What is only for the moment. Who is too slow for it does without: its page asks who is there.
_LIVE = TopicOptions(overflow=Overflow.DROP_OLDEST)
_PRESENCE = TopicOptions(overflow=Overflow.DROP_OLDEST, presence=True)


class _Join(msgspec.Struct):
    """The first message of a page."""

    name: str
    #: A secret of the browser's, by which it is known again.
    key: Annotated[str, Meta(min_length=16, max_length=100)]
    #: The moderators' word, if the page was opened with it.
    word: str = ""


class _Hello(msgspec.Struct):
    """What a page needs to know to begin."""

    name: str
    is_moderator: bool
    rooms: Sequence[str]
    max_text: int = MAX_TEXT


@dataclass(slots=True)
class _Speaker:
    """What one person says, whichever of its pages it comes from."""

    #: One message after the other.
    turn: trio.Lock = field(default_factory=trio.Lock)
    words: TokenBucket = field(default_factory=lambda: TokenBucket(PACE, BURST))
    typing: TokenBucket = field(default_factory=lambda: TokenBucket(1, 5))
    #: On Trio's clock.
    banned_until: float = 0


class Chat:
    """Everybody's rooms and inboxes: ``async with Chat(store) as chat:``.

    ``word`` makes moderators of those who come with it; without one nobody becomes one.
    """

    def __init__(
        self,
        store: Store,
        *,
        rooms: Sequence[str] = ROOMS,
        word: str = "",
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.rooms = rooms
        self.members = Members(store)
        #: Set by who serves, for `kick`.
        self.server: trioweb.Server | None = None
        self._word = word
        self._clock = clock
        self._said = Said(store)
        self._speakers: defaultdict[str, _Speaker] = defaultdict(_Speaker)
        kept = TopicOptions(history=_KEPT)
        self.hub = Hub(
            {
                **{f"room/{room}": kept for room in rooms},
                **{f"here/{room}": _PRESENCE for room in rooms},
                "inbox/*": kept,
                "typing/*": _LIVE,
                "people": _PRESENCE,
            },
            store=store,
            authorise=self._authorise,
            identify=self._identify,
        )
        self._once = Once()
        self.methods = Methods(once=self._once)
        self.hub.register(self.methods)
        for method in (self.hello, self.say, self.typing, self.kick):
            self.methods.add(method.__name__, method)
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self.members.load()
        await self._stack.enter_async_context(self.hub)
        await self._stack.enter_async_context(self._once)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._stack.__aexit__(kind, error, traceback)

    # --- coming in ---------------------------------------------------------------------------

    async def check_join(self, ws: trioweb.WebSocket, message: trioweb.Message) -> str:
        """Judge the first message, and return the name; for `trioweb.FirstMessage`."""
        del ws
        try:
            join = msgspec.json.decode(message, type=_Join)
            is_moderator = self._is_word(join.word)
            member = await self.members.claim(join.name, join.key, is_moderator=is_moderator)
        except (msgspec.MsgspecError, BrokenRule) as error:
            raise trioweb.Refused(str(error)) from None
        rest = self._speakers[member.name].banned_until - trio.current_time()
        if rest > 0:
            raise trioweb.Refused(f"you were removed; come back in {rest:.0f} seconds")
        return member.name

    def _is_word(self, word: str) -> bool:
        """Return whether a page has come with the moderators' word; raises `BrokenRule`."""
        if not word:
            return False
        if not (self._word and hmac.compare_digest(word.encode(), self._word.encode())):
            raise BrokenRule("this is not the moderators' word")
        return True

    async def handle(self, ws: trioweb.WebSocket) -> None:
        """Serve one connection of a member's."""
        logger.info("%s: %s came", ws.id, ws.principal)
        try:
            await serve_peer(ws, self.methods)
        finally:
            logger.info("%s: %s went", ws.id, ws.principal)

    def _authorise(self, peer: Peer, action: Action, topic: str) -> bool:
        """Let nobody publish but by `say`, and read others' letters."""
        if action == "publish":
            return False
        kind, _, name = topic.partition("/")
        return kind not in ("inbox", "typing") or name == peer.principal

    def _identify(self, peer: Peer) -> tuple[str, dict[str, Any] | None]:
        name: str = peer.principal
        return name, {"moderator": True} if self._is_moderator(name) else None

    def _is_moderator(self, name: str) -> bool:
        member = self.members.get(name)
        return member is not None and member.is_moderator

    # --- what pages may call -----------------------------------------------------------------

    def hello(self, peer: Peer) -> _Hello:
        """Tell a page who it is, and where it can go."""
        name: str = peer.principal
        return _Hello(name, self._is_moderator(name), self.rooms)

    async def say(
        self, peer: Peer, to: str, text: str, key: Annotated[str, Meta(min_length=8, max_length=64)]
    ) -> None:
        """Say something to a room or a person; once for each key, however often it is called.

        It is on the disk when this returns.
        """
        author: str = peer.principal
        topics, to = self._address(author, to)
        try:
            text = clean_text(text)
        except BrokenRule as error:
            raise CallError("invalid", str(error), path="$.params.text") from None
        message = Message(key, author, to, text, round(self._clock(), 3))
        speaker = self._speakers[author]
        async with speaker.turn:
            missing = [topic for topic in topics if not await self._said.has(topic, message)]
            if missing and not speaker.words.take_nowait():
                after = round((1 - speaker.words.tokens) / PACE, 2)
                raise CallError("rate-limited", "not so fast", data={"after": after})
            for topic in missing:
                await self._publish(topic, message)

    async def _publish(self, topic: str, message: Message) -> None:
        try:
            await self.hub.publish(topic, msgspec.to_builtins(message))
        except BaseException:
            self._said.forget(topic)  # it may be in the store, or not
            raise
        self._said.add(topic, message)

    async def typing(self, peer: Peer, to: str) -> None:
        """Tell a room or a person that somebody writes; too many of these are left out."""
        author: str = peer.principal
        topics, to = self._address(author, to)
        if self._speakers[author].typing.take_nowait():
            topic = f"here/{to[1:]}" if to[0] == "#" else topics[0].replace("inbox", "typing", 1)
            await self.hub.publish(topic, {"by": author, "to": to})

    def _address(self, author: str, to: str) -> tuple[Sequence[str], str]:
        """Return the topics that a message goes to, and whom it is to as it is written."""
        kind, name = to[:1], to[1:]
        if kind == "#" and name in self.rooms:
            return [f"room/{name}"], to
        member = self.members.get(name) if kind == "@" else None
        if member is None:
            raise CallError("not-found", f"nobody and no room is called {to!r:.40}")
        if member.name == author:
            raise CallError("invalid", "that would be you", path="$.params.to")
        return [f"inbox/{member.name}", f"inbox/{author}"], f"@{member.name}"

    async def kick(
        self, peer: Peer, name: str, reason: Annotated[str, Meta(max_length=80)] = ""
    ) -> None:
        """Remove somebody, for a minute; only moderators may."""
        author: str = peer.principal
        if not self._is_moderator(author):
            raise CallError("forbidden", "only moderators may do that")
        member = self.members.get(name)
        if member is None:
            raise CallError("not-found", f"nobody is called {name!r:.40}")
        if member.is_moderator:
            raise CallError("forbidden", "moderators cannot be removed")
        logger.warning("%s removed %s: %r", author, member.name, reason)
        self._speakers[member.name].banned_until = trio.current_time() + BAN
        notice = {"kicked": member.name, "by": author, "reason": reason}
        await self.hub.publish("people", notice)
        if self.server is not None:
            why = f"{author}: {reason}" if reason else author
            cut = why.encode()[:123].decode(errors="ignore")  # what a close frame has room for
            await self.server.close_principal(member.name, code=KICKED, reason=cut)
