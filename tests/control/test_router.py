"""Chapter 05: the life of a request, by hand.

Nothing is computed here: `Memory` notes which prefix was written to which slot, so that
a lease whose page table leads to another's K/V is seen without a model.
"""

from __future__ import annotations

import numpy as np
import pytest

from radix_lib.eviction import POLICIES
from radix_lib.page_manager import OutOfPages
from radix_lib.radix_tree import pack_tokens
from radix_lib.router import Namespace
from radix_lib.teaching.checks.oracle import Memory
from tests.support.inspection import check_idle, check_router, contents, snapshot
from tests.support.small_routers import router_of, serve

# ── By hand ───────────────────────────────────────────────────────────────────────────


def test_an_example_worked_by_hand():
    """Eight pages of two tokens: a question, its answer, and the question after it."""
    router = router_of(n_pages=8)

    lease = router.admit([1, 2, 3, 4, 5], max_new_tokens=3)
    assert lease.page_table.tolist() == [0, 1, 2, 3], "eight tokens, prompt and answer"
    assert (lease.n_cached, lease.pending) == (0, [1, 2, 3, 4, 5])
    assert router.usage() == (4, 0, 0, 4)

    lease.advance(5)  # the prompt is computed
    router.commit(lease)
    assert contents(router.cache) == {(None, (1, 2)): 0, (None, (1, 2, 3, 4)): 1}
    assert (lease.n_shared, router.usage()) == (2, (4, 0, 2, 2))

    for token in [6, 7]:  # two tokens of the answer are computed, the third only chosen
        lease.append(token)
        lease.advance(1)
    lease.append(8)
    assert (lease.tokens, lease.pending) == ([1, 2, 3, 4, 5, 6, 7, 8], [8])
    router.finish(lease)
    assert contents(router.cache)[None, (1, 2, 3, 4, 5, 6)] == 2
    assert router.usage() == (5, 3, 0, 0), "the page of 7 is not full, and goes back"

    lease = router.admit([1, 2, 3, 4, 5, 6, 7, 8, 9])
    assert (lease.n_cached, lease.pending) == (6, [7, 8, 9])
    assert lease.page_table.tolist()[:3] == [0, 1, 2]
    assert router.usage() == (3, 0, 3, 2)
    router.cancel(lease)
    assert router.usage() == (5, 3, 0, 0)
    check_idle(router)


@pytest.mark.parametrize("page_size", [1, 2, 16])
def test_one_token_is_always_left_to_compute(page_size):
    router = router_of(page_size=page_size)
    tokens = list(range(4 * page_size))
    serve(router, tokens)
    again = router.admit(tokens)
    assert again.n_cached == 3 * page_size, (
        "the whole prompt is there; its last page is not used"
    )
    assert len(again.pending) == page_size
    longer = router.admit([*tokens, 7])
    assert (longer.n_cached, longer.pending) == (4 * page_size, [7])


def test_a_request_gets_room_for_its_answer_and_no_more():
    router = router_of(page_size=2)
    lease = router.admit([1, 2, 3], max_new_tokens=2)
    assert len(lease.page_table) == 3
    lease.append(4, 5, 6)  # the last page has room for one more than was asked for
    assert lease.tokens == [1, 2, 3, 4, 5, 6]


def test_two_that_compute_the_same_end_up_with_the_same_pages():
    router = router_of()
    memory = Memory(2)
    first, second = (router.admit([1, 2, 3, 4, 5]) for _ in range(2))
    for lease in (first, second):
        memory.compute(lease)
        router.commit(lease)
        check_router(router, memory)
    assert second.page_table[:2].tolist() == first.page_table[:2].tolist() == [0, 1]
    assert router.usage() == (12, 0, 2, 2), (
        "pages 3 and 4 were duplicates and are free again"
    )
    assert [node.lock_ref for node in router.cache.nodes()] == [2]
    router.finish(first)
    assert router.usage().locked == 2
    router.finish(second)
    assert router.usage() == (14, 2, 0, 0)


