"""Chapter 05: the life of a request, by hand, with bad input, and against the oracle.

Nothing is computed here: `Memory` notes which prefix was written to which slot, so that
a lease whose page table leads to another's K/V is seen without a model.
"""

from __future__ import annotations

import functools

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from hypothesis.stateful import run_state_machine_as_test as run_machine

from radix_lib.eviction import POLICIES
from radix_lib.page_manager import OutOfPages, PageManager
from radix_lib.radix_cache import RadixCache
from radix_lib.radix_tree import pack_tokens
from radix_lib.router import Lease, Namespace, Router
from tests.support.oracle import (
    BAD_TOKENS,
    LONG,
    NAMESPACES,
    PAGE_SIZES,
    QUICK,
    TAILS,
    WORDS,
    Memory,
    RouterOracle,
    check_idle,
    check_router,
    contents,
    history,
    path_of,
    remembered,
    remembered_history,
    snapshot,
    spell,
)


def router_of(
    n_pages: int = 16, page_size: int = 2, policy: str = "lru", **limits
) -> Router:
    return Router(RadixCache(PageManager(n_pages, page_size), policy), **limits)


def serve(router: Router, tokens: list[int], namespace=None) -> Lease:
    """One request from start to end, all of it computed."""
    with router.admit(tokens, namespace) as lease:
        lease.advance(len(lease.pending))
    return lease


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
    router, memory = router_of(), Memory(2)
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
    router, memory = router_of(), Memory(2)
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
    router, memory = router_of(), Memory(2)
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
    router, memory = router_of(), Memory(2)
    lease = router.admit([1, 2, 3, 4], max_new_tokens=2)
    memory.compute(lease)
    fork = router.fork(lease, max_new_tokens=2)
    check_router(router, memory)
    assert len(fork.page_table) == fork.n_shared + 1


def test_a_fork_outlives_what_it_was_forked_from():
    router, memory = router_of(), Memory(2)
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


@pytest.mark.parametrize("end", ["finish", "cancel"])
def test_a_with_block_may_end_its_request_itself(end):
    router = router_of()
    with router.admit([1, 2, 3]) as lease:
        getattr(router, end)(lease)
    check_idle(router)


# ── Bad input ─────────────────────────────────────────────────────────────────────────


@pytest.fixture
def busy():
    """A router with something in the tree, a running request and few free pages."""
    router = router_of(n_pages=8, vocab_size=100, max_tokens=14)
    serve(router, [1, 2, 3, 4])
    serve(router, [1, 2, 5, 6], "tenant")
    lease = router.admit([1, 2, 3, 4, 7, 8], max_new_tokens=1)
    lease.advance(1)
    yield router
    check_router(router)
    for lease in list(router.leases):
        router.cancel(lease)
    check_idle(router)


def refused(router: Router, error, words: str | None, call) -> str:
    """`call` raises `error` saying `words`, and all is as it was before."""
    before = snapshot(router)
    with pytest.raises(error, match=words) as caught:
        call()
    assert snapshot(router) == before
    return str(caught.value)


@pytest.mark.parametrize("bad", BAD_TOKENS, ids=repr)
def test_a_bad_token_is_refused(busy, bad):
    message = refused(busy, ValueError, "token ids", lambda: busy.admit([1, 2, bad]))
    assert repr(bad) in message


@pytest.mark.parametrize("bad", [100, 101, 2**32 - 1])
def test_a_token_outside_the_vocabulary_is_refused(busy, bad):
    words = f"token id {bad} is not below the vocabulary's 100"
    refused(busy, ValueError, words, lambda: busy.admit([1, bad, 2]))
    lease = next(iter(busy.leases))
    refused(busy, ValueError, words, lambda: lease.append(bad))
    assert busy.admit([99]).tokens == [99]


@pytest.mark.parametrize("empty", [[], (), b"", np.array([], np.int64)], ids=repr)
def test_an_empty_prompt_is_refused(busy, empty):
    refused(busy, ValueError, "at least one token", lambda: busy.admit(empty))


