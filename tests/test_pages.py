"""Pages on the same port: files, what must never be served, a health check."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trio

import trioweb
from tests.helpers import asking, fetch, get, serving
from trioweb import Request, Response, Site

SECRET = b"the secret"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a directory to serve, with a secret beside it that must not come out."""
    (tmp_path / "secret.txt").write_bytes(SECRET)
    (tmp_path / "static-other").mkdir()
    (tmp_path / "static-other" / "secret.txt").write_bytes(SECRET)
    root = tmp_path / "static"
    (root / "sub" / "deep").mkdir(parents=True)
    (root / "empty").mkdir()
    (root / "index.html").write_text("<h1>hi</h1>")
    (root / "app.js").write_text("export {}")
    (root / "data.json").write_text("{}")
    (root / "style.css").write_text("a{}")
    (root / "logo.png").write_bytes(b"\x89PNG")
    (root / "noextension").write_bytes(b"\x00\x01")
    (root / "pages.tar.gz").write_bytes(b"\x1f\x8b")
    (root / "a file, ümlaut.txt").write_text("ü")
    (root / "sub" / "index.html").write_text("sub")
    (root / "sub" / "deep" / "x.txt").write_text("deep")
    (root / ".hidden").write_bytes(SECRET)
    (root / ".git").mkdir()
    (root / ".git" / "config").write_bytes(SECRET)
    return root


async def asked(site: Site, target: str, method: str = "GET") -> Response | None:
    return await site(Request(target, method=method, upgrade=False))


async def found(site: Site, target: str) -> bytes | None:
    response = await asked(site, target)
    assert response is None or response.status == 200
    return None if response is None else response.body


async def kind_of(site: Site, target: str) -> str:
    response = await asked(site, target)
    assert response is not None
    (kind,) = response.headers.get_all("Content-Type")
    return kind


async def test_a_directory_is_served_with_its_index(root):
    site = Site({"/": root})
    assert await found(site, "/") == b"<h1>hi</h1>"
    assert await found(site, "/index.html") == b"<h1>hi</h1>"
    assert await found(site, "/sub/") == b"sub"
    assert await found(site, "/sub/deep/x.txt") == b"deep"
    assert await found(site, "/a%20file%2C%20%C3%BCmlaut.txt") == "ü".encode()
    assert await found(site, "/app.js?version=3") == b"export {}"


@pytest.mark.parametrize("target", ["/nothing", "/empty/", "/sub/deep/", "/sub/nothing", "*"])
async def test_what_is_not_there_is_left_to_the_server(root, target):
    assert await asked(Site({"/": root}), target) is None


async def test_content_types(root):
    site = Site({"/": root})
    assert await kind_of(site, "/") == "text/html; charset=utf-8"
    assert await kind_of(site, "/app.js") in (
        "text/javascript; charset=utf-8",
        "application/javascript; charset=utf-8",
    )
    assert await kind_of(site, "/data.json") == "application/json; charset=utf-8"
    assert await kind_of(site, "/style.css") == "text/css; charset=utf-8"
    assert await kind_of(site, "/logo.png") == "image/png"
    assert await kind_of(site, "/noextension") == "application/octet-stream"


async def test_a_compressed_file_is_not_sent_as_what_is_in_it(root):
    # mimetypes calls it a tar file *in the encoding gzip*: without that header it is not one.
    assert await kind_of(Site({"/": root}), "/pages.tar.gz") not in (
        "application/x-tar",
        "application/x-tar; charset=utf-8",
    )


async def test_browsers_must_ask_again_and_not_guess(root):
    response = await asked(Site({"/": root}), "/")
    assert response is not None
    assert response.headers["Cache-Control"] == "no-cache"
    assert response.headers["X-Content-Type-Options"] == "nosniff"


async def test_files_are_read_as_they_are_asked_for(root):
    site = Site({"/": root})
    (root / "app.js").write_text("changed")
    assert await found(site, "/app.js") == b"changed"
    (root / "app.js").unlink()
    assert await found(site, "/app.js") is None


TRAVERSALS = [
    "/../secret.txt",
    "/sub/../../secret.txt",
    "/./../secret.txt",
    "/%2e%2e/secret.txt",
    "/%2E%2E%2Fsecret.txt",
    "/..%2fsecret.txt",
    "/sub/..%2f..%2fsecret.txt",
    "/..%5csecret.txt",
    "/..\\secret.txt",
    "/sub\\..\\..\\secret.txt",
    "//secret.txt",
    "/%2fetc/passwd",
    "//etc/passwd",
    "/../static-other/secret.txt",
    "/..-other/secret.txt",
    "/.hidden",
    "/%2ehidden",
    "/.git/config",
    "/sub/../.hidden",
    "/app.js%00",
    "/%00",
    "/app.js%00.png",
    "/" + "x" * 5000,
    "/" + "x/" * 3000,
]


@pytest.mark.parametrize("target", TRAVERSALS, ids=lambda target: target[:30])
async def test_nothing_outside_or_hidden_is_served(root, target):
    assert await found(Site({"/": root}), target) is None
    assert await found(Site({"/files": root}), "/files" + target) is None


async def test_no_traversal_over_a_real_connection_either(root):
    async with serving(on_request=Site({"/": root})) as server:
        assert (await get(server, "/app.js")).status == 200
        for target in TRAVERSALS:
            if " " not in target:
                answer = await get(server, target)
                assert answer.status == 404, target
                assert SECRET not in answer.body


