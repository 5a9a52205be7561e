"""A target in a process of its own: started, measured and ended."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["MIB", "Process", "running"]

MIB = 2**20
_ROOT = Path(__file__).parents[2]


class Process:
    """A running target: its port, its memory, its log."""

    def __init__(self, popen: subprocess.Popen[str], port: int, log: Path) -> None:
        self._popen = popen
        self._log = log
        self.port = port

    @property
    def alive(self) -> bool:
        return self._popen.poll() is None

    def wait(self, seconds: float) -> None:
        """Wait for its end, but no longer."""
        with suppress(subprocess.TimeoutExpired):
            self._popen.wait(seconds)

    def memory(self) -> int:
        """Return what is resident now, in bytes."""
        return self._status("VmRSS")

    def peak(self) -> int:
        """Return the most that was resident since `forget_peak`, in bytes."""
        return self._status("VmHWM")

    def forget_peak(self) -> None:
        """Begin a new measurement (Linux, proc(5), clear_refs)."""
        Path(f"/proc/{self._popen.pid}/clear_refs").write_text("5")

    def log(self) -> str:
        """Return all that was logged so far."""
        return self._log.read_text(errors="replace")

    def _status(self, name: str) -> int:
        text = Path(f"/proc/{self._popen.pid}/status").read_text()
        found = re.search(rf"^{name}:\s+(\d+) kB", text, re.MULTILINE)
        assert found, "the process is gone"
        return int(found[1]) * 1024


@contextmanager
def running(server: str, log: Path, certificate: Path | None = None) -> Iterator[Process]:
    """Run a target for the length of a block."""
    command = [sys.executable, "-m", "tests.hostile.target", "--server", server]
    if certificate is not None:
        command += ["--certificate", str(certificate)]
    with (
        log.open("w") as stderr,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=stderr, text=True, cwd=_ROOT
        ) as popen,
    ):
        assert popen.stdout is not None
        try:
            port = popen.stdout.readline()
            assert port, log.read_text()
            yield Process(popen, int(port), log)
        finally:
            popen.kill()