@pytest.mark.parametrize(("n_tokens", "room"), [(15, 0), (14, 1), (1, 14), (1, -1)])
def test_a_request_that_could_never_run_is_refused(busy, n_tokens, room):
    words = f"tokens: {n_tokens}, room for more: {room}. .* at most 14 in all"
    refused(busy, ValueError, words, lambda: busy.admit([1] * n_tokens, None, room))


def test_the_pool_limits_a_request_as_the_model_does():
    router = router_of(n_pages=4, max_tokens=1000)
    refused(router, ValueError, "at most 8 in all", lambda: router.admit([1] * 9))
    assert len(router.admit([1] * 8).page_table) == 4


def test_a_limit_of_no_tokens_is_not_no_limit():
    with pytest.raises(ValueError, match="0"):
        router_of(max_tokens=0)


def test_a_request_that_has_to_wait_is_told_why(busy):
    """Four of eight pages are held, [5, 6] and its prefix can go: four are needed, and
    one more.
    """
    assert busy.usage() == (2, 2, 2, 2)
    with_hit = [1, 2, 5, 6, *[9] * 7]
    admit = busy.admit
    refused(
        busy,
        OutOfPages,
        "pages needed: 5, free: 2, evictable: 2",
        lambda: admit([9] * 9),
    )
    # Counted after what is cached: two pages of it, which it would lock and so not
    # evict.
    words = "pages needed: 4, free: 2, evictable: 0"
    refused(busy, OutOfPages, words, lambda: admit(with_hit, "tenant"))
    assert admit([9] * 8).n_cached == 0


def test_a_hit_on_half_of_an_edge_counts_its_pages_only(busy):
    """Of the edge [1, 2, 5, 6] one page is used and locked, the other can still go."""
    tokens = [1, 2, *[9] * 7]
    words = "pages needed: 4, free: 2, evictable: 1"
    refused(busy, OutOfPages, words, lambda: busy.admit(tokens, "tenant"))
    lease = busy.admit(tokens[:-1], "tenant")
    assert (lease.n_cached, busy.usage().free) == (2, 0)
    assert ("tenant", (1, 2, 5, 6)) not in contents(busy.cache)


@pytest.mark.parametrize("room", [1.5, "a", None])
def test_room_is_a_whole_number(busy, room):
    refused(
        busy, (TypeError, ValueError), None, lambda: busy.admit([1, 2, 9], None, room)
    )
    lease = next(iter(busy.leases))
    refused(busy, (TypeError, ValueError), None, lambda: busy.fork(lease, room))


def test_an_unhashable_namespace_is_refused(busy):
    refused(busy, TypeError, "unhashable", lambda: busy.admit([1, 2, 9], ["salt"]))
    refused(busy, TypeError, "unhashable", lambda: busy.admit([9] * 9, ["salt"]))


@pytest.mark.parametrize("end", ["finish", "cancel"])
@pytest.mark.parametrize("call", ["finish", "cancel", "commit", "fork"])
def test_a_request_that_has_ended_is_refused(busy, call, end):
    lease = busy.admit([9, 9, 9])
    lease.advance(3)
    getattr(busy, end)(lease)
    words = "not live here: it was finished or cancelled before"
    refused(busy, ValueError, words, lambda: getattr(busy, call)(lease))


def test_a_lease_of_another_router_is_refused(busy):
    other = router_of()
    lease = other.admit([1, 2, 3])
    refused(busy, ValueError, "not live here", lambda: busy.finish(lease))
    assert lease in other.leases


@pytest.mark.parametrize("n_tokens", [-1, 2, 100])
def test_more_than_there_is_cannot_have_been_computed(busy, n_tokens):
    lease = next(iter(busy.leases))
    words = f"{n_tokens} tokens cannot have been computed"
    refused(busy, ValueError, words, lambda: lease.advance(n_tokens))
    lease.advance(1)
    assert lease.pending == []


@pytest.mark.parametrize("n_tokens", [0.5, "a", None])
def test_computed_tokens_are_a_whole_number(busy, n_tokens):
    lease = next(iter(busy.leases))
    refused(busy, (TypeError, ValueError), None, lambda: lease.advance(n_tokens))


