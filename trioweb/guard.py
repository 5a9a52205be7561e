"""Whom a server lets in, and how much of each: origins, numbers of connections, rates.

A client is an address here: of IPv6 its /64, which is what one customer has; behind trusted
proxies the address that they tell. Peers of a Unix socket have none, and are not told apart:
what is counted for each client is not counted for them.
"""

from __future__ import annotations

import ipaddress
import math
from collections import Counter, OrderedDict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import trio

from .buckets import Meter, Rate, RateLimit, TokenBucket
from .protocol.proxy import canonical
from .types import Request, Response

__all__ = ["Gate", "Guard", "ServerStatistics", "Visit", "is_allowed_origin"]

_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}

#: Who comes to a full server hears so; so many at a time, and whoever comes on top is cut. They
#: cost as much as a handshake each, and must not become the way to exhaust the server.
_REFUSALS = 32

#: Seconds after which a client that waits so long finds room if anybody comes and goes at all.
_LATER = "10"
_FULL = Response.make(503, "full: come back later\n", {"Retry-After": _LATER})
_TOO_MANY = Response.make(429, "too many connections\n", {"Retry-After": _LATER})

#: Buckets that nobody uses and that are not full yet; above that the oldest are forgotten. Who has
#: so many addresses gains nothing by a fresh bucket for one of them.
_FORGOTTEN_ABOVE = 2**16


@dataclass(frozen=True, slots=True)
class Guard:
    """What a server allows its clients beside ``max_connections`` in all; by default everything.

    Raises `ValueError` for a number that is not positive.
    """

    #: Connections of one client at a time, handshakes included; 429 above it. Default None: as
    #: many as the server has room for.
    per_client: int | None = None
    #: Connections that one client may begin, be it for an upgrade or a plain request; 429 above
    #: it. Default None: as many as come.
    handshakes: Rate | None = None
    #: What clients may send; all of these hold. Default: as fast as handlers take it.
    messages: Sequence[RateLimit] = ()

    def __post_init__(self) -> None:
        if self.per_client is not None and self.per_client < 1:
            raise ValueError(f"Guard.per_client must be positive, not {self.per_client!r}")
        if self.handshakes is not None and self.handshakes.burst < 1:
            raise ValueError(f"one handshake at least: burst is {self.handshakes.burst!r}")


@dataclass(frozen=True, slots=True)
class ServerStatistics:
    """A snapshot of a server: what is now, and counts since its start."""

    #: Connections whose handlers run, and others that are on their way in or out.
    connections: int
    others: int
    #: How many became WebSockets.
    upgraded: int
    #: How many were refused or closed by the server, and why; a reason is there once it occurs.
    #: Before the upgrade ``request`` (malformed, or no upgrade), ``timeout``, ``full``, ``cut``
    #: (full, and too many to be told), ``draining``, ``client`` (`Guard.per_client`), ``rate``
    #: (`Guard.handshakes`), ``path``, ``origin``, ``auth``, ``error``. After it ``auth``,
    #: ``messages`` (`Excess.CLOSE`), ``idle``.
    refused: Mapping[str, int]
    #: Messages that were dropped (`Excess.DROP`).
    messages_limited: int
    #: Clients that have connections, and buckets shared by connections or not full yet; only a
    #: server with a `Guard` has any.
    clients: int
    buckets: int


class Gate:
    """Who is inside a server, and who may come in."""

    def __init__(self, guard: Guard, room: int) -> None:
        self.guard = guard
        self.room = room
        self.refused: Counter[str] = Counter()
        #: Messages dropped on connections that are over.
        self.messages_limited = 0
        #: Visits, and those of them that are only there to hear no.
        self.inside = 0
        self.refusing = 0
        self.clients: Counter[str] = Counter()
        self.handshakes = None if guard.handshakes is None else _Shelf(guard.handshakes)
        self.messages = [(limit, _Shelf(limit)) for limit in guard.messages]
        #: Whether it matters who comes.
        self.by_client = bool(guard.per_client or guard.handshakes) or any(
            limit.per == "client" for limit in guard.messages
        )

    @property
    def buckets(self) -> int:
        """How many buckets are kept for clients and principals."""
        shelves = [shelf for _, shelf in self.messages]
        shelves += [] if self.handshakes is None else [self.handshakes]
        return sum(map(len, shelves))


