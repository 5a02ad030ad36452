"""Chapter 03: the check of the pool that you build, and those of the longer exercises.

Each takes what the reader wrote and raises AssertionError where it goes wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from radix_lib.page_manager import KVPool, OutOfPages, PageManager
from radix_lib.radix_tree import Pages

PAGE_SIZE = 4


def reads_back(pool_type: Callable[..., Any]) -> None:
    """What is written by slots is read by page table, and nothing else changes."""
    generator = torch.Generator().manual_seed(0)
    for pages in [[5, 0, 3], [2], [1, 4]]:
        pool = pool_type(2, 3, 4, n_pages=6, page_size=PAGE_SIZE)
        table = torch.tensor(pages)
        n_tokens = PAGE_SIZE * len(pages) - 1
        k, v = torch.randn(2, 3, n_tokens, 4, generator=generator)
        at = torch.arange(n_tokens)
        slots = table[at // PAGE_SIZE] * PAGE_SIZE + at % PAGE_SIZE
        pool.write(1, slots, k, v)
        read = pool.gather(1, table)[:n_tokens]
        assert torch.equal(read[:, 0].transpose(0, 1), k), "K is not what was written"
        assert torch.equal(read[:, 1].transpose(0, 1), v), "V is not what was written"
        page = pool.get_page(1, pages[0])[:, :, :3]
        same = torch.equal(page, torch.stack((k, v))[:, :, :3])
        assert same, "get_page shows something else"
        n_written = pool.data[1].count_nonzero()
        assert n_written == k.numel() + v.numel(), "another place was written"
        assert pool.data[0].count_nonzero() == 0, "another layer was written"


def forks_pages(fork: Callable[[PageManager, KVPool, Pages, int], Pages]) -> None:
    """`fork(manager, pool, pages, n_tokens)` shares whole pages and copies the tail.

    A fork that is refused for want of pages leaves all counts as they were.
    """
    for n_tokens in (8, 7, 3):
        _fork_once(fork, n_tokens)
    manager = PageManager(2, PAGE_SIZE)
    pages = manager.allocate(2)
    try:
        fork(manager, KVPool(2, 3, 4, 2, PAGE_SIZE), pages, 7)
    except OutOfPages:
        counts = manager.ref_counts.tolist()
        told = f"it was refused, and the counts are {counts}, not [1, 1]"
        assert counts == [1, 1], told
    else:
        raise AssertionError("there was no page for the copy, and nothing was raised")
    try:
        fork(manager, KVPool(2, 3, 4, 2, PAGE_SIZE), pages, 8)
    except OutOfPages as error:
        raise AssertionError(
            "8 tokens: no page is to be copied, none needed"
        ) from error


def _fork_once(
    fork: Callable[[PageManager, KVPool, Pages, int], Pages], n_tokens: int
) -> None:
    doing = f"{n_tokens} tokens"
    manager = PageManager(6, PAGE_SIZE)
    pool = KVPool(2, 3, 4, 6, PAGE_SIZE)
    pages = manager.allocate(manager.pages_for(n_tokens))
    before = torch.randn(pool.data[:, pages].shape)
    pool.data[:, pages] = before
    forked = fork(manager, pool, pages, n_tokens)
    same = torch.equal(pool.data[:, pages], before)
    assert same, f"{doing}: the request's own K/V changed"
    assert len(forked) == len(pages), f"{doing} on {len(forked)} pages"
    for i, (ours, theirs) in enumerate(zip(pages, forked, strict=True)):
        is_whole = i < n_tokens // PAGE_SIZE
        assert (ours == theirs) == is_whole, f"{doing}: is page {i} shared or not?"
        filled = slice(n_tokens - i * PAGE_SIZE)  # of the last page, a part
        same = torch.equal(pool.data[:, ours, filled], pool.data[:, theirs, filled])
        assert same, f"{doing}: the K/V on page {i} of the fork is not the request's"
    manager.release(pages)
    manager.release(forked)
    lost = 6 - manager.n_free
    assert lost == 0, f"{doing}: {lost} pages are never freed"


def keeps_page_0(keep_page_0: Callable[[PageManager], None]) -> None:
    """`keep_page_0(manager)` keeps page 0 back for good, or refuses if it is held."""
    manager = PageManager(n_pages=6, page_size=PAGE_SIZE)
    pages = manager.allocate(5)
    manager.release(pages[[2, 0, 3]])
    keep_page_0(manager)
    manager.check_integrity()
    counts = manager.ref_counts.tolist()
    due = [1, 1, 0, 0, 1, 0]
    assert counts == due, f"the counts are {counts}, not {due}"
    rest = manager.allocate(3)
    told = f"pages {rest} were handed out, not 2, 3 and 5"
    assert sorted(rest.tolist()) == [2, 3, 5], told
    manager.release(rest[:1])
    before = (manager.n_free, manager.ref_counts.tolist())
    try:
        keep_page_0(manager)
    except ValueError:
        after = (manager.n_free, manager.ref_counts.tolist())
        assert after == before, f"it was refused, and {before} became {after}"
        return
    raise AssertionError("page 0 is held, and nothing was raised")
