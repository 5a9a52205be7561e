"""The registry of methods: names, params, middleware."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import pytest
import trio

from tests.toolkit.peers import open_peers
from trioweb import CallError
from trioweb.toolkit.rpc import Invocation, Methods, Peer

if TYPE_CHECKING:
    from nowhere import Unknown  # type: ignore[import-not-found]


def test_names():
    methods = Methods()

    @methods.method
    def one(peer: Peer) -> None: ...

    @methods("a.two")
    def two(peer: Peer) -> None: ...

    methods.add("three", lambda peer: None)
    assert list(methods) == ["one", "a.two", "three"]
    assert "a.two" in methods
    assert "ping" not in methods
    assert methods.find("ping") is not None
    with pytest.raises(ValueError, match="one"):
        methods.add("one", one)


def test_functions_that_can_be_no_methods():
    methods = Methods()
    for function in (
        lambda: None,
        lambda *all: None,
        lambda *, peer: None,
        lambda peer, *rest: None,
        lambda peer, **rest: None,
        lambda peer, one, /: None,
    ):
        with pytest.raises(TypeError):
            methods.add("x", function)
    assert list(methods) == []


def run(function: Any, params: Any) -> Any:
    methods = Methods()
    methods.add("x", function)
    return methods.find("x")(None, params)  # type: ignore[misc, arg-type]


class Size(msgspec.Struct):
    width: int


def test_params_are_arguments():
    def method(
        peer: Unknown,
        a: int,
        b: list[int] = [7],  # noqa: B006 - it must survive
        *,
        c: Annotated[str, msgspec.Meta(max_length=3)] | None = "c",
        d=object,
        size: Size | None = None,
    ) -> Any:
        return a, b, c, d, size

    assert run(method, {"a": 1}) == (1, [7], "c", object, None)
    everything = {"a": 1, "b": [], "c": None, "d": {"x": 1}, "size": {"width": 3}, "other": 1}
    assert run(method, everything) == (1, [], None, {"x": 1}, Size(3))
    for params, path in [
        ({}, "$.params"),
        (None, "$.params"),
        ("a", "$.params"),
        ({"a": None}, "$.params.a"),
        ({"a": 1, "b": [1, "x"]}, "$.params.b[1]"),
        ({"a": 1, "c": "four"}, "$.params.c"),
        ({"a": 1, "size": {}}, "$.params.size"),
    ]:
        with pytest.raises(CallError) as caught:
            run(method, params)
        assert (caught.value.code, caught.value.path) == ("invalid", path)


def test_params_may_be_taken_whole():
    def method(peer: Peer, params: list[int]) -> Any:
        return params

    assert run(method, [1, 2]) == [1, 2]
    with pytest.raises(CallError) as caught:
        run(method, {"params": [1]})
    assert caught.value.path == "$.params"
    assert run(lambda peer, params: params, None) is None
    assert run(lambda peer, params: params, {"any": 1}) == {"any": 1}

    def optional(peer: Peer, params: Size = Size(1)) -> Any:  # noqa: B008 - it is never changed
        return params

    assert run(optional, None) == Size(1)
    assert run(optional, {"width": 2}) == Size(2)


def test_functions_of_all_kinds():
    class Thing:
        def bound(self, peer: Peer, a: int) -> int:
            return a

        async def __call__(self, peer: Peer, a: int) -> int:
            return a

    def curried(first: int, peer: Peer, a: int) -> int:
        return first + a

    assert run(Thing().bound, {"a": 1}) == 1
    assert run(partial(curried, 1), {"a": 1}) == 2
    methods = Methods()
    methods.add("x", Thing())
    methods.add("y", partial(Thing().__call__))
    methods.add("z", Thing().bound)
    quick = {name: method.is_quick for name in methods if (method := methods.find(name))}
    assert quick == {"x": False, "y": False, "z": True}


async def test_an_error_inside_of_a_method_is_not_one_of_its_params(caplog):
    methods = Methods()

    @methods.method
    def method(peer: Peer) -> None:
        msgspec.convert("x", int)

    async with open_peers(methods=methods) as (caller, _, _):
        with pytest.raises(CallError) as caught:
            await caller.call("method")
        assert caught.value.code == "internal"
        assert len(caplog.records) == 1


async def test_middleware_is_a_fold():
    log: list[Any] = []

    async def outer(invocation: Invocation, next_: Any) -> Any:
        log.append(("outer", invocation.method, invocation.params, invocation.is_notify))
        try:
            return await next_(invocation)
        except CallError as error:
            return {"refused": error.code}

    async def inner(invocation: Invocation, next_: Any) -> Any:
        log.append("inner")
        if invocation.method == "forbidden":
            raise CallError("forbidden")
        result = await next_(invocation)
        return f"<{result}>"

    methods = Methods(middleware=[outer, inner])
    methods("name")(lambda peer, name: name)
    methods("forbidden")(lambda peer: 1 / 0)
    async with open_peers(methods=methods) as (caller, _, _):
        assert await caller.call("name", {"name": "ann"}) == "<ann>"
        assert log == [("outer", "name", {"name": "ann"}, False), "inner"]
        assert await caller.call("forbidden") == {"refused": "forbidden"}
        assert await caller.call("name") == {"refused": "invalid"}
        await caller.notify("name", {"name": "bob"})
        await trio.testing.wait_all_tasks_blocked()
        assert log[-2:] == [("outer", "name", {"name": "bob"}, True), "inner"]
        with pytest.raises(CallError) as caught:
            await caller.call("nothing")
        assert caught.value.code == "unknown-method"


async def test_middleware_may_name_another_method():
    async def rename(invocation: Invocation, next_: Any) -> Any:
        if invocation.params == "nothing":
            return await next_(Invocation(invocation.peer, "gone", None))
        return await next_(Invocation(invocation.peer, "new", invocation.params))

    methods = Methods(middleware=[rename])
    methods("old")(lambda peer: 0)
    methods("new")(lambda peer, params: params)
    async with open_peers(methods=methods) as (caller, _, _):
        assert await caller.call("old", 5) == 5
        with pytest.raises(CallError) as caught:
            await caller.call("old", "nothing")
        assert caught.value.code == "unknown-method"


async def test_plain_functions_that_return_something_to_await():
    methods = Methods()

    async def later(value: int) -> int:
        await trio.lowlevel.checkpoint()
        return value

    methods("later")(lambda peer: later(3))
    async with open_peers(methods=methods) as (caller, _, _):
        assert await caller.call("later") == 3
