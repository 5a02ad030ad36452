"""Chapter 04: the radix cache. Locks, duplicates, sizes and eviction, by hand and by
oracle.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from hypothesis.stateful import run_state_machine_as_test as run_machine

from radix_lib.eviction import POLICIES
from radix_lib.page_manager import OutOfPages, PageManager
from radix_lib.radix_cache import CacheNode, RadixCache
from tests.support.oracle import (
    BAD_TOKENS,
    LONG,
    NAMESPACES,
    PAGE_SIZES,
    QUICK,
    TAILS,
    WORDS,
    PrefixOracle,
    check_cache,
    contents,
    heap_order,
    history,
    path_of,
    remembered,
    remembered_history,
    snapshot,
    spell,
)


def cache_of(n_pages: int = 16, page_size: int = 1, policy: str = "lru") -> RadixCache:
    return RadixCache(PageManager(n_pages, page_size), policy)


def remember(cache: RadixCache, tokens: list[int], namespace=None) -> CacheNode:
    """Insert tokens as a finished request does: the tree is the only holder
    afterwards.
    """
    pages = cache.page_manager.allocate(len(tokens) // cache.page_size)
    node = cache.insert(tokens, pages, namespace).node
    cache.page_manager.release(pages)
    return node


def sizes(cache: RadixCache) -> tuple[int, int, int]:
    return cache.page_manager.n_free, cache.n_evictable, cache.n_locked


# ── By hand ───────────────────────────────────────────────────────────────────────────


def test_an_example_worked_by_hand():
    """Eight pages of two tokens. Two conversations share their start; one is
    running.
    """
    cache = cache_of(n_pages=8, page_size=2)
    remember(cache, [1, 2, 3, 4, 5, 6])  # pages 0, 1, 2
    # 3, 4, 5: the first two are duplicates and go back
    remember(cache, [1, 2, 3, 4, 7, 8])
    assert contents(cache) == {
        (None, (1, 2)): 0,
        (None, (1, 2, 3, 4)): 1,
        (None, (1, 2, 3, 4, 5, 6)): 2,
        (None, (1, 2, 3, 4, 7, 8)): 5,
    }
    assert sizes(cache) == (4, 4, 0)

    running = cache.match([1, 2, 3, 4, 5, 6, 9]).node
    cache.lock(running)
    assert sizes(cache) == (4, 1, 3), "only [7, 8] is not on the path that is in use"
    assert [node.lock_ref for node in cache.nodes()] == [1, 1, 0]

    assert cache.evict(1).tolist() == [5]
    assert sizes(cache) == (5, 0, 3)
    with pytest.raises(OutOfPages, match="pages needed: 1, free: 5, evictable: 0"):
        cache.evict(1)

    cache.unlock(running)
    assert sizes(cache) == (5, 3, 0)
    assert cache.evict(2).tolist() == [2, 1], (
        "the leaf first, and then the end of its parent"
    )
    assert cache.match([1, 2, 3, 4, 5, 6]).pages.tolist() == [0]
    assert cache.evict(1).tolist() == [0]
    assert sizes(cache) == (8, 0, 0)
    assert cache.roots == {}
    check_cache(cache)


def test_the_tree_is_one_holder_of_each_of_its_pages():
    cache = cache_of(page_size=2)
    pages = cache.page_manager.allocate(3)
    cache.insert([1, 2, 3, 4], pages)
    assert cache.page_manager.ref_counts[pages].tolist() == [2, 2, 1]
    duplicates = cache.page_manager.allocate(2)
    cache.insert([1, 2, 3, 4], duplicates)
    assert cache.page_manager.ref_counts[duplicates].tolist() == [1, 1], (
        "the tree took none"
    )
    assert cache.page_manager.ref_counts[pages].tolist() == [2, 2, 1]


# ── Locks ─────────────────────────────────────────────────────────────────────────────


def test_a_lock_holds_the_whole_path_and_nothing_beside_it():
    cache = cache_of()
    remember(cache, [1, 2, 3])
    remember(cache, [1, 2, 4])
    cache.lock(cache.match([1, 2, 3]).node)
    locked = {path_of(node)[1]: node.lock_ref for node in cache.nodes()}
    assert locked == {(1, 2): 1, (1, 2, 3): 1, (1, 2, 4): 0}
    assert (cache.n_evictable, cache.n_locked) == (1, 3)
    check_cache(cache)


def test_locks_are_counted_and_only_the_first_and_last_move_sizes():
    cache = cache_of()
    node = remember(cache, [1, 2, 3])
    for _ in range(3):
        cache.lock(node)
        assert (cache.n_evictable, cache.n_locked) == (0, 3)
    for left in [2, 1, 0]:
        cache.unlock(node)
        assert node.lock_ref == left
        assert (cache.n_evictable, cache.n_locked) == ((3, 0) if left == 0 else (0, 3))
    check_cache(cache)


def test_a_split_inherits_the_locks():
    """Whoever locked the whole edge still holds the part above the cut, and lets go of
    both.
    """
    cache = cache_of()
    node = remember(cache, [1, 2, 3])
    cache.lock(node)
    upper = cache.match([1, 2, 9]).node
    assert (upper.lock_ref, node.lock_ref) == (1, 1)
    assert (cache.n_evictable, cache.n_locked) == (0, 3)
    cache.lock(upper)
    assert (upper.lock_ref, node.lock_ref) == (2, 1)
    cache.unlock(node)
    assert (cache.n_evictable, cache.n_locked) == (1, 2)
    cache.unlock(upper)
    assert (cache.n_evictable, cache.n_locked) == (3, 0)
    check_cache(cache)


def test_a_split_inherits_the_history():
    cache = cache_of()
    node = remember(cache, [1, 2, 3])
    cache.match([1, 2, 3])
    upper = node.split(1, cache.page_bytes)
    assert (upper.created, upper.last_access, upper.hits) == (1, 2, 1)
    assert (node.created, node.last_access, node.hits) == (1, 2, 1)


def test_an_insert_uses_its_path_and_is_no_hit():
    cache = cache_of()
    node = remember(cache, [1, 2, 3])
    cache.match([1, 2, 3])
    remember(cache, [1, 9])
    assert (node.parent.created, node.parent.last_access, node.parent.hits) == (1, 3, 1)
    assert (node.created, node.last_access, node.hits) == (1, 2, 1)


def test_a_root_has_nothing_to_lock():
    cache = cache_of()
    root = cache.match([1, 2]).node
    cache.lock(root)
    cache.unlock(root)
    cache.unlock(root)
    assert root.lock_ref == 0
    assert sizes(cache) == (16, 0, 0)


def test_unlocking_twice_is_refused_and_changes_nothing():
    cache = cache_of()
    node = remember(cache, [1, 2])
    cache.lock(node)
    cache.unlock(node)
    before = snapshot(cache)
    with pytest.raises(
        ValueError, match="a node of 2 pages is not locked: unlocked twice"
    ):
        cache.unlock(node)
    assert snapshot(cache) == before


# ── Eviction ──────────────────────────────────────────────────────────────────────────


def test_a_leaf_loses_as_many_pages_as_needed_from_its_end():
    cache = cache_of(page_size=2)
    node = remember(cache, [1, 2, 3, 4, 5, 6])
    assert cache.evict(1).tolist() == [2]
    assert contents(cache) == {(None, (1, 2)): 0, (None, (1, 2, 3, 4)): 1}
    assert path_of(node) == (None, (1, 2, 3, 4))
    assert cache.page_manager.ref_counts[:3].tolist() == [1, 1, 0]
    check_cache(cache)


def test_evicting_nothing_changes_nothing():
    cache = cache_of()
    remember(cache, [1, 2])
    before = snapshot(cache)
    assert cache.evict(0).tolist() == []
    assert snapshot(cache) == before


@pytest.mark.parametrize("n_pages", [-1, 1.5, -0.5])
def test_only_a_whole_number_of_pages_is_evicted(n_pages):
    cache = cache_of()
    remember(cache, [1, 2])
    before = snapshot(cache)
    with pytest.raises(ValueError, match=f"^{n_pages} pages"):
        cache.evict(n_pages)
    assert snapshot(cache) == before


def test_a_locked_leaf_stays_even_if_it_is_the_oldest():
    cache = cache_of()
    old = remember(cache, [1])
    remember(cache, [2])
    cache.lock(old)
    assert cache.evict(1).tolist() == [1]
    cache.unlock(old)
    assert cache.evict(1).tolist() == [0]


def test_an_inner_node_goes_after_all_that_hangs_below_it():
    cache = cache_of()
    remember(cache, [1, 2, 3])
    remember(cache, [1, 2, 4])
    remember(cache, [5])
    cache.match([5])
    evicted = [cache.evict(1).tolist()[0] for _ in range(4)]
    assert evicted == [2, 5, 1, 0], (
        "[3], [4], then [1, 2] from its end; [5] was used last"
    )


def test_a_parent_that_is_in_use_does_not_follow_its_last_child():
    cache = cache_of()
    remember(cache, [1, 2, 3])
    parent = cache.match([1, 2]).node
    cache.lock(parent)
    assert cache.evict(1).tolist() == [2]
    assert (cache.n_evictable, cache.n_locked, len(cache._heap)) == (0, 2, 0)
    cache.unlock(parent)
    assert (cache.n_evictable, cache.n_locked, len(cache._heap)) == (2, 0, 1)
    check_cache(cache)


def test_a_leaf_that_grew_a_child_leaves_the_heap_and_comes_back():
    cache = cache_of()
    remember(cache, [1, 2])
    remember(cache, [1, 2, 3])
    assert [path[1] for _, path in heap_order(cache)] == [(1, 2, 3)]
    cache.evict(1)
    assert [path[1] for _, path in heap_order(cache)] == [(1, 2)]
    check_cache(cache)


def test_an_empty_namespace_is_forgotten():
    cache = cache_of()
    remember(cache, [1, 2], "a")
    remember(cache, [1, 2], "b")
    assert cache.evict(2).tolist() == [0, 1]
    assert list(cache.roots) == ["b"]
    assert remember(cache, [1, 2], "a").namespace == "a"
    check_cache(cache)


def test_a_match_makes_a_leaf_the_last_to_go():
    cache = cache_of()
    for token in [1, 2, 3]:
        remember(cache, [token])
    cache.match([1])
    assert [cache.evict(1).tolist()[0] for _ in range(3)] == [1, 2, 0]


def test_a_match_in_the_middle_of_an_edge_uses_its_front_only():
    """[1, 2] was asked for again, [3] was not: [3] goes before [4], and [1, 2] after
    it.
    """
    cache = cache_of()
    remember(cache, [1, 2, 3])
    remember(cache, [4])
    cache.match([1, 2])
    assert [cache.evict(1).tolist()[0] for _ in range(4)] == [2, 3, 1, 0]


def test_a_walk_is_no_use():
    cache = cache_of()
    remember(cache, [1, 2])
    before = snapshot(cache)
    list(cache.walk([1, 2]))
    assert snapshot(cache) == before


@pytest.mark.parametrize(
    ("policy", "order"),
    [
        ("lru", [3, 1, 2, 0]),
        ("lfu", [3, 2, 0, 1]),
        ("fifo", [0, 1, 2, 3]),
        ("mru", [0, 2, 1, 3]),
    ],
)
def test_each_policy_has_its_own_order(policy, order):
    """Four pages, made one after the other and then used 1, 2, 1 and 0 times, page 0
    last.
    """
    cache = cache_of(policy=policy)
    for token in range(4):
        remember(cache, [token])
    for token in [1, 1, 2, 0]:
        cache.match([token])
    assert [cache.evict(1).tolist()[0] for _ in range(4)] == order


# ── Rebuilding ────────────────────────────────────────────────────────────────────────


def test_a_rebuild_forgets_a_namespace_that_holds_nothing():
    cache = cache_of()
    remember(cache, [1], "a")
    cache.roots["b"] = cache.match([1], "b").node
    cache.rebuild([])
    assert list(cache.roots) == ["a"]


def test_a_rebuild_finds_what_was_there():
    cache = cache_of(page_size=2)
    locked = [remember(cache, [1, 2, 3, 4]), remember(cache, [1, 2, 5, 6])]
    remember(cache, [7, 8], "other")
    for node in [*locked, locked[0]]:
        cache.lock(node)
    before = snapshot(cache)
    cache.n_evictable = cache.n_locked = 99
    cache._heap.clear()
    cache.rebuild([*locked, locked[0]])
    assert snapshot(cache) == before
    check_cache(cache)


# ── Bad input ─────────────────────────────────────────────────────────────────────────


def test_an_unknown_policy_is_refused():
    with pytest.raises(ValueError, match="no eviction policy 'best': choose from lru"):
        cache_of(policy="best")


def test_evicting_more_than_can_go_evicts_none():
    cache = cache_of(n_pages=8)
    remember(cache, [1, 2, 3])
    cache.lock(remember(cache, [4, 5]))
    before = snapshot(cache)
    with pytest.raises(
        OutOfPages, match="pages needed: 4, free: 3, evictable: 3"
    ) as caught:
        cache.evict(4)
    assert (caught.value.needed, caught.value.free, caught.value.evictable) == (4, 3, 3)
    assert snapshot(cache) == before


@pytest.mark.parametrize("bad", BAD_TOKENS, ids=repr)
@pytest.mark.parametrize("call", ["match", "insert"])
def test_a_bad_token_changes_nothing(call, bad):
    cache = cache_of()
    remember(cache, [1, 2, 3])
    pages = cache.page_manager.allocate(3)
    before = snapshot(cache)
    with pytest.raises(ValueError, match="token ids") as caught:
        if call == "match":
            cache.match([1, 2, bad])
        else:
            cache.insert([1, 2, bad], pages)
    assert repr(bad) in str(caught.value)
    assert snapshot(cache) == before


def test_too_few_pages_change_nothing():
    cache = cache_of()
    remember(cache, [1, 2, 3])
    pages = cache.page_manager.allocate(2)
    before = snapshot(cache)
    with pytest.raises(ValueError, match="3 tokens need 3 pages of 1, not 2"):
        cache.insert([1, 2, 4], pages)
    assert snapshot(cache) == before


@pytest.mark.parametrize("namespace", [None, "new"])
def test_a_page_that_nobody_holds_cannot_enter(namespace):
    cache = cache_of()
    remember(cache, [1, 2, 3])
    before = snapshot(cache)
    with pytest.raises(ValueError, match="page 9 is free: nobody holds it"):
        cache.insert([1, 2, 9], np.array([9, 9, 9]), namespace)
    assert snapshot(cache) == before


def break_size(cache, leaf):
    cache.n_evictable += 1


def break_lock(cache, leaf):
    leaf.lock_ref = 1


def break_heap(cache, leaf):
    cache._heap.discard(leaf)


def break_page(cache, leaf):
    cache.page_manager.release(leaf.pages)


def break_length(cache, leaf):
    cache._heap._live += 1


@pytest.mark.parametrize(
    ("broken", "what"),
    [
        (break_size, "sizes are wrong"),
        (break_lock, "hangs below"),
        (break_heap, "other nodes than evictable leaves"),
        (break_page, "lists a free page"),
        (break_length, "lost count"),
    ],
)
def test_the_integrity_check_names_what_is_broken(broken, what):
    cache = cache_of()
    leaf = remember(cache, [1, 2])
    remember(cache, [1, 3])
    cache.check_integrity()
    broken(cache, leaf)
    with pytest.raises(AssertionError, match=what):
        cache.check_integrity()


# ── Against the oracle ────────────────────────────────────────────────────────────────


class CacheMachine(RuleBasedStateMachine):
    """Matches, inserts, locks and evictions in any order: the cache does what the
    oracle does.
    """

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
