"""History in a file, by the SQLite of the standard library: it outlives the process."""

from __future__ import annotations

import math
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from ..config import Retention
from ..errors import StoreFailed
from ..positions import Entry, Page, Position
from .transactions import Transactions

__all__ = ["SQLiteStore"]

#: Seconds between two looks for what is over its age in topics that nobody appends to.
_SWEEP = 60.0
#: Entries that go in one such look.
_SWEPT = 10_000
#: Seconds to wait for another process that writes to the same file.
_PATIENCE = 10.0

_VERSION = 1
#: ``start`` is how many bytes the topic had seen before the entry, so that sizes are differences.
#: Within a topic ``deadline`` never falls, so what is over is at the beginning.
_SCHEMA = (
    """CREATE TABLE topics (
        id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, epoch TEXT NOT NULL,
        newest INTEGER NOT NULL, total INTEGER NOT NULL, deadline REAL NOT NULL, used REAL NOT NULL
    )""",
    """CREATE TABLE entries (
        topic INTEGER NOT NULL, number INTEGER NOT NULL, start INTEGER NOT NULL,
        deadline REAL NOT NULL, data BLOB NOT NULL, PRIMARY KEY (topic, number)
    )""",
    "CREATE INDEX entries_by_deadline ON entries (deadline)",
    "CREATE INDEX topics_by_use ON topics (used)",
    f"PRAGMA user_version = {_VERSION}",
)


