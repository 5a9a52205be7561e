"""What many tests share: TLS contexts, a browser's path, and how to treat what is missing."""

from __future__ import annotations

import json
import os
import shutil
import ssl
import subprocess
from pathlib import Path
from typing import NoReturn

import hypothesis
import pytest
import trustme

IN_CI = os.environ.get("CI", "").lower() in ("1", "true", "yes")

# A property's examples share the machine with everything else, so none has a deadline; in CI
# the same examples run every time, and a failure prints how to repeat it.
hypothesis.settings.register_profile("default", deadline=None, print_blob=True)
hypothesis.settings.register_profile("ci", deadline=None, print_blob=True, derandomize=True)
# For builds that are slow, and look at each example more closely.
hypothesis.settings.register_profile("few", deadline=None, derandomize=True, max_examples=20)
hypothesis.settings.load_profile("ci" if IN_CI else "default")


def missing(what: str) -> NoReturn:
    """Skip a test for want of a program; in CI, where all must be there, fail it instead."""
    if IN_CI:
        pytest.fail(f"{what} is missing, and in CI it must not be")
    pytest.skip(f"{what} is missing")


@pytest.fixture(scope="session")
def chromium() -> str:
    """Return the path of a Chromium on this machine."""
    for name in ("chromium", "chromium-browser", "google-chrome", "chrome"):
        if path := shutil.which(name):
            return path
    missing("a Chromium browser")


@pytest.fixture(scope="session")
def node() -> str:
    """Return the path of Node on this machine."""
    path = shutil.which("node") or shutil.which("nodejs")
    if path is None:
        missing("Node (`apt install nodejs npm`)")
    return path


@pytest.fixture(scope="session")
def node_with_packages(node: str, request: pytest.FixtureRequest) -> list[str]:
    """Return the command that runs a script with what it may require at hand; npm gets it, once."""
    cache = request.config.cache
    assert cache is not None
    wanted = Path(__file__).parent / "package.json"
    folder = cache.mkdir("node")
    modules = folder / "node_modules"

    def version(name: str) -> str | None:
        found = modules / name / "package.json"
        return json.loads(found.read_text())["version"] if found.exists() else None

    dependencies = json.loads(wanted.read_text())["dependencies"]
    if {name: version(name) for name in dependencies} != dependencies:
        npm = shutil.which("npm")
        if npm is None:
            missing("npm (`apt install npm`)")
        shutil.copy(wanted, folder)
        done = subprocess.run(
            [npm, "install", "--no-package-lock", "--no-audit", "--no-fund", "--silent"],
            cwd=folder,
            capture_output=True,
            timeout=60,
            check=False,
        )
        if done.returncode != 0:
            missing(f"what Node needs (npm: {done.stderr.decode().strip()[-200:]})")
    return ["env", f"NODE_PATH={modules}", node]


@pytest.fixture(scope="session")
def artifacts() -> Path:
    """Return the folder for what a test leaves to be looked at: screenshots, reports."""
    folder = Path(__file__).parents[1] / "artifacts"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def ca() -> trustme.CA:
    """Return a certificate authority that nothing but these tests trusts."""
    return trustme.CA()


@pytest.fixture(scope="session")
def server_tls(ca: trustme.CA) -> ssl.SSLContext:
    """Return a server's TLS context, valid for localhost by name and by address."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ca.issue_cert("localhost", "127.0.0.1", "::1").configure_cert(context)
    return context


@pytest.fixture(scope="session")
def client_tls(ca: trustme.CA) -> ssl.SSLContext:
    """Return a client's TLS context that trusts `server_tls`."""
    context = ssl.create_default_context()
    ca.configure_trust(context)
    return context
