"""The house: who may import whom, and how long a file may be.

The order below is the one of the design. A module imports only from modules above it; whoever
adds a module gives it a place here, which is the moment to think about where it belongs.
"""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LONGEST = 400

#: Module names below ``trioweb.``; ``x.*`` stands for every module of the package ``x``. The
#: names that do not exist yet keep their place.
LAYERS: dict[str, list[str]] = {
    "0 vocabulary": ["types", "positions", "errors", "config", "abc"],
    "1 protocol, without I/O": [
        "protocol.http",
        "protocol.deflate",
        "protocol.handshake",
        "protocol.proxy",
        "protocol.frames",
        "protocol.control",
        "protocol.assembler",
        "protocol.pure",
        # The native modules, chosen by framer.py.
        "protocol._frame",
        "protocol._payload",
        "protocol._framer",
        "protocol.framer",
        "protocol.encoder",
        "protocol.machine",
    ],
    "2 one connection": [
        "nursery",
        "parking",
        "pure_sockets",
        "_sockets",  # the native ones, chosen by transport.py
        "transport",
        "tls",
        "host",
        "pure_turns",
        "pure_lanes",
        "_lanes",  # the native ones, chosen by lanes.py
        "lanes",
        "nothing",
        "_values",  # the native one, chosen by values.py
        "values",
        "_steps",  # the native ones, chosen by steps.py
        "steps",
        "attendant",
        "gone",
        "outbox",
        "buckets",
        "inbox",  # pongs go to the outbox
        "idle",
        "reading",
        "heartbeat",
        "pings",
        "lifecycle",
        "expiry",
        "streaming",
        "connection",
        "broadcast",
    ],
    "3 two ends": [
        "credentials",
        "checks",
        "ways",
        "auth",
        "principals",
        "guard",
        "patterns",
        "routing",
        "pages",
        "forwarded",
        "listening",
        "options",
        "serving",
        "server",
        "addresses",
        "dialing",
        "client",
        "retrying",
        "states",
        "reconnect",
    ],
    "4 plug-ins": ["codecs.*", "stores.*", "brokers.*"],
    "5 toolkit": [
        "toolkit.ends",
        "toolkit.wire",
        "toolkit.typed",
        "toolkit.messages",
        "toolkit.batching",
        "toolkit.backlog",
        "toolkit.outgoing",
        "toolkit.attach",
        "toolkit.parcel",
        "toolkit.postbox",
        "toolkit.streams",
        "toolkit.calling",
        "toolkit.peer",
        "toolkit.once",
        "toolkit.methods",
        "toolkit.answering",
        "toolkit.rpc",
        "toolkit.rooms",
        "toolkit.presence",
        "toolkit.resume",
        "toolkit.publication",
        "toolkit.live",
        "toolkit.missing",
        "toolkit.relay",
        "toolkit.node",
        "toolkit.pubsub",
        "toolkit.sync",
        "toolkit.queueing",
        "toolkit.feed",
        "toolkit.subscription",
        "toolkit.topics",
        "toolkit.notices",
        "toolkit.session",
        "toolkit.endpoints",
        "toolkit.pool",
    ],
    "6 around it": ["adapters.*", "observers.*", "testing.*", "cli.*", "browser.*"],
}
VOCABULARY = LAYERS["0 vocabulary"]
PLUG_INS = LAYERS["4 plug-ins"]
ORDER = [entry for entries in LAYERS.values() for entry in entries]


def place(module: str) -> int | None:
    """Return where a module stands in the order, or None if it has no place.

    A package (its ``__init__.py``) stands where its last module does: importing from it means
    importing all that it gathers. The facade, named ``""``, stands after everything.
    """
    if not module:
        return len(ORDER)
    found = None
    for index, entry in enumerate(ORDER):
        package, _, last = entry.rpartition(".")
        if module in (entry, package) or (last == "*" and module.startswith(f"{package}.")):
            found = index
    return found


def imported(module: str, source: str, *, is_package: bool = False) -> Iterator[tuple[int, str]]:
    """Yield (line, absolute name) for all that a module of trioweb imports, wherever it does so.

    Imports under ``TYPE_CHECKING`` count: a type that points upwards is a dependency too.
    """
    parts = ["trioweb", *filter(None, module.split("."))]
    package = parts if is_package else parts[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            origin = ".".join([*base, *filter(None, [node.module])])
            for alias in node.names:
                yield node.lineno, f"{origin}.{alias.name}"


def target(name: str) -> str | None:
    """Return the module of trioweb that an imported name belongs to; None for foreign ones."""
    if name != "trioweb" and not name.startswith("trioweb."):
        return None
    module = name.removeprefix("trioweb").removeprefix(".")
    while module and place(module) is None:
        module = module.rpartition(".")[0]  # the last part is a name inside a module
    return module


def violations(module: str, source: str, *, is_package: bool = False) -> list[str]:
    """Return every breach of the layering in one module, each as ``module:line: what``."""
    breaches = []
    here = place(module)
    if here is None:
        return [f"{module}:1: has no place in LAYERS"]
    in_protocol = module.partition(".")[0] == "protocol"
    is_plug_in = any(module.startswith(entry[:-1]) for entry in PLUG_INS)
    for line, name in imported(module, source, is_package=is_package):
        top = name.partition(".")[0]
        other = target(name)
        breach = None
        if other is None:
            if in_protocol and top == "trio":
                breach = "imports trio inside protocol/"
            elif not in_protocol and top in ("wsproto", "h11"):
                breach = f"imports {top} outside protocol/"
        elif is_plug_in and other not in VOCABULARY and not _same_package(module, other):
            breach = f"is a plug-in and imports {other or 'the facade'}"
        elif not is_package:
            there = place(other)
            wildcard_sibling = there == here and ORDER[here].endswith(".*")
            if there is None or (there >= here and not wildcard_sibling):
                breach = f"imports {other or 'the facade'}, which is not above it"
        if breach:
            breaches.append(f"{module or 'trioweb'}:{line}: {breach}")
    return breaches


def _same_package(module: str, other: str) -> bool:
    """Whether two plug-ins are of one kind, and may share a part."""
    return module.partition(".")[0] == other.partition(".")[0]


def declares_all(source: str) -> bool:
    """Whether a module says what it offers."""
    names: list[ast.expr] = []
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign):
            names += node.targets
        elif isinstance(node, ast.AnnAssign):
            names.append(node.target)
    return any(isinstance(name, ast.Name) and name.id == "__all__" for name in names)


