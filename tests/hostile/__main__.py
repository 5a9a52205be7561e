"""The same attacks on other servers: ``python -m tests.hostile --peers`` prints a table.

Right is, for the others, all that the RFCs allow; what trioweb promises beyond them is left out.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path

import trio

from tests.hostile.attack import Attack, Attacker, Line, Seen, flaw
from tests.hostile.compression import COMPRESSION
from tests.hostile.crowds import CROWDS
from tests.hostile.floods import FLOODS
from tests.hostile.frames import FRAMES
from tests.hostile.handshake_http import HTTP
from tests.hostile.handshake_upgrade import UPGRADE
from tests.hostile.process import MIB, Process, running
from tests.hostile.target import SERVERS

ATTACKS = [*HTTP, *UPGRADE, *FRAMES, *COMPRESSION, *FLOODS, *CROWDS]
GROWTH = 40 * MIB
#: Seconds for an attack by bytes and one by weight, and for an honest client to be served.
BRIEF, WHOLE, PROMPT = 6, 60, 5
NOT_APPLICABLE = "-"
#: Servers that have no permessage-deflate.
WITHOUT_DEFLATE = {"trio-websocket"}


class Bout:
    """One server under all attacks; a new process takes the place of one that was hurt."""

    def __init__(self, server: str, folder: Path) -> None:
        self.server = server
        self._folder = folder
        self._stack = ExitStack()
        self._process: Process | None = None
        self._runs = 0

    def close(self) -> None:
        self._stack.close()
        self._process = None

    def suffer(self, attack: Attack) -> str:
        """Return what came of an attack: "ok", or what was wrong."""
        others = self.server != "trioweb"
        if (
            "tcp" not in attack.over
            or (attack.ours and others)
            or (attack.deflate and self.server in WITHOUT_DEFLATE)
        ):
            return NOT_APPLICABLE
        said = self._once(attack)
        # What depends on how two tasks of a server take turns is not counted against it.
        again = 5 if others and attack.family != "resources" and said in ("end", "reset") else 0
        for _ in range(again):
            if self._once(attack) == "ok":
                return f"ok; at times {said}"
        return said

    def _once(self, attack: Attack) -> str:
        if self._process is None:
            self._runs += 1
            log = self._folder / f"{self.server}-{self._runs}"
            self._process = self._stack.enter_context(running(self.server, log))
        try:
            said = trio.run(self._attack, attack, self._process)
        except* (OSError, trio.BrokenResourceError) as errors:
            said = f"unreachable: {errors.exceptions[0]}"
        if said.endswith("served"):
            self._process.wait(1)  # whoever dies of it may take a moment
        if not self._process.alive:
            said = "the server died"
        hurt = attack.family == "resources" or "served" in said or "died" in said
        if said != "ok" and hurt:
            self.close()  # what it left behind is not the next one's matter
        return said

    async def _attack(self, attack: Attack, process: Process) -> str:
        heavy = attack.family == "resources"
        attacker = Attacker(process.port, patience=10 if heavy else 4, lag=3)
        async with attacker.dial() as bystander, trio.open_nursery() as nursery:
            if not await bystander.upgrade():
                return "it serves nobody"
            await attacker.echo(bystander)
            idle = process.memory()
            process.forget_peak()
            honest = Honest(attacker, bystander)
            nursery.start_soon(honest.go_on)
            said = judged(attack, Seen(), self.server)
            with trio.move_on_after(WHOLE if heavy else BRIEF):
                said = judged(attack, await attack.run(attacker), self.server)
            honest.over.set()
            if not process.alive:
                return said
            growth = process.peak() - idle
            if honest.hurt or not await newcomer(attacker):
                return f"{said}; others are not served"
            return f"{said}; memory +{growth // MIB} MiB" if growth > GROWTH else said


class Honest:
    """A client that is there all the while."""

    def __init__(self, attacker: Attacker, line: Line) -> None:
        self._attacker = attacker
        self._line = line
        self.over = trio.Event()
        self.hurt = False

    async def go_on(self) -> None:
        while not (self.over.is_set() or self.hurt):
            self.hurt = not await in_time(self._attacker, self._line)
            self._line.seen.replies.clear()
            with trio.move_on_after(0.1):
                await self.over.wait()


async def in_time(attacker: Attacker, line: Line) -> bool:
    with trio.move_on_after(PROMPT):
        try:
            await attacker.echo(line)
            return True
        except AssertionError:
            return False
    return False


async def newcomer(attacker: Attacker) -> bool:
    with trio.move_on_after(PROMPT):
        try:
            async with attacker.dial() as line:
                return await line.upgrade() and await in_time(attacker, line)
        except OSError:
            return False
    return False


def judged(attack: Attack, seen: Seen, server: str) -> str:
    if attack.family != "resources":
        return flaw(attack, seen, strict=server == "trioweb") or "ok"
    if seen.end == "hung" and (server == "trioweb" or "hung" not in attack.also):
        return f"{seen.answer}, and does not end" if seen.answer != "hung" else "hung"
    return "ok" if seen.answer in {attack.answer, *attack.also} else str(seen.answer)


def table(servers: list[str], only: str) -> str:
    """Attack every server, with every attack whose family or name has ``only`` in it."""
    attacks = [one for one in ATTACKS if only in f"{one.family}: {one.name}"]
    rows = [["attack", "due", *(f"{one} {version(one)}" for one in servers)]]
    totals: list[Counter[str]] = []
    columns: list[list[str]] = []
    with tempfile.TemporaryDirectory() as folder:
        for server in servers:
            bout = Bout(server, Path(folder))
            try:
                columns.append([])
                for attack in attacks:
                    said = bout.suffer(attack)
                    columns[-1].append(said)
                    if said not in ("ok", NOT_APPLICABLE):
                        print(f"{server}: {attack.family}: {attack.name}: {said}", file=sys.stderr)
            finally:
                bout.close()
            totals.append(Counter(map(kind, columns[-1])))
    rows += [
        [f"{attack.family}: {attack.name}", str(attack.answer), *cells]
        for attack, *cells in zip(attacks, *columns, strict=True)
    ]
    rows.insert(1, ["-"] * len(rows[0]))
    lines = ["|" + "|".join(f" {cell} " for cell in row) + "|" for row in rows]
    summary = [
        f"{server}: " + ", ".join(f"{name} {count}" for name, count in total.most_common())
        for server, total in zip(servers, totals, strict=True)
    ]
    return "\n".join([*lines, "", *summary])


def kind(said: str) -> str:
    """Sort what was said into few kinds."""
    for name in ("died", "not served", "memory", "hung", "does not end"):
        if name in said and "at times" not in said:
            return name
    if said in ("end", "reset"):
        return "no answer"
    if said == NOT_APPLICABLE:
        return "not applicable"
    return "ok" if said.startswith("ok") else "wrong answer"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", action="store_true", help="attack the other servers, too")
    parser.add_argument("--server", choices=SERVERS, help="attack this one")
    parser.add_argument("--only", default="", help="only attacks with this in their name")
    arguments = parser.parse_args()
    servers = list(SERVERS) if arguments.peers else [arguments.server or "trioweb"]
    print(table(servers, arguments.only))


if __name__ == "__main__":
    main()
