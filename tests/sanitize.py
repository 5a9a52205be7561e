"""Builds the native modules with sanitizers, and runs the tests of what they do.

``python -m tests.sanitize``; arguments go to pytest instead of the tests that are chosen here. A
fault (a byte read or written beyond what was allocated, a shift or a sum beyond its type) ends
the process, and says where. gcc is needed.
"""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
BUILD = ROOT / "build" / "sanitize"
PACKAGE = BUILD / "package"
FLAGS = (
    *("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"),
    *("-fno-omit-frame-pointer", "-O1", "-g"),
)
#: What the native modules take part in, but for what is slow with them and has equals among the
#: rest. Drawn examples are few: the same tests draw more elsewhere.
_LEFT_OUT = (
    *("handshake", "proxy", "proxies", "of_a_head", "line_of", "node", "command", "close_code"),
    *("(test_corpus and deflate)", "(beginning and c1)", "(beginning and 88)"),
    "(every_header and within)",
)
TESTS = (
    *(
        f"tests/protocol/test_{name}.py"
        for name in ("framer", "both_framers", "machine", "encoder")
    ),
    *("tests/test_lanes.py", "tests/test_steps.py", "tests/test_values.py"),
    *(f"tests/fuzz/test_{name}.py" for name in ("streams", "every", "corpus")),
    *("-k", " and ".join(f"not {name}" for name in _LEFT_OUT), "--hypothesis-profile=few"),
)


def pytest_sessionstart() -> None:
    """Look, as a plug-in of pytest, that the build is what the tests import."""
    module = importlib.import_module("trioweb.protocol._framer")
    assert str(module.__file__).startswith(str(PACKAGE)), f"{module.__file__}: not this build"


def build() -> None:
    """Build a whole package, so that it may stand in front of the one that is installed."""
    shutil.rmtree(BUILD, ignore_errors=True)
    BUILD.mkdir(parents=True)
    # Nothing is written outside the folder: others may install the package meanwhile.
    command = [sys.executable, "setup.py", "-q", "egg_info", f"--egg-base={BUILD}"]
    subprocess.run(
        [*command, "build", f"--build-base={BUILD}", f"--build-lib={PACKAGE}"],
        cwd=ROOT,
        env=os.environ | {"TRIOWEB_CFLAGS": " ".join(FLAGS), "CC": "gcc"},
        check=True,
    )


def environment() -> dict[str, str]:
    """Return the variables with which Python uses that package."""
    libraries = [
        subprocess.check_output(["gcc", f"-print-file-name={name}"], text=True).strip()
        for name in ("libasan.so", "libubsan.so")
    ]
    return os.environ | {
        # Python itself was linked without the sanitizers, so they must be there before it.
        "LD_PRELOAD": ":".join(libraries),
        # Python leaves what lives as long as its process to the system; each would be a leak.
        "ASAN_OPTIONS": "detect_leaks=0",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        # Each object in memory of its own: within Python's arenas no overrun could be seen.
        "PYTHONMALLOC": "malloc",
        "PYTHONPATH": f"{PACKAGE}{os.pathsep}{ROOT}",
        "PYTHONSAFEPATH": "1",  # else the tree's own package would come first
        "TRIOWEB_PURE": "",
    }


def main() -> int:
    """Build and run; return the exit status."""
    build()
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    # The process dies of a fault, and what it says then must not stay in pytest's hands.
    command += ["--capture=sys", "-o", "pythonpath=", "-p", "tests.sanitize"]
    command += sys.argv[1:] or TESTS
    return subprocess.run(command, cwd=ROOT, env=environment(), check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
