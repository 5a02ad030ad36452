"""Chapter 05: requests in any order, against the oracle."""

from __future__ import annotations

import functools

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test as run_machine,
)

from radix_lib.eviction import POLICIES
from radix_lib.page_manager import OutOfPages
from radix_lib.router import Lease
from radix_lib.teaching.checks.oracle import Memory
from tests.support.inspection import (
    check_idle,
    check_router,
    contents,
    history,
    path_of,
    remembered,
    remembered_history,
)
from tests.support.router_oracle import RouterOracle
from tests.support.small_routers import refused, router_of
from tests.support.strategies import (
    LONG,
    NAMESPACES,
    PAGE_SIZES,
    QUICK,
    TAILS,
    WORDS,
    spell,
)


class RouterMachine(RuleBasedStateMachine):
    """Requests come, compute, grow, fork and end, in a pool that is too small."""

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
        start = lease.n_computed
        pending = lease.pending[:n_tokens]
        self.memory.compute(lease, len(pending))
        self.oracle.compute(lease, start, pending)

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
        room = len(request.table) * self.router.page_size
        if len(request.tokens) + len(tokens) > room:
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
        if shortage := self.oracle.fork_shortage(lease, room):
            self.is_refused(shortage, lambda: self.router.fork(lease, room))
            return
        fork = self.router.fork(lease, room)
        if fork.n_computed > fork.n_shared * self.router.page_size:
            tail = fork.n_shared
            self.memory.copy_page(
                int(lease.page_table[tail]), int(fork.page_table[tail])
            )
        self.oracle.fork(lease, fork, room)

    @precondition(lambda self: self.router.leases)
    @rule(i=st.integers(0, 99), n_tokens=st.integers(0, 9))
    def grow(self, i, n_tokens):
        lease = self.lease(i)
        if lease.n_tokens + n_tokens > self.router.max_tokens:
            return
        if shortage := self.oracle.grow_shortage(lease, n_tokens):
            self.is_refused(shortage, lambda: self.router.grow(lease, n_tokens))
        else:
            self.router.grow(lease, n_tokens)
            self.oracle.grow(lease, n_tokens)

    @precondition(lambda self: self.router.leases)
    @rule(i=st.integers(0, 99), keep=st.booleans())
    def end(self, i, keep):
        lease = self.lease(i)
        for each in (self.router, self.oracle):
            if keep:
                each.finish(lease)
            else:
                each.cancel(lease)

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
        self.oracle.check(self.router)
        for lease, request in self.oracle.requests.items():
            shared = tuple(request.tokens[: request.n_shared * self.router.page_size])
            assert path_of(lease.node) == (request.namespace, shared)

    def teardown(self):
        if hasattr(self, "router"):
            for i, lease in enumerate(list(self.router.leases)):
                if i % 2:
                    self.router.cancel(lease)
                else:
                    self.router.finish(lease)
            check_idle(self.router)


def test_the_router_agrees_with_the_oracle():
    run_machine(RouterMachine, settings=QUICK)


@pytest.mark.long
def test_the_router_agrees_with_the_oracle_at_length():
    run_machine(RouterMachine, settings=LONG)
