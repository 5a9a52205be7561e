"""A hub and sessions: nothing is missed and nothing comes twice, over any number of connections."""

from __future__ import annotations

import hypothesis
import hypothesis.strategies as st
import trio

import trioweb
from trioweb import Backoff, Heartbeat, LinkLimits, Retention, Timeouts, TopicOptions
from trioweb.testing import HalfOpen, Reset, Stall, VirtualNetwork
from trioweb.testing.scheduling import run
from trioweb.toolkit.attach import attach
from trioweb.toolkit.pubsub import Hub
from trioweb.toolkit.rpc import MSGPACK, Event, serve_peer
from trioweb.toolkit.session import open_session

TOPICS = {"*": TopicOptions(history=Retention(max_entries=10_000, max_age=10**6))}
BACKOFF = Backoff(base=0.1, cap=1)
LITTLE = LinkLimits(messages=20, bytes=4000, close=1)
COUNT = 300


async def converse(seed: int) -> None:
    network = VirtualNetwork(seed)
    heard: dict[str, list[int]] = {"ann": [], "bob": []}
    with network.host("server"):
        async with Hub(TOPICS, authorise=lambda *_: True) as hub, trio.open_nursery() as nursery:

            async def handle(ws: trioweb.WebSocket) -> None:
                async with attach(ws, limits=LITTLE) as link:
                    await serve_peer(link, hub.methods, format=MSGPACK)

            server = await nursery.start(
                lambda task_status: trioweb.serve(
                    handle,
                    80,
                    heartbeat=Heartbeat(2, 2),
                    timeouts=Timeouts(close=2),
                    task_status=task_status,
                )
            )
            started = {name: trio.Event() for name in heard}

            async def listen(name: str) -> None:
                with network.host(name):
                    async with (
                        open_session(
                            "ws://server:80/", backoff=BACKOFF, heartbeat=Heartbeat(2, 2)
                        ) as session,
                        session.subscribe("news") as subscription,
                    ):
                        started[name].set()
                        async for item in subscription:
                            assert isinstance(item, Event), item
                            heard[name].append(item.data["n"])
                            if len(heard[name]) % 50 == 0:
                                await trio.sleep(2)  # slow, now and then
                            if len(heard[name]) == COUNT:
                                return

            async def speak() -> None:
                with network.host("eve"):
                    async with open_session(
                        "ws://server:80/", backoff=BACKOFF, heartbeat=Heartbeat(2, 2)
                    ) as session:
                        for number in range(COUNT):
                            await session.publish("news", {"n": number})
                            if number % 3 == 0:
                                await trio.sleep(0.1)

            with trio.fail_after(1000):
                async with trio.open_nursery() as talk:
                    for name in heard:
                        talk.start_soon(listen, name)
                    for event in started.values():
                        await event.wait()
                    talk.start_soon(speak)
                    await trio.sleep(0.5)
                    links = [network.link(name, "server") for name in ("ann", "bob", "eve")]
                    faults = (Reset(), Reset(after_bytes=500), Stall(1), HalfOpen())
                    until = trio.current_time() + 15
                    await network.play(network.draw(links, until=until, every=1, faults=faults))
                    for link in links:
                        link.heal()
            await server.drain(timeout=1)
    for name, numbers in heard.items():
        assert numbers == list(range(COUNT)), name


@hypothesis.settings(max_examples=5)
@hypothesis.given(st.integers(0, 2**32))
def test_sessions_hear_all_that_others_publish_once_and_in_order(seed):
    run(converse, seed, seed=seed)
