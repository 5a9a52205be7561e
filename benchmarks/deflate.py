"""What permessage-deflate costs and saves on JSON traffic, by its settings.

    python -m benchmarks.deflate

Each row compresses the same messages: updates of a market, a chat and a game, as JSON.
"""

from __future__ import annotations

import json
import random
import time

from trioweb import Deflate, Side
from trioweb.protocol.deflate import Agreement, Deflater, Inflater

MESSAGES = 5000
SETTINGS = [
    Deflate(level=1, memory_level=1, window_bits=9),
    Deflate(level=1, memory_level=5, window_bits=12),
    Deflate(level=6, memory_level=5, window_bits=12),
    Deflate(level=1, memory_level=8, window_bits=15),
    Deflate(level=6, memory_level=8, window_bits=15),
    Deflate(level=9, memory_level=9, window_bits=15),
    Deflate(level=1, memory_level=5, window_bits=12, context_takeover=False),
    Deflate(level=6, memory_level=8, window_bits=15, context_takeover=False),
]


def traffic() -> list[bytes]:
    """Make messages of 60 to 2,000 bytes; the seed is fixed."""
    chance = random.Random(1)  # noqa: S311 - chance that can be repeated
    words = [
        "order",
        "filled",
        "at",
        "market",
        "while",
        "room",
        "two",
        "waits",
        "for",
        "an",
        "answer",
    ]
    messages: list[object] = []
    for number in range(MESSAGES):
        match number % 5:
            case 0 | 1:
                symbols = chance.sample(["BTC", "ETH", "EUR", "USD", "JPY", "SOL"], 2)
                price = round(chance.uniform(1, 60_000), 2)
                size = round(chance.random(), 4)
                ticker = {"type": "ticker", "symbol": "/".join(symbols), "price": price}
                messages.append({**ticker, "size": size, "sequence": number})
            case 2:
                text = " ".join(chance.choices(words, k=chance.randint(3, 40)))
                user = {"id": chance.randint(1, 500), "name": f"user{chance.randint(1, 500)}"}
                messages.append({"type": "chat", "room": "lobby", "user": user, "text": text})
            case _:
                players = [
                    {"id": one, "x": chance.randint(0, 4000), "y": chance.randint(0, 4000)}
                    for one in range(chance.randint(2, 40))
                ]
                messages.append({"type": "state", "tick": number, "players": players})
    return [json.dumps(message, separators=(",", ":")).encode() for message in messages]


def measure(options: Deflate, messages: list[bytes]) -> str:
    """Return one row of the table."""
    restart = not options.context_takeover
    agreement = Agreement(restart, restart, options.window_bits, options.window_bits)
    deflater = Deflater(options, agreement, Side.SERVER)
    start = time.process_time()
    payloads = [deflater.compress(message) for message in messages]
    compressing = (time.process_time() - start) / len(messages) * 1e6
    inflater = Inflater(agreement, Side.CLIENT, 2**20)
    start = time.process_time()
    for payload in payloads:
        inflater.feed(payload)
        inflater.finish()
    inflating = (time.process_time() - start) / len(messages) * 1e6
    ratio = sum(map(len, payloads)) / sum(map(len, messages))
    return (
        f"| {options.level} | {options.memory_level} | {options.window_bits} "
        f"| {'yes' if options.context_takeover else 'no'} | {ratio:.2f} | {compressing:.1f} "
        f"| {inflating:.1f} |"
    )


def main() -> None:
    """Print the table."""
    messages = traffic()
    print(f"{len(messages)} messages of {sum(map(len, messages)) / len(messages):.0f} bytes each\n")
    print("| level | memory | window | takeover | size | compress us | inflate us |")
    print("|-|-|-|-|-|-|-|")
    for options in SETTINGS:
        print(measure(options, messages), flush=True)


if __name__ == "__main__":
    main()
