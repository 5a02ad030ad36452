"""Chapter 08: in which order those who wait are tried, and what that costs."""

from __future__ import annotations

import gc
import itertools
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pytest

from radix_lib import orders, scheduler
from radix_lib.admission import Coming, NewTokenRatio, PageBudget
from radix_lib.orders import ORDERS, Queue, n_cached_tokens
from radix_lib.request import Request, Step
from radix_lib.scheduler import Scheduler
from radix_lib.token_time import TokenTime
from tests.support.inspection import snapshot

A, B, C, D = ([n] * 4 for n in (1, 2, 3, 4))  # words of a page


def queue_of(*prompts: list[int], cached: Sequence[list[int]] = ()) -> Scheduler:
    """A scheduler in whose tree `cached` is, and in whose queue the prompts wait."""
    model = TokenTime(n_pages=64, page_size=4)
    first = Scheduler(model)
    for tokens in cached:
        first.submit([*tokens, 99], 1).wait()
    second = Scheduler(model)
    for tokens in prompts:
        second.submit([*tokens, 98], 1)
    second._hear(Step(0, 1, model.router.usage(), 0.0))
    return second


def numbers(waiting: Iterable[Request]) -> list[int]:
    return [request.number for request in waiting]


def in_order(name: str, queue: Scheduler) -> list[int]:
    return numbers(ORDERS[name](queue.waiting.requests, queue.router.cache))


# ── By hand ───────────────────────────────────────────────────────────────────────────

HALF_CACHED = [D, A + B + C, B, A + B + D, A + B + C, C]
CACHED = [A + B + C, B + B]


def test_first_come():
    assert in_order("fcfs", queue_of(*HALF_CACHED, cached=CACHED)) == [0, 1, 2, 3, 4, 5]


def test_longest_prefix_and_among_equals_first_come():
    assert in_order("lpm", queue_of(*HALF_CACHED, cached=CACHED)) == [1, 4, 3, 2, 0, 5]


def test_depth_first_takes_the_heaviest_branch_and_the_deepest_of_it():
    """Three wait on A B, of which two go on to C; one on B; two have nothing."""
    cached = [*CACHED, A + B + D]
    assert in_order("dfs-weight", queue_of(*HALF_CACHED, cached=cached)) == [
        1,
        4,
        3,
        2,
        0,
        5,
    ]
    light = [B, A + C, B + D, A]
    both = [A + C, B + D]
    assert in_order("dfs-weight", queue_of(*light, cached=both)) == [2, 0, 1, 3]


def test_depth_first_keeps_branches_together():
    """Two branches of the same weight are not mixed, in whichever order they came."""
    prompts = [A + C, B + C, A + D, B + D, A + C + D, B + C + D]
    cached = [A + C, A + D, B + C, B + D]
    found = in_order("dfs-weight", queue_of(*prompts, cached=cached))
    assert [prompts[i][0] for i in found] in ([1, 1, 1, 2, 2, 2], [2, 2, 2, 1, 1, 1])


def test_response_ratio_is_the_wait_over_the_work():
    queue = queue_of(A + B + C, D, A + B + C + D, cached=[A + B + C])
    queue.n_prefilled = 60
    waited = [10, 60, 40]
    for request, n in zip(queue.waiting, waited, strict=True):
        request.prefilled_before = 60 - n
    # 10 / 1, 60 / 5, 40 / 5
    assert in_order("hrrn", queue) == [1, 0, 2]


def test_a_lot_is_the_same_each_time_and_not_the_order_of_arrival():
    queue = queue_of(*[D] * 30)
    found = in_order("random", queue)
    assert found == in_order("random", queue)
    assert sorted(found) == list(range(30))
    assert [number for number in found if number < 8] == [2, 5, 0, 7, 6, 1, 4, 3]


@pytest.mark.parametrize("name", ORDERS)
def test_an_order_changes_nothing(name: str):
    queue = queue_of(*HALF_CACHED, cached=CACHED)
    before = snapshot(queue.router), numbers(queue.waiting)
    ORDERS[name](queue.waiting.requests, queue.router.cache)
    assert (snapshot(queue.router), numbers(queue.waiting)) == before


def test_one_token_is_left_to_compute():
    queue = queue_of(A + B, cached=[A + B + C])
    (request,) = queue.waiting
    assert n_cached_tokens(request, queue.router.cache) == 8
    request.key = request.key[:-4]
    assert n_cached_tokens(request, queue.router.cache) == 4, "A B itself: one is left"


def test_longest_prefix_falls_back_to_first_come_above_a_number_if_asked():
    model = TokenTime(n_pages=64, page_size=4)
    for fallback, first in [(None, 1), (2, 1), (1, 0)]:
        queue = Scheduler(model, order="lpm", lpm_fallback=fallback, max_running=1)
        queue.submit([*A, *B, 99], 1).wait()
        n_before = queue.waiting.n_seen
        for tokens in (D, A + B):
            queue.submit([*tokens, 98], 1)
        (admitted,) = queue.step().admitted
        assert admitted.number - n_before == first
        queue.run()


