"""Frozen options, the same on both ends. Seconds and bytes throughout.

Every default has its reason beside it; every bound in trioweb has its name here.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from random import Random

from .types import Message

__all__ = [
    "Backoff",
    "CallLimits",
    "Deflate",
    "HealthCheck",
    "Heartbeat",
    "HubLimits",
    "Limits",
    "LinkLimits",
    "Overflow",
    "Policy",
    "Retention",
    "SessionLimits",
    "Timeouts",
    "TopicOptions",
]


def _positive(owner: object, *names: str) -> None:
    for name in names:
        value = getattr(owner, name)
        if not value > 0:  # refuses NaN too
            raise ValueError(f"{type(owner).__name__}.{name} must be positive, not {value!r}")


@dataclass(frozen=True, slots=True)
class Limits:
    """What one connection may cost. Beyond a limit the peer gets a code, or has to wait."""

    #: Largest message accepted, in bytes of payload; 1009 above it. 1 MiB is what the field uses.
    max_message: int = 2**20
    #: Frames in one message; 1009 above it. A message of 1 MiB in 256-byte frames still passes.
    max_fragments: int = 4096
    #: The inbox mark: above so many bytes, or messages, decoded but not yet taken, we stop
    #: decoding and reading, and TCP pushes back. One read's worth: more adds only latency.
    inbox_bytes: int = 2**18
    inbox_messages: int = 1024
    #: The outbox mark: `send` waits while so many bytes, or frames, are queued, so the queue
    #: never holds more than the mark and one message. 64 KiB keeps a link busy for a round trip.
    #: What waits for the end of a message in pieces may hold as much again.
    outbox_bytes: int = 2**16
    outbox_frames: int = 1024
    #: Pongs and pings not yet written; at the mark we stop reading. Nobody honest comes near.
    outbox_control: int = 64
    #: Messages longer than this leave in fragments, so that control frames get between.
    fragment: int = 2**16
    #: The largest read from the transport. Reads begin small, and grow while they come full: a
    #: quarter of a mebibyte brings large messages in few system calls. With room for their
    #: headers it holds four of 64 KiB as a whole, and cuts none of them in two.
    read: int = 2**18 + 2**10
    #: Request line and headers of a handshake, and the count of header lines; 431 above it, and
    #: 414 for a line as long.
    max_headers: int = 2**14
    max_header_lines: int = 100
    #: Bytes of a rejecting response's body that a client keeps.
    max_response_body: int = 2**12

    def __post_init__(self) -> None:
        _positive(self, *self.__slots__)


@dataclass(frozen=True, slots=True)
class Timeouts:
    """The deadlines, each a cancel scope on Trio's clock. ``math.inf`` switches one off."""

    #: Client: name look-up, TCP, a proxy and TLS together. Redirects share it and `handshake`.
    connect: float = 10
    #: Client: from the request to its answer. Server: from the connection to the whole request,
    #: TLS included; and again, beside `auth`, for ``on_request``.
    handshake: float = 10
    #: Server: from the upgrade to an accepted first message, and for a check of the handshake.
    auth: float = 10
    #: Time without any progress while there is something to write. Not a limit on a slow link.
    write: float = 20
    #: From our close frame to the end of the TCP connection, whatever the peer does.
    close: float = 10
    #: From the last message, whichever way it went, until the connection is closed with 1001
    #: "idle"; at the latest a quarter of it later. Pings do not count. Default: for ever, for the
    #: heartbeat finds the dead, and who lives and is quiet may have a reason.
    idle: float = math.inf

    def __post_init__(self) -> None:
        _positive(self, "connect", "handshake", "auth", "write", "close", "idle")
        if math.isinf(self.close):
            raise ValueError("Timeouts.close must be finite: every ending is bounded")


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Ping after ``interval`` seconds in which nothing was heard; fail ``timeout`` after that.

    20 seconds each is below the idle limit of every common proxy (60 s) with one miss allowed.
    """

    interval: float = 20
    timeout: float = 20

    def __post_init__(self) -> None:
        _positive(self, "interval", "timeout")


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long a client waits before it connects again, and how often it does.

    The wait after a failure is drawn between 0 and a bound that grows with each failure in a row.
    Drawn from 0 on, because the clients of a server that restarts come back spread out, and
    half of them sooner than with a fixed wait ("full jitter").
    """

    #: The bound after the first failure. A restart takes about so long.
    base: float = 0.5
    #: Each failure in a row makes the bound so many times as large.
    factor: float = 2
    #: The largest bound: whoever waits for a service that comes back waits 15 seconds on average.
    cap: float = 30
    #: Failures in a row after which the last one is raised. A client in the field has no better
    #: idea than to try on, so there is no limit unless told.
    attempts: float = math.inf
    #: A connection that was open for so long counts as a success: what ends it is failure number
    #: one. Without that a server that accepts and drops at once would meet no backoff.
    reset: float = 10
    #: The most of a server's ``Retry-After`` that is honoured; a day would be as good as never.
    retry_after: float = 300
    #: Where the waits are drawn from. None: from the machine's source of random bytes, which a
    #: `trioweb.testing.VirtualNetwork` fixes by its seed.
    random: Random | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        _positive(self, "base", "cap", "attempts", "reset", "retry_after")
        if not self.factor >= 1:
            raise ValueError(f"Backoff.factor must be at least 1, not {self.factor!r}")
        for name in ("base", "factor", "cap", "retry_after"):
            if math.isinf(getattr(self, name)):
                raise ValueError(f"Backoff.{name} must be finite: a client comes back")

    def bound(self, failures: int) -> float:
        """Return the longest wait, in seconds, after so many failures in a row, from 1 on."""
        try:
            return min(self.cap, self.base * self.factor ** (failures - 1))
        except OverflowError:
            return self.cap


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """What a session may hold, beside what its connection does."""

    #: Events of one subscription that wait for their reader, and the bytes of their messages. What
    #: comes beyond is fetched from the topic's history, when the reader has caught up. Enough for a
    #: second or two of a busy topic.
    feed_events: int = 256
    feed_bytes: int = 2**18
    #: Notifications that wait for a connection; above it the overflow policy rules.
    queue_messages: int = 256
    queue_bytes: int = 2**18
    #: Subscriptions that are renewed at the same time after a break. Servers bound the calls of
    #: one connection.
    renewals: int = 8

    def __post_init__(self) -> None:
        _positive(self, *self.__slots__)


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """How a pool finds out whether an endpoint that it does not use could be used."""

    #: Seconds from one check to the next, give or take half: those of many clients spread out.
    interval: float = 15
    #: Seconds that a check may take. An endpoint that needs longer would be no help.
    timeout: float = 5
    #: The path of a page that must answer 200 to 299, such as ``/health``. None: a connection is
    #: opened as for a session, and ``ping`` called.
    path: str | None = None

    def __post_init__(self) -> None:
        _positive(self, "interval", "timeout")


