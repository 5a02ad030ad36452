"""Chapter 04: the cache does what the oracle does."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test as run_machine,
)

from radix_lib.eviction import POLICIES
from radix_lib.page_manager import OutOfPages
from radix_lib.teaching.checks.oracle import PrefixOracle
from tests.support.inspection import (
    check_cache,
    contents,
    history,
    path_of,
    remembered,
    remembered_history,
    sizes,
    snapshot,
)
from tests.support.small_routers import cache_of
from tests.support.strategies import (
    LONG,
    NAMESPACES,
    PAGE_SIZES,
    QUICK,
    TAILS,
    WORDS,
    spell,
)


class CacheMachine(RuleBasedStateMachine):
    """Matches, inserts, locks and evictions in any order, in both."""

    @initialize(
        page_size=PAGE_SIZES,
        n_pages=st.integers(4, 20),
        policy=st.sampled_from(list(POLICIES)),
    )
    def start(self, page_size, n_pages, policy):
        self.cache = cache_of(n_pages, page_size, policy)
        self.oracle = PrefixOracle(page_size, policy)
        self.locked: list = []

    def lock(self, node, prefix):
        self.cache.lock(node)
        self.oracle.locks.append(prefix)
        self.locked.append((node, prefix))

    @rule(words=WORDS, tail=TAILS, namespace=NAMESPACES, lock=st.booleans())
    def match(self, words, tail, namespace, lock):
        tokens = spell(words, tail, self.cache.page_size)
        found, node = self.cache.match(tokens, namespace)
        assert found.tolist() == self.oracle.match(tokens, namespace)
        prefix = (namespace, tuple(tokens[: len(found) * self.cache.page_size]))
        assert path_of(node) == prefix
        if lock:
            self.lock(node, prefix)

    @rule(words=WORDS, tail=TAILS, namespace=NAMESPACES, lock=st.booleans())
    def insert(self, words, tail, namespace, lock):
        manager = self.cache.page_manager
        short = max(0, len(words) - manager.n_free)
        if short > self.oracle.n_evictable:
            return
        self.evict(short)
        tokens = spell(words, tail, self.cache.page_size)
        pages = manager.allocate(len(words))
        known, node = self.cache.insert(tokens, pages, namespace)
        assert known.tolist() == self.oracle.insert(tokens, pages.tolist(), namespace)
        # the duplicates are free now, what is new is the tree's alone
        manager.release(pages)
        prefix = (namespace, tuple(tokens[: len(words) * self.cache.page_size]))
        assert path_of(node) == prefix
        if lock:
            self.lock(node, prefix)

    @precondition(lambda self: self.locked)
    @rule(i=st.integers(0, 99))
    def unlock(self, i):
        node, prefix = self.locked.pop(i % len(self.locked))
        # Cuts and growth since then have not moved the end of what was locked.
        assert path_of(node) == prefix
        self.cache.unlock(node)
        self.oracle.locks.remove(prefix)

    @precondition(lambda self: self.oracle.n_evictable)
    @rule(n_pages=st.integers(1, 3))
    def evict(self, n_pages):
        n_pages = min(n_pages, self.oracle.n_evictable)
        evicted = self.cache.evict(n_pages).tolist()
        assert sorted(evicted) == sorted(self.oracle.evict(n_pages))

    @rule(more=st.integers(1, 3))
    def evict_too_many(self, more):
        n_pages = self.oracle.n_evictable + more
        before = snapshot(self.cache)
        with pytest.raises(OutOfPages, match=f"pages needed: {n_pages},"):
            self.cache.evict(n_pages)
        assert snapshot(self.cache) == before

    @invariant()
    def agrees(self):
        check_cache(self.cache)
        manager = self.cache.page_manager
        assert contents(self.cache) == remembered(self.oracle)
        assert history(self.cache) == remembered_history(self.oracle)
        assert self.cache.n_evictable == self.oracle.n_evictable
        assert self.cache.n_locked == self.oracle.n_locked
        assert manager.n_free == manager.n_pages - len(self.oracle.pages)

    def teardown(self):
        if not hasattr(self, "cache"):
            return
        for node, _ in self.locked:
            self.cache.unlock(node)
        self.cache.evict(self.cache.n_evictable)
        assert sizes(self.cache) == (self.cache.page_manager.n_pages, 0, 0)
        assert self.cache.roots == {}
        check_cache(self.cache)


def test_the_cache_agrees_with_the_oracle():
    run_machine(CacheMachine, settings=QUICK)


@pytest.mark.long
def test_the_cache_agrees_with_the_oracle_at_length():
    run_machine(CacheMachine, settings=LONG)
