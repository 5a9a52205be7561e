"""Echoes per second of trioweb and its peers: ``python -m benchmarks.echo``.

Each server has a process pinned to core 0, the load one pinned to core 1. Servers take turns
within each round, so a change in the machine's mood meets all of them; the table has medians.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.servers import SERVERS, running, title

#: Connections, messages in flight on each, bytes in a message.
Row = tuple[int, int, int]
ROWS: list[Row] = [(64, 1, 32), (1, 1, 32), (64, 16, 32), (8, 16, 1024), (4, 4, 65536)]


def parse_row(text: str) -> Row:
    """Read a row such as ``64x1x32``."""
    connections, window, size = map(int, text.split("x"))
    return connections, window, size


def label(row: Row) -> str:
    """Return a row's name, such as ``64 x 1, 32 B``."""
    connections, window, size = row
    return f"{connections} x {window}, {f'{size // 1024} KiB' if size >= 1024 else f'{size} B'}"


def load(port: int, row: Row, seconds: float) -> dict[str, float]:
    """Run the load in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.load", *map(str, (port, *row, seconds))]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, check=True, timeout=seconds * 3 + 30
    )
    measured: dict[str, float] = json.loads(done.stdout)
    return measured


def compare(names: list[str], rows: list[Row], rounds: int, seconds: float) -> list[dict[str, Any]]:
    """Measure every row for every server, in interleaved rounds."""
    report: list[dict[str, Any]] = []
    with ExitStack() as stack:
        ports = {name: stack.enter_context(running(name))[1] for name in names}
        for row in rows:
            runs: dict[str, list[dict[str, float]]] = {name: [] for name in names}
            for number in range(rounds):
                for name in names[number % len(names) :] + names[: number % len(names)]:
                    runs[name].append(load(ports[name], row, seconds))
            rates = {name: [run["rate"] for run in runs[name]] for name in names}
            loads = {name: statistics.median(run["load"] for run in runs[name]) for name in names}
            report.append({"row": label(row), "rates": rates, "load": loads})
            print(".", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return report


def table(names: list[str], report: list[dict[str, Any]]) -> str:
    """Return the report as Markdown: medians of echoes/s, and the first server's ratios."""
    first, *others = names
    heads = [title(name) for name in names] + [f"{first} / {name}" for name in others]
    lines = [
        f"| echoes/s | {' | '.join(heads)} | load's own CPU |",
        "|-" * (len(heads) + 2) + "|",
    ]
    for entry in report:
        medians = {name: statistics.median(entry["rates"][name]) for name in names}
        cells = [f"{medians[name]:,.0f}" for name in names]
        cells += [f"{medians[first] / medians[name]:.2f}" for name in others]
        cells.append(f"{min(entry['load'].values()):.0%} to {max(entry['load'].values()):.0%}")
        lines.append(f"| {entry['row']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Parse the options, measure, print."""
    parser = argparse.ArgumentParser(description="Echoes per second, side by side.")
    parser.add_argument("servers", nargs="*", default=list(SERVERS), help=", ".join(SERVERS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="for one server in one round")
    parser.add_argument("--quick", action="store_true", help="three rounds of half a second")
    parser.add_argument(
        "--row", type=parse_row, action="append", metavar="64x1x32", help="only this; may repeat"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="every single rate, too")
    options = parser.parse_args()
    if unknown := set(options.servers) - set(SERVERS):
        parser.error(f"no such server: {', '.join(unknown)}")
    rounds, seconds = (3, 0.5) if options.quick else (options.rounds, options.seconds)
    report = compare(options.servers, options.row or ROWS, rounds, seconds)
    print(f"{platform.python_implementation()} {platform.python_version()}, medians of {rounds}:\n")
    print(table(options.servers, report))
    if options.json:
        versions = {name: title(name) for name in options.servers}
        content = {"python": platform.python_version(), "versions": versions, "rows": report}
        options.json.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