async def test_links_out_of_the_directory_are_not_followed(root):
    (root / "link.txt").symlink_to(root.parent / "secret.txt")
    (root / "dir").symlink_to(root.parent)
    (root / "other").symlink_to(root.parent / "static-other")
    (root / "loop").symlink_to(root / "loop")
    (root / "nowhere").symlink_to(root / "missing")
    (root / "sub" / "index.html").unlink()
    (root / "sub" / "index.html").symlink_to(root.parent / "secret.txt")
    site = Site({"/": root})
    for target in (
        "/link.txt",
        "/dir/secret.txt",
        "/other/secret.txt",
        "/loop",
        "/nowhere",
        "/sub/",
    ):
        assert await found(site, target) is None, target


async def test_links_within_the_directory_are_followed(root):
    (root / "alias.js").symlink_to(root / "app.js")
    (root / "inner").symlink_to(root / "sub")
    site = Site({"/": root})
    assert await found(site, "/alias.js") == b"export {}"
    assert await found(site, "/inner/deep/x.txt") == b"deep"


async def test_a_directory_that_is_itself_behind_a_link_is_served(root):
    (root.parent / "current").symlink_to(root)
    site = Site({"/": root.parent / "current"})
    assert await found(site, "/app.js") == b"export {}"
    assert await found(site, "/../secret.txt") is None


async def test_special_files_are_not_served(root):
    os.mkfifo(root / "pipe")
    assert await found(Site({"/": root}), "/pipe") is None


async def test_a_file_may_be_mounted_alone(root):
    site = Site({"/script": root / "app.js"})
    assert await found(site, "/script") == b"export {}"
    assert await found(site, "/script/x") is None
    assert await found(site, "/script/../index.html") is None
    assert await found(site, "/app.js") is None


async def test_the_longest_mount_comes_first_and_falls_back(root):
    other = root.parent / "other"
    other.mkdir()
    (other / "x.txt").write_text("other")
    (root / "sub" / "x.txt").write_text("hidden by the longer mount")
    for files in ({"/": root, "/sub/": other}, {"/sub/": other, "/": root}):
        site = Site(files)
        assert await found(site, "/sub/x.txt") == b"other"
        assert await found(site, "/sub/deep/x.txt") == b"deep"
        assert await found(site, "/app.js") == b"export {}"
        assert await found(site, "/subx.txt") is None


async def test_a_path_may_be_a_string(root):
    assert await found(Site({"/": str(root)}), "/app.js") == b"export {}"


def test_what_does_not_exist_cannot_be_mounted(root):
    with pytest.raises(FileNotFoundError, match="nothing to serve at /x"):
        Site({"/x": root / "missing"})


def test_a_mount_must_start_with_a_slash(root):
    with pytest.raises(ValueError, match="'static' must start with /"):
        Site({"static": root})
    with pytest.raises(ValueError, match="'health' must start with /"):
        Site(health="health")


async def test_only_get_and_head_are_answered(root):
    site = Site({"/": root}, health="/health")
    for target in ("/app.js", "/health"):
        response = await asked(site, target, "HEAD")
        assert response is not None
        assert response.status == 200
        for method in ("POST", "PUT", "DELETE", "OPTIONS"):
            response = await asked(site, target, method)
            assert response is not None
            assert (response.status, response.headers["Allow"]) == (405, "GET, HEAD")
    assert await asked(site, "/nothing", "POST") is None


async def test_health_is_there_only_where_it_is_mounted(root):
    site = Site(health="/healthy")
    response = await asked(site, "/healthy")
    assert response is not None
    assert (response.status, response.body) == (200, b"ok\n")
    assert response.headers["Cache-Control"] == "no-store"
    assert await asked(site, "/health") is None
    for empty in (Site(), Site({"/": root})):
        for target in ("/health", "/metrics", "/healthy"):
            assert await asked(empty, target) is None


async def test_health_comes_before_a_file_of_its_name(root):
    (root / "health").write_text("a file")
    assert await found(Site({"/": root}, health="/health"), "/health") == b"ok\n"


async def test_a_server_has_pages_and_connections_on_one_port(root):
    async with serving(on_request=Site({"/": root}, health="/health")) as server:
        answer = await get(server, "/")
        assert (answer.status, answer.body) == (200, b"<h1>hi</h1>")
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        assert answer.headers["content-length"] == "11"
        assert (await get(server, "/health")).body == b"ok\n"
        assert (await get(server, "/missing")).status == 404
        answer = await get(server, "/app.js", "DELETE")
        assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")
        # The path of a page may also be the path of a WebSocket.
        async with trioweb.connect(server.url + "/") as ws:
            await ws.send("x")
            assert await ws.receive() == "x"


async def test_a_malformed_upgrade_is_refused_and_not_served_as_a_page(root):
    async with serving(on_request=Site({"/": root})) as server:
        answer = await fetch(server, asking("/", {"Sec-WebSocket-Version": "12"}))
        assert (answer.status, answer.headers["sec-websocket-version"]) == (426, "13")


async def test_a_file_that_cannot_be_read_is_500_and_the_server_goes_on(root, monkeypatch):
    real = trio.Path.read_bytes

    async def read_bytes(path: trio.Path) -> bytes:
        if path.name == "app.js":
            raise PermissionError("not for you")
        return await real(path)

    monkeypatch.setattr(trio.Path, "read_bytes", read_bytes)
    async with serving(on_request=Site({"/": root})) as server:
        answer = await get(server, "/app.js")
        assert (answer.status, answer.body) == (500, b"internal error\n")
        assert (await get(server, "/")).status == 200
