"""What the router has to do, done the slow and obvious way, and ways to look at a
structure.

`RouterOracle` adds requests to the `PrefixOracle` that the course shares with these
tests.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st

from radix_lib.page_manager import PageManager
from radix_lib.radix_cache import RadixCache
from radix_lib.radix_tree import RadixTree, TreeNode, unpack_tokens
from radix_lib.router import Lease, Router
from radix_lib.teaching.checks.oracle import Memory, Prefix, PrefixOracle


@dataclass
class Request:
    """A request as the oracle sees it."""

    tokens: list[int]
    namespace: Hashable
    n_table: int  # pages in its page table
    n_computed: int  # tokens whose K/V exist
    n_shared: int  # pages at the front of its page table that are the tree's


class RouterOracle:
    """Requests over a `PrefixOracle`, by counting. Keyed by the leases that the router
    gave.
    """

    def __init__(self, page_size: int, n_pages: int, policy: str):
        self.page_size = page_size
        self.n_pages = n_pages
        self.cache = PrefixOracle(page_size, policy)
        self.requests: dict[Lease, Request] = {}

    @property
    def n_private(self) -> int:
        """Pages held by a request and not in the tree."""
        return sum(
            request.n_table - request.n_shared for request in self.requests.values()
        )

    @property
    def n_free(self) -> int:
        """Pages that nobody holds."""
        return self.n_pages - len(self.cache.pages) - self.n_private

    def usage(self) -> tuple[int, int, int, int]:
        """Free, unlocked, locked and private pages."""
        return self.n_free, self.cache.n_evictable, self.cache.n_locked, self.n_private

    def shortage(
        self, tokens: Sequence[int], namespace: Hashable, room: int
    ) -> tuple | None:
        """None if `admit` will do; else the pages needed, free and evictable."""
        usable = self.cache.prefixes(tokens[:-1], namespace)
        found = usable[: len(self.cache.peek(tokens[:-1], namespace))]
        needed = -(-(len(tokens) + room) // self.page_size) - len(found)
        # What the request will lock itself, it cannot evict.
        evictable = self.cache.n_evictable - sum(
            not self.cache.is_locked(p) for p in found
        )
        return (
            None
            if needed <= self.n_free + evictable
            else (needed, self.n_free, evictable)
        )

    def admit(
        self, lease: Lease, tokens: list[int], namespace: Hashable, room: int
    ) -> int:
        """Admit a request; returns how many of its tokens were cached."""
        n_shared = len(self.cache.match(tokens[:-1], namespace))
        n_table = -(-(len(tokens) + room) // self.page_size)
        cached = n_shared * self.page_size
        self._take(n_table - n_shared, (namespace, tuple(tokens[:cached])))
        self.requests[lease] = Request(
            list(tokens), namespace, n_table, cached, n_shared
        )
        self._relock()
        return cached

    def commit(self, lease: Lease) -> None:
        """What is computed enters the cache, in whole pages."""
        request = self.requests[lease]
        n_pages = request.n_computed // self.page_size
        if n_pages > request.n_shared:
            computed = request.tokens[: n_pages * self.page_size]
            self.cache.insert(computed, lease.page_table.tolist(), request.namespace)
            request.n_shared = n_pages
            self._relock()

    def fork(self, lease: Lease, room: int) -> tuple | None:
        """None if `fork` will do, which then has happened; else needed, free,
        evictable.
        """
        request = self.requests[lease]
        n_shared = request.n_computed // self.page_size
        n_table = -(-(len(request.tokens) + room) // self.page_size)
        if n_table - n_shared > self.n_free + self.cache.n_evictable:
            return n_table - n_shared, self.n_free, self.cache.n_evictable
        self.commit(lease)
        shared = tuple(request.tokens[: n_shared * self.page_size])
        self._take(n_table - n_shared, (request.namespace, shared))
        return None

    def forked(self, lease: Lease, fork: Lease, room: int) -> None:
        """Take note of the lease that a fork gave."""
        request = self.requests[lease]
        n_table = -(-(len(request.tokens) + room) // self.page_size)
        self.requests[fork] = Request(
            list(request.tokens),
            request.namespace,
            n_table,
            request.n_computed,
            request.n_shared,
        )
        self._relock()

    def grow(self, lease: Lease, n_tokens: int) -> tuple | None:
        """None if `grow` will do, which then has happened; else needed, free,
        evictable.
        """
        request = self.requests[lease]
        n_table = -(-(len(request.tokens) + n_tokens) // self.page_size)
        n_own = n_table - request.n_table
        if n_own <= 0:
            return None
        if n_own > self.n_free + self.cache.n_evictable:
            return n_own, self.n_free, self.cache.n_evictable
        self.cache.evict(max(0, n_own - self.n_free))
        request.n_table = n_table
        return None

    def finish(self, lease: Lease) -> None:
        """End a request and keep what it computed."""
        self.commit(lease)
        self.cancel(lease)

    def cancel(self, lease: Lease) -> None:
        """End a request."""
        del self.requests[lease]
        self._relock()

    def _take(self, n_pages: int, own: Prefix) -> None:
        """Evict for `n_pages` while the prefix `own` is locked."""
        self.cache.locks.append(own)
        self.cache.evict(max(0, n_pages - self.n_free))
        self.cache.locks.pop()

    def _relock(self) -> None:
        self.cache.locks = [
            (r.namespace, tuple(r.tokens[: r.n_shared * self.page_size]))
            for r in self.requests.values()
        ]


# ── Looking at the library from outside ───────────────────────────────────────────────


def path_of(node: TreeNode) -> Prefix:
    """The namespace and all tokens from the root to the end of a node."""
    tokens: list[int] = []
    at: TreeNode | None = node
    while at is not None:
        tokens[:0] = unpack_tokens(at.key)
        at = at.parent
    return node.namespace, tuple(tokens)


def contents(tree: RadixTree) -> dict[Prefix, int]:
    """Every prefix in the tree at a page boundary, and the page that ends it."""
    found = {}
    for node in tree.nodes():
        namespace, tokens = path_of(node)
        for i, page in enumerate(reversed(node.pages.tolist())):
            found[namespace, tokens[: len(tokens) - i * tree.page_size]] = page
    return found


def history(cache: RadixCache) -> dict[Prefix, tuple[int, int, int]]:
    """When every page in the cache was made and last used, and how often it was hit."""
    at = {path_of(node): node for node in cache.nodes()}
    found = {}
    for prefix in contents(cache):
        namespace, tokens = prefix
        ends = [
            end for end in at if end[0] == namespace and end[1][: len(tokens)] == tokens
        ]
        # the first node to end at or after it
        node = at[min(ends, key=lambda end: len(end[1]))]
        found[prefix] = node.created, node.last_access, node.hits
    return found


def remembered(oracle: PrefixOracle) -> dict[Prefix, int]:
    """What `contents` should be."""
    return {prefix: page.id for prefix, page in oracle.pages.items()}


def remembered_history(oracle: PrefixOracle) -> dict[Prefix, tuple[int, int, int]]:
    """What `history` should be."""
    return {
        p: (page.created, page.last_use, page.hits) for p, page in oracle.pages.items()
    }


def shape(tree: RadixTree) -> list[tuple]:
    """The nodes as (namespace, tokens from the root, page ids), parents first."""
    return [(*path_of(node), tuple(node.pages.tolist())) for node in tree.nodes()]


def heap_order(cache: RadixCache) -> list[tuple]:
    """The live entries of the eviction heap, first to go first: (priority, path)."""
    live = [entry for entry in cache._heap._entries if entry[2].entry == entry[1]]
    return [
        (priority, path_of(node))
        for priority, _, node in sorted(live, key=lambda e: e[:2])
    ]


def snapshot(thing: Any) -> Any:
    """All that a call must leave as it was when it refuses, as plain values to compare.

    The clock of a cache is left out: it may tick, since only the order of its ticks has
    a meaning.
    """
    if isinstance(thing, PageManager):
        return thing.ref_counts.tolist(), thing._free[: thing.n_free].tolist()
    if isinstance(thing, Router):
        leases = [
            (
                id(x),
                x.key,
                x.page_table.tolist(),
                id(x.node),
                x.n_cached,
                x.n_computed,
                x.n_shared,
            )
            for x in thing.leases
        ]
        return snapshot(thing.cache), leases
    tree = [shape(thing), list(thing.roots)]
    if isinstance(thing, RadixCache):
        uses = [(n.lock_ref, n.last_access, n.created, n.hits) for n in thing.nodes()]
        sizes = thing.n_evictable, thing.n_locked
        tree += [uses, sizes, heap_order(thing), snapshot(thing.page_manager)]
    return tree


def check_contents(memory: Memory, tree: RadixTree) -> None:
    """Every page in the tree holds what the tree says it holds."""
    for (namespace, tokens), page in contents(tree).items():
        for i in range(tree.page_size):
            due = (namespace, tokens[: len(tokens) - tree.page_size + i + 1])
            assert memory.written.get((page, i)) == due, (
                f"page {page} does not hold {due}"
            )


def check_heap(cache: RadixCache) -> None:
    """What `check_integrity` cannot see: no priority in the heap is out of date."""
    for priority, serial, node in cache._heap._entries:
        if node.entry == serial:
            due = cache._heap._priority(node)
            assert priority == due, (
                f"a priority in the heap is out of date: {priority}, not {due}"
            )


def check_cache(cache: RadixCache) -> None:
    """All that must hold between two calls of a cache."""
    cache.check_integrity()
    cache.page_manager.check_integrity()
    check_heap(cache)


def check_router(router: Router, memory: Memory | None = None) -> None:
    """All that must hold between two calls of a router, in whatever state its requests
    are.
    """
    router.check_integrity()
    check_heap(router.cache)
    assert sum(router.usage()) == router.page_manager.n_pages
    assert min(router.usage()) >= 0
    for node in router.cache.nodes():
        # else evicting it would free nothing, and `evictable` would lie
        if node.lock_ref == 0:
            counts = router.page_manager.ref_counts[node.pages]
            assert (counts == 1).all(), "a page that may be evicted is held by a lease"
    in_tree = contents(router.cache)
    for lease in router.leases:
        for prefix in range(lease.n_shared):
            tokens = tuple(lease.tokens[: (prefix + 1) * router.page_size])
            page = in_tree.get((lease.namespace, tokens))
            assert page == lease.page_table[prefix], (
                "what a lease shares is not the tree's"
            )
        assert (
            lease.n_shared
            <= lease.n_computed // router.page_size
            <= len(lease.page_table)
        )
        assert len(path_of(lease.node)[1]) >= lease.n_shared * router.page_size
        table = lease.page_table.tolist()
        assert len(set(table)) == len(table), "a page table lists a page twice"
        if memory is not None:
            memory.check(lease)
    if memory is not None:
        check_contents(memory, router.cache)


def check_idle(router: Router) -> None:
    """Nothing is held when every request has ended, and all of the pool can be had
    again.
    """
    check_router(router)
    usage = router.usage()
    assert not router.leases
    assert usage.locked == usage.private == 0
    router.cache.evict(router.cache.n_evictable)
    check_router(router)
    assert router.usage().free == router.page_manager.n_pages
    assert not router.cache.roots, "an empty namespace was kept"


# ── Traces that collide ───────────────────────────────────────────────────────────────


def spell(words: Sequence[int], tail: int, page_size: int) -> list[int]:
    """Token ids from a few page-long words, 0 to 2, and a tail shorter than a page.

    Words 0 and 1 differ in their last token alone, so keys often part inside a page,
    and where they part a page has a first token in common with its sibling.

    >>> spell([0, 1, 2], 1, page_size=2)
    [0, 0, 0, 1, 2, 0, 0]
    """
    alphabet = [
        [0] * page_size,
        [0] * (page_size - 1) + [1],
        [2] + [0] * (page_size - 1),
    ]
    return [token for word in words for token in alphabet[word]] + [0] * (
        tail % page_size
    )


#: Arguments for `spell`, before the page size is known.
WORDS = st.lists(st.sampled_from([0, 0, 0, 1, 2]), max_size=7)
TAILS = st.integers(0, 15)
NAMESPACES = st.sampled_from([None, ("salt", "adapter")])
PAGE_SIZES = st.sampled_from([1, 2, 16])

#: The same examples on every run, so that a red build says the same everywhere.
QUICK = settings(
    max_examples=100,
    stateful_step_count=50,
    derandomize=True,
    deadline=None,
    database=None,
)
LONG = settings(QUICK, max_examples=500, stateful_step_count=80)

#: What no token id may be; each is to be named in the error.
BAD_TOKENS = [-1, 2**32, 1.5, "a", None]
