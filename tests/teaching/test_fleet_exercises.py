"""Chapter 10's checkers tell right answers from tempting wrong ones."""

from __future__ import annotations

from zlib import crc32

import pytest

from radix_lib.dispatch import RoundRobin, dispatch
from radix_lib.radix_tree import pack_tokens
from radix_lib.teaching import (
    counts_the_drift,
    draw_policies,
    draw_workers,
    keeps_tenants_apart,
    spreads,
    spreads_cold_prompts,
    takes_the_better_of_two,
)
from radix_lib.token_time import Arrival

RIGHT = [
    (spreads, lambda counts: max(counts) * len(counts) / sum(counts)),
    (
        takes_the_better_of_two,
        lambda workers, lot: min(lot.sample(workers, 2), key=lambda w: w.n_requests),
    ),
    (
        spreads_cold_prompts,
        lambda workers, sent: min(
            workers, key=lambda w: (w.n_requests, sent[w.number])
        ),
    ),
    (
        keeps_tenants_apart,
        lambda prompt, salt: hash((tuple(prompt[:64]), salt)),
    ),
    (
        counts_the_drift,
        lambda done: sum(
            max(0, expected - request.n_cached)
            for expected, request in zip(done.predicted, done.requests, strict=True)
        ),
    ),
]

WRONG = [
    (spreads, lambda counts: max(counts) / min(counts) if min(counts) else 0.0),
    (takes_the_better_of_two, lambda workers, lot: lot.choice(workers)),
    (takes_the_better_of_two, lambda workers, lot: workers[0]),
    (spreads_cold_prompts, lambda workers, sent: workers[0]),
    (
        spreads_cold_prompts,
        lambda workers, sent: min(workers, key=lambda w: sent[w.number]),
    ),
    (keeps_tenants_apart, lambda prompt, salt: crc32(pack_tokens(prompt[:64]))),
    (keeps_tenants_apart, lambda prompt, salt: hash((tuple(prompt), salt))),
    (
        keeps_tenants_apart,
        lambda prompt, salt: pack_tokens(prompt[:64]) + salt.encode(),
    ),
    (
        keeps_tenants_apart,
        lambda prompt, salt: crc32(salt.encode() + pack_tokens(prompt[:64])),
    ),
    (
        keeps_tenants_apart,
        lambda prompt, salt: crc32(pack_tokens(prompt[:64]), crc32(salt.encode())),
    ),
    (keeps_tenants_apart, lambda prompt, salt: (*map(str, prompt[:64]), *salt.split())),
    (counts_the_drift, lambda done: sum(done.predicted)),
    (
        counts_the_drift,
        lambda done: sum(done.predicted) - sum(r.n_cached for r in done.requests),
    ),
]


@pytest.mark.parametrize(("contract", "answer"), RIGHT)
def test_a_right_answer_passes(contract, answer) -> None:
    contract(answer)


@pytest.mark.parametrize(("contract", "answer"), WRONG)
def test_a_wrong_answer_is_told(contract, answer) -> None:
    with pytest.raises(AssertionError):
        contract(answer)


def test_charts_of_a_fleet_tell_the_numbers_in_text() -> None:
    arrivals = [Arrival(1000.0 * n, list(range(20)), 2) for n in range(4)]
    done = dispatch(arrivals, RoundRobin(), 2, page_size=4)
    workers = draw_workers(done, "Two workers")
    assert "worker 0      16        24" in workers.text
    policies = draw_policies({"in turns": done}, "One policy")
    assert "in turns" in policies.text
    assert "40.0%" in policies.text
