"""Plain HTTP answers on the WebSocket's port: static files and a health check."""

from __future__ import annotations

import mimetypes
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import TypeAlias

import trio

from .types import Headers, Request, Response

__all__ = ["OnRequest", "Site"]

OnRequest: TypeAlias = Callable[[Request], Awaitable[Response | None]]


class Site:
    """Answers plain requests; give it to a server as ``on_request``.

    ``files`` maps a path to a file or a directory: ``{"/": Path("static")}`` serves what is below
    ``static``, and its ``index.html`` at ``/``. Files are read as they are asked for. Hidden
    files, and whatever a path or a link leads to outside the directory, are not there.
    ``health`` is a path that answers 200; nothing is mounted unless named.

    Requests for an upgrade, and for a path that is not mounted, are left to the server.
    """

    def __init__(
        self, files: Mapping[str, Path | str] | None = None, *, health: str | None = None
    ) -> None:
        # The longest prefix first, so that {"/": a, "/img/": b} does what it says.
        mounts = sorted((files or {}).items(), key=lambda mount: len(mount[0]), reverse=True)
        self._mounts = [(prefix, Path(path).resolve()) for prefix, path in mounts]
        self._health = health
        for name in (*(files or {}), health or "/"):
            if not name.startswith("/"):
                raise ValueError(f"path {name!r} must start with /")
        for prefix, path in self._mounts:
            if not path.exists():
                raise FileNotFoundError(f"nothing to serve at {prefix}: {path} does not exist")

    async def __call__(self, request: Request) -> Response | None:
        """Return the response for a request, or None if it is not ours."""
        if request.upgrade:
            return None
        is_health = request.path == self._health
        file = None if is_health else await self._find(request.path)
        if not is_health and file is None:
            return None
        if request.method not in ("GET", "HEAD"):
            headers = [("Allow", "GET, HEAD"), ("Content-Type", "text/plain; charset=utf-8")]
            return Response(405, Headers(headers), b"only GET and HEAD\n")
        if file is None:
            return Response.make(200, "ok\n", {"Cache-Control": "no-store"})
        return Response.make(
            200,
            await trio.Path(file).read_bytes(),
            {"Cache-Control": "no-cache", "X-Content-Type-Options": "nosniff"},
            content_type=_type_of(file),
        )

    async def _find(self, path: str) -> Path | None:
        for prefix, root in self._mounts:
            if path == prefix:
                return await trio.to_thread.run_sync(_existing, root, "")
            base = prefix if prefix.endswith("/") else prefix + "/"
            if path.startswith(base):
                found = await trio.to_thread.run_sync(_existing, root, path[len(base) :])
                if found is not None:
                    return found
        return None


def _existing(root: Path, rest: str) -> Path | None:
    parts = rest.split("/") if rest else []
    if "\0" in rest or "\\" in rest or any(part.startswith(".") for part in parts):
        return None
    try:
        path = (root / rest).resolve()
        if path.is_dir():
            path = (path / "index.html").resolve()
        inside = path == root or root in path.parents
        return path if inside and path.is_file() else None
    except (OSError, RuntimeError):  # a name that is too long, a loop of links
        return None


def _type_of(path: Path) -> str:
    kind, encoding = mimetypes.guess_type(path.name)
    if encoding is not None or kind is None:  # what is in an archive is not its own type
        return "application/octet-stream"
    if kind.startswith("text/") or kind in ("application/javascript", "application/json"):
        return f"{kind}; charset=utf-8"
    return kind
