"""What a connection tells of itself."""

from __future__ import annotations

import pytest

import trioweb
from trioweb.testing import Conditions, Reset, open_pair, run


def test_nothing_is_queued_any_more_once_it_is_over() -> None:
    async def main() -> None:
        async with open_pair(conditions=Conditions(buffer=1000)) as (client, _, link):
            await client.send("x" * 70_000)
            assert client.statistics().outbox_bytes > 60_000
            link.inject(Reset())
            with pytest.raises(trioweb.ConnectionBroken):
                await client.receive()
            after = client.statistics()
            assert (after.outbox_bytes, after.outbox_frames) == (0, 0)
            assert after.bytes_sent < 2000  # what was dropped does not count as sent

    run(main, seed=0)
