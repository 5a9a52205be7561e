"""Whom a server lets in: the origins of browsers."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from urllib.parse import urlsplit

from .types import Request

__all__ = ["is_allowed_origin"]

_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}


def is_allowed_origin(
    request: Request, origins: Sequence[str] | None, *, local_address: tuple[str, int] | None = None
) -> bool:
    """Tell whether a request may become a WebSocket, going by its Origin (RFC 6455, 10.2).

    Browsers let any page connect anywhere, with the user's cookies, and name the page's origin;
    other clients send none and pass. A page of the server's own host passes, one whose origin is
    among ``origins`` (``https://example.org``) too; None lets every page in. Over TLS the page
    must have come by TLS too: one that did not may be anybody's on the way.

    With a ``local_address`` on loopback, which this machine alone reaches, the own host counts only
    as ``localhost`` or an address: any other name may be a stranger's, who lets it lead here
    once his page is loaded (DNS rebinding).
    """
    if origins is None or "Origin" not in request.headers:
        return True
    origin = request.headers["Origin"].lower()
    if origin in (allowed.lower().rstrip("/") for allowed in origins):
        return True
    try:
        page = urlsplit(origin)
        usual = _PORTS.get(page.scheme)
        host = urlsplit(f"//{request.headers.get('Host', '').lower()}")
        if request.scheme == "https" and usual == _PORTS["http"]:
            return False
        if _is_loopback(local_address) and not _is_of_this_machine(page.hostname or ""):
            return False
        same = page.hostname == host.hostname and (page.port or usual) == (host.port or usual)
        return usual is not None and page.hostname is not None and same
    except ValueError:  # not a URL, or not a port
        return False


def _is_loopback(address: tuple[str, int] | None) -> bool:
    try:
        ip = None if address is None else ipaddress.ip_address(address[0])
        if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped:
            ip = ip.ipv4_mapped
        return ip is not None and ip.is_loopback
    except ValueError:  # a host of a virtual network
        return False


def _is_of_this_machine(name: str) -> bool:
    """Tell whether nobody else can have a name; that of an address is the address."""
    if name == "localhost" or name.endswith(".localhost"):  # RFC 6761, 6.3
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
