"""Stands in for the suite in tests of the runner: the same arguments, log and reports.

A case in the specification is its name, or ``name=VERDICT`` to have that verdict whatever happens;
``hang`` never ends, ``die`` ends with 3 before there is a report.
"""

from __future__ import annotations

import json
import ssl
import sys
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import trio

import trioweb


class Stub:
    """One run."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self.spec = spec
        self.cases = [case.partition("=")[::2] for case in spec["cases"]]
        self.verdicts: dict[str, dict[str, str]] = {}

    async def run_case(self, number: int, ws: trioweb.WebSocket) -> None:
        """Judge an echo."""
        name, verdict = self.cases[number]
        print(f"Running test case ID {name} for agent stub", flush=True)
        if name == "hang":
            await trio.sleep_forever()
        if name == "die":
            sys.exit(3)
        await ws.send(name)
        echoed = await ws.receive() == name
        self.verdicts[name] = {
            "behavior": verdict or ("OK" if echoed else "FAILED"),
            "behaviorClose": verdict or "OK",
        }

    def write_reports(self, agent: str) -> None:
        """Write the part of the suite's report that is read."""
        index = Path(self.spec["outdir"], "index.json")
        index.write_text(json.dumps({agent: self.verdicts}))

    async def fuzzing_client(self) -> None:
        """Test a server."""
        (server,) = self.spec["servers"]
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        secure = server["url"].startswith("wss")
        for number in range(len(self.cases)):
            async with trioweb.connect(
                server["url"], ssl_context=context if secure else None
            ) as ws:
                await self.run_case(number, ws)
        self.write_reports(server["agent"])

    async def fuzzing_server(self) -> None:
        """Test a client, until killed."""
        url = urlsplit(str(self.spec["url"]))
        assert url.port is not None
        context = None
        if url.scheme == "wss":
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(self.spec["cert"], self.spec["key"])
        await trioweb.serve(self.handle, url.port, host=url.hostname, ssl_context=context)

    async def handle(self, ws: trioweb.WebSocket) -> None:
        """Do what the path asks for."""
        target = urlsplit(ws.request.target)
        query = parse_qs(target.query)
        if target.path == "/getCaseCount":
            await ws.send(str(len(self.cases)))
        elif target.path == "/runCase":
            await self.run_case(int(query["case"][0]) - 1, ws)
        else:
            self.write_reports(query["agent"][0])


def main() -> None:
    """Run as the suite's command line says: ``-m MODE -s SPEC``."""
    mode, spec = sys.argv[2], json.loads(Path(sys.argv[4]).read_text())
    stub = Stub(spec)
    print(f"Ok, will run {len(stub.cases)} test cases", flush=True)
    trio.run(stub.fuzzing_client if mode == "fuzzingclient" else stub.fuzzing_server)


if __name__ == "__main__":
    main()
