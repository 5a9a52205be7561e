"""What the tests with real programs share: certificates as files, Node's packages, each way."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import trustme

from tests.conftest import missing
from tests.interop.kit import HERE, program


@pytest.fixture(params=[False, True], ids=["plain", "deflate"])
def deflate(request: pytest.FixtureRequest) -> bool:
    """Return whether both ends offer and take compression."""
    value: bool = request.param
    return value


@pytest.fixture(params=[False, True], ids=["tcp", "tls"])
def secure(request: pytest.FixtureRequest) -> bool:
    """Return whether to speak TLS."""
    value: bool = request.param
    return value


@pytest.fixture(scope="session")
def ca_file(ca: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the certificate of the tests' authority, as programs want to have it."""
    path = tmp_path_factory.mktemp("ca") / "ca.pem"
    ca.cert_pem.write_to_path(path)
    return path


@pytest.fixture(scope="session")
def server_pem(ca: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a server's key and certificate in one file."""
    path = tmp_path_factory.mktemp("pem") / "server.pem"
    cert = ca.issue_cert("localhost", "127.0.0.1", "::1")
    cert.private_key_and_cert_chain_pem.write_to_path(path)
    return path


@pytest.fixture(scope="session")
def node(request: pytest.FixtureRequest) -> list[str]:
    """Return the command that runs a script with Node's ws at hand; npm gets it, once."""
    command, npm = program("node", "nodejs"), program("npm")
    cache = request.config.cache
    assert cache is not None
    wanted = HERE / "node" / "package.json"
    folder = cache.mkdir("interop-node")
    installed = folder / "node_modules" / "ws" / "package.json"
    version = json.loads(wanted.read_text())["dependencies"]["ws"]
    if not installed.exists() or json.loads(installed.read_text())["version"] != version:
        shutil.copy(wanted, folder)
        done = subprocess.run(
            [npm, "install", "--no-package-lock", "--no-audit", "--no-fund", "--silent"],
            cwd=folder,
            capture_output=True,
            timeout=60,
            check=False,
        )
        if done.returncode != 0:
            missing(f"Node's ws (npm: {done.stderr.decode().strip()[-200:]})")
    return ["env", f"NODE_PATH={folder / 'node_modules'}", command]
