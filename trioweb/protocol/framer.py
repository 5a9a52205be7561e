"""Which framer decodes and encodes data frames: the native one where it is built, else wsproto's.

``TRIOWEB_PURE=1`` in the environment forces wsproto's. Both give the same results byte for byte.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Literal

from . import pure

__all__ = ["Framer", "frame", "framer", "mask"]


def _native_is_there() -> bool:
    if os.environ.get("TRIOWEB_PURE", "") not in ("", "0"):
        return False
    try:
        from . import _framer
    except ImportError:
        return False
    return bool(_framer)


_is_native = _native_is_there()
if TYPE_CHECKING or not _is_native:
    Framer, frame, mask = pure.Framer, pure.frame, pure.mask
else:
    from ._framer import Framer, frame, mask


def framer() -> Literal["native", "pure"]:
    """Tell which framer runs: ``native``, the compiled one, or ``pure``, wsproto's.

    The pure one is slower by a multiple. It runs where the package was installed without a C
    compiler, and where ``TRIOWEB_PURE=1`` asks for it.
    """
    return "native" if _is_native else "pure"
