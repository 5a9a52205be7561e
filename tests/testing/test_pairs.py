"""A connected client and server, without a socket."""

from __future__ import annotations

import pytest
import trio

import trioweb
from trioweb.testing import Stall, VirtualNetwork, open_pair, run
from trioweb.testing.scheduling import Deadlock


def test_a_peer_that_is_silent_for_an_hour() -> None:
    """Twenty seconds without a word, twenty more for an answer; the rest of the hour is nothing."""

    async def main() -> None:
        async with open_pair() as (client, server, link):
            link.inject(Stall(3600))
            for ws in (client, server):
                with pytest.raises(trioweb.ConnectionBroken, match="ping timeout"):
                    await ws.receive()
                assert trio.current_time() == 40
            await trio.sleep_until(3600)
        assert trio.current_time() == 3600

    run(main, seed=0)


def test_both_ends_have_the_options_that_they_were_given() -> None:
    async def main() -> None:
        options = {"subprotocols": ["chat"], "heartbeat": None}
        async with open_pair(client=options, server={"subprotocols": ["chat"]}) as pair:
            assert pair.client.subprotocol == pair.server.subprotocol == "chat"
            pair.link.inject(Stall())
            with pytest.raises(trioweb.ConnectionBroken):
                await pair.server.receive()  # its heartbeat notices
            with trio.move_on_after(1000) as scope:
                await pair.client.receive()  # the client has none
            assert scope.cancelled_caught

    run(main, seed=0)


def test_what_the_block_raises_comes_out_as_it_is() -> None:
    error = LookupError("mine")

    async def main() -> None:
        async with open_pair() as (_, server, _link):
            raise error
        assert server.closed is not None

    with pytest.raises(LookupError) as caught:
        run(main, seed=0)
    assert caught.value is error


def test_the_block_stays_on_the_host_of_its_caller() -> None:
    async def main() -> None:
        network = VirtualNetwork()
        with network.host("mine"):
            async with open_pair(network=network), trioweb.open_server(_nobody, 0) as server:
                assert server.url.startswith("ws://mine:")

    run(main, seed=0)


def test_a_refused_client_comes_out_bare() -> None:
    async def nobody(request: trioweb.Request) -> trioweb.Response:
        return trioweb.Response.make(403, "no")

    async def main() -> None:
        with pytest.raises(trioweb.HandshakeRejected, match="403"):
            async with open_pair(server={"on_request": nobody}):
                pass

    run(main, seed=0)


def test_waiting_for_each_other_is_a_deadlock_that_is_named() -> None:
    async def main() -> None:
        quiet = {"heartbeat": None}
        pairing = open_pair(client=quiet, server={"heartbeat": None})
        async with pairing as (client, server, _), trio.open_nursery() as nursery:
            nursery.start_soon(client.receive)
            nursery.start_soon(server.receive)

    with pytest.raises(Deadlock, match="receive"):
        run(main, seed=0)


async def _nobody(ws: trioweb.WebSocket) -> None:
    pass
