"""What each structure has to do, as contracts for `check`, which a chapter runs.

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
    """A radix tree finds what a list of all prefixes finds; the first page is kept."""
    for page_size in (1, 2, 3):
        rng = random.Random(page_size)
        tree = tree_type(page_size)
        oracle = PrefixOracle(page_size)
        next_page = 0
        for _ in range(300):
            tokens = _tokens(rng, 12)
            namespace = rng.choice("AB")
            doing = f"{tokens} in pages of {page_size}"
            if rng.random() < 0.5:
                found = tree.match(tokens, namespace).pages.tolist()
                due = oracle.match(tokens, namespace)
                assert found == due, f"match {doing}: pages {found}, not {due}"
            else:
                pages = np.arange(next_page, next_page + len(tokens) // page_size)
                next_page += len(pages)
                found = tree.insert(tokens, pages, namespace).pages.tolist()
                due = oracle.insert(tokens, pages.tolist(), namespace)
                assert found == due, f"insert {doing}: found pages {found}, not {due}"


def counts_the_holders(manager_type: type) -> None:
    """A page manager gives out a page once, and frees it when its last holder goes."""
    trace = _ManagerTrace(manager_type)
    for _ in range(400):
        trace.step()
    trace.check_tables()


class _ManagerTrace:
    """A page manager, and who holds which page, as the trace knows it."""

    n_pages = 16

    def __init__(self, manager_type: type):
        self.rng = random.Random(0)
        self.manager: Any = manager_type(self.n_pages, 4)
        self.holders = Counter[int]()
        # page tables, and what they said at first
        self.given: list[tuple[Any, list[int]]] = []

    def step(self) -> None:
        held = [page for page in range(self.n_pages) if self.holders[page]]
        some = np.array([page for page in held if self.rng.random() < 0.4], np.int64)
        n = self.rng.randrange(8)
        if self.rng.random() < 0.4:
            if not self._allocate(n, held):
                return
        elif self.rng.random() < 0.4:
            self.manager.retain(some)
            self.holders.update(some.tolist())
        else:
            self.manager.release(some)
            self.holders.subtract(some.tolist())
        self._take_what_is_free()
        self._check_counts()

    def _allocate(self, n: int, held: list[int]) -> bool:
        n_free = self.n_pages - len(held)
        try:
            pages = self.manager.allocate(n)
        except RuntimeError:  # `OutOfPages`: the library's, or one built in a notebook
            assert n > n_free, f"{n} pages were refused, though {n_free} were free"
            return False
        assert n <= n_free, f"{n} pages were given out, and {n_free} were free"
        new = set(pages.tolist()) - set(held)
        assert len(new) == n, "a page was given out twice"
        self.holders.update(pages.tolist())
        self.given.append((pages, pages.tolist()))
        return True

    def _take_what_is_free(self) -> None:
        free = [page for page in range(self.n_pages) if not self.holders[page]]
        if not free:
            return
        for take in (self.manager.retain, self.manager.release):
            try:
                take(np.array(free[:1]))
            except ValueError:
                continue
            raise AssertionError(f"page {free[0]} is free, and {take.__name__} took it")

    def _check_counts(self) -> None:
        due = [self.holders[page] for page in range(self.n_pages)]
        counts = self.manager.ref_counts.tolist()
        assert counts == due, f"the counts are {counts}, not {due}"
        n_free = self.manager.n_free
        assert n_free == due.count(0), f"{n_free} free, not {due.count(0)}"

    def check_tables(self) -> None:
        for pages, said in self.given:
            same = pages.tolist() == said
            assert same, "a page table changed after it was given out"


def caches_like_the_oracle(cache_type: type) -> None:
    """A radix cache matches, locks and evicts as a list of all prefixes would."""
    for policy in POLICIES:
        for page_size in (1, 3):
            trace = _CacheTrace(cache_type, policy, page_size)
            for _ in range(250):
                trace.step()


class _CacheTrace:
    """A cache beside its oracle."""

    n_pages = 24

    def __init__(self, cache_type: type, policy: str, page_size: int):
        self.rng = random.Random(f"{policy} {page_size}")
        self.policy = policy
        self.page_size = page_size
        self.manager = PageManager(self.n_pages, page_size)
        self.cache: Any = cache_type(self.manager, policy)
        self.oracle = PrefixOracle(page_size, policy)
        self.locked: list[Any] = []

    def step(self) -> None:
        tokens = _tokens(self.rng, 12)
        action = self.rng.choice(["insert", "insert", "match", "lock", "evict"])
        if action == "insert":
            self._insert(tokens)
        elif action == "evict":
            self._evict(self.rng.randint(0, self.cache.n_evictable))
        elif action == "lock" and len(self.locked) > 3:
            self.cache.unlock(self.locked.pop(0))
            self.oracle.locks.pop(0)
        else:
            self._match(tokens, lock=action == "lock")
        self._check_sizes()

    def _insert(self, tokens: list[int]) -> None:
        n_pages = len(tokens) // self.page_size
        n_short = n_pages - self.manager.n_free
        if n_short > 0:
            self._evict(n_short)
        pages = self.manager.allocate(n_pages)
        found = self.cache.insert(tokens, pages).pages.tolist()
        due = self.oracle.insert(tokens, pages.tolist())
        self.manager.release(pages)
        assert found == due, f"insert {tokens}: found {found}, not {due}"

    def _evict(self, n_pages: int) -> None:
        found = sorted(self.cache.evict(n_pages).tolist())
        due = sorted(self.oracle.evict(n_pages))
        assert found == due, f"{self.policy}: evicted pages {found}, not {due}"

    def _match(self, tokens: list[int], *, lock: bool) -> None:
        found = self.cache.match(tokens)
        due = self.oracle.match(tokens)
        pages = found.pages.tolist()
        assert pages == due, f"match {tokens}: pages {pages}, not {due}"
        if lock:
            self.cache.lock(found.node)
            self.locked.append(found.node)
            prefix = tuple(tokens[: len(due) * self.page_size])
            self.oracle.locks.append((None, prefix))

    def _check_sizes(self) -> None:
        sizes = (self.cache.n_evictable, self.cache.n_locked)
        due = (self.oracle.n_evictable, self.oracle.n_locked)
        told = f"{self.policy}: evictable and locked are {sizes}, not {due}"
        assert sizes == due, told
        n_held = self.n_pages - self.manager.n_free
        assert n_held == sum(due), f"{n_held} pages are held, not {sum(due)}"


def serves_requests(router_type: type) -> None:
    """No request reads a page that is not its own, and no page is lost."""
    for page_size in (1, 4):
        trace = _RouterTrace(router_type, page_size)
        for _ in range(250):
            trace.step()


class _RouterTrace:
    """A router, a memory for its requests, and those that live."""

    n_pages = 40
    actions = (
        "admit",
        "admit",
        "compute",
        "append",
        "fork",
        "commit",
        "finish",
        "cancel",
    )

    def __init__(self, router_type: type, page_size: int):
        self.rng = random.Random(page_size)
        self.page_size = page_size
        manager = PageManager(self.n_pages, page_size)
        self.router: Any = router_type(RadixCache(manager))
        self.memory = Memory(page_size)
        self.live: list[Any] = []

    def step(self) -> None:
        action = self.rng.choice(self.actions)
        lease = self.rng.choice(self.live) if self.live else None
        if action in ("admit", "fork"):
            before = self.router.usage()
            try:
                self._begin(None if action == "admit" else lease)
            except OutOfPages:
                same = self.router.usage() == before
                assert same, "a refused request changed something"
                return
        elif lease:
            self._go_on(action, lease)
        self._check()

    def _begin(self, lease: Any) -> None:
        """Admit a request, or fork one."""
        n_new = self.rng.randrange(4)
        if lease is None:
            tokens = _tokens(self.rng, 12, least=1)
            new = self.router.admit(tokens, self.rng.choice("AB"), n_new)
            assert new.n_cached < len(tokens), "nothing is left to compute"
        else:
            new = self.router.fork(lease, n_new)
            if lease.n_computed % self.page_size:  # the caller copies the tail
                source, target = (x.page_table[lease.n_shared] for x in (lease, new))
                self.memory.copy_page(int(source), int(target))
        self.live.append(new)

    def _go_on(self, action: str, lease: Any) -> None:
        if action == "compute":
            n_left = lease.n_tokens - lease.n_computed
            self.memory.compute(lease, self.rng.randint(0, n_left))
        elif action == "append":
            if lease.n_tokens < len(lease.page_table) * self.page_size:
                lease.append(self.rng.randrange(3))
        else:
            getattr(self.router, action)(lease)
            if action != "commit":
                self.live.remove(lease)

    def _check(self) -> None:
        self.router.check_integrity()
        usage = self.router.usage()
        assert sum(usage) == self.n_pages, f"{usage} is not the pool of {self.n_pages}"
        for lease in self.live:
            self.memory.check(lease)


def _tokens(rng: random.Random, most: int, least: int = 0) -> list[int]:
    # Three tokens only, so that prefixes are shared and edges are split all the time.
    return [rng.randrange(3) for _ in range(rng.randint(least, most))]
