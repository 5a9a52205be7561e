"""What `receive`, `send` and `__anext__` return is as good as a coroutine, natively too."""

from __future__ import annotations

import collections.abc
import copy
import gc
import inspect
import sys
import traceback
import warnings
import weakref
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeAlias

import pytest
import trio

import trioweb
from trioweb.connection import lifecycle_of
from trioweb.reading import Reading
from trioweb.testing import at_every_step, cancelled_at, open_pair, run

Call: TypeAlias = Callable[[trioweb.WebSocket], Coroutine[Any, Any, Any]]

CALLS: dict[str, Call] = {
    "send": lambda ws: ws.send("x"),
    "receive": lambda ws: ws.receive(),
    "__anext__": lambda ws: ws.__anext__(),
}
every_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
both_receives = pytest.mark.parametrize("call", list(CALLS.values())[1:], ids=list(CALLS)[1:])


def with_one_message(
    test: Callable[[trioweb.WebSocket, trioweb.WebSocket], Awaitable[None]],
) -> None:
    """Run something with two ends, to one of which a message came that nobody has taken."""

    async def main() -> None:
        async with open_pair() as (client, server, _):
            await server.send("came")
            await trio.sleep(1)
            assert client.statistics().inbox_messages == 1
            await test(client, server)

    run(main, seed=0)


@every_call
def test_it_is_a_coroutine(call: Call) -> None:
    async def check(client: trioweb.WebSocket, _: trioweb.WebSocket) -> None:
        step = call(client)
        assert isinstance(step, collections.abc.Coroutine)
        with pytest.raises(TypeError, match="just-started"):
            step.send(1)
        assert await step == (None if call is CALLS["send"] else "came")
        with pytest.raises(RuntimeError, match="already awaited"):
            await step
        with pytest.raises(RuntimeError, match="already awaited"):
            step.throw(ValueError())
        step.close()

    with_one_message(check)


@every_call
def test_nothing_is_done_before_it_is_awaited(call: Call) -> None:
    async def check(client: trioweb.WebSocket, server: trioweb.WebSocket) -> None:
        step = call(client)
        await trio.sleep(1)
        step.close()
        with pytest.raises(RuntimeError, match="already awaited"):
            await step
        before = client.statistics()
        assert (before.messages_sent, before.inbox_messages) == (0, 1)
        with pytest.raises(ValueError, match="thrown"):
            call(client).throw(ValueError("thrown"))
        assert client.statistics() == before

    with_one_message(check)


@every_call
def test_to_forget_the_await_is_told(call: Call) -> None:
    async def check(client: trioweb.WebSocket, _: trioweb.WebSocket) -> None:
        name = next(name for name, one in CALLS.items() if one is call)
        step = call(client)
        with pytest.warns(RuntimeWarning, match=f"'.*{name}' was never awaited"):
            del step
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            await call(client)

    with_one_message(check)


def test_one_that_failed_is_over() -> None:
    async def check(client: trioweb.WebSocket, _: trioweb.WebSocket) -> None:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            step = client.send("\ud800")
            with pytest.raises(UnicodeEncodeError):
                await step
            with pytest.raises(RuntimeError, match="already awaited"):
                await step
            del step
        assert told == []

    with_one_message(check)


def test_what_it_sends_may_lead_back_to_it() -> None:
    class Unsendable(list[Any]):
        pass

    async def check(client: trioweb.WebSocket, _: trioweb.WebSocket) -> None:
        message = Unsendable()
        step = client.send(message)  # type: ignore[arg-type]  # no message at all
        step.close()
        message.append(step)
        del step
        seen = weakref.ref(message)
        del message
        gc.collect()
        assert seen() is None

    with_one_message(check)


@every_call
def test_it_is_not_to_be_copied(call: Call) -> None:
    async def check(client: trioweb.WebSocket, _: trioweb.WebSocket) -> None:
        step = call(client)
        with pytest.raises(TypeError, match="cannot pickle"):
            copy.copy(step).close()
        step.close()

    with_one_message(check)


