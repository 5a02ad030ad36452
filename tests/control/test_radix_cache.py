"""Chapter 04: the radix cache. Locks, duplicates, sizes and eviction, by hand."""

from __future__ import annotations

import pytest

from radix_lib.eviction import POLICIES
from radix_lib.page_manager import OutOfPages
from tests.support.inspection import (
    check_cache,
    contents,
    heap_order,
    path_of,
    sizes,
    snapshot,
)
from tests.support.small_routers import cache_of, refused, remember

# ── By hand ───────────────────────────────────────────────────────────────────────────


def test_an_example_worked_by_hand():
    """Eight pages of two tokens. Two conversations share their start; one runs."""
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
    """Whoever locked the edge holds the part above the cut, too, and frees both."""
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


@pytest.mark.parametrize("n_pages", [-1, 1.5, -0.5, "1", None])
def test_only_a_whole_number_of_pages_is_evicted(n_pages):
    cache = cache_of()
    remember(cache, [1, 2])
    words = f"n_pages is a whole number from 0, not {n_pages!r}"
    refused(cache, ValueError, words, lambda: cache.evict(n_pages))


def test_what_is_left_of_a_leaf_keeps_nothing_else_in_memory():
    cache = cache_of(n_pages=1000)
    leaf = remember(cache, range(1000))
    cache.evict(999)
    assert len(leaf.pages) == 1
    assert leaf.pages.base is None


@pytest.mark.parametrize("policy", POLICIES)
def test_what_was_evicted_keeps_nothing_in_memory(policy):
    """An entry of the heap that is out of date holds on to its node for a while."""
    cache = cache_of(n_pages=1000, policy=policy)
    for first in range(5):
        tokens = [first, *range(100)]
        remember(cache, tokens)
        cache.match(tokens)
        cache.match(tokens)
    cache.evict(cache.n_evictable)
    kept = [node for _, _, node in cache._heap._entries]
    assert sum(len(node.key) + node.pages.nbytes for node in kept) == 0


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
    """[1, 2] was asked for again, [3] was not: [3] goes before [4], [1, 2] after it."""
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
    """Four pages, made one by one, then used 1, 2, 1 and 0 times, page 0 last."""
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