# ── Depth first is best (theorem 3.1 of the paper) ────────────────────────────────────


def hits(prompts: Sequence[list[int]], order: str) -> int:
    """Tokens found in the cache, served one at a time; the pool has the longest's."""
    n_pages = -(-max(len(tokens) + 2 for tokens in prompts) // 4)
    queue = Scheduler(TokenTime(n_pages, 4), order=order, max_running=1, patience=1_000)
    requests = [queue.submit([*tokens, 98], 1) for tokens in prompts]
    queue.run()
    return sum(request.n_cached for request in requests)


def test_longest_prefix_and_depth_first_find_what_the_best_of_all_orders_finds():
    prompts = [A + B + C, B + C, A + B + D, B + D, A + C]
    found = [hits(p, "fcfs") for p in itertools.permutations(prompts)]
    assert max(found) == hits(prompts, "lpm") == hits(prompts, "dfs-weight") == 16
    assert hits(prompts, "fcfs") < max(found)
    assert sum(found) / len(found) < 0.75 * max(found)


# ── What it costs ─────────────────────────────────────────────────────────────────────


class Looks(Counter[bytes]):
    """How often the tree was walked for the tokens of each request."""

    def watch(self, monkeypatch: pytest.MonkeyPatch, queue: Scheduler) -> None:
        walk = queue.router.cache._steps

        def counted(key: bytes, node: Any) -> Any:
            self[key] += 1
            return walk(key, node)

        monkeypatch.setattr(queue.router.cache, "_steps", counted)


@pytest.mark.parametrize("name", ORDERS)
def test_an_order_asks_the_tree_at_most_once_a_request_and_step(
    name: str, monkeypatch: pytest.MonkeyPatch
):
    """First come asks nothing. One look more goes to the first that is refused."""
    model = TokenTime(n_pages=60, page_size=4)
    queue = Scheduler(model, order=name, token_budget=64, ratio=NewTokenRatio(1, 1))
    looks = Looks()
    looks.watch(monkeypatch, queue)
    for i in range(120):
        queue.submit([*(A if i % 2 else B), *range(i, i + 20)], 8)
    waited = 0
    while queue.n_unfinished:
        looks.clear()
        step = queue.step()
        for request in queue.waiting:
            is_first = bool(step.refused) and request is step.refused[0]
            assert looks[_usable(request)] <= (name != "fcfs") + is_first
        waited += len(queue.waiting)
    assert waited > 1_000


def _usable(request: Request) -> bytes:
    """The whole pages that a request may have found in the tree."""
    usable = request.key[:-4]
    return usable[: len(usable) - len(usable) % 16]


@pytest.mark.parametrize("name", ORDERS)
def test_the_work_of_a_step_does_not_grow_with_the_tree(name: str):
    """Counted in calls of functions, Python's and others'."""
    assert calls_of_a_step(name, n_leaves=20) == calls_of_a_step(name, n_leaves=2_000)


def calls_of_a_step(name: str, n_leaves: int) -> int:
    model = TokenTime(n_pages=4_096, page_size=4)
    cache = model.router.cache
    for i in range(n_leaves):
        pages = model.router.page_manager.allocate(1)
        cache.insert([1_000 + i, 0, 0, 0], pages)
        model.router.page_manager.release(pages)
    queue = Scheduler(model, order=name, token_budget=32)
    for i in range(20):
        queue.submit([1_000 + i, 0, 0, 0, *range(20)], 8)
    queue.step()
    n_calls = 0

    def count(frame: Any, event: str, argument: Any) -> None:
        nonlocal n_calls
        n_calls += "call" in event

    gc.disable()  # a collection would call whatever finalisers other tests left
    sys.setprofile(count)
    try:
        queue.step()
    finally:
        sys.setprofile(None)
        gc.enable()
    return n_calls


def test_those_behind_one_that_does_not_fit_are_looked_at_up_to_a_number():
    model = TokenTime(n_pages=20, page_size=4)
    queue = Scheduler(model, ratio=NewTokenRatio(1, 1))
    queue.submit(list(range(40)), 8)
    for i in range(400):
        queue.submit(list(range(100 + i, 150 + i)), 8)
    assert len(queue.step().refused) == scheduler.LOOKAHEAD


def test_the_orders_are_those_that_the_chapter_names():
    assert list(ORDERS) == ["fcfs", "lpm", "dfs-weight", "hrrn", "random"]
    assert np.all([order.__module__ == orders.__name__ for order in ORDERS.values()])


# ── The queue ─────────────────────────────────────────────────────────────────────────


def overdue() -> Queue:
    """Four that came, of whom one that came later than the first has left."""
    everyone = list(queue_of(A, B, C, D).waiting)
    queue = Queue("fcfs", patience=1)
    for request in everyone:
        queue.add(request)
    queue.remove(everyone[1])
    return queue


def test_one_that_was_passed_too_often_is_tried_alone_while_it_stays():
    queue = overdue()
    cache = TokenTime(4, 4).router.cache
    assert numbers(itertools.islice(queue.candidates(cache), 5)) == [0]


def test_once_it_is_admitted_the_others_are_tried():
    queue = overdue()
    tried = queue.candidates(TokenTime(4, 4).router.cache)
    queue.remove(next(tried))
    assert numbers(tried) == [2, 3]


def test_where_it_was_the_last_nobody_is_tried():
    queue = overdue()
    for request in list(queue)[1:]:
        queue.remove(request)
    tried = queue.candidates(TokenTime(4, 4).router.cache)
    queue.remove(next(tried))
    assert list(tried) == []


def test_a_queue_holds_what_it_is_told_to_hold():
    queue = overdue()
    kept = list(queue)[1:]
    queue.replace(iter(kept))
    assert list(queue) == kept


def test_what_is_cached_is_looked_for_in_the_namespace_of_the_request():
    model = TokenTime(n_pages=8, page_size=4)
    scheduler = Scheduler(model)
    scheduler.submit([*A, 99], 1, namespace="ours").wait()
    asked = {
        name: scheduler.submit([*A, 98], 1, namespace=name)
        for name in ("ours", "theirs", None)
    }
    found = {
        name: n_cached_tokens(request, model.router.cache)
        for name, request in asked.items()
    }
    assert found == {"ours": 4, "theirs": 0, None: 0}


# ── What is about to be computed ──────────────────────────────────────────────────────


def coming_of(running: list[int], n_computed: int, namespace: str | None) -> Coming:
    """What is coming where one runs whose first tokens are computed."""
    scheduler = Scheduler(TokenTime(n_pages=16, page_size=4), token_budget=64)
    request = scheduler.submit(running, 1, namespace=namespace)
    request.lease = scheduler.router.admit(request.key, namespace)
    request.lease.advance(n_computed)
    coming = Coming([], 4)
    coming.add(request)
    return coming


@pytest.mark.parametrize(
    ("n_computed", "waits"),
    [(0, [A, A + B, A + B + C]), (4, [A + B, A + B + C]), (6, [A + B, A + B + C])],
)
def test_who_needs_a_page_that_a_neighbour_has_not_computed_waits(
    n_computed: int, waits: list[list[int]]
):
    coming = coming_of([*A, *B, 7, 7], n_computed, "ours")
    scheduler = queue_of()
    for prompt in [A, A + B, A + B + C, D, []]:
        request = scheduler.submit([*prompt, 98], 1, namespace="ours")
        assert coming.has_part_of(request) == (prompt in waits)
    stranger = scheduler.submit([*A, *B, 98], 1, namespace="theirs")
    assert not coming.has_part_of(stranger)
    assert not coming.has_part_of(scheduler.submit([*A, *B, 98], 1))


@pytest.mark.parametrize(
    ("n_computed", "n_answered", "waits"),
    [(0, 0, True), (5, 0, True), (7, 0, True), (8, 0, False), (8, 1, False)],
)
def test_a_page_that_lacks_one_token_is_coming_as_well_and_an_answer_is_not(
    n_computed: int, n_answered: int, waits: bool
):
    scheduler = Scheduler(TokenTime(n_pages=16, page_size=4), token_budget=64)
    request = scheduler.submit([*A, *B, 7, 7, 7], 4)
    request.lease = scheduler.router.admit(request.key)
    request.lease.advance(n_computed)
    for token in range(n_answered):
        request.lease.advance(request.n_pending)
        request.append(token)
        request.lease.append(token)
    neighbour = scheduler.submit([*request.prompt, *request.output, 98, 98], 1)
    assert Coming([request], 4).has_part_of(neighbour) == waits


def test_a_request_fits_by_what_its_own_namespace_has():
    scheduler = Scheduler(TokenTime(n_pages=8, page_size=4))
    router = scheduler.router
    scheduler.submit([*A, *B, *C, 99], 1, namespace="ours").wait()
    router.admit([*A, *B, *C, 97], "ours")  # holds what is cached, and a page more
    router.admit([5] * 9, "others")
    budget = PageBudget(router, NewTokenRatio(0, 0))
    assert budget.n_available == 1
    fits = {
        name: budget.fits(scheduler.submit([*A, *B, *C, *D], 1, namespace=name), 0)
        for name in ("ours", "theirs", None)
    }
    assert fits == {"ours": True, "theirs": False, None: False}
