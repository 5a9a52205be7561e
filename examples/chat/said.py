"""Which messages a topic has already, so that one that comes again is not said twice."""

from __future__ import annotations

from collections import OrderedDict

import msgspec

from trioweb.abc import Store

from .rules import Message

__all__ = ["REMEMBERED", "Said"]

#: Messages of a topic that are known again. A page that comes back repeats the few of which it
#: does not know whether they arrived; so many others may have said something meanwhile.
REMEMBERED = 1000

#: Topics whose messages are known without a look into the store.
_TOPICS = 1000


class Said:
    """Knows messages by author and key: what was said in the life of this server, or before it.

    `trioweb.toolkit.rpc.Once` knows the calls that are repeated to the same process. Here it is
    the history itself that tells, so a ``kill -9`` between a message and its answer does not make
    two of it.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        #: Those used last at the end; in each the oldest message first.
        self._topics: OrderedDict[str, dict[tuple[str, str], None]] = OrderedDict()

    async def has(self, topic: str, message: Message) -> bool:
        """Tell whether a topic has a message."""
        known = self._topics.get(topic)
        if known is None:
            page = await self._store.read(topic, limit=REMEMBERED, max_bytes=2**23)
            found = [msgspec.msgpack.decode(entry.data, type=Message) for entry in page.entries]
            known = self._topics.setdefault(topic, {})
            for one in found:
                known[one.by, one.key] = None
            if len(self._topics) > _TOPICS:
                self._topics.popitem(last=False)
        elif topic in self._topics:
            self._topics.move_to_end(topic)
        return (message.by, message.key) in known

    def add(self, topic: str, message: Message) -> None:
        """Note that a topic has a message."""
        known = self._topics.get(topic)
        if known is not None:
            known[message.by, message.key] = None
            if len(known) > REMEMBERED:
                del known[next(iter(known))]

    def forget(self, topic: str) -> None:
        """Ask the store again: what was said here last is uncertain."""
        self._topics.pop(topic, None)
