"""Chapter 08: the checks of the exercises.

Each takes what the reader wrote and raises AssertionError where it goes wrong.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise, zip_longest
from typing import Any

from radix_lib.orders import n_cached_tokens
from radix_lib.radix_cache import RadixCache
from radix_lib.request import Request, Step
from radix_lib.scheduler import Scheduler
from radix_lib.token_time import Arrival, Cost, TokenTime, play


def _schedule(
    requests: Sequence[tuple[Sequence[int], int]], model: Any, **settings: Any
) -> tuple[list[Request], list[Step]]:
    """Submit requests, (prompt, answer), all at once; what came of them."""
    scheduler = Scheduler(model, **settings)
    submitted = [scheduler.submit(prompt, n_new) for prompt, n_new in requests]
    steps: list[Step] = []
    scheduler.run(steps.append)
    return submitted, steps


def foretells_steps(answer: Sequence[int]) -> None:
    """How many tokens each step computes: two requests, a budget of 8."""
    requests = [(range(12), 3), (range(100, 106), 2)]
    model = TokenTime(n_pages=16, page_size=4)
    _, steps = _schedule(requests, model, token_budget=8, max_running=2)
    due = [sum(step.computed.values()) for step in steps]
    for number, (said, n_tokens) in enumerate(zip(answer, due, strict=False), 1):
        assert said == n_tokens, f"step {number} does not compute {said} tokens"
    assert len(answer) == len(due), f"there are not {len(answer)} steps"


def keeps_the_gap(budget_for: Callable[[float, Cost], int]) -> None:
    """`budget_for(longest, cost)` is the largest budget that keeps steps that short."""
    for cost, longest in (
        (Cost(20, 1, 0), 60),
        (Cost(5, 0.5, 0), 17),
        (Cost(9, 2, 0), 32),
    ):
        budget = budget_for(longest, cost)
        assert budget >= 2, f"a budget of {budget} is too small for two who run"
        gap = _longest_step(budget, cost)
        assert gap <= longest, f"a step took {gap:g} ticks; at most {longest} may it be"
        more = _longest_step(budget + 1, cost)
        assert more > longest, f"{budget + 1} tokens would take {more:g} ticks only"


def _longest_step(budget: int, cost: Cost) -> float:
    requests = [(range(4), 40), (range(1000, 1200), 2)]
    model = TokenTime(n_pages=128, page_size=4, cost=cost)
    _, steps = _schedule(requests, model, token_budget=budget, max_running=2)
    return max(step.ended_at - step.began_at for step in steps)


Order = Callable[[Sequence[Request], RadixCache], list[Request]]


def _queues() -> Iterator[tuple[list[Request], RadixCache]]:
    """Requests that wait, of several tenants, some with a prefix in the cache."""
    rng = random.Random(0)
    for _ in range(30):
        model: Any = TokenTime(n_pages=200, page_size=2)
        scheduler = Scheduler(model)
        for tenant in ("a", "b", "c"):
            with model.router.admit(range(20), tenant) as lease:
                lease.advance(2 * rng.randint(0, 10))
        waiting = [
            scheduler.submit(
                range(rng.randrange(2) * 50, 50 + rng.randrange(2, 30)),
                namespace=rng.choice("abc"),
            )
            for _ in range(rng.randint(1, 12))
        ]
        # Some may have all of their prompt in the cache, some ran and were sent back.
        waiting += [scheduler.submit(range(20), namespace=tenant) for tenant in "abc"]
        for request in rng.sample(waiting, 3):
            request.append(1)
            request.append(2)
        waiting.append(scheduler.submit([99], namespace="a"))
        yield waiting, model.router.cache


def _ordered(order: Order, waiting: list[Request], cache: RadixCache) -> list[Request]:
    """What `order` makes of a queue; that and the cache stay as they are."""

    def uses() -> list[tuple[bytes, int, int]]:
        return [(node.key, node.hits, node.last_access) for node in cache.nodes()]

    queue, before = list(waiting), uses()
    found = list(order(waiting, cache))
    assert waiting == queue, "the queue itself was changed: give back a new list"
    assert uses() == before, "something in the cache was changed: only look"
    return found


def serves_shortest_first(order: Order) -> None:
    """`order(waiting, cache)` puts first whoever has the fewest tokens to prefill."""
    for waiting, cache in _queues():
        cost = {r: r.n_tokens - n_cached_tokens(r, cache) for r in waiting}
        found = _ordered(order, waiting, cache)
        assert set(found) == set(waiting), "somebody is lost, or there twice"
        costs = [cost[request] for request in found]
        assert costs == sorted(costs), f"tokens to prefill, in your order: {costs}"
        for one, other in pairwise(found):
            in_turn = one.number < other.number or cost[one] < cost[other]
            assert in_turn, "of two with as many to prefill, the first goes first"


def serves_in_turns(order: Order) -> None:
    """`order(waiting, cache)` takes one request of each tenant in turn."""
    for waiting, cache in _queues():
        lines: dict[Any, list[Request]] = {}
        for request in waiting:
            lines.setdefault(request.namespace, []).append(request)
        rounds = zip_longest(*lines.values())
        due = [request for one in rounds for request in one if request]
        found = _ordered(order, waiting, cache)
        assert found == due, (
            f"tenants in your order: {_tenants(found)}, due are {_tenants(due)}"
        )


def _tenants(requests: Sequence[Request]) -> str:
    return "".join(str(request.namespace) for request in requests)


def counts_the_good(n_good: Callable[[Sequence[Request], float, float], int]) -> None:
    """`n_good(requests, first, each)` is how many kept both promises."""
    cost = Cost(10, 1, 0)
    model = TokenTime(n_pages=64, page_size=4, cost=cost)
    requests = [(range(100 * i, 100 * i + 8), n) for i, n in enumerate([1, 9, 4, 6, 2])]
    over, _ = _schedule(requests, model, token_budget=16, max_running=2)
    for first, each in (
        (30, 100),
        (60, 100),
        (1000, 13),
        (1000, 14),
        (60, 12.5),
        (45, 13.75),
        (0, 0),
    ):
        due = 0
        for request in over:
            assert request.first_token_at is not None
            assert request.ended_at is not None
            wait = request.first_token_at - request.submitted_at
            rest = request.ended_at - request.first_token_at
            gap = rest / max(1, request.n_output - 1)
            due += wait <= first and gap <= each
        found = n_good(over, first, each)
        assert found == due, f"first {first}, each {each}: {found}, not {due}"


def leaves_intervals(plan: Callable[[Any, Step], Any]) -> None:
    """`plan(self, step)`: `interval` steps of decode follow a step of prefill."""

    class Planned(Scheduler):
        """Plans as told; `since` counts the steps of decode since one of prefill."""

        interval = 3
        since = 3
        _plan = plan  # type: ignore[assignment]

    model: Any = TokenTime(n_pages=400, page_size=4)
    arrivals = [Arrival(0, range(90), 40)]  # more than a budget
    for k in range(6):
        arrivals.append(Arrival(30 + 40 * k, range(100 * k + 100, 100 * k + 140), 12))
    steps: list[Step] = []
    scheduler = Planned(model, token_budget=64, max_running=16)

    def note(step: Step) -> None:
        assert step.computed, f"step {step.number + 1} computed nothing"
        steps.append(step)
        assert len(steps) < 500, "it never comes to an end"

    requests = play(scheduler, arrivals, note)
    since = 3
    for step in steps:
        if step.prefilled:
            assert not step.decoded, "a step did both"
            had_answers = any(
                r.first_token_at is not None
                and r.first_token_at <= step.began_at
                and (r.ended_at or 0) > step.began_at
                for r in requests
            )
            early = had_answers and since < 3
            assert not early, (
                f"prefill in step {step.number + 1}, after {since} of decode"
            )
            since = 0
        else:
            since += 1
    n_first = max(request.first_token_at or 0 for request in requests)
    assert n_first < 1000, f"somebody waited until tick {n_first:g} for a first token"
