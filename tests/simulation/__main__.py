"""The long run: programs from one seed on, on every core, until the time is over.

Prints how many connections, messages and faults there were, and stops at the first program that
breaks an invariant, with the seed that repeats it and the end of what crossed its wires.
"""

from __future__ import annotations

import argparse
import faulthandler
import os
import random
import sys
import time
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import count

from tests.simulation.ledger import Verdict
from tests.simulation.program import draw
from tests.simulation.world import simulate
from trioweb.testing import Recorder

#: Programs that one process runs before it reports.
BATCH = 25
#: Real seconds for a batch, after which its process prints where it stands, and dies.
STUCK = 300
#: Real seconds between two lines of progress.
PROGRESS = 10


def run_seed(seed: int, recorder: Recorder | None = None) -> Verdict:
    """Draw a program from a seed, and run it."""
    verdict = simulate(draw(random.Random(seed)), seed, recorder)
    verdict.broken = [f"seed {seed}: {broken}" for broken in verdict.broken]
    return verdict


def run_batch(first: int) -> Verdict:
    """Run a batch of seeds, up to the first that breaks something."""
    total = Verdict()
    faulthandler.dump_traceback_later(STUCK, exit=True)
    for seed in range(first, first + BATCH):
        total.add(run_seed(seed))
        if total.broken:
            break
    faulthandler.cancel_dump_traceback_later()
    return total


def run_all(first: int, seconds: float, processes: int) -> Verdict:
    """Run batches until the time is over or something is broken."""
    total = Verdict()
    start = time.monotonic()
    progress = start + PROGRESS
    seeds = count(first, BATCH)
    with ProcessPoolExecutor(processes) as pool:
        running: dict[Future[Verdict], int] = {}
        while running or not total.programs:
            over = total.broken or time.monotonic() - start > seconds
            while not over and len(running) < 2 * processes:
                first = next(seeds)
                running[pool.submit(run_batch, first)] = first
            done, _ = wait(running, timeout=PROGRESS, return_when=FIRST_COMPLETED)
            for future in done:
                first = running.pop(future)
                try:
                    total.add(future.result())
                except BrokenProcessPool:
                    last = first + BATCH - 1
                    total.broken.append(f"seed {first}: a process died in seeds {first} to {last}")
            if time.monotonic() > progress:
                progress += PROGRESS
                print(f"{time.monotonic() - start:6.0f} s: {total}", flush=True)
    return total


def main() -> int:
    """Run as the command line says; return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="for how long (60)")
    parser.add_argument("--seed", type=int, default=0, help="the first program's seed (0)")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="one for each core")
    parser.add_argument("--one", action="store_true", help="run that one seed, and show its wires")
    options = parser.parse_args()
    if options.one:
        recorder = Recorder(max_lines=500)
        total = run_seed(options.seed, recorder)
        print(recorder)
    else:
        total = run_all(options.seed, options.seconds, options.processes)
    print(total.report())
    for broken in total.broken:
        print(broken)
    if total.broken and not options.one:
        seed = total.broken[0].split()[1].rstrip(":")
        print(f"again: python -m tests.simulation --one --seed {seed}")
    return 1 if total.broken else 0


if __name__ == "__main__":
    sys.exit(main())
