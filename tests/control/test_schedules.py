"""Whatever a scheduler decides, every answer is what the request alone would get."""

from __future__ import annotations

import pytest

from tests.support.scheduling import (
    RememberingModel,
    answer_alone,
    draw,
    play_drawn,
)


def run(seeds: range) -> tuple[int, int]:
    """How many of the schedules retracted, and how many had a hit."""
    n_retracting = n_hitting = 0
    for seed in seeds:
        drawn = draw(seed)
        model = RememberingModel(drawn.n_pages, drawn.page_size)
        requests, steps = play_drawn(drawn, model)
        for asked, request in zip(drawn.requests, requests, strict=True):
            alone = answer_alone(asked.prompt, asked.max_new_tokens)
            assert request.prompt == asked.prompt
            if request.state == "cancelled":
                assert request.output == alone[: request.n_output]
            else:
                assert request.state == "finished"
                assert request.output == alone
        n_retracting += any(step.retracted for step in steps)
        n_hitting += any(request.n_cached for request in requests)
    return n_retracting, n_hitting


def test_no_schedule_changes_an_answer():
    retracting, hitting = run(range(200))
    assert retracting > 60
    assert hitting > 60


@pytest.mark.long
def test_no_schedule_of_many_changes_an_answer():
    run(range(1_000, 6_000))
