"""Chapter 03: the page manager. Physical pages for K/V, and who holds them.

`PageManager` is bookkeeping alone: page ids, reference counts and a free list in integer arrays.
`KVPool` is memory alone: one tensor for all layers. They share nothing but the meaning of a page
id, so the control plane runs without a tensor.

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
    """More pages were asked for than there are: `needed`, `free` and `evictable` say how many."""

    def __init__(self, needed: int, free: int, evictable: int = 0):
        super().__init__(
            f"{needed} pages needed, but {free} are free and {evictable} can be evicted: wait "
            "for a request to finish, or make the pool larger"
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
        """Start again from `ref_counts`, one number a page: whatever nobody holds is free."""
        self.ref_counts = ref_counts
        # A stack: its first `n_free` entries are free, and the last of them goes out next.
        self._free = np.zeros(self.n_pages, np.int64)
        unheld = np.flatnonzero(ref_counts == 0)[::-1]
        self.n_free = len(unheld)
        self._free[: self.n_free] = unheld

    def pages_for(self, n_tokens: int) -> int:
        """How many pages `n_tokens` take; the last may be partly empty."""
        return -(-n_tokens // self.page_size)

    def allocate(self, n_pages: int) -> Pages:
        """Take `n_pages` free pages, each with one holder. Raises OutOfPages, taking none."""
        if n_pages > self.n_free:
            raise OutOfPages(n_pages, self.n_free)
        left = self.n_free - n_pages
        pages = self._free[left : self.n_free][::-1].copy()
        self.n_free = left
        self.ref_counts[pages] = 1
        return pages

    def retain(self, pages: Pages) -> None:
        """Add a holder to each of `pages`. Raises ValueError if one of them is free."""
        counts = self._held(pages)
        self.ref_counts[pages] = counts + 1

    def release(self, pages: Pages) -> None:
        """Take a holder from each of `pages`; those without any are free. No page may repeat.

        Raises ValueError if one of them is free already.
        """
        counts = self._held(pages) - 1
        self.ref_counts[pages] = counts
        n_freed = len(pages) - int(np.count_nonzero(counts))
        if n_freed:
            self._free[self.n_free : self.n_free + n_freed] = pages[counts == 0][::-1]
            self.n_free += n_freed

    def _held(self, pages: Pages) -> NDArray[np.int32]:
        counts = self.ref_counts[pages]
        if np.count_nonzero(counts) < len(pages):  # a third of the time that `all` takes
            raise ValueError(f"page {pages[counts == 0][0]} is free: nobody holds it")
        return counts

    def check_integrity(self) -> None:
        """Raise AssertionError if the free list and the counts do not tell the same story."""
        free = self._free[: self.n_free]
        assert (self.ref_counts >= 0).all(), "a count is negative"
        assert len(np.unique(free)) == self.n_free, "a page is on the free list twice"
        assert (self.ref_counts[free] == 0).all(), "a page on the free list has a holder"
        assert self.n_free == int((self.ref_counts == 0).sum()), "a page without holder is lost"


class KVPool:
    """The K/V of every page of every layer, in one tensor that is allocated once.

    `data` is [layers, 2, kv_heads, n_pages, page_size, head_dim]; index 0 of the second axis is K,
    1 is V. Heads come before pages so that one gather gives what attention reads, without a copy
    to transpose it. A page id addresses the same page in every layer.
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

        # Zeros, not garbage: a padded row may read any page, and 0 × NaN would be NaN.
        shape = (n_layers, 2, kv_heads, n_pages, page_size, head_dim)
        self.data = torch.zeros(shape, dtype=dtype, device=device)
        self.page_size = page_size

    def get_page(self, layer: int, page: int) -> torch.Tensor:
        """K and V of one page in one layer, [2, kv_heads, page_size, head_dim]: a view, no copy."""
        return self.data[layer, :, :, page]

    def write(self, layer: int, slots: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> None:
        """Store `k` and `v`, each [kv_heads, tokens, head_dim], at `slots`, [tokens].

        The slot of a token is its page id × page_size + its place in the page.
        """
        flat = self.data[layer].flatten(2, 3)  # [2, kv_heads, slots, head_dim]
        flat[0].index_copy_(1, slots, k)
        flat[1].index_copy_(1, slots, v)

    def gather(self, layer: int, page_table: torch.Tensor) -> torch.Tensor:
        """K and V of the pages listed, [2, kv_heads, len(page_table) × page_size, head_dim]."""
        return self.data[layer].index_select(2, page_table).flatten(2, 3)

    def copy_page(self, source: int, target: int) -> None:
        """Copy one page in all layers, as copy-on-write needs."""
        self.data[:, :, :, target] = self.data[:, :, :, source]
