"""Chapter 08: right answers to its exercises pass their checks, wrong ones do not."""

from __future__ import annotations

from collections import Counter

import pytest

from radix_lib.orders import n_cached_tokens
from radix_lib.teaching.checks import schedule_exercises as exercises


def test_the_steps_of_two_requests_are_foretold():
    exercises.foretells_steps([8, 8, 3, 2])
    for wrong in ([8, 4, 7, 2, 2], [8, 8, 3], [8, 8, 3, 2, 1], []):
        with pytest.raises(AssertionError):
            exercises.foretells_steps(wrong)


def test_a_budget_keeps_steps_short_and_is_the_largest():
    exercises.keeps_the_gap(lambda longest, cost: int((longest - cost.a) // cost.b))
    for wrong in (
        lambda longest, cost: int(longest // cost.b),
        lambda longest, cost: int((longest - cost.a) // cost.b) - 1,
        lambda longest, cost: int(longest - cost.a),
        lambda longest, cost: round((longest - cost.a) / cost.b),
        lambda longest, cost: 1,
    ):
        with pytest.raises(AssertionError):
            exercises.keeps_the_gap(wrong)


def shortest_first(waiting, cache):
    return sorted(waiting, key=lambda r: r.n_tokens - n_cached_tokens(r, cache))


def counts_as_hits(waiting, cache):
    def cost(r):
        found = cache.match(r.key[:-4], r.namespace)
        return r.n_tokens - len(found.pages) * cache.page_size

    return sorted(waiting, key=cost)


def forgets_the_last_token(waiting, cache):
    def cost(r):
        path = cache.walk(r.key, r.namespace)
        return r.n_tokens - sum(n_pages for _, n_pages in path) * cache.page_size

    return sorted(waiting, key=cost)


def counts_prompts_alone(waiting, cache):
    return sorted(waiting, key=lambda r: r.n_prompt - n_cached_tokens(r, cache))


def sorts_the_queue(waiting, cache):
    waiting.sort(key=lambda r: r.n_tokens - n_cached_tokens(r, cache))
    return waiting


def test_the_shortest_prefill_goes_first():
    exercises.serves_shortest_first(shortest_first)
    for wrong in (
        lambda waiting, cache: sorted(waiting, key=lambda r: r.n_tokens),
        lambda waiting, cache: shortest_first(reversed(waiting), cache),
        lambda waiting, cache: shortest_first(waiting, cache)[1:],
        lambda waiting, cache: waiting,
        counts_as_hits,
        forgets_the_last_token,
        counts_prompts_alone,
        sorts_the_queue,
    ):
        with pytest.raises(AssertionError):
            exercises.serves_shortest_first(wrong)


def turns(waiting):
    n_before: Counter = Counter()
    found = {}
    for request in waiting:
        found[request] = n_before[request.namespace]
        n_before[request.namespace] += 1
    return found, list(n_before)


def in_turns(waiting, cache):
    turn, tenants = turns(waiting)
    return sorted(waiting, key=lambda r: (turn[r], tenants.index(r.namespace)))


def turns_the_queue_itself(waiting, cache):
    waiting[:] = in_turns(waiting, cache)
    return waiting


def test_tenants_are_served_in_turns():
    exercises.serves_in_turns(in_turns)
    for wrong in (
        lambda waiting, cache: sorted(waiting, key=turns(waiting)[0].get),
        lambda waiting, cache: sorted(waiting, key=lambda r: r.namespace),
        lambda waiting, cache: waiting,
        turns_the_queue_itself,
    ):
        with pytest.raises(AssertionError):
            exercises.serves_in_turns(wrong)


def count_good(since: str, divide_by: int = 1):
    def n_good(requests, first, each):
        n = 0
        for request in requests:
            wait = request.first_token_at - getattr(request, since)
            rest = request.ended_at - request.first_token_at
            n += wait <= first and rest / max(1, request.n_output - divide_by) <= each
        return n

    return n_good


def count_better(requests, first, each):
    def is_better(request):
        wait = request.first_token_at - request.submitted_at
        rest = request.ended_at - request.first_token_at
        return wait < first and rest / max(1, request.n_output - 1) <= each

    return sum(map(is_better, requests))


def test_the_good_are_those_who_kept_both_promises():
    exercises.counts_the_good(count_good("submitted_at"))
    for wrong in (
        count_good("admitted_at"),
        count_good("submitted_at", divide_by=0),
        count_better,
        lambda requests, first, each: len(requests),
    ):
        with pytest.raises(AssertionError):
            exercises.counts_the_good(wrong)


def plan(self, step):
    if self.since >= self.interval or not any(r.is_decoding for r in self.running):
        self._prefill(step)
        self._admit(step)
    if step.prefilled:
        self.since = 0
    else:
        self._decode(step)
        self.since += 1


def waits_for_nobody(self, step):
    if self.since >= self.interval:
        self._prefill(step)
        self._admit(step)
    if step.prefilled:
        self.since = 0
    else:
        self._decode(step)
        self.since += 1


def prompts_first(self, step):
    self._prefill(step)
    self._admit(step)
    if not step.prefilled:
        self._decode(step)


def both_at_once(self, step):
    plan(self, step)
    if step.prefilled:
        self._decode(step)


def forgets_new_ones(self, step):
    self._prefill(step)
    if not self.running:
        self._admit(step)
    if not step.prefilled:
        self._decode(step)


def test_an_interval_lies_between_prefills():
    exercises.leaves_intervals(plan)
    for wrong in (waits_for_nobody, prompts_first, both_at_once, forgets_new_ones):
        with pytest.raises((AssertionError, RuntimeError)):
            exercises.leaves_intervals(wrong)