def test_no_token_goes_beyond_the_room_asked_for(busy):
    lease = next(iter(busy.leases))
    words = "room for 8 tokens was admitted: ask for more max_new_tokens"
    refused(busy, ValueError, words, lambda: lease.append(1, 2, 3))
    lease.append(1, 2)
    refused(busy, ValueError, words, lambda: lease.append(3))
    assert lease.tokens == [1, 2, 3, 4, 7, 8, 1, 2]


@pytest.mark.parametrize("bad", BAD_TOKENS, ids=repr)
def test_a_bad_token_is_not_appended(busy, bad):
    lease = next(iter(busy.leases))
    message = refused(busy, ValueError, "token ids", lambda: lease.append(1, bad))
    assert repr(bad) in message


def test_the_integrity_check_sees_a_lost_lease(busy):
    lease = next(iter(busy.leases))
    del busy.leases[lease]
    with pytest.raises(AssertionError, match="holders"):
        busy.check_integrity()
    busy.leases[lease] = None


def test_the_integrity_check_sees_a_lock_too_many(busy):
    node = next(iter(busy.leases)).node
    busy.cache.lock(node)
    try:
        with pytest.raises(AssertionError, match="locks are not"):
            busy.check_integrity()
    finally:
        busy.cache.unlock(node)


# ── Against the oracle ────────────────────────────────────────────────────────────────


