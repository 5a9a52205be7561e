"""A network in memory: hosts with names, links between them, and all that can go wrong there.

A program runs on a host with ``with network.host("alice"):``. What it then does with
`trioweb.connect`, `trioweb.serve` and `trioweb.open_listeners` happens on this network, on
`trioweb.testing.wires`, with the same code that runs on sockets.
"""

from __future__ import annotations

import errno
import math
import os
import random
import re
import socket
from collections import Counter
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager, suppress
from typing import NamedTuple, cast

import trio

from ..host import Host, NamedListener, current_host
from .faults import Conditions, Fault, HalfOpen, Partition, Reset, Stall
from .wires import Address, Tap, VirtualStream, Way, connect_ends

__all__ = ["Link", "Step", "VirtualHost", "VirtualListener", "VirtualNetwork"]

#: Connections that wait to be accepted; above it who connects waits.
_BACKLOG = 128
#: The ports that a host gives to itself, over and over again (RFC 6335, 6).
_FIRST_FREE_PORT, _LAST_PORT = 49152, 65535
#: Names that a URL can have; those of numbers alone are addresses.
_NAME = re.compile(r"[a-z0-9_]([a-z0-9._-]*[a-z0-9_])?")
_NUMBERS = re.compile(r"[0-9.]+")
_ITSELF = frozenset({None, "", "localhost", "127.0.0.1", "::1", "0.0.0.0", "::"})  # noqa: S104 - only names here


class Link:
    """Between two hosts: how well it works, and its connections. See `VirtualNetwork.link`."""

    def __init__(self, network: VirtualNetwork, one: str, other: str) -> None:
        self.hosts = (one, other)
        self._network = network
        self._ways = {
            name: Way(network.conditions, network.chance) for name in dict.fromkeys(self.hosts)
        }
        self._connections: list[tuple[VirtualStream, VirtualStream]] = []
        self._prune_at = 16
        self._partitioned_until = -math.inf
        self._healed = trio.lowlevel.ParkingLot()
        self._fuse: int | None = None
        self._charge: Reset | HalfOpen | None = None

    @property
    def taps(self) -> list[Tap]:
        """The network's taps."""
        return self._network.taps

    def inject(self, fault: Fault) -> None:
        """Let a fault strike, or change the weather, now; it is counted in the network's faults.

        Raises `ValueError` if it names a host that is not at an end of this link, `TypeError` if
        it is no fault.
        """
        self._network.check_run()
        self.check(fault)
        self._network.faults[type(fault).__name__] += 1
        if isinstance(fault, Conditions):
            for way in self._ways.values():
                way.conditions = fault
        elif isinstance(fault, (Stall, Partition)):
            until = trio.current_time() + fault.seconds
            for to, way in self._ways.items():
                if isinstance(fault, Partition) or fault.to in (None, to):
                    way.freeze(until)
            if isinstance(fault, Partition):
                self._partitioned_until = max(self._partitioned_until, until)
        elif fault.after_bytes:
            self._fuse, self._charge = fault.after_bytes, fault
        else:
            self._strike(fault)
        self._wake()

    def check(self, fault: Fault) -> None:
        """Raise `ValueError` if the fault names a host that is not at an end of this link.

        `TypeError` if it is no fault, but a class without its brackets, say.
        """
        if not isinstance(cast("object", fault), Fault):
            raise TypeError(f"not a fault: {fault!r}")
        name = fault.to if isinstance(fault, Stall) else None
        name = fault.vanished if isinstance(fault, HalfOpen) else name
        if name is not None and name not in self.hosts:
            raise ValueError(f"{fault} on the link {self}: it does not lead to {name!r}")

    def heal(self) -> None:
        """End stalls and partitions now, and call off what waits for its ``after_bytes``."""
        for way in self._ways.values():
            way.thaw()
        self._partitioned_until = -math.inf
        self._fuse = self._charge = None
        self._healed.unpark_all()
        self._wake()

    @property
    def connections(self) -> Sequence[tuple[VirtualStream, VirtualStream]]:
        """The connections with an end that still lives: the opener's end and the listener's."""
        return [pair for pair in self._connections if not (pair[0].over and pair[1].over)]

    def allowance(self, size: int) -> int:
        """Return how many of so many bytes may cross before the fault that waits for them."""
        return size if self._fuse is None else min(size, self._fuse)

    def crossed(self, size: int) -> None:
        """Count bytes towards the fault that waits for them."""
        if self._fuse is not None and self._charge is not None:
            self._fuse -= size
            if not self._fuse:
                charge = self._charge
                self._fuse = self._charge = None
                self._strike(charge)

    async def round_trip(self, target: str) -> None:
        """Wait as long as it takes to ask a host and hear its answer, partitions included."""
        self._network.check_run()
        there = self._ways[target]
        while True:
            await trio.sleep_until(there.arrival(0) + there.conditions.latency)
            if self._partitioned_until <= trio.current_time():
                return
            while self._partitioned_until > trio.current_time():  # it is lost, and sent again
                with trio.CancelScope(deadline=self._partitioned_until):
                    await self._healed.park()

    def connect(self, source: Address, target: Address) -> tuple[VirtualStream, VirtualStream]:
        """Make a connection; return the opener's end and the listener's."""
        ways = self._ways[target[0]], self._ways[source[0]]
        ends = connect_ends(source, target, ways, self)
        self._connections.append(ends)
        if len(self._connections) >= self._prune_at:
            self._connections = list(self.connections)
            self._prune_at = 2 * len(self._connections) + 16
        return ends

    def _strike(self, fault: Reset | HalfOpen) -> None:
        for ends in self.connections:
            if isinstance(fault, Reset):
                for end in ends:
                    end.fail("reset")
                continue
            # On a link of a host to itself the opener is the one that vanishes.
            vanished = next((e for e in ends if e.local_address[0] == fault.vanished), ends[0])
            (survivor,) = (end for end in ends if end is not vanished)
            vanished.fail("vanished")
            survivor.deafen()

    def _wake(self) -> None:
        for ends in self.connections:
            for end in ends:
                end.wake()

    def __str__(self) -> str:
        return "-".join(self.hosts)


