"""Chapter 05: the router, the control plane of the cache. The life of a request.

    admit:   match ── lock ── evict if short ── allocate     → a Lease
    (the executor computes what the lease lacks, and writes K/V into its pages)
    commit:  insert whole computed pages ── take over the tree's where it had them
    finish:  insert ── unlock ── release;       cancel: unlock ── release

The tree and the page tables are what is true; all else follows from them, and is worked
out anew when a call is interrupted half-way. Source: SGLang 0.5.9,
`mem_cache/radix_cache.py` (`cache_finished_req`, `cache_unfinished_req`) and
`managers/schedule_batch.py` (one token is left).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from operator import index
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from radix_lib.page_manager import OutOfPages
from radix_lib.radix_cache import RadixCache, Usage
from radix_lib.radix_tree import (
    NO_PAGES,
    TOKEN_BYTES,
    Match,
    Pages,
    pack_tokens,
    unpack_tokens,
)


class Namespace(NamedTuple):
    """Who may share: requests with another salt or another adapter never share a page.

    A tuple, not a joined string: ("a", "bc") is not ("ab", "c").
    """

    salt: str = ""
    adapter: str = ""


class Lease:
    """What one request holds: its tokens, a page table that has room for them, a locked
    path.

    `n_cached` tokens were found in the tree; K/V exist for the first `n_computed`; the
    first `n_shared` pages of `page_table` are the tree's. A `with` finishes it, an
    exception cancels it.
    """

    def __init__(
        self,
        router: Router,
        key: bytes,
        namespace: Hashable,
        page_table: Pages,
        match: Match,
    ):
        self.router = router
        self.key = key
        self.namespace = namespace
        self.page_table = page_table
        self.node = match.node
        self.n_shared = len(match.pages)
        self.n_cached = self.n_computed = self.n_shared * router.page_size

    @property
    def n_tokens(self) -> int:
        """How many tokens the request has: the prompt and what was appended."""
        return len(self.key) // TOKEN_BYTES

    @property
    def tokens(self) -> list[int]:
        """The token ids."""
        return unpack_tokens(self.key)

    @property
    def pending(self) -> list[int]:
        """The token ids whose K/V are not computed yet."""
        return unpack_tokens(self.key[self.n_computed * TOKEN_BYTES :])

    def append(self, *tokens: int) -> None:
        """Add generated tokens. Raises ValueError where its pages are full."""
        key = self.key + self.router.checked_key(tokens)
        room = len(self.page_table) * self.router.page_size
        if len(key) > room * TOKEN_BYTES:
            raise ValueError(
                f"room for {room} tokens was admitted: ask for more max_new_tokens"
            )
        self.key = key

    def advance(self, n_tokens: int) -> None:
        """Say that K/V of the next `n_tokens` exist now. Raises ValueError past the
        end.
        """
        if not 0 <= index(n_tokens) <= self.n_tokens - self.n_computed:
            left = self.n_tokens - self.n_computed
            raise ValueError(
                f"{n_tokens} tokens cannot have been computed: {left} were missing"
            )
        self.n_computed += n_tokens

    def __enter__(self) -> Self:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        try:
            if self in self.router.leases:  # else it was finished or cancelled inside
                (self.router.cancel if error else self.router.finish)(self)
        except BaseException:
            self.router.drop(self)
            raise


class Router:
    """Admits requests to a `RadixCache` and sees each of them through to its end.

    >>> from radix_lib.page_manager import PageManager
    >>> router = Router(RadixCache(PageManager(n_pages=8, page_size=2)))
    >>> with router.admit([1, 2, 3, 4, 5]) as lease:
    ...     lease.advance(5)               # an executor computed all of it
    >>> router.admit([1, 2, 3, 4]).n_cached    # one token is always left to compute
    2
    """

    def __init__(
        self,
        cache: RadixCache,
        *,
        vocab_size: int = 2**32,
        max_tokens: int | None = None,
    ):
        self.cache = cache
        self.page_manager = cache.page_manager
        self.page_size = cache.page_size
        self.vocab_size = vocab_size
        pool = self.page_manager.n_pages * self.page_size
        self.max_tokens = pool if max_tokens is None else min(pool, max_tokens)
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens is at least 1, not {max_tokens}")
        self.leases: dict[Lease, None] = {}  # a set that keeps its order

    def match_prefix(
        self, tokens: Sequence[int] | bytes, namespace: Hashable = None
    ) -> Match:
        """The longest cached prefix that may be used: one token is left, for its
        logits.
        """
        return self.cache.match(pack_tokens(tokens)[:-TOKEN_BYTES], namespace)

    def admit(
        self,
        tokens: Sequence[int] | bytes,
        namespace: Hashable = None,
        max_new_tokens: int = 0,
    ) -> Lease:
        """Find what is cached of `tokens`, lock it, and allocate pages for everything
        else.

        Raises ValueError for a request that could never run, and OutOfPages for one
        that has to wait; either way nothing has changed.
        """
        key = self.checked_key(tokens)
        n_pages = self._pages_for(len(key) // TOKEN_BYTES, max_new_tokens)
        self._check_room(n_pages, key, namespace)
        try:
            lease = self._hold(
                self.match_prefix(key, namespace), n_pages, key, namespace
            )
            self.leases[lease] = None
        except BaseException:
            self.repair()
            raise
        return lease

    def commit(self, lease: Lease) -> None:
        """Share what is computed so far: its whole pages enter the tree and are locked
        there.

        Where the tree had pages for them already, the lease takes those over and frees
        its own.
        """
        self.check_live(lease)
        n_pages = lease.n_computed // self.page_size
        if n_pages <= lease.n_shared:
            return
        try:
            match = self._insert(lease)
            self.cache.lock(match.node)
            self.cache.unlock(lease.node)
            lease.node = match.node
            known = slice(lease.n_shared, lease.n_shared + len(match.pages))
            duplicates = lease.page_table[known].copy()
            self.page_manager.retain(match.pages)
            lease.page_table[known] = match.pages
            self.page_manager.release(duplicates)
            lease.n_shared = n_pages
        except BaseException:
            self.repair()
            raise

    insert_prefix = commit  # its name in the earlier write-up of chapter 06

    def fork(self, lease: Lease, max_new_tokens: int = 0) -> Lease:
        """A second lease on the same tokens, with room of its own for `max_new_tokens`
        more.

        Whole computed pages are committed and shared. If a page is computed in part,
        the caller has to copy that page, `page_table[n_shared]` of the lease, to the
        same place of the fork. Raises ValueError or OutOfPages as `admit` does.
        """
        self.check_live(lease)
        n_pages = self._pages_for(lease.n_tokens, max_new_tokens)
        n_own, free = (
            n_pages - lease.n_computed // self.page_size,
            self.page_manager.n_free,
        )
        if n_own > free + self.cache.n_evictable:
            raise OutOfPages(n_own, free, self.cache.n_evictable)
        self.commit(lease)
        try:
            match = Match(lease.page_table[: lease.n_shared], lease.node)
            fork = self._hold(match, n_pages, lease.key, lease.namespace)
            fork.n_computed = lease.n_computed
            self.leases[fork] = None
        except BaseException:
            self.repair()
            raise
        return fork

    def grow(self, lease: Lease, n_tokens: int = 1) -> None:
        """Make room in a lease for `n_tokens` more, with as many pages as that takes.

        Raises ValueError past the most that a request may have, and OutOfPages where it
        would have to wait; either way nothing has changed. Built in chapter 08.
        """
        self.check_live(lease)
        n_own = self._pages_for(lease.n_tokens, n_tokens) - len(lease.page_table)
        if n_own <= 0:
            return
        n_free = self.page_manager.n_free
        if n_own > n_free + self.cache.n_evictable:
            raise OutOfPages(n_own, n_free, self.cache.n_evictable)
        try:
            if n_own > n_free:
                self.cache.evict(n_own - n_free)
            own = self.page_manager.allocate(n_own)
            lease.page_table = np.concatenate((lease.page_table, own))
        except BaseException:
            self.repair()
            raise

    def finish(self, lease: Lease) -> None:
        """End a request: what is computed stays in the tree, everything else is
        freed.
        """
        self._end(lease, keep=True)

    def cancel(self, lease: Lease) -> None:
        """End a request, keeping only what was committed."""
        self._end(lease, keep=False)

    def _end(self, lease: Lease, keep: bool) -> None:
        self.check_live(lease)
        try:
            if keep and lease.n_computed // self.page_size > lease.n_shared:
                self._insert(lease)
            self.cache.unlock(lease.node)
            self.page_manager.release(lease.page_table)
            del self.leases[lease]
        except BaseException:
            self.drop(lease)  # the request is over, even when its end is interrupted
            raise

    def drop(self, lease: Lease) -> None:
        """Forget a lease, whatever state an interruption left it in; its own pages are
        freed.
        """
        self.leases.pop(lease, None)
        self.repair()

    def checked_key(self, tokens: Sequence[int] | bytes) -> bytes:
        """Pack token ids. Raises ValueError, naming it, for one that the vocabulary
        lacks.
        """
        key = pack_tokens(tokens)
        if key and (largest := np.frombuffer(key, np.uint32).max()) >= self.vocab_size:
            raise ValueError(
                f"token id {largest} is not below the vocabulary's {self.vocab_size}"
            )
        return key

    def _pages_for(self, n_tokens: int, max_new_tokens: int) -> int:
        total = n_tokens + index(max_new_tokens)
        if n_tokens < 1 or max_new_tokens < 0 or total > self.max_tokens:
            raise ValueError(
                f"tokens: {n_tokens}, room for more: {max_new_tokens}. A request has at least one "
                f"token, room for 0 or more, and at most {self.max_tokens} in all (model and pool)"
            )
        return self.page_manager.pages_for(total)

    def check_live(self, lease: Lease) -> None:
        """Raise ValueError if the lease was finished or cancelled, or is another
        router's.
        """
        if lease not in self.leases:
            raise ValueError(
                "this lease is not live here: it was finished or cancelled before"
            )

    def _check_room(self, n_pages: int, key: bytes, namespace: Hashable) -> None:
        free, evictable = self.page_manager.n_free, self.cache.n_evictable
        if n_pages <= free + evictable:
            return  # it fits even if nothing of it is cached
        for node, n_common in self.cache.walk(key[:-TOKEN_BYTES], namespace):
            n_pages -= n_common
            if node.lock_ref == 0:
                evictable -= n_common  # the request will lock these itself
        if n_pages > free + evictable:
            raise OutOfPages(n_pages, free, evictable)

    def _insert(self, lease: Lease) -> Match:
        """Give the tree every whole page whose K/V exist, below those of the lease that
        it has.
        """
        start, end = lease.n_shared, lease.n_computed // self.page_size
        key = lease.key[start * self.cache.page_bytes : end * self.cache.page_bytes]
        return self.cache.insert_below(lease.node, key, lease.page_table[start:])

    def _hold(
        self, match: Match, n_pages: int, key: bytes, namespace: Hashable
    ) -> Lease:
        """Make the lease of a match: locked, counted, and with own pages up to
        `n_pages`.
        """
        self.cache.lock(match.node)
        self.page_manager.retain(match.pages)
        n_own = n_pages - len(match.pages)
        if n_own > self.page_manager.n_free:
            self.cache.evict(n_own - self.page_manager.n_free)
        own = self.page_manager.allocate(n_own)
        return Lease(self, key, namespace, np.concatenate((match.pages, own)), match)

    def usage(self) -> Usage:
        """Where the pages of the pool are now."""
        others = self.page_manager.n_free, self.cache.n_evictable, self.cache.n_locked
        return Usage(*others, self.page_manager.n_pages - sum(others))

    def repair(self) -> None:
        """Work out the rest anew from what is true: the tree, and the leases' page
        tables.
        """
        for lease in self.leases:
            lease.node, lease.n_shared = self.cache.match(b"", lease.namespace).node, 0
            computed = lease.key[: lease.n_computed * TOKEN_BYTES]
            for node, n_common in self.cache.walk(computed, lease.namespace):
                if n_common == len(node.pages):  # as an interrupted commit was about to
                    end = lease.n_shared + n_common
                    lease.page_table[lease.n_shared : end] = node.pages
                    lease.node, lease.n_shared = node, end
        self.page_manager.rebuild(self._count_holders())
        self.cache.rebuild(lease.node for lease in self.leases)

    def _count_holders(self) -> NDArray[np.int32]:
        counts = np.zeros(self.page_manager.n_pages, np.int32)
        for node in self.cache.nodes():
            counts[node.pages] += 1
        for lease in self.leases:
            counts[lease.page_table] += 1
        return counts

    def check_integrity(self) -> None:
        """Raise AssertionError if tree, pages and leases do not add up to the pool."""
        self.page_manager.check_integrity()
        counts = self.page_manager.ref_counts
        assert (counts == self._count_holders()).all(), (
            "a page's count is not its holders' number"
        )
        self.cache.check_integrity(lease.node for lease in self.leases)
        in_tree = np.concatenate(
            [NO_PAGES, *(node.pages for node in self.cache.nodes())]
        )
        private = np.count_nonzero(counts) - len(in_tree)
        assert private == self.usage().private, (
            "free + unlocked + locked + private ≠ pool"
        )
