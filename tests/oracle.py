"""What the cache has to do, done the slow and obvious way: no tree, no heap, no split.

`PrefixOracle` remembers every prefix that is a whole number of pages long, one by one, with the
page that holds its last `page_size` tokens. The longest match is the longest prefix remembered;
what may be evicted is what is not locked and not continued. `RouterOracle` adds requests.

`Memory` stands for the K/V pool: it remembers which prefix was written to which slot, so that a
page table that points to the wrong page, or to one that was given away, is seen at once.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st

from radix_lib.page_manager import PageManager
from radix_lib.radix_cache import RadixCache
from radix_lib.radix_tree import RadixTree, TreeNode, unpack_tokens
from radix_lib.router import Lease, Router

Prefix = tuple[Hashable, tuple[int, ...]]  # namespace, tokens


# ── The oracle ───────────────────────────────────────────────────────────────────────────────────


@dataclass
class Page:
    """One page of the cache: its id, and when it was used."""

    id: int
    created: int = 0
    last_use: int = 0
    hits: int = 0


#: The page with the smallest value goes first, among those that may go.
EVICTION_ORDER: dict[str, Callable[[Page], Any]] = {
    "lru": lambda page: page.last_use,
    "lfu": lambda page: (page.hits, page.last_use),
    "fifo": lambda page: page.created,
    "mru": lambda page: -page.last_use,
}


class PrefixOracle:
    """Every prefix seen, at page boundaries, and nothing cleverer."""

    def __init__(self, page_size: int, policy: str = "lru"):
        self.page_size = page_size
        self.policy = policy
        self.clock = 0
        self.pages: dict[Prefix, Page] = {}
        self.locks: list[Prefix] = []

    def prefixes(self, tokens: Sequence[int], namespace: Hashable) -> list[Prefix]:
        """All prefixes of `tokens` that are whole pages, shortest first."""
        ends = range(self.page_size, len(tokens) + 1, self.page_size)
        return [(namespace, tuple(tokens[:end])) for end in ends]

    def peek(self, tokens: Sequence[int], namespace: Hashable = None) -> list[int]:
        """The page ids of the longest prefix that is remembered."""
        found = []
        for prefix in self.prefixes(tokens, namespace):
            if prefix not in self.pages:
                break
            found.append(self.pages[prefix].id)
        return found

    def match(self, tokens: Sequence[int], namespace: Hashable = None) -> list[int]:
        """As `peek`, and the pages found count as used."""
        self.clock += 1
        found = self.peek(tokens, namespace)
        for prefix in self.prefixes(tokens, namespace)[: len(found)]:
            self.pages[prefix].last_use = self.clock
            self.pages[prefix].hits += 1
        return found

    def insert(
        self, tokens: Sequence[int], pages: Iterable[int], namespace: Hashable = None
    ) -> list[int]:
        """Remember all prefixes of `tokens`; return the pages of those remembered before."""
        self.clock += 1
        known = self.peek(tokens, namespace)
        for prefix, page in zip(self.prefixes(tokens, namespace), pages, strict=False):
            self.pages.setdefault(prefix, Page(page, created=self.clock)).last_use = self.clock
        return known

    def is_locked(self, prefix: Prefix) -> bool:
        """A prefix is locked with every longer one that is."""
        namespace, tokens = prefix
        return any(
            namespace == other and tokens == longer[: len(tokens)] for other, longer in self.locks
        )

    def may_go(self) -> list[Prefix]:
        """The prefixes that may be evicted now: not locked, and not continued by another."""
        continued = {(space, tokens[: -self.page_size]) for space, tokens in self.pages}
        return [p for p in self.pages if p not in continued and not self.is_locked(p)]

    def evict(self, n_pages: int) -> list[int]:
        """Forget `n_pages`, one after another, and return their ids."""
        evicted = []
        for _ in range(n_pages):
            first = min(self.may_go(), key=lambda p: EVICTION_ORDER[self.policy](self.pages[p]))
            evicted.append(self.pages.pop(first).id)
        return evicted

    @property
    def n_locked(self) -> int:
        """How many pages are locked."""
        return sum(self.is_locked(prefix) for prefix in self.pages)

    @property
    def n_evictable(self) -> int:
        """How many pages are not: all of them can go, the last of each prefix first."""
        return len(self.pages) - self.n_locked

    def contents(self) -> dict[Prefix, int]:
        """What is remembered, and where."""
        return {prefix: page.id for prefix, page in self.pages.items()}

    def history(self) -> dict[Prefix, tuple[int, int, int]]:
        """When every page was made and last used, and how often it was hit."""
        return {p: (page.created, page.last_use, page.hits) for p, page in self.pages.items()}


@dataclass
class Request:
    """A request as the oracle sees it."""

    tokens: list[int]
    namespace: Hashable
    n_table: int  # pages in its page table
    n_computed: int  # tokens whose K/V exist
    n_shared: int  # pages at the front of its page table that are the tree's


class RouterOracle:
    """Requests over a `PrefixOracle`, by counting. Keyed by the leases that the router gave."""

    def __init__(self, page_size: int, n_pages: int, policy: str):
        self.page_size = page_size
        self.n_pages = n_pages
        self.cache = PrefixOracle(page_size, policy)
        self.requests: dict[Lease, Request] = {}

    @property
    def n_private(self) -> int:
        """Pages held by a request and not in the tree."""
        return sum(request.n_table - request.n_shared for request in self.requests.values())

    @property
    def n_free(self) -> int:
        """Pages that nobody holds."""
        return self.n_pages - len(self.cache.pages) - self.n_private

    def usage(self) -> tuple[int, int, int, int]:
        """Free, unlocked, locked and private pages."""
        return self.n_free, self.cache.n_evictable, self.cache.n_locked, self.n_private

    def shortage(self, tokens: Sequence[int], namespace: Hashable, room: int) -> tuple | None:
        """None if `admit` will do; else the pages needed, free and evictable."""
        usable = self.cache.prefixes(tokens[:-1], namespace)
        found = usable[: len(self.cache.peek(tokens[:-1], namespace))]
        needed = -(-(len(tokens) + room) // self.page_size) - len(found)
        # What the request will lock itself, it cannot evict.
        evictable = self.cache.n_evictable - sum(not self.cache.is_locked(p) for p in found)
        return None if needed <= self.n_free + evictable else (needed, self.n_free, evictable)

    def admit(self, lease: Lease, tokens: list[int], namespace: Hashable, room: int) -> int:
        """Admit a request; returns how many of its tokens were cached."""
        n_shared = len(self.cache.match(tokens[:-1], namespace))
        n_table = -(-(len(tokens) + room) // self.page_size)
        cached = n_shared * self.page_size
        self._take(n_table - n_shared, (namespace, tuple(tokens[:cached])))
        self.requests[lease] = Request(list(tokens), namespace, n_table, cached, n_shared)
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
        """None if `fork` will do, which then has happened; else needed, free, evictable."""
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
            list(request.tokens), request.namespace, n_table, request.n_computed, request.n_shared
        )
        self._relock()

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


# ── The memory ───────────────────────────────────────────────────────────────────────────────────


@dataclass
class Memory:
    """Which prefix was written last to each slot of each page: K/V without the numbers.

    K and V of a token depend on it and on all tokens before it, so a slot is right for a request
    exactly when the prefix that was written there is the request's own.
    """

    page_size: int
    written: dict[tuple[int, int], Prefix] = field(default_factory=dict)

    def compute(self, lease: Lease, n_tokens: int | None = None) -> None:
        """Do what an executor does: write the next tokens' slots, then say so."""
        first = lease.n_computed
        count = lease.n_tokens - first if n_tokens is None else n_tokens
        self.write(lease, range(first, first + count))
        lease.advance(count)

    def write(self, lease: Lease, positions: Iterable[int]) -> None:
        """Write the K/V of a request's tokens at `positions`."""
        for position in positions:
            self.written[self._slot(lease, position)] = self._due(lease, position)

    def copy_page(self, source: int, target: int) -> None:
        """Copy one page."""
        for i in range(self.page_size):
            if (source, i) in self.written:
                self.written[target, i] = self.written[source, i]

    def check(self, lease: Lease) -> None:
        """All K/V that a lease says it has are there, and are its own."""
        for position in range(lease.n_computed):
            found = self.written.get(self._slot(lease, position))
            due = self._due(lease, position)
            assert found == due, f"position {position} reads the K/V of {found}, not of {due}"

    def check_contents(self, tree: RadixTree) -> None:
        """Every page in the tree holds what the tree says it holds."""
        for (namespace, tokens), page in contents(tree).items():
            for i in range(self.page_size):
                due = (namespace, tokens[: len(tokens) - self.page_size + i + 1])
                assert self.written.get((page, i)) == due, f"page {page} does not hold {due}"

    def _slot(self, lease: Lease, position: int) -> tuple[int, int]:
        page, place = divmod(position, self.page_size)
        return int(lease.page_table[page]), place

    def _due(self, lease: Lease, position: int) -> Prefix:
        return lease.namespace, tuple(lease.tokens[: position + 1])


