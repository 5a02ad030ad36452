"""Made traffic: the same each time, shaped as it says, and counted as it is named."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from radix_lib.scheduler import Scheduler
from radix_lib.token_time import Arrival, Cost, TokenTime, play
from radix_lib.workloads import (
    WORKLOADS,
    Report,
    Spread,
    Words,
    Workload,
    ask,
    bursts,
    closed_loop,
    goodput,
    memory_shared,
    nothing_shared,
    poisson,
    report,
)


def encode(text: str) -> list[int]:
    return list(text.encode())


def made(name: str, seed: int = 0) -> Workload:
    return WORKLOADS[name](Words(encode, seed))


def played(workload: Workload, **pool: int) -> Report:
    model = TokenTime(**({"n_pages": 20_000} | pool))
    requests = play(Scheduler(model), workload)
    model.router.check_integrity()
    return report(requests)


# ── What is made ─────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", WORKLOADS)
def test_a_seed_gives_the_same_workload_each_time(name: str) -> None:
    assert made(name) == made(name)
    assert made(name) != made(name, seed=1)


@pytest.mark.parametrize("name", WORKLOADS)
def test_whoever_waits_for_another_holds_what_that_one_said(name: str) -> None:
    workload = made(name)
    for number, request in enumerate(workload):
        if request.after is not None:
            assert request.after < number
            before = workload[request.after]
            answer = before.options["answer"]
            n = len(answer)
            prompt = request.prompt
            assert any(prompt[i : i + n] == answer for i in range(len(prompt)))


def test_nothing_is_shared_where_it_says_so() -> None:
    found = played(made("nothing shared"), page_size=16)
    assert found.hit_rate == 0
    assert found.requests_hit == 0


def test_the_order_of_hit_rates_is_that_of_what_is_shared() -> None:
    rates = {name: played(closed_loop(made(name), 1)).hit_rate for name in WORKLOADS}
    assert rates["few-shot"] > 0.9
    assert rates["retrieval, shuffled"] < rates["few-shot"] / 2
    assert rates["chat, long answers"] > rates["chat, short answers"]


def test_groups_are_asked_by_zipfs_law() -> None:
    systems = [
        tuple(r.prompt[:512])
        for r in WORKLOADS["shared prefixes, by Zipf"](Words(encode), n=3000)
    ]
    counts = sorted((systems.count(system) for system in set(systems)), reverse=True)
    assert counts[0] == pytest.approx(2 * counts[1], rel=0.2)
    assert counts[0] == pytest.approx(8 * counts[7], rel=0.4)


# ── When requests come ───────────────────────────────────────────────────────────────


@pytest.mark.parametrize("n_users", [1, 3, 100])
@pytest.mark.parametrize("name", ["few-shot", "chat, short answers", "tree of thought"])
def test_no_more_sessions_run_than_there_are_users(name: str, n_users: int) -> None:
    workload = closed_loop(made(name), n_users)
    roots = [number for number, request in enumerate(workload) if request.after is None]
    sessions = sum(request.after is None for request in made(name))
    assert len(roots) == min(n_users, sessions)
    assert [r.prompt for r in workload] == [r.prompt for r in made(name)]


def test_a_closed_loop_of_one_is_served_one_by_one() -> None:
    model = TokenTime(n_pages=2000)
    most = []
    scheduler = Scheduler(model)
    workload = closed_loop(made("few-shot"), 1)
    play(scheduler, workload, lambda step: most.append(len(step.computed)))
    assert max(most) == 1


def test_a_closed_loop_needs_a_user() -> None:
    with pytest.raises(ValueError, match="n_users is a whole number from 1, not 0"):
        closed_loop(made("few-shot"), 0)


@pytest.mark.parametrize("gap", [0, -3, float("nan"), float("inf")])
def test_a_gap_is_a_time(gap: float) -> None:
    for at_times in (poisson, lambda workload, gap: bursts(workload, 1, gap)):
        with pytest.raises(ValueError, match=f"gap is a number of ticks .*, not {gap}"):
            at_times([], gap)
    with pytest.raises(ValueError, match="size is a whole number from 1, not 0"):
        bursts([], 0, 5)


def test_there_are_only_so_many_places_to_begin_at() -> None:
    with pytest.raises(ValueError, match="5000000 passages: there are"):
        nothing_shared(Words(encode), 5_000_000)


def test_poisson_arrivals_have_the_gap_asked_for() -> None:
    times = [r.time for r in poisson([ask([1], [2])] * 4000, gap=50)]
    assert times == sorted(times)
    assert times[-1] / len(times) == pytest.approx(50, rel=0.1)


def test_bursts_come_together_and_leave_a_gap() -> None:
    times = [r.time for r in bursts([ask([1], [2])] * 7, size=3, gap=100)]
    assert times == [0, 0, 0, 100, 100, 100, 200]


@pytest.mark.parametrize(
    "at",
    [lambda w: poisson(w, 10), lambda w: bursts(w, 2, 10)],
    ids=["poisson", "bursts"],
)
def test_a_later_turn_keeps_its_pause(at: Callable[[Workload], Workload]) -> None:
    workload = [ask([1], [2]), ask([1, 2], [3], after=0)._replace(time=7.0)]
    assert at(workload)[1] == workload[1]


# ── Playing ──────────────────────────────────────────────────────────────────────────


def test_a_turn_comes_after_the_end_of_the_one_before_and_its_pause() -> None:
    model = TokenTime(n_pages=100, cost=Cost(a=10, b=1, c=0))
    workload = [ask([1, 2], [3]), Arrival(5.0, [1, 2, 3, 4], 1, {}, after=0)]
    first, second = play(Scheduler(model), workload)
    assert first.ended_at == 12
    assert second.submitted_at == 17


# ── Counting ─────────────────────────────────────────────────────────────────────────


def test_each_number_is_that_of_its_name() -> None:
    model = TokenTime(n_pages=100, page_size=4, cost=Cost(a=10, b=1, c=0))
    prompt = list(range(8))
    workload = closed_loop([ask(prompt, [9, 9]), ask([*prompt, 8, 9], [7])], 1)
    requests = play(Scheduler(model), workload)
    found = report(requests)
    assert (found.n_requests, found.n_prompt_tokens, found.n_cached_tokens) == (
        2,
        18,
        8,
    )
    assert found.hit_rate == 8 / 18
    assert found.saved == 8 / 21
    assert found.requests_hit == 1 / 2
    # The first: 10 + 8, then 10 + 1; the second: 10 + 2.
    assert found.elapsed == 41
    assert found.first_token == Spread.of([18, 12])
    assert found.per_token == Spread(11, 11, 11)
    assert found.throughput == 3 / 41
    assert goodput(requests, first_token=18, per_token=11) == 2 / 41
    assert goodput(requests, first_token=17, per_token=11) == 1 / 41
    assert goodput(requests, first_token=18, per_token=10) == 1 / 41


def test_requests_that_are_not_finished_are_not_counted() -> None:
    request = Scheduler(TokenTime()).submit([1, 2, 3])
    with pytest.raises(ValueError, match=r"requests \[0\] are not finished"):
        report([request])
    with pytest.raises(ValueError, match=r"requests \[0\] are not finished"):
        goodput([request], first_token=1, per_token=1)


def test_of_nothing_every_rate_is_nothing() -> None:
    assert report([]).hit_rate == 0
    assert report([]).first_token == Spread(0, 0, 0)


def test_memory_is_shared_as_far_as_page_tables_list_the_same_pages() -> None:
    router = TokenTime(n_pages=20, page_size=4).router
    assert memory_shared(router) == 0
    first = router.admit(range(16))
    first.advance(16)
    router.commit(first)
    assert memory_shared(router) == 0
    router.admit([*range(16), 1, 2, 3, 4])  # 4 pages of the tree's, and one of its own
    assert memory_shared(router) == pytest.approx(1 - 5 / 9)