class RouterMachine(RuleBasedStateMachine):
    """Requests come, compute, grow, fork and end in any order, in a pool that is too
    small.
    """

    @initialize(
        page_size=PAGE_SIZES,
        n_pages=st.integers(4, 20),
        policy=st.sampled_from(list(POLICIES)),
    )
    def start(self, page_size, n_pages, policy):
        self.router = router_of(n_pages, page_size, policy)
        self.oracle = RouterOracle(page_size, n_pages, policy)
        self.memory = Memory(page_size)

    def lease(self, i: int) -> Lease:
        return list(self.router.leases)[i % len(self.router.leases)]

    def is_refused(self, shortage: tuple[int, int, int], call) -> None:
        needed, free, evictable = shortage
        words = f"pages needed: {needed}, free: {free}, evictable: {evictable}"
        refused(self.router, OutOfPages, words, call)

    def admitted(self, tokens: list[int], namespace, room: int) -> Lease | None:
        """The lease of a request, or None if it is refused, as it then has to be."""
        if len(tokens) + room > self.router.max_tokens:
            words = f"at most {self.router.max_tokens} in all"
            admit = functools.partial(self.router.admit, tokens, namespace, room)
            refused(self.router, ValueError, words, admit)
            return None
        if shortage := self.oracle.shortage(tokens, namespace, room):
            self.is_refused(
                shortage, lambda: self.router.admit(tokens, namespace, room)
            )
            return None
        lease = self.router.admit(tokens, namespace, room)
        assert lease.n_cached == self.oracle.admit(lease, tokens, namespace, room)
        assert lease.pending == tokens[lease.n_cached :] != []
        return lease

    def compute(self, lease: Lease, n_tokens: int) -> None:
        """Compute as many tokens as asked for, or all there are."""
        self.memory.compute(lease, min(n_tokens, len(lease.pending)))
        self.oracle.requests[lease].n_computed = lease.n_computed

    @rule(
        words=WORDS,
        tail=TAILS,
        namespace=NAMESPACES,
        room=st.integers(0, 5),
        n_tokens=TAILS,
    )
    def admit(self, words, tail, namespace, room, n_tokens):
        tokens = spell(words, tail, self.router.page_size) or [0]
        if lease := self.admitted(tokens, namespace, room):
            self.compute(lease, n_tokens)

    @rule(words=WORDS, tail=TAILS, namespace=NAMESPACES)
    def serve(self, words, tail, namespace):
        tokens = spell(words, tail, self.router.page_size) or [0]
        if lease := self.admitted(tokens, namespace, 0):
            self.compute(lease, len(tokens))
            self.router.finish(lease)
            self.oracle.finish(lease)

    @precondition(lambda self: self.router.leases)
    @rule(i=st.integers(0, 99), n_tokens=st.integers(0, 40))
    def compute_and_commit(self, i, n_tokens):
        lease = self.lease(i)
        self.compute(lease, n_tokens)
        self.router.commit(lease)
        self.oracle.commit(lease)

    @precondition(lambda self: self.router.leases)
    @rule(
        i=st.integers(0, 99), tokens=st.lists(st.integers(0, 2), min_size=1, max_size=3)
    )
    def append(self, i, tokens):
        lease = self.lease(i)
        request = self.oracle.requests[lease]
        if len(request.tokens) + len(tokens) > request.n_table * self.router.page_size:
            refused(self.router, ValueError, "room for", lambda: lease.append(*tokens))
        else:
            lease.append(*tokens)
            request.tokens += tokens
        assert lease.tokens == request.tokens
        assert lease.pending == request.tokens[request.n_computed :]

    @precondition(lambda self: self.router.leases)
    @rule(i=st.integers(0, 99), room=st.integers(0, 5))
    def fork(self, i, room):
        lease = self.lease(i)
        if lease.n_tokens + room > self.router.max_tokens:
            return
        if shortage := self.oracle.fork(lease, room):
            self.is_refused(shortage, lambda: self.router.fork(lease, room))
            return
        fork = self.router.fork(lease, room)
        if fork.n_computed > fork.n_shared * self.router.page_size:
            tail = fork.n_shared
            self.memory.copy_page(
                int(lease.page_table[tail]), int(fork.page_table[tail])
            )
        self.oracle.forked(lease, fork, room)

    @precondition(lambda self: self.router.leases)
    @rule(i=st.integers(0, 99), n_tokens=st.integers(0, 9))
    def grow(self, i, n_tokens):
        lease = self.lease(i)
        if lease.n_tokens + n_tokens > self.router.max_tokens:
            return
        if shortage := self.oracle.grow(lease, n_tokens):
            self.is_refused(shortage, lambda: self.router.grow(lease, n_tokens))
        else:
            self.router.grow(lease, n_tokens)
        assert len(lease.page_table) == self.oracle.requests[lease].n_table

    @precondition(lambda self: self.router.leases)
    @rule(i=st.integers(0, 99), keep=st.booleans())
    def end(self, i, keep):
        lease = self.lease(i)
        (self.router.finish if keep else self.router.cancel)(lease)
        (self.oracle.finish if keep else self.oracle.cancel)(lease)

    @precondition(lambda self: self.oracle.cache.n_evictable)
    @rule(n_pages=st.integers(1, 3))
    def evict(self, n_pages):
        n_pages = min(n_pages, self.oracle.cache.n_evictable)
        evicted = self.router.cache.evict(n_pages).tolist()
        assert sorted(evicted) == sorted(self.oracle.cache.evict(n_pages))

    @invariant()
    def agrees(self):
        check_router(self.router, self.memory)
        assert contents(self.router.cache) == remembered(self.oracle.cache)
        assert history(self.router.cache) == remembered_history(self.oracle.cache)
        assert self.router.usage() == self.oracle.usage()
        assert list(self.router.leases) == list(self.oracle.requests)
        for lease, request in self.oracle.requests.items():
            assert (lease.n_shared, lease.n_computed) == (
                request.n_shared,
                request.n_computed,
            )
            shared = tuple(request.tokens[: request.n_shared * self.router.page_size])
            assert path_of(lease.node) == (request.namespace, shared)

    def teardown(self):
        if hasattr(self, "router"):
            for i, lease in enumerate(list(self.router.leases)):
                (self.router.cancel if i % 2 else self.router.finish)(lease)
            check_idle(self.router)


def test_the_router_agrees_with_the_oracle():
    run_machine(RouterMachine, settings=QUICK)


@pytest.mark.long
def test_the_router_agrees_with_the_oracle_at_length():
    run_machine(RouterMachine, settings=LONG)