def test_chunks_are_shared_as_they_are_computed():
    """Prefill in chunks of three tokens: after each, its whole pages serve others."""
    router = router_of()
    memory = Memory(2)
    lease = router.admit([1, 2, 3, 4, 5, 6, 7, 8])
    cached = []
    for _ in range(3):
        memory.compute(lease, min(3, len(lease.pending)))
        router.commit(lease)
        check_router(router, memory)
        other = router.admit([1, 2, 3, 4, 5, 6, 7, 8, 9])
        cached.append(other.n_cached)
        memory.check(other)
        router.cancel(other)
    assert cached == [2, 6, 8]
    router.finish(lease)
    check_idle(router)


def test_a_commit_of_nothing_new_changes_nothing():
    router = router_of()
    lease = router.admit([1, 2, 3, 4])
    lease.advance(1)
    before = snapshot(router)
    router.commit(lease)
    assert snapshot(router) == before


@pytest.mark.parametrize("namespace", [None, "tenant"])
def test_a_commit_that_is_interrupted_is_completed_in_its_own_namespace(
    monkeypatch: pytest.MonkeyPatch, namespace
):
    router = router_of()
    lease = router.admit([1, 2, 3, 4, 5], namespace)
    lease.advance(5)

    def stopped(node):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(router.cache, "unlock", stopped)
        router.commit(lease)
    assert (lease.n_shared, router.usage()) == (2, (13, 0, 2, 1))
    assert list(contents(router.cache)) == [
        (namespace, (1, 2, 3, 4)),
        (namespace, (1, 2)),
    ]
    check_router(router)
    router.finish(lease)
    check_idle(router)


def test_what_was_not_computed_does_not_enter_the_tree():
    router = router_of()
    lease = router.admit([1, 2, 3, 4, 5, 6])
    lease.advance(3)
    router.finish(lease)
    assert contents(router.cache) == {(None, (1, 2)): 0}
    assert router.usage() == (15, 1, 0, 0)


def test_a_cancelled_request_leaves_what_it_committed():
    router = router_of()
    lease = router.admit([1, 2, 3, 4, 5, 6])
    lease.advance(2)
    router.commit(lease)
    lease.advance(2)
    router.cancel(lease)
    assert contents(router.cache) == {(None, (1, 2)): 0}
    check_idle(router)


def test_pages_are_evicted_only_when_they_are_needed():
    router = router_of(n_pages=4)
    serve(router, [1, 2, 3, 4])
    first = router.admit([5, 6, 7, 8])
    assert contents(router.cache).keys() == {(None, (1, 2)), (None, (1, 2, 3, 4))}
    second = router.admit([9, 9])
    assert contents(router.cache).keys() == {(None, (1, 2))}, (
        "one page was missing, one went"
    )
    router.cancel(first)
    router.cancel(second)
    check_idle(router)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_request_does_not_evict_what_it_is_about_to_use(policy):
    router = router_of(n_pages=4, policy=policy)
    serve(router, [1, 2, 3, 4])  # the oldest
    serve(router, [5, 6, 7, 8])
    lease = router.admit([1, 2, 3, 4, 9, 9, 9])
    assert lease.n_cached == 4
    assert contents(router.cache).keys() == {(None, (1, 2)), (None, (1, 2, 3, 4))}
    check_router(router)


# ── Names that the design promises ────────────────────────────────────────────────────


def test_match_prefix_takes_tokens_as_admit_does():
    router = router_of()
    serve(router, [1, 2, 3, 4])
    for tokens in [[1, 2, 3, 4], np.array([1, 2, 3, 4]), pack_tokens([1, 2, 3, 4])]:
        assert router.match_prefix(tokens).pages.tolist() == [0]
    assert router.match_prefix([1, 2, 3, 4, 5]).pages.tolist() == [0, 1]
    assert router.match_prefix([1, 2, 3, 4, 5], "other").pages.tolist() == []


def test_insert_prefix_leaves_no_page_that_can_neither_be_kept_nor_freed():
    router = router_of()
    lease = router.admit([1, 2, 3, 4])
    lease.advance(4)
    router.insert_prefix(lease)
    assert contents(router.cache).keys() == {(None, (1, 2)), (None, (1, 2, 3, 4))}
    check_router(router)
    router.finish(lease)
    check_idle(router)


# ── Namespaces ────────────────────────────────────────────────────────────────────────


