"""Programs that Hypothesis draws, run on the whole of trioweb: see `world` for the invariants."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.simulation.__main__ import run_seed
from tests.simulation.program import draw
from tests.simulation.world import simulate
from trioweb.testing import Recorder


@given(st.randoms(use_true_random=False), st.integers(0, 2**32))
@settings(max_examples=60)
def test_no_program_breaks_an_invariant(chance: random.Random, seed: int) -> None:
    simulate(draw(chance, clients=2, visits=2), seed).raise_if_broken()


@pytest.mark.parametrize("seed", range(100))
def test_no_seed_breaks_an_invariant(seed: int) -> None:
    run_seed(seed).raise_if_broken()


def test_a_seed_gives_the_same_run_each_time() -> None:
    def record(seed: int) -> str:
        recorder = Recorder()
        run_seed(seed, recorder)
        return str(recorder)

    assert record(7) == record(7)
    assert record(7) != record(8)
