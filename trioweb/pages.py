"""Plain HTTP answers on the WebSocket's port: static files and a health check."""

from __future__ import annotations

import errno
import io
import mimetypes
import os
import re
import stat
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import formatdate
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeAlias

import trio

from .host import current_host
from .types import Content, Headers, Request, Response

__all__ = ["OnRequest", "Site"]

#: Asked before an upgrade and for a plain request. The body of a request is not read for it.
OnRequest: TypeAlias = Callable[[Request], Awaitable[Response | None]]

#: Bytes of a file that one answer holds in memory. 300 clients of one large file cost 10 MiB.
_PIECE = 2**15

#: Threads that read files for one site, so that a slow disk does not use up Trio's own.
_THREADS = 8

#: Seconds for which a change of a file may hide behind the one before it: a system of files
#: counts in ticks, and Last-Modified in seconds.
_UNSETTLED = 2

_ENTITY_TAG = re.compile(r'(?:W/)?("[!#-~\x80-\xff]*")')

#: What opening a path may say that means no more than "not there".
_NOT_THERE = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENXIO}

#: Types that Python learned late or not at all. What the machine has in /etc/mime.types is left
#: out: a site is the same wherever it is served.
_TYPES = {
    ".glb": "model/gltf-binary",
    ".js": "text/javascript",
    ".map": "application/json",
    ".md": "text/markdown",
    ".mjs": "text/javascript",
    ".ogg": "audio/ogg",
    ".otf": "font/otf",
    ".ttf": "font/ttf",
    ".wasm": "application/wasm",
    ".webm": "video/webm",
    ".webmanifest": "application/manifest+json",
    ".webp": "image/webp",
    ".woff": "font/woff",
    ".woff2": "font/woff2",
}


class Site:
    """Answers plain requests; give it to a server as ``on_request``.

    ``files`` maps a path to a file or a directory: ``{"/": Path("static")}`` serves what is below
    ``static``, and ``index.html`` for a directory, to whose slash a request without it is sent.
    Files are read as they are asked for, large ones in pieces. Hidden files, and whatever a path
    or a link leads to outside the directory, are not there. ``health`` is a path that answers
    200; nothing is mounted unless named.

    Files have an ``ETag`` and a ``Last-Modified``, and a client that has the file already gets
    304. Text is declared as UTF-8. Ranges are ignored, which RFC 9110, 14.2 allows.

    Requests for an upgrade, and for a path that is not mounted, are left to the server. A file
    that is there and cannot be read raises `OSError`, which the server answers with 500.
    """

    def __init__(
        self, files: Mapping[str, Path | str] | None = None, *, health: str | None = None
    ) -> None:
        for name in (*(files or {}), health or "/"):
            if not name.startswith("/"):
                raise ValueError(f"path {name!r} must start with /")
        mounts = [_Mount.make(prefix, Path(path)) for prefix, path in (files or {}).items()]
        # The longest prefix first, so that {"/": a, "/img/": b} does what it says.
        self._mounts = sorted(mounts, key=lambda mount: len(mount.prefix), reverse=True)
        self._health = health
        self._threads = trio.CapacityLimiter(_THREADS)

    async def __call__(self, request: Request) -> Response | None:
        """Return the response for a request, or None if it is not ours."""
        if request.upgrade:
            return None
        path = request.path
        is_health = path == self._health
        found = None
        if not is_health:
            # It holds nothing open, so that a slow disk need not hold the server's end up.
            found = await trio.to_thread.run_sync(
                self._find, path, limiter=self._threads, abandon_on_cancel=True
            )
            if found is None:
                return None
        if request.method not in ("GET", "HEAD"):
            return Response.make(405, "only GET and HEAD\n", {"Allow": "GET, HEAD"})
        if found is None:
            return Response.make(200, "ok\n", {"Cache-Control": "no-store"})
        if isinstance(found, _Directory):
            return _with_slash(request)
        return self._answer(request, found)

    def _find(self, path: str) -> _File | _Directory | None:
        for mount in self._mounts:
            with _unless_missing():
                found = mount.find(path)
                if found is not None:
                    return found
        return None

    def _answer(self, request: Request, file: _File) -> Response:
        headers = {"Cache-Control": "no-cache", **_validators(file.version)}
        if _is_known(request.headers, headers):
            return Response(304, Headers(headers))
        headers |= {"Content-Type": _type_of(file.path), "X-Content-Type-Options": "nosniff"}
        if file.data is not None:
            return Response(200, Headers(headers), file.data)
        pieces = partial(_pieces, file, self._threads)
        return Response(200, Headers(headers), content=Content(file.version.size, pieces))


