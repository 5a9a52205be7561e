"""Every input that fuzzing kept is tried again, without the fuzzer; and the fuzzer's own parts."""

from __future__ import annotations

import random

import pytest

from tests.conftest import missing

from .__main__ import CORPUS, MOST
from .framers import NATIVE_IS_THERE
from .targets import LARGEST, TARGETS, WORDS


@pytest.fixture(params=TARGETS)
def target(request: pytest.FixtureRequest) -> str:
    """Return the name of a target."""
    if request.param == "framers" and not NATIVE_IS_THERE:
        missing("the native framer (a C compiler, and then `pip install -e .`)")
    return request.param


def test_nothing_is_wrong_with_the_corpus(target: str) -> None:
    inputs = sorted((CORPUS / target).iterdir())
    assert len(inputs) > 20, "the corpus is gone"
    for path in inputs:
        data = path.read_bytes()
        try:
            TARGETS[target](data)
        except Exception as error:
            error.add_note(f"python -m tests.fuzz --target {target} --one {path}")
            raise


def test_the_corpus_is_small() -> None:
    sizes = [path.stat().st_size for path in CORPUS.rglob("*") if path.is_file()]
    assert sum(sizes) <= MOST
    assert max(sizes) <= LARGEST


def test_any_bytes_are_an_input(target: str) -> None:
    drawn = random.Random(target)
    for size in range(60):
        words = drawn.choices(WORDS[target], k=drawn.randrange(5))
        TARGETS[target](drawn.randbytes(size) + b"".join(words))
