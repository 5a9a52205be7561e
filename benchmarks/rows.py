"""The rows of the benchmark and the systems that are compared in them."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class System:
    """One server: the key of its echo in `servers`, and what it is called."""

    title: str
    server: str
    #: Distributions (or, for Node, npm packages) whose versions the report names.
    packages: tuple[str, ...]
    #: The kinds of rows that it takes part in, beside echo.
    kinds: frozenset[str]
    environment: dict[str, str] = field(default_factory=dict[str, str])


_SOCKET = frozenset({"echo", "tls", "handshakes", "idle", "start"})
_DEFLATE = frozenset({"deflate", "idle-deflate"})
_BROADCAST = frozenset({"broadcast"})
_ALL = _SOCKET | _DEFLATE | _BROADCAST
#: What only trioweb has here.
_OWN = frozenset({"room", "json"})

#: By the name that ``--systems`` takes. picows's listeners and trio-websocket cannot compress.
SYSTEMS: dict[str, System] = {
    "trioweb": System("trioweb", "trioweb", ("trioweb", "trio", "wsproto"), _ALL | _OWN),
    "trioweb-pure": System(
        "trioweb (pure)",
        "trioweb",
        ("trioweb", "trio", "wsproto"),
        _ALL | _OWN,
        {"TRIOWEB_PURE": "1"},
    ),
    "trio-websocket": System(
        "trio-websocket", "trio-websocket", ("trio-websocket", "trio", "wsproto"), _SOCKET
    ),
    "websockets.trio": System(
        "websockets.trio", "websockets.trio", ("websockets", "trio"), _SOCKET | _DEFLATE
    ),
    "websockets": System("websockets (asyncio)", "websockets", ("websockets",), _ALL),
    "aiohttp": System("aiohttp", "aiohttp", ("aiohttp",), _ALL),
    "picows": System("picows + uvloop", "picows", ("picows", "uvloop"), _SOCKET | _BROADCAST),
    "ws": System("Node ws", "ws", ("ws",), _ALL),
    "raw": System("raw Trio TCP", "raw", ("trio",), frozenset({"echo", "tls", "idle"})),
}


@dataclass(frozen=True)
class Row:
    """One line of the report."""

    title: str
    #: What must be in `System.kinds`; "echo", "tls", "deflate", "broadcast" and
    #: "room" are rates too.
    kind: str
    #: The load's mode and options (``load.c``).
    mode: str
    load: dict[str, int]
    unit: str
    #: Server options: see `servers.Options`.
    batch: int = 0
    app: str = ""
    room: str = ""
    #: Whether more is better.
    more: bool = True
    #: Rows of one group are compared with one another, and have their rounds together.
    group: str = ""

    @property
    def timed(self) -> bool:
        """Whether the load runs for some time, over several rounds."""
        return self.mode in ("echo", "broadcast", "handshakes")

    @property
    def compressed(self) -> bool:
        """Whether the load asks for permessage-deflate."""
        return "deflate" in self.kind


def _echo(connections: int, window: int, size: int, opcode: int) -> Row:
    what = "text" if opcode == 1 else "binary"
    text = f"{size} B" if size < 2**10 else f"{size >> 10} KiB" if size < 2**20 else "1 MiB"
    options = {"connections": connections, "window": window, "size": size, "opcode": opcode}
    return Row(f"{connections:,} x {window}, {text} {what}", "echo", "echo", options, "echoes/s")


def _rows() -> dict[str, Row]:
    rows: dict[str, Row] = {}
    for connections, window, size, label in (
        (1, 1, 32, "32"),
        (64, 1, 32, "32"),
        (64, 16, 32, "32"),
        (8, 16, 2**10, "1k"),
        (4, 4, 2**16, "64k"),
        (2, 2, 2**20, "1m"),
    ):
        for opcode, what in ((1, "text"), (2, "binary")):
            rows[f"{connections}x{window}-{label}-{what}"] = _echo(
                connections, window, size, opcode
            )
    rows["1000x1-32-text"] = _echo(1000, 1, 32, 1)
    small = {"connections": 64, "window": 1, "size": 32}
    rows["tls"] = Row("64 x 1, 32 B text, TLS", "tls", "echo", small | {"tls": 1}, "echoes/s")
    rows["deflate"] = Row(
        "64 x 1, JSON, deflate",
        "deflate",
        "echo",
        {"connections": 64, "window": 1, "deflate": 1},
        "echoes/s",
    )
    for batch in (1, 10):
        rows[f"broadcast-{batch}"] = Row(
            f"broadcast to 1,000, 32 B, {batch} a turn",
            "broadcast",
            "broadcast",
            {"connections": 1000, "batch": batch, "size": 32},
            "deliveries/s",
            batch=batch,
            group=f"broadcast-{batch}",
        )
    for name, title, app in (
        ("json", "64 x 16, small JSON", ""),
        ("typed", "the same, typed and routed", "typed"),
        ("typed-limited", "the same, rate-limited too", "limited"),
    ):
        options = {"connections": 64, "window": 16}
        rows[name] = Row(title, "json", "echo", options, "echoes/s", app=app, group="json")
    for batch in (1, 10):
        rows[f"room-{batch}"] = Row(
            f"a room of 1,000, 32 B, {batch} a turn",
            "room",
            "broadcast",
            {"connections": 1000, "batch": batch, "size": 32},
            "deliveries/s",
            batch=batch,
            room="plain",
            group=f"broadcast-{batch}",
        )
    for name, what, stalled in (
        ("room-calm", "all read", {}),
        ("room-stalled", "one does not", {"stalled": 1}),
    ):
        rows[name] = Row(
            f"a room of 1,000, 1 KiB, {what}",
            "room",
            "broadcast",
            {"connections": 1000, "size": 1024, **stalled},
            "deliveries/s",
            batch=1,
            room="small",
            group="room",
        )
    rows["handshakes"] = Row(
        "handshakes, 32 at a time", "handshakes", "handshakes", {"connections": 32}, "upgrades/s"
    )
    for name, title, connections in (
        ("idle", "idle connection", 10_000),
        ("idle-deflate", "idle connection, deflate agreed on", 10_000),
        # Some keep 250 KiB for each.
        ("idle-used", "the same after a message of 4 KiB", 2_000),
    ):
        kind = "idle" if name == "idle" else "idle-deflate"
        options = {"connections": connections, "deflate": int(kind == "idle-deflate")}
        rows[name] = Row(title, kind, "idle", options, "KiB", more=False)
    rows["start"] = Row("start to first echo", "start", "start", {}, "ms", more=False)
    return rows


#: By the name that ``--rows`` takes, in the order in which they run.
ROWS: dict[str, Row] = _rows()
