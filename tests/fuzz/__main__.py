"""The long run: libFuzzer on every core, guided by coverage, until the time is over.

Prints how far it is each half minute, and one line at the end: executions, coverage, findings. What
it finds stays in ``artifacts/fuzz``, with the command that repeats it; inputs that reach something
new are kept there too, and are where the next run goes on. ``--merge`` brings the fewest that
reach as much into the committed corpus.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.fuzz.targets import LARGEST, TARGETS, WORDS

ROOT = Path(__file__).parents[2]
CORPUS = Path(__file__).parent / "corpus"
WORK = ROOT / "artifacts" / "fuzz"
#: Bytes of the whole committed corpus.
MOST = 200 * 1024
#: Real seconds: between two lines of progress; for one input; and for a process to end by itself.
PROGRESS, STUCK, GRACE = 30, 30, 60

_COVERAGE = re.compile(r"^#\d+\s.* cov: (\d+) ft: (\d+)", re.MULTILINE)
_EXECUTIONS = re.compile(r"^stat::number_of_executed_units: (\d+)", re.MULTILINE)
_RUNS = re.compile(r"^#(\d+)\s", re.MULTILINE)


@dataclass
class Result:
    """What the processes of one target came to."""

    target: str
    executions: int = 0
    edges: int = 0
    features: int = 0
    findings: list[Path] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.target} {self.edges} edges, {self.features} features"


def _worker(target: str, *arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "tests.fuzz.worker", target, *map(str, arguments)]


def _words(target: str) -> Path:
    """Write libFuzzer's dictionary."""
    path = WORK / f"{target}.dict"
    lines = ('"' + "".join(f"\\x{byte:02x}" for byte in word) + '"\n' for word in WORDS[target])
    path.write_text("".join(lines))
    return path


@contextmanager
def _ending(processes: list[subprocess.Popen[bytes]]) -> Iterator[None]:
    """End these processes with the block, however it ends."""
    try:
        yield
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
            process.wait()


def _start(target: str, job: int, seconds: int, seed: int) -> subprocess.Popen[bytes]:
    found = WORK / target
    found.mkdir(parents=True, exist_ok=True)
    arguments = [
        f"-max_total_time={seconds}",
        f"-seed={seed + job}",
        f"-max_len={LARGEST}",
        f"-timeout={STUCK}",
        "-print_final_stats=1",
        f"-artifact_prefix={WORK / target}-",
        f"-dict={_words(target)}",
    ]
    with (WORK / f"{target}-{job}.log").open("wb") as log:
        return subprocess.Popen(
            _worker(target, *arguments, found, CORPUS / target),
            cwd=ROOT,
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def _read(target: str, jobs: int) -> Result:
    """Read the logs of a target's processes."""
    result = Result(target)
    for job in range(jobs):
        text = (WORK / f"{target}-{job}.log").read_text(errors="replace")
        done = _EXECUTIONS.findall(text) or _RUNS.findall(text)
        result.executions += int(done[-1]) if done else 0
        for edges, features in _COVERAGE.findall(text)[-1:]:
            result.edges = max(result.edges, int(edges))
            result.features = max(result.features, int(features))
    result.findings = [
        path
        for kind in ("crash", "timeout", "oom", "leak")
        for path in sorted(WORK.glob(f"{target}-{kind}-*"))
    ]
    return result


def _fuzz(target: str, *, seconds: int, jobs: int, seed: int) -> Result:
    """Fuzz one target until the time is over, or something is found."""
    for path in [*_leftovers(target)]:
        path.unlink()
    processes = [_start(target, job, seconds, seed) for job in range(jobs)]
    start = time.monotonic()
    with _ending(processes):
        while running := [process for process in processes if process.poll() is None]:
            late = time.monotonic() - start > seconds + GRACE
            if late or any(process.returncode for process in processes):
                break
            try:
                running[0].wait(PROGRESS)
            except subprocess.TimeoutExpired:
                so_far = _read(target, jobs)
                past = time.monotonic() - start
                print(f"{past:6.0f} s: {so_far.executions} executions, {so_far}", flush=True)
    result = _read(target, jobs)
    for job, process in enumerate(processes):
        # A finding has its own status; one that was killed since another found something has -9.
        if process.returncode not in (0, -9) and not result.findings:
            log = WORK / f"{target}-{job}.log"
            print(log.read_text(errors="replace")[-3000:])
            raise SystemExit(f"the fuzzer itself ended with {process.returncode}: {log}")
    return result


def _leftovers(target: str) -> Iterator[Path]:
    """Return what is left of the last run: its findings and logs, not its inputs."""
    for ending in ("crash-*", "timeout-*", "oom-*", "leak-*", "?.log", "??.log"):
        yield from WORK.glob(f"{target}-{ending}")


def merge(target: str) -> None:
    """Replace a target's committed corpus by the fewest inputs that reach as much."""
    fewest = WORK / f"{target}-merged"
    shutil.rmtree(fewest, ignore_errors=True)
    fewest.mkdir(parents=True)
    sources = [path for path in (CORPUS / target, WORK / target) if path.is_dir()]
    command = _worker(target, "-merge=1", f"-max_len={LARGEST}", fewest, *sources)
    subprocess.run(command, cwd=ROOT, check=True, stderr=subprocess.DEVNULL)
    shutil.rmtree(CORPUS / target, ignore_errors=True)
    shutil.copytree(fewest, CORPUS / target)
    sizes = [path.stat().st_size for path in (CORPUS / target).iterdir()]
    print(f"{target}: {len(sizes)} inputs, {sum(sizes)} bytes")


def main() -> int:
    """Run as the command line says; return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--target", choices=[*TARGETS, "all"], default="all", help="(all)")
    parser.add_argument("--seconds", type=int, default=60, help="for all targets together (60)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="one for each core")
    parser.add_argument("--seed", type=int, default=1, help="of the first process (1)")
    parser.add_argument("--one", type=Path, help="run --target on that file alone, and stop")
    parser.add_argument("--merge", action="store_true", help="renew the corpus instead")
    options = parser.parse_args()
    chosen = list(TARGETS) if options.target == "all" else [options.target]
    if options.one is not None:
        if len(chosen) != 1:
            parser.error("--one wants a --target")
        TARGETS[options.target](options.one.read_bytes())
        print("nothing is wrong with that")
        return 0
    WORK.mkdir(parents=True, exist_ok=True)
    if options.merge:
        for target in chosen:
            merge(target)
        return 0
    start = time.monotonic()
    seconds = max(1, options.seconds // len(chosen))
    results: list[Result] = []
    for target in chosen:
        results.append(_fuzz(target, seconds=seconds, jobs=options.jobs, seed=options.seed))
        if results[-1].findings:
            break
    findings = [path for result in results for path in result.findings]
    for path in findings:
        target = path.name.partition("-")[0]
        print(f"found: python -m tests.fuzz --target {target} --one {path.relative_to(ROOT)}")
    print(
        f"fuzz: {sum(result.executions for result in results)} executions; "
        f"{'; '.join(map(str, results))}; {len(findings)} findings; "
        f"{time.monotonic() - start:.0f} s with {options.jobs} processes"
    )
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
