"""Memory of an idle connection in trioweb and its peers: ``python -m benchmarks.memory``.

The server has a process of its own; its resident set is read from ``/proc`` before and after
so many connections are opened. They are raw sockets that upgrade and then say nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import socket
import statistics
import sys
import time
from pathlib import Path

from benchmarks.servers import LOAD_CORE, SERVERS, pin, running, title
from benchmarks.wire import close, connect, raise_file_limit

SPARE_FILES = 100
WARM_UP = 100
OPEN_WITHIN = 60.0
SETTLE_WITHIN = 10.0


def resident(process: int) -> int:
    """Return the bytes of a process that are in memory."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def settled(process: int) -> int:
    """Return the resident bytes once they stay the same for a second, or after ten."""
    last, since = resident(process), time.monotonic()
    give_up = since + SETTLE_WITHIN
    while time.monotonic() < min(since + 1, give_up):
        time.sleep(0.1)
        if (now := resident(process)) != last:
            last, since = now, time.monotonic()
    return last


def open_idle(port: int, count: int) -> list[socket.socket]:
    """Open so many connections, one after the other, in bounded time."""
    give_up = time.monotonic() + OPEN_WITHIN
    idle: list[socket.socket] = []
    while len(idle) < count:
        if time.monotonic() > give_up:
            raise TimeoutError(f"only {len(idle)} connections in {OPEN_WITHIN:.0f} seconds")
        idle.append(connect(port))
    return idle


def ended(connections: list[socket.socket]) -> int:
    """Return how many the server has ended meanwhile; there should be none."""
    poll = select.poll()
    for sock in connections:
        poll.register(sock, select.POLLRDHUP)
    return len(poll.poll(0))


def measure(name: str, count: int) -> float:
    """Return the KiB that one idle connection costs a fresh server."""
    with running(name) as (process, port):
        for sock in open_idle(port, WARM_UP):  # what is loaded and cached once is not counted
            close(sock)
        before = settled(process)
        idle = open_idle(port, count)
        after = settled(process)
        if lost := ended(idle):
            raise RuntimeError(f"{name} ended {lost} of {count} idle connections")
        for sock in idle:
            sock.close()
    return (after - before) / count / 1024


def main() -> None:
    """Parse the options, measure, print."""
    parser = argparse.ArgumentParser(description="KiB for an idle connection, side by side.")
    parser.add_argument("servers", nargs="*", default=list(SERVERS), help=", ".join(SERVERS))
    parser.add_argument("--connections", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="1,000 connections, one round")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    if unknown := set(options.servers) - set(SERVERS):
        parser.error(f"no such server: {', '.join(unknown)}")
    count, rounds = (1000, 1) if options.quick else (options.connections, options.rounds)
    count = min(count, raise_file_limit() - SPARE_FILES)
    pin(LOAD_CORE)
    costs: dict[str, list[float]] = {name: [] for name in options.servers}
    for _ in range(rounds):
        for name in options.servers:
            costs[name].append(measure(name, count))
            print(".", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    print(f"| {count:,} idle connections | KiB each |\n|-|-|")
    for name in options.servers:
        print(f"| {title(name)} | {statistics.median(costs[name]):.1f} |")
    if options.json:
        options.json.write_text(json.dumps({"connections": count, "KiB": costs}, indent=2) + "\n")


if __name__ == "__main__":
    main()