def test_a_namespace_is_salt_and_adapter_and_not_their_letters():
    assert Namespace("a", "bc") != Namespace("ab", "c")
    router = router_of()
    serve(router, [1, 2, 3], Namespace("a", "bc"))
    assert router.admit([1, 2, 3], Namespace("ab", "c")).n_cached == 0
    assert router.admit([1, 2, 3], Namespace("a")).n_cached == 0
    assert router.admit([1, 2, 3], Namespace(adapter="bc")).n_cached == 0
    assert router.admit([1, 2, 3]).n_cached == 0
    assert router.admit([1, 2, 3], Namespace("a", "bc")).n_cached == 2


# ── Forks ─────────────────────────────────────────────────────────────────────────────


def test_a_fork_shares_whole_pages_and_has_a_tail_of_its_own():
    router = router_of()
    memory = Memory(2)
    lease = router.admit([1, 2, 3, 4, 5], max_new_tokens=3)
    memory.compute(lease)
    fork = router.fork(lease, max_new_tokens=3)
    memory.copy_page(lease.page_table[2], fork.page_table[2])
    check_router(router, memory)
    assert fork.page_table[:2].tolist() == lease.page_table[:2].tolist()
    assert not set(fork.page_table[2:]) & set(lease.page_table[2:])
    assert (fork.tokens, fork.n_computed, fork.pending) == ([1, 2, 3, 4, 5], 5, [])

    for own, token in [(lease, 6), (fork, 7)]:
        own.append(token)
        memory.compute(own)
        router.commit(own)
        check_router(router, memory)
    router.finish(lease)
    router.finish(fork)
    assert router.admit([1, 2, 3, 4, 5, 6, 0]).n_cached == 6
    assert router.admit([1, 2, 3, 4, 5, 7, 0]).n_cached == 6


def test_a_fork_at_the_end_of_a_page_copies_nothing():
    router = router_of()
    memory = Memory(2)
    lease = router.admit([1, 2, 3, 4], max_new_tokens=2)
    memory.compute(lease)
    fork = router.fork(lease, max_new_tokens=2)
    check_router(router, memory)
    assert len(fork.page_table) == fork.n_shared + 1
    assert len(router.fork(lease).page_table) == fork.n_shared, "no room, no page"


def test_a_fork_outlives_what_it_was_forked_from():
    router = router_of()
    memory = Memory(2)
    lease = router.admit([1, 2, 3, 4])
    memory.compute(lease)
    fork = router.fork(lease, 2)
    router.cancel(lease)
    check_router(router, memory)
    assert router.usage().locked == 2
    fork.append(8, 9)
    memory.compute(fork)
    router.finish(fork)
    check_idle(router)


def test_a_fork_that_does_not_fit_changes_nothing():
    router = router_of(n_pages=4)
    lease = router.admit([1, 2, 3, 4, 5])
    lease.advance(5)
    before = snapshot(router)
    with pytest.raises(OutOfPages, match="pages needed: 2, free: 1, evictable: 0"):
        router.fork(lease, max_new_tokens=2)
    assert snapshot(router) == before
    router.fork(lease, max_new_tokens=1)
    check_router(router)


# ── Leases as context managers ────────────────────────────────────────────────────────


def test_a_with_block_finishes_on_success():
    router = router_of()
    with router.admit([1, 2, 3]) as lease:
        lease.advance(3)
    assert not router.leases
    assert router.usage() == (15, 1, 0, 0)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, GeneratorExit])
def test_a_with_block_cancels_on_an_exception(error):
    router = router_of()
    with pytest.raises(error), router.admit([1, 2, 3]) as lease:
        lease.advance(3)
        raise error
    assert router.usage() == (16, 0, 0, 0)


def test_a_with_block_whose_end_is_interrupted_gives_its_pages_back(monkeypatch):
    router = router_of()

    def interrupted(lease):
        raise KeyboardInterrupt

    monkeypatch.setattr(router, "finish", interrupted)
    with pytest.raises(KeyboardInterrupt), router.admit([1, 2, 3]):
        pass
    check_idle(router)


@pytest.mark.parametrize("end", ["finish", "cancel"])
def test_a_with_block_may_end_its_request_itself(end):
    router = router_of()
    with router.admit([1, 2, 3]) as lease:
        getattr(router, end)(lease)
    check_idle(router)
