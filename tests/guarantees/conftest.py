"""Every guarantee is tested over real sockets, plain and with TLS, on the virtual clock."""

from __future__ import annotations

import ssl

import pytest
from trio.testing import MockClock

from tests.guarantees.peers import Link


@pytest.fixture(params=["tcp", "tls"])
def link(
    request: pytest.FixtureRequest, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> Link:
    """Return each kind of link in turn."""
    if request.param == "tcp":
        return Link("tcp")
    return Link("tls", server_tls, client_tls)


@pytest.fixture
def clock() -> MockClock:
    """Jump to the next deadline when nothing has happened for 2 real milliseconds.

    Not at once, as `autojump_clock` does: bytes on loopback take a moment.
    """
    return MockClock(autojump_threshold=0.002)