class VirtualListener(NamedListener):
    """Accepts the connections to one port of a virtual host."""

    def __init__(self, host: VirtualHost, port: int) -> None:
        self.address = (host.name, port)
        self._host = host
        self._arrived, self._arrivals = trio.open_memory_channel[VirtualStream](_BACKLOG)

    async def accept(self) -> trio.abc.Stream:
        """Wait for a connection; return this host's end of it."""
        return await self._arrivals.receive()

    async def arrive(self, stream: VirtualStream) -> None:
        """Queue a connection to be accepted."""
        await self._arrived.send(stream)

    async def aclose(self) -> None:
        """Free the port; connections that nobody accepted are reset."""
        if self._host.listeners.get(self.address[1]) is self:
            del self._host.listeners[self.address[1]]
        with suppress(trio.WouldBlock, trio.ClosedResourceError):
            while True:
                self._arrivals.receive_nowait().abort()
        self._arrivals.close()
        await trio.lowlevel.checkpoint()


class VirtualHost(Host):
    """A machine of a virtual network; ``with network.host(name):`` runs a program there."""

    def __init__(self, network: VirtualNetwork, name: str) -> None:
        self.name = name
        self.listeners: dict[int, VirtualListener] = {}
        self._network = network
        self._last_port = _FIRST_FREE_PORT - 1

    async def open_stream(self, host: str, port: int) -> trio.abc.Stream:
        """Connect to a host of the network; raises `OSError` as real ones do."""
        name = self.name if host in _ITSELF else host
        if name not in self._network.hosts:
            await trio.lowlevel.checkpoint()
            raise socket.gaierror(socket.EAI_NONAME, f"no host {name!r} on this network")
        link = self._network.link(self.name, name)
        target = (name, port)
        await link.round_trip(name)
        listener = self._network.hosts[name].listeners.get(port)
        if listener is None:
            raise _refused(target)
        ours, theirs = link.connect((self.name, self._free_port()), target)
        try:
            await listener.arrive(theirs)
        except BaseException:
            ours.fail("reset")
            theirs.fail("reset")
            raise
        return ours

    async def open_listeners(self, port: int, host: str | None) -> Sequence[VirtualListener]:
        """Listen on a port of this host; port 0 is a free one."""
        self._network.check_run()
        await trio.lowlevel.checkpoint()
        if host not in _ITSELF and host != self.name:
            raise OSError(errno.EADDRNOTAVAIL, f"{host!r} is no name of the host {self.name!r}")
        port = port or self._free_port()
        if port in self.listeners:
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE), f"{self.name}:{port}")
        listener = self.listeners[port] = VirtualListener(self, port)
        return [listener]

    def token_bytes(self, count: int) -> bytes:
        """Return bytes that the network's seed fixes."""
        return self._network.tokens.randbytes(count)

    def now(self) -> float:
        """Return Trio's time, counted from the epoch: dates come out the same in every run."""
        return trio.current_time()

    def _free_port(self) -> int:
        while True:
            self._last_port += 1
            if self._last_port > _LAST_PORT:
                self._last_port = _FIRST_FREE_PORT
            if self._last_port not in self.listeners:
                return self._last_port


