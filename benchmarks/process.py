"""The processes of a benchmark: servers on one core, the load on another."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from selectors import EVENT_READ, DefaultSelector
from tempfile import TemporaryFile
from typing import IO, Any

from . import build
from .rows import Row, System

SERVER_CORE, LOAD_CORE = 0, 1
#: A server that has not said its port by then does not start.
START = 20.0
#: The load ends by itself long before this.
LOAD = 300.0


class FailedError(RuntimeError):
    """A server or the load did not do what a row is about; the message says what."""


def pin(core: int) -> None:
    """Stay on one core, with all processes that are started from now on."""
    if hasattr(os, "sched_setaffinity") and core < (os.cpu_count() or 1):
        os.sched_setaffinity(0, {core})


def raise_file_limit() -> int:
    """Allow this process and its children as many open files as the system does; return that."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def line_of(pipe: IO[str], seconds: float) -> str:
    """Return the first line of a fresh pipe, or "" after so many seconds or at the end."""
    with DefaultSelector() as selector:
        selector.register(pipe, EVENT_READ)
        return pipe.readline() if selector.select(seconds) else ""


def last_line(text: str) -> str:
    """Return what a failed program said."""
    return (text.strip().splitlines() or ["it said nothing"])[-1]


class Server:
    """One server in a process of its own."""

    def __init__(self, system: System, row: Row) -> None:
        """Start it and wait for its port; raises `FailedError`."""
        tls = str(build.certificate()) if row.kind == "tls" else ""
        command: list[str]
        if system.server == "ws":
            options = {"batch": row.batch, "tls": tls, "deflate": row.compressed}
            script = str(build.HERE / "servers.mjs")
            command = ["node", script, str(build.node_modules()), json.dumps(options)]
        else:
            command = [sys.executable, "-m", "benchmarks.servers", system.server]
            command += ["--batch", str(row.batch), *(["--tls", tls] if tls else [])]
            command += ["--app", row.app] if row.app else []
            command += ["--room", row.room] if row.room else []
        self.raw = system.server == "raw"
        self.errors = TemporaryFile()  # noqa: SIM115 - `stop` closes it; a pipe could fill up
        self.started = time.perf_counter()
        pin(SERVER_CORE)
        try:
            self.process = subprocess.Popen(
                command,
                cwd=build.HERE.parent,
                env=os.environ | system.environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=self.errors,
                text=True,
            )
        finally:
            pin(LOAD_CORE)
        assert self.process.stdout is not None
        line = line_of(self.process.stdout, START)
        if not line:
            said = self.last_words()
            self.stop()
            raise FailedError(f"the server did not start: {said}")
        told: dict[str, Any] = json.loads(line)
        self.port: int = told["port"]
        self.framer: str | None = told.get("framer")

    @property
    def resident(self) -> int:
        """Bytes of the process that are in memory."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def last_words(self) -> str:
        """Return the last line of its standard error."""
        self.errors.seek(0)
        return last_line(self.errors.read().decode(errors="replace"))

    def stop(self) -> None:
        """End it at once."""
        self.process.kill()
        self.process.wait()
        self.errors.close()
        if self.process.stdout is not None:
            self.process.stdout.close()


def load_command(mode: str, port: int, options: dict[str, Any]) -> Sequence[str]:
    """Return how to run the load."""
    return [
        *(str(build.load()), mode, str(port)),
        *(f"{name}={value}" for name, value in options.items()),
    ]


def run_load(mode: str, port: int, options: dict[str, Any]) -> dict[str, float]:
    """Run the load once and return what it measured; raises `FailedError`."""
    command = load_command(mode, port, options)
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LOAD, check=False)
    except subprocess.TimeoutExpired:
        raise FailedError("the load did not end") from None
    if done.returncode:
        raise FailedError(last_line(done.stderr))
    result: dict[str, float] = json.loads(done.stdout)
    return result


@contextmanager
def idle_load(port: int, options: dict[str, Any]) -> Generator[None]:
    """Hold idle connections for a block; raises `FailedError`, too if the server ends one."""
    with subprocess.Popen(
        load_command("idle", port, options),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            if not line_of(process.stdout, LOAD):
                raise FailedError(last_line(process.stderr.read()))
            yield
            _, said = process.communicate(timeout=LOAD)
            if process.returncode:
                raise FailedError(last_line(said))
        finally:
            process.kill()
