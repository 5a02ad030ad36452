"""Chapter 03: right answers to its exercises pass their checks, wrong ones do not."""

from __future__ import annotations

import numpy as np
import pytest

from radix_lib.page_manager import KVPool
from radix_lib.teaching import forks_pages, keeps_page_0, reads_back


def test_the_library_s_pool_reads_back():
    reads_back(KVPool)


class SwapsKAndV(KVPool):
    def write(self, layer, slots, k, v):
        super().write(layer, slots, v, k)


class WritesAllLayers(KVPool):
    def write(self, layer, slots, k, v):
        super().write(0, slots, k, v)
        super().write(layer, slots, k, v)


class ReadsInPoolOrder(KVPool):
    def gather(self, layer, page_table):
        return super().gather(layer, page_table.sort().values)


@pytest.mark.parametrize(
    ("pool", "told"),
    [
        (SwapsKAndV, "K is not what was written"),
        (WritesAllLayers, "another layer was written"),
        (ReadsInPoolOrder, "K is not what was written"),
    ],
)
def test_a_broken_pool_is_told(pool, told):
    with pytest.raises(AssertionError, match=told):
        reads_back(pool)


def fork(manager, pool, pages, n_tokens):
    n_whole = n_tokens // manager.page_size
    own = manager.allocate(len(pages) - n_whole)
    manager.retain(pages[:n_whole])
    for source, target in zip(pages[n_whole:], own, strict=True):
        pool.copy_page(int(source), int(target))
    return np.concatenate((pages[:n_whole], own))


def fork_that_retains_first(manager, pool, pages, n_tokens):
    n_whole = n_tokens // manager.page_size
    manager.retain(pages[:n_whole])
    own = manager.allocate(len(pages) - n_whole)
    for source, target in zip(pages[n_whole:], own, strict=True):
        pool.copy_page(int(source), int(target))
    return np.concatenate((pages[:n_whole], own))


def fork_that_shares_all(manager, pool, pages, n_tokens):
    manager.retain(pages)
    return pages


def fork_that_copies_nothing(manager, pool, pages, n_tokens):
    n_whole = n_tokens // manager.page_size
    own = manager.allocate(len(pages) - n_whole)
    manager.retain(pages[:n_whole])
    return np.concatenate((pages[:n_whole], own))


def fork_that_copies_what_is_filled(manager, pool, pages, n_tokens):
    n_whole, n_filled = divmod(n_tokens, manager.page_size)
    own = manager.allocate(len(pages) - n_whole)
    manager.retain(pages[:n_whole])
    for source, target in zip(pages[n_whole:], own, strict=True):
        pool.data[:, target, :n_filled] = pool.data[:, source, :n_filled]
    return np.concatenate((pages[:n_whole], own))


def fork_that_always_takes_a_page(manager, pool, pages, n_tokens):
    own = manager.allocate(1)
    if n_tokens % manager.page_size:
        manager.release(own)
        return fork(manager, pool, pages, n_tokens)
    manager.release(own)
    manager.retain(pages)
    return pages


@pytest.mark.parametrize("right", [fork, fork_that_copies_what_is_filled])
def test_a_fork_that_copies_the_tail_passes(right):
    forks_pages(right)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (fork_that_retains_first, r"the counts are \[2, 1\], not \[1, 1\]"),
        (fork_that_shares_all, "is page 1 shared or not"),
        (fork_that_copies_nothing, "the K/V on page 1 of the fork"),
        (fork_that_always_takes_a_page, "no page is to be copied, none needed"),
    ],
)
def test_another_fork_is_told(wrong, told):
    with pytest.raises(AssertionError, match=told):
        forks_pages(wrong)


def keep(manager):
    if manager.ref_counts[0]:
        raise ValueError("page 0 is held: keep it back before it is handed out")
    counts = manager.ref_counts.copy()
    counts[0] = 1
    manager.rebuild(counts)


def count_alone(manager):
    if manager.ref_counts[0]:
        raise ValueError("page 0 is held")
    manager.ref_counts[0] = 1


def keep_whatever_is(manager):
    counts = manager.ref_counts.copy()
    counts[0] = 1
    manager.rebuild(counts)


def test_page_0_is_kept():
    keeps_page_0(keep)


@pytest.mark.parametrize("wrong", [count_alone, keep_whatever_is, lambda manager: None])
def test_another_way_to_keep_it_is_told(wrong):
    with pytest.raises(AssertionError):
        keeps_page_0(wrong)