# ── Looking at the library from outside ──────────────────────────────────────────────────────────


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
        ends = [end for end in at if end[0] == namespace and end[1][: len(tokens)] == tokens]
        node = at[min(ends, key=lambda end: len(end[1]))]  # the first node to end at or after it
        found[prefix] = node.created, node.last_access, node.hits
    return found


def shape(tree: RadixTree) -> list[tuple]:
    """The nodes as (namespace, tokens from the root, page ids), parents first."""
    return [(*path_of(node), tuple(node.pages.tolist())) for node in tree.nodes()]


def heap_order(cache: RadixCache) -> list[tuple]:
    """The live entries of the eviction heap, first to go first: (priority, path)."""
    live = [entry for entry in cache._heap._entries if entry[2].entry == entry[1]]
    return [(priority, path_of(node)) for priority, _, node in sorted(live, key=lambda e: e[:2])]


def snapshot(thing: Any) -> Any:
    """All that a call must leave as it was when it refuses, as plain values to compare.

    The clock of a cache is left out: it may tick, since only the order of its ticks has a meaning.
    """
    if isinstance(thing, PageManager):
        return thing.ref_counts.tolist(), thing._free[: thing.n_free].tolist()
    if isinstance(thing, Router):
        leases = [
            (id(x), x.key, x.page_table.tolist(), id(x.node), x.n_cached, x.n_computed, x.n_shared)
            for x in thing.leases
        ]
        return snapshot(thing.cache), leases
    tree = [shape(thing), list(thing.roots)]
    if isinstance(thing, RadixCache):
        uses = [(n.lock_ref, n.last_access, n.created, n.hits) for n in thing.nodes()]
        sizes = thing.n_evictable, thing.n_locked
        tree += [uses, sizes, heap_order(thing), snapshot(thing.page_manager)]
    return tree


