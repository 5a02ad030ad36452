"""What the router has to do, done the slow and obvious way.

`RouterOracle` adds requests to the `PrefixOracle` that the course shares with these
tests. It is told of a call when the call is over, since it cannot know which of the
free pages were handed out: it reads them off the lease, and looks that they were free.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from radix_lib.radix_tree import unpack_tokens
from radix_lib.router import Lease, Router
from radix_lib.teaching.checks.oracle import Prefix, PrefixOracle

#: The pages needed, free and evictable, where they are too few.
Shortage = tuple[int, int, int]


@dataclass
class Request:
    """A request as the oracle sees it."""

    tokens: list[int]
    namespace: Hashable
    table: list[int]  # the pages of its page table
    n_cached: int  # tokens that were found when it came
    n_computed: int  # tokens whose K/V exist
    n_shared: int  # pages at the front of its page table that are the tree's


class InTree(NamedTuple):
    """A prefix in the tree."""

    page: int  # where the K/V of its last tokens are
    lock_ref: int  # how many requests rely on it
    created: int  # these three say when it is evicted
    last_access: int
    hits: int


class RouterOracle:
    """Requests over a `PrefixOracle`, by counting, keyed by the router's leases."""

    def __init__(self, page_size: int, n_pages: int, policy: str):
        self.page_size = page_size
        self.n_pages = n_pages
        self.cache = PrefixOracle(page_size, policy)
        self.requests: dict[Lease, Request] = {}
        self.n_evicted = 0

    @property
    def n_private(self) -> int:
        """Pages held by a request and not in the tree."""
        return sum(len(r.table) - r.n_shared for r in self.requests.values())

    @property
    def n_free(self) -> int:
        """Pages that nobody holds."""
        return self.n_pages - len(self.cache.pages) - self.n_private

    def usage(self) -> tuple[int, int, int, int]:
        """Free, unlocked, locked and private pages."""
        return self.n_free, self.cache.n_evictable, self.cache.n_locked, self.n_private

    # ── What is too much ──────────────────────────────────────────────────────────────

    def shortage(
        self, tokens: Sequence[int], namespace: Hashable, room: int
    ) -> Shortage | None:
        """None if `admit` will do; else the pages needed, free and evictable."""
        return self.lack(self._n_pages(len(tokens) + room), tokens, namespace)

    def lack(
        self, n_pages: int, tokens: Sequence[int], namespace: Hashable
    ) -> Shortage | None:
        """None if there is room for `n_pages`, with what is cached of `tokens`."""
        usable = self.cache.prefixes(tokens[:-1], namespace)
        found = usable[: len(self.cache.peek(tokens[:-1], namespace))]
        # What the request will lock itself, it cannot evict.
        n_idle = sum(not self.cache.is_locked(prefix) for prefix in found)
        evictable = self.cache.n_evictable - n_idle
        return self._short(n_pages - len(found), evictable)

    def fork_shortage(self, lease: Lease, room: int) -> Shortage | None:
        """None if `fork` will do."""
        request = self.requests[lease]
        n_own = self._n_pages(len(request.tokens) + room)
        n_own -= request.n_computed // self.page_size
        return self._short(n_own, self.cache.n_evictable)

    def grow_shortage(self, lease: Lease, n_tokens: int) -> Shortage | None:
        """None if `grow` will do."""
        n_own = self._n_missing(self.requests[lease], n_tokens)
        return self._short(n_own, self.cache.n_evictable)

    # ── The life of a request ─────────────────────────────────────────────────────────

    def admit(
        self, lease: Lease, tokens: list[int], namespace: Hashable, room: int
    ) -> int:
        """Admit a request; returns how many of its tokens were cached."""
        found = self.cache.match(tokens[:-1], namespace)
        n_cached = len(found) * self.page_size
        n_own = self._n_pages(len(tokens) + room) - len(found)
        own = self._take(lease, n_own, (namespace, tuple(tokens[:n_cached])))
        self.requests[lease] = Request(
            list(tokens), namespace, found + own, n_cached, n_cached, len(found)
        )
        self._relock()
        return n_cached

    def hear(self, lease: Lease) -> None:
        """Take note of tokens that were appended to a lease."""
        request = self.requests[lease]
        tokens = lease.tokens
        assert tokens[: len(request.tokens)] == request.tokens, "a token was changed"
        request.tokens = tokens

    def compute(self, lease: Lease, start: int, tokens: Sequence[int]) -> None:
        """Take note of tokens that were computed, from place `start` on."""
        request = self.requests[lease]
        assert start == request.n_computed, "what was computed leaves a gap"
        request.n_computed += len(tokens)
        known = request.tokens[start : request.n_computed]
        assert list(tokens[: len(known)]) == known, "other tokens were computed"
        request.tokens += tokens[len(known) :]

    def commit(self, lease: Lease) -> None:
        """What is computed enters the cache, in whole pages."""
        request = self.requests[lease]
        n_pages = request.n_computed // self.page_size
        if n_pages > request.n_shared:
            computed = request.tokens[: n_pages * self.page_size]
            self.cache.insert(computed, request.table, request.namespace)
            request.table[:n_pages] = self.cache.peek(computed, request.namespace)
            request.n_shared = n_pages
            self._relock()

    def fork(self, lease: Lease, fork: Lease, room: int) -> None:
        """Commit what is computed, and go on from it in a second lease."""
        self.commit(lease)
        request = self.requests[lease]
        n_shared = request.n_shared
        shared = tuple(request.tokens[: n_shared * self.page_size])
        n_own = self._n_pages(len(request.tokens) + room) - n_shared
        own = self._take(fork, n_own, (request.namespace, shared))
        self.requests[fork] = Request(
            list(request.tokens),
            request.namespace,
            request.table[:n_shared] + own,
            len(shared),
            request.n_computed,
            n_shared,
        )
        self._relock()

    def grow(self, lease: Lease, n_tokens: int) -> None:
        """Give a request room for more."""
        request = self.requests[lease]
        n_own = self._n_missing(request, n_tokens)
        request.table += self._take(lease, n_own)

    def finish(self, lease: Lease) -> None:
        """End a request and keep what it computed."""
        self.commit(lease)
        self.cancel(lease)

    def cancel(self, lease: Lease) -> None:
        """End a request."""
        del self.requests[lease]
        self._relock()

    def flush(self) -> None:
        """Forget all that is cached."""
        assert not self.requests, "a flush while requests run"
        self._evict(self.cache.n_evictable)

    # ── What must be the same ─────────────────────────────────────────────────────────

    def check(self, router: Router) -> None:
        """Raise AssertionError unless pages, counts, locks and leases are as here."""
        assert router.usage() == self.usage(), "the pages are elsewhere"
        assert list(router.leases) == list(self.requests), "others are running"
        for lease, request in self.requests.items():
            self._check_lease(lease, request)
        assert _in_tree(router) == self._in_tree(), "the tree holds something else"
        counts = router.page_manager.ref_counts.tolist()
        assert counts == self._ref_counts(), "the reference counts are others"

    def _check_lease(self, lease: Lease, request: Request) -> None:
        table = lease.page_table.tolist()
        assert table == request.table, f"the page table is {table}, not {request.table}"
        found = lease.n_cached, lease.n_computed, lease.n_shared
        due = request.n_cached, request.n_computed, request.n_shared
        assert found == due, f"cached, computed, shared: {found}, not {due}"

    def _in_tree(self) -> dict[Prefix, InTree]:
        locks = Counter(
            prefix
            for namespace, tokens in self.cache.locks
            for prefix in self.cache.prefixes(tokens, namespace)
        )
        return {
            prefix: InTree(
                page.id, locks[prefix], page.created, page.last_use, page.hits
            )
            for prefix, page in self.cache.pages.items()
        }

    def _ref_counts(self) -> list[int]:
        """How many hold each page: the cache, and page tables."""
        counts = [0] * self.n_pages
        for page in self.cache.pages.values():
            counts[page.id] += 1
        for request in self.requests.values():
            for number in request.table:
                counts[number] += 1
        return counts

    # ── Pages ─────────────────────────────────────────────────────────────────────────

    def _n_pages(self, n_tokens: int) -> int:
        return -(-n_tokens // self.page_size)

    def _n_missing(self, request: Request, n_tokens: int) -> int:
        due = self._n_pages(len(request.tokens) + n_tokens)
        return max(0, due - len(request.table))

    def _short(self, n_pages: int, evictable: int) -> Shortage | None:
        if n_pages <= self.n_free + evictable:
            return None
        return n_pages, self.n_free, evictable

    def _take(self, lease: Lease, n_pages: int, own: Prefix | None = None) -> list[int]:
        """The last `n_pages` of a lease, evicted for it while `own` was locked."""
        if own is not None:
            self.cache.locks.append(own)
        self._evict(max(0, n_pages - self.n_free))
        if own is not None:
            self.cache.locks.pop()
        counts = self._ref_counts()
        taken = lease.page_table[len(lease.page_table) - n_pages :].tolist()
        assert len(set(taken)) == n_pages, f"too few pages, or one twice: {taken}"
        for page in taken:
            assert counts[page] == 0, f"page {page} was handed out, and is in use"
        return taken

    def _evict(self, n_pages: int) -> None:
        self.n_evicted += len(self.cache.evict(n_pages))

    def _relock(self) -> None:
        self.cache.locks = [
            (r.namespace, tuple(r.tokens[: r.n_shared * self.page_size]))
            for r in self.requests.values()
        ]


def _in_tree(router: Router) -> dict[Prefix, InTree]:
    """What a router's tree has of every prefix."""
    found: dict[Prefix, InTree] = {}
    page_size = router.page_size
    ends: dict[object, list[int]] = {}  # the tokens up to the end of a node
    for node in router.cache.nodes():
        tokens = ends.get(node.parent, []) + unpack_tokens(node.key)
        ends[node] = tokens
        above = len(tokens) - len(node.pages) * page_size
        uses = node.lock_ref, node.created, node.last_access, node.hits
        for i, page in enumerate(node.pages.tolist(), start=1):
            prefix = tuple(tokens[: above + i * page_size])
            found[node.namespace, prefix] = InTree(page, *uses)
    return found
