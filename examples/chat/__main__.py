"""``python -m examples.chat``: serve the chat and its page on one port."""

from __future__ import annotations

import argparse
import logging
import re
import secrets
import signal
import sys
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import trio

import trioweb

from .chat import ROOMS
from .server import Options, serve_chat


def main(argv: list[str] | None = None) -> int:
    """Run the chat until SIGINT or SIGTERM; return the exit status."""
    arguments = _parser().parse_args(argv)
    logging.basicConfig(
        level=arguments.log_level.upper(),
        format="%(asctime)s %(levelname)-7s %(name)s: %(message)s",
    )
    options = Options(
        history=arguments.history,
        host=arguments.host,
        port=arguments.port,
        rooms=tuple(arguments.rooms),
        word=arguments.word or secrets.token_urlsafe(9),
    )
    return trio.run(_serve, options)


async def _serve(options: Options) -> int:
    trouble = ""
    try:
        async with trio.open_nursery() as nursery:
            signals = (signal.SIGINT, signal.SIGTERM)
            server: trioweb.Server = await nursery.start(
                partial(serve_chat, options, signals=signals)
            )
            address = _address(options.host, server.url)
            print(f"Chat: {address}  (Ctrl-C ends it)", flush=True)
            print(f"For moderators: {address}#word={options.word}", flush=True)
    except* OSError as failed:
        trouble = f"Cannot open port {options.port} on {options.host}: {failed.exceptions[0]}"
    except* trioweb.StoreFailed as failed:
        trouble = f"Cannot keep the history in {options.history}: {failed.exceptions[0]}"
    if trouble:
        print(trouble, file=sys.stderr)
    return 1 if trouble else 0


def _address(host: str, url: str) -> str:
    """Return the page's address: by the name that was asked for, where that is one."""
    if host in ("", "0.0.0.0", "::"):  # noqa: S104 - every address is none to go to
        host = "localhost"
    elif ":" in host:
        host = f"[{host}]"
    return f"http://{host}:{urlsplit(url).port}/"


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"expected a port from 0 to 65535, not {text!r}")
    return int(text)


def _room(text: str) -> str:
    if not re.fullmatch(r"[\w.-]{1,30}", text):
        raise argparse.ArgumentTypeError(f"expected letters and digits, not {text!r}")
    return text


def _word(text: str) -> str:
    if not re.fullmatch(r"[\w.-]{8,100}", text, re.ASCII):
        raise argparse.ArgumentTypeError("expected at least 8 letters and digits")
    return text


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m examples.chat",
        description="A chat with rooms and private messages, of which nobody misses any.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--host", default="localhost", help="address to listen on; 0.0.0.0 for the whole network")
    add("--port", type=_port, default=8000, help="port to listen on; 0 for any that is free")
    add("--history", type=Path, default="chat.db", metavar="FILE", help="where messages are kept")
    add("--rooms", type=_room, nargs="+", default=ROOMS, metavar="ROOM", help="the rooms there are")
    add("--word", type=_word, help="what makes a moderator; by default drawn, and printed")
    add(
        "--log-level",
        choices=["debug", "info", "warning", "error"],
        default="info",
        help="how much to say on standard error",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