def test_a_task_may_be_one_call() -> None:
    async def main() -> None:
        async with open_pair() as (client, server, _), trio.open_nursery() as nursery:
            nursery.start_soon(client.send, "from a task")
            nursery.start_soon(server.receive)
            await trio.sleep(1)
            assert server.statistics().inbox_messages == 0
            nursery.start_soon(server.receive)  # waits
            await trio.sleep(1)
            nursery.start_soon(client.send, b"and another")
        assert server.statistics().messages_received == 2

    run(main, seed=0)


@every_call
def test_trio_tells_what_is_wrong_with_one_in_place_of_its_method(call: Call) -> None:
    async def check(client: trioweb.WebSocket, _: trioweb.WebSocket) -> None:
        async with trio.open_nursery() as nursery:
            with pytest.raises(TypeError, match=r"start_soon\(\w+, ...\)  # correct"):
                nursery.start_soon(call(client))  # type: ignore[arg-type]  # that is the mistake

    with_one_message(check)


@every_call
def test_it_tells_of_itself_before_it_is_awaited(call: Call) -> None:
    async def check(client: trioweb.WebSocket, _: trioweb.WebSocket) -> None:
        step = call(client)
        assert inspect.getcoroutinestate(step) == inspect.CORO_CREATED
        assert await step == (None if call is CALLS["send"] else "came")
        assert inspect.getcoroutinestate(step) == inspect.CORO_CLOSED

    with_one_message(check)


@both_receives
def test_where_it_waits_is_to_be_seen(call: Call) -> None:
    async def main() -> None:
        async with open_pair() as (client, server, _), trio.open_nursery() as nursery:

            async def waiter() -> None:
                await call(client)

            nursery.start_soon(waiter)
            await trio.sleep(1)
            (task,) = nursery.child_tasks
            names = [frame.f_code.co_name for frame, _ in task.iter_await_frames()]
            assert names[0] == "waiter"
            assert "wait_message" in names
            await server.send("x")

    run(main, seed=0)


@both_receives
def test_an_end_comes_as_it_should(call: Call) -> None:
    end = StopAsyncIteration if call is CALLS["__anext__"] else trio.EndOfChannel

    async def main() -> None:
        for early in (True, False):
            async with open_pair() as (client, server, _), trio.open_nursery() as nursery:
                if early:
                    await server.aclose()
                else:
                    nursery.start_soon(server.aclose)
                for _ in range(2):
                    with pytest.raises(end) as caught:
                        await call(client)
                    assert caught.value.__suppress_context__ or caught.value.__context__ is None
        async with open_pair() as (client, server, _):
            await client.aclose()
            with pytest.raises(trioweb.ConnectionClosedByUs):
                await call(client)
            with pytest.raises(trioweb.ConnectionClosedByUs):
                await client.send("x")

    run(main, seed=0)


def test_anext_has_a_default() -> None:
    async def main() -> None:
        async with open_pair() as (client, server, _), trio.open_nursery() as nursery:
            for _ in range(2):  # the second one waits
                nursery.start_soon(server.send, "x")
                assert await anext(client, "none") == "x"
            nursery.start_soon(server.aclose)
            assert await anext(client, "none") == "none"

    run(main, seed=0)


def test_a_loop_calls_a_receive_of_ones_own() -> None:
    class Loud(trioweb.WebSocket):
        __slots__ = ()

        async def receive(self) -> trioweb.Message:
            return str(await super().receive()).upper()

    async def check(client: trioweb.WebSocket, server: trioweb.WebSocket) -> None:
        loud = Loud(lifecycle_of(client), request=client.request, response=client.response)
        await server.send("and went")
        await server.aclose()
        assert [message async for message in loud] == ["CAME", "AND WENT"]

    with_one_message(check)


