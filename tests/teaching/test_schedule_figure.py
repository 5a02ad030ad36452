"""Chapter 08: what a timeline keeps of the steps, and what the figure says of them."""

from __future__ import annotations

import pytest

from radix_lib.admission import NewTokenRatio
from radix_lib.scheduler import Scheduler
from radix_lib.teaching import Timeline, draw_schedule
from radix_lib.teaching.figures.schedule_figure import MOST
from radix_lib.teaching.figures.schedule_timeline import Mark, folded
from radix_lib.token_time import TokenTime

NOTHING_RESERVED = NewTokenRatio(0.0, 0.0)


def played(*requests: tuple[range, int], n_pages: int = 12, **settings) -> Timeline:
    settings = {"token_budget": 16, "max_running": 4} | settings
    scheduler = Scheduler(
        TokenTime(n_pages, page_size=4), ratio=NOTHING_RESERVED, **settings
    )
    timeline = Timeline(scheduler)
    for prompt, n_new in requests:
        scheduler.submit(prompt, n_new)
    scheduler.run(timeline)
    return timeline


def row(timeline: Timeline, number: int) -> list[Mark]:
    return [m.marks[number] for m in timeline.moments if number in m.marks]


def test_a_timeline_tells_what_was_prefilled_decoded_and_when_it_ended():
    timeline = played((range(20), 3))
    assert row(timeline, 0) == [
        Mark("prefilled", 16),
        Mark("prefilled", 4),
        Mark("decoded", 1),
        Mark("decoded", 1, ends=True),
    ]
    assert [moment.n_tokens for moment in timeline.moments] == [16, 4, 1, 1]
    assert [moment.n_room for moment in timeline.moments] == [7, 7, 6, 12]


@pytest.mark.parametrize("n_new", [1, 2])
def test_what_was_reused_is_told_even_of_a_request_that_is_over_at_once(n_new: int):
    timeline = played((range(9), 1), (range(9), n_new), token_budget=16)
    first = row(timeline, 1)[1]
    assert first == Mark("prefilled", 1, 8, ends=n_new == 1)


def test_whoever_runs_and_gets_nothing_holds_its_pages():
    timeline = played((range(8), 9), (range(50, 90), 1), prefill_first=True)
    whats = [mark.what for mark in row(timeline, 0)]
    assert whats[:4] == ["prefilled", "holds", "holds", "decoded"]


def test_a_retracted_request_waits_and_comes_back_with_a_hit():
    timeline = played((range(8), 17), (range(40, 48), 18), n_pages=8)
    (victim,) = [
        n for n in (0, 1) if any(mark.what == "retracted" for mark in row(timeline, n))
    ]
    marks = row(timeline, victim)
    at = [mark.what for mark in marks].index("retracted")
    assert marks[at + 1].what == "waits"
    (back,) = [mark for mark in marks[at:] if mark.n_reused]
    assert back.n_reused + back.n_tokens == 8 + at


def test_cancelled_and_failed_requests_are_told_by_name():
    scheduler = Scheduler(TokenTime(12, page_size=4))
    timeline = Timeline(scheduler)
    stays, goes = scheduler.submit(range(9), 4), scheduler.submit(range(20, 29), 4)
    timeline(scheduler.step())
    goes.cancel()
    timeline(scheduler.step())
    assert timeline.moments[1].marks == {0: Mark("decoded", 1), 1: Mark("cancelled")}

    def breaks(*_: object) -> list[int]:
        raise RuntimeError("no")

    scheduler.model.step = breaks
    timeline(scheduler.step())
    assert timeline.moments[2].marks == {0: Mark("failed")}
    assert stays.outcome == "failed"
    figure = draw_schedule(timeline)
    assert "cancelled or failed" in figure.svg
    assert "step 2: cancelled" in figure.alt
    assert "step 3: failed" in figure.alt


def test_steps_that_are_alike_are_told_as_one_and_no_event_is_lost():
    timeline = played((range(4), 9), (range(20, 24), 5))
    columns = folded(timeline.moments)
    assert [(m.first, m.last) for m in columns] == [
        (1, 1),
        (2, 4),
        (5, 5),
        (6, 8),
        (9, 9),
    ]
    for number in (0, 1):
        tokens = [m.marks[number].n_tokens for m in columns if number in m.marks]
        assert sum(tokens) == sum(mark.n_tokens for mark in row(timeline, number))
    assert folded(timeline.moments, least=99) == timeline.moments


def test_the_figure_draws_says_and_describes_the_same_steps():
    timeline = played((range(9), 2), (range(9), 3), (range(30, 45), 2))
    figure = draw_schedule(timeline, "Three requests")
    assert figure.text.splitlines() == [
        "Three requests",
        "A thick edge ends an answer.",
        "step    1   2     3   4",
        "R1      +9  1]",
        "R2      .   =8+1  1   1]",
        "R3      +7  +8    1]",
        "tokens  16  10    2   1",
        "room    5   5     9   12",
    ]
    told = (
        "R2, step 1: waits; step 2: reused 8, prefilled 1; step 3: decoded 1; "
        "step 4: decoded 1, which ends its answer."
    )
    assert told in figure.alt
    for word in ("prefilled", "reused", "decoded", "waits", "=8+1"):
        assert word in figure.svg
    assert "retracted" not in figure.svg


def test_a_prompt_in_chunks_is_described_chunk_by_chunk():
    figure = draw_schedule(played((range(24), 1), token_budget=8))
    assert (
        "R1, step 1–2: prefilled 8 each; step 3: prefilled 8, which ends" in figure.alt
    )


def test_a_part_of_the_steps_can_be_drawn():
    timeline = played((range(4), 3), (range(20, 24), 6))
    text = draw_schedule(timeline, first=2, last=3).text
    assert "step    2  3" in text
    assert "R1      1  1]" in text
    assert "step    7" not in text
    assert draw_schedule(timeline, first=90).svg


def test_of_very_many_steps_the_first_are_shown_and_the_others_counted():
    scheduler = Scheduler(TokenTime(400, page_size=4), max_running=1)
    timeline = Timeline(scheduler)
    for number in range(2 * MOST):
        scheduler.submit(range(10 * number, 10 * number + 8), 1)
    scheduler.run(timeline)
    figure = draw_schedule(timeline)
    assert f"{MOST} steps more." in figure.text
    assert f"R{MOST}" in figure.text
    assert f"R{MOST + 1}, " not in figure.alt
