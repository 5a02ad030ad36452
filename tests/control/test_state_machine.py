"""Scheduler, router, pages and others beside them, in any order, against the oracle."""

from __future__ import annotations

from collections import Counter

import pytest

from radix_lib.eviction import POLICIES
from radix_lib.orders import ORDERS
from radix_lib.radix_cache import CacheNode, RadixCache
from radix_lib.radix_tree import RadixTree
from radix_lib.router import Router
from radix_lib.scheduler import Scheduler
from tests.support.planting import Fault
from tests.support.state_machine import PAGE_SIZES, play

QUICK_SEEDS = range(35)
N_OPERATIONS = 100  # a machine


def check_counts(counts: Counter[str], n_operations: int) -> None:
    """All that can happen did, and often."""
    print(f"\n{n_operations:,} operations:", dict(sorted(counts.items())))
    assert counts["operations"] == n_operations
    page_sizes = [f"pages of {page_size}" for page_size in PAGE_SIZES]
    for kind in (*POLICIES, *ORDERS, *page_sizes):
        assert counts[kind], kind
    for kind, one_in in {
        "steps": 2,
        "hits": 30,
        "evictions": 4,
        "finished": 20,
        "cancelled": 30,
        "refusals": 30,
        "bad calls": 10,
        "grown": 5,
        "forks": 100,
        "streams left": 100,
        "retractions": 200,
        "flushes": 500,
        "flushes refused": 50,
        "waits in vain": 300,
    }.items():
        assert counts[kind] * one_in > n_operations, kind


def test_everything_at_once_agrees_with_the_oracle():
    check_counts(play(QUICK_SEEDS, N_OPERATIONS), 3_500)


@pytest.mark.long
def test_everything_at_once_agrees_with_the_oracle_at_length():
    check_counts(play(range(1_000, 6_000), N_OPERATIONS), 500_000)


# ── The oracle is tested itself ───────────────────────────────────────────────────────


FAULTS = {
    "a hit leaves no token to compute": Fault(
        Router, "_match", "key[:-TOKEN_BYTES]", "key"
    ),
    "a match goes on where the tokens differ": Fault(
        RadixTree,
        "_common_pages",
        "return low",
        "return max(low, len(edge) // page_bytes - 1)",
    ),
    "everybody finds what is in the common namespace": Fault(
        RadixTree,
        "_root",
        "self.roots.get(namespace)",
        "self.roots.get(None) or self.roots.get(namespace)",
    ),
    "a page that is computed in part is shared": Fault(
        Router,
        "_insert",
        "lease.n_computed // self.page_size",
        "-(-lease.n_computed // self.page_size)",
    ),
    "a lease keeps its duplicates, which are free": Fault(
        Router, "_commit", "lease.page_table[known] = match.pages", "pass"
    ),
    "what was used keeps its old turn to be evicted": Fault(
        RadixCache, "_touch", "if node.entry and not is_new:", "if False:"
    ),
    "what is cut forgets how often it was hit": Fault(
        CacheNode, "split", "upper.hits = self.hits", "upper.hits = 0"
    ),
    "a lock is not released when a request is cancelled": Fault(
        Router,
        "_end",
        "self.cache.unlock(lease.node)",
        "keep and self.cache.unlock(lease.node)",
    ),
    "a fork is no holder of what it shares": Fault(
        Router,
        "_fork",
        "self._hold(fork, shared, n_pages)",
        "self._hold(fork, shared, n_pages); self.page_manager.release(shared.pages)",
    ),
    "a lease grows by a page that is in use": Fault(
        Router,
        "_grow",
        "own = self._take(n_own)",
        "own = self._take(n_own); own[-1] = next(iter(self.leases)).page_table[0]",
    ),
    "a flush forgets what is locked": Fault(
        Router,
        "_flush",
        "if self.leases:",
        "if self.leases and self.cache.roots.clear():",
    ),
    "what a request would lock is counted as room for it": Fault(
        Router, "_check_room", "evictable -= n_common", "pass"
    ),
    "a request is refused for the sake of garbage": Fault(
        Router, "_with_pages", "if not self._collect():", "if True:"
    ),
    "a retraction keeps what is not computed": Fault(
        Scheduler,
        "_retract",
        "self.router.finish(request.lease)",
        "request.lease.n_computed = request.lease.n_tokens; "
        "self.router.finish(request.lease)",
    ),
    "the most important request is retracted": Fault(
        Scheduler, "_grow_or_retract", "min(", "max("
    ),
    "a token is chosen before the prompt is computed": Fault(
        Scheduler, "_choose", "request.outcome or request.n_pending", "request.outcome"
    ),
    "a cancelled request keeps its pages": Fault(
        Scheduler,
        "_end",
        "if request.lease in self.router.leases:",
        "if request.outcome == 'finished':",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found(name: str, monkeypatch: pytest.MonkeyPatch):
    FAULTS[name].plant(monkeypatch)
    with pytest.raises(AssertionError, match="seed") as found:
        play(QUICK_SEEDS, N_OPERATIONS)
    print(str(found.value).splitlines()[-1])
