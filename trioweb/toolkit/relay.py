"""Between a hub and its broker: what this node publishes goes out, what it listens to comes in."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable

import msgspec
import trio

from ..abc import Broker, Listener
from ..errors import BrokerFailed
from ..positions import Gap

__all__ = ["Carried", "Relay"]

logger = logging.getLogger("trioweb.pubsub")

#: Arrivals that are taken before other tasks have their turn.
_BURST = 64
#: Seconds until a position that the broker did not take is announced again.
_RETRY = 1.0
#: Topics with such a position; beyond that the one that waits longest is given up, and counted.
_OWED = 10_000


class Carried(msgspec.Struct, frozen=True, array_like=True):
    """What a broker carries from node to node.

    Without an epoch it is an event of a topic without history. Without ``packed`` it tells that
    a number was given out, so that who lacks it reads it from the store.
    """

    node: str
    epoch: str | None
    offset: int
    packed: bytes | None


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Carried)


class Relay:
    """One node's way to the others.

    ``take(topic, carried)`` is called for what other nodes publish, ``lose(topic)`` where something
    may be missing, of one topic or with None of any. Both are plain functions.
    """

    def __init__(
        self,
        broker: Broker,
        *,
        take: Callable[[str, Carried], None],
        lose: Callable[[str | None], None],
    ) -> None:
        #: The name by which a node knows what it has said itself.
        self.node = secrets.token_hex(8)
        #: Positions that the broker did not take at once, and those given up.
        self.postponed = 0
        self.given_up = 0
        self._broker = broker
        self._take = take
        self._lose = lose
        self._listener: Listener | None = None
        self._wanted: set[str] = set()
        #: Those that the broker was told of, and those of them that wait for `tidy`.
        self._heard: set[str] = set()
        self._untidy: set[str] = set()
        self._changing = trio.Lock()
        #: What has to be announced yet: topic, and newest position.
        self._owed: dict[str, tuple[str, int]] = {}
        self._owing = trio.Event()

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Listen and announce until cancelled; `trioweb.BrokerFailed` where that cannot work."""
        async with self._broker.listen() as self._listener:
            task_status.started()
            turn = 0
            while True:
                arrival = await self._listener.receive()
                if isinstance(arrival, Gap):
                    self._lose(arrival.topic)
                else:
                    self._receive(arrival.topic, arrival.data)
                turn += 1
                if turn % _BURST == 0:
                    await trio.lowlevel.checkpoint()

    async def announce(self) -> None:
        """Tell the others of positions that the broker did not take, until it does."""
        while True:
            await self._owing.wait()
            self._owing = trio.Event()
            for topic, (epoch, offset) in list(self._owed.items()):
                try:
                    await self._send(topic, Carried(self.node, epoch, offset, None))
                except BrokerFailed:
                    self._owing.set()
                    break
                if self._owed.get(topic) == (epoch, offset):
                    del self._owed[topic]
            await trio.sleep(_RETRY)

    async def publish(self, topic: str, epoch: str | None, offset: int, packed: bytes) -> None:
        """Give an event to the other nodes.

        A numbered one that the broker does not take, or not before this is cancelled, is announced
        later. For others this raises `trioweb.BrokerFailed`.
        """
        try:
            await self._send(topic, Carried(self.node, epoch, offset, packed))
        except BrokerFailed as error:
            if epoch is None:
                raise
            logger.warning("the broker did not take %s of %.80r: %s", offset, topic, error)
            self.owe(topic, epoch, offset)
        except trio.Cancelled:
            if epoch is not None:
                self.owe(topic, epoch, offset)
            raise

    def owe(self, topic: str, epoch: str, offset: int) -> None:
        """Announce a position as soon as the broker takes it."""
        self.postponed += 1
        owed = self._owed.pop(topic, None)
        if owed is not None and owed[0] == epoch:  # the broker may have failed a later one before
            offset = max(offset, owed[1])
        self._owed[topic] = (epoch, offset)
        if len(self._owed) > _OWED:
            del self._owed[next(iter(self._owed))]
            self.given_up += 1
        self._owing.set()

    async def hear(self, topic: str) -> None:
        """Listen to a topic: what is published after this arrives."""
        self._wanted.add(topic)
        async with self._changing:
            if topic in self._wanted:  # else nobody waits for it any more
                self._heard.add(topic)
                await self._ear.add(topic)

    def forget(self, topic: str) -> bool:
        """Want a topic no longer; return whether `tidy` is to be called for it.

        Once for each that the broker knows of: peers may come and go while it does not answer.
        """
        self._wanted.discard(topic)
        if topic not in self._heard or topic in self._untidy:
            return False
        self._untidy.add(topic)
        return True

    async def tidy(self, topic: str) -> None:
        """Listen to a topic no longer, if it is still not wanted."""
        async with self._changing:
            self._untidy.discard(topic)
            if topic not in self._wanted:
                await self._ear.remove(topic)
                self._heard.discard(topic)

    @property
    def _ear(self) -> Listener:
        assert self._listener is not None
        return self._listener

    async def _send(self, topic: str, carried: Carried) -> None:
        await self._broker.publish(topic, _encoder.encode(carried))

    def _receive(self, topic: str, data: bytes) -> None:
        try:
            carried = _decoder.decode(data)
        except msgspec.DecodeError as error:
            logger.warning(
                "the broker carried something on %.80r that is not ours: %s", topic, error
            )
            return
        if carried.node != self.node:
            self._take(topic, carried)
