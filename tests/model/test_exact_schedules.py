"""Whatever a scheduler does, not one bit of any answer differs from Hugging Face's."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, NamedTuple

import pytest
import torch

from radix_lib.batch_invariance import batch_invariant
from radix_lib.equality import baseline_logits
from radix_lib.page_manager import OutOfPages
from radix_lib.request import Step
from radix_lib.router import Lease
from radix_lib.scheduler import Scheduler
from radix_lib.teaching.checks.cache_states import FAMILIES, tiny_model
from radix_lib.teaching.checks.exact_schedules import compare_schedule
from radix_lib.teaching.checks.schedules import Drawn, draw_schedule

VISIT = [5, 6, 7, 8, 9, 10, 11, 12, 13]


class Visitor:
    """Uses the scheduler's model beside it: a prompt, and two forks that go on from it.

    It comes when there is room, and stays to the end, on pages that are added for it.
    """

    def __init__(self, drawn: Drawn):
        n_own = -(-(len(VISIT) + 3) // drawn.page_size)
        n_shared = len(VISIT) // drawn.page_size
        n_pages = 3 * n_own - 2 * n_shared
        self.drawn = drawn._replace(n_pages=drawn.n_pages + n_pages)
        self.leases: list[Lease] = []
        self.said: list[tuple[list[int], torch.Tensor]] = []

    def __call__(self, scheduler: Scheduler, step: Step) -> None:
        model: Any = scheduler.model
        if not self.leases:
            with suppress(OutOfPages):
                self.leases.append(model.prefill(VISIT, max_new_tokens=3)[0])
        elif len(self.leases) < 3:
            with suppress(OutOfPages):
                self.leases.append(model.fork(self.leases[0], 3))
        elif len(self.said) < 9:
            tokens = [20 * i + step.number for i in range(3)]
            rows = model.decode_step(self.leases, [token % 64 for token in tokens])
            self.said += zip([x.tokens for x in self.leases], rows, strict=True)
        if not scheduler.n_unfinished:
            while self.leases:
                model.router.finish(self.leases.pop())


class Result(NamedTuple):
    differing: int
    retracted: bool
    visited: bool


def play(model: Any, drawn: Drawn) -> Result:
    visitor = Visitor(drawn)
    with batch_invariant():
        found, steps = compare_schedule(model, visitor.drawn, after_step=visitor)
        for tokens, row in visitor.said:
            assert torch.equal(row, baseline_logits(model, tokens))
    assert found.numbers > 0
    retracted = any(step.retracted for step in steps)
    return Result(found.differing, retracted, len(visitor.said) == 9)


@pytest.fixture(scope="module")
def tiny() -> dict[str, Any]:
    return {family: tiny_model(config) for family, config in FAMILIES.items()}


@pytest.mark.parametrize("family", FAMILIES)
def test_no_schedule_changes_a_bit(
    family: str, tiny: dict[str, Any], one_thread: None
) -> None:
    first = 8 * list(FAMILIES).index(family)
    seeds = range(first, first + 8)
    results = [play(tiny[family], draw_schedule(seed)) for seed in seeds]
    assert [result.differing for result in results] == [0] * 8
    assert sum(result.retracted for result in results) >= 3
    assert sum(result.visited for result in results) >= 3


@pytest.mark.long
@pytest.mark.parametrize("family", FAMILIES)
def test_no_schedule_of_many_changes_a_bit(
    family: str, tiny: dict[str, Any], one_thread: None
) -> None:
    first = 1_000 * (1 + list(FAMILIES).index(family))
    seeds = range(first, first + 100)
    results = [play(tiny[family], draw_schedule(seed)) for seed in seeds]
    assert [result.differing for result in results] == [0] * 100
    assert sum(result.retracted for result in results) >= 50
    assert sum(result.visited for result in results) >= 50


@pytest.mark.long
def test_a_schedule_on_the_default_model_changes_no_bit(real: Any) -> None:
    drawn = draw_schedule(5061)
    assert play(real.model, drawn) == Result(0, retracted=True, visited=True)


@pytest.mark.long
@pytest.mark.parametrize("seed", [5012, 5042, 5080, 5086, 5099, 9, 11])
def test_schedules_on_the_default_model_change_no_bit(real: Any, seed: int) -> None:
    assert play(real.model, draw_schedule(seed)).differing == 0


def test_the_comparison_sees_a_bit(tiny: dict[str, Any], one_thread: None) -> None:
    """K/V that come back with another last bit are no small matter here."""
    from radix_lib.teaching.checks import exact_schedules
    from radix_lib.teaching.checks.mutants import LastBitFlipped

    class Flipped(exact_schedules.RecordingModel):
        pool_type = LastBitFlipped

    with pytest.MonkeyPatch.context() as patch, batch_invariant():
        patch.setattr(exact_schedules, "RecordingModel", Flipped)
        found, _ = compare_schedule(tiny["Llama"], draw_schedule(1))
    assert found.differing > 0
    assert found.max_abs_diff < 1e-3
