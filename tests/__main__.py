"""The whole suite: ``python -m tests`` runs its parts, two at the same time.

The first part's output is shown as it comes, that of the others once they are over: all of it if
they failed, else the last line. All of it stays in ``artifacts/tests``. What coverage measured
lies in files of its own, which ``coverage combine`` puts together.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
LOGS = ROOT / "artifacts" / "tests"
#: Longest of what hangs; the whole takes a third of it.
MOST_SECONDS = 1800

#: What says the most about a framer, and so runs with the pure one, too.
PURE = (
    *("tests/guarantees", "tests/protocol", "tests/simulation"),
    *("tests/test_bad_input.py", "tests/test_broadcast.py", "tests/test_connection.py"),
    *("tests/test_deflate.py", "tests/test_full.py", "tests/test_streaming.py"),
)
#: What is about the toolkit and what is built on it: a third of the whole.
TOOLKIT = (
    *("tests/toolkit", "tests/browser", "tests/examples"),
    *("tests/adapters", "tests/brokers", "tests/codecs", "tests/stores"),
)
#: What takes long, and longer under coverage, without showing it what nothing else does.
LONG = ("tests/hostile", "tests/simulation", "tests/fuzz", "tests/test_build.py")


@dataclass(frozen=True)
class Part:
    """A part of the suite; ``covered`` if coverage is measured, which is slower by far."""

    name: str
    arguments: Sequence[str]
    pure: bool = False
    covered: bool = True

    @property
    def log(self) -> Path:
        """Where the output goes."""
        return LOGS / f"{self.name}.log"

    def command(self) -> list[str]:
        """Return how it is run."""
        # From the very start, not by pytest-cov: our plug-in imports trioweb before that measures.
        coverage = ["coverage", "run", "--parallel-mode", "-m"] if self.covered else []
        return [sys.executable, "-m", *coverage, "pytest", *self.arguments]

    def environment(self) -> dict[str, str]:
        """Return the variables of its process."""
        return os.environ | {"TRIOWEB_PURE": "1" if self.pure else ""}


#: No two processes may write one cache of pytest: the first has it.
_OTHER = ("-q", "-p", "no:cacheprovider")
#: Both framers side by side, whichever is chosen: once is enough.
_NOT_TWICE = ("--ignore=tests/protocol/test_both_framers.py",)
PARTS = (
    Part("most", [f"--ignore={path}" for path in (*LONG, *TOOLKIT)]),
    Part("toolkit", [*TOOLKIT, "-q", "-o", "cache_dir=.pytest_cache/toolkit"]),
    Part("pure", [*PURE, *_NOT_TWICE, *_OTHER], pure=True),
    Part("hostile", ["tests/hostile", *_OTHER], covered=False),
    Part("long", [*(path for path in LONG if path != "tests/hostile"), *_OTHER], covered=False),
    Part("pure-fuzz", ["tests/fuzz", *_OTHER], pure=True, covered=False),
)


def run(part: Part) -> bool:
    """Run a part; return whether all is well."""
    start = time.monotonic()
    if part is PARTS[0]:
        done = subprocess.run(
            part.command(), env=part.environment(), cwd=ROOT, check=False, timeout=MOST_SECONDS
        )
    else:
        with part.log.open("wb") as log:
            done = subprocess.run(
                part.command(),
                env=part.environment(),
                cwd=ROOT,
                check=False,
                timeout=MOST_SECONDS,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        said = part.log.read_text(errors="replace").strip()
        print("\n" + (said if done.returncode else said.rpartition("\n")[2]), flush=True)
    took = time.monotonic() - start
    verdict = f"failed with {done.returncode}" if done.returncode else "passed"
    print(f"== tests, part {part.name!r}: {verdict} in {took:.0f} s", flush=True)
    return done.returncode == 0


def main() -> int:
    """Run all parts; return the exit status."""
    LOGS.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(max_workers=2) as pool:
        return 0 if all([*pool.map(run, PARTS)]) else 1


if __name__ == "__main__":
    sys.exit(main())
