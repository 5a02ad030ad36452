"""Dispatch: each policy does as its name says, and the index knows what it is told."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from radix_lib.dispatch import (
    AtRandom,
    CacheAware,
    ConsistentHashing,
    FewestBlocks,
    Policy,
    PrefixMinusLoad,
    RoundRobin,
    Worker,
    dispatch,
)
from radix_lib.token_time import Arrival
from radix_lib.workloads import (
    Words,
    Workload,
    chat_with_short_answers,
    closed_loop,
    poisson,
    report,
    shared_prefixes,
)

POLICIES: dict[str, Callable[[], Policy]] = {
    "random": AtRandom,
    "round robin": RoundRobin,
    "consistent hashing": ConsistentHashing,
    "cache aware": CacheAware,
    "cache aware, exact": lambda: CacheAware(exact=True),
    "prefix minus load": PrefixMinusLoad,
    "fewest blocks": FewestBlocks,
    "fewest blocks, exact": lambda: FewestBlocks(exact=True),
}


def words() -> Words:
    return Words(lambda text: list(text.encode()))


def zipf(n: int = 300) -> Workload:
    return poisson(shared_prefixes(words(), n), gap=200)


def workers(n: int = 3) -> list[Worker]:
    return [Worker(number, n_pages=100, page_size=4) for number in range(n)]


@pytest.mark.parametrize("name", POLICIES)
def test_every_request_is_served_and_no_page_is_lost(name: str) -> None:
    workload = closed_loop(chat_with_short_answers(words(), 12), 6)
    done = dispatch(workload, POLICIES[name](), n_workers=4, n_pages=200)
    assert len(done.requests) == len(workload)
    assert all(request.outcome == "finished" for request in done.requests)
    assert sum(done.requests_of) == len(workload)


@pytest.mark.parametrize("name", POLICIES)
def test_a_fleet_plays_the_same_each_time(name: str) -> None:
    once, again = (dispatch(zipf(60), POLICIES[name](), 3) for _ in range(2))
    assert once.workers == again.workers
    assert report(once.requests) == report(again.requests)


def test_round_robin_takes_turns() -> None:
    assert dispatch(zipf(9), RoundRobin(), 3).workers == [0, 1, 2] * 3


def test_the_same_beginning_has_the_same_worker_by_hashing() -> None:
    policy = ConsistentHashing(n_tokens=4)
    fleet = workers(7)
    for first in range(40):
        chosen = {
            policy.choose([first, 1, 2, 3, last], fleet).number for last in range(5)
        }
        assert len(chosen) == 1


def test_a_new_worker_moves_few_prompts_by_hashing() -> None:
    prompts = [[first, 1, 2, 3] for first in range(600)]
    before = [ConsistentHashing().choose(p, workers(7)).number for p in prompts]
    after = [ConsistentHashing().choose(p, workers(8)).number for p in prompts]
    moved = [b for a, b in zip(before, after, strict=True) if a != b]
    assert set(moved) == {7}, "whoever moves, moves to the new one"
    assert len(moved) < len(prompts) / 4


def test_cache_aware_follows_the_longest_match_above_its_threshold() -> None:
    policy, fleet = CacheAware(block_size=1), workers()
    prompt = list(range(10))
    policy.remember(prompt[:4], fleet[1])
    policy.remember(prompt[:6], fleet[2])
    assert policy.choose(prompt, fleet) is fleet[2]
    policy = CacheAware(block_size=1)
    policy.remember(prompt[:3], fleet[2])
    assert policy.choose(prompt, fleet) is fleet[0], "3 of 10 is not above 0.3"


def test_cache_aware_ignores_the_cache_where_the_load_is_uneven() -> None:
    policy, fleet = CacheAware(block_size=1, balance_abs=2), workers()
    prompt = list(range(10))
    policy.remember(prompt, fleet[2])
    fleet[2].n_requests = 2
    assert policy.choose(prompt, fleet) is fleet[2]
    fleet[2].n_requests = 3
    assert policy.choose(prompt, fleet) is fleet[0]
    policy, fleet = CacheAware(block_size=1, balance_abs=2), workers()
    policy.remember(prompt, fleet[2])
    for worker, n_requests in zip(fleet, (100, 100, 103), strict=True):
        worker.n_requests = n_requests
    assert policy.choose(prompt, fleet) is fleet[2], "103 is not 1.5 times 100"


def test_with_64_requests_or_fewer_the_load_branch_never_fires() -> None:
    workload = closed_loop(chat_with_short_answers(words(), 64), 64)
    usual = dispatch(workload, CacheAware(), 4)
    never = dispatch(workload, CacheAware(balance_abs=10**9), 4)
    assert usual.workers == never.workers
    assert dispatch(workload, CacheAware(balance_abs=4), 4).workers != usual.workers


def test_cold_prompts_one_after_another_all_go_to_one_worker() -> None:
    """As users of SGLang's router saw (sglang #32983): nobody is loaded, all tie."""
    cold = [Arrival(10_000.0 * n, [n] * 40, 4) for n in range(6)]
    assert dispatch(cold, CacheAware(), 3).workers == [0] * 6


def test_prefix_minus_load_gives_up_a_prefix_for_a_rest() -> None:
    policy, fleet = PrefixMinusLoad(block_size=1, beta=0.5), workers()
    prompt = list(range(10))
    policy.remember(prompt, fleet[2])
    assert policy.choose(prompt, fleet) is fleet[2]
    fleet[2].n_requests = 20
    assert policy.choose([*prompt, 99], fleet) is fleet[0]


def test_fewest_blocks_counts_what_is_to_be_computed_and_what_is_under_way() -> None:
    policy, fleet = FewestBlocks(block_size=1), workers()
    prompt = list(range(10))
    policy.remember(prompt[:8], fleet[2])
    assert policy.choose(prompt, fleet) is fleet[2]
    fleet[2].n_tokens = 50
    assert policy.choose(prompt, fleet) is not fleet[2]


def test_knowing_where_prefixes_are_beats_not_knowing() -> None:
    found = {
        name: report(dispatch(zipf(), POLICIES[name](), 6, n_pages=300).requests)
        for name in ("random", "cache aware")
    }
    assert found["cache aware"].hit_rate > found["random"].hit_rate + 0.1


def test_past_requests_promise_more_than_small_pools_keep() -> None:
    """The drift that events mend: what is believed, against what was found."""

    def drift(policy: CacheAware) -> float:
        done = dispatch(zipf(), policy, 6, n_pages=80)
        return sum(done.predicted) / report(done.requests).n_cached_tokens

    assert drift(CacheAware()) > 1.2
    assert drift(CacheAware(exact=True)) < 1.05


def test_one_after_another_the_exact_index_is_exact() -> None:
    workload = closed_loop(shared_prefixes(words(), 60), 1)
    done = dispatch(workload, CacheAware(exact=True), 3, n_pages=80)
    assert done.predicted == [request.n_cached for request in done.requests]


def test_a_namespace_is_refused_since_no_policy_looks_at_it() -> None:
    arrivals = [Arrival(0, [1], 1), Arrival(0, [1], 1, {"namespace": "bob"})]
    with pytest.raises(ValueError, match="arrival 1 has the namespace 'bob'"):
        dispatch(arrivals, RoundRobin(), 2)


def test_a_fleet_has_a_worker_and_may_have_nothing_to_do() -> None:
    with pytest.raises(ValueError, match="n_workers is a whole number from 1, not 0"):
        dispatch([], RoundRobin(), 0)
    assert dispatch([], RoundRobin(), 2).spread == 0
