"""What permessage-deflate costs and saves on JSON traffic, by its settings.

    python -m benchmarks.deflate              # the tables of docs/design/compression.md, a minute
    python -m benchmarks.deflate --grid       # every setting, several minutes

Each setting compresses the same messages (`benchmarks.deflate_traffic`). Times are of one core, the
least of three rounds; memory is the resident set of a fresh process with a thousand contexts.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import os
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.deflate_traffic import KINDS, traffic
from trioweb import Deflate, Side
from trioweb.protocol.deflate import Agreement, Deflater, Inflater

ROUNDS = 3
CONTEXTS = 1000
BANDS = [(0, 128), (128, 256), (256, 512), (512, 1024), (1024, 2048), (2048, 8192), (8192, 32768)]
THRESHOLDS = [0, 128, 256, 512, 1024, 2048]
#: Some of the settings that matter: (level, memory level, window).
SELECTED = [
    (1, 1, 9),
    (1, 5, 10),
    (1, 5, 12),
    (1, 8, 12),
    (1, 5, 15),
    (1, 8, 15),
    (3, 5, 12),
    (6, 5, 12),
    (6, 8, 15),
]
#: What others do unless told: (level, memory level, window, takeover). zlib's -1 is level 6.
PEERS = {
    "websockets (both ends)": (6, 5, 12, True),
    "aiohttp (server)": (1, 8, 15, True),
    "zlib (and ws, when switched on)": (6, 8, 15, True),
}


class Cost(NamedTuple):
    """What one setting makes of some messages."""

    #: Size on the wire beside the size of the messages.
    ratio: float
    #: Microseconds a message.
    compressing: float
    inflating: float


def ends(level: int, memory: int, window: int, *, takeover: bool) -> tuple[Deflater, Inflater]:
    """Return a server's compressor, and its client's other end."""
    options = Deflate(level=level, memory_level=memory, window_bits=window, threshold=0)
    agreement = Agreement(not takeover, not takeover, window, window)
    return Deflater(options, agreement, Side.SERVER), Inflater(agreement, Side.CLIENT, 2**20)


def measure(
    messages: Sequence[bytes], level: int, memory: int, window: int, *, takeover: bool
) -> Cost:
    """Compress all the messages and inflate them again."""
    compressing = inflating = float("inf")
    payloads: list[bytes] = []
    for _ in range(ROUNDS):
        deflater, inflater = ends(level, memory, window, takeover=takeover)
        start = time.process_time()
        payloads = [deflater.compress(message) for message in messages]
        middle = time.process_time()
        for payload in payloads:
            inflater.feed(payload)
            inflater.finish()
        compressing = min(compressing, middle - start)
        inflating = min(inflating, time.process_time() - middle)
    each = 1e6 / len(messages)
    ratio = sum(map(len, payloads)) / sum(map(len, messages))
    return Cost(ratio, compressing * each, inflating * each)


def row(*cells: object) -> None:
    """Print a row of a table."""
    shown = (f"{cell:.1f}" if isinstance(cell, float) else str(cell) for cell in cells)
    print(f"| {' | '.join(shown)} |", flush=True)


def table(title: str, *columns: str) -> None:
    """Print a heading, and the head of a table."""
    print(f"\n{title}\n")
    row(*columns)
    print("|" + "-|" * len(columns))


def percent(ratio: float) -> str:
    """Return a ratio to print."""
    return f"{ratio:.0%}"


def settings(messages: Sequence[bytes], chosen: Iterable[tuple[int, int, int]]) -> None:
    """Print what settings cost, without context takeover and with it."""
    columns = ("left", "compress us", "inflate us")
    table(
        "By setting",
        "level",
        "memory",
        "window",
        *columns,
        *(f"{one}, takeover" for one in columns),
    )
    for level, memory, window in chosen:
        cells: list[object] = [level, memory, window]
        for takeover in (False, True):
            cost = measure(messages, level, memory, window, takeover=takeover)
            cells += [percent(cost.ratio), cost.compressing, cost.inflating]
        row(*cells)


def peers(messages: Sequence[bytes]) -> None:
    """Print what the defaults of others cost."""
    table(
        "Defaults of others", "", "level", "memory", "window", "left", "compress us", "inflate us"
    )
    for name, (level, memory, window, takeover) in PEERS.items():
        cost = measure(messages, level, memory, window, takeover=takeover)
        row(name, level, memory, window, percent(cost.ratio), cost.compressing, cost.inflating)


def sizes(messages: Sequence[bytes]) -> None:
    """Print what compression gains for messages of a size, without takeover and with it."""
    table(
        "By size (level 1, memory 5, window 12)",
        *("bytes", "messages", "left", "bytes saved", "compress us", "inflate us"),
        *("bytes saved a us", "left, takeover"),
    )
    # With takeover a message's cost depends on those before it: one stream for all.
    deflater = ends(1, 5, 12, takeover=True)[0]
    taken_over = [(len(message), len(deflater.compress(message))) for message in messages]
    for least, most in BANDS:
        band = [message for message in messages if least <= len(message) < most]
        cost = measure(band, 1, 5, 12, takeover=False)
        saved = sum(map(len, band)) / len(band) * (1 - cost.ratio)
        over = [pair for pair in taken_over if least <= pair[0] < most]
        left_over = sum(pair[1] for pair in over) / sum(pair[0] for pair in over)
        row(
            *(f"{least} to {most}", len(band), percent(cost.ratio), f"{saved:.0f}"),
            *(cost.compressing, cost.inflating, saved / (cost.compressing + cost.inflating)),
            percent(left_over),
        )


def thresholds(messages: Sequence[bytes]) -> None:
    """Print what thresholds leave of all traffic, and what they cost an average message."""
    table(
        "By threshold (level 1, memory 5, window 12, no takeover)",
        *("threshold", "compressed messages", "left", "compress us", "inflate us"),
    )
    total = sum(map(len, messages))
    for threshold in THRESHOLDS:
        large = [message for message in messages if len(message) >= threshold]
        cost = measure(large, 1, 5, 12, takeover=False)
        share = len(large) / len(messages)
        left = 1 - sum(map(len, large)) * (1 - cost.ratio) / total
        times = cost.compressing * share, cost.inflating * share
        row(threshold, percent(share), percent(left), *times)


def kinds() -> None:
    """Print what compression leaves of each kind of message."""
    table("By kind (level 1, memory 5, window 12)", "kind", "bytes", "left", "left, takeover")
    for name in KINDS:
        messages = traffic(1000, only=name)
        costs = [measure(messages, 1, 5, 12, takeover=takeover) for takeover in (False, True)]
        size = sum(map(len, messages)) // len(messages)
        row(name, size, *(percent(cost.ratio) for cost in costs))


# --- memory ----------------------------------------------------------------------------------


def resident() -> int:
    """Return the bytes of this process that are in memory."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def contexts(level: int, memory: int, window: int, takeover: int) -> None:
    """Print the KiB of a compressor and of an inflater: made, after use, and once released."""
    messages = [message for message in traffic(200) if len(message) > 2000]
    one, two = ends(level, memory, window, takeover=bool(takeover))
    payloads = [one.compress(message) for message in messages]
    for payload in payloads:  # what is loaded once is not counted
        two.feed(payload)
        two.finish()
    del one, two
    tracemalloc.start()  # for what is less than a page; what zlib takes it does not see
    made = [ends(level, memory, window, takeover=bool(takeover)) for _ in range(CONTEXTS)]
    objects = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    found = [resident()]
    for _, inflater in made:
        for payload in payloads:
            inflater.feed(payload)
            inflater.finish()
    found.append(resident())
    for deflater, _ in made:
        for message in messages:
            deflater.compress(message)
    found.append(resident())
    for deflater, _ in made:
        deflater.release()
    found.append(resident())
    received, sent, released = ((after - found[0]) / CONTEXTS / 1024 for after in found[1:])
    kib = objects / CONTEXTS / 1024
    print(kib, kib + received, kib + sent, kib + released)


