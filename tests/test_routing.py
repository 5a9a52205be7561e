"""Routing: a path to its handler, and 404 before the upgrade."""

from __future__ import annotations

from datetime import date

import pytest

import trioweb
from tests.helpers import asking, fetch, get, serving
from trioweb import Request, Response, Router


async def hall(ws: trioweb.WebSocket) -> None:
    await ws.send(f"hall {ws.request.query}")


async def cafe(ws: trioweb.WebSocket) -> None:
    await ws.send("café")


ROUTES = Router({"/": hall, "/rooms/hall": hall, "/café": cafe})


@pytest.mark.parametrize(
    ("target", "handler"),
    [
        ("/", hall),
        ("/?x=1", hall),
        ("/rooms/hall", hall),
        ("/rooms/hall?a=b", hall),
        ("/caf%C3%A9", cafe),
        ("/rooms/hall/", None),
        ("/rooms", None),
        ("/ROOMS/hall", None),
        ("//", None),
        ("/rooms/../", None),
        ("/rooms%2Fhall", None),
        ("/rooms/h%61ll", hall),
        ("/caf%E9", None),
        ("*", None),
    ],
)
def test_paths_must_match_exactly(target, handler):
    assert ROUTES.find(Request(target)) is handler


def test_a_path_must_start_with_a_slash():
    with pytest.raises(ValueError, match="'chat' must start with /"):
        Router({"/": hall, "chat": hall})


def test_the_routes_are_those_of_the_start():
    routes = {"/": hall}
    router = Router(routes)
    routes["/late"] = hall
    assert router.find(Request("/late")) is None


@pytest.mark.parametrize(
    ("path", "message"),
    [("/rooms/hall?a=b", "hall {'a': 'b'}"), ("/caf%C3%A9", "café")],
)
async def test_a_connection_is_handled_by_the_handler_of_its_path(path, message):
    async with serving(ROUTES) as server, trioweb.connect(server.url + path) as ws:
        assert await ws.receive() == message
        with pytest.raises(trioweb.EndOfChannel):
            await ws.receive()


async def test_an_unknown_path_is_404_before_the_upgrade():
    checked = []

    async def check(request: Request) -> None:
        checked.append(request)

    async with serving(ROUTES, authenticate=check) as server:
        with pytest.raises(trioweb.HandshakeRejected) as caught:
            async with trioweb.connect(server.url + "/nowhere"):
                raise AssertionError("the block must not run")
        assert (caught.value.status, caught.value.body) == (404, b"not found\n")
        assert checked == []
        assert (await get(server, "/nowhere")).status == 404


async def test_a_plain_request_for_a_known_path_is_told_to_upgrade():
    async with serving(ROUTES) as server:
        assert (await get(server, "/rooms/hall")).status == 426


async def test_pages_come_before_routes():
    async def page(request: Request) -> Response | None:
        return Response.make(200, "page") if request.path == "/about" else None

    async with serving(ROUTES, on_request=page) as server:
        assert (await get(server, "/about")).status == 200
        assert (await fetch(server, asking("/about"))).status == 200
        assert (await get(server, "/rooms/hall")).status == 404
        async with trioweb.connect(server.url + "/") as ws:
            assert await ws.receive() == "hall {}"


# --- parameters ------------------------------------------------------------------------------


async def room(ws: trioweb.WebSocket, name: str) -> None:
    await ws.send(f"room {name}")


async def user(ws: trioweb.WebSocket, *, id: int) -> None:  # noqa: A002 - as the pattern has it
    await ws.send(f"user {id!r}")


async def anything(ws: trioweb.WebSocket, **parameters: object) -> None:
    await ws.send(repr(parameters))


async def test_parameters_reach_the_handler_by_keyword():
    router = Router({"/rooms/{name}": room, "/users/{id:int}": user, "/{rest:path}": anything})
    async with serving(router) as server:
        for path, message in [
            ("/rooms/caf%C3%A9?x=1", "room café"),
            ("/rooms/a%2Fb", "room a/b"),
            ("/users/-42", "user -42"),
            ("/users/x", "{'rest': 'users/x'}"),
            ("/a/b/", "{'rest': 'a/b/'}"),
        ]:
            async with trioweb.connect(server.url + path) as ws:
                assert await ws.receive() == message
        for path in ("/", "/a/..", "/a/%2e/b", "//a", "/a%2Fb/c"):
            assert (await get(server, path)).status == 404


def test_a_match_says_which_route_it_is():
    router = Router({"/rooms/{name}": room})
    assert router.match(Request("/rooms/hall")) == ("/rooms/{name}", room, {"name": "hall"})
    assert router.find(Request("/rooms/hall")) is room
    assert router.match(Request("/rooms")) is None
    assert router.match(Request("http://host/rooms/x?a/b")) == (
        "/rooms/{name}",
        room,
        {"name": "x"},
    )


