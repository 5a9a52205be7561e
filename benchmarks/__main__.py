"""``python -m benchmarks``: run rows against systems, print and write the report."""

from __future__ import annotations

import argparse
import sys
from fnmatch import fnmatchcase
from pathlib import Path

from . import build, report
from .plot import draw
from .results import Plan
from .rows import ROWS, SYSTEMS
from .run import run


def chosen(parser: argparse.ArgumentParser, names: dict[str, object], wanted: str) -> list[str]:
    """Return the names that match one of some patterns, comma-separated, in their own order."""
    patterns = wanted.split(",")
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            parser.error(f"nothing matches {pattern}; there are {', '.join(names)}")
    return [name for name in names if any(fnmatchcase(name, one) for one in patterns)]


def main() -> int:
    """Parse the options, run, report."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="trioweb beside its peers, in one run.",
        epilog=f"rows: {', '.join(ROWS)}; systems: {', '.join(SYSTEMS)}",
    )
    parser.add_argument("--rows", default="*", help="patterns, as '64x*,tls' (default: all)")
    parser.add_argument("--systems", default="*", help="patterns, as 'trioweb*,raw' (default: all)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of one turn (default: 2)")
    parser.add_argument("--quick", action="store_true", help="all within two minutes, roughly")
    parser.add_argument("--output", type=Path, default=build.BUILD, metavar="DIR")
    options = parser.parse_args()
    rows = chosen(parser, dict(ROWS), options.rows)
    systems = chosen(parser, dict(SYSTEMS), options.systems)
    if options.quick:
        plan = Plan(rows, systems, rounds=1, seconds=0.2, idle=500, settle=0.2, fresh=False)
    else:
        plan = Plan(rows, systems, options.rounds, options.seconds)
    facts = report.machine()
    try:
        results = run(plan)
    except build.NotBuiltError as error:  # without the load there is nothing to do
        parser.exit(2, f"{error}\n")
    written = [*report.write(results, facts, options.output), draw(results, options.output)]
    print(report.markdown(results, facts))
    print(*(f"written: {path}" for path in written), sep="\n", file=sys.stderr)
    return 1 if any(results.failed.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
