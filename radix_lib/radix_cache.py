"""Chapter 04: the radix cache, a tree whose pages are counted, locked and evicted.

The tree is a holder of each of its pages, like any lease. A node that a request relies
on is locked, together with the path to it; what is not locked may be evicted, leaves
first.

Left out here: the life of a request (chapter 05). Source: SGLang 0.5.9,
`mem_cache/radix_cache.py`. Different by design: eviction takes pages from the end of a
leaf, as many as are needed, where SGLang drops whole leaves.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from radix_lib.eviction import EvictionHeap
from radix_lib.page_manager import OutOfPages, PageManager
from radix_lib.radix_tree import (
    NO_PAGES,
    Match,
    Pages,
    RadixTree,
    TreeNode,
    whole_number,
)


class CacheNode(TreeNode):
    """A tree node with its locks, and with what a policy asks.

    `lock_ref` is the number of leases whose path crosses it. A node that was evicted
    has neither tokens nor pages.
    """

    __slots__ = ("lock_ref", "last_access", "created", "hits", "entry")
    parent: CacheNode | None

    def __init__(
        self, key: bytes, pages: Pages, parent: TreeNode | None, namespace: Hashable
    ):
        super().__init__(key, pages, parent, namespace)
        self.lock_ref = 0
        self.last_access = 0
        self.created = 0
        self.hits = 0
        self.entry = 0

    def split(self, n_pages: int, page_bytes: int) -> Any:
        """As in the tree. Whoever holds the lower part holds the upper one as well."""
        upper: Any = super().split(n_pages, page_bytes)
        upper.lock_ref = self.lock_ref
        upper.last_access = self.last_access
        upper.created = self.created
        upper.hits = self.hits
        return upper


class Usage(NamedTuple):
    """Every page of the pool is in exactly one of these; together they are the pool."""

    free: int
    unlocked: int  # in the tree, can be evicted
    locked: int  # in the tree, in use
    private: int  # held by a lease, not in the tree


class RadixCache(RadixTree):
    """A `RadixTree` over the pages of a `PageManager`, with locks and eviction.

    `n_evictable` and `n_locked` count the pages of unlocked and of locked nodes. One
    thread at a time may use it: chapter 05's router sees to that, and to finalisers.

    >>> manager = PageManager(n_pages=4, page_size=2)
    >>> cache = RadixCache(manager)
    >>> pages = manager.allocate(2)
    >>> _ = cache.insert([1, 2, 3, 4], pages)   # now the tree holds them too
    >>> manager.release(pages)
    >>> cache.evict(1).tolist()
    [1]
    >>> cache.match([1, 2, 3, 4]).pages.tolist(), manager.n_free
    ([0], 3)
    """

    node_type = CacheNode

    def __init__(self, page_manager: PageManager, policy: str = "lru"):
        super().__init__(page_manager.page_size)
        self.page_manager = page_manager
        self.n_evictable = self.n_locked = 0
        self._clock = 0
        self._heap = EvictionHeap(policy)

    def match(self, tokens: Sequence[int] | bytes, namespace: Hashable = None) -> Match:
        """As in the tree; the path is marked as used now."""
        self._clock += 1
        match = super().match(tokens, namespace)
        self._touch(match.node, hits=1)
        return match

    def insert(
        self, tokens: Sequence[int] | bytes, pages: Pages, namespace: Hashable = None
    ) -> Match:
        """As in the tree, which becomes a holder of the pages that it takes.

        Raises ValueError, as `PageManager.held` does, if one of `pages` is free.
        """
        self.page_manager.held(pages)
        return super().insert(tokens, pages, namespace)

    def insert_below(self, node: Any, key: bytes, pages: Pages) -> Match:
        """As in the tree; the whole path is marked as used now."""
        self._clock += 1
        match = super().insert_below(node, key, pages)
        self._touch(match.node, hits=0)
        return match

    def lock(self, node: CacheNode) -> None:
        """Protect `node` and the path to it from eviction. Roots have none to protect.

        Raises ValueError if the node was evicted. It has to be one of this cache: to
        walk up and look for its root first would cost as much again.
        """
        if node.parent is not None and not node.key:
            raise ValueError("this node was evicted: match again, and lock at once")
        at = node
        while at.parent is not None:
            if at.lock_ref == 0:
                n_pages = len(at.pages)
                self.n_evictable -= n_pages
                self.n_locked += n_pages
                self._heap.discard(at)
            at.lock_ref += 1
            at = at.parent

    def unlock(self, node: CacheNode) -> None:
        """Take back one `lock`. Raises ValueError if the node is not locked."""
        if node.parent is not None and node.lock_ref == 0:
            raise ValueError(
                f"a node of {len(node.pages)} pages is not locked: unlocked twice?"
            )
        at = node
        while at.parent is not None:
            at.lock_ref -= 1
            if at.lock_ref == 0:
                n_pages = len(at.pages)
                self.n_evictable += n_pages
                self.n_locked -= n_pages
                if not at.children:
                    self._heap.add(at)
            at = at.parent

    def evict(self, n_pages: int) -> Pages:
        """Take `n_pages` out of the tree, in the policy's order, and return their ids.

        Raises OutOfPages, evicting none, if fewer can be evicted.
        """
        n_pages = whole_number(n_pages, "n_pages")
        if n_pages > self.n_evictable:
            raise OutOfPages(n_pages, self.page_manager.n_free, self.n_evictable)
        evicted = [NO_PAGES]
        while n_pages > 0:
            leaf = self._heap.pop()
            taken = min(n_pages, len(leaf.pages))
            evicted.append(leaf.pages[len(leaf.pages) - taken :])
            self._shorten(leaf, len(leaf.pages) - taken)
            self.n_evictable -= taken
            n_pages -= taken
        pages = np.concatenate(evicted)
        self.page_manager.release(pages)
        return pages

    def rebuild(self, locked: Iterable[CacheNode]) -> None:
        """Work out anew all that follows from the tree and from the nodes locked.

        `locked` has one entry a lease.
        """
        self._heap.clear()
        for root in [root for root in self.roots.values() if not root.children]:
            del self.roots[root.namespace]
        self.n_evictable = self.n_locked = 0
        for node in self.nodes():
            node.lock_ref = node.entry = 0
            self.n_evictable += len(node.pages)
            if not node.children:
                self._heap.add(node)
        for node in locked:
            self.lock(node)

    def check_integrity(self, holders: Iterable[CacheNode] | None = None) -> None:
        """Raise AssertionError if an invariant of tree, locks or sizes is broken.

        With `holders`, the nodes that are locked, one entry a lease, the locks are
        counted too.
        """
        super().check_integrity()
        if holders is not None:
            crossing: Counter[CacheNode] = Counter()
            for at in holders:
                while at.parent is not None:
                    crossing[at] += 1
                    at = at.parent
            assert all(node.lock_ref == crossing[node] for node in self.nodes()), (
                "a node's locks are not the number of leases that cross it"
            )
        evictable = locked = leaves = 0
        for node in self.nodes():
            assert (self.page_manager.ref_counts[node.pages] > 0).all(), (
                "the tree lists a free page"
            )
            assert all(
                child.lock_ref <= node.lock_ref for child in node.children.values()
            ), "a locked node hangs below one that is not"
            if node.lock_ref:
                locked += len(node.pages)
            else:
                evictable += len(node.pages)
            waiting = not node.children and not node.lock_ref
            assert bool(node.entry) == waiting, (
                "the heap holds other nodes than evictable leaves"
            )
            leaves += waiting
        assert (evictable, locked) == (self.n_evictable, self.n_locked), (
            "the sizes are wrong"
        )
        assert leaves == len(self._heap), "the heap has lost count"

    def _shorten(self, leaf: CacheNode, keep: int) -> None:
        """Leave the first `keep` pages of a leaf; with 0, its parent may become one."""
        if keep:
            kept = leaf.pages[:keep].copy()  # a view would keep all of them in memory
            leaf.key = leaf.key[: keep * self.page_bytes]
            leaf.pages = kept
            self._heap.add(leaf)
            return
        parent = leaf.parent
        assert parent is not None
        del parent.children[leaf.key[: self.page_bytes]]
        # Emptied: an entry of the heap that is out of date may hold the node for long.
        leaf.key = b""
        leaf.pages = NO_PAGES
        if parent.children:
            return
        if parent.parent is None:
            del self.roots[parent.namespace]  # what holds nothing costs nothing
        elif parent.lock_ref == 0:
            self._heap.add(parent)

    def _add_leaf(self, parent: Any, key: bytes, pages: Pages) -> Any:
        self.page_manager.retain(pages)
        leaf = super()._add_leaf(parent, key, pages)
        leaf.created = leaf.last_access = self._clock
        self.n_evictable += len(pages)
        self._heap.discard(parent)  # it is a leaf no more
        self._heap.add(leaf)
        return leaf

    def _touch(self, node: CacheNode, hits: int) -> None:
        is_new = node.last_access == self._clock
        at = node
        while at.parent is not None:
            at.last_access = self._clock
            at.hits += hits
            at = at.parent
        # an evictable leaf has a new place in the policy's order
        if node.entry and not is_new:
            self._heap.add(node)
