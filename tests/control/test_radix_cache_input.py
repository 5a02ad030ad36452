"""Chapter 04: what a cache refuses, and what its integrity check sees."""

from __future__ import annotations

import numpy as np
import pytest

from radix_lib.page_manager import OutOfPages, PageManager
from radix_lib.radix_cache import RadixCache
from tests.support.inspection import check_cache, contents, sizes, snapshot
from tests.support.small_routers import cache_of, refused, remember
from tests.support.strategies import BAD_TOKENS


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


@pytest.mark.parametrize("pages", [[0, 0, 0], None, np.array([0.0] * 3)], ids=repr)
def test_what_is_no_array_of_page_ids_does_not_enter(pages):
    cache = cache_of()
    remember(cache, [1, 2, 3])
    words = "page ids are a one-dimensional array of integers"
    refused(cache, ValueError, words, lambda: cache.insert([1, 2, 9], pages))


@pytest.mark.parametrize("page", [-1, 16])
def test_a_page_that_does_not_exist_does_not_enter(page):
    cache = cache_of()
    remember(cache, [1, 2, 3])
    words = f"page {page} does not exist"
    pages = np.array([0, 1, page])
    refused(cache, ValueError, words, lambda: cache.insert([1, 2, 9], pages))


@pytest.mark.parametrize("call", ["lock", "unlock"])
def test_a_node_that_was_evicted_cannot_be_locked(call):
    cache = cache_of()
    remember(cache, [5, 6])
    remember(cache, [1, 2, 3])
    gone = cache.match([1, 2, 3]).node
    cache.match([5, 6])
    cache.evict(3)
    words = "^this node was evicted: match again, and lock at once$"
    if call == "unlock":
        words = "is not locked"
    refused(cache, ValueError, words, lambda: getattr(cache, call)(gone))
    check_cache(cache)


def test_a_node_that_was_cut_short_locks_what_is_left_of_it():
    cache = cache_of()
    remember(cache, [1, 2, 3])
    node = cache.match([1, 2, 3]).node
    cache.evict(2)
    cache.lock(node)
    assert sizes(cache) == (15, 0, 1)
    check_cache(cache)


def test_a_namespace_that_is_not_equal_to_itself_leaves_the_books_whole():
    cache = cache_of()
    remember(cache, [1, 2, 3])
    pages = cache.page_manager.allocate(1)
    words = "a tuple of these, not nan"
    nan = float("nan")
    refused(cache, ValueError, words, lambda: cache.insert([1], pages, nan))
    check_cache(cache)


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
        (break_size, "the sizes are wrong"),
        (break_lock, "a locked node hangs below one that is not"),
        (break_heap, "the heap holds other nodes than evictable leaves"),
        (break_page, "the tree lists a free page"),
        (break_length, "the heap has lost count"),
    ],
)
def test_the_integrity_check_names_what_is_broken(broken, what):
    cache = cache_of()
    leaf = remember(cache, [1, 2])
    remember(cache, [1, 3])
    cache.check_integrity()
    broken(cache, leaf)
    with pytest.raises(AssertionError) as caught:
        cache.check_integrity()
    assert str(caught.value) == what


def test_the_integrity_check_counts_the_leases_that_cross_a_node():
    cache = cache_of()
    remember(cache, [1, 2])
    node = remember(cache, [1, 2, 3])
    cache.lock(node)
    cache.lock(node)
    cache.check_integrity([node, node])
    for holders in [[], [node], [node, node.parent]]:
        with pytest.raises(AssertionError) as caught:
            cache.check_integrity(holders)
        assert str(caught.value) == (
            "a node's locks are not the number of leases that cross it"
        )


def test_a_cache_that_is_told_no_policy_evicts_the_least_recently_used():
    cache = RadixCache(PageManager(n_pages=4, page_size=1))
    remember(cache, [1])
    remember(cache, [2])
    cache.match([1])
    cache.evict(1)
    assert list(contents(cache)) == [(None, (1,))]
