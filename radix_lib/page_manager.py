"""Chapter 03: the page manager. Physical pages for K/V, and who holds them.

`PageManager` is bookkeeping alone: page ids, reference counts and a free list in
integer arrays. `KVPool` is memory alone: one tensor for all layers. They share nothing
but the meaning of a page id, so the control plane runs without a tensor.

Left out here: which tokens a page belongs to (chapters 02 and 04).
Source: SGLang 0.5.9, `mem_cache/allocator.py` and `mem_cache/memory_pool.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from radix_lib.radix_tree import Pages

if TYPE_CHECKING:
    import torch


class OutOfPages(RuntimeError):
    """More pages were asked for than there are: `needed`, `free` and `evictable` say
    how many.
    """

    def __init__(self, needed: int, free: int, evictable: int = 0):
        super().__init__(
            f"pages needed: {needed}, free: {free}, evictable: {evictable}. Wait for a request to "
            "finish, or make the pool larger"
        )
        self.needed, self.free, self.evictable = needed, free, evictable


class PageManager:
    """Hands out page ids from 0 to `n_pages - 1` and counts the holders of each.

    A page is free exactly when its count is 0.

    >>> manager = PageManager(n_pages=4, page_size=16)
    >>> pages = manager.allocate(2)
    >>> manager.retain(pages[:1]); manager.release(pages)
    >>> manager.n_free, manager.ref_counts.tolist()
    (3, [1, 0, 0, 0])
    """

    def __init__(self, n_pages: int, page_size: int = 16):
        if n_pages < 1 or page_size < 1:
            raise ValueError(
                f"a pool has at least 1 page of at least 1 token, not {n_pages} of {page_size}"
            )
        self.n_pages = n_pages
        self.page_size = page_size
        self.rebuild(np.zeros(n_pages, np.int32))

    def rebuild(self, ref_counts: NDArray[np.int32]) -> None:
        """Start again from `ref_counts`, one number a page: whatever nobody holds is
        free.
        """
        self.ref_counts = ref_counts
        # A stack: its first `n_free` entries are free, and the last of them goes out
        # next.
        self._free = np.zeros(self.n_pages, np.int64)
        unheld = np.flatnonzero(ref_counts == 0)[::-1]
        self.n_free = len(unheld)
        self._free[: self.n_free] = unheld

    def pages_for(self, n_tokens: int) -> int:
        """How many pages `n_tokens` take; the last may be partly empty."""
        return -(-n_tokens // self.page_size)

    def allocate(self, n_pages: int) -> Pages:
        """Take `n_pages` free pages, each with one holder. Raises OutOfPages, taking
        none.
        """
        if n_pages < 0:
            raise ValueError(f"{n_pages} pages cannot be allocated")
        if n_pages > self.n_free:
            raise OutOfPages(n_pages, self.n_free)
        left = self.n_free - n_pages
        pages = self._free[left : self.n_free][::-1].copy()
        self.n_free = left
        self.ref_counts[pages] = 1
        return pages

    def retain(self, pages: Pages) -> None:
        """Add a holder to each of `pages`. Raises ValueError if one of them is free."""
        counts = self.held(pages)
        self.ref_counts[pages] = counts + 1

    def release(self, pages: Pages) -> None:
        """Take a holder from each of `pages`; those without any are free. No page may
        repeat.

        Raises ValueError if one of them is free already.
        """
        counts = self.held(pages) - 1
        self.ref_counts[pages] = counts
        n_freed = len(pages) - int(np.count_nonzero(counts))
        if n_freed:
            self._free[self.n_free : self.n_free + n_freed] = pages[counts == 0][::-1]
            self.n_free += n_freed

    def held(self, pages: Pages) -> NDArray[np.int32]:
        """The number of holders of each of `pages`. Raises ValueError if one of them is
        free.
        """
        # numpy would count it from the end
        if len(pages) and pages[pages.argmin()] < 0:
            raise ValueError(f"page {pages.min()} does not exist")
        counts = self.ref_counts[pages]
        # a third of the time that `all` takes
        if np.count_nonzero(counts) < len(pages):
            raise ValueError(f"page {pages[counts == 0][0]} is free: nobody holds it")
        return counts

    def check_integrity(self) -> None:
        """Raise AssertionError if the free list and the counts do not tell the same
        story.
        """
        free = self._free[: self.n_free]
        assert (self.ref_counts >= 0).all(), "a count is negative"
        assert len(np.unique(free)) == self.n_free, "a page is on the free list twice"
        assert (self.ref_counts[free] == 0).all(), (
            "a page on the free list has a holder"
        )
        assert self.n_free == int((self.ref_counts == 0).sum()), (
            "a page without holder is lost"
        )


class KVPool:
    """The K/V of every page of every layer, in one tensor that is allocated once.

    `data` is [layers, n_pages, page_size, 2, kv_heads, head_dim]; index 0 of the fourth
    axis is K, 1 is V. What a page holds in a layer lies in one piece, so that gathering
    pages is copying a few large blocks, and attention reads the copy as it is. A page
    id addresses the same page in every layer.
    """

    def __init__(
        self,
        n_layers: int,
        kv_heads: int,
        head_dim: int,
        n_pages: int,
        page_size: int,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ):
        import torch  # only who stores K/V pays for the import

        shape = (n_layers, n_pages, page_size, 2, kv_heads, head_dim)
        self.data = torch.zeros(shape, dtype=dtype, device=device)
        self.page_size = page_size

    def get_page(self, layer: int, page: int) -> torch.Tensor:
        """K and V of one page in one layer, [2, kv_heads, page_size, head_dim]: a view,
        no copy.
        """
        return self.data[layer, page].permute(1, 2, 0, 3)

    def write(
        self, layer: int, slots: torch.Tensor, k: torch.Tensor, v: torch.Tensor
    ) -> None:
        """Store `k` and `v`, each [kv_heads, tokens, head_dim], at `slots`, [tokens].

        The slot of a token is its page id × page_size + its place in the page.
        """
        by_slot = self.data[layer].flatten(0, 1)  # [slots, 2, kv_heads, head_dim]
        by_slot[:, 0].index_copy_(0, slots, k.transpose(0, 1))
        by_slot[:, 1].index_copy_(0, slots, v.transpose(0, 1))

    def gather(self, layer: int, page_table: torch.Tensor) -> torch.Tensor:
        """K and V of the pages listed, [len(page_table) × page_size, 2, kv_heads,
        head_dim].
        """
        return self.data[layer].index_select(0, page_table).flatten(0, 1)

    def copy_page(self, source: int, target: int) -> None:
        """Copy one page in all layers, as copy-on-write needs."""
        self.data[:, target] = self.data[:, source]

    def clear_page(self, page: int) -> None:
        """Forget what a page holds, in all layers."""
        self.data[:, page] = 0
