"""The test kit: clients, servers and whatever is between them, in memory and in virtual time."""

from .contracts import (
    check_broker,
    check_codec,
    check_observer,
    check_store,
    check_transport,
)
from .faults import Conditions, Fault, HalfOpen, Partition, Reset, Stall
from .memory import CollectingObserver, FormCodec
from .network import Link, Step, VirtualHost, VirtualNetwork
from .orphans import OrphanTasks, no_orphans
from .pairs import Pair, open_pair
from .recorder import Entry, Recorder, parse_recording
from .replay import replay
from .scheduling import Deadlock, deterministic, run
from .steps import CountSteps, at_every_step, cancelled_at
from .tasks import running_tasks

__all__ = [
    "CollectingObserver",
    "Conditions",
    "CountSteps",
    "Deadlock",
    "Entry",
    "Fault",
    "FormCodec",
    "HalfOpen",
    "Link",
    "OrphanTasks",
    "Pair",
    "Partition",
    "Recorder",
    "Reset",
    "Stall",
    "Step",
    "VirtualHost",
    "VirtualNetwork",
    "at_every_step",
    "cancelled_at",
    "check_broker",
    "check_codec",
    "check_observer",
    "check_store",
    "check_transport",
    "deterministic",
    "no_orphans",
    "open_pair",
    "parse_recording",
    "replay",
    "run",
    "running_tasks",
]
