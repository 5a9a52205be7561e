"""What a run came to: the suite's verdicts, read strictly.

A case has two verdicts, on its behaviour and on how it closed. OK is the only good one, and
INFORMATIONAL in the three cases for which the suite has no other. NON-STRICT, UNCLEAN,
UNIMPLEMENTED and a case that is missing are failures like FAILED.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["INFORMATIONAL", "Report", "Verdict", "patterns", "read_verdicts"]

#: Data behind a close frame, and close codes that nobody has defined: the suite only watches.
INFORMATIONAL = frozenset({"7.1.6", "7.13.1", "7.13.2"})

#: All but the compression groups: 301 cases.
PLAIN = tuple(f"{group}.*" for group in (1, 2, 3, 4, 5, 6, 7, 9, 10))
#: Of the 18 cases in each of their parts, three that differ in kind: messages of 16 bytes; of
#: 4 KiB, which is more than the smallest window; of 8 KiB in fragments of 256 bytes.
SAMPLE = tuple(
    f"{group}.{part}.{case}"
    for group, parts in ((12, 5), (13, 7))
    for part in range(1, parts + 1)
    for case in (1, 5, 11)
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the suite says of one case."""

    behaviour: str
    close: str

    def good(self, case: str) -> bool:
        """Whether that is what we demand."""
        allowed = {"OK", "INFORMATIONAL"} if case in INFORMATIONAL else {"OK"}
        return {self.behaviour, self.close} <= allowed


@dataclass(frozen=True, slots=True)
class Report:
    """One side's run."""

    #: Who was tested, such as ``trioweb-server``.
    agent: str
    verdicts: Mapping[str, Verdict]
    #: How many cases there should have been; None if the suite did not get to say it.
    wanted: int | None
    seconds: float
    #: The highest resident memory of the side under test, in bytes; 0 if it was not seen.
    peak: int = 0
    #: What went wrong with the run itself, and so not with a case.
    troubles: Sequence[str] = field(default=())

    @property
    def finished(self) -> bool:
        """Whether every case was run, so that the report is whole."""
        return bool(self.verdicts) and len(self.verdicts) == self.wanted and not self.troubles

    @property
    def bad(self) -> list[str]:
        """The cases that are not what we demand, in order."""
        return sorted(
            (case for case, verdict in self.verdicts.items() if not verdict.good(case)), key=_order
        )

    @property
    def status(self) -> int:
        """The exit status: 0 all good, 1 a bad case, 2 not finished."""
        return 2 if not self.finished else 1 if self.bad else 0

    def __str__(self) -> str:
        counts = Counter(verdict.behaviour for verdict in self.verdicts.values())
        tally = " ".join(f"{behaviour}={n}" for behaviour, n in counts.most_common())
        unclean = Counter(
            verdict.close for case, verdict in self.verdicts.items() if not self._closed(case)
        )
        closes = " ".join(f"{close}={n}" for close, n in unclean.most_common())
        count = f"{self.agent}: {len(self.verdicts)}/{self.wanted or '?'} cases"
        parts = [f"{count} in {self.seconds:.1f} s{'' if self.finished else ', NOT FINISHED'}"]
        if tally:
            parts += [tally, f"closes {closes}" if closes else "every close clean"]
        if self.peak:
            parts.append(f"peak {self.peak / 2**20:.0f} MiB")
        return " | ".join(parts)

    def _closed(self, case: str) -> bool:
        return Verdict("OK", self.verdicts[case].close).good(case)

    def details(self) -> list[str]:
        """Return a line for each case or trouble that is not as it should be."""
        lines = [f"  {trouble}" for trouble in self.troubles]
        for case in self.bad:
            verdict = self.verdicts[case]
            lines.append(f"  {case}: behaviour {verdict.behaviour}, close {verdict.close}")
        return lines


def patterns(chosen: str | None, *, full: bool) -> list[str]:
    """Return the suite's patterns of the cases to run: those chosen, all, or the usual ones."""
    if chosen:
        return chosen.split(",")
    return ["*"] if full else [*PLAIN, *SAMPLE]


def read_verdicts(folder: Path, agent: str) -> dict[str, Verdict]:
    """Return the verdict on each case, as the suite left it in a folder; none if there is none."""
    index = folder / "index.json"
    if not index.is_file():
        return {}
    cases = json.loads(index.read_text()).get(agent, {})
    return {
        case: Verdict(found["behavior"], found["behaviorClose"])
        for case, found in sorted(cases.items(), key=lambda item: _order(item[0]))
    }


def _order(case: str) -> list[int]:
    return [int(part) for part in case.split(".")]
