"""Guarantee 11: a broadcast encodes once."""

from __future__ import annotations

from contextlib import AsyncExitStack

import pytest
import trio
from trio.testing import MockClock

import trioweb
from tests.guarantees.peers import Link
from trioweb.protocol.encoder import Encoder


async def _stay(ws: trioweb.WebSocket) -> None:
    await trio.sleep_forever()


@pytest.mark.parametrize("size", [10, 200_000])
async def test_one_encoding_for_all(
    clock: MockClock, link: Link, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[Encoder] = []
    original = Encoder._whole

    def whole(self: Encoder, first: int, data: bytes, packed: bytes | None) -> list[bytes]:
        encoded.append(self)
        return original(self, first, data, packed)

    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(link.server(_stay))
        clients = [await stack.enter_async_context(link.client(server)) for _ in range(20)]
        while len(server.connections) < 20:
            await trio.sleep(0.1)
        monkeypatch.setattr(Encoder, "_whole", whole)
        done = trioweb.broadcast(server.connections, "x" * size)
        assert done.written + done.queued == 20
        assert len(encoded) == 1
        monkeypatch.undo()
        for client in clients:
            assert await client.receive() == "x" * size