def test_a_large_message_takes_no_more_turns() -> None:
    """To wait for it was the checkpoint that is due."""

    class Turns(trio.abc.Instrument):
        def __init__(self) -> None:
            self.task = trio.lowlevel.current_task()
            self.seen = 0

        def before_task_step(self, task: trio.lowlevel.Task) -> None:
            self.seen += task is self.task

    async def turns(size: int) -> int:
        async def send() -> None:
            await trio.sleep(1)
            await server.send(bytes(size))

        async with open_pair() as (client, server, _), trio.open_nursery() as nursery:
            nursery.start_soon(send)
            count = Turns()
            trio.lowlevel.add_instrument(count)
            assert await client.receive() == bytes(size)
            trio.lowlevel.remove_instrument(count)
        return count.seen

    async def main() -> None:
        assert await turns(100_000) == await turns(10)

    run(main, seed=0)


@both_receives
def test_a_second_receiver_is_refused(call: Call) -> None:
    async def main() -> None:
        async with open_pair() as (client, server, _), trio.open_nursery() as nursery:
            nursery.start_soon(client.receive)
            await trio.sleep(1)
            with pytest.raises(trio.BusyResourceError):
                await call(client)
            await server.send("x")

    run(main, seed=0)


@both_receives
def test_an_interrupt_as_it_begins_to_wait_does_not_bar_the_next(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_: Reading) -> None:
        raise KeyboardInterrupt

    async def main() -> None:
        async with open_pair() as (client, server, _):
            with monkeypatch.context() as patch:
                patch.setattr(Reading, "_attend", interrupt)
                with pytest.raises(KeyboardInterrupt):
                    await call(client)
            await server.send("x")
            assert await call(client) == "x"

    run(main, seed=0)


@both_receives
def test_cancelled_at_any_step_it_loses_nothing(call: Call) -> None:
    async def scenario(step: int) -> bool:
        received: list[trioweb.Message] = []

        async def take() -> None:
            while len(received) < 3:
                received.append(await call(client))

        async def send() -> None:
            for number in range(3):
                await server.send(str(number))
                await trio.sleep(0.1 * number)

        async with open_pair() as (client, server, _), trio.open_nursery() as nursery:
            nursery.start_soon(send)
            cancelled = await cancelled_at(step, take)
            if cancelled:
                await take()
        assert received == ["0", "1", "2"]
        return cancelled

    async def main() -> None:
        assert await at_every_step(scenario) > 3

    run(main, seed=0)


def test_a_trace_function_changes_nothing() -> None:
    """Debuggers and coverage make the interpreter take another way to a coroutine."""
    seen = 0

    def trace(*_: object) -> Any:
        nonlocal seen
        seen += 1
        return trace

    async def check(client: trioweb.WebSocket, server: trioweb.WebSocket) -> None:
        before = sys.gettrace()
        sys.settrace(trace)
        try:
            assert await client.receive() == "came"
            await client.send("went")
            async for message in server:
                assert message == "went"
                break
        finally:
            sys.settrace(before)

    with_one_message(check)
    assert seen


def test_the_names_are_those_of_the_methods() -> None:
    assert trioweb.WebSocket.send.__name__ == "send"
    assert "Send ``str``" in (trioweb.WebSocket.send.__doc__ or "")
    assert list(inspect.signature(trioweb.WebSocket.send).parameters) == [
        "self",
        "value",
        "compress",
    ]
    assert list(inspect.signature(trioweb.WebSocket.receive).parameters) == ["self"]


def test_an_error_shows_where_it_came_from() -> None:
    async def main() -> None:
        async with open_pair() as (client, _, _link):
            with pytest.raises(TypeError) as caught:
                await client.send(1)  # type: ignore[arg-type]  # that is the test
            names = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
            assert "check_message" in names

    run(main, seed=0)


def test_another_object_is_refused() -> None:
    with pytest.raises((TypeError, AttributeError)):
        trioweb.WebSocket.send(object(), "x").send(None)  # type: ignore[arg-type]  # the test
