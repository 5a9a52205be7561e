"""The test kit: clients, servers and whatever is between them, in memory and in virtual time."""

from .faults import Conditions, Fault, HalfOpen, Partition, Reset, Stall
from .network import Link, Step, VirtualHost, VirtualNetwork
from .pairs import Pair, open_pair
from .scheduling import deterministic, run

__all__ = [
    "Conditions",
    "Fault",
    "HalfOpen",
    "Link",
    "Pair",
    "Partition",
    "Reset",
    "Stall",
    "Step",
    "VirtualHost",
    "VirtualNetwork",
    "deterministic",
    "open_pair",
    "run",
]