class Visit:
    """One connection, from its first byte to its end, as the gate sees it; a context manager."""

    __slots__ = ("_borrowed", "_client", "_gate", "_told", "cut", "meter", "refusal")

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        #: Who comes, once that is known and if it is counted.
        self._client: str | None = None
        self._borrowed: Sequence[tuple[_Shelf, Hashable]] = ()
        #: What it is answered; None if it may come in.
        self.refusal: Response | None = None
        self._told = False
        #: Whether it is not even answered.
        self.cut = False
        #: What its messages must keep to; None if there is no limit.
        self.meter: Meter | None = None

    def __enter__(self) -> Self:
        gate = self._gate
        if gate.inside - gate.refusing >= gate.room:
            self._refuse("full", _FULL)
        gate.inside += 1
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        gate, client = self._gate, self._client
        gate.inside -= 1
        gate.refusing -= self._told
        if client is not None:
            gate.clients[client] -= 1
            if not gate.clients[client]:
                del gate.clients[client]
        for shelf, owner in self._borrowed:
            shelf.give_back(owner)
        if self.meter is not None:
            gate.messages_limited += self.meter.dropped
            if self.meter.broken:
                self.count("messages")

    def identify(self, address: tuple[str, int] | None) -> None:
        """Hear from which address it comes; only the first time counts."""
        gate, guard = self._gate, self._gate.guard
        if not gate.by_client or self._client is not None or self.refusal is not None:
            return
        client = _client(address)
        if client is None:
            return
        if guard.per_client is not None and gate.clients[client] >= guard.per_client:
            self._refuse("client", _TOO_MANY)
            return
        if gate.handshakes is not None:
            wait = gate.handshakes.wait(client)
            if wait:
                headers = {"Retry-After": str(math.ceil(wait))}
                self._refuse("rate", Response.make(429, "too many requests\n", headers))
                return
        self._client = client
        gate.clients[client] += 1

    def _refuse(self, reason: str, response: Response) -> None:
        self.refusal = response
        self.cut = self._gate.refusing >= _REFUSALS
        if not self.cut:
            self._gate.refusing += 1
            self._told = True
        self.count("cut" if self.cut else reason)

    def count(self, reason: str) -> None:
        """Count that it was refused, and why."""
        self._gate.refused[reason] += 1

    def upgraded(self) -> Meter | None:
        """Return what the messages of the connection must keep to."""
        if self._gate.messages:
            self.meter = Meter()
            self._borrow("connection", None)
            self._borrow("client", self._client)
        return self.meter

    def admitted(self, principal: Hashable) -> None:
        """Hear who it turned out to be. Raises `TypeError` if that cannot be hashed."""
        self._borrow("principal", principal)

    def _borrow(self, per: str, owner: Hashable) -> None:
        for limit, shelf in self._gate.messages:
            if self.meter is None or limit.per != per:
                continue
            if per == "connection":
                self.meter.add(limit, TokenBucket(limit.per_second, limit.burst))
            elif owner is not None:
                self.meter.add(limit, shelf.borrow(owner))
                self._borrowed = [*self._borrowed, (shelf, owner)]


class _Shelf:
    """The buckets of one rate, by whose they are. Unused ones vanish once they are full."""

    def __init__(self, rate: Rate) -> None:
        self._rate = rate
        #: With the number of those who use it.
        self._used: dict[Hashable, tuple[TokenBucket, int]] = {}
        #: The longest unused first, which is the first to be full.
        self._unused: OrderedDict[Hashable, TokenBucket] = OrderedDict()

    def __len__(self) -> int:
        self._sweep()
        return len(self._used) + len(self._unused)

    def borrow(self, owner: Hashable) -> TokenBucket:
        """Return somebody's bucket, to be given back."""
        bucket, users = self._used.get(owner, (None, 0))
        if bucket is None:
            bucket = self._unused.pop(owner, None)
        if bucket is None:
            bucket = TokenBucket(self._rate.per_second, self._rate.burst)
        self._used[owner] = bucket, users + 1
        return bucket

    def give_back(self, owner: Hashable) -> None:
        """Use it no more."""
        bucket, users = self._used.pop(owner)
        if users > 1:
            self._used[owner] = bucket, users - 1
        else:
            self._unused[owner] = bucket
        self._sweep()

    def wait(self, owner: Hashable) -> float:
        """Take one token of somebody's; if there is none, return the seconds until there is."""
        bucket, now = self.borrow(owner), trio.current_time()
        wait = bucket.due(1, now) - now
        if not wait:
            bucket.spend(1)
        self.give_back(owner)
        return wait

    def _sweep(self) -> None:
        now = trio.current_time()
        while self._unused:
            oldest = next(iter(self._unused.values()))
            if oldest.fill(now) < oldest.burst and len(self._unused) <= _FORGOTTEN_ABOVE:
                break
            self._unused.popitem(last=False)


def _client(address: tuple[str, int] | None) -> str | None:
    """Return the name under which a client is counted."""
    if address is None:
        return None
    name = address[0]
    try:
        ip = ipaddress.ip_address(name)
    except ValueError:  # a host of a virtual network, or a word of a proxy's
        return name
    if isinstance(ip, ipaddress.IPv4Address) or ip.ipv4_mapped:
        return canonical(ip)
    return str(ipaddress.IPv6Network((int(ip) >> 64 << 64, 64)))


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
