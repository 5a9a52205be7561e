"""`reconnect`: one connection after the other, in virtual time."""

from __future__ import annotations

import itertools
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from email.utils import formatdate

import pytest
import trio

import trioweb
from trioweb import Backoff, CloseCode, Phase, States, Status, is_terminal, reconnect
from trioweb.retrying import Retries
from trioweb.testing import HalfOpen, Reset, VirtualNetwork, no_orphans, run

Handler = Callable[[trioweb.WebSocket], Awaitable[object]]


def on_network(main: Callable[[VirtualNetwork, str], Awaitable[None]], handler: Handler) -> None:
    """Run with a server on one virtual host and ``main(network, url)`` on another."""

    async def hosted() -> None:
        network = VirtualNetwork()
        async with no_orphans():
            with network.host("server"):
                async with trioweb.open_server(handler, 80):
                    with network.host("client"):
                        await main(network, "ws://server:80")

    run(hosted, seed=0)


# --- what is final ---------------------------------------------------------------------------


@pytest.mark.parametrize("code", [1002, 1003, 1007, 1008, 1009, 1010, 3500, 3999, 4500, 4999])
def test_terminal_close_codes(code: int) -> None:
    for kind in (trioweb.ConnectionBroken, trioweb.EndOfChannel):
        assert is_terminal(kind(trioweb.Close(code)))
    assert is_terminal(trioweb.ProtocolError(code, ""))


@pytest.mark.parametrize(
    "code", [1000, 1001, 1005, 1006, 1011, 1012, 1013, 1014, 3000, 3499, 4000, 4401, 4499]
)
def test_transient_close_codes(code: int) -> None:
    assert not is_terminal(trioweb.ConnectionBroken(trioweb.Close(code)))
    assert is_terminal(trioweb.ConnectionClosedByUs(trioweb.Close(code)))


@pytest.mark.parametrize(
    ("status", "final"),
    [
        (302, False),
        (400, True),
        (401, True),
        (404, True),
        (408, False),
        (425, False),
        (426, True),
        (429, False),
        (499, True),
        (500, False),
        (503, False),
    ],
)
def test_statuses(status: int, final: bool) -> None:
    assert is_terminal(trioweb.HandshakeRejected(status, trioweb.Headers())) is final
    assert is_terminal(trioweb.ProxyError("", trioweb.Response(status))) is final


def test_other_errors() -> None:
    for error in (
        trioweb.ConnectFailed(),
        trioweb.ProxyError(""),
        trioweb.HandshakeTimeout(),
        trioweb.HandshakeInvalid(),
        trio.EndOfChannel(),
        trio.BrokenResourceError(),
        OSError(),
    ):
        assert not is_terminal(error)
    for mistake in (ValueError(), TypeError(), ImportError(), trio.ClosedResourceError()):
        assert is_terminal(mistake)
    assert not is_terminal(ExceptionGroup("", [OSError()]))
    assert is_terminal(ExceptionGroup("", [OSError(), ValueError()]))


# --- the backoff -----------------------------------------------------------------------------


class Always(random.Random):
    """Chance that always draws the same."""

    def __init__(self, fraction: float) -> None:
        super().__init__()
        self._fraction = fraction

    def random(self) -> float:
        return self._fraction


def test_the_bound_grows_up_to_its_cap() -> None:
    backoff = Backoff(base=1, factor=3, cap=20)
    assert [backoff.bound(n) for n in (1, 2, 3, 4, 10**6)] == [1, 3, 9, 20, 20]
    assert Backoff(factor=1).bound(10**9) == 0.5


@pytest.mark.parametrize(
    "options",
    [
        {"base": 0},
        {"factor": 0.9},
        {"cap": float("inf")},
        {"attempts": 0},
        {"reset": -1},
        {"retry_after": float("nan")},
    ],
)
def test_nonsense_is_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"Backoff.{next(iter(options))} must be"):
        Backoff(**options)  # type: ignore[arg-type]


