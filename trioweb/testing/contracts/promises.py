"""What the contract checks share: a broken promise is an `AssertionError` that names it."""

from __future__ import annotations

import inspect
import reprlib
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TypeVar, cast

import trio

__all__ = ["keeps", "plain", "require", "shown"]

_T = TypeVar("_T")

_short = reprlib.Repr()
_short.maxstring = _short.maxother = _short.maxlong = 80


def require(kept: object, promise: str) -> None:
    """Raise `AssertionError` with these words unless the promise is kept."""
    if not kept:
        raise AssertionError(promise)


def shown(value: object) -> str:
    """Show a value in a message, which stays readable whatever its size."""
    return _short.repr(value)


def plain(what: str, result: _T) -> _T:
    """Return the result of a function, which must not be an async one."""
    if inspect.isawaitable(result):
        if inspect.iscoroutine(result):
            result.close()  # else it would complain that nobody awaited it
        raise AssertionError(f"{what} is async: it must be a plain function")
    return result


@contextmanager
def keeps(
    promise: str, scope: trio.CancelScope, stuck: Callable[[], str] = lambda: "it hangs"
) -> Generator[None]:
    """Run a block that keeps a promise and comes to an end before the scope does.

    Whatever `Exception` the block raises becomes an `AssertionError` that begins with the promise.
    """
    try:
        with scope:
            yield
    except Exception as error:
        first = _first(error)
        words = str(first) if isinstance(first, AssertionError) else f"there came {first!r}"
        raise AssertionError(f"{promise}: {words}") from error
    if scope.cancelled_caught:
        raise AssertionError(f"{promise}: {stuck()}")


def _first(error: Exception) -> Exception:
    """Return the broken promise among the exceptions of some tasks, or else the first one."""
    if not isinstance(error, ExceptionGroup):
        return error
    group = cast("ExceptionGroup[Exception]", error)
    broken = group.subgroup(AssertionError)
    return _first((broken or group).exceptions[0])
