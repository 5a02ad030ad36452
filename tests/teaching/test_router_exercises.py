"""Chapter 05: right answers to its exercises pass their checks, wrong ones do not."""

from __future__ import annotations

import pytest

from radix_lib.router import Router
from radix_lib.teaching.checks import router_exercises as exercises


def cached_tokens(router, memory, tokens, chunk):
    with router.admit(tokens) as lease:
        while lease.pending:
            memory.compute(lease, min(chunk, len(lease.pending)))
            router.commit(lease)
    return lease.n_cached


def asks_before_each_chunk(router, memory, tokens, chunk):
    n_cached = 0
    with router.admit(tokens) as lease:
        while lease.pending:
            n_cached += len(router.match_prefix(tokens).pages) * router.page_size
            memory.compute(lease, min(chunk, len(lease.pending)))
            router.commit(lease)
    return n_cached


def in_one_piece(router, memory, tokens, chunk):
    with router.admit(tokens) as lease:
        memory.compute(lease)
        router.commit(lease)
    return lease.n_cached


def never_ends(router, memory, tokens, chunk):
    lease = router.admit(tokens)
    while lease.pending:
        memory.compute(lease, min(chunk, len(lease.pending)))
        router.commit(lease)
    return lease.n_cached


def all_of_it(router, memory, tokens, chunk):
    cached_tokens(router, memory, tokens, chunk)
    return len(tokens)


def test_a_bill_counts_what_the_admission_found():
    exercises.bills_right(cached_tokens)
    for wrong in (asks_before_each_chunk, in_one_piece, never_ends, all_of_it):
        with pytest.raises(AssertionError):
            exercises.bills_right(wrong)


def would_fit(router, tokens):
    needed = router.page_manager.pages_for(len(tokens))
    room = router.page_manager.n_free + router.cache.n_evictable
    for node, n_common in router.cache.walk(tokens[:-1]):
        needed -= n_common
        if node.lock_ref == 0:
            room -= n_common
    return needed <= room


def counts_its_hit_twice(router, tokens):
    found = sum(n_common for _, n_common in router.cache.walk(tokens[:-1]))
    needed = router.page_manager.pages_for(len(tokens)) - found
    return needed <= router.page_manager.n_free + router.cache.n_evictable


def sees_no_hit(router, tokens):
    needed = router.page_manager.pages_for(len(tokens))
    return needed <= router.page_manager.n_free + router.cache.n_evictable


def takes_locked_pages_off(router, tokens):
    found = sum(n_common for _, n_common in router.cache.walk(tokens[:-1]))
    needed = router.page_manager.pages_for(len(tokens)) - found
    return needed <= router.page_manager.n_free + router.cache.n_evictable - found


def matches_to_look(router, tokens):
    router.cache.match(tokens[:-1])
    return would_fit(router, tokens)


def hits_the_last_token_too(router, tokens):
    needed = router.page_manager.pages_for(len(tokens))
    room = router.page_manager.n_free + router.cache.n_evictable
    for node, n_common in router.cache.walk(tokens):
        needed -= n_common
        if node.lock_ref == 0:
            room -= n_common
    return needed <= room


def test_a_forecast_of_admission_is_told_from_a_guess():
    exercises.tells_the_truth(would_fit)
    for wrong in (
        counts_its_hit_twice,
        sees_no_hit,
        takes_locked_pages_off,
        matches_to_look,
        hits_the_last_token_too,
        lambda router, tokens: True,
        lambda router, tokens: False,
    ):
        with pytest.raises(AssertionError):
            exercises.tells_the_truth(wrong)


def best_of(router, memory, tokens, n):
    lease = router.admit(tokens, max_new_tokens=4)
    memory.compute(lease)
    leases = [lease]
    while len(leases) < n:
        fork = router.fork(lease, max_new_tokens=4)
        tail = lease.n_shared
        memory.copy_page(lease.page_table[tail], fork.page_table[tail])
        leases.append(fork)
    return leases


def without_the_copy(router, memory, tokens, n):
    lease = router.admit(tokens, max_new_tokens=4)
    memory.compute(lease)
    return [lease, *(router.fork(lease, max_new_tokens=4) for _ in range(n - 1))]


def computed_each_time(router, memory, tokens, n):
    leases = [router.admit(tokens, max_new_tokens=4) for _ in range(n)]
    for lease in leases:
        memory.compute(lease)
    return leases


def one_lease_for_all(router, memory, tokens, n):
    lease = router.admit(tokens, max_new_tokens=12)
    memory.compute(lease)
    return [lease] * n


def test_three_answers_to_one_prompt():
    exercises.samples_apart(best_of)
    for wrong in (without_the_copy, computed_each_time, one_lease_for_all):
        with pytest.raises(AssertionError):
            exercises.samples_apart(wrong)


class NeverRepairs(Router):
    """An interruption leaves the books as they are."""

    def _repair(self):
        pass


class ForgetsToRepairInFork(Router):
    def fork(self, lease, max_new_tokens=0):
        self._repair = lambda: None
        try:
            return super().fork(lease, max_new_tokens)
        finally:
            del self._repair


def test_a_router_that_leaves_an_interruption_unrepaired_is_told():
    exercises.survives_interruptions(Router)
    for wrong in (NeverRepairs, ForgetsToRepairInFork):
        with pytest.raises(AssertionError):
            exercises.survives_interruptions(wrong)
