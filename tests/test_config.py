"""The options: their defaults make sense, and nonsense is refused when they are made."""

from __future__ import annotations

import dataclasses
import math

import pytest

from trioweb.config import (
    CallLimits,
    Heartbeat,
    Limits,
    LinkLimits,
    Overflow,
    Policy,
    Retention,
    SessionLimits,
    Timeouts,
)

OPTIONS = [CallLimits, Limits, Timeouts, Heartbeat, LinkLimits, Retention, SessionLimits]
FIELDS = [(kind, field.name) for kind in OPTIONS for field in dataclasses.fields(kind)]


@pytest.mark.parametrize("kind", OPTIONS)
def test_defaults_make_an_option_and_it_is_frozen(kind):
    options = kind()
    assert options == kind()
    assert hash(options) == hash(kind())
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(options, dataclasses.fields(kind)[0].name, 1)


@pytest.mark.parametrize("value", [0, -1, -math.inf, math.nan])
@pytest.mark.parametrize(("kind", "name"), FIELDS)
def test_what_is_not_positive_is_refused(kind, name, value):
    with pytest.raises(ValueError, match=rf"{kind.__name__}\.{name} must be positive"):
        kind(**{name: value})


@pytest.mark.parametrize("name", ["connect", "handshake", "auth", "write"])
def test_a_deadline_may_be_switched_off(name):
    assert getattr(Timeouts(**{name: math.inf}), name) == math.inf


def test_every_ending_is_bounded():
    with pytest.raises(ValueError, match=r"Timeouts\.close must be finite"):
        Timeouts(close=math.inf)


def test_the_defaults_that_the_documentation_names():
    limits = Limits()
    assert limits.max_message == 2**20
    assert limits.max_response_body == 4096
    assert limits.outbox_control == 64
    assert Timeouts() == Timeouts(connect=10, handshake=10, auth=10, write=20, close=10)
    assert Heartbeat() == Heartbeat(interval=20, timeout=20)


def test_a_message_of_the_largest_size_fits_in_the_fragments_allowed():
    limits = Limits()
    assert limits.max_fragments * 256 >= limits.max_message


def test_the_overflow_policies():
    names = {"WAIT", "DROP_OLDEST", "DROP_NEWEST", "COALESCE", "CLOSE"}
    assert {policy.name for policy in Overflow} == names


@pytest.mark.parametrize("timeout", [0, -1, math.nan])
def test_a_policy_waits_for_some_time(timeout):
    with pytest.raises(ValueError, match=r"Policy\.timeout must be positive"):
        Policy(Overflow.WAIT, timeout=timeout)


def test_coalescing_needs_a_key():
    with pytest.raises(ValueError, match=r"Policy\.key must be given"):
        Policy(Overflow.COALESCE)
    assert Policy(Overflow.COALESCE, key="price") == Policy(Overflow.COALESCE, key="price")


def test_every_ending_of_a_link_is_bounded():
    with pytest.raises(ValueError, match=r"LinkLimits\.close must be finite"):
        LinkLimits(close=math.inf)
