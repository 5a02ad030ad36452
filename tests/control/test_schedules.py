"""Whatever a scheduler decides, every answer is what the request alone would get."""

from __future__ import annotations

import pytest

from radix_lib.teaching.checks.schedules import (
    Drawn,
    Played,
    RememberingModel,
    check_answers,
    draw_schedule,
    play_schedule,
)
from tests.support.inspection import check_idle
from tests.support.scheduling import check_scheduler


def played(drawn: Drawn) -> Played:
    model = RememberingModel(drawn.n_pages, drawn.page_size)
    result = play_schedule(drawn, model, after_step=check_scheduler)
    check_answers(model, result)
    check_idle(model.router)
    return result


def test_no_schedule_changes_an_answer():
    results = [played(draw_schedule(seed)) for seed in range(120)]

    def schedules_with(happening: str) -> int:
        return sum(any(getattr(s, happening) for s in r.steps) for r in results)

    # The draws are worth something: most of what can happen happens in many.
    assert schedules_with("retracted") > 60
    assert schedules_with("refused") > 72
    assert schedules_with("shared") > 12
    assert schedules_with("cancelled") > 60
    requests = [request for result in results for request in result.requests]
    assert sum(request.n_cached > 0 for request in requests) > 180
    assert sum(request.n_retractions > 1 for request in requests) > 9
    assert sum(0 < r.n_output < r.max_new_tokens for r in requests) > 60


@pytest.mark.long
def test_no_schedule_of_many_changes_an_answer():
    for seed in range(1_000, 6_000):
        played(draw_schedule(seed))
