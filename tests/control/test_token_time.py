"""Chapter 08: a model that computes nothing, on a clock that counts tokens."""

from __future__ import annotations

import random

import pytest

from radix_lib.radix_tree import pack_tokens
from radix_lib.request import Step
from radix_lib.scheduler import Scheduler
from radix_lib.token_time import Arrival, Cost, TokenTime, play
from tests.support.inspection import check_idle


def test_a_step_costs_its_start_its_new_tokens_and_what_they_attend_to():
    model = TokenTime(64, 4, cost=Cost(a=100, b=10, c=1))
    one, two = (model.router.admit(list(range(n))) for n in (6, 9))
    model.step([one], [4])
    assert model.clock() == 100 + 10 * 4 + 4
    model.step([one, two], [2, 9])
    assert model.clock() - 144 == 100 + 10 * 11 + 6 + 9


def test_an_answer_follows_from_the_tokens_before_it():
    model, other = TokenTime(64, 4), TokenTime(64, 16)
    tokens = list(range(10))
    answer = Scheduler(model).submit(tokens, 5).wait()
    assert Scheduler(other).submit(tokens, 5).wait() == answer
    assert Scheduler(model).submit([*tokens, *answer[:2]], 3).wait() == answer[2:]
    assert Scheduler(model).submit(tokens[1:], 5).wait() != answer
    assert (
        model.next_token(tokens) == model.next_token(pack_tokens(tokens)) == answer[0]
    )
    assert all(0 <= token < 50_000 for token in answer)


def test_an_answer_may_be_given_and_goes_on_by_itself():
    model = TokenTime(64, 4)
    request = Scheduler(model).submit([1, 2, 3], 4, answer=[7, 8])
    assert request.wait()[:2] == [7, 8]
    assert request.output[2] == model.next_token([1, 2, 3, 7, 8])
    with pytest.raises(ValueError, match="50000"):
        Scheduler(model).submit([1, 2, 3], 4, answer=[50_000])


def test_requests_come_at_their_time_and_the_clock_jumps_where_nothing_is_left():
    model = TokenTime(64, 4, cost=Cost(a=10, b=1, c=0))
    arrivals = [
        Arrival(500, [7, 8, 9], 1, {"priority": 2}),
        Arrival(0, [1, 2, 3], 3),
        Arrival(14, [4, 5, 6, 7], 2),
    ]
    steps: list[Step] = []
    requests = play(Scheduler(model), arrivals, steps.append)
    assert [request.prompt[0] for request in requests] == [1, 4, 7]
    assert [request.submitted_at for request in requests] == [0, 14, 500]
    assert [step.began_at for step in steps] == [0, 13, 24, 39, 500]
    assert [request.admitted_at for request in requests] == [0, 24, 500]
    assert requests[2].priority == 2
    assert requests[2].ended_at == 513


def traffic(n: int) -> list[Arrival]:
    """Requests on 64 prefixes, the first of them most often; one each six ticks."""
    rng = random.Random(0)
    prefixes = [[rng.randrange(50_000) for _ in range(512)] for _ in range(64)]
    arrivals = []
    for i in range(n):
        prefix = prefixes[min(rng.randrange(1, 65), rng.randrange(1, 65)) - 1]
        own = [rng.randrange(50_000) for _ in range(rng.randrange(16, 128))]
        arrivals.append(Arrival(6 * i, prefix + own, rng.randrange(16, 64)))
    return arrivals


def summary(n: int, order: str = "fcfs") -> dict[str, float]:
    model = TokenTime(20_000, 16, cost=Cost(a=20, b=1, c=0))
    scheduler = Scheduler(model, token_budget=2_048, max_running=256, order=order)
    requests = play(scheduler, traffic(n))
    check_idle(model.router)
    assert all(request.state == "finished" for request in requests)
    return {
        "steps": scheduler.n_steps,
        "clock": model.clock(),
        "cached": sum(request.n_cached for request in requests),
        "answered": sum(request.n_output for request in requests),
    }


@pytest.mark.parametrize("after", [7, 1, -1])
def test_who_waits_for_what_never_ends_is_named(after: int):
    scheduler = Scheduler(TokenTime())
    arrivals = [Arrival(0, [1], 1), Arrival(0, [2], 1, after=after)]
    with pytest.raises(ValueError, match=f"arrival 1 waits for arrival {after}, which"):
        play(scheduler, arrivals)
    assert not scheduler.n_unfinished


def test_a_request_that_was_there_before_is_served_as_well():
    scheduler = Scheduler(TokenTime())
    before = scheduler.submit([1, 2, 3], 2)
    (request,) = play(scheduler, [Arrival(0, [4], 1)])
    assert (before.outcome, request.outcome) == ("finished", "finished")


def test_a_stop_may_be_one_token():
    model = TokenTime()
    token = model.next_token([1, 2, 3])
    assert Scheduler(model).submit([1, 2, 3], 9, stop=token).wait() == [token]


def test_a_thousand_requests_are_scheduled_the_same_on_every_machine():
    assert summary(1_000) == {
        "steps": 209,
        "clock": 144_786,
        "cached": 480_768,
        "answered": 39_030,
    }


@pytest.mark.long
def test_ten_thousand_requests_are_scheduled_the_same_on_every_machine():
    assert summary(10_000) == {
        "steps": 1_593,
        "clock": 1_172_124,
        "cached": 5_086_208,
        "answered": 395_115,
    }
