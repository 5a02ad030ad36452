"""What the router has to do, done the slow and obvious way.

`RouterOracle` adds requests to the `PrefixOracle` that the course shares with these
tests.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from radix_lib.router import Lease
from radix_lib.teaching.checks.oracle import Prefix, PrefixOracle


@dataclass
class Request:
    """A request as the oracle sees it."""

    tokens: list[int]
    namespace: Hashable
    n_table: int  # pages in its page table
    n_computed: int  # tokens whose K/V exist
    n_shared: int  # pages at the front of its page table that are the tree's


class RouterOracle:
    """Requests over a `PrefixOracle`, by counting, keyed by the router's leases."""

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
        """Fork and return None, or the pages needed, free and evictable if too few."""
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
        """Grow and return None, or the pages needed, free and evictable if too few."""
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
