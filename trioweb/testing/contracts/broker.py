"""The contract of a `trioweb.abc.Broker`."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import NamedTuple, TypeAlias

import trio

from ...abc import Broker, Listener
from ...positions import Arrival, Gap
from .promises import keeps, require, shown

__all__ = ["MakeBroker", "check_broker"]

#: Opens one node's broker for the length of a block; all of them are connected.
MakeBroker: TypeAlias = Callable[[], AbstractAsyncContextManager[Broker]]

#: What a careless broker takes for a pattern, a subject of several parts, a command or an end.
_NAMES = ("a", "A", "a.b", "a.*", ">", "a/b", "a b", "#", "$SYS", "a\r\nb", "a\0b", "\U0001f600")
_CONTENTS = (b"", b"\0", bytes(range(256)), b"\r\nPUB a 1\r\n", b"x" * 2**20)
_MANY = 500
#: What is published to a listener that does not receive: more than anybody should hold for it.
_FLOOD, _PIECE = 20_000, 2**10
#: Seconds in which nothing arrives, before that is believed.
_SILENCE = 0.3


async def check_broker(make_broker: MakeBroker, *, patience: float = 60) -> None:
    """Check the promises of a broker, on topics with random names.

    ``make_broker`` is called without arguments for each node, and gives an async context manager
    that opens its broker; all that it opens must be connected with each other. A promise that
    takes more than ``patience`` seconds of Trio's clock is broken.

    - What a node publishes arrives at every listener that has added the topic, those of its
      own node too, from the moment at which ``add`` has returned; nothing else does.
    - It arrives as it is, any bytes and none, on any topic; each at most once, and what one node
      publishes on a topic in that order.
    - ``remove`` ends it, for that listener alone; ``add`` begins it again.
    - ``publish`` never waits for a listener that does not receive. That one gets a `Gap`, of the
      topic or of all, where something is missing, and goes on after it.
    - Calls deliver a pending cancellation. A cancelled ``receive`` loses nothing.

    Not checked: what a broker does while it is unreachable, for nobody but you can stop it.
    Raises `AssertionError`.
    """
    for promise in _PROMISES:
        scope = trio.CancelScope(deadline=trio.current_time() + patience)
        with keeps(promise.words, scope):
            async with AsyncExitStack() as stack:
                nodes: list[_Node] = []
                for _ in range(2):
                    broker = await stack.enter_async_context(make_broker())
                    listener = await stack.enter_async_context(broker.listen())
                    nodes.append(_Node(broker, listener))
                await promise.check(*nodes)


class _Node(NamedTuple):
    broker: Broker
    listener: Listener

    async def publish(self, topic: str, *data: bytes) -> None:
        for one in data:
            await self.broker.publish(topic, one)

    async def expect(self, *arrivals: Arrival) -> None:
        for expected in arrivals:
            found = await self.listener.receive()
            require(found == expected, f"{shown(found)} arrived, not {shown(expected)}")

    async def expect_nothing(self) -> None:
        with trio.move_on_after(_SILENCE):
            found = await self.listener.receive()
            raise AssertionError(f"{shown(found)} arrived")


class _Promise(NamedTuple):
    words: str
    check: Callable[[_Node, _Node], Awaitable[None]]


def _topic() -> str:
    return f"topic {secrets.token_hex(8)}"


def _topics() -> list[str]:
    """Make topics whose names differ in little."""
    token = secrets.token_hex(8)
    return [f"{token}.{name}" for name in _NAMES]


async def _carries(one: _Node, other: _Node) -> None:
    topic = _topic()
    for node in (one, other):
        await node.listener.add(topic)
    for publisher in (one, other):
        await publisher.publish(topic, *_CONTENTS)
        for node in (one, other):
            await node.expect(*(Arrival(topic, data) for data in _CONTENTS))


async def _tells_topics_apart(one: _Node, other: _Node) -> None:
    topics = _topics()
    for number, topic in enumerate(topics):
        await (one, other)[number % 2].listener.add(topic)
    for topic in topics:
        await one.publish(topic, topic.encode())
        await one.publish(topic[:-1], b"a topic that nobody has added")
    for number, node in enumerate((one, other)):
        expected = {Arrival(topic, topic.encode()) for topic in topics[number::2]}
        found = {await node.listener.receive() for _ in expected}
        require(found == expected, f"{shown(found)} arrived, not {shown(expected)}")
        await node.expect_nothing()


async def _keeps_order(one: _Node, other: _Node) -> None:
    topic = _topic()
    await one.listener.add(topic)
    found: dict[bytes, list[int]] = {b"one": [], b"other": []}

    async def publish(node: _Node, name: bytes) -> None:
        for number in range(_MANY):
            await node.publish(topic, b"%s %d" % (name, number))

    async def receive() -> None:
        while sum(map(len, found.values())) < 2 * _MANY:
            arrival = await one.listener.receive()
            require(isinstance(arrival, Arrival), "there is a gap though everything was received")
            assert isinstance(arrival, Arrival)
            name, number = arrival.data.split()
            found[name].append(int(number))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        nursery.start_soon(publish, one, b"one")
        nursery.start_soon(publish, other, b"other")
    for name, numbers in found.items():
        require(
            numbers == list(range(_MANY)),
            f"{name!r} published 0 to {_MANY - 1} in order, but {shown(numbers)} arrived",
        )


async def _removes(one: _Node, other: _Node) -> None:
    topic, fence = _topic(), _topic()
    for node in (one, other):
        await node.listener.add(topic)
        await node.listener.add(fence)
    await one.listener.remove(topic)
    await one.listener.remove(topic)
    await trio.sleep(_SILENCE)  # until whoever carries it has heard of that too
    await other.publish(topic, b"1")
    await other.publish(fence, b"2")
    await one.expect(Arrival(fence, b"2"))
    await one.listener.add(topic)
    await other.publish(topic, b"3")
    await one.expect(Arrival(topic, b"3"))
    # Across topics there is no order.
    found = [await other.listener.receive() for _ in range(3)]
    for expected in (Arrival(topic, b"1"), Arrival(fence, b"2"), Arrival(topic, b"3")):
        require(expected in found, f"the other listener got {shown(found)}, and no {expected}")


async def _tells_gaps(one: _Node, other: _Node) -> None:
    topic = _topic()
    await one.listener.add(topic)
    for number in range(_FLOOD):
        await other.publish(topic, b"%0*d" % (_PIECE, number))
    last, gap, end = -1, False, _FLOOD

    async def publish_more() -> None:
        nonlocal end
        while True:  # until the listener has caught up, and gets something that is new
            await other.publish(topic, b"%0*d" % (_PIECE, end))
            end += 1
            await trio.sleep(0.01)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(publish_more)
        while last < _FLOOD:
            arrival = await one.listener.receive()
            if isinstance(arrival, Gap):
                require(arrival.topic in (None, topic), f"a gap of {arrival.topic!r}")
                gap = True
                continue
            number = int(arrival.data)
            require(number > last, f"{number} arrived after {last}")
            require(number == last + 1 or gap, f"{number} arrived after {last}, without a gap")
            last, gap = number, False
        nursery.cancel_scope.cancel()


async def _cancels(one: _Node, other: _Node) -> None:
    topic = _topic()
    await one.listener.add(topic)
    calls: dict[str, Callable[[], Awaitable[object]]] = {
        "publish": lambda: one.broker.publish(topic, b"perhaps"),
        "add": lambda: one.listener.add(_topic()),
        "remove": lambda: one.listener.remove(_topic()),
        "receive": one.listener.receive,
    }
    for name, call in calls.items():
        with trio.CancelScope() as scope:
            scope.cancel()
            await call()
        require(scope.cancelled_caught, f"{name} did not deliver a pending cancellation")
    found: list[bytes] = []

    async def publish() -> None:
        for number in range(_MANY):
            await other.publish(topic, b"%d" % number)
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(publish)
        for turn in range(100 * _MANY):
            with trio.CancelScope() as scope:
                if turn % 2:
                    nursery.start_soon(_cancel_soon, scope, turn % 5)
                arrival = await one.listener.receive()
                require(isinstance(arrival, Arrival), "there is a gap though nothing was lost")
                assert isinstance(arrival, Arrival)
                if arrival.data != b"perhaps":
                    found.append(arrival.data)
            if len(found) == _MANY:
                break
    expected = [b"%d" % number for number in range(_MANY)]
    require(found == expected, f"of {_MANY} publications {shown(found)} arrived")


async def _cancel_soon(scope: trio.CancelScope, turns: int) -> None:
    for _ in range(turns):
        await trio.lowlevel.checkpoint()
    scope.cancel()


_PROMISES = [
    _Promise("what is published arrives everywhere, as it is", _carries),
    _Promise("a topic carries what was published on it alone", _tells_topics_apart),
    _Promise("what a node publishes on a topic arrives in order", _keeps_order),
    _Promise("remove ends it for that listener alone", _removes),
    _Promise(
        "a listener that does not receive holds up nobody, and is told of its gap", _tells_gaps
    ),
    _Promise("a cancelled call loses nothing", _cancels),
]
