"""Guarantee 2: our own nurseries never wrap an exception in a group, and never swallow one."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

import trioweb
from tests.guarantees.peers import Link, echo


class _Mine(Exception):
    pass


async def test_out_of_a_client_block(clock: MockClock, link: Link) -> None:
    async with link.server(echo) as server:
        with pytest.raises(_Mine) as caught:
            async with link.client(server):
                raise _Mine
        assert caught.value.__context__ is None


async def test_out_of_a_server_block(clock: MockClock, link: Link) -> None:
    with pytest.raises(_Mine):
        async with link.server(echo) as server, link.client(server):
            raise _Mine


async def test_the_users_own_group_stays_as_it_is(clock: MockClock, link: Link) -> None:
    group = ExceptionGroup("mine", [_Mine()])
    with pytest.raises(ExceptionGroup) as caught:
        async with link.server(echo) as server, link.client(server):
            raise group
    assert caught.value is group


async def test_an_end_of_the_connection_comes_out_bare(clock: MockClock, link: Link) -> None:
    async def leave(ws: trioweb.WebSocket) -> None:
        await ws.aclose(4000, "enough")

    async with link.server(leave) as server:
        with pytest.raises(trio.BrokenResourceError) as caught:
            async with link.client(server) as ws:
                await ws.receive()
    assert isinstance(caught.value, trioweb.ConnectionBroken)
    assert (caught.value.code, caught.value.reason) == (4000, "enough")


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
async def test_a_handlers_interrupt_goes_on_bare(
    clock: MockClock, link: Link, kind: type[BaseException]
) -> None:
    async def handler(ws: trioweb.WebSocket) -> None:
        await ws.receive()
        raise kind

    with pytest.raises(kind):
        async with link.server(handler) as server, link.client(server) as ws:
            await ws.send("now")
            await trio.sleep_forever()


async def test_cancelled_goes_on(clock: MockClock, link: Link) -> None:
    with trio.CancelScope() as scope:
        async with link.server(echo) as server, link.client(server) as ws:
            scope.cancel()
            await ws.receive()
    assert scope.cancelled_caught


def test_a_fault_of_our_own_task_is_neither_lost_nor_wrapped(
    link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object) -> None:
        raise _Mine

    async def main() -> bool:
        async with link.server(echo, heartbeat=None) as server:
            monkeypatch.setattr("trioweb.lifecycle.beat", broken)
            with pytest.raises(_Mine):
                async with link.client(server):
                    await trio.sleep_forever()
            return True

    # Not an async test: a stray Cancelled would end that in silence.
    assert trio.run(main)