def check_heap(cache: RadixCache) -> None:
    """What `check_integrity` cannot see: no priority in the heap is out of date."""
    for priority, serial, node in cache._heap._entries:
        if node.entry == serial:
            due = cache._heap._priority(node)
            assert priority == due, f"a priority in the heap is out of date: {priority}, not {due}"


def check_cache(cache: RadixCache) -> None:
    """All that must hold between two calls of a cache."""
    cache.check_integrity()
    cache.page_manager.check_integrity()
    check_heap(cache)


def check_router(router: Router, memory: Memory | None = None) -> None:
    """All that must hold between two calls of a router, in whatever state its requests are."""
    router.check_integrity()
    check_heap(router.cache)
    assert sum(router.usage()) == router.page_manager.n_pages
    assert min(router.usage()) >= 0
    for node in router.cache.nodes():
        if node.lock_ref == 0:  # else evicting it would free nothing, and `evictable` would lie
            counts = router.page_manager.ref_counts[node.pages]
            assert (counts == 1).all(), "a page that may be evicted is held by a lease"
    in_tree = contents(router.cache)
    for lease in router.leases:
        for prefix in range(lease.n_shared):
            tokens = tuple(lease.tokens[: (prefix + 1) * router.page_size])
            page = in_tree.get((lease.namespace, tokens))
            assert page == lease.page_table[prefix], "what a lease shares is not the tree's"
        assert lease.n_shared <= lease.n_computed // router.page_size <= len(lease.page_table)
        assert len(path_of(lease.node)[1]) >= lease.n_shared * router.page_size
        table = lease.page_table.tolist()
        assert len(set(table)) == len(table), "a page table lists a page twice"
        if memory is not None:
            memory.check(lease)
    if memory is not None:
        memory.check_contents(router.cache)


def check_idle(router: Router) -> None:
    """Nothing is held when every request has ended, and all of the pool can be had again."""
    check_router(router)
    usage = router.usage()
    assert not router.leases
    assert usage.locked == usage.private == 0
    router.cache.evict(router.cache.n_evictable)
    check_router(router)
    assert router.usage().free == router.page_manager.n_pages
    assert not router.cache.roots, "an empty namespace was kept"


# ── Traces that collide ──────────────────────────────────────────────────────────────────────────


def spell(words: Sequence[int], tail: int, page_size: int) -> list[int]:
    """Token ids from a few page-long words, 0 to 2, and a tail shorter than a page.

    Words 0 and 1 differ in their last token alone, so keys often part inside a page, and where
    they part a page has a first token in common with its sibling.

    >>> spell([0, 1, 2], 1, page_size=2)
    [0, 0, 0, 1, 2, 0, 0]
    """
    alphabet = [[0] * page_size, [0] * (page_size - 1) + [1], [2] + [0] * (page_size - 1)]
    return [token for word in words for token in alphabet[word]] + [0] * (tail % page_size)


#: Arguments for `spell`, before the page size is known.
WORDS = st.lists(st.sampled_from([0, 0, 0, 1, 2]), max_size=7)
TAILS = st.integers(0, 15)
NAMESPACES = st.sampled_from([None, ("salt", "adapter")])
PAGE_SIZES = st.sampled_from([1, 2, 16])

#: The same examples on every run, so that a red build says the same everywhere.
QUICK = settings(
    max_examples=100, stateful_step_count=50, derandomize=True, deadline=None, database=None
)
LONG = settings(QUICK, max_examples=500, stateful_step_count=80)

#: What no token id may be; each is to be named in the error.
BAD_TOKENS = [-1, 2**32, 1.5, "a", None]
