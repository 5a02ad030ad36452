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

from radix_lib.radix_tree import Pages, check_pages, whole_number

if TYPE_CHECKING:
    import torch

# As arrays: with 0 and 1 themselves numpy takes twice as long.
_NONE = np.array(0, np.int32)
_ONE = np.array(1, np.int32)


class OutOfPages(RuntimeError):
    """More pages were asked for than there are.

    `needed`, `free` and `evictable` say how many.
    """

    def __init__(self, needed: int, free: int, evictable: int = 0):
        super().__init__(
            f"pages needed: {needed}, free: {free}, evictable: {evictable}. "
            "Wait for a request to finish, or make the pool larger"
        )
        self.needed = needed
        self.free = free
        self.evictable = evictable


class PageManager:
    """Hands out page ids from 0 to `n_pages - 1` and counts the holders of each.

    A page is free exactly when its count is 0. Where pages are given, they are an array
    that lists none twice: to look for that in each call would slow a request down by a
    tenth. One thread at a time may use it: chapter 05's router sees to that.

    >>> manager = PageManager(n_pages=4, page_size=16)
    >>> pages = manager.allocate(2)
    >>> manager.retain(pages[:1]); manager.release(pages)
    >>> manager.n_free, manager.ref_counts.tolist()
    (3, [1, 0, 0, 0])
    """

    def __init__(self, n_pages: int, page_size: int = 16):
        self.n_pages = whole_number(n_pages, "n_pages", least=1)
        self.page_size = whole_number(page_size, "page_size", least=1)
        self.rebuild(np.zeros(self.n_pages, np.int32))

    def rebuild(self, ref_counts: NDArray[np.int32]) -> None:
        """Start anew from `ref_counts`, one a page: what nobody holds is free."""
        self.ref_counts = ref_counts
        # A stack: its first `n_free` entries are free, the last of them goes out next.
        self._free = np.zeros(self.n_pages, np.int64)
        unheld = np.flatnonzero(ref_counts == 0)[::-1]
        self.n_free = len(unheld)
        self._free[: self.n_free] = unheld

    def pages_for(self, n_tokens: int) -> int:
        """How many pages `n_tokens` take; the last may be partly empty."""
        return -(-n_tokens // self.page_size)

    def allocate(self, n_pages: int) -> Pages:
        """Take `n_pages` free pages, each with one holder.

        Raises OutOfPages, taking none, if there are fewer.
        """
        n_pages = whole_number(n_pages, "n_pages")
        if n_pages > self.n_free:
            raise OutOfPages(n_pages, self.n_free)
        left = self.n_free - n_pages
        pages = self._free[left : self.n_free][::-1].copy()
        self.n_free = left
        self.ref_counts[pages] = _ONE
        return pages

    def retain(self, pages: Pages) -> None:
        """Add a holder to each of `pages`. Raises ValueError as `held` does."""
        counts = self.held(pages)
        self.ref_counts[pages] = counts + _ONE

    def release(self, pages: Pages) -> None:
        """Take a holder from each of `pages`; those without any are free.

        Raises ValueError as `held` does.
        """
        counts = self.held(pages) - _ONE
        n_free = self.n_free + len(pages) - int(np.count_nonzero(counts))
        if n_free > self.n_pages:
            raise ValueError("more pages than there are: one is listed twice")
        if n_free > self.n_free:
            self._free[self.n_free : n_free] = pages[counts == _NONE][::-1]
        self.ref_counts[pages] = counts
        self.n_free = n_free

    def held(self, pages: Pages) -> NDArray[np.int32]:
        """The number of holders of each of `pages`.

        Raises ValueError if that is no array of page ids, or names a page that is free
        or does not exist.
        """
        try:
            # A negative id is one that numpy counts from the end. (`argmin` and
            # `count_nonzero` take a third of the time that `min` and `all` do.)
            lowest = pages.item(pages.argmin()) if len(pages) else 0
            counts = self.ref_counts[pages]
            if (
                lowest >= 0
                and np.count_nonzero(counts) == len(pages)
                and pages.ndim == 1
                and pages.dtype.kind != "b"
            ):
                return counts
        except (AttributeError, IndexError, TypeError):
            pass
        # Something is wrong, and there is time to say what.
        check_pages(pages)
        for page in pages:
            if not 0 <= page < self.n_pages:
                raise ValueError(
                    f"page {page} does not exist: there are 0 to {self.n_pages - 1}"
                )
            if self.ref_counts[page] == 0:
                raise ValueError(f"page {page} is free: nobody holds it")
        raise AssertionError("not one of them is to blame")

    def check_integrity(self) -> None:
        """Raise AssertionError if free list and counts do not tell the same story."""
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

        n_layers = whole_number(n_layers, "n_layers", least=1)
        kv_heads = whole_number(kv_heads, "kv_heads", least=1)
        head_dim = whole_number(head_dim, "head_dim", least=1)
        n_pages = whole_number(n_pages, "n_pages", least=1)
        page_size = whole_number(page_size, "page_size", least=1)
        shape = (n_layers, n_pages, page_size, 2, kv_heads, head_dim)
        self.data = torch.zeros(shape, dtype=dtype, device=device)
        self.page_size = page_size

    def get_page(self, layer: int, page: int) -> torch.Tensor:
        """K and V of one page in one layer, [2, kv_heads, page_size, head_dim].

        A view, no copy.
        """
        return self.data[layer, self.checked(page)].permute(1, 2, 0, 3)

    def write(
        self, layer: int, slots: torch.Tensor, k: torch.Tensor, v: torch.Tensor
    ) -> None:
        """Store `k` and `v`, each [kv_heads, tokens, head_dim], at `slots`, [tokens].

        The slot of a token is its page id × page_size + its place in the page. Raises
        ValueError, writing nothing, for K or V of another shape.
        """
        due = (self.data.shape[4], len(slots), self.data.shape[5])
        if k.shape != due or v.shape != due:
            raise ValueError(
                f"k has shape {tuple(k.shape)} and v {tuple(v.shape)}: for {len(slots)} "
                f"slots both have {due}"
            )
        by_slot = self.data[layer].flatten(0, 1)  # [slots, 2, kv_heads, head_dim]
        by_slot[:, 0].index_copy_(0, slots, k.transpose(0, 1))
        by_slot[:, 1].index_copy_(0, slots, v.transpose(0, 1))

    def gather(self, layer: int, page_table: torch.Tensor) -> torch.Tensor:
        """K and V of the pages listed, one after another.

        [len(page_table) × page_size, 2, kv_heads, head_dim].
        """
        return self.data[layer].index_select(0, page_table).flatten(0, 1)

    def copy_page(self, source: int, target: int) -> None:
        """Copy one page in all layers, as copy-on-write needs."""
        target = self.checked(target)
        self.data[:, target] = self.data[:, self.checked(source)]

    def clear_page(self, page: int) -> None:
        """Forget what a page holds, in all layers."""
        self.data[:, self.checked(page)] = 0

    def checked(self, page: int) -> int:
        """The id of a page. Raises ValueError if there is none: -1 is not the last."""
        page = whole_number(page, "a page id")
        n_pages = self.data.shape[1]
        if page >= n_pages:
            raise ValueError(
                f"page {page} does not exist: there are 0 to {n_pages - 1}"
            )
        return page
