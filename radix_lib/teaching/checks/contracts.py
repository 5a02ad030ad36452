"""What each structure has to do, as contracts for `check`: a chapter runs them on what
you built.

A contract drives a class with random traces, always the same ones, beside a slow and
obvious oracle, and raises AssertionError where the two part. The tests run the same
contracts on the library, and on broken copies of it.
"""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import numpy as np

from radix_lib.eviction import POLICIES
from radix_lib.page_manager import OutOfPages, PageManager
from radix_lib.radix_cache import RadixCache
from radix_lib.teaching.checks.oracle import Memory, PrefixOracle


def matches_like_the_oracle(tree_type: type) -> None:
    """A radix tree finds what a list of all prefixes finds, and keeps the page it had
    first.
    """
    for page_size in (1, 2, 3):
        rng = random.Random(page_size)
        tree, oracle, next_page = tree_type(page_size), PrefixOracle(page_size), 0
        for _ in range(300):
            tokens, namespace = _tokens(rng, 12), rng.choice("AB")
            doing = f"{tokens} in pages of {page_size}"
            if rng.random() < 0.5:
                found, due = (
                    tree.match(tokens, namespace),
                    oracle.match(tokens, namespace),
                )
                assert found.pages.tolist() == due, (
                    f"match {doing}: pages {found.pages.tolist()}, not {due}"
                )
            else:
                pages = np.arange(next_page, next_page + len(tokens) // page_size)
                next_page += len(pages)
                found = tree.insert(tokens, pages, namespace)
                due = oracle.insert(tokens, pages.tolist(), namespace)
                assert found.pages.tolist() == due, (
                    f"insert {doing}: found pages {found.pages.tolist()}, not {due}"
                )


def counts_the_holders(manager_type: type) -> None:
    """A page manager gives out each page once, and frees it when its last holder is
    gone.
    """
    rng = random.Random(0)
    manager, holders = manager_type(16, 4), Counter[int]()
    given: list[tuple[Any, list[int]]] = []  # page tables, and what they said at first
    for _ in range(400):
        held = np.array(sorted(page for page in holders if holders[page]), np.int64)
        some = np.array([page for page in held if rng.random() < 0.4], np.int64)
        n, free = rng.randrange(8), 16 - len(held)
        if rng.random() < 0.4:
            try:
                pages = manager.allocate(n)
                assert n <= free, f"{n} pages were given out, and {free} were free"
            except (
                RuntimeError
            ):  # `OutOfPages`: the library's, or one built in a notebook
                assert n > free, f"{n} pages were refused, though {free} were free"
                continue
            assert len(set(pages.tolist()) - set(held.tolist())) == n, (
                "a page was given out twice"
            )
            holders.update(pages.tolist())
            given.append((pages, pages.tolist()))
        elif rng.random() < 0.4:
            manager.retain(some)
            holders.update(some.tolist())
        else:
            manager.release(some)
            holders.subtract(some.tolist())
        for page in [page for page in range(16) if not holders[page]][:1]:
            for take in (manager.retain, manager.release):
                try:
                    take(np.array([page]))
                except ValueError:
                    continue
                raise AssertionError(
                    f"page {page} is free, and {take.__name__} took it"
                )
        due = [holders[page] for page in range(16)]
        counts = manager.ref_counts.tolist()
        assert counts == due, f"the counts are {counts}, not {due}"
        assert manager.n_free == due.count(0), (
            f"{manager.n_free} free, not {due.count(0)}"
        )
    for pages, said in given:
        assert pages.tolist() == said, "a page table changed after it was given out"


def caches_like_the_oracle(cache_type: type) -> None:
    """A radix cache matches, locks and evicts as a list of all prefixes would, page for
    page.
    """
    for policy in POLICIES:
        for page_size in (1, 3):
            _cache_trace(cache_type, policy, page_size)


def _cache_trace(cache_type: type, policy: str, page_size: int) -> None:
    rng = random.Random(f"{policy} {page_size}")
    manager = PageManager(24, page_size)
    cache: Any = cache_type(manager, policy)
    oracle = PrefixOracle(page_size, policy)
    locked: list[Any] = []

    def evict(n_pages: int) -> None:
        found, due = cache.evict(n_pages).tolist(), oracle.evict(n_pages)
        assert sorted(found) == sorted(due), (
            f"{policy}: evicted pages {found}, not {due}"
        )

    for _ in range(250):
        tokens, action = (
            _tokens(rng, 12),
            rng.choice(["insert", "insert", "match", "lock", "evict"]),
        )
        if action == "insert":
            n_pages = len(tokens) // page_size
            short = n_pages - manager.n_free
            if short > 0:
                evict(short)
            pages = manager.allocate(n_pages)
            found, due = (
                cache.insert(tokens, pages),
                oracle.insert(tokens, pages.tolist()),
            )
            manager.release(pages)
            assert found.pages.tolist() == due, (
                f"insert {tokens}: found {found.pages}, not {due}"
            )
        elif action == "evict":
            evict(rng.randint(0, cache.n_evictable))
        elif action == "lock" and len(locked) > 3:
            cache.unlock(locked.pop(0))
            oracle.locks.pop(0)
        else:
            found, due = cache.match(tokens), oracle.match(tokens)
            assert found.pages.tolist() == due, (
                f"match {tokens}: pages {found.pages}, not {due}"
            )
            if action == "lock":
                cache.lock(found.node)
                locked.append(found.node)
                oracle.locks.append((None, tuple(tokens[: len(due) * page_size])))
        sizes, due_sizes = (
            (cache.n_evictable, cache.n_locked),
            (oracle.n_evictable, oracle.n_locked),
        )
        assert sizes == due_sizes, (
            f"{policy}: evictable and locked are {sizes}, not {due_sizes}"
        )
        in_tree = 24 - manager.n_free
        assert in_tree == sum(due_sizes), (
            f"{in_tree} pages are held, not {sum(due_sizes)}"
        )


def serves_requests(router_type: type) -> None:
    """A router never lets a request read a page that is not its own, and loses no
    page.
    """
    for page_size in (1, 4):
        rng = random.Random(page_size)
        router: Any = router_type(RadixCache(PageManager(40, page_size)))
        memory = Memory(page_size)
        live: list[Any] = []
        actions = [
            "admit",
            "admit",
            "compute",
            "append",
            "fork",
            "commit",
            "finish",
            "cancel",
        ]
        for _ in range(250):
            action = rng.choice(actions)
            before, lease = router.usage(), rng.choice(live) if live else None
            try:
                if action == "admit":
                    tokens = _tokens(rng, 12, least=1)
                    live.append(
                        router.admit(tokens, rng.choice("AB"), rng.randrange(4))
                    )
                    assert live[-1].n_cached < len(tokens), "nothing is left to compute"
                elif action == "fork" and lease:
                    live.append(router.fork(lease, rng.randrange(4)))
                    # the tail is copied, as the caller must
                    if lease.n_computed % page_size:
                        tails = (
                            int(x.page_table[lease.n_shared]) for x in (lease, live[-1])
                        )
                        memory.copy_page(*tails)
            except OutOfPages:
                assert router.usage() == before, "a refused request changed something"
                continue
            if lease and action == "compute":
                memory.compute(lease, rng.randint(0, lease.n_tokens - lease.n_computed))
            elif lease and action == "append":
                if lease.n_tokens < len(lease.page_table) * page_size:
                    lease.append(rng.randrange(3))
            elif lease and action in ("commit", "finish", "cancel"):
                getattr(router, action)(lease)
                if action != "commit":
                    live.remove(lease)
            router.check_integrity()
            assert sum(router.usage()) == 40, f"{router.usage()} is not the pool of 40"
            for lease in live:
                memory.check(lease)


def _tokens(rng: random.Random, most: int, least: int = 0) -> list[int]:
    # Three tokens only, so that prefixes are shared and edges are split all the time.
    return [rng.randrange(3) for _ in range(rng.randint(least, most))]
