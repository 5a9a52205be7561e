"""What trioweb is to reach, as ratios within one run. A report, not an assertion."""

from __future__ import annotations

from dataclasses import dataclass

from .results import Results


@dataclass(frozen=True)
class Target:
    """A bound on one number of trioweb's, mostly as a multiple of another system's."""

    row: str
    bound: float
    #: The system to compare with; None: the bound is one of the value itself.
    other: str | None = None
    #: The row of that system, if it is another.
    other_row: str | None = None
    #: "value", or "p50" or "p99" for the latency.
    what: str = "value"
    #: Whether the number must be at least the bound, or at most.
    least: bool = True

    def measured(self, results: Results) -> float | None:
        """Return the number, or None if this run has not measured it."""
        if self.other is None:
            return results.median(self.row, "trioweb", self.what)
        return results.ratio(
            (self.row, "trioweb"), (self.other_row or self.row, self.other), self.what
        )

    def met(self, measured: float) -> bool:
        """Whether a number is good enough."""
        return measured >= self.bound if self.least else measured <= self.bound


def _both(shape: str, bounds: dict[str, float]) -> list[Target]:
    return [
        Target(f"{shape}-{what}", bound, other)
        for other, bound in bounds.items()
        for what in ("text", "binary")
    ]


TARGETS: list[Target] = [
    *_both("64x16-32", {"aiohttp": 5, "picows": 3.5, "websockets.trio": 25}),
    *_both("64x1-32", {"raw": 1.3, "aiohttp": 1, "websockets.trio": 3.5, "trio-websocket": 6}),
    Target("1000x1-32-text", 1.2, "aiohttp"),
    *(
        Target(f"1x1-32-{what}", bound, other, what="p50", least=False)
        for other, bound in (("raw", 1.0), ("websockets", 0.75))
        for what in ("text", "binary")
    ),
    *_both("4x4-64k", {"aiohttp": 1}),
    *_both("2x2-1m", {"aiohttp": 1}),
    *_both("8x16-1k", {"aiohttp": 4}),
    Target("broadcast-1", 1.5, "websockets"),
    Target("broadcast-10", 4, "websockets"),
    *(Target(row, 0.5, "trioweb", other_row="json") for row in ("typed", "typed-limited")),
    *(Target(f"room-{n}", 0.9, "trioweb", other_row=f"broadcast-{n}") for n in (1, 10)),
    Target("room-stalled", 1.2, "trioweb", other_row="room-calm", what="p99", least=False),
    Target("idle", 14, least=False),
    Target("idle", 0.75, "trio-websocket", least=False),
    Target("idle-deflate", 1.3, "trioweb", other_row="idle", least=False),
    Target("idle-used", 1.3, "trioweb", other_row="idle", least=False),
    Target("handshakes", 1.5, "trio-websocket"),
]
