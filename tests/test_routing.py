"""Routing: a path to its handler, and 404 before the upgrade."""

from __future__ import annotations

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
