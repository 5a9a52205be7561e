"""The chat as a server: its history in a file, and the page on the same port."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import trio

import trioweb
from trioweb.browser import browser_files
from trioweb.pages import OnRequest
from trioweb.stores.sqlite import SQLiteStore

from .chat import ROOMS, Chat

__all__ = ["Options", "serve_chat"]

PAGE = Path(__file__).with_name("page")

#: The page has no scripts, styles or pictures but the server's, so whatever somebody says cannot
#: become one.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:;"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = [("Content-Security-Policy", POLICY), ("Referrer-Policy", "no-referrer")]

#: All that one browser may send, far above what a person can: it waits, and nothing is lost.
GUARD = trioweb.Guard(messages=[trioweb.RateLimit(per_second=50, burst=200)])

#: Bytes of a call: a text in any script, and what is around it.
MAX_MESSAGE = 2**14


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line may set."""

    history: Path
    host: str = "localhost"
    port: int = 8000
    rooms: Sequence[str] = ROOMS
    #: What makes a moderator.
    word: str = ""


async def serve_chat(
    options: Options,
    *,
    signals: Sequence[signal.Signals] = (),
    task_status: trio.TaskStatus[trioweb.Server] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve the chat until it is drained or cancelled.

    ``task_status`` gives the `trioweb.Server` once the port is open. Raises `OSError` if that
    cannot be, `trioweb.StoreFailed` if the history cannot be opened.
    """
    async with (
        SQLiteStore(options.history) as store,
        Chat(store, rooms=options.rooms, word=options.word) as chat,
        trioweb.open_server(
            chat.handle,
            options.port,
            host=options.host,
            authenticate=trioweb.FirstMessage(chat.check_join),
            on_request=_site(),
            guard=GUARD,
            limits=trioweb.Limits(max_message=MAX_MESSAGE),
            signals=signals,
        ) as server,
    ):
        chat.server = server
        task_status.started(server)
        await server.wait_drained()


def _site() -> OnRequest:
    site = trioweb.Site({"/": PAGE, **browser_files()}, health="/health")

    async def answer(request: trioweb.Request) -> trioweb.Response | None:
        response = await site(request)
        if response is None:
            return None
        headers = trioweb.Headers([*response.headers.pairs(), *HEADERS])
        return replace(response, headers=headers)

    return answer
