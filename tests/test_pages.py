"""Pages on the same port: files, what must never be served, a health check."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import AsyncGenerator
from pathlib import Path
from ssl import SSLContext

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

import trioweb
from tests.helpers import (
    Peer,
    asking,
    dialling,
    fetch,
    get,
    port_of,
    serving,
    tasks,
    virtual_clock,
)
from trioweb import Headers, Request, Response, Site, pages
from trioweb.host import current_host
from trioweb.types import Content

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
    ends = os.open(root / "pipe", os.O_RDWR | os.O_NONBLOCK)
    try:
        os.write(ends, b"for somebody else")
        assert await found(Site({"/": root}), "/pipe") is None
        assert os.read(ends, 100) == b"for somebody else"
    finally:
        os.close(ends)


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
    real = os.open

    def forbidding(path: str | Path, *flags: int, dir_fd: int | None = None) -> int:
        if Path(path).name == "app.js":
            raise PermissionError(errno.EACCES, "not for you")
        return real(path, *flags, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", forbidding)
    async with serving(on_request=Site({"/": root})) as server:
        answer = await get(server, "/app.js")
        assert (answer.status, answer.body) == (500, b"internal error\n")
        assert (await get(server, "/")).status == 200


# Directories and their slash.


@pytest.mark.parametrize(
    ("target", "location"),
    [
        ("/sub", "/sub/"),
        ("/sub?a=/b&c", "/sub/?a=/b&c"),
        ("/s%75b", "/s%75b/"),
        ("/with%20space%3F", "/with%20space%3F/"),
    ],
)
async def test_a_directory_without_its_slash_is_a_redirect(root, target, location):
    (root / "with space?").mkdir()
    (root / "with space?" / "index.html").write_text("x")
    response = await asked(Site({"/": root}), target)
    assert response is not None
    assert (response.status, response.headers["Location"]) == (301, location)
    assert await found(Site({"/": root}), location) in (b"sub", b"x")
    below = await asked(Site({"/at/": root}), "/at" + target)
    assert below is not None
    assert below.headers["Location"] == "/at" + location


@pytest.mark.parametrize("prefix", ["/at", "/at/"])
async def test_a_mount_is_a_directory_too(root, prefix):
    site = Site({prefix: root})
    response = await asked(site, "/at")
    assert response is not None
    assert (response.status, response.headers["Location"]) == (301, "/at/")
    assert await found(site, "/at/") == b"<h1>hi</h1>"


async def test_a_redirect_never_leads_to_another_host(root):
    async with serving(on_request=Site({"/": root})) as server:
        for target in ("//sub", "/%2fsub", "/\\sub", "/%5csub", "///sub"):
            answer = await get(server, target)
            assert (answer.status, "location" in answer.headers) == (404, False), target


@pytest.mark.parametrize("target", ["/empty", "/sub/deep"])
async def test_a_directory_without_an_index_is_not_there(root, target):
    assert await asked(Site({"/": root}), target) is None


@pytest.mark.parametrize(
    "target", ["/app.js/", "/sub//", "/sub//deep/x.txt", "//", "/./", "/sub/."]
)
async def test_a_path_is_spelled_in_one_way(root, target):
    assert await asked(Site({"/": root}), target) is None


async def test_a_file_mounted_alone_has_no_slash(root):
    assert await asked(Site({"/script": root / "app.js"}), "/script/") is None
    assert await found(Site({"/": root / "app.js"}), "/") == b"export {}"


# What must not come out.


async def test_the_root_cannot_be_named_by_its_own_path(root):
    site = Site({"/": root})
    for target in (f"/{root}/app.js", f"/%2f{str(root)[1:]}/app.js"):
        assert await asked(site, target) is None, target


PARTS = [
    "..",
    ".",
    "/",
    "\\",
    "%",
    "2e",
    "2f",
    "5c",
    "00",
    "25",
    "c0",
    "af",
    "?",
    "sub",
    "secret.txt",
]


@given(st.lists(st.sampled_from([*PARTS, "static-other", "app.js", ".hidden", ".git", "config"])))
def test_no_spelling_leads_outside(tmp_path_factory, parts):
    folder = tmp_path_factory.getbasetemp() / "spelling"
    root = folder / "static"
    if not root.exists():
        for path in (
            "static-other/secret.txt",
            "secret.txt",
            "static/.hidden",
            "static/.git/config",
        ):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(SECRET)
        for path in ("app.js", "sub/index.html"):
            (root / path).parent.mkdir(exist_ok=True)
            (root / path).write_bytes(b"fine")
    for site in (Site({"/": root}), Site({"/sub": root})):
        response = trio.run(site, Request("/" + "".join(parts), upgrade=False))
        assert response is None or response.body in (b"fine", b"this is a directory\n")


async def test_what_is_encoded_twice_is_decoded_once(root):
    (root / "%2e%2e").mkdir()
    (root / "%2e%2e" / "a.txt").write_text("odd, but inside")
    site = Site({"/": root})
    assert await asked(site, "/%252e%252e/secret.txt") is None
    assert await found(site, "/%252e%252e/a.txt") == b"odd, but inside"
    assert await asked(site, "/%c0%ae%c0%ae/secret.txt") is None


async def test_a_name_means_the_same_on_every_system(root):
    (root / "a\\b.txt").write_text("not a folder here")
    for target in ("/a\\b.txt", "/a%5cb.txt"):
        assert await asked(Site({"/": root}), target) is None


async def test_a_link_may_lead_to_a_hidden_name_inside(root):
    # Kubernetes mounts a directory thus; the link is its owner's word.
    (root / "..data").mkdir()
    (root / "..data" / "config.txt").write_text("mounted")
    (root / "config.txt").symlink_to(root / "..data" / "config.txt")
    assert await found(Site({"/": root}), "/config.txt") == b"mounted"
    assert await asked(Site({"/": root}), "/..data/config.txt") is None


async def test_a_file_that_becomes_a_link_out_is_not_followed(root, monkeypatch):
    # Between the look at the path and its opening.
    real = os.open

    def swapping(path: str | Path, *flags: int, dir_fd: int | None = None) -> int:
        if Path(path).name == "app.js" and not (root / "app.js").is_symlink():
            (root / "app.js").unlink()
            (root / "app.js").symlink_to(root.parent / "secret.txt")
        return real(path, *flags, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", swapping)
    assert await asked(Site({"/": root}), "/app.js") is None


async def test_a_directory_that_becomes_a_link_out_is_not_followed(root, monkeypatch):
    outside = root.parent / "outside"
    outside.mkdir()
    (outside / "x.txt").write_text("secret")
    (root / "sub" / "x.txt").write_text("public")
    real = os.open

    def swapping(path: str | Path, *flags: int, dir_fd: int | None = None) -> int:
        if path == "sub" and not (root / "sub").is_symlink():
            (root / "sub").rename(root / "moved")
            (root / "sub").symlink_to(outside)
        return real(path, *flags, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", swapping)
    assert await asked(Site({"/": root}), "/sub/x.txt") is None
    assert (root / "sub").is_symlink()


async def test_a_new_file_of_the_same_size_and_time_has_another_tag(root):
    site, path = Site({"/": root}), settled(root / "app.js")
    before = (await conditional(site, "/app.js")).headers["ETag"]
    (root / "new").write_bytes(path.read_bytes()[::-1])
    os.utime(root / "new", ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    (root / "new").rename(path)
    assert (await conditional(site, "/app.js")).headers["ETag"] != before


async def test_a_table_of_files_that_is_full_is_not_a_404(root, monkeypatch):
    def full(*_: object) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    site = Site({"/": root})
    monkeypatch.setattr(os, "open", full)
    with pytest.raises(OSError, match="Too many"):
        await asked(site, "/app.js")


# What a client has already.


def settled(path: Path, changed: float = 1e9) -> Path:
    """Make a file old enough for validators."""
    os.utime(path, (changed, changed))
    return path


async def conditional(site: Site, target: str, method: str = "GET", **headers: str) -> Response:
    lines = {name.replace("_", "-"): value for name, value in headers.items()}
    response = await site(Request(target, Headers(lines), method, upgrade=False))
    assert response is not None
    return response


@pytest.fixture
def tag(root: Path) -> str:
    """Return the tag of a file that is old enough to have one."""
    status = settled(root / "app.js").stat()
    return f'"{status.st_ino:x}-9-{status.st_mtime_ns:x}"'


async def test_a_file_has_validators(root, tag):
    headers = (await conditional(Site({"/": root}), "/app.js")).headers
    assert headers["ETag"] == tag
    assert headers["Last-Modified"] == "Sun, 09 Sep 2001 01:46:40 GMT"


@pytest.mark.parametrize(
    "value", ["{}", "W/{}", '"x", {}', '"a,b" ,W/"c",  {} , "d"', "*", " * ", '"",{}']
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_file_that_the_client_has_is_a_304(root, tag, value, method):
    response = await conditional(
        Site({"/": root}), "/app.js", method, If_None_Match=value.format(tag)
    )
    assert (response.status, response.body, response.content) == (304, b"", None)
    assert response.headers["ETag"] == tag
    assert response.headers["Cache-Control"] == "no-cache"
    assert "Content-Type" not in response.headers


@pytest.mark.parametrize(
    "value", ['"x"', "", "x", '"x', "9-{}", 'W/"x"', '"*"', "*, *", '"x", *', "{}x".format('"')]
)
async def test_another_tag_gets_the_file(root, tag, value):
    site = Site({"/": root})
    assert (await conditional(site, "/app.js", If_None_Match=value)).status == 200
    assert (await conditional(site, "/app.js", If_None_Match=tag[:-2] + '"')).status == 200


async def test_the_date_counts_where_there_is_no_tag(root, tag):
    site, date = Site({"/": root}), "Sun, 09 Sep 2001 01:46:40 GMT"
    assert (await conditional(site, "/app.js", If_Modified_Since=date)).status == 304
    both = await conditional(site, "/app.js", If_Modified_Since=date, If_None_Match='"x"')
    assert both.status == 200
    for other in ("Sun, 09 Sep 2001 01:46:39 GMT", "yesterday", "", "9" * 500):
        assert (await conditional(site, "/app.js", If_Modified_Since=other)).status == 200


async def test_a_change_of_the_size_or_of_the_time_is_another_tag(root, tag):
    site = Site({"/": root})
    tags = {tag}
    for text, changed in (("export {} ", 1e9), ("export {}", 1e9 + 0.001), ("EXPORT {}", 1e9 + 1)):
        (root / "app.js").write_text(text)
        settled(root / "app.js", changed)
        response = await conditional(site, "/app.js", If_None_Match=", ".join(tags))
        assert response.status == 200
        tags.add(response.headers["ETag"])
    assert len(tags) == 4


@pytest.mark.parametrize("changed", [0.1, 1.9, -3600])
async def test_a_file_that_has_just_changed_has_no_validators(root, monkeypatch, changed):
    # Its next change could leave size and time as they are.
    now = 1e9
    monkeypatch.setattr(current_host.get(), "now", lambda: now)
    settled(root / "app.js", now - changed)
    site = Site({"/": root})
    for headers in ({}, {"If_None_Match": '"x"'}, {"If_Modified_Since": "x"}):
        response = await conditional(site, "/app.js", **headers)
        assert response.status == 200
        assert "ETag" not in response.headers
        assert "Last-Modified" not in response.headers
    settled(root / "app.js", now - 2.1)
    assert "ETag" in (await conditional(site, "/app.js")).headers


# Large files.

LARGE = 3 * 2**20 + 1


@pytest.fixture
def large(root: Path) -> Path:
    path = root / "large.bin"
    path.write_bytes(random.Random(1).randbytes(LARGE))
    return settled(path)


async def ended(server: trioweb.Server, request: bytes) -> tuple[bytes, bytes]:
    """Return the head and all that comes behind it."""
    async with dialling(server) as peer:
        await peer.send(request)
        return await peer.head(), await peer.rest()


LARGE_REQUEST = b"GET /large.bin HTTP/1.1\r\nHost: localhost\r\n\r\n"


async def test_a_large_file_comes_whole(root, large):
    async with serving(on_request=Site({"/": root})) as server:
        head, body = await ended(server, LARGE_REQUEST)
        assert f"Content-Length: {LARGE}\r\n".encode() in head
        assert body == large.read_bytes()


async def test_a_large_file_comes_whole_over_tls(root, large, server_tls, client_tls):
    async with serving(on_request=Site({"/": root}), ssl_context=server_tls) as server:
        answer = await fetch(server, LARGE_REQUEST, tls=client_tls)
        assert answer.body == large.read_bytes()


async def test_the_head_of_a_large_file_reads_none_of_it(root, large, monkeypatch):
    monkeypatch.setattr(pages, "_pieces", lambda *_: pytest.fail("it is read"))
    async with serving(on_request=Site({"/": root})) as server:
        head, body = await ended(server, LARGE_REQUEST.replace(b"GET", b"HEAD"))
        assert f"Content-Length: {LARGE}\r\n".encode() in head
        assert body == b""


async def test_a_large_file_that_the_client_has_is_a_304(root, large):
    site = Site({"/": root})
    response = await conditional(site, "/large.bin")
    assert response.content is not None
    assert response.body == b""
    tag = response.headers["ETag"]
    assert (await conditional(site, "/large.bin", If_None_Match=tag)).content is None


async def test_no_more_of_a_file_is_read_than_the_client_takes():
    made = 0
    closed = trio.Event()

    async def pieces() -> AsyncGenerator[bytes, None]:
        nonlocal made
        try:
            while True:
                made += 1
                await trio.lowlevel.checkpoint()
                yield bytes(2**16)
        finally:
            closed.set()

    async def on_request(request: Request) -> Response:
        return Response(content=Content(2**40, pieces))

    async with serving(on_request=on_request) as server:
        async with dialling(server) as peer:
            await peer.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await peer.take(2**20)
            await wait_all_tasks_blocked(0.02)
            assert made < 2**10  # 64 MiB, where the kernel's buffers end long before
            peer.reset()
        await closed.wait()


@pytest.mark.parametrize("change", ["longer", "shorter", "empty", "touched", "replaced", "gone"])
async def test_a_file_that_changes_before_it_is_sent_breaks_off(root, large, caplog, change):
    site = Site({"/": root})

    async def on_request(request: Request) -> Response | None:
        response = await site(request)
        match change:
            case "longer":
                with large.open("ab") as file:
                    file.write(b"x")
            case "shorter":
                os.truncate(large, LARGE - 1)
            case "empty":
                os.truncate(large, 0)
            case "touched":
                settled(large, 1e9 + 1)
            case "replaced":
                other = root / "other"
                other.write_bytes(bytes(LARGE))
                settled(other).rename(large)
            case "gone":
                large.unlink()
        return response

    async with serving(on_request=on_request) as server:
        _, body = await ended(server, LARGE_REQUEST)
        assert len(body) < LARGE
        assert "the content of the answer to <Request GET '/large.bin'> failed" in caplog.text


async def test_content_has_the_size_that_it_says(caplog):
    closed: list[str] = []

    def content(size: int, *parts: bytes) -> Content:
        async def pieces() -> AsyncGenerator[bytes, None]:
            try:
                for part in parts:
                    await trio.lowlevel.checkpoint()
                    yield part
            finally:
                closed.append("")

        return Content(size, pieces)

    answers = {
        "/right": content(6, b"abc", b"", b"def"),
        "/more": content(4, b"abc", b"def", b"g"),
        "/less": content(9, b"abc", b"def"),
        "/none": content(0),
    }

    async def on_request(request: Request) -> Response:
        return Response(content=answers[request.path])

    async with serving(on_request=on_request) as server:
        for path, expected in {"/right": "abcdef", "/more": "abcd", "/none": ""}.items():
            assert (await get(server, path)).body.decode() == expected
        assert caplog.text == ""
        request = b"GET /less HTTP/1.1\r\nHost: localhost\r\n\r\n"
        assert (await ended(server, request))[1] == b"abcdef"
        assert "it ended 3 bytes before its size" in caplog.text
    assert len(closed) == 3  # nothing is asked for what is empty


def test_content_is_refused_where_there_can_be_none():
    async def pieces() -> AsyncGenerator[bytes, None]:
        yield b""

    content = Content(1, pieces)
    for status in (204, 205, 304):
        with pytest.raises(ValueError, match=f"status {status}"):
            Response(status, content=content)
    with pytest.raises(ValueError, match="beside a body"):
        Response(body=b"x", content=content)


# The connection.


async def test_every_answer_has_a_date(root, monkeypatch):
    monkeypatch.setattr(current_host.get(), "now", lambda: 784111777)
    async with serving(on_request=Site({"/": root}, health="/health")) as server:
        for target in ("/", "/health", "/sub", "/nothing", "/bad target"):
            assert (await get(server, target)).headers["date"] == "Sun, 06 Nov 1994 08:49:37 GMT"


async def test_health_answers_a_head():
    async with serving(on_request=Site(health="/health")) as server:
        head, body = await ended(server, b"HEAD /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"Content-Length: 3\r\n" in head
        assert body == b""


async def test_http_1_0_is_answered(root):
    async with serving(on_request=Site({"/": root})) as server:
        answer = await fetch(server, b"GET /app.js HTTP/1.0\r\n\r\n")
        assert (answer.status, answer.body) == (200, b"export {}")


async def test_who_waits_for_100_gets_the_answer_at_once(root):
    async with serving(on_request=Site({"/": root})) as server:
        answer = await fetch(
            server,
            b"POST /app.js HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n"
            b"Expect: 100-continue\r\n\r\n",
        )
        assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize("secure", [False, True], ids=["tcp", "tls"])
@pytest.mark.parametrize("framing", [b"Content-Length: 8388608", b"Transfer-Encoding: chunked"])
async def test_a_body_that_nobody_reads_does_not_cost_the_answer(
    root, server_tls, client_tls, secure, framing
):
    """All of it is sent before the first look at the answer; a reset would be an error."""
    async with (
        serving(on_request=Site({"/": root}), ssl_context=server_tls if secure else None) as server,
        dialling(server, tls=client_tls if secure else None) as peer,
    ):
        await peer.send(b"POST /app.js HTTP/1.1\r\nHost: localhost\r\n%b\r\n\r\n" % framing)
        for _ in range(64):
            await peer.send(bytes(2**17))
        assert (await peer.answer()).status == 405
        assert await peer.stream.receive_some() == b""


async def test_an_answer_over_tls_ends_with_a_goodbye(root, server_tls, client_tls):
    async with serving(on_request=Site({"/": root}), ssl_context=server_tls) as server:
        stream = await trio.open_tcp_stream("127.0.0.1", port_of(server))
        # Not as lenient as HTTP's clients are: an end without it would be an error.
        async with trio.SSLStream(stream, client_tls, server_hostname="localhost") as tls:
            peer = Peer(tls)
            await peer.send(b"GET /app.js HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert (await peer.answer()).body == b"export {}"
            assert await tls.receive_some() == b""


class Remembering(trio.abc.Listener[trio.abc.Stream]):
    """A listener for TLS that remembers the sockets below."""

    def __init__(self, listener: trio.SocketListener, context: SSLContext) -> None:
        self.streams: list[trio.SocketStream] = []
        self._listener = listener
        self._context = context

    async def accept(self) -> trio.abc.Stream:
        stream = await self._listener.accept()
        self.streams.append(stream)
        return trio.SSLStream(stream, self._context, server_side=True)

    async def aclose(self) -> None:
        await self._listener.aclose()


async def test_an_answer_over_tls_leaves_no_socket(root, server_tls, client_tls):
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    ours = Remembering(listener, server_tls)
    async with serving(on_request=Site({"/": root}), listeners=[ours], authenticate=None):
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        async with trio.SSLStream(stream, client_tls, server_hostname="localhost") as tls:
            await tls.send_all(b"GET /app.js HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert (await Peer(tls).answer()).status == 200
            await tls.unwrap()  # both goodbyes
            await stream.aclose()
        await wait_all_tasks_blocked(0.02)
        assert [each.socket.fileno() for each in ours.streams] == [-1]


@pytest.fixture
def clock() -> MockClock:
    return virtual_clock()


@pytest.mark.parametrize("secure", [False, True], ids=["tcp", "tls"])
async def test_a_client_that_never_ends_is_left_in_the_end(
    root, clock, server_tls, client_tls, secure
):
    async with serving(
        on_request=Site({"/": root}),
        ssl_context=server_tls if secure else None,
        timeouts=trioweb.Timeouts(close=5),
    ) as server:
        await wait_all_tasks_blocked()
        before = tasks()
        async with dialling(server, tls=client_tls if secure else None) as peer:
            await peer.send(b"GET /app.js HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert (await peer.answer()).status == 200
            start = trio.current_time()
            while tasks() != before:
                await trio.sleep(1)
            assert 4 <= trio.current_time() - start <= 6