@dataclass(frozen=True, slots=True)
class Deflate:
    """permessage-deflate (RFC 7692): what compression may cost a connection.

    The defaults are chosen with numbers (``docs/design/compression.md``): of JSON traffic 52 % is
    left for 11 us a message, and a connection holds nothing between two messages. With context
    takeover and no threshold it is 40 %, for 42 KiB a busy connection.
    """

    #: zlib's level, from 1 (quick) to 9 (small). 6 takes half as long again, and leaves 41 % of
    #: what is compressed in place of 46 %.
    level: int = 1
    #: zlib's memory level, from 1 to 9: 2**(memory_level + 9) bytes beside 2**(window_bits + 2).
    #: Above 5 it gains next to nothing, for JSON up to 20 KiB.
    memory_level: int = 5
    #: Our window, 2**window_bits bytes, from 9 to 15. The peer may ask for a smaller one only.
    #: Without context takeover 15 gains 1 %; with it 2 %, for eight times the memory.
    window_bits: int = 12
    #: The largest window of the peer's that we have memory for, from 9 to 15. Clients that
    #: cannot be told to use less get no compression if it is below 15. Without context takeover
    #: a window lasts no longer than a message, so there is no need for less.
    max_window_bits: int = 15
    #: Whether both ends keep their windows from one message to the next. False for the sake of
    #: memory, and of secrets: what shares a window with a stranger's text can be guessed from
    #: the sizes of messages (RFC 7692, 8).
    context_takeover: bool = False
    #: Messages of fewer bytes are sent as they are: they would fit into one packet anyway, and
    #: compressing them would cost more than sending them.
    threshold: int = 1024

    def __post_init__(self) -> None:
        for name, least, most in (
            ("level", 1, 9),
            ("memory_level", 1, 9),
            ("window_bits", 9, 15),
            ("max_window_bits", 9, 15),
        ):
            value = getattr(self, name)
            if not least <= value <= most:
                raise ValueError(f"Deflate.{name} must be from {least} to {most}, not {value!r}")
        if self.threshold < 0:
            raise ValueError(f"Deflate.threshold must not be below 0, not {self.threshold!r}")


@dataclass(frozen=True, slots=True)
class CallLimits:
    """What calls over one link may cost, those that we make and those that come."""

    #: Calls and streams of ours at once. Above it a call waits, but one that is made inside of a
    #: method fails with "busy", since peers that call each other could wait in a circle.
    outgoing: int = 256
    #: Methods of ours that run at once for the peer; above it a call is answered "busy". As many
    #: as a peer with the same limits calls. As many again may be those of calls that the peer has
    #: given up, and that have not ended yet.
    incoming: int = 256
    #: Items of a stream of ours that may be under way or unread. Enough for a round trip of 100 ms
    #: at 160 items a second; a stream that needs more asks for it.
    window: int = 16
    #: Answers to calls that were not taken ("busy", "unknown-method") and to malformed messages
    #: that wait for a peer that reads nothing; above it the link closes with 1013.
    refusals: int = 1024
    #: Malformed messages that are borne and answered; above it the link closes with 1007.
    malformed: int = 16

    def __post_init__(self) -> None:
        _positive(self, *self.__slots__)


