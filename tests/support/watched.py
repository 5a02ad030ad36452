"""Routers, schedulers and models whose every call an oracle predicts.

`WatchedRouter` asks the oracle what is due, makes the call, compares, and tells the
oracle. So whatever a scheduler makes of its requests, each of its steps is compared
call by call.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import Any

from radix_lib.eviction import POLICIES
from radix_lib.page_manager import OutOfPages
from radix_lib.radix_cache import RadixCache
from radix_lib.radix_tree import Match, pack_tokens, unpack_tokens
from radix_lib.request import Request, Step
from radix_lib.router import Lease, Router
from radix_lib.scheduler import Scheduler
from radix_lib.teaching.checks.schedules import RememberingModel
from tests.support.router_oracle import RouterOracle, Shortage


class WatchedRouter(Router):
    """A router that does what the oracle predicts, or raises AssertionError."""

    def __init__(self, cache: RadixCache, **limits: Any):
        super().__init__(cache, **limits)
        (policy,) = (p for p in POLICIES if POLICIES[p] is cache._heap._priority)
        self.oracle = RouterOracle(self.page_size, self.page_manager.n_pages, policy)
        self.forgotten: list[Lease] = []  # only garbage holds their `with` blocks
        self.counts: Counter[str] = Counter()  # what happened, and how often

    def match_prefix(
        self, tokens: Sequence[int] | bytes, namespace: Hashable = None
    ) -> Match:
        match = super().match_prefix(tokens, namespace)
        usable = _token_ids(tokens)[:-1]
        assert match.pages.tolist() == self.oracle.cache.match(usable, namespace)
        return match

    def admit(
        self,
        tokens: Sequence[int] | bytes,
        namespace: Hashable = None,
        max_new_tokens: int = 0,
    ) -> Lease:
        admit = super().admit
        ids = _token_ids(tokens)
        lease = self._as_predicted(
            lambda: admit(tokens, namespace, max_new_tokens),
            lambda: self.oracle.shortage(ids, namespace, max_new_tokens),
        )
        n_cached = self.oracle.admit(lease, ids, namespace, max_new_tokens)
        assert lease.n_cached == n_cached, f"cached: {lease.n_cached}, not {n_cached}"
        assert lease.tokens == ids
        assert lease.pending == ids[n_cached:] != []
        self.counts["hits" if n_cached else "misses"] += 1
        return lease

    def fork(self, lease: Lease, max_new_tokens: int = 0) -> Lease:
        fork = super().fork
        self.check_live(lease)
        self.oracle.hear(lease)
        forked = self._as_predicted(
            lambda: fork(lease, max_new_tokens),
            lambda: self.oracle.fork_shortage(lease, max_new_tokens),
        )
        self.oracle.fork(lease, forked, max_new_tokens)
        self.counts["forks"] += 1
        return forked

    def grow(self, lease: Lease, n_tokens: int = 1) -> None:
        grow = super().grow
        self.check_live(lease)
        self.oracle.hear(lease)
        self._as_predicted(
            lambda: grow(lease, n_tokens),
            lambda: self.oracle.grow_shortage(lease, n_tokens),
        )
        self.oracle.grow(lease, n_tokens)
        self.counts["grown"] += 1

    def has_room(
        self, tokens: Sequence[int] | bytes, namespace: Hashable, n_pages: int
    ) -> bool:
        found = super().has_room(tokens, namespace, n_pages)
        due = self.oracle.lack(n_pages, _token_ids(tokens), namespace) is None
        assert found == due, f"there is room: {found}, not {due}"
        return found

    def commit(self, lease: Lease) -> None:
        super().commit(lease)
        self.oracle.commit(lease)

    def finish(self, lease: Lease) -> None:
        self._check_computed(lease)
        super().finish(lease)
        self.oracle.finish(lease)

    def cancel(self, lease: Lease) -> None:
        self._check_computed(lease)
        super().cancel(lease)
        self.oracle.cancel(lease)
        self.counts["leases cancelled"] += 1

    def flush(self) -> None:
        try:
            super().flush()
        except RuntimeError as error:
            self._check_refused_flush(str(error))
            raise
        self.oracle.flush()
        self.counts["flushes"] += 1

    def note(self, page_table: Any, start: int, tokens: Sequence[int]) -> None:
        """A model has computed `tokens`, from place `start` of a sequence on."""
        (lease,) = (lease for lease in self.leases if lease.page_table is page_table)
        self.oracle.compute(lease, start, tokens)

    def check(self) -> None:
        """Whatever holds between two calls."""
        self.check_integrity()
        self.oracle.check(self)

    def _as_predicted(
        self, call: Callable[[], Any], shortage: Callable[[], Shortage | None]
    ) -> Any:
        """Make a call that takes pages: it is refused just when the oracle says so.

        The oracle is asked afterwards, since a call that is short of pages has Python
        collect its garbage, and leases may end by that.
        """
        try:
            result = call()
        except OutOfPages as error:
            self._check_refusal(error, shortage())
            raise
        due = shortage()
        assert due is None, f"it was served, although {due} were too few"
        return result

    def _check_refusal(self, error: OutOfPages, due: Shortage | None) -> None:
        found = error.needed, error.free, error.evictable
        assert found == due, f"needed, free, evictable: {found}, not {due}"
        words = "pages needed: {}, free: {}, evictable: {}".format(*found)
        assert words in str(error)
        live = [lease for lease in self.forgotten if lease in self.leases]
        assert not live, "a request was refused for the sake of garbage"
        self.counts["refusals"] += 1

    def _check_refused_flush(self, words: str) -> None:
        n_running = len(self.oracle.requests)
        assert n_running, "a flush was refused, and nothing runs"
        assert f"still running: {n_running};" in words
        self.counts["flushes refused"] += 1

    def _check_computed(self, lease: Lease) -> None:
        if lease in self.oracle.requests:
            due = self.oracle.requests[lease].n_computed
            assert lease.n_computed == due, f"computed: {due}, not {lease.n_computed}"


class WatchedScheduler(Scheduler):
    """A scheduler that retracts whom it should, and keeps to its limits.

    What it has the router do is compared call by call.
    """

    router: WatchedRouter

    def step(self) -> Step:
        step = super().step()
        counts = self.router.counts
        counts["steps"] += 1
        for kind in ("admitted", "refused", "shared", "finished", "cancelled"):
            counts[kind] += len(getattr(step, kind))
        self.router.check()
        assert tuple(step.usage) == self.router.oracle.usage()
        assert not step.failed, f"failed: {step.failed[0].error!r}"
        n_computed = step.computed.values()
        assert sum(n_computed) + step.budget == self.token_budget
        assert step.budget >= 0
        assert all(0 < n <= self.chunk_tokens for n in n_computed)
        assert len(n_computed) <= self.max_running
        return step

    def _start(self, request: Request, step: Step) -> bool:
        is_new = request.admitted_at is None
        started = super()._start(request, step)
        if started and is_new:
            assert request.lease is not None
            due = self.router.oracle.requests[request.lease].n_cached
            assert request.n_cached == due
        return started

    def _retract(self, request: Request) -> None:
        ranks = {
            (r.priority, r.n_output, -r.n_prompt, -r.number): r for r in self.running
        }
        assert request is ranks[min(ranks)], "another was to be retracted"
        self.router.counts["retractions"] += 1
        super()._retract(request)


class WatchedTokenTime(RememberingModel):
    """Token time over a watched router: whatever is read is the request's own."""

    router_type = WatchedRouter
    router: WatchedRouter

    def step(self, leases: Sequence[Lease], n_tokens: Sequence[int]) -> list[int]:
        chunks = [
            (lease.page_table, lease.n_computed, lease.pending[:n])
            for lease, n in zip(leases, n_tokens, strict=True)
        ]
        rows = super().step(leases, n_tokens)
        for chunk in chunks:
            self.router.note(*chunk)
        return rows

    def fork(self, lease: Lease, max_new_tokens: int = 0) -> Lease:
        """As `RadixAttentionModel.fork`: a page that is computed in part is copied."""
        fork = self.router.fork(lease, max_new_tokens)
        tail = fork.n_shared
        if fork.n_computed > tail * self.router.page_size:
            source = int(lease.page_table[tail])
            self.memory.copy_page(source, int(fork.page_table[tail]))
        return fork


def _token_ids(tokens: Sequence[int] | bytes) -> list[int]:
    return unpack_tokens(pack_tokens(tokens))
