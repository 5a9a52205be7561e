"""One seed for a whole run: Trio's task order, and the clock that jumps.

The only file that touches Trio's private parts. Trio shuffles the tasks of each turn with a random
source of its own, and starts from an order that differs between runs unless a flag is set; both
are private, so `check_trio` fails loudly when a new Trio has moved them.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Awaitable, Callable, Generator, Sequence
from typing import Any, TypeVar, TypeVarTuple

import trio
import trio.testing

__all__ = ["check_trio", "deterministic", "run"]

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")

_scheduler: Any = getattr(trio._core, "_run", None)  # noqa: SLF001 - see above
_SOURCE = "_r"
_FLAG = "_ALLOW_DETERMINISTIC_SCHEDULING"


def check_trio() -> None:
    """Raise `RuntimeError` unless Trio's task order can still be fixed by a seed."""
    kinds = {_SOURCE: random.Random, _FLAG: bool}
    found = {name: getattr(_scheduler, name, None) for name in kinds}
    missing = [name for name, kind in kinds.items() if not isinstance(found[name], kind)]
    if missing:
        raise RuntimeError(
            f"trio {trio.__version__} has no {' and no '.join(missing)} any more: "
            "the order of its tasks cannot be fixed"
        )


@contextlib.contextmanager
def deterministic(seed: int) -> Generator[None]:
    """Let every `trio.run` in the block take its tasks in an order that the seed fixes.

    Starting a second run in the same block goes on in the sequence of the first. The state of
    before comes back at the end.
    """
    check_trio()
    source: random.Random = getattr(_scheduler, _SOURCE)
    before = source.getstate(), getattr(_scheduler, _FLAG)
    source.seed(seed)
    setattr(_scheduler, _FLAG, True)
    try:
        yield
    finally:
        source.setstate(before[0])
        setattr(_scheduler, _FLAG, before[1])


def run(
    async_fn: Callable[[*_Ts], Awaitable[_T]],
    *args: *_Ts,
    seed: int,
    instruments: Sequence[trio.abc.Instrument] = (),
) -> _T:
    """Run as `trio.run` does: tasks in the seed's order, on a clock that starts at 0 and jumps.

    What the function raises carries a note with the seed. The same seed gives the same run, as
    long as the function reaches nothing but a `VirtualNetwork` of a fixed seed: no sockets, no
    threads, no other source of chance.
    """
    clock = trio.testing.MockClock(autojump_threshold=0)
    with deterministic(seed):
        try:
            return trio.run(async_fn, *args, clock=clock, instruments=instruments)
        except BaseException as error:
            error.add_note(f"trioweb.testing: this was seed {seed}")
            raise
