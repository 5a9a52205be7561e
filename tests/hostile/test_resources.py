"""Every attack by weight, number or patience, over TCP and TLS, on a server of its own process.

The memory is the process's, its most while it is attacked; another client is served all the
while.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
import trio

from tests.helpers import close_frame
from tests.hostile.attack import SECRET, Attack, Attacker, Line
from tests.hostile.crowds import CROWDS
from tests.hostile.floods import FLOODS
from tests.hostile.process import MIB, Process, running

ATTACKS = [*FLOODS, *CROWDS]
CASES = [
    pytest.param(attack, over, id=f"{attack.name}, {over}")
    for over in ("tcp", "tls")
    for attack in ATTACKS
    if over in attack.over
]

#: What an attack may cost, in all.
GROWTH = 40 * MIB
#: What may stay behind it: the heap's holes, and what is made once.
LEFT = 20 * MIB
#: Seconds in which an honest client is answered, however slow the machine.
PROMPT = 5


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    with running("trioweb", tmp_path_factory.mktemp("plain") / "log") as process:
        yield process


@pytest.fixture(scope="module")
def secure(ca, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    folder = tmp_path_factory.mktemp("secure")
    ca.issue_cert("localhost", "127.0.0.1").private_key_and_cert_chain_pem.write_to_path(
        str(folder / "pem")
    )
    with running("trioweb", folder / "log", folder / "pem") as process:
        yield process


@pytest.mark.parametrize(("attack", "over"), CASES)
async def test_it_costs_little_and_harms_nobody(
    request: pytest.FixtureRequest, client_tls: ssl.SSLContext, attack: Attack, over: str
):
    process: Process = request.getfixturevalue("plain" if over == "tcp" else "secure")
    attacker = Attacker(process.port, client_tls if over == "tls" else None, patience=20)
    with trio.fail_after(100):
        async with attacker.dial() as bystander:
            assert await bystander.upgrade()
            await attacker.echo(bystander)
            tasks = await at_rest(attacker)
            log, idle = len(process.log()), process.memory()
            process.forget_peak()
            attacker.dialled = 0
            async with served(attacker, bystander):
                seen = await attack.run(attacker)
            growth, victims = process.peak() - idle, attacker.dialled
            async with attacker.dial() as newcomer:
                with trio.fail_after(PROMPT):
                    assert await newcomer.upgrade()
                    await attacker.echo(newcomer)
                    await newcomer.send(close_frame(1000))
                    assert (await newcomer.finish()).answer == 1000
            while await at_rest(attacker) > tasks:
                await attacker.echo(bystander)
            left = process.memory() - idle
            await bystander.send(close_frame(1000))
            await bystander.finish()
    print(f"{attack.name}, {over}: +{growth / MIB:.1f} MiB, then {left / MIB:+.1f}, {seen.answer}")
    assert seen.answer in {attack.answer, *attack.also}
    assert seen.end != "hung"
    assert growth <= GROWTH
    assert left <= LEFT
    check_log(process.log()[log:], victims)


@asynccontextmanager
async def served(attacker: Attacker, line: Line) -> AsyncIterator[None]:
    """Be served promptly, again and again, for the length of a block."""
    over = trio.Event()

    async def go_on() -> None:
        while not over.is_set():
            with trio.fail_after(PROMPT):
                await attacker.echo(line)
            line.seen.replies.clear()
            with trio.move_on_after(0.02):  # most of the machine is for the attack
                await over.wait()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(go_on)
        yield
        over.set()
    await attacker.echo(line)


async def at_rest(attacker: Attacker) -> int:
    """Have the server give back the memory that it does not use; return how many tasks it runs."""
    async with attacker.dial() as line:
        await line.send(b"GET /rest HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert await line.head() == 200
        return int(await line.body())


def check_log(log: str, victims: int) -> None:
    lines = log.splitlines()
    assert [line for line in lines if not line.startswith("INFO trioweb")] == []
    assert SECRET not in log
    # One for each connection that was bad, and for none that was not; pages are logged, too.
    named = [line for line in lines if "answered 200" not in line]
    assert len(named) <= victims, named[-victims:]
