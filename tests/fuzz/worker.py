"""One process of libFuzzer: ``python -m tests.fuzz.worker TARGET [libFuzzer's arguments]``.

Only this module knows atheris, by name alone: linters and tests do without it. What is imported
below is instrumented: the code under test, and the reference, whose branches are the cases of the
standards.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

INSTRUMENTED = ["trioweb", "wsproto", "h11", "tests.fuzz.reference", "tests.fuzz.inflating"]


def main() -> None:
    """Fuzz until libFuzzer ends the process."""
    name, *arguments = sys.argv[1:]
    atheris: Any = importlib.import_module("atheris")
    with atheris.instrument_imports(include=INSTRUMENTED):
        targets = importlib.import_module("tests.fuzz.targets")
    # libFuzzer starts itself again to merge: its own name is a command.
    command = f"{sys.executable} -m tests.fuzz.worker {name}"
    atheris.Setup([command, *arguments], targets.TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