def test_waits_are_drawn_between_nothing_and_the_bound() -> None:
    retries = Retries(Backoff(base=1, cap=8, random=random.Random(1)))
    waits = [retries.failed(OSError()) for _ in range(400)]
    for wait, bound in zip(waits, itertools.chain([1, 2, 4], itertools.repeat(8)), strict=False):
        assert 0 <= wait < bound
    assert min(waits) < 0.2
    assert max(waits) > 7.8


def test_without_a_source_of_chance_the_machines_is_used() -> None:
    def waits(seed: int) -> list[float]:
        with VirtualNetwork(seed).host("client"):
            retries = Retries(Backoff())
            return [retries.failed(OSError()) for _ in range(5)]

    assert waits(1) == waits(1) != waits(2)


def test_a_connection_that_lasted_starts_the_count_again() -> None:
    retries = Retries(Backoff(attempts=3, reset=10))
    for lasted in (0, 9.9, 10, 0):
        retries.failed(OSError(), lasted)
    with pytest.raises(OSError, match="the third"):
        retries.failed(OSError("the third"))


def test_retry_after_is_waited_for_within_its_bound() -> None:
    def waits(text: str, bound: float = 300) -> float:
        retries = Retries(Backoff(base=2, retry_after=bound, random=Always(0.5)))
        headers = trioweb.Headers({"Retry-After": text})
        wait = retries.failed(trioweb.HandshakeRejected(503, headers))
        response = trioweb.Response(503, headers)
        assert Retries(Backoff(base=2, retry_after=bound, random=Always(0.5))).failed(
            trioweb.ProxyError("", response)
        ) == pytest.approx(wait)
        return wait - 1

    async def main() -> None:
        with VirtualNetwork().host("client"):
            assert waits("7") == 7
            assert waits("7", 5) == 5
            assert waits("9" * 5000) == 300
            assert waits(formatdate(20, usegmt=True)) == pytest.approx(20)
            assert waits(formatdate(-20, usegmt=True)) == 0
            for nonsense in ("", "-1", "1.5", "\u0661", "soon", "Mon, 99 Foo 2020 25:00:00 GMT"):
                assert waits(nonsense) == 0

    run(main, seed=0)


# --- one connection after the other ----------------------------------------------------------


def test_the_next_connection_follows_a_break_and_the_value_comes_out() -> None:
    visits = itertools.count(1)

    async def handler(ws: trioweb.WebSocket) -> None:
        visit = next(visits)
        await ws.send(str(visit))
        match visit:
            case 1:
                await ws.aclose(1001)
            case 2:
                await ws.aclose(4000)
            case 3:
                raise RuntimeError("a bug of the server")
        await ws.receive()

    async def main(network: VirtualNetwork, url: str) -> None:
        seen: list[trioweb.Message] = []

        async def use(ws: trioweb.WebSocket) -> str:
            async for message in ws:
                seen.append(message)
                if message == "4":
                    network.link("client", "server").inject(Reset())
                if message == "5":
                    return "done"
            return "ended"

        states = States()
        assert await reconnect(use, url, states=states) == "done"
        assert seen == ["1", "2", "3", "4", "5"]
        assert states.current == Status(Phase.ENDED)

    on_network(main, handler)


def test_a_peer_that_vanished_is_noticed_by_the_heartbeat() -> None:
    async def main(network: VirtualNetwork, url: str) -> None:
        connections = 0

        async def use(ws: trioweb.WebSocket) -> None:
            nonlocal connections
            connections += 1
            if connections == 1:
                network.link("client", "server").inject(HalfOpen("server"))
                await ws.receive()

        await reconnect(use, url, heartbeat=trioweb.Heartbeat(5, 5))
        assert connections == 2
        assert 10 <= trio.current_time() < 11

    on_network(main, _stay)


async def _stay(ws: trioweb.WebSocket) -> None:
    async for _ in ws:
        pass


def test_own_aclose_is_done_whatever_the_peer_did() -> None:
    async def handler(ws: trioweb.WebSocket) -> None:
        await ws.aclose(1012)

    async def main(_: VirtualNetwork, url: str) -> None:
        calls = 0

        async def use(ws: trioweb.WebSocket) -> int:
            nonlocal calls
            calls += 1
            with pytest.raises(trioweb.ConnectionBroken):
                await ws.receive()
            await ws.aclose()
            return calls

        assert await reconnect(use, url) == 1

        async def mistake(ws: trioweb.WebSocket) -> None:
            await ws.aclose()
            await ws.send("too late")

        with pytest.raises(trioweb.ConnectionClosedByUs):
            await reconnect(mistake, url)

    on_network(main, handler)


