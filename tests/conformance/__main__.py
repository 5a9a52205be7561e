"""The Autobahn Testsuite against our server and our client, read strictly.

Every case must be OK (INFORMATIONAL in the three where the suite says nothing else), in what was
done and in how it closed. Exit status: 0 all are, 1 one is not, 2 a run did not finish.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import trio

from tests.conformance.report import patterns
from tests.conformance.run import Run, against_client, against_server
from tests.conformance.suite import SuiteUnavailable, ready

ROOT = Path(__file__).parents[2]
SIDES = {"server": against_server, "client": against_client}


def main() -> int:
    """Run as the command line says; return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.conformance", description=__doc__)
    parser.add_argument("--side", choices=[*SIDES, "both"], default="both", help="both by default")
    parser.add_argument("--tls", action="store_true", help="over TLS")
    parser.add_argument(
        "--full", action="store_true", help="all 517 cases, about ten minutes a side"
    )
    parser.add_argument("--cases", help="these instead, such as 6.4.*,7.1.5; * is all")
    parser.add_argument("--exclude", default="", help="but not these, such as 9.*")
    parser.add_argument("--timeout", type=float, default=3600, help="seconds for a side (3600)")
    parser.add_argument(
        "--out",
        type=Path,
        default=ROOT / "artifacts/conformance",
        help="the reports' folder (artifacts/conformance), emptied first in its parts",
    )
    parser.add_argument(
        "--cache",
        type=Path,
        default=ROOT / ".nox/.cache",
        help="where the suite is kept between runs (.nox/.cache)",
    )
    options = parser.parse_args()
    try:
        suite = ready(options.cache)
    except SuiteUnavailable as error:
        print(error)
        return 2
    status = 0
    for side in SIDES if options.side == "both" else (options.side,):
        run = Run(
            f"trioweb-{side}{'-tls' if options.tls else ''}",
            (options.out / f"{side}{'-tls' if options.tls else ''}").resolve(),
            patterns(options.cases, full=options.full),
            exclude=[pattern for pattern in options.exclude.split(",") if pattern],
            tls=options.tls,
            bound=options.timeout,
        )
        report = trio.run(SIDES[side], run, suite.command)
        print(report, *report.details(), f"  report: {run.folder / 'index.html'}", sep="\n")
        status = max(status, report.status)
    return status


if __name__ == "__main__":
    sys.exit(main())