class Overflow(enum.Enum):
    """What happens to a message for a receiver whose queue is full."""

    #: Wait for room, until a deadline.
    WAIT = "wait"
    #: Leave out the oldest messages that may be left out, to make room.
    DROP_OLDEST = "drop oldest"
    #: Leave the message out for this receiver.
    DROP_NEWEST = "drop newest"
    #: Put it in the place of a waiting message of the same key, full or not: the newer one says
    #: it all. Where there is none and no room, as DROP_OLDEST.
    COALESCE = "coalesce"
    #: Close the receiver with 1013 "slow consumer". Not 1008, which tells a client to stay away:
    #: who was too slow may come back, and ask for what is missing.
    CLOSE = "close"


@dataclass(frozen=True, slots=True)
class Policy:
    """An overflow policy for one class of messages, with what it needs.

    Only messages under DROP_OLDEST, DROP_NEWEST and COALESCE are ever left out. Those under WAIT
    and CLOSE take the place of the oldest of them, and wait or close only where there is none.
    """

    #: Closing is the default: who is closed knows that something is missing.
    overflow: Overflow = Overflow.CLOSE
    #: Seconds that WAIT waits for room. Long enough for a bad moment of a mobile network, and a
    #: quarter of `Timeouts.write`, after which the connection is given up.
    timeout: float = 5
    #: What COALESCE tells messages apart by; it has no default.
    key: Hashable = None
    #: Makes the message that tells a receiver how many of this policy it has missed, in their
    #: place; None: what the link has for all (`attach`).
    gap: Callable[[int], Message] | None = None

    def __post_init__(self) -> None:
        _positive(self, "timeout")
        if self.overflow is Overflow.COALESCE and self.key is None:
            raise ValueError("Policy.key must be given for COALESCE")


@dataclass(frozen=True, slots=True)
class LinkLimits:
    """What a link (`attach`) may hold for its receiver, beside what the channel itself holds."""

    #: The backlog's mark: at so many messages, or bytes, the overflow policy rules. Four outboxes
    #: of a WebSocket: a second or two of a busy room, or a few seconds of a slow network.
    messages: int = 256
    bytes: int = 2**18
    #: Seconds in which what is queued may leave when the link's block ends, and in which a
    #: channel that is closed for slowness must be closed.
    close: float = 5

    def __post_init__(self) -> None:
        _positive(self, *self.__slots__)
        if math.isinf(self.close):
            raise ValueError("LinkLimits.close must be finite: every ending is bounded")


@dataclass(frozen=True, slots=True)
class Retention:
    """How much of a topic's history a store keeps. What is over any of these goes, oldest first."""

    #: Entries. More than a client misses while its user walks through a tunnel.
    max_entries: int = 1000
    #: Bytes of data. An entry that is larger alone is not kept.
    max_bytes: int = 2**20
    #: Seconds. ``math.inf`` keeps entries until others take their place.
    max_age: float = 300

    def __post_init__(self) -> None:
        _positive(self, *self.__slots__)


@dataclass(frozen=True, slots=True)
class TopicOptions:
    """What a topic of a `Hub` is like."""

    #: How much of its history the store keeps; None: it is live alone, and has no positions.
    history: Retention | None = None
    #: What happens to an event for a subscriber who is too slow. Closing is right with a history,
    #: for who comes back misses nothing; who stays is told of the gap. With COALESCE the newest
    #: event says it all. Not WAIT: nobody waits for one of many.
    overflow: Overflow = Overflow.CLOSE
    #: Whether subscribers may ask who else is there, and hear of it.
    presence: bool = False

    def __post_init__(self) -> None:
        if self.overflow is Overflow.WAIT:
            raise ValueError("TopicOptions.overflow must not be WAIT: nobody waits for one of many")


@dataclass(frozen=True, slots=True)
class HubLimits:
    """What a `Hub` lets its peers do."""

    #: Topics to which one peer is subscribed at once; "limit" above it.
    subscriptions: int = 1000
    #: Bytes of a topic's name; "invalid" above it.
    topic: int = 200
    #: Bytes of what is published, as MessagePack; "invalid" above it.
    publication: int = 2**17
    #: Events, and bytes of data, in one answer: above them a recovery is none. A quarter of
    #: `Limits.max_message`, for JSON may need several bytes for one.
    answer_events: int = 1000
    answer_bytes: int = 2**18

    def __post_init__(self) -> None:
        _positive(self, *self.__slots__)