class _Version(NamedTuple):
    """What changes when a file does."""

    device: int
    inode: int
    size: int
    #: The time of the last change of its content, in nanoseconds of the epoch.
    changed: int

    @classmethod
    def of(cls, opened: io.FileIO) -> _Version:
        status = os.fstat(opened.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise FileNotFoundError(errno.ENOENT, "not a regular file")
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


@dataclass(frozen=True, slots=True)
class _File:
    root: Path
    path: Path
    version: _Version
    #: What is in it; None if that is more than a piece.
    data: bytes | None


class _Directory:
    """Stands for one that has an index, and was asked for without the slash at the end."""


@dataclass(frozen=True, slots=True)
class _Mount:
    #: For a directory without the slash at its end.
    prefix: str
    root: Path
    is_directory: bool

    @classmethod
    def make(cls, prefix: str, path: Path) -> _Mount:
        root = path.resolve()
        if not root.exists():
            raise FileNotFoundError(f"nothing to serve at {prefix}: {root} does not exist")
        is_directory = root.is_dir()
        return cls(prefix.rstrip("/") if is_directory else prefix, root, is_directory)

    def find(self, path: str) -> _File | _Directory | None:
        """Look in the file system; raises `OSError`."""
        if not self.is_directory:
            return _read(self.root, self.root) if path == self.prefix else None
        if path != self.prefix and not path.startswith(self.prefix + "/"):
            return None
        names = path.removeprefix(self.prefix).split("/")[1:]
        has_slash = names[-1:] == [""]
        if has_slash:
            names.pop()
        if not all(map(_is_plain, names)):
            return None
        target = self.root.joinpath(*names).resolve()
        is_directory = target.is_dir()
        if is_directory:
            target = (target / "index.html").resolve()
        elif has_slash:
            return None
        if target != self.root and self.root not in target.parents:
            return None
        file = _read(self.root, target)
        return file if has_slash or not is_directory else _Directory()


def _is_plain(name: str) -> bool:
    """Whether a part of a path may be a file's name: not hidden, and the same on every system."""
    return bool(name) and name[0] != "." and "\\" not in name and "\0" not in name


@contextmanager
def _unless_missing() -> Generator[None]:
    """Pass over what a path that leads nowhere raises; a full table of files is our own fault."""
    try:
        yield
    except OSError as error:
        if error.errno not in _NOT_THERE:
            raise
    except RuntimeError:  # a loop of links, in Python 3.11 and 3.12
        pass


def _open(root: Path, path: Path) -> io.FileIO:
    """Open a file at or below a root. The path is resolved: a link in it came later."""
    flags = os.O_CLOEXEC | os.O_NOFOLLOW
    # A directory need not be readable to be passed through, where the system knows of that.
    through = flags | os.O_DIRECTORY | getattr(os, "O_PATH", os.O_RDONLY)
    *directories, name = path.relative_to(root).parts or (path.name,)
    inside = os.open(root if path != root else root.parent, through)
    try:
        for directory in directories:
            outside, inside = inside, os.open(directory, through, dir_fd=inside)
            os.close(outside)
        # Opening a pipe or a device is felt at its other end.
        if not stat.S_ISREG(os.stat(name, dir_fd=inside, follow_symlinks=False).st_mode):
            raise FileNotFoundError(errno.ENOENT, "not a regular file")
        return io.FileIO(os.open(name, flags | os.O_RDONLY | os.O_NONBLOCK, dir_fd=inside))
    finally:
        os.close(inside)


def _read(root: Path, path: Path) -> _File:
    """Read a small file, and of a large one what is to be known before it is sent."""
    with _open(root, path) as opened:
        data = opened.read(_PIECE)
        # After the reading: a change in the midst of it is then a recent one.
        version = _Version.of(opened)
    return _File(root, path, version, data if len(data) == version.size else None)


async def _pieces(file: _File, threads: trio.CapacityLimiter) -> AsyncGenerator[bytes, None]:
    """Read a large file; raises `RuntimeError` if it is no longer the one that was announced."""
    opened = await trio.to_thread.run_sync(_open, file.root, file.path, limiter=threads)
    with opened:
        rest = file.version.size
        if _Version.of(opened) != file.version:
            raise RuntimeError(f"{file.path} changed before it was sent")
        while rest > 0:
            data = await trio.to_thread.run_sync(opened.read, min(rest, _PIECE), limiter=threads)
            rest -= len(data)
            # Before the last piece: without that the client knows that it has not got it all.
            if not data or (rest == 0 and _Version.of(opened) != file.version):
                raise RuntimeError(f"{file.path} changed while it was sent")
            yield data


def _validators(version: _Version) -> dict[str, str]:
    """Return the headers by which a client can ask whether a file has changed (RFC 9110, 8.8).

    The tag is strong, of size and time: reading a file to hash it would cost as much as sending
    it; and of the inode, since a build may give all its files one time. A file that has just
    changed has no tag yet, for the next change could look the same.
    """
    seconds = version.changed / 1e9
    if not 0 <= seconds <= current_host.get().now() - _UNSETTLED:
        return {}
    tag = f'"{version.inode:x}-{version.size:x}-{version.changed:x}"'
    return {"ETag": tag, "Last-Modified": formatdate(int(seconds), usegmt=True)}


def _is_known(asked: Headers, ours: Mapping[str, str]) -> bool:
    """Whether the client has what we would send (RFC 9110, 13.2.2)."""
    if "If-None-Match" in asked:
        value = asked["If-None-Match"].strip()
        return value == "*" or ours.get("ETag") in _ENTITY_TAG.findall(value)
    # Clients send back what they were given; another date costs a transfer, and is never wrong.
    since = asked.get("If-Modified-Since")
    return since is not None and since == ours.get("Last-Modified")


def _with_slash(request: Request) -> Response:
    """Send the client to the directory, so that the links of its index lead where they should.

    The target has passed as a path of plain names: it cannot lead to another host.
    """
    path, mark, query = request.target.partition("?")
    headers = {"Location": f"{path}/{mark}{query}", "Cache-Control": "no-cache"}
    return Response.make(301, "this is a directory\n", headers)


_MIME_TYPES = mimetypes.MimeTypes(filenames=())


def _type_of(path: Path) -> str:
    known = _TYPES.get(path.suffix.lower())
    kind, encoding = (known, None) if known else _MIME_TYPES.guess_type(path.name)
    if encoding is not None or kind is None:  # what is in an archive is not its own type
        return "application/octet-stream"
    return f"{kind}; charset=utf-8" if kind.startswith("text/") or "json" in kind else kind
