"""The test kit: clients, servers and whatever is between them, in memory and in virtual time."""

from .faults import Conditions, Fault, HalfOpen, Partition, Reset, Stall
from .network import Link, Step, VirtualHost, VirtualNetwork
from .pairs import Pair, open_pair
from .recorder import Entry, Recorder, parse_recording
from .replay import replay
from .scheduling import deterministic, run

__all__ = [
    "Conditions",
    "Entry",
    "Fault",
    "HalfOpen",
    "Link",
    "Pair",
    "Partition",
    "Recorder",
    "Reset",
    "Stall",
    "Step",
    "VirtualHost",
    "VirtualNetwork",
    "deterministic",
    "open_pair",
    "parse_recording",
    "replay",
    "run",
]