def test_a_terminal_code_is_raised_also_where_use_swallows_it() -> None:
    async def handler(ws: trioweb.WebSocket) -> None:
        await ws.aclose(4500, "never again")

    async def main(_: VirtualNetwork, url: str) -> None:
        async def lets_it_pass(ws: trioweb.WebSocket) -> None:
            await ws.receive()

        async def swallows(ws: trioweb.WebSocket) -> None:
            with pytest.raises(trioweb.ConnectionBroken):
                await ws.receive()

        for use in (lets_it_pass, swallows):
            states = States()
            with pytest.raises(trioweb.ConnectionBroken, match="never again") as caught:
                await reconnect(use, url, states=states)
            assert states.current == Status(Phase.ENDED, caught.value)

    on_network(main, handler)


def test_what_use_raises_comes_out_bare_even_if_it_looks_like_a_break() -> None:
    async def main(_: VirtualNetwork, url: str) -> None:
        elsewhere = trioweb.ConnectionBroken(trioweb.Close(1006))
        for error in (ValueError(), trioweb.ConnectFailed(), elsewhere, trio.BrokenResourceError()):

            async def use(ws: trioweb.WebSocket, error: Exception = error) -> None:
                raise error

            with pytest.raises(type(error)) as caught:
                await reconnect(use, url)
            assert caught.value is error

    on_network(main, _stay)


def test_a_nursery_in_use_may_wrap_the_end_in_a_group() -> None:
    visits = itertools.count(1)

    async def handler(ws: trioweb.WebSocket) -> None:
        if next(visits) == 1:
            await ws.aclose(1012)
        await ws.receive()

    async def main(_: VirtualNetwork, url: str) -> None:
        calls = 0

        async def use(ws: trioweb.WebSocket) -> None:
            nonlocal calls
            calls += 1
            if calls == 1:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(ws.receive)

        await reconnect(use, url)
        assert calls == 2

    on_network(main, handler)


def test_attempts_are_counted_and_the_last_error_is_raised() -> None:
    async def main(_: VirtualNetwork, url: str) -> None:
        states = States()
        seen: list[Status] = []

        async def watch() -> None:
            seen.extend([status async for status in states])

        backoff = Backoff(base=4, attempts=3, random=Always(0.5))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(trioweb.ConnectFailed) as caught:
                await reconnect(_stay, "ws://server:81", backoff=backoff, states=states)
        assert trio.current_time() == 2 + 4
        assert [(one.phase, one.failures, one.delay) for one in seen] == [
            (Phase.CONNECTING, 0, 0),
            (Phase.WAITING, 1, 2),
            (Phase.CONNECTING, 1, 0),
            (Phase.WAITING, 2, 4),
            (Phase.CONNECTING, 2, 0),
            (Phase.ENDED, 0, 0),
        ]
        assert seen[-1].cause is caught.value
        assert str(seen[1]).startswith("waiting for 2 s: no connection to server:81")

    on_network(main, _stay)


def test_a_server_that_accepts_and_drops_meets_the_backoff() -> None:
    async def handler(ws: trioweb.WebSocket) -> None:
        await ws.aclose(1013)

    async def main(_: VirtualNetwork, url: str) -> None:
        backoff = Backoff(attempts=4, random=Always(1))
        with pytest.raises(trioweb.ConnectionBroken):
            await reconnect(trioweb.WebSocket.receive, url, backoff=backoff)
        assert trio.current_time() == pytest.approx(0.5 + 1 + 2, abs=0.1)

    on_network(main, handler)


def test_mistakes_come_out_at_once() -> None:
    async def main(_: VirtualNetwork, url: str) -> None:
        with pytest.raises(ValueError, match="http"):
            await reconnect(_stay, "http://server")
        assert trio.current_time() == 0

    on_network(main, _stay)


