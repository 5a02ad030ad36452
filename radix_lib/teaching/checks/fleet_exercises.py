"""Chapter 10's exercises: a spread, ties broken, tenants on a ring, a drift."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from radix_lib.dispatch import CacheAware, Dispatched, Worker, dispatch
from radix_lib.token_time import Arrival
from radix_lib.workloads import Words, poisson, shared_prefixes


def _workers(n: int) -> list[Worker]:
    return [Worker(number, n_pages=100, page_size=4) for number in range(n)]


def _requests(n: int) -> list[Arrival]:
    words = Words(lambda text: list(text.encode()))
    return shared_prefixes(words, n)


def spreads(spread: Callable[[Sequence[int]], Any]) -> None:
    """The most requests of a worker ÷ the mean."""
    for counts, due in (([2, 2, 2], 1.0), ([6, 0, 0], 3.0), ([3, 1], 1.5)):
        found = spread(counts)
        assert found == due, f"of {counts} it is {found}, not {due}"


def takes_the_better_of_two(choose: Callable[[Sequence[Worker], Any], Any]) -> None:
    """Power of two choices: of two workers drawn by lot, the one with less to do."""
    lot = random.Random(0)
    fleet = _workers(8)
    for worker in fleet:
        worker.n_requests = worker.number
    numbers = {choose(fleet, lot).number for _ in range(400)}
    assert 7 not in numbers, "the busiest of all was chosen, and is never the better"
    assert numbers == set(range(7)), f"only {sorted(numbers)} were ever chosen"


def spreads_cold_prompts(choose: Callable[[Sequence[Worker], Any], Any]) -> None:
    """Cold prompts one after another go to all workers, and to none with much to do."""

    class Spreading(CacheAware):
        """Cache aware, with `choose` for prompts that match nowhere."""

        def __init__(self) -> None:
            super().__init__()
            self.n_sent: Counter[int] = Counter()

        def _choose(self, prompt: Sequence[int], workers: Sequence[Worker]) -> Worker:
            worker = super()._choose(prompt, workers)
            if not self.index.match(list(prompt)):
                worker = choose(workers, self.n_sent)
            self.n_sent[worker.number] += 1
            return worker

    cold = [Arrival(10_000.0 * n, [n] * 40, 4) for n in range(9)]
    done = dispatch(cold, Spreading(), 3)
    counts = done.requests_of
    assert counts == [3, 3, 3], f"nine cold prompts went to three workers as {counts}"
    fleet = _workers(3)
    fleet[0].n_requests = 5
    chosen = choose(fleet, Counter({1: 9, 2: 8})).number
    assert chosen == 2, f"worker {chosen} was chosen, and 2 is idle and was sent less"


def keeps_tenants_apart(place: Callable[[Sequence[int], str], Any]) -> None:
    """A place on the ring follows from the first 64 tokens and from the salt."""
    prompt = list(range(100))
    here = place(prompt, "ann")
    assert here == place([*prompt[:64], 7], "ann"), "only the first 64 tokens count"
    assert here != place([9, *prompt[1:]], "ann"), "other tokens, the same place"
    places = {place(prompt, salt) for salt in "abcdefgh"}
    assert len(places) == 8, "tenants with other salts share a place"
    for one, other in (
        (([97], "b\0\0\0"), ([97, 98], "")),
        (([98], "a\0\0\0"), ([97, 98], "")),
        (([1, 2], "3"), ([1], "2 3")),
    ):
        assert place(*one) != place(*other), "tokens and salt run into one another"


def counts_the_drift(drift: Callable[[Dispatched], Any]) -> None:
    """Tokens that a policy expected of a worker, and that were not there."""
    for exact in (False, True):
        policy = CacheAware(exact=exact)
        done = dispatch(poisson(_requests(120), gap=100), policy, 3, n_pages=80)
        pairs = zip(done.predicted, done.requests, strict=True)
        due = sum(max(0, expected - request.n_cached) for expected, request in pairs)
        found = drift(done)
        assert found == due, f"{found} tokens, not {due}"
