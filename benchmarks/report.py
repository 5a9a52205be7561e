"""The report of a run, as Markdown and as JSON."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from . import build
from .process import LOAD_CORE, SERVER_CORE
from .results import Results
from .rows import ROWS, SYSTEMS
from .targets import TARGETS

#: What a system's number in a row is shown as; "" for none.
Cell = Callable[[str, str], str]

INTRODUCTION = """\
Compare only within one run, as ratios: such machines are shared and noisy. What each row measures,
and how, is in `benchmarks/README.md`. A number is the median of the rounds
({rounds} of {seconds:g} s; memory has one), and ± is half the distance between their quartiles.
Servers ran on core {server}, the load on core {load}.
"""
RATIOS = """\
trioweb's number divided by the other's, the median of the rounds' ratios. Above 1 trioweb is
faster; in the rows in KiB and ms it is leaner or quicker below 1.
"""
LOADS = "The part of its core that the load used. Near 100 % the load is the limit, not the server."
LATENCY = "Microseconds from handing over a message to the whole echo (handshakes: to the answer)."


def cpu() -> str:
    """Return the processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def machine() -> dict[str, str]:
    """Return what the numbers depend on."""
    return {
        "CPU": cpu(),
        "cores": str(os.cpu_count()),
        "kernel": f"{platform.system()} {platform.release()}",
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "load average before": f"{os.getloadavg()[0]:.2f}",
        "time": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
    }


def version(package: str) -> str:
    """Return the version of a Python distribution or of Node's ws."""
    if package == "ws":
        file = build.BUILD / "node" / "node_modules" / "ws" / "package.json"
        return str(json.loads(file.read_text())["version"]) if file.exists() else "not installed"
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def versions(results: Results) -> dict[str, str]:
    """Return, for every system, what it consists of."""
    listed: dict[str, str] = {}
    for name in results.plan.systems:
        parts = [f"{package} {version(package)}" for package in SYSTEMS[name].packages]
        if name in results.framers:
            parts.append(f"{results.framers[name]} framer")
        listed[name] = ", ".join(parts)
    return listed


def number(value: float | None) -> str:
    """Show a number with about three digits that mean something."""
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:,.3g}"


def table(head: Iterable[str], lines: Iterable[Iterable[str]]) -> str:
    """Lay out a Markdown table; numbers stand on the right."""
    names = list(head)
    rule = ["-", *["-:"] * (len(names) - 1)]
    return "\n".join("| " + " | ".join(line) + " |" for line in (names, rule, *lines))


def grid(systems: list[str], cell: Cell, rows: Iterable[str], *, units: bool = False) -> str:
    """Lay out one line a row and one column a system; rows without any number are left out."""
    lines: list[list[str]] = []
    for row in rows:
        cells = [cell(row, system) for system in systems]
        if any(cells):
            title = ROWS[row].title + (f" ({ROWS[row].unit})" if units else "")
            lines.append([title, *(text or "-" for text in cells)])
    return table(["", *(SYSTEMS[name].title for name in systems)], lines)


def targets(results: Results) -> list[dict[str, Any]]:
    """Return each target that this run could check, with what was measured."""
    found: list[dict[str, Any]] = []
    for target in TARGETS:
        measured = target.measured(results)
        if measured is not None:
            found.append(asdict(target) | {"measured": measured, "met": target.met(measured)})
        elif results.failed.get(target.row, {}).keys() & {"trioweb", target.other}:
            # What failed is not met, and must not vanish.
            found.append(asdict(target) | {"measured": None, "met": False})
    return found


def target_line(target: dict[str, Any]) -> list[str]:
    """Return one line of the table of targets."""
    what = ROWS[target["row"]].title + ("" if target["what"] == "value" else f", {target['what']}")
    if target["other"] is None:
        unit = f" {ROWS[target['row']].unit}"
    elif target["other_row"]:
        unit = f" x {ROWS[target['other_row']].title}"
    else:
        unit = f" x {SYSTEMS[target['other']].title}"
    bound = f"at {'least' if target['least'] else 'most'} {target['bound']:g}{unit}"
    return [what, bound, number(target["measured"]), "met" if target["met"] else "**not met**"]


def markdown(results: Results, facts: dict[str, str]) -> str:
    """Write the whole report."""
    plan = results.plan
    others = [name for name in plan.systems if name != "trioweb"]

    def value(row: str, system: str) -> str:
        if system in results.failed.get(row, {}):
            return "failed"
        spread = results.spread(row, system)
        return number(results.median(row, system)) + (f" ± {spread:.0%}" if spread else "")

    def ratio(row: str, system: str) -> str:
        return number(results.ratio((row, "trioweb"), (row, system)))

    def latency(row: str, system: str) -> str:
        if results.median(row, system, "p50") is None:
            return ""
        return " / ".join(number(results.median(row, system, what)) for what in ("p50", "p99"))

    def share(row: str, system: str) -> str:
        part = results.median(row, system, "load")
        return "" if part is None else f"{part:.0%}"

    parts = [
        "# trioweb beside its peers",
        INTRODUCTION.format(
            rounds=plan.rounds, seconds=plan.seconds, server=SERVER_CORE, load=LOAD_CORE
        ),
        "\n".join(f"- {name}: {fact}" for name, fact in facts.items()),
        "## Results",
        grid(plan.systems, value, plan.rows, units=True),
    ]
    if "trioweb" in plan.systems and others:
        parts += ["## Ratios", RATIOS, grid(others, ratio, plan.rows)]
    if found := targets(results):
        met = sum(target["met"] for target in found)
        parts += [
            f"## Targets: {met} of {len(found)} met",
            table(["row", "wanted", "measured", ""], map(target_line, found)),
        ]
    parts += ["## Latency, p50 / p99", LATENCY, grid(plan.systems, latency, plan.rows)]
    parts += ["## The load", LOADS, grid(plan.systems, share, plan.rows)]
    if reasons := [
        f"- {SYSTEMS[system].title}, {ROWS[row].title}: {reason}"
        for row, systems in results.failed.items()
        for system, reason in systems.items()
    ]:
        parts += ["## Failed", "\n".join(reasons)]
    listed = [f"- {SYSTEMS[name].title}: {text}" for name, text in versions(results).items()]
    parts += ["## Versions", "\n".join(listed)]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def data(results: Results, facts: dict[str, str]) -> dict[str, Any]:
    """Return the report as JSON would have it: all rounds, and what is made of them."""
    rows: dict[str, Any] = {}
    for row in results.plan.rows:
        systems = results.measured.get(row, {})
        rows[row] = {
            "title": ROWS[row].title,
            "unit": ROWS[row].unit,
            "more_is_better": ROWS[row].more,
            "median": {name: results.median(row, name) for name in systems},
            "ratio": {name: results.ratio((row, "trioweb"), (row, name)) for name in systems},
            "rounds": systems,
            "failed": results.failed.get(row, {}),
        }
    return {
        "machine": facts,
        "versions": versions(results),
        "plan": asdict(results.plan),
        "rows": rows,
        "targets": targets(results),
    }


def write(results: Results, facts: dict[str, str], folder: Path) -> list[Path]:
    """Write ``report.md`` and ``report.json`` into a folder; return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    text, numbers = folder / "report.md", folder / "report.json"
    text.write_text(markdown(results, facts))
    numbers.write_text(json.dumps(data(results, facts), indent=2) + "\n")
    return [text, numbers]
