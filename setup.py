"""The native framer, which is optional: without a C compiler the package works without it."""

from __future__ import annotations

from Cython.Build import cythonize
from setuptools import Extension, setup

NATIVE = Extension(
    "trioweb.protocol._framer",
    ["trioweb/protocol/_framer.pyx"],
    extra_compile_args=["-O3"],
    optional=True,
)

setup(ext_modules=cythonize([NATIVE], build_dir="build"))
