"""Chapter 04: right answers to its exercises pass their checks, wrong ones do not."""

from __future__ import annotations

import pytest

from radix_lib.eviction import EvictionHeap
from radix_lib.teaching.checks import cache_exercises as exercises


def test_the_library_s_heap_pops_in_order():
    exercises.pops_in_order(EvictionHeap)


class ForgetsUses(EvictionHeap):
    """A leaf that is used again keeps its old place."""

    def add(self, node):
        if not node.entry:
            super().add(node)


class PopsStaleEntries(EvictionHeap):
    """What surfaces goes, whether or not its entry is out of date."""

    def pop(self):
        node = self._entries.pop(0)[2]
        self.discard(node)
        return node


class Miscounts(EvictionHeap):
    """The number of leaves goes on counting those taken out."""

    def discard(self, node):
        node.entry = 0


@pytest.mark.parametrize("heap", [ForgetsUses, PopsStaleEntries, Miscounts])
def test_a_broken_heap_is_told(heap):
    with pytest.raises(AssertionError):
        exercises.pops_in_order(heap)


def newly_locked(node):
    n_pages = 0
    while node.parent is not None:
        if node.lock_ref == 0:
            n_pages += len(node.pages)
        node = node.parent
    return n_pages


def whole_path(node):
    n_pages = 0
    while node.parent is not None:
        n_pages += len(node.pages)
        node = node.parent
    return n_pages


def node_alone(node):
    return len(node.pages) if node.lock_ref == 0 else 0


def counts_tokens(node):
    n = 0
    while node.parent is not None:
        n += len(node.key) // 4 if node.lock_ref == 0 else 0
        node = node.parent
    return n


def locks_to_see(node):
    """Right, and it changes what it was asked to leave alone."""
    n_pages = newly_locked(node)
    node.lock_ref += 1
    return n_pages


def test_the_pages_that_a_lock_moves():
    exercises.foretells_locks(newly_locked)
    for wrong in (whole_path, node_alone, counts_tokens, locks_to_see):
        with pytest.raises(AssertionError):
            exercises.foretells_locks(wrong)


def test_slru_protects_what_was_hit_once():
    exercises.is_segmented(lambda node: (node.hits >= 1, node.last_access))
    for wrong in (
        lambda node: (node.hits, node.last_access),  # lfu
        lambda node: (node.hits >= 2, node.last_access),  # two reuses protect
        lambda node: (node.hits < 1, node.last_access),  # the protected go first
        lambda node: node.last_access,
    ):
        with pytest.raises(AssertionError):
            exercises.is_segmented(wrong)


def finish(cache, tokens, table, node):
    cache.insert(tokens, table)
    cache.page_manager.release(table)
    cache.unlock(node)


def keeps_its_hold(cache, tokens, table, node):
    known = cache.insert(tokens, table).pages
    cache.page_manager.release(table[: len(known)])
    cache.unlock(node)


def keeps_its_lock(cache, tokens, table, node):
    cache.insert(tokens, table)
    cache.page_manager.release(table)


def keeps_nothing(cache, tokens, table, node):
    cache.page_manager.release(table)
    cache.unlock(node)


def keeps_the_tail(cache, tokens, table, node):
    cache.insert(tokens, table)
    cache.page_manager.release(table[: len(tokens) // cache.page_size])
    cache.unlock(node)


def turns_the_table_round(cache, tokens, table, node):
    finish(cache, tokens, table[::-1].copy(), node)


def test_a_request_that_ends_gives_up_all_that_it_holds():
    exercises.finishes(finish)
    for wrong in (
        keeps_its_hold,
        keeps_its_lock,
        keeps_nothing,
        keeps_the_tail,
        turns_the_table_round,
    ):
        with pytest.raises((AssertionError, ValueError)):
            exercises.finishes(wrong)
