"""The JavaScript client: one ES module without dependencies, and the files that it is made of.

What it does stands in :doc:`/reference/toolkit/browser`.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["browser_files"]


def browser_files(prefix: str = "/trioweb/") -> dict[str, Path]:
    """Return what a page imports, as `trioweb.Site` wants it: paths below ``prefix``, and files.

    ``Site({"/": Path("static"), **browser_files()})`` serves a page's own files, and the module
    as ``/trioweb/trioweb.js``, with the modules that it imports and its types beside it.

    Raises `ValueError` for a prefix that does not begin and end with a slash.
    """
    if not (prefix.startswith("/") and prefix.endswith("/")):
        raise ValueError(f"prefix {prefix!r} must begin and end with /")
    folder = Path(__file__).parent
    return {prefix + path.name: path for path in sorted(folder.iterdir()) if _is_served(path)}


def _is_served(path: Path) -> bool:
    return path.name.endswith((".js", ".d.ts"))
