"""A program that appends for ever, and prints each position once it is acknowledged.

Its parent kills it. What it has printed must be in the file.
"""

from __future__ import annotations

import sys

import trio

from trioweb import Retention
from trioweb.stores.sqlite import SQLiteStore

TASKS = 20
RETENTION = Retention(max_entries=1_000_000, max_bytes=2**40, max_age=3600)


async def main(path: str) -> None:
    async with SQLiteStore(path) as store, trio.open_nursery() as nursery:

        async def append(topic: str, task: int) -> None:
            number = 0
            while True:
                number += 1
                position = await store.append(topic, b"%d %d" % (task, number), RETENTION)
                line = f"{topic} {position.epoch} {position.offset} {task} {number}\n"
                sys.stdout.write(line)
                sys.stdout.flush()

        for task in range(TASKS):
            nursery.start_soon(append, "ab"[task % 2], task)


if __name__ == "__main__":
    trio.run(main, sys.argv[1])
