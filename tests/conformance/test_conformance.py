"""The runner of the conformance suite; the suite itself is run by ``nox -s conformance``."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.conformance.report import Report, Verdict, patterns
from tests.conformance.run import Run, against_client, against_server
from tests.conformance.suite import SuiteUnavailable, mirrors
from tests.helpers import guard

Side = Callable[[Run, Callable[[str, Path], list[str]]], Awaitable[Report]]
SIDES: list[Side] = [against_server, against_client]
both_sides = pytest.mark.parametrize("side", SIDES)

OK = Verdict("OK", "OK")


def stub(mode: str, spec: Path) -> list[str]:
    return [sys.executable, "-m", "tests.conformance.stub", "-m", mode, "-s", str(spec)]


def report(wanted: int | None = 2, **verdicts: Verdict) -> Report:
    named = {name.removeprefix("c").replace("_", "."): each for name, each in verdicts.items()}
    return Report("trioweb-server", named, wanted, 1.5, 3 * 2**20)


# --- verdicts --------------------------------------------------------------------------------


def test_all_ok_is_one_line() -> None:
    good = report(c1_1_1=OK, c7_1_6=Verdict("INFORMATIONAL", "INFORMATIONAL"))
    assert good.status == 0
    assert good.details() == []
    assert str(good) == (
        "trioweb-server: 2/2 cases in 1.5 s | OK=1 INFORMATIONAL=1 | every close clean | peak 3 MiB"
    )


@pytest.mark.parametrize(
    "verdict",
    [
        Verdict("NON-STRICT", "OK"),
        Verdict("FAILED", "OK"),
        Verdict("UNIMPLEMENTED", "OK"),
        Verdict("INFORMATIONAL", "OK"),
        Verdict("OK", "UNCLEAN"),
        Verdict("OK", "WRONG CODE"),
        Verdict("OK", "FAILED BY CLIENT"),
    ],
    ids=str,
)
def test_everything_else_is_a_failure(verdict: Verdict) -> None:
    bad = report(c3_2=verdict, c3_10=OK)
    assert bad.status == 1
    assert bad.bad == ["3.2"]
    assert bad.details() == [f"  3.2: behaviour {verdict.behaviour}, close {verdict.close}"]


def test_unclean_closes_are_in_the_line() -> None:
    assert "| closes UNCLEAN=1 |" in str(report(c3_2=Verdict("OK", "UNCLEAN"), c3_10=OK))


@pytest.mark.parametrize("wanted", [3, None])
def test_a_case_that_is_missing_is_not_finished(wanted: int | None) -> None:
    part = report(wanted, c1_1_1=OK, c1_1_2=OK)
    assert part.status == 2
    assert "NOT FINISHED" in str(part)


def test_no_case_at_all_is_not_finished() -> None:
    assert report(0).status == 2


def test_the_usual_cases_have_some_of_each_compression_group() -> None:
    usual = patterns(None, full=False)
    parts = {tuple(case.split(".")[:2]) for case in usual if case.startswith(("12.", "13."))}
    assert parts == {("12", str(n)) for n in range(1, 6)} | {("13", str(n)) for n in range(1, 8)}
    assert "9.*" in usual
    assert patterns(None, full=True) == ["*"]
    assert patterns("6.4.*,7.1.5", full=True) == ["6.4.*", "7.1.5"]


# --- runs ------------------------------------------------------------------------------------


@both_sides
@pytest.mark.parametrize("tls", [False, True])
async def test_runs_every_case(side: Side, tls: bool, tmp_path: Path) -> None:
    with guard(60):
        done = await side(Run("us", tmp_path / "out", ["1.1.1", "2.1"], tls=tls), stub)
    assert done.details() == []
    assert done.status == 0
    assert done.verdicts == {"1.1.1": OK, "2.1": OK}
    assert done.peak > 2**20


@both_sides
async def test_fails_on_a_case_that_is_not_strict(side: Side, tmp_path: Path) -> None:
    with guard(60):
        done = await side(Run("us", tmp_path, ["1.1.1", "3.2=NON-STRICT"]), stub)
    assert done.status == 1
    assert done.bad == ["3.2"]


@both_sides
async def test_a_suite_that_dies_is_no_success(side: Side, tmp_path: Path) -> None:
    # What an earlier run has left must not pass for this one's.
    (tmp_path / "index.json").write_text(
        '{"us": {"1.1.1": {"behavior": "OK", "behaviorClose": "OK"},'
        ' "die": {"behavior": "OK", "behaviorClose": "OK"}}}'
    )
    with guard(60):
        done = await side(Run("us", tmp_path, ["1.1.1", "die"]), stub)
    assert done.status == 2
    assert done.troubles


@both_sides
async def test_a_case_that_hangs_is_given_up(side: Side, tmp_path: Path) -> None:
    with guard(60):
        done = await side(Run("us", tmp_path, ["hang"], bound=0), stub)
    assert done.status == 2
    assert "given up" in done.troubles[0]


# --- setting up ------------------------------------------------------------------------------

DEB822 = """\
Types: deb
URIs: http://mirror.example/debian
Suites: bookworm
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://mirror.example/debian-security/
Suites: bookworm-security
"""
ONE_LINE = """\
# deb http://commented.example/debian bookworm main
deb-src http://sources.example/debian bookworm main
deb [arch=amd64 signed-by=/key.gpg] https://other.example/tool stable main
deb [arch=amd64] http://mirror.example/debian bookworm main
deb http://mirror.example/debian-security/ bookworm-security main
"""


@pytest.fixture(autouse=True)
def no_mirrors_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DEBIAN_MIRROR", raising=False)
    monkeypatch.delenv("DEBIAN_SECURITY", raising=False)


@pytest.mark.parametrize("text", [DEB822, ONE_LINE], ids=["deb822", "one line"])
def test_mirrors_are_those_of_apt(text: str) -> None:
    assert mirrors(["", text]) == (
        "http://mirror.example/debian",
        "http://mirror.example/debian-security/",
    )


def test_the_environment_is_stronger_than_apt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEBIAN_SECURITY", "http://mine.example/security")
    assert mirrors([DEB822]) == ("http://mirror.example/debian", "http://mine.example/security")


def test_without_a_mirror_it_says_what_to_set() -> None:
    with pytest.raises(SuiteUnavailable, match="set DEBIAN_MIRROR"):
        mirrors(["deb http://mirror.example/ubuntu noble main"])
