"""Every attack by bytes, over TCP and TLS: its answer, its line in the log, and nobody else hurt.

Server and attacker run in one process over the loopback, on a clock that jumps over deadlines.
"""

from __future__ import annotations

import logging

import pytest
import trio
from trio.testing import MockClock

import trioweb
from tests.helpers import close_frame, echo, port_of, serving, virtual_clock
from tests.hostile.attack import SECRET, Attack, Attacker, flaw
from tests.hostile.compression import COMPRESSION
from tests.hostile.frames import FRAMES, LIMIT
from tests.hostile.handshake_http import HTTP
from tests.hostile.handshake_upgrade import UPGRADE
from trioweb.testing import no_orphans

ATTACKS = [*HTTP, *UPGRADE, *FRAMES, *COMPRESSION]
CASES = [
    pytest.param(attack, over, id=f"{attack.family}: {attack.name}, {over}")
    for attack in ATTACKS
    for over in attack.over
]


@pytest.fixture
def clock() -> MockClock:
    return virtual_clock()


def test_no_attack_is_there_twice():
    names = [(attack.family, attack.name) for attack in ATTACKS]
    assert len(set(names)) == len(names) > 150
    sent = [(attack.request, attack.data, attack.then, attack.script) for attack in ATTACKS]
    assert len(set(sent)) == len(sent)


@pytest.mark.parametrize(("attack", "over"), CASES)
async def test_it_gets_its_answer_and_harms_nobody(
    clock: MockClock, caplog, server_tls, client_tls, attack: Attack, over: str
):
    caplog.set_level(logging.INFO, "trioweb")
    tls = over == "tls"
    async with serving(
        trioweb.Router({"/": echo}),
        ssl_context=server_tls if tls else None,
        limits=trioweb.Limits(max_message=LIMIT),
        deflate=trioweb.Deflate(),
        heartbeat=None,
    ) as server:
        attacker = Attacker(port_of(server), client_tls if tls else None)
        async with no_orphans(), attacker.dial() as bystander:
            await bystander.upgrade()
            await attacker.echo(bystander)
            async with trio.open_nursery() as nursery:
                # While the attack is under way, too.
                nursery.start_soon(attacker.echo, bystander)
                seen = await attack.run(attacker)
            await attacker.echo(bystander)
            async with attacker.dial() as newcomer:
                assert await newcomer.upgrade()
                await attacker.echo(newcomer)
                await newcomer.send(close_frame(1000))
                assert (await newcomer.finish()).answer == 1000
            await bystander.send(close_frame(1000))
            await bystander.finish()
            # Past every deadline, nothing of it is left.
            await trio.sleep(100)
            assert not server.connections
    assert flaw(attack, seen) == ""
    check_log(caplog.records, attack)


def check_log(records: list[logging.LogRecord], attack: Attack) -> None:
    lines = [
        record
        for record in records
        if record.name.startswith("trioweb") and not record.message.startswith("serving ")
    ]
    assert [line.getMessage() for line in lines if line.levelno > logging.INFO] == []
    assert not [line for line in lines if line.exc_info]
    messages = [line.getMessage() for line in lines]
    assert len(messages) == attack.logged, messages
    for message in messages:
        assert SECRET not in message
        assert message.isprintable()
        assert len(message) < 300