def memory_table() -> None:
    """Print the memory of a connection's two contexts, each setting in a fresh process."""
    table(
        "Memory of a connection, KiB (level 1)",
        *("memory", "window", "takeover", "agreed on", "has received", "and sent"),
        "released",
    )
    for memory, window, takeover in [(5, 12, 0), (8, 15, 0), (5, 12, 1), (8, 12, 1), (8, 15, 1)]:
        command = [sys.executable, "-m", "benchmarks.deflate", "--contexts", "1"]
        done = subprocess.run(
            [*command, *map(str, (memory, window, takeover))],
            check=True,
            capture_output=True,
            text=True,
        )
        row(memory, window, "yes" if takeover else "no", *map(float, done.stdout.split()))


def main() -> None:
    """Parse the options, measure, print."""
    parser = argparse.ArgumentParser(description="What permessage-deflate costs and saves.")
    parser.add_argument("--grid", action="store_true", help="every setting")
    parser.add_argument("--messages", type=int, default=3000)
    parser.add_argument("--contexts", type=int, nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contexts:
        contexts(*options.contexts)
        return
    messages = traffic(options.messages)
    lengths = sorted(map(len, messages))
    print(
        f"{len(messages)} messages: mean {sum(lengths) // len(lengths)} bytes, "
        f"median {lengths[len(lengths) // 2]}, from {lengths[0]} to {lengths[-1]}"
    )
    every = itertools.product((1, 3, 6), (1, 5, 8), range(9, 16))
    settings(messages, every if options.grid else SELECTED)
    peers(messages)
    kinds()
    sizes(messages)
    thresholds(messages)
    memory_table()


if __name__ == "__main__":
    main()
