"""Three points fix the cost of a step, and the cost foretells a schedule."""

from __future__ import annotations

import pytest

from radix_lib.cost_model import Beside, Point, beside, fit, measure
from radix_lib.scheduler import Scheduler
from radix_lib.token_time import Cost, TokenTime, play
from radix_lib.workloads import Report, Words, few_shot, report

TRUE = Cost(a=0.03, b=0.0015, c=0.000002)


def points(model: TokenTime) -> list[Point]:
    return [measure(model, 0, 256), measure(model, 63, 1), measure(model, 1023, 1)]


def test_three_steps_of_a_model_give_its_cost() -> None:
    model = TokenTime(cost=TRUE)
    assert fit(points(model)) == pytest.approx(TRUE)
    assert model.router.usage().free == 1024  # nothing stays


def test_a_measured_step_has_the_context_of_all_its_tokens() -> None:
    assert measure(TokenTime(cost=TRUE), 30, 2) == pytest.approx(
        (2, 32, TRUE.of(2, 32))
    )


def test_a_step_that_fails_leaves_no_page() -> None:
    class Fails(TokenTime):
        def step(self, leases: object, n_tokens: object) -> list[int]:
            raise RuntimeError("no")

    model = Fails()
    with pytest.raises(RuntimeError):
        measure(model, 4, 1)
    assert model.router.usage().free == 1024


@pytest.mark.parametrize(
    "few",
    [
        [],
        [Point(1, 1, 1.0), Point(2, 2, 2.0)],
        [Point(n, n, float(n)) for n in (1, 2, 3, 4)],  # context is new tokens
    ],
)
def test_points_that_leave_a_number_open_are_refused(few: list[Point]) -> None:
    with pytest.raises(ValueError, match="do not fix three numbers"):
        fit(few)


def test_more_points_than_three_are_met_as_nearly_as_can_be() -> None:
    noisy = [
        Point(n, n + before, TRUE.of(n, n + before) * (1 + noise))
        for n, before, noise in [(256, 0, 0.01), (1, 63, 0), (1, 1023, 0), (64, 64, 0)]
    ]
    cost = fit(noisy)
    assert cost.b == pytest.approx(TRUE.b, rel=0.05)


def played(cost: Cost, n_pages: int = 2000) -> Report:
    workload = few_shot(Words(str.encode), 16)
    return report(play(Scheduler(TokenTime(n_pages, cost=cost)), workload))


def test_a_schedule_is_foretold_from_three_points() -> None:
    found = beside(played(fit(points(TokenTime(cost=TRUE)))), played(TRUE))
    assert all(number.error < 1e-6 for number in found.values())


def test_an_error_is_a_share_of_what_was_measured() -> None:
    assert Beside(predicted=3.0, measured=4.0).error == 0.25
    wrong = beside(played(TRUE._replace(b=2 * TRUE.b)), played(TRUE))
    assert wrong["first token, median"].error > 0.3