def test_types_of_ones_own():
    router = Router({"/days/{day:date}": anything}, converters={"date": date.fromisoformat})
    found = router.match(Request("/days/2026-02-03"))
    assert found is not None
    assert found.parameters == {"day": date(2026, 2, 3)}
    assert router.find(Request("/days/2026-02-30")) is None


@pytest.mark.parametrize(
    ("pattern", "handler", "says"),
    [
        ("/rooms/{id}", room, "'/rooms/{id}' does not fit: .*'name'"),
        ("/rooms/hall", room, "missing a required argument: 'name'"),
        ("/rooms/{ws}/{name}", room, "multiple values"),
        ("/rooms/{name}", hall, "unexpected keyword"),
    ],
)
def test_a_handler_must_take_the_parameters(pattern, handler, says):
    with pytest.raises(ValueError, match=says):
        Router({pattern: handler})


def test_a_handler_whose_signature_cannot_be_read_is_believed():
    class Odd:
        __signature__ = "none"

        async def __call__(self, ws, **parameters): ...

    odd = Odd()
    assert Router({"/{name}": odd}).find(Request("/x")) is odd


# --- routers inside routers ------------------------------------------------------------------


def test_a_router_is_mounted():
    inner = Router({"/": hall, "/{name}": room, "/{name}/days/{n:int}": anything})
    outer = Router({"/": cafe, "/api": Router({"/rooms": inner, "/r/": inner}), "/x/{y}": inner2()})
    for path, handler in {
        "/": cafe,
        "/api": None,
        "/api/rooms": hall,
        "/api/rooms/": None,
        "/api/rooms/a": room,
        "/api/r": None,
        "/api/r/": hall,
        "/api/r/a": room,
        "/api/r/a/days/3": anything,
        "/a": None,
    }.items():
        assert outer.find(Request(path)) is handler, path
    found = outer.match(Request("/x/1/z/2"))
    assert found is not None
    assert (found.pattern, found.parameters) == ("/x/{y}/z/{z:int}", {"y": "1", "z": 2})


def inner2() -> Router:
    return Router({"/z/{z:int}": anything})


def test_nothing_is_mounted_below_the_rest_of_a_path():
    with pytest.raises(ValueError, match=r"below '/\{rest:path\}'"):
        Router({"/{rest:path}": Router({"/a": hall})})


def test_mounting_may_not_repeat_a_parameter_or_a_path():
    with pytest.raises(ValueError, match="two parameters 'name'"):
        Router({"/{name}": Router({"/{name}": anything})})
    with pytest.raises(ValueError, match="may match both"):
        Router({"/a": Router({"/b": hall}), "/a/b": hall})


# --- middleware ------------------------------------------------------------------------------


def noting(name):
    async def middleware(ws, next):  # noqa: A002 - its name in the documentation
        notes.append(f"{name} in")
        try:
            await next(ws)
        finally:
            notes.append(f"{name} out")

    return middleware


notes: list[str] = []


async def test_middleware_runs_around_the_handler_outermost_first():
    notes.clear()
    inner = Router({"/{name}": room}, middleware=[noting("c")])
    router = Router({"/in": inner, "/": hall}, middleware=[noting("a"), noting("b")])
    async with serving(router) as server:
        async with trioweb.connect(server.url + "/in/hall") as ws:
            assert await ws.receive() == "room hall"
            with pytest.raises(trioweb.EndOfChannel):
                await ws.receive()
        assert notes == ["a in", "b in", "c in", "c out", "b out", "a out"]
        notes.clear()
        async with trioweb.connect(server.url) as ws:
            await ws.receive()
            with pytest.raises(trioweb.EndOfChannel):
                await ws.receive()
        assert notes == ["a in", "b in", "b out", "a out"]


async def test_middleware_may_turn_a_connection_away_and_sees_what_the_handler_raises():
    seen = []

    async def strict(ws, next):  # noqa: A002
        if "token" not in ws.request.query:
            await ws.aclose(4401, "no token")
            return
        try:
            await next(ws)
        except KeyError as error:
            seen.append(error)

    async def failing(ws: trioweb.WebSocket) -> None:
        raise KeyError("x")

    async with serving(Router({"/": failing}, middleware=[strict])) as server:
        async with trioweb.connect(server.url) as ws:
            with pytest.raises(trioweb.ConnectionBroken) as caught:
                await ws.receive()
            assert caught.value.code == 4401
        async with trioweb.connect(server.url + "/?token=1") as ws:
            with pytest.raises(trioweb.EndOfChannel):
                await ws.receive()
    assert len(seen) == 1


async def test_a_router_inside_a_function_closes_what_it_does_not_know():
    async def handler(ws: trioweb.WebSocket) -> None:
        await ROUTES(ws)

    async with serving(handler) as server, trioweb.connect(server.url + "/nowhere") as ws:
        with pytest.raises(trioweb.ConnectionBroken) as caught:
            await ws.receive()
    assert (caught.value.code, caught.value.reason) == (1008, "no such path")
