"""The native modules, which are optional: without a C compiler the package works without them.

setuptools hands a .pyx to Cython by itself. What Cython writes goes to the build folder.
"""

from __future__ import annotations

import os
from pathlib import Path

from setuptools import Extension, setup

#: Nothing here may depend on the processor of the machine that builds: wheels travel. The
#: variable is for builds that look for faults (``nox -s sanitize``).
_FLAGS = os.environ.get("TRIOWEB_CFLAGS", "-O3").split()
#: As when it runs: who asks for the pure modules need not wait for the others.
_PURE = os.environ.get("TRIOWEB_PURE", "") not in ("", "0")

setup(
    ext_modules=[
        Extension(
            ".".join(path.with_suffix("").parts),
            [str(path)],
            extra_compile_args=_FLAGS,
            extra_link_args=[flag for flag in _FLAGS if flag.startswith("-fsanitize")],
            optional=True,
        )
        for path in sorted(Path("trioweb").rglob("*.pyx"))
        if not _PURE
    ],
    options={"build_ext": {"cython_c_in_temp": "1"}},
)
