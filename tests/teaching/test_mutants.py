"""What is broken on purpose is caught, and by the check that is named."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from radix_lib.teaching.checks.cache_states import tiny_model
from radix_lib.teaching.checks.mutants import (
    MUTANTS,
    TOLERANCE,
    Finding,
    Mutant,
    examine,
)

TOKENS = list(range(1, 23))  # ends inside a page of four

CAUGHT_BY = {
    "positions restart": "tolerance",
    "mask one too far": "tolerance",
    "written too late": "tolerance",
    "rotated twice": "tolerance",
    "written unrotated": "tolerance",
    "heads mispaired": "tolerance",
    "last pages swapped": "tolerance",
    "never locks": "integrity",
    "duplicates still referenced": "integrity",
    "tail shared": "integrity",
    "one root for all": "integrity",
    "whole edge taken": "tolerance",
    "never flushes": "tolerance",
    "one token too many": "an error",
    "one layer in bfloat16": "tolerance",
    "last bit flipped": "bits",
    "scale one bit off": "bits",
    "finer angles": "bits",
    "masks exchanged": "tolerance",
    "one page shared": "tolerance",
    "sums swapped": "tolerance",
    "stale weights": "tolerance",
}


@pytest.fixture
def model(one_thread: None) -> Any:
    return tiny_model()  # two query heads to a K/V head


def test_the_library_passes(model: Any) -> None:
    right = examine(model, TOKENS, Mutant("Nothing is wrong.", {}))
    assert right == Finding("", False, 0.0, True, True, 0)
    assert right.caught_by == ""


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_is_caught(name: str, model: Any) -> None:
    weights = {key: weight.clone() for key, weight in model.state_dict().items()}
    found = examine(model, TOKENS, MUTANTS[name])
    assert found.caught_by == CAUGHT_BY[name]
    assert all(weight.equal(weights[key]) for key, weight in model.state_dict().items())
    if found.caught_by == "bits":  # nobody else has seen anything
        assert not found.crashed
        assert not found.isolation
        assert found.same_tokens
        assert 0 < found.max_abs_diff <= TOLERANCE


OF_EXACT_ARITHMETIC = [
    "masks exchanged",
    "one page shared",
    "sums swapped",
    "stale weights",
]


@pytest.mark.parametrize("name", OF_EXACT_ARITHMETIC)
def test_without_onednn_a_mutant_is_caught_as_well(name: str, model: Any) -> None:
    with torch.backends.mkldnn.flags(enabled=False):
        found = examine(model, TOKENS, MUTANTS[name])
    assert found.caught_by == CAUGHT_BY[name]


def test_the_gallery_has_what_the_chapter_shows() -> None:
    assert MUTANTS.keys() == CAUGHT_BY.keys()
    assert len(MUTANTS) >= 14
    assert list(CAUGHT_BY.values()).count("bits") >= 3
    assert len({mutant.what for mutant in MUTANTS.values()}) == len(MUTANTS)
    assert all(mutant.what.endswith(".") for mutant in MUTANTS.values())


def test_what_no_comparison_of_logits_can_see(model: Any) -> None:
    """Two tenants have the same K/V for the same tokens: only the pages tell."""
    found = examine(model, TOKENS, MUTANTS["one root for all"])
    assert found.isolation
    assert found.differing == 0


@pytest.mark.parametrize("name", ["masks exchanged", "sums swapped"])
def test_a_query_alone_has_none_to_exchange_with(name: str, model: Any) -> None:
    found = examine(model, TOKENS, MUTANTS[name], states=["token by token"])
    assert found.differing == 0