class SQLiteStore:
    """A `trioweb.abc.Store` in a file: ``async with SQLiteStore("history.db") as store:``.

    An append that has returned is on the disk: it survives ``kill -9`` and the loss of power, and
    so do epochs. Appends that come while the disk is busy wait, and go into one transaction
    together, so the more there are the cheaper each one is. Cancelled means not appended: once
    the disk has it, the append waits for the end of that transaction. Several processes of one
    machine may use the same file, which must not be on a network's file system.

    A topic that has no entries left, and was not used for ``forget_after`` seconds (30 days), is
    forgotten with its numbering. Space in the file is used again, and not given back.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        forget_after: float = 30 * 24 * 3600,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Name the file. ``clock`` gives the time of day, for ages; it must outlive the process."""
        if not forget_after > 0:
            raise ValueError(f"forget_after must be positive, not {forget_after!r}")
        self._path = str(path)
        self._forget_after = forget_after
        self._clock = clock
        self._swept = -math.inf
        self._writer = Transactions("BEGIN IMMEDIATE")
        self._reader = Transactions("BEGIN")

    async def __aenter__(self) -> Self:
        """Open the file, or make it. Raises `trioweb.StoreFailed` where that cannot be."""
        await self._writer.open(partial(_open, self._path))
        try:
            await self._reader.open(partial(_connect, self._path))
        except BaseException:
            await self._writer.aclose()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Finish what is under way and close the file. Later calls: `trio.ClosedResourceError`."""
        try:
            await self._reader.aclose()
        finally:  # it ends with a checkpoint, which may raise
            await self._writer.aclose()

    async def append(self, topic: str, data: bytes, /, retention: Retention) -> Position:
        """Keep an entry under the next number, and return that once it is on the disk."""
        topic.encode()  # raises for surrogates here, not amid the others' transaction
        now = self._clock()
        return await self._writer.run(partial(self._append, topic, bytes(data), retention, now))

    async def read(
        self, topic: str, /, after: Position | None = None, *, limit: int, max_bytes: int
    ) -> Page:
        """Return the entries after a position, or the newest ones; and the newest number."""
        topic.encode()
        now = self._clock()
        stale = now - self._forget_after / 2
        read = partial(_read, topic, after, limit, max_bytes, now, stale)
        while (page := await self._reader.run(read)) is None:
            await self._writer.run(partial(_use, topic, now))
        return page

    async def remove(self, topic: str, /) -> None:
        """Forget a topic. Whoever names it next begins a new epoch."""
        topic.encode()
        await self._writer.run(partial(_remove, topic))

    def _append(
        self,
        name: str,
        data: bytes,
        retention: Retention,
        now: float,
        connection: sqlite3.Connection,
    ) -> Position:
        if now > self._swept + _SWEEP:
            _sweep(connection, now, now - self._forget_after)
            self._swept = now
        return _append(connection, name, data, retention, now, now - self._forget_after / 2)


class _Row(NamedTuple):
    """What is kept of a topic itself."""

    id: int
    epoch: str
    newest: int
    total: int
    deadline: float


_TOPIC = "SELECT id, epoch, newest, total, deadline FROM topics WHERE name = ? AND used > ?"
_AFTER = """SELECT number, data FROM entries WHERE topic = ? AND number > ? AND deadline > ?
    ORDER BY number LIMIT ?"""
_NEWEST = """SELECT number, data FROM entries WHERE topic = ? AND number > ? AND deadline > ?
    ORDER BY number DESC LIMIT ?"""


def _use(name: str, now: float, connection: sqlite3.Connection) -> _Row:
    """Return a topic, which begins now if it is new, and note that it was used."""
    connection.execute(
        "INSERT INTO topics (name, epoch, newest, total, deadline, used) VALUES (?, ?, 0, 0, 0, ?)"
        " ON CONFLICT (name) DO UPDATE SET used = excluded.used",
        (name, secrets.token_hex(8), now),
    )
    return _Row._make(connection.execute(_TOPIC, (name, -math.inf)).fetchone())


def _append(
    connection: sqlite3.Connection,
    name: str,
    data: bytes,
    retention: Retention,
    now: float,
    stale: float,
) -> Position:
    found = connection.execute(_TOPIC, (name, stale)).fetchone()
    topic = _use(name, now, connection) if found is None else _Row._make(found)
    number, start = topic.newest + 1, topic.total
    total, deadline = start + len(data), now + retention.max_age
    execute = connection.execute
    if deadline < topic.deadline:  # a shorter age from now on, or the clock was set back
        execute(
            "UPDATE entries SET deadline = ?1 WHERE topic = ?2 AND deadline > ?1",
            (deadline, topic.id),
        )
    execute(
        "INSERT INTO entries (topic, number, start, deadline, data) VALUES (?, ?, ?, ?, ?)",
        (topic.id, number, start, deadline, data),
    )
    execute(
        "UPDATE topics SET newest = ?, total = ?, deadline = ? WHERE id = ?",
        (number, total, deadline, topic.id),
    )
    oldest = execute(
        "SELECT number FROM entries WHERE topic = ? AND number > ? AND start >= ? AND deadline > ?"
        " ORDER BY number LIMIT 1",
        (
            topic.id,
            max(0, number - retention.max_entries),
            max(0, total - retention.max_bytes),
            now,
        ),
    ).fetchone()
    execute(
        "DELETE FROM entries WHERE topic = ? AND number < ?",
        (topic.id, number + 1 if oldest is None else oldest[0]),
    )
    return Position(topic.epoch, number)


def _read(
    name: str,
    after: Position | None,
    limit: int,
    max_bytes: int,
    now: float,
    stale: float,
    connection: sqlite3.Connection,
) -> Page | None:
    """Return a page; None for a topic that must be made, or its use noted, before."""
    found = connection.execute(_TOPIC, (name, stale)).fetchone()
    if found is None:
        return None
    topic = _Row._make(found)
    position = Position(topic.epoch, topic.newest)
    limit = min(limit, topic.newest)  # what SQLite cannot hold would fail all who read now
    if limit == 0 or (
        after is not None and (after.epoch != topic.epoch or after.offset >= topic.newest)
    ):
        return Page(position)
    if after is None:
        rows = connection.execute(_NEWEST, (topic.id, 0, now, limit))
        return Page(position, tuple(reversed(_take(rows, max_bytes))))
    rows = connection.execute(_AFTER, (topic.id, after.offset, now, limit))
    return Page(position, tuple(_take(rows, max_bytes)))


def _take(rows: Iterable[tuple[int, bytes]], max_bytes: int) -> list[Entry]:
    """Return the first ones: as many as fit, and one whatever its size."""
    taken: list[Entry] = []
    size = 0
    for number, data in rows:
        size += len(data)
        if taken and size > max_bytes:
            break
        taken.append(Entry(number, data))
    return taken


def _remove(name: str, connection: sqlite3.Connection) -> None:
    execute = connection.execute
    execute("DELETE FROM entries WHERE topic = (SELECT id FROM topics WHERE name = ?)", (name,))
    execute("DELETE FROM topics WHERE name = ?", (name,))


def _sweep(connection: sqlite3.Connection, now: float, unused_since: float) -> None:
    """Let go what is over its age, and topics without entries that nobody uses."""
    execute = connection.execute
    execute(
        "DELETE FROM entries WHERE rowid IN"
        " (SELECT rowid FROM entries WHERE deadline <= ? ORDER BY deadline, rowid LIMIT ?)",
        (now, _SWEPT),
    )
    execute(
        "DELETE FROM topics WHERE used <= ?"
        " AND NOT EXISTS (SELECT 1 FROM entries WHERE topic = topics.id)",
        (unused_since,),
    )


def _connect(path: str) -> sqlite3.Connection:
    # Each connection is used by one thread at a time, but not always by the same.
    connection = sqlite3.connect(
        path, timeout=_PATIENCE, isolation_level=None, check_same_thread=False
    )
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
    except BaseException:
        connection.close()
        raise
    return connection


def _open(path: str) -> sqlite3.Connection:
    """Open the file for writing, and make what it must have."""
    connection = _connect(path)
    try:
        _prepare(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection, path: str) -> None:
    connection.execute("BEGIN IMMEDIATE")
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version == 0:
        for statement in _SCHEMA:
            connection.execute(statement)
    elif version != _VERSION:
        raise StoreFailed(f"{path} is of version {version}, not {_VERSION}")
    connection.execute("COMMIT")
