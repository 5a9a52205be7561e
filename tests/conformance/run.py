"""One run of the suite against one side: two programs, and what they say on the way."""

from __future__ import annotations

import io
import json
import re
import shutil
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from urllib.parse import quote

import trio
import trustme

from tests.conformance.report import Report, read_verdicts

__all__ = ["Run", "against_client", "against_server"]

#: Given the suite's mode and specification, its command line.
SuiteCommand = Callable[[str, Path], list[str]]

#: Seconds for a program to listen.
START = 30
#: Seconds for the suite to write its reports, and for the server under test to end.
FINISH = 120
#: Seconds in which no case begins, after which a run is given up. The longest take one minute.
STALL = 300
#: Seconds between two lines of progress, and between two looks at the log and the memory.
PROGRESS = 10
LOOK = 0.25


@dataclass(slots=True)
class Run:
    """One run: what is wanted, and how far it is."""

    agent: str
    #: For logs and reports; emptied first.
    folder: Path
    #: The suite's patterns.
    cases: Sequence[str]
    exclude: Sequence[str] = ()
    tls: bool = False
    #: Seconds for all.
    bound: float = 3600
    #: What went wrong with the run itself.
    troubles: list[str] = field(default_factory=list[str])
    #: The highest resident memory seen of the side under test, in bytes.
    peak: int = 0
    _wanted: int | None = None
    _begun: int = 0
    _case: str = "the beginning"
    _seconds: float = 0
    _rest: str = ""

    def prepare(self) -> None:
        """Empty the folder: what an earlier run left there must not pass for this one's."""
        if self.folder.exists():
            shutil.rmtree(self.folder)
        self.folder.mkdir(parents=True)

    def write_spec(self, **what: object) -> Path:
        """Write the suite's specification; return its path."""
        spec: dict[str, object] = {
            "outdir": str(self.folder),
            "cases": [_whole(pattern) for pattern in self.cases],
            "exclude-cases": [_whole(pattern) for pattern in self.exclude],
            "exclude-agent-cases": {},
            **what,
        }
        path = self.folder / "spec.json"
        path.write_text(json.dumps(spec, indent=1))
        return path

    async def follow(self, worker: trio.Process, tested: trio.Process) -> None:
        """Wait until ``worker`` has ended; give up if no case begins, or it takes too long."""
        start = last = shown = trio.current_time()
        with (self.folder / "suite.log").open(errors="replace") as log:
            while True:
                # Before the look at the log, which is then whole if it was the last one.
                ended = worker.poll() is not None
                now = trio.current_time()
                self._seconds = now - start
                self.peak = max(self.peak, peak_memory(tested.pid))
                if self._read(log):
                    last = now
                if ended:
                    return
                if tested.poll() is not None:
                    self.troubles.append(f"what is tested has ended in {self._case}")
                    return
                if now > min(last + STALL, start + self.bound):
                    self.troubles.append(f"given up after {self._seconds:.0f} s in {self._case}")
                    return
                if now > shown + PROGRESS:
                    shown = now
                    where = f"{self._begun} of {self._wanted} cases, in {self._case}"
                    print(f"  {self.agent}: {self._seconds:.0f} s, {where}", flush=True)
                await trio.sleep(LOOK)

    def _read(self, log: io.TextIOBase) -> bool:
        """Take in what is new in the suite's log; return whether a case has begun."""
        begun = self._begun
        *lines, self._rest = (self._rest + log.read()).split("\n")
        for line in lines:
            if found := re.match(r"Ok, will run (\d+) test cases", line):
                self._wanted = int(found[1])
            elif found := re.match(r"Running test case ID (\S+)", line):
                self._begun += 1
                self._case = found[1]
        return self._begun > begun

    def check(self, program: str, process: trio.Process) -> None:
        """Note a program that did not end well."""
        if process.returncode:
            log = self.folder / f"{program}.log"
            self.troubles.append(f"the {program} ended with {process.returncode}: see {log}")

    def report(self) -> Report:
        """Return what came of it."""
        return Report(
            self.agent,
            read_verdicts(self.folder, self.agent),
            self._wanted,
            self._seconds,
            self.peak,
            tuple(self.troubles),
        )