@pytest.mark.parametrize("seconds", [0, 0.5, 3])
def test_it_can_be_cancelled_while_it_waits(seconds: float) -> None:
    async def main(_: VirtualNetwork, url: str) -> None:
        states = States()
        with trio.move_on_after(seconds) as scope:
            await reconnect(_stay, "ws://server:81", states=states)
        assert scope.cancelled_caught
        assert trio.current_time() == seconds
        assert states.current == Status(Phase.ENDED)

    on_network(main, _stay)


def test_it_starts_no_task() -> None:
    async def main(_: VirtualNetwork, url: str) -> None:
        here = trio.lowlevel.current_task()

        async def use(ws: trioweb.WebSocket) -> trio.lowlevel.Task:
            return trio.lowlevel.current_task()

        assert await reconnect(use, url) is here

    on_network(main, _stay)


async def test_channels_of_another_library(autojump_clock: trio.testing.MockClock) -> None:
    ends: list[trio.StapledStream | trio.MemoryReceiveChannel[str]] = []

    @asynccontextmanager
    async def dial() -> AsyncIterator[trio.MemoryReceiveChannel[str]]:
        send, receive = trio.open_memory_channel[str](1)
        send.send_nowait(f"number {len(ends)}")
        send.close()
        async with receive:
            ends.append(receive)
            yield receive

    async def use(channel: trio.MemoryReceiveChannel[str]) -> str:
        message = await channel.receive()
        if len(ends) == 1:
            await channel.receive()
        if len(ends) == 2:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(channel.receive)
        if len(ends) == 3:
            raise trio.BrokenResourceError
        return message

    assert await reconnect(use, dial) == "number 3"

    async def mistaken(channel: trio.MemoryReceiveChannel[str]) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(channel.receive)
            raise ValueError

    with pytest.raises(ExceptionGroup):
        await reconnect(mistaken, dial)


async def test_an_error_of_another_kind_while_dialling_is_a_mistake() -> None:
    @asynccontextmanager
    async def dial() -> AsyncIterator[trioweb.WebSocket]:
        raise LookupError("no such server in the list")
        yield

    with pytest.raises(LookupError):
        await reconnect(_stay, dial)


# --- states ----------------------------------------------------------------------------------


async def test_each_reader_begins_with_the_state_of_now() -> None:
    states = States()
    early = aiter(states)
    states.add(Status(Phase.OPEN))
    states.add(Status(Phase.OPEN))
    late = aiter(states)
    states.add(Status(Phase.ENDED))
    phases = [Phase.CONNECTING, Phase.OPEN, Phase.ENDED]
    assert [one.phase async for one in early] == phases
    assert [one.phase async for one in late] == phases[1:]
    assert [one.phase async for one in states] == phases[2:]


async def test_a_late_reader_gets_the_last_ones() -> None:
    states = States()
    reader = aiter(states)
    for number in range(1000):
        states.add(Status(Phase.WAITING, failures=number))
    states.add(Status(Phase.ENDED))
    seen = [status async for status in reader]
    assert len(seen) == 64
    assert [one.failures for one in seen[:-1]] == list(range(937, 1000))
    assert states.current.phase is Phase.ENDED


async def test_waiting_for_a_phase(autojump_clock: trio.testing.MockClock) -> None:
    states = States()
    async with trio.open_nursery() as nursery:

        async def change() -> None:
            await trio.sleep(1)
            states.add(Status(Phase.WAITING))
            await trio.sleep(1)
            states.add(Status(Phase.OPEN))
            await trio.sleep(1)
            states.add(Status(Phase.ENDED))

        nursery.start_soon(change)
        with trio.move_on_after(0.5) as scope:
            await states.wait_for(Phase.OPEN)
        assert scope.cancelled_caught
        assert (await states.wait_for(Phase.OPEN, Phase.ENDED)).phase is Phase.OPEN
        assert trio.current_time() == 2
        assert (await states.wait_for(Phase.CONNECTING)).phase is Phase.ENDED


def test_every_code_of_the_registry_is_decided() -> None:
    final = {
        code for code in CloseCode if is_terminal(trioweb.ConnectionBroken(trioweb.Close(code)))
    }
    assert final == {1002, 1003, 1007, 1008, 1009, 1010}
