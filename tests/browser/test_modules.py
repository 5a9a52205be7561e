"""The browser's modules under Node: their own tests, the vectors of both languages, the types."""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

import trioweb
from tests.helpers import get, serving
from trioweb.browser import browser_files

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent / "client"
FOLDER = ROOT / "trioweb" / "browser"
TESTS = sorted(path.name for path in HERE.glob("*.test.mjs"))


def run(*command: str | Path) -> str:
    """Run a program to its end, which must be a good one, and return what it wrote."""
    done = subprocess.run(
        [*map(str, command)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("name", TESTS)
def test_module(node: str, name: str) -> None:
    output = run(node, HERE / name)
    assert re.search(r"^# fail 0$", output, re.MULTILINE), output
    # A promise that nobody waits for fails without failing a test.
    assert "after the test ended" not in output, output


def test_vectors(node: str) -> None:
    vectors = ROOT / "tests" / "vectors" / "wire.json"
    count = sum(map(len, json.loads(vectors.read_text()).values()))
    assert run(node, HERE / "vectors.mjs", vectors) == f"{count} vectors\n"


def test_types(node_with_packages: list[str]) -> None:
    assert run(*node_with_packages, HERE / "types.cjs") == ""


def test_nothing_that_a_strict_page_forbids_and_nothing_global() -> None:
    for path in FOLDER.glob("*.js"):
        source = re.sub(r"//.*", "", path.read_text())
        assert not re.search(r"\beval\(|\bnew Function\b|\bsetTimeout\(\s*[\"'`]", source), path
        assert not re.search(r"\b(globalThis|window|self)\.\w+\s*=[^=]", source), path
        imports = re.findall(
            r"^(?:import|\} from|export .* from).*?\"(.*?)\";", source, re.MULTILINE
        )
        assert {name for name in imports if not (FOLDER / name).exists()} == set()


def test_the_package_has_the_version_of_ours() -> None:
    package = json.loads((FOLDER / "package.json").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert package["version"] == project["version"]
    assert "dependencies" not in package


async def test_a_site_serves_them() -> None:
    site = trioweb.Site({"/": HERE, **browser_files()})
    async with serving(on_request=site) as server:
        for path in browser_files():
            answer = await get(server, path)
            assert answer.status == 200
            assert answer.body == (FOLDER / path.rpartition("/")[2]).read_bytes()
            if path.endswith(".js"):
                assert answer.headers["content-type"].startswith("text/javascript")
        assert (await get(server, "/trioweb/__init__.py")).status == 404
        assert (await get(server, "/trioweb/")).status == 404


def test_what_is_served() -> None:
    names = {path.rpartition("/")[2] for path in browser_files("/static/js/")}
    assert {"trioweb.js", "trioweb.d.ts", "session.js"} <= names
    assert names == {path.name for path in FOLDER.iterdir() if path.name.endswith((".js", ".ts"))}
    assert all(path.startswith("/static/js/") for path in browser_files("/static/js/"))
    for prefix in ("trioweb/", "/trioweb"):
        with pytest.raises(ValueError, match="begin and end with /"):
            browser_files(prefix)
