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

import gc
from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from radix_lib.guard import Guarded
from radix_lib.lease import Lease as Lease
from radix_lib.page_manager import OutOfPages
from radix_lib.radix_cache import RadixCache, Usage
from radix_lib.radix_tree import (
    TOKEN_BYTES,
    Match,
    Pages,
    check_namespace,
    pack_tokens,
    whole_number,
)


class Namespace(NamedTuple):
    """Who may share: requests with another salt or another adapter never share a page.

    A tuple, not a joined string: ("a", "bc") is not ("ab", "c").
    """

    salt: str = ""
    adapter: str = ""


class Router(Guarded):
    """Admits requests to a `RadixCache` and sees each of them through to its end.

    Its public calls are atomic: another thread waits until a call is over. A finaliser
    that runs in the middle of one may finish or cancel a request, which is done when
    the call is over; any other call raises RuntimeError, but for `usage` and
    `check_integrity`, which see the books as they stand just then. All of this holds as
    long as the cache and its page manager are changed through the router alone.

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
        super().__init__()
        self.cache = cache
        self.page_manager = cache.page_manager
        self.page_size = cache.page_size
        self.vocab_size = whole_number(vocab_size, "vocab_size", least=1)
        self.max_tokens = self.page_manager.n_pages * self.page_size
        if max_tokens is not None:
            limit = whole_number(max_tokens, "max_tokens", least=1)
            self.max_tokens = min(limit, self.max_tokens)
        self.leases: dict[Lease, None] = {}  # a set that keeps its order

    def match_prefix(
        self, tokens: Sequence[int] | bytes, namespace: Hashable = None
    ) -> Match:
        """The longest cached prefix that may be used: one token is left for its logits.

        It is not locked: the next call may evict it.
        """
        key = pack_tokens(tokens)
        return self._alone(lambda: self._match(key, namespace))

    def admit(
        self,
        tokens: Sequence[int] | bytes,
        namespace: Hashable = None,
        max_new_tokens: int = 0,
    ) -> Lease:
        """Find what is cached of `tokens`, lock it, and allocate pages for the rest.

        Raises ValueError for a request that could never run, and OutOfPages for one
        that has to wait; either way nothing has changed. Before it says OutOfPages it
        has Python collect its garbage, if that may hold the `with` block of a lease.
        """
        key = self.checked_key(tokens)
        n_pages = self._pages_for(len(key) // TOKEN_BYTES, max_new_tokens)
        if namespace is not None:
            check_namespace(namespace)
        lease = Lease(self, key, namespace)
        try:
            self._with_pages(lambda: self._admit(lease, n_pages))
        except BaseException:
            self.drop(lease)  # it may have been interrupted on its way to the caller
            raise
        return lease

    def commit(self, lease: Lease) -> None:
        """Share what is computed so far: its whole pages enter the tree, locked.

        Where the tree had pages for them already, the lease takes those over and frees
        its own.
        """
        self._alone(lambda: self._commit(lease))

    insert_prefix = commit  # its name in the write-up that this course grew out of

    def fork(self, lease: Lease, max_new_tokens: int = 0) -> Lease:
        """A second lease on the same tokens, with room of its own for `max_new_tokens`.

        Whole computed pages are committed and shared. If a page is computed in part,
        the caller has to copy that page, `page_table[n_shared]` of the lease, to the
        same place of the fork. Raises ValueError or OutOfPages as `admit` does.
        """
        self.check_live(lease)
        n_pages = self._pages_for(lease.n_tokens, max_new_tokens)
        fork = Lease(self, lease.key, lease.namespace)
        try:
            self._with_pages(lambda: self._fork(lease, fork, n_pages))
        except BaseException:
            self.drop(fork)
            raise
        return fork

    def grow(self, lease: Lease, n_tokens: int = 1) -> None:
        """Make room in a lease for `n_tokens` more, with as many pages as that takes.

        Raises ValueError past the most that a request may have, and OutOfPages where it
        would have to wait; either way nothing has changed. Built in chapter 08.
        """
        self.check_live(lease)
        n_tokens = whole_number(n_tokens, "n_tokens")
        n_pages = self._pages_for(lease.n_tokens, n_tokens)
        self._with_pages(lambda: self._grow(lease, n_pages))

    def has_room(
        self, tokens: Sequence[int] | bytes, namespace: Hashable, n_pages: int
    ) -> bool:
        """Whether `n_pages` could be had, if what is cached of `tokens` is among them.

        What an admission would lock cannot be evicted for it. One look into the tree,
        which counts as no use of it. Built in chapter 08.
        """
        key = pack_tokens(tokens)
        try:
            self._alone(lambda: self._check_room(n_pages, key, namespace))
        except OutOfPages:
            return False
        return True

    def finish(self, lease: Lease) -> None:
        """End a request: what is computed stays in the tree, everything else is freed.

        Different by design: its path counts as used now only if a page enters the tree.
        SGLang, vLLM and TensorRT-LLM mark it at every end. Played through recorded and
        made traffic, ours finds no less.
        """
        self.check_live(lease)
        self._alone(lambda: self._end(lease, keep=True), or_later=True)

    def cancel(self, lease: Lease) -> None:
        """End a request, keeping only what was committed."""
        self.check_live(lease)
        self._alone(lambda: self._end(lease, keep=False), or_later=True)

    def drop(self, lease: Lease) -> None:
        """Cancel a request, unless it has ended."""
        if lease in self.leases:
            self.cancel(lease)

    def flush(self) -> None:
        """Forget all that is cached, as is due after a change of weights.

        Raises RuntimeError, forgetting nothing, while requests run.
        """
        if self.leases:
            self._collect()
        self._alone(self._flush)

    def repair(self) -> None:
        """Put the books right after a change of the cache that was interrupted.

        The router's own calls do so themselves.
        """
        self._alone(self._repair)

    def usage(self) -> Usage:
        """Where the pages of the pool are now."""
        with self._lock:
            free = self.page_manager.n_free
            unlocked = self.cache.n_evictable
            locked = self.cache.n_locked
        private = self.page_manager.n_pages - free - unlocked - locked
        return Usage(free, unlocked, locked, private)

    def checked_key(self, tokens: Sequence[int] | bytes) -> bytes:
        """Pack token ids. Raises ValueError for one that the vocabulary lacks."""
        key = pack_tokens(tokens)
        if key:
            ids = np.frombuffer(key, np.uint32)
            largest = ids.item(ids.argmax())  # a third of the time that `max` takes
            if largest >= self.vocab_size:
                raise ValueError(
                    f"token id {largest} is not below the vocabulary's "
                    f"{self.vocab_size}"
                )
        return key

    def check_live(self, lease: Lease) -> None:
        """Raise ValueError if the lease has ended, is another router's, or is none."""
        if not isinstance(lease, Lease):
            raise ValueError(f"a lease is what admit and fork return, not {lease!r}")
        if lease not in self.leases:
            raise ValueError(
                "this lease is not live here: it was finished or cancelled before"
            )

    def check_integrity(self) -> None:
        """Raise AssertionError if tree, pages and leases do not add up to the pool."""
        with self._lock:
            self.page_manager.check_integrity()
            counts = self.page_manager.ref_counts
            assert (counts == self._count_holders()).all(), (
                "a page's count is not its holders' number"
            )
            self.cache.check_integrity(lease.node for lease in self.leases)
            in_tree = sum(len(node.pages) for node in self.cache.nodes())
            private = np.count_nonzero(counts) - in_tree
            assert private == self.usage().private, (
                "free + unlocked + locked + private ≠ pool"
            )

    def _pages_for(self, n_tokens: int, max_new_tokens: int) -> int:
        total = n_tokens + whole_number(max_new_tokens, "max_new_tokens")
        if n_tokens < 1 or total > self.max_tokens:
            raise ValueError(
                f"tokens: {n_tokens}, room for more: {max_new_tokens}. A request has "
                f"at least one token, and at most {self.max_tokens} in all (model and "
                "pool)"
            )
        return self.page_manager.pages_for(total)

    def _with_pages(self, call: Callable[[], None]) -> None:
        """Make a call that takes pages; if they are short, collect, and once more."""
        try:
            self._alone(call)
        except OutOfPages:
            if not self._collect():
                raise
            self._alone(call)

    def _collect(self) -> bool:
        """Have garbage collected if a `with` in it may hold a lease; did one end?"""
        entered = [lease for lease in list(self.leases) if lease.entered]
        if entered:
            gc.collect()
        return any(lease not in self.leases for lease in entered)

    def _admit(self, lease: Lease, n_pages: int) -> None:
        self._check_room(n_pages, lease.key, lease.namespace)
        try:
            self._hold(lease, self._match(lease.key, lease.namespace), n_pages)
        except BaseException:
            self._forget(lease)
            raise

    def _fork(self, lease: Lease, fork: Lease, n_pages: int) -> None:
        self.check_live(lease)
        self._check_own(n_pages - lease.n_computed // self.page_size)
        self._commit(lease)
        try:
            shared = Match(lease.page_table[: lease.n_shared], lease.node)
            self._hold(fork, shared, n_pages)
            fork.n_computed = lease.n_computed
        except BaseException:
            self._forget(fork)
            raise

    def _grow(self, lease: Lease, n_pages: int) -> None:
        self.check_live(lease)
        n_own = n_pages - len(lease.page_table)
        if n_own <= 0:
            return
        self._check_own(n_own)
        try:
            own = self._take(n_own)
            lease.page_table = np.concatenate((lease.page_table, own))
        except BaseException:
            self._repair()
            raise

    def _match(self, key: bytes, namespace: Hashable) -> Match:
        return self.cache.match(key[:-TOKEN_BYTES], namespace)

    def _check_room(self, n_pages: int, key: bytes, namespace: Hashable) -> None:
        free = self.page_manager.n_free
        evictable = self.cache.n_evictable
        if n_pages <= free + evictable:
            return  # it fits even if nothing of it is cached
        for node, n_common in self.cache.walk(key[:-TOKEN_BYTES], namespace):
            n_pages -= n_common
            if node.lock_ref == 0:
                evictable -= n_common  # the request will lock these itself
        if n_pages > free + evictable:
            raise OutOfPages(n_pages, free, evictable)

    def _check_own(self, n_pages: int) -> None:
        free = self.page_manager.n_free
        evictable = self.cache.n_evictable
        if n_pages > free + evictable:
            raise OutOfPages(n_pages, free, evictable)

    def _hold(self, lease: Lease, match: Match, n_pages: int) -> None:
        """Give a lease what was matched, locked and counted, and `n_pages` in all."""
        self.cache.lock(match.node)
        self.page_manager.retain(match.pages)
        lease.node = match.node
        lease.n_shared = len(match.pages)
        lease.n_cached = lease.n_computed = lease.n_shared * self.page_size
        own = self._take(n_pages - lease.n_shared)
        lease.page_table = np.concatenate((match.pages, own))
        self.leases[lease] = None

    def _take(self, n_pages: int) -> Pages:
        """Allocate pages, and evict as many as are short."""
        short = n_pages - self.page_manager.n_free
        if short > 0:
            self.cache.evict(short)
        return self.page_manager.allocate(n_pages)

    def _commit(self, lease: Lease) -> None:
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
            self._complete_commit(lease)
            self._repair()
            raise

    def _insert(self, lease: Lease) -> Match:
        """Give the tree every whole page that is computed, below those it has of it."""
        start = lease.n_shared
        end = lease.n_computed // self.page_size
        key = lease.key[start * self.cache.page_bytes : end * self.cache.page_bytes]
        return self.cache.insert_below(lease.node, key, lease.page_table[start:])

    def _end(self, lease: Lease, keep: bool) -> None:
        if lease not in self.leases:
            return  # it ended while this had to wait
        try:
            if keep and lease.n_computed // self.page_size > lease.n_shared:
                self._insert(lease)
            self.cache.unlock(lease.node)
            self.page_manager.release(lease.page_table)
            del self.leases[lease]
        except BaseException:
            self._forget(lease)  # the request is over, even when its end is interrupted
            raise

    def _flush(self) -> None:
        if self.leases:
            raise RuntimeError(
                f"still running: {len(self.leases)}; finish or cancel them"
            )
        try:
            self.cache.evict(self.cache.n_evictable)
        except BaseException:
            self._repair()
            raise

    def _forget(self, lease: Lease) -> None:
        """Forget a lease, whatever state an interruption left it in."""
        self.leases.pop(lease, None)
        self._repair()

    def _complete_commit(self, lease: Lease) -> None:
        """Take over what the tree has of a lease, as a commit was about to."""
        lease.node = self.cache.match(b"", lease.namespace).node
        lease.n_shared = 0
        computed = lease.key[: lease.n_computed * TOKEN_BYTES]
        for node, n_common in self.cache.walk(computed, lease.namespace):
            if n_common == len(node.pages):
                end = lease.n_shared + n_common
                lease.page_table[lease.n_shared : end] = node.pages
                lease.node = node
                lease.n_shared = end

    def _repair(self) -> None:
        """Work out the rest anew from what is true: the tree and the leases."""
        self.page_manager.rebuild(self._count_holders())
        self.cache.rebuild(lease.node for lease in self.leases)

    def _count_holders(self) -> NDArray[np.int32]:
        counts = np.zeros(self.page_manager.n_pages, np.int32)
        for node in self.cache.nodes():
            counts[node.pages] += 1
        for lease in self.leases:
            counts[lease.page_table] += 1
        return counts
