"""Chapter 04: the check of the heap that you build, and those of the longer exercises.

Each takes what the reader wrote and raises AssertionError where it goes wrong.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from radix_lib.eviction import POLICIES
from radix_lib.page_manager import PageManager
from radix_lib.radix_cache import CacheNode, RadixCache
from radix_lib.radix_tree import Pages


@dataclass(eq=False)
class Leaf:
    """What a policy and the heap ask of a node, without a tree."""

    name: str
    created: int
    last_access: int
    hits: int
    entry: int = 0


def pops_in_order(heap_type: type) -> None:
    """What is popped has the smallest value, whatever was added, used or discarded."""
    for policy, priority in POLICIES.items():
        rng = random.Random(policy)
        heap: Any = heap_type(policy)
        inside: list[Leaf] = []
        for now in range(600):
            if rng.random() < 0.4:
                inside.append(Leaf("", now, now, 0))
                heap.add(inside[-1])
            elif inside and rng.random() < 0.6:
                leaf = rng.choice(inside)
                leaf.last_access = now
                leaf.hits += 1
                heap.add(leaf)
            elif inside and rng.random() < 0.5:
                heap.discard(inside.pop(rng.randrange(len(inside))))
            elif inside:
                due = min(inside, key=lambda leaf: (priority(leaf), leaf.entry))
                assert heap.pop() is due, f"{policy} gave up another leaf"
                inside.remove(due)
            assert len(heap) == len(inside), f"{len(heap)} leaves, not {len(inside)}"


def foretells_locks(newly_locked: Callable[[CacheNode], int]) -> None:
    """`newly_locked(node)` is how many pages a lock of `node` would move."""
    rng = random.Random(0)
    for _ in range(50):
        cache = RadixCache(PageManager(60, page_size=2))
        for _ in range(8):
            tokens = [rng.randrange(2) for _ in range(rng.randint(1, 14))]
            _serve(cache, tokens)
            node = cache.match(tokens).node
            told = newly_locked(node)
            cache.check_integrity()
            if rng.random() < 0.5:
                before = cache.n_locked
                cache.lock(node)
                due = cache.n_locked - before
                assert told == due, f"you said {told} pages, and {due} were locked"


def is_segmented(slru: Callable[[Leaf], Any]) -> None:
    """Leaves that were never hit go first; in each group, the one used longest ago."""
    rows = [(0, 5), (9, 1), (1, 4), (2, 3), (0, 6), (2, 2), (3, 7)]  # hits, last access
    leaves = [Leaf("", 0, last_access, hits) for hits, last_access in rows]
    in_order = sorted(leaves, key=slru)
    found = [leaf.last_access for leaf in in_order]
    assert found == [5, 6, 1, 2, 3, 4, 7], f"leaves go in the order of last use {found}"


Finish = Callable[[RadixCache, Sequence[int], Pages, CacheNode], None]


def finishes(finish: Finish) -> None:
    """`finish(cache, tokens, table, node)` keeps whole pages and loses none."""
    rng = random.Random(0)
    for _ in range(40):
        cache = RadixCache(PageManager(64, page_size=2))
        running: list[tuple[list[int], Pages, CacheNode]] = []
        for _ in range(12):
            tokens = [rng.randrange(2) for _ in range(rng.randint(1, 9))]
            running.append((tokens, *_begin(cache, tokens)))
            if len(running) > 2:
                finish(cache, *running.pop(rng.randrange(len(running))))
                cache.check_integrity([node for _, _, node in running])
        for request in running:
            finish(cache, *request)
        cache.check_integrity([])
        free = cache.page_manager.n_free
        lost = 64 - free - cache.n_evictable - cache.n_locked
        assert lost == 0, f"{lost} pages are lost"
        held = int(cache.page_manager.ref_counts.sum())
        assert held == cache.n_evictable, "a page counts a holder that is gone"
        found = len(cache.match(tokens).pages)
        assert found == len(tokens) // 2, "the request is not in the tree"
    _keeps_its_own_pages(finish)


def _keeps_its_own_pages(finish: Finish) -> None:
    cache = RadixCache(PageManager(8, page_size=2))
    table = cache.page_manager.allocate(3)
    first = table[:2].tolist()
    finish(cache, [1, 2, 3, 4, 5], table, cache.match([1]).node)
    found = cache.match([1, 2, 3, 4]).pages.tolist()
    assert found == first, f"the tree lists pages {found} for the tokens on {first}"


def _serve(cache: RadixCache, tokens: Sequence[int]) -> None:
    """Put a prompt into the tree, as a request that computes all of it."""
    pages = cache.page_manager.allocate(len(tokens))
    cache.insert(tokens, pages)
    cache.page_manager.release(pages)


def _begin(cache: RadixCache, tokens: Sequence[int]) -> tuple[Pages, CacheNode]:
    """Match, lock, retain and allocate: the page table of a request, and its node."""
    manager = cache.page_manager
    found = cache.match(tokens)
    cache.lock(found.node)
    manager.retain(found.pages)
    own = manager.allocate(manager.pages_for(len(tokens)) - len(found.pages))
    return np.concatenate((found.pages, own)), found.node