async def against_server(run: Run, suite: SuiteCommand) -> Report:
    """Run the cases against our server."""
    run.prepare()
    ours = [sys.executable, "-W", "error", "-m", "tests.conformance.server"]
    async with trio.open_nursery() as nursery:
        start = partial(_start, nursery, run.folder)
        server = await start("server", [*ours, "--tls"] if run.tls else ours, says_url=True)
        url = await _first_line(server)
        if url.startswith(("ws://", "wss://")):
            spec = run.write_spec(servers=[{"agent": run.agent, "url": url}])
            fuzzer = await start("suite", suite("fuzzingclient", spec))
            await run.follow(fuzzer, server)
            run.check("suite", fuzzer)
        else:
            run.troubles.append(f"the server does not listen: see {run.folder / 'server.log'}")
        server.terminate()
        with trio.move_on_after(FINISH) as scope:
            await server.wait()
        if scope.cancelled_caught:
            run.troubles.append("the server does not end")
        run.check("server", server)
        nursery.cancel_scope.cancel()
    return run.report()


async def against_client(run: Run, suite: SuiteCommand) -> Report:
    """Run the cases against our client."""
    run.prepare()
    port = _free_port()
    url = f"{'wss' if run.tls else 'ws'}://127.0.0.1:{port}"
    ours = [sys.executable, "-W", "error", "-m", "tests.conformance.client", url]
    ours += ["--agent", run.agent]
    keys: dict[str, str] = {}
    context = None
    if run.tls:
        keys = _certificate(run.folder)
        context = ssl.create_default_context(cafile=keys["ca"])
        ours += ["--ca", keys["ca"]]
    spec = run.write_spec(url=url, **keys)
    async with trio.open_nursery() as nursery:
        start = partial(_start, nursery, run.folder)
        fuzzer = await start("suite", suite("fuzzingserver", spec))
        if await _listens(port, fuzzer):
            client = await start("client", ours)
            await run.follow(client, client)
            run.check("client", client)
            # Not left to the client, so that there is a report of one that hangs or dies.
            if not await _write_reports(port, run.agent, context):
                run.troubles.append("the suite writes no reports")
        else:
            run.troubles.append(f"the suite does not listen: see {run.folder / 'suite.log'}")
        nursery.cancel_scope.cancel()
    return run.report()


def _whole(pattern: str) -> str:
    """Make a pattern fit whole names only: to the suite ``12.*.1`` is the beginning of 12.1.18."""
    return f"{pattern}$" if "*" in pattern else pattern


def peak_memory(pid: int) -> int:
    """Return the highest resident memory of a process so far, in bytes; 0 if it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(found[1]) * 1024 if found else 0


async def _start(
    nursery: trio.Nursery,
    folder: Path,
    program: str,
    command: Sequence[str],
    *,
    says_url: bool = False,
) -> trio.Process:
    """Start a program that ends with the nursery, its output in a log."""
    with (folder / f"{program}.log").open("wb") as log:
        process: trio.Process = await nursery.start(
            partial(
                trio.run_process,
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if says_url else log,
                stderr=log,
                check=False,
            )
        )
    return process


async def _first_line(process: trio.Process) -> str:
    """Return the first line that a program prints; less if it ends, or is too slow."""
    assert process.stdout is not None
    line = b""
    with trio.move_on_after(START):
        while not line.endswith(b"\n") and (data := await process.stdout.receive_some()):
            line += data
    return line.decode().strip()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def _listens(port: int, process: trio.Process) -> bool:
    """Wait until something listens; False if the program ends before, or is too slow."""
    with trio.move_on_after(START):
        while process.poll() is None:
            try:
                await trio.aclose_forcefully(await trio.open_tcp_stream("127.0.0.1", port))
            except OSError:
                await trio.sleep(0.05)
            else:
                return True
    return False


async def _write_reports(port: int, agent: str, context: ssl.SSLContext | None) -> bool:
    """Make the suite write its reports; it does when it is asked to, and closes when it has."""
    request = (
        f"GET /updateReports?agent={quote(agent)} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
        "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    got = b""
    with trio.move_on_after(FINISH):
        try:
            stream: trio.abc.Stream = await trio.open_tcp_stream("127.0.0.1", port)
            if context is not None:
                stream = trio.SSLStream(stream, context, server_hostname="127.0.0.1")
            async with stream:
                await stream.send_all(request.encode())
                while b"\r\n\r\n\x88" not in got and (data := await stream.receive_some()):
                    got += data
        except (OSError, trio.BrokenResourceError):
            return False
    return b"\r\n\r\n\x88" in got  # its answer, and a close frame behind it


def _certificate(folder: Path) -> dict[str, str]:
    """Write what TLS needs for this run alone; return the paths."""
    ca = trustme.CA()
    issued = ca.issue_cert("127.0.0.1")
    paths = {name: str(folder / f"{name}.pem") for name in ("ca", "key", "cert")}
    ca.cert_pem.write_to_path(paths["ca"])
    issued.private_key_pem.write_to_path(paths["key"])
    issued.cert_chain_pems[0].write_to_path(paths["cert"])
    return paths
