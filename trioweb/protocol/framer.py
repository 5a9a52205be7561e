"""Which framer decodes and encodes data frames: the native one where it is built, else wsproto's.

``TRIOWEB_PURE=1`` in the environment forces wsproto's. Both give the same results byte for byte.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Literal

__all__ = ["Framer", "cut", "frame", "framer", "mask"]


def _is_native() -> bool:
    if os.environ.get("TRIOWEB_PURE", "") not in ("", "0"):
        return False
    try:
        # Only to see whether they can be imported.
        from . import _frame, _framer  # noqa: F401  # pyright: ignore[reportUnusedImport]
    except ImportError:
        return False
    return True


_NATIVE = _is_native()
if TYPE_CHECKING or not _NATIVE:
    from .frames import cut, frame, mask
    from .pure import Framer
else:
    from ._frame import cut, frame, mask
    from ._framer import Framer


def framer() -> Literal["native", "pure"]:
    """Tell which framer runs: ``native``, the compiled one, or ``pure``, wsproto's.

    The pure one is slower by a multiple. It runs where the package was installed without a C
    compiler, and where ``TRIOWEB_PURE=1`` asks for it.
    """
    return "native" if _NATIVE else "pure"
