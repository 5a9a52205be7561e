"""One run: every row, and in it all systems in turn, round for round."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from . import build, process, sample
from .process import FailedError, Server
from .results import Measured, Plan, Results
from .rows import ROWS, SYSTEMS

Progress = Callable[[str], None]

WARM_UP = 100
SPARE_FILES = 100
SETTLE_WITHIN = 10.0


class Servers:
    """The servers that are running, started when first wanted."""

    def __init__(self, results: Results) -> None:
        self.results = results
        self.running: dict[tuple[object, ...], Server] = {}

    def get(self, row: str, system: str) -> Server:
        """Return a system's server for a row; raises `FailedError`."""
        wanted = ROWS[row]
        key = (
            system,
            wanted.batch,
            wanted.room,
            wanted.app,
            wanted.kind == "tls",
            wanted.compressed,
        )
        if key not in self.running:
            self.running[key] = self.start(row, system)
            if wanted.compressed:
                sample.check_compressed(self.running[key].port)
        return self.running[key]

    def start(self, row: str, system: str) -> Server:
        """Start a server that the caller stops; raises `FailedError`."""
        server = Server(SYSTEMS[system], ROWS[row])
        if server.framer is not None:
            self.results.framers[system] = server.framer
        return server

    def obituary(self, system: str) -> str:
        """Return what those of a system's servers said last that have died."""
        dead = [
            server
            for key, server in self.running.items()
            if key[0] == system and server.process.poll() is not None
        ]
        return "".join(f"; the server died: {server.last_words()}" for server in dead)

    def stop(self, system: str | None = None) -> None:
        """End the servers of one system, or all."""
        for key in [key for key in self.running if system in (None, key[0])]:
            self.running.pop(key).stop()


def settled(server: Server, seconds: float) -> int:
    """Return the resident bytes once they stay the same for some time, or after ten seconds."""
    last, since = server.resident, time.monotonic()
    give_up = since + SETTLE_WITHIN
    while time.monotonic() < min(since + seconds, give_up):
        time.sleep(0.05)
        if (now := server.resident) != last:
            last, since = now, time.monotonic()
    return last


def memory(row: str, server: Server, plan: Plan) -> Measured:
    """Return the KiB that an idle connection costs a fresh server."""
    options: dict[str, Any] = ROWS[row].load | {"raw": int(server.raw)}
    if row == "idle-used":
        options["frames"] = sample.four_kibibytes()
    count = min(plan.idle, ROWS[row].load["connections"], process.raise_file_limit() - SPARE_FILES)
    # What is loaded and cached once is not counted.
    with process.idle_load(server.port, options | {"connections": WARM_UP}):
        pass
    before = settled(server, plan.settle)
    with process.idle_load(server.port, options | {"connections": count}):
        after = settled(server, plan.settle)
    return {"value": (after - before) / count / 1024, "connections": count}


def start(server: Server) -> Measured:
    """Return the milliseconds from the start of a server's process to its first echo."""
    with sample.Client(server.port) as client:
        client.echo(b"first")
        return {"value": (time.perf_counter() - server.started) * 1e3}


def load(row: str, server: Server, plan: Plan) -> Measured:
    """Return what the load measured."""
    options: dict[str, Any] = ROWS[row].load | {"seconds": plan.seconds, "raw": int(server.raw)}
    if ROWS[row].compressed:
        options["frames"] = sample.mixed()
    elif ROWS[row].kind == "json":
        options["frames"] = sample.moves()
    measured = process.run_load(ROWS[row].mode, server.port, options)
    return {"value": measured.pop("rate"), **measured}


def turn(row: str, system: str, servers: Servers) -> Measured:
    """Measure one system in one row once; raises `FailedError`."""
    plan = servers.results.plan
    try:
        if ROWS[row].timed:
            return load(row, servers.get(row, system), plan)
        with ExitStack() as stack:
            server = servers.start(row, system)
            stack.callback(server.stop)
            return start(server) if row == "start" else memory(row, server, plan)
    except (OSError, ValueError, build.NotBuiltError) as error:
        raise FailedError(f"{type(error).__name__}: {error}") from error


def show(text: str) -> None:
    """Print one line of progress."""
    print(text, file=sys.stderr, flush=True)


def run(plan: Plan, progress: Progress = show) -> Results:
    """Do what a plan says. A system that fails in a row is left out of its further rounds."""
    results = Results(plan)
    servers = Servers(results)
    process.pin(process.LOAD_CORE)
    process.raise_file_limit()
    build.load()
    turns = list(plan.turns())
    began, last = time.monotonic(), ""
    try:
        for done, (row, number, system) in enumerate(turns):
            group = ROWS[row].group or row
            if plan.fresh and group != last:
                servers.stop()
            last = group
            if system in results.failed.get(row, {}):
                continue
            try:
                measured = turn(row, system, servers)
            except FailedError as error:
                results.fail(row, system, f"{error}{servers.obituary(system)}")
                servers.stop(system)  # who knows what state it is in
                outcome = f"FAILED: {results.failed[row][system]}"
            else:
                results.add(row, system, measured)
                outcome = f"{measured['value']:,.1f} {ROWS[row].unit}"
            left = (time.monotonic() - began) / (done + 1) * (len(turns) - done - 1)
            progress(
                f"{done + 1}/{len(turns)}, {left // 60:.0f}:{left % 60:02.0f} left | "
                f"{row}, round {number + 1} | {system}: {outcome}"
            )
    finally:
        servers.stop()
    return results
