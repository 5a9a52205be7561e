"""Guarantee 3: a cancelled `send` leaves the message in or out as a whole, and the stream intact;
a cancelled `receive` loses no message. Cancelled at every step, as are the other calls.
"""

from __future__ import annotations

from contextlib import suppress

import pytest
import trio
from trio.testing import MockClock

import trioweb
from tests.guarantees.peers import Link, echo, first_connection, tasks
from trioweb.streaming import MessageReader
from trioweb.testing.steps import at_every_step, cancelled_at


@pytest.mark.parametrize(
    ("size", "count"),
    [(10, 100), (50_000, 40), (120_000, 5)],  # small, one frame each, several fragments each
)
async def test_send(clock: MockClock, link: Link, size: int, count: int) -> None:
    got: list[str | bytes] = []
    limits = trioweb.Limits(outbox_bytes=300)
    link.narrow(5 * size)
    # More than fills the way and the outbox is a waste of time. Of TLS it is a piece of a write.
    depth = link.depth if link.plain else 2**14
    count = min(count, max(5, (depth + limits.outbox_bytes) // size))

    async def late(ws: trioweb.WebSocket) -> None:
        await trio.sleep(3)  # what is on the way fills up meanwhile
        async for message in ws:
            got.append(message)

    async def scenario(step: int) -> bool:
        got.clear()
        sent: list[str | bytes] = []

        async def send(message: str | bytes) -> None:
            await ws.send(message)
            sent.append(message)

        async def send_many() -> None:
            for number in range(count):
                await send(str(number) * size)
                await send(bytes([number]) * size)

        server_limits = trioweb.Limits(inbox_messages=2)
        async with link.server(late, limits=server_limits) as server:
            async with link.client(server, limits=limits) as ws:
                cancelled = await cancelled_at(step, send_many)
                await send("end")
        assert got == sent
        return cancelled

    assert await at_every_step(scenario) > 3


@pytest.mark.parametrize("pause", [0, 0.12])
async def test_receive(clock: MockClock, link: Link, pause: float) -> None:
    expected = [str(number) * 50 for number in range(8)]

    async def talk(ws: trioweb.WebSocket) -> None:
        for message in expected:
            await ws.send(message)
            await trio.sleep(pause)

    async def scenario(step: int) -> bool:
        got: list[str | bytes] = []

        async def receive() -> None:
            while len(got) < 8:
                got.append(await ws.receive())

        async with link.server(talk) as server, link.client(server) as ws:
            cancelled = await cancelled_at(step, receive)
            await receive()
        assert got == expected
        return cancelled

    assert await at_every_step(scenario) > 2


async def test_receive_while_the_reader_task_reads(clock: MockClock, link: Link) -> None:
    async def talk(ws: trioweb.WebSocket) -> None:
        for number in range(10):
            await ws.send(str(number))
            await trio.sleep(0.3)  # longer than two looks: the role changes hands in between

    async def scenario(step: int) -> bool:
        got: list[str | bytes] = []

        async def receive() -> None:
            while len(got) < 10:
                got.append(await ws.receive())
                await trio.sleep(0.2)

        async with link.server(talk) as server, link.client(server) as ws:
            cancelled = await cancelled_at(step, receive)
            await receive()
        assert got == [str(number) for number in range(10)]
        return cancelled

    assert await at_every_step(scenario) > 20


async def test_a_message_received_in_pieces(clock: MockClock, link: Link) -> None:
    async def talk(ws: trioweb.WebSocket) -> None:
        for text in ("a", "b"):
            async with ws.send_stream(text=True) as message:
                for _ in range(4):
                    await message.send(text)
                    await trio.sleep(0.12)

    async def scenario(step: int) -> bool:
        got = ""
        message: MessageReader | None = None

        async def receive() -> None:
            nonlocal got, message
            while len(got) < 8:
                if message is None:
                    message = await ws.receive_stream()
                try:
                    got += str(await message.receive())
                except trio.EndOfChannel:
                    message = None

        async with link.server(talk) as server, link.client(server) as ws:
            cancelled = await cancelled_at(step, receive)
            await receive()
        assert got == "aaaabbbb"
        return cancelled

    assert await at_every_step(scenario) > 10


async def test_a_message_sent_in_pieces_is_whole_or_ends_its_connection(
    clock: MockClock, link: Link
) -> None:
    async def scenario(step: int) -> bool:
        got: list[str | bytes] = []

        async def late(ws: trioweb.WebSocket) -> None:
            await trio.sleep(0.5)
            async for message in ws:
                got.append(message)

        async def send() -> None:
            async with ws.send_stream(text=True) as message:
                for _ in range(4):
                    await message.send("piece" * 10)

        limits = trioweb.Limits(outbox_bytes=100)
        async with link.server(late) as server:
            async with link.client(server, limits=limits) as ws:
                cancelled = await cancelled_at(step, send)
                with suppress(trioweb.ConnectionBroken):
                    await ws.send("end")
                code = None if ws.closed is None else ws.closed.code
        whole, end = ["piece" * 40], ["end"]
        assert (got, code) in [([], 1011), (end, None), (whole + end, None)]
        return cancelled

    assert await at_every_step(scenario) > 3


async def test_ping(clock: MockClock, link: Link) -> None:
    async def scenario(step: int) -> bool:
        async with link.server(echo) as server, link.client(server) as ws:
            cancelled = await cancelled_at(step, ws.ping)
            await ws.send("still there")
            assert await ws.receive() == "still there"
            assert await ws.ping() >= 0
        return cancelled

    assert await at_every_step(scenario) >= 2


async def test_aclose(clock: MockClock, link: Link) -> None:
    async def scenario(step: int) -> bool:
        ends: list[trioweb.Close | None] = []

        async def watch(ws: trioweb.WebSocket) -> None:
            try:
                async for _ in ws:
                    pass
            finally:
                ends.append(ws.closed)

        before = tasks()
        async with link.server(watch) as server:
            async with link.client(server) as ws:
                await first_connection(server)
                cancelled = await cancelled_at(step, ws.aclose, 4000)
                with pytest.raises(trio.ClosedResourceError):
                    await ws.send("x")
                start = trio.current_time()
                await ws.aclose()
                assert trio.current_time() - start < 1
            while not ends:
                await trio.sleep(0.1)
        assert tasks() == before
        # The close frame left before the cut: it goes with the call, not with the waiting.
        assert ends[0] is not None
        assert ends[0].code == 4000
        return cancelled

    assert await at_every_step(scenario) >= 2


async def test_connect(clock: MockClock, link: Link) -> None:
    async with link.server(echo) as server:
        await link.settle()
        before = tasks()

        async def scenario(step: int) -> bool:
            async def connect() -> None:
                async with link.client(server) as ws:
                    await ws.send("x")
                    assert await ws.receive() == "x"

            cancelled = await cancelled_at(step, connect)
            with trio.fail_after(1):
                while server.connections or tasks() != before:
                    await trio.sleep(0.1)
            return cancelled

        assert await at_every_step(scenario) > 4


async def test_drain(clock: MockClock, link: Link) -> None:
    before = tasks()

    async def linger(ws: trioweb.WebSocket) -> None:
        async for _ in ws:
            pass
        await trio.sleep(1)

    async def scenario(step: int) -> bool:
        async with link.server(linger) as server, link.client(server) as ws:
            await first_connection(server)
            cancelled = await cancelled_at(step, lambda: server.drain(5, grace=1))
            with trio.fail_after(6):
                await server.wait_drained()
            if not cancelled:
                with pytest.raises(trio.EndOfChannel):
                    await ws.receive()
        assert tasks() == before
        return cancelled

    assert await at_every_step(scenario) >= 3