MODULES = {
    ".".join(path.relative_to(ROOT / "trioweb").with_suffix("").parts): path
    for path in sorted((ROOT / "trioweb").rglob("*.py"))
}
SIZED = sorted(
    path
    for folder, endings in {
        "trioweb": (".py", ".pyi", ".pyx", ".pxd", ".js", ".ts"),
        "examples": (".py", ".js", ".mjs", ".ts", ".html", ".css"),
    }.items()
    for path in (ROOT / folder).rglob("*")
    if path.suffix in endings
)


@pytest.mark.parametrize("name", MODULES)
def test_imports_only_from_above(name: str) -> None:
    is_package = name.rpartition(".")[2] == "__init__"
    module = name.removesuffix("__init__").removesuffix(".")
    assert violations(module, MODULES[name].read_text(), is_package=is_package) == []


@pytest.mark.parametrize("name", MODULES)
def test_says_what_it_offers(name: str) -> None:
    source = MODULES[name].read_text()
    package, _, last = name.rpartition(".")
    if last == "__main__" or (last == "__init__" and not any(imported(package, source))):
        return
    assert declares_all(source), f"{name} has no __all__"
    module = importlib.import_module(f"trioweb.{name}".removesuffix(".__init__"))
    absent = [item for item in module.__all__ if not hasattr(module, item)]
    assert absent == []


@pytest.mark.parametrize("path", SIZED, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_is_too_long(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= LONGEST


def test_finds_the_house_at_all() -> None:
    assert {"__init__", "types", "protocol.machine", "connection", "server"} <= MODULES.keys()


# The checker itself, on small sources: each of these is broken and must be found out.


@pytest.mark.parametrize(
    ("module", "source", "breach"),
    [
        ("types", "from .errors import TriowebError", "imports errors"),
        ("types", "from trioweb.errors import TriowebError", "imports errors"),
        ("types", "import trioweb.errors", "imports errors"),
        ("types", "from . import errors", "imports errors"),
        ("types", "from trioweb import errors", "imports errors"),
        ("types", "from .types import Close", "imports types"),
        ("outbox", "def f():\n    from .connection import WebSocket", "imports connection"),
        ("outbox", "if TYPE_CHECKING:\n    from .server import Server", "imports server"),
        ("server", "from trioweb import WebSocket", "imports the facade"),
        ("server", "from .client import connect", "imports client"),
        ("protocol.http", "from .machine import Machine", "imports protocol.machine"),
        ("protocol.http", "from ..reading import Reader", "imports reading"),
        ("protocol.http", "from . import Machine", "imports protocol,"),
        ("protocol.machine", "import trio", "imports trio inside protocol/"),
        ("protocol.machine", "from trio.abc import Stream", "imports trio inside protocol/"),
        ("connection", "import wsproto.events", "imports wsproto outside protocol/"),
        ("client", "from h11 import Request", "imports h11 outside protocol/"),
        ("codecs.json", "from ..connection import WebSocket", "is a plug-in"),
        ("brokers.redis", "from ..codecs.json import Json", "is a plug-in"),
        ("toolkit.rpc", "from .rooms import Rooms", "imports toolkit.rooms"),
        ("toolkit.rooms", "from ..testing.pairs import pair", "imports testing.pairs"),
        ("elsewhere", "", "has no place"),
        ("protocol.elsewhere", "", "has no place"),
    ],
)
def test_checker_finds(module: str, source: str, breach: str) -> None:
    (found,) = violations(module, source)
    assert breach in found


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("errors", "import trio\nfrom .types import Close"),
        ("protocol.machine", "import wsproto\nfrom ..types import State\nfrom . import http"),
        ("connection", "from .protocol import Machine\nfrom .protocol.machine import Machine"),
        ("server", "from trioweb import config, connection"),
        ("codecs.json", "from ..abc import Codec\nimport msgspec\nfrom .checked import Checked"),
        ("stores.sqlite", "from .transactions import Transactions"),
        ("toolkit.pubsub", "from ..brokers.memory import Memory\nfrom .rooms import Rooms"),
        ("testing.network", "from .pairs import pair\nfrom ..server import serve"),
    ],
)
def test_checker_allows(module: str, source: str) -> None:
    assert violations(module, source) == []


def test_packages_are_excepted_from_the_order_but_not_from_their_libraries() -> None:
    assert violations("", "from .server import serve", is_package=True) == []
    assert violations("protocol", "from .machine import Machine", is_package=True) == []
    (found,) = violations("", "import h11", is_package=True)
    assert "imports h11" in found


def test_checker_wants_all() -> None:
    assert declares_all("__all__ = []")
    assert declares_all("__all__: list[str] = []")
    assert not declares_all("def f():\n    __all__ = []")
