"""A picture of a run: for each row, every system's number as a bar, in plain SVG."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from pathlib import Path

from .results import Results
from .rows import ROWS, SYSTEMS

COLUMNS = 3
#: Pixels. A panel is one row of the report; its bars begin behind the names of the systems.
PANEL, NAMES, LONGEST, BAR, GAP, HEAD = 420, 140, 190, 13, 5, 44
COLOURS = {"trioweb": "#0b7285", "trioweb-pure": "#66b8c7"}
OTHERS = "#b4b9be"
NAMESPACE = "http://www.w3.org/2000/svg"
STYLE = "text{font:12px sans-serif;fill:#212529}.title{font-weight:bold}.small{fill:#5c636a}"


def text(x: float, y: float, words: str, style: str = "", anchor: str = "start") -> str:
    """Return a line of text."""
    return (
        f'<text x="{x:g}" y="{y:g}" class="{style}" text-anchor="{anchor}">{escape(words)}</text>'
    )


def shown(value: float) -> str:
    """Return a number as it stands behind its bar."""
    return f"{value:,.0f}" if value >= 100 else f"{value:,.3g}"


def panel(results: Results, row: str) -> Iterator[str]:
    """Draw one row; each has a scale of its own, for their units have nothing in common."""
    what = ROWS[row]
    better = "more" if what.more else "less"
    yield text(0, 14, what.title, "title")
    yield text(0, 30, f"{what.unit}, {better} is better", "small")
    medians = {name: results.median(row, name) for name in results.plan.systems}
    longest = max((value for value in medians.values() if value), default=1.0)
    for at, (name, value) in enumerate(medians.items()):
        y = HEAD + at * (BAR + GAP)
        yield text(NAMES - 6, y + BAR - 2, SYSTEMS[name].title, anchor="end")
        if value is None:
            why = "failed" if name in results.failed.get(row, {}) else "-"
            yield text(NAMES, y + BAR - 2, why, "small")
            continue
        width = max(LONGEST * value / longest, 1.0)
        colour = COLOURS.get(name, OTHERS)
        yield f'<rect x="{NAMES}" y="{y}" width="{width:.1f}" height="{BAR}" fill="{colour}"/>'
        yield text(NAMES + width + 5, y + BAR - 2, shown(value))


def draw(results: Results, folder: Path) -> Path:
    """Write ``report.svg`` into a folder that is there; return its path."""
    height = HEAD + len(results.plan.systems) * (BAR + GAP) + 24
    rows = [row for row in results.plan.rows if results.measured.get(row)]
    lines = -(-len(rows) // COLUMNS)
    parts = [
        f'<svg xmlns="{NAMESPACE}" width="{COLUMNS * PANEL + 40}" height="{lines * height + 40}">',
        f'<style>{STYLE}</style><rect width="100%" height="100%" fill="white"/>',
    ]
    for at, row in enumerate(rows):
        x, y = 20 + at % COLUMNS * PANEL, 20 + at // COLUMNS * height
        parts += [f'<g transform="translate({x} {y})">', *panel(results, row), "</g>"]
    picture = folder / "report.svg"
    picture.write_text("\n".join([*parts, "</svg>"]) + "\n")
    return picture
