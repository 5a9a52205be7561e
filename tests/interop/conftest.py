"""What the tests with real programs share: certificates as files, each way."""

from __future__ import annotations

from pathlib import Path

import pytest
import trustme


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
