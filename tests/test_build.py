"""What `pip install` gives: the native framer where there is a compiler, and else the pure one."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.conftest import missing

ROOT = Path(__file__).parents[1]
NATIVE = {str(path.relative_to(ROOT).with_suffix("")) for path in ROOT.glob("trioweb/**/*.pyx")}

_PROGRAM = """
import sys
import trio
import trioweb

async def echo(ws):
    async for message in ws:
        await ws.send(message)

async def main():
    async with trioweb.open_server(echo, 0) as server:
        async with trioweb.connect(server.url) as ws:
            for message in "hello", "h\\xe9llo", b"\\xff" * 70_000:
                await ws.send(message)
                assert await ws.receive() == message

assert trioweb.__file__.startswith(sys.argv[1]), trioweb.__file__
trio.run(main)
print(trioweb.framer())
"""


def _run(*command: str | Path, cwd: Path = ROOT, **environment: str) -> str:
    """Run a program for its output; a failure shows all of it."""
    ours = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("TRIOWEB_", "PYTHON", "COVERAGE"))
    }
    done = subprocess.run(
        [*map(str, command)],
        env=ours | environment,
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    output = done.stdout.decode(errors="replace")
    assert done.returncode == 0, output
    return output


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an sdist, built from a copy of the tree in which there is what must not get in."""
    folder = tmp_path_factory.mktemp("tree")
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "trioweb", folder / "trioweb", ignore=ignored)
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    shutil.copy(ROOT / "CHANGELOG.md", folder)
    for stale in ("_framer.c", "_framer.so"):
        (folder / "trioweb" / "protocol" / stale).write_text("of an earlier build\n")
    _run(sys.executable, "-m", "build", "--sdist", "--no-isolation", cwd=folder)
    (found,) = (folder / "dist").iterdir()
    return found


def _wheel(sdist: Path, folder: Path, **environment: str) -> tuple[Path, str]:
    """Build a wheel of an sdist; return it, and what was said."""
    command = (sys.executable, "-m", "pip", "wheel", "-v", "--no-build-isolation", "--no-deps")
    output = _run(*command, "--wheel-dir", folder, sdist, cwd=folder, **environment)
    (found,) = folder.glob("*.whl")
    return found, output


def _says(wheel: Path, folder: Path) -> str:
    """Install a wheel into a folder; return which framer says that it runs from there."""
    command = (sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index")
    _run(*command, "--target", folder / "there", wheel, cwd=folder)
    program = folder / "program.py"
    program.write_text(_PROGRAM)
    there = str(folder / "there")
    return _run(sys.executable, program, there, cwd=folder, PYTHONPATH=there).split()[-1]


def _names(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def _compiled(wheel: Path) -> set[str]:
    """Return the modules in it that are machine code, as paths without endings."""
    return {name.partition(".")[0] for name in _names(wheel) if name.endswith((".so", ".pyd"))}


def test_an_sdist_has_the_sources_and_nothing_that_was_built(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    of_ours = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "trioweb").rglob("*")
        if path.suffix in (".py", ".pyx", ".pxd", ".pyi", ".typed", ".js", ".ts", ".json")
    }
    assert of_ours <= names
    assert {"setup.py", "pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md"} <= names
    assert {"trioweb/protocol/_framer.pyx", "trioweb/protocol/_framer.pyi"} <= names
    assert not [name for name in names if name.endswith((".c", ".so", ".pyc"))]
    assert not [name for name in names if name.startswith(("tests", "benchmarks", "build"))]


def test_a_wheel_with_a_compiler(sdist: Path, tmp_path: Path) -> None:
    if shutil.which("cc") is None:
        missing("a C compiler")
    wheel, output = _wheel(sdist, tmp_path)
    names = _names(wheel)
    assert _compiled(wheel) == NATIVE, output
    assert {"trioweb/py.typed", "trioweb/protocol/_framer.pyi"} <= {*names}
    for_pages = {f"trioweb/browser/{name}" for name in ("trioweb.js", "session.js", "trioweb.d.ts")}
    assert for_pages <= {*names}
    assert not [name for name in names if name.endswith((".c", ".pyx", ".pxd"))]
    # It is for this Python, and for any processor of the kind.
    python = f"cp{sys.version_info.major}{sys.version_info.minor}"
    platform = re.sub(r"[-.]", "_", sysconfig.get_platform())
    assert wheel.name.endswith(f"-{python}-{python}-{platform}.whl")
    assert "-march" not in output
    assert not re.search(r"\.c:\d+:\d+: warning", output), output
    assert _says(wheel, tmp_path) == "native"


def test_a_wheel_without_a_compiler(sdist: Path, tmp_path: Path) -> None:
    wheel, output = _wheel(sdist, tmp_path, CC="false")
    for name in NATIVE:
        assert f'building extension "{name.replace("/", ".")}" failed' in output, output
    assert not _compiled(wheel)
    assert _says(wheel, tmp_path) == "pure"
