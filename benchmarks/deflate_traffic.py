"""JSON as real-time applications send it, from 60 bytes to 20 KiB, the same at every run."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from pydoc_data.topics import topics

_Draw = Callable[[random.Random, int], object]
#: English as people write it: the standard library's own, the prose of its reference.
_PROSE = re.sub(r"[^A-Za-z0-9.,;:?!' ]+", " ", " ".join(topics.values()))
_WORDS = re.sub(" +", " ", _PROSE)
_SYMBOLS = ["BTC-USD", "ETH-USD", "SOL-USD", "EUR-USD", "GBP-USD", "AAPL", "MSFT", "NVDA", "TSLA"]
_TIME = 1_767_225_600_000


def _text(chance: random.Random, least: int, most: int) -> str:
    size = chance.randint(least, most)
    start = chance.randrange(len(_WORDS) - size)
    return _WORDS[start : start + size].strip()


def _id(chance: random.Random) -> str:
    return f"{chance.getrandbits(96):024x}"


def _user(chance: random.Random) -> dict[str, object]:
    number = int(chance.paretovariate(1)) % 800  # a few say most
    return {"id": number * 7919, "name": f"user{number}", "avatar": f"/a/{number * 31:x}.png"}


def _ticker(chance: random.Random, number: int) -> object:
    price = chance.uniform(1, 60_000)
    return {
        "type": "ticker",
        "symbol": chance.choice(_SYMBOLS),
        "price": f"{price:.2f}",
        "bid": f"{price - 0.01:.2f}",
        "ask": f"{price + 0.01:.2f}",
        "size": f"{chance.random():.6f}",
        "sequence": 8_000_000 + number,
        "time": _TIME + number * 37,
    }


def _presence(chance: random.Random, number: int) -> object:
    state = chance.choice(["online", "away", "typing"])
    return {"type": "presence", "user": chance.randint(1, 9999), "state": state, "seq": number}


def _chat(chance: random.Random, number: int) -> object:
    return {
        "type": "message",
        "id": _id(chance),
        "room": f"room-{chance.randint(1, 20)}",
        "user": _user(chance),
        "text": _text(chance, 5, int(min(20 * chance.paretovariate(0.9), 1500)) + 6),
        "time": _TIME + number * 1511,
        "reactions": [],
        "reply_to": chance.choice([None, None, _id(chance)]),
    }


def _entity(chance: random.Random, number: int) -> dict[str, object]:
    return {
        "id": number,
        "x": round(chance.uniform(0, 4000), 2),
        "y": round(chance.uniform(0, 4000), 2),
        "vx": round(chance.uniform(-8, 8), 2),
        "vy": round(chance.uniform(-8, 8), 2),
        "hp": chance.randint(0, 100),
    }


def _delta(chance: random.Random, number: int) -> object:
    moved = sorted(chance.sample(range(200), chance.randint(2, 25)))
    return {"type": "delta", "tick": number, "changed": [_entity(chance, one) for one in moved]}


def _snapshot(chance: random.Random, number: int) -> object:
    count = chance.randint(40, 200)
    return {"type": "state", "tick": number, "all": [_entity(chance, one) for one in range(count)]}


def _answer(chance: random.Random, number: int) -> object:
    items = [
        {
            "id": _id(chance),
            "title": _text(chance, 20, 60).title(),
            "summary": _text(chance, 40, 240),
            "author": _user(chance),
            "tags": chance.sample(["news", "sport", "music", "science", "games", "travel"], 2),
            "price": {"amount": chance.randint(100, 99_999), "currency": "EUR"},
            "in_stock": chance.random() < 0.8,
            "created_at": f"2026-0{chance.randint(1, 9)}-1{chance.randint(0, 9)}T08:30:00Z",
        }
        for _ in range(chance.randint(5, 40))
    ]
    return {"jsonrpc": "2.0", "id": number, "result": {"items": items, "next": _id(chance)}}


#: How often of a hundred messages each kind comes.
KINDS: dict[str, tuple[int, _Draw]] = {
    "ticker": (30, _ticker),
    "presence": (15, _presence),
    "chat": (30, _chat),
    "game delta": (18, _delta),
    "game snapshot": (4, _snapshot),
    "API list": (3, _answer),
}


def traffic(count: int, only: str | None = None) -> list[bytes]:
    """Make messages, of one kind or of all; the seed is fixed."""
    chance = random.Random(7)  # noqa: S311 - chance that can be repeated
    names = list(KINDS)
    weights = [KINDS[name][0] for name in names]
    drawn = chance.choices(names, weights, k=count) if only is None else [only] * count
    messages = [KINDS[name][1](chance, number) for number, name in enumerate(drawn)]
    return [json.dumps(message, separators=(",", ":")).encode() for message in messages]
