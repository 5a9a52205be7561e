"""``python -m examples.arena``: serve the arena and its page on one port."""

from __future__ import annotations

import argparse
import logging
import re
import signal
import sys
from functools import partial
from urllib.parse import urlsplit

import trio

import trioweb

from .server import Arena, Options, open_arena_listeners, serve_arena
from .world import Rules


def main(argv: list[str] | None = None) -> int:
    """Run the arena until SIGINT or SIGTERM; return the exit status."""
    arguments = _parser().parse_args(argv)
    logging.basicConfig(
        level=arguments.log_level.upper(),
        format="%(asctime)s %(levelname)-7s %(name)s: %(message)s",
    )
    width, height = arguments.size
    try:
        rules = Rules(
            width=width * Rules.grain,
            height=height * Rules.grain,
            coins=arguments.coins,
        )
    except ValueError as error:
        _parser().error(str(error))
    options = Options(arguments.host, arguments.port, arguments.bots, rules, arguments.seed)
    return trio.run(_serve, options)


async def _serve(options: Options) -> int:
    try:
        listeners = await open_arena_listeners(options.host, options.port)
    except OSError as error:
        print(f"Cannot open port {options.port} on {options.host}: {error}", file=sys.stderr)
        return 1
    async with trio.open_nursery() as nursery:
        signals = (signal.SIGINT, signal.SIGTERM)
        serve = partial(serve_arena, Arena(options), listeners, signals=signals)
        server: trioweb.Server = await nursery.start(serve)
        print(f"Arena: {_address(options.host, server.url)}  (Ctrl-C ends it)", flush=True)
    return 0


def _address(host: str, url: str) -> str:
    """Return the page's address: by the name that was asked for, where that is one."""
    if host in ("", "0.0.0.0", "::"):  # noqa: S104 - every address is none to go to
        host = "localhost"
    elif ":" in host:
        host = f"[{host}]"
    return f"http://{host}:{urlsplit(url).port}/"


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"expected WIDTHxHEIGHT such as 2400x1500, not {text!r}")
    return int(match[1]), int(match[2])


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) > 1000:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 1000, not {text!r}")
    return int(text)


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"expected a port from 0 to 65535, not {text!r}")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m examples.arena",
        description="A small multiplayer arena: collect coins faster than the others.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--host", default="localhost", help="address to listen on; 0.0.0.0 for the whole network")
    add("--port", type=_port, default=8000, help="port to listen on; 0 for any that is free")
    add("--bots", type=_count, default=8, help="computer players inside the server")
    add("--coins", type=_count, default=60, help="coins lying around at any time")
    add("--size", type=_size, default="2400x1500", metavar="WxH", help="size of the arena")
    add("--seed", type=int, help="seed for coins and bots, for a game that can be repeated")
    add(
        "--log-level",
        choices=["debug", "info", "warning", "error"],
        default="info",
        help="how much to say on standard error",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
