"""What a live topic misses is read from the store, which has numbered it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import trio

from ..abc import Store
from ..config import HubLimits
from ..errors import StoreFailed
from ..positions import Page, Position
from .live import LiveTopic

__all__ = ["Missing", "Tally"]

logger = logging.getLogger("trioweb.pubsub")

#: Seconds until the store is asked again, where it failed or has not got a number yet.
_RETRY = 1.0


@dataclass(slots=True)
class Tally:
    """What a hub counts."""

    published: int = 0
    recovered: int = 0
    not_recovered: int = 0
    reread: int = 0
    lost: int = 0


class Missing:
    """Reads for each topic that misses numbers, in a task while it does.

    ``begin_anew(topic)`` is called where the store has another epoch. With ``is_alone`` what is
    missing is waited for while appends of this node are under way: it must be one of those.
    """

    def __init__(
        self,
        store: Store,
        limits: HubLimits,
        tally: Tally,
        begin_anew: Callable[[LiveTopic], None],
        *,
        is_alone: bool,
    ) -> None:
        #: Where the tasks live; None: they are over.
        self.nursery: trio.Nursery | None = None
        self._store = store
        self._limits = limits
        self._tally = tally
        self._begin_anew = begin_anew
        self._is_alone = is_alone

    def look(self, live: LiveTopic) -> None:
        """See to it that what a topic misses is read, if it misses something."""
        if not live.reading and self.nursery is not None and self._is_incomplete(live):
            live.reading = True
            self.nursery.start_soon(self._read, live, name=f"missing of {live.name!r:.80}")

    def _is_incomplete(self, live: LiveTopic) -> bool:
        """Tell whether something is missing that nobody is about to bring."""
        if live.is_over or live.is_unused or live.position is None:
            return False
        return live.in_doubt or (live.hole and not (self._is_alone and live.appending))

    async def _read(self, live: LiveTopic) -> None:
        while self._is_incomplete(live):
            position = live.position
            assert position is not None
            live.in_doubt = False
            self._tally.reread += 1
            try:
                page = await self._store.read(
                    live.name,
                    position,
                    limit=self._limits.answer_events,
                    max_bytes=self._limits.answer_bytes,
                )
            except StoreFailed as error:
                logger.warning("reading what is missing of %.80r: %s", live.name, error)
                live.in_doubt = True
                await trio.sleep(_RETRY)
                continue
            if page.position.epoch != position.epoch:
                self._begin_anew(live)
            elif not self._fill(live, page):
                await trio.sleep(_RETRY)
        live.reading = False

    def _fill(self, live: LiveTopic, page: Page) -> bool:
        """Send what is on a page; return False if a number is out that the store does not know."""
        for entry in page.entries:
            self._skip(live, entry.offset - 1)
            live.arrive(Position(page.position.epoch, entry.offset), entry.data)
        if not page.entries:
            self._skip(live, page.position.offset)
        elif page.entries[-1].offset < page.position.offset:
            live.see(page.position)  # there is another page
            return True
        return not live.hole

    def _skip(self, live: LiveTopic, offset: int) -> None:
        position = live.position
        if position is not None and offset > position.offset:
            self._tally.lost += offset - position.offset
            live.skip(offset)