class Step(NamedTuple):
    """A part of a script: at a time on Trio's clock, a link suffers a fault, or heals (None)."""

    time: float
    link: Link
    fault: Fault | None

    def __str__(self) -> str:
        return f"{self.time:.6f} {self.link} {self.fault or 'heals'}"


class VirtualNetwork:
    """Hosts and links in memory. The seed fixes faults, keys, masks and ids.

    ``conditions`` are those of every link until it gets others. Use it in one `trio.run`, for it
    keeps times of that run's clock: `RuntimeError` in a second one. `trioweb.testing.run` fixes
    the order of tasks too.
    """

    def __init__(self, seed: int = 0, *, conditions: Conditions = Conditions()) -> None:
        self.seed = seed
        self.conditions = conditions
        self.hosts: dict[str, VirtualHost] = {}
        #: How many faults were injected, by the name of their kind.
        self.faults: Counter[str] = Counter()
        #: Who hears what crosses the wires: a `Recorder`, say.
        self.taps: list[Tap] = []
        self.chance = random.Random(f"{seed} faults")  # noqa: S311 - chance that can be repeated
        self.tokens = random.Random(f"{seed} tokens")  # noqa: S311 - see above
        self._links: dict[frozenset[str], Link] = {}
        self._run: trio.lowlevel.TrioToken | None = None

    @contextmanager
    def host(self, name: str) -> Generator[VirtualHost]:
        """Run the block, and the tasks that it starts, on a host, which is made if need be.

        Raises `ValueError` for a name that no URL could have.
        """
        if not _NAME.fullmatch(name) or _NUMBERS.fullmatch(name):
            raise ValueError(
                f"a host's name is of lower-case letters, digits, '-', '_' and '.', not {name!r}"
            )
        host = self.hosts.setdefault(name, VirtualHost(self, name))
        token = current_host.set(host)
        try:
            yield host
        finally:
            current_host.reset(token)

    def link(self, one: str, other: str) -> Link:
        """Return the link between two hosts; raises `LookupError` for a host that is not there."""
        for name in (one, other):
            if name not in self.hosts:
                known = ", ".join(self.hosts) or "none yet"
                raise LookupError(
                    f"no link between {one!r} and {other!r}: "
                    f"there is no host {name!r} on this network (hosts: {known})"
                )
        key = frozenset((one, other))
        if key not in self._links:
            self._links[key] = Link(self, one, other)
        return self._links[key]

    def check_run(self) -> None:
        """Raise `RuntimeError` if this is not the run in which the network was used first."""
        token = trio.lowlevel.current_trio_token()
        if self._run not in (None, token):
            raise RuntimeError("this network was used in another trio.run: make one for each")
        self._run = token

    async def play(self, script: Iterable[Step]) -> None:
        """Inject the faults of a script, each in its time; returns after the last.

        Raises `ValueError` at once, without playing any, if a step's time has passed already or
        its fault does not fit its link.
        """
        steps = sorted(script, key=lambda step: step.time)
        now = trio.current_time()
        if steps and steps[0].time < now:
            raise ValueError(f"this step is in the past, for it is {now:.6f} now: {steps[0]}")
        for step in steps:
            if step.fault is not None:
                step.link.check(step.fault)
        await trio.lowlevel.checkpoint()
        for step in steps:
            await trio.sleep_until(step.time)
            if step.fault is None:
                step.link.heal()
            else:
                step.link.inject(step.fault)

    def draw(
        self, links: Sequence[Link], *, until: float, every: float, faults: Sequence[Fault]
    ) -> list[Step]:
        """Draw a script from the seed: from now on, about ``every`` so many seconds, some fault.

        Stalls and partitions without an end of their own last about ``every`` seconds.
        Raises `ValueError` if ``until`` has passed already or never comes, ``every`` is not above
        0, or there are no links or faults.
        """
        time = trio.current_time()
        if until < time:
            raise ValueError(f"a script until {until} ends in the past: it is {time:.6f} now")
        if until == math.inf or not 0 < every < math.inf or not links or not faults:
            raise ValueError(
                "a script needs an end, a time above 0 between faults, links, and faults: not "
                f"until={until}, every={every}, {len(links)} links and {len(faults)} faults"
            )
        steps: list[Step] = []
        while (time := time + self.chance.expovariate(1 / every)) < until:
            fault = self.chance.choice(faults)
            if isinstance(fault, (Stall, Partition)) and fault.seconds == math.inf:
                seconds = self.chance.expovariate(1 / every)
                fault = Stall(seconds, fault.to) if isinstance(fault, Stall) else Partition(seconds)
            steps.append(Step(time, self.chance.choice(links), fault))
        return steps


def _refused(target: Address) -> ConnectionRefusedError:
    where = f"{target[0]}:{target[1]}"
    return ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED), where)
