"""The README and the documentation do what they say: programs run, links lead somewhere.

A comment directly above a fence says what the fence is:

- ``<!-- run: server -->`` a program that serves; it runs while the clients below it do;
- ``<!-- run: client -->`` a program that must end well while that server runs;
- ``<!-- run: program -->`` a program that must end well on its own;
- ``<!-- run: tests -->`` a part of one file of tests, which pytest must pass;
- ``<!-- run: output -->`` what the client or program above it prints;
- ``<!-- run: file static/index.html -->`` a file that the page's programs find there.

Each runs as pasted, in a Python of its own that turns warnings into errors, but for port 8765,
which is replaced by a free one. A Python fence without a mark must at least compile.
"""

from __future__ import annotations

import ast
import os
import re
import sys
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.programs import free_port, until_listening

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES = [page for page in PAGES if "_build" not in page.parts]
PATIENCE = 30

FENCE = re.compile(
    r"^(?:<!-- run: (?P<mark>[^\n]+?) -->\n+)?^```(?P<language>[a-z]*)[^\n]*\n(?P<body>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
LINK = re.compile(r"\]\((?!https?:|mailto:|#)([^)#\s]+)(?:#[^)\s]*)?\)")


@dataclass
class Program:
    """A program that must end well, and what it prints if the page shows that."""

    source: str
    output: str | None = None
    #: How it is run: by Python alone, or by pytest.
    runner: tuple[str, ...] = ()


PYTEST = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "trio_mode=true")


@dataclass
class Scenario:
    """What runs together: at most one server, and programs one after the other."""

    name: str
    files: dict[str, str]
    server: str | None = None
    programs: list[Program] = field(default_factory=list)


def scenarios(name: str, text: str) -> list[Scenario]:
    """Collect what a page marks to be run."""
    found: list[Scenario] = []
    files: dict[str, str] = {}
    tests = Program("", runner=PYTEST)
    for fence in FENCE.finditer(text):
        mark, body = fence["mark"], fence["body"]
        if mark is None:
            continue
        if mark == "server":
            found.append(Scenario(f"{name}-{len(found) + 1}", files, server=body))
        elif mark == "program":
            found.append(Scenario(f"{name}-{len(found) + 1}", files, programs=[Program(body)]))
        elif mark == "tests":
            if not tests.source:
                found.append(Scenario(f"{name}-{len(found) + 1}", files, programs=[tests]))
            tests.source += f"{body}\n\n"
        elif mark == "client" and found and found[-1].server is not None:
            found[-1].programs.append(Program(body))
        elif mark == "output" and found and found[-1].programs:
            found[-1].programs[-1].output = body
        elif mark.startswith("file "):
            files[mark.removeprefix("file ")] = body
        else:
            raise ValueError(f"{name}: a mark out of place: {mark!r}")
    return found


async def run_scenario(scenario: Scenario, folder: Path) -> None:
    port = free_port()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    for path, body in scenario.files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(body)

    def run(source: str, file: str, *runner: str, **streams: bool) -> partial[Any]:
        (folder / file).write_text(source.replace("8765", str(port)))
        command = [sys.executable, "-W", "error", *runner, file]
        return partial(
            trio.run_process, command, cwd=folder, env=environment, check=False, **streams
        )

    async with trio.open_nursery() as nursery:
        server: trio.Process | None = None
        if scenario.server is not None:
            server = await nursery.start(run(scenario.server, "server.py"))
            await until_listening(server, port, PATIENCE)
        for number, program in enumerate(scenario.programs):
            client = run(
                program.source, f"program{number}.py", *program.runner, capture_stdout=True
            )
            with trio.fail_after(PATIENCE):
                done = await client()
            assert done.returncode == 0, done.stdout.decode()
            if program.output is not None:
                assert done.stdout.decode() == program.output
        if server is not None:
            assert server.poll() is None, "the server ended before its clients"
            server.terminate()
    # leaving the nursery has waited for the server to end


TEXTS = {str(page.relative_to(ROOT)): page.read_text() for page in PAGES}
SCENARIOS = [found for name, text in TEXTS.items() for found in scenarios(name, text)]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
async def test_runs_as_pasted(scenario: Scenario, tmp_path: Path) -> None:
    await run_scenario(scenario, tmp_path)


@pytest.mark.parametrize("name", TEXTS)
def test_snippets_compile(name: str) -> None:
    for fence in FENCE.finditer(TEXTS[name]):
        if fence["language"] == "python":
            flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
            compile(fence["body"], name, "exec", flags=flags, dont_inherit=True)


@pytest.mark.parametrize("name", TEXTS)
def test_links_lead_somewhere(name: str) -> None:
    folder = (ROOT / name).parent
    lost = [link for link in LINK.findall(TEXTS[name]) if not (folder / link).exists()]
    assert lost == []


def test_readme_shows_an_echo_server_and_a_client() -> None:
    first = next(found for found in SCENARIOS if found.name == "README.md-1")
    assert first.server is not None
    assert first.programs


def test_ci_runs_the_readmes_test_command_word_for_word() -> None:
    (command,) = (line for line in TEXTS["README.md"].splitlines() if line.endswith("nox -s tests"))
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    assert command in [line.strip() for line in lines]


# The checker itself: a page whose program fails, prints something else or hangs must be found out.


def page(*fences: tuple[str, str]) -> Scenario:
    text = "\n".join(f"<!-- run: {mark} -->\n\n```text\n{body}\n```\n" for mark, body in fences)
    (found,) = scenarios("page", text)
    return found


async def test_checker_runs_programs_and_compares_what_they_print(tmp_path: Path) -> None:
    source = "from pathlib import Path\nprint(Path('notes/a.txt').read_text().strip())"
    good = page(("file notes/a.txt", "hello"), ("program", source), ("output", "hello"))
    await run_scenario(good, tmp_path)


async def test_checker_gives_server_and_client_one_free_port(tmp_path: Path) -> None:
    server = "import socket\nsock = socket.create_server(('', 8765))\nwhile sock.accept(): pass"
    client = "import socket\nwith socket.create_connection(('127.0.0.1', 8765)): print('there')"
    await run_scenario(page(("server", server), ("client", client), ("output", "there")), tmp_path)


@pytest.mark.parametrize(
    "fences",
    [
        [("program", "raise SystemExit(1)")],
        [("program", "import warnings; warnings.warn('old', DeprecationWarning)")],
        [("program", "print('this')"), ("output", "that")],
        [("tests", "def test_one(): pass"), ("tests", "def test_two(): assert False")],
        [("tests", "async def test_is_run_by_trio(): assert False")],
        [("server", "raise SystemExit(1)"), ("client", "pass")],
    ],
)
async def test_checker_finds(fences: list[tuple[str, str]], tmp_path: Path) -> None:
    with pytest.RaisesGroup(AssertionError):
        await run_scenario(page(*fences), tmp_path)


def test_checker_refuses_marks_out_of_place() -> None:
    for mark in ("client", "output", "serve"):
        with pytest.raises(ValueError, match="out of place"):
            page((mark, ""))
