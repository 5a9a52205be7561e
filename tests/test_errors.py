"""The errors: Trio's names for whoever writes for channels, the close code for the others."""

from __future__ import annotations

import inspect

import pytest
import trio

import trioweb
from trioweb import errors
from trioweb.types import Close, Headers


@pytest.mark.parametrize(
    ("kind", "theirs"),
    [
        (errors.EndOfChannel, trio.EndOfChannel),
        (errors.ConnectionBroken, trio.BrokenResourceError),
        (errors.ConnectionClosedByUs, trio.ClosedResourceError),
    ],
)
def test_ends_are_also_trios(kind, theirs):
    error = kind(Close(4000, "why", by_peer=True))
    assert isinstance(error, theirs)
    assert isinstance(error, errors.ConnectionEnded)
    assert isinstance(error, errors.TriowebError)
    assert (error.code, error.reason, error.close.by_peer) == (4000, "why", True)
    assert str(error) == "4000: why"


@pytest.mark.parametrize(
    ("kind", "base"),
    [
        (errors.HandshakeTimeout, trio.TooSlowError),
        (errors.HandshakeTimeout, errors.HandshakeError),
        (errors.HandshakeInvalid, errors.HandshakeError),
        (errors.HandshakeRejected, errors.HandshakeError),
        (errors.ConnectFailed, OSError),
    ],
)
def test_errors_without_a_connection_are_also_what_trio_and_python_call_them(kind, base):
    assert issubclass(kind, base)
    assert issubclass(kind, errors.TriowebError)
    assert not issubclass(kind, errors.ConnectionEnded)


def test_the_three_ends_are_told_apart():
    kinds = [errors.EndOfChannel, errors.ConnectionBroken, errors.ConnectionClosedByUs]
    for one in kinds:
        assert [issubclass(one, other) for other in kinds].count(True) == 1


def test_a_rejection_carries_the_answer_and_shows_the_start_of_its_body():
    headers = Headers({"Retry-After": "5"})
    error = errors.HandshakeRejected(503, headers, b"  busy\xff " + b"x" * 500)
    assert (error.status, error.headers, len(error.body)) == (503, headers, 508)
    assert str(error).startswith("server answered 503: busy\ufffd x")
    assert len(str(error)) < 250
    assert str(errors.HandshakeRejected(404, Headers())) == "server answered 404"


def test_a_protocol_error_has_a_code_and_a_reason():
    error = errors.ProtocolError(1009, "too big")
    assert (error.code, error.reason, str(error)) == (1009, "too big", "1009: too big")


def test_refused_is_401_unless_told():
    error = errors.Refused()
    assert (error.reason, error.status, error.headers) == ("", 401, Headers())
    error = errors.Refused("banned", status=403, headers=Headers({"X": "1"}))
    assert (error.reason, error.status, error.headers["x"]) == ("banned", 403, "1")


def test_the_tree_in_the_documentation_is_the_tree():
    assert errors.__doc__ is not None
    public = [getattr(errors, name) for name in errors.__all__]
    assert all(issubclass(kind, errors.TriowebError) for kind in public)
    for kind in public:
        line = next(
            line for line in errors.__doc__.splitlines() if f"{kind.__name__} " in line + " "
        )
        depth = len(line) - len(line.lstrip(" |`-"))
        parents = len([base for base in inspect.getmro(kind) if base in public])
        assert depth == 4 * parents, line
        assert kind is getattr(trioweb, kind.__name__)
