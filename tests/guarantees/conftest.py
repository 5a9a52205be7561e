"""Every guarantee is tested over TCP, TLS and the virtual network, on the virtual clock."""

from __future__ import annotations

import ssl

import pytest
from trio.testing import MockClock

from tests.guarantees.peers import Link, TCPLink, TLSLink, VirtualLink


@pytest.fixture(params=["tcp", "tls", "virtual"])
def link(
    request: pytest.FixtureRequest, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> Link:
    """Return each kind of link in turn."""
    if request.param == "tls":
        return TLSLink(server_tls, client_tls)
    return TCPLink() if request.param == "tcp" else VirtualLink()


@pytest.fixture
def clock(link: Link) -> MockClock:
    """Jump to the next deadline when nothing has happened for a moment, as long as bytes take."""
    return MockClock(autojump_threshold=link.moment)
