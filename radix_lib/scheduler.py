"""Chapter 08: the scheduler. Many requests at once, from one queue, over one model.

A request has tokens, and K/V exist for the first of them. A step lets the computed
tokens catch up with the tokens: a prompt lags by many, an answer by one, and there is
no other difference between prefill and decode.

    step:  hear ── decode ── go on with prompts ── admit ── one packed forward ── choose
              (retract where pages run out)

What is true is who is unfinished and which leases live. The lists of who runs and who
waits follow from it, and are worked out anew when a step is interrupted.

Left out here: the order of those who wait (`orders`), and a model that only counts
(`token_time`). Source: vLLM V1, `v1/core/sched/scheduler.py` (computed tokens catch
up); SGLang 0.5.9, `managers/scheduler.py` and `managers/schedule_policy.py` (admission
by estimate), `managers/schedule_batch.py` (retraction).
"""

from __future__ import annotations

import math
from bisect import insort
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from itertools import count
from operator import attrgetter
from typing import Any

from radix_lib.admission import Coming, NewTokenRatio, PageBudget, first_to_retract
from radix_lib.orders import ORDERS
from radix_lib.radix_tree import TOKEN_BYTES, unpack_tokens
from radix_lib.request import Model, Request, Step
from radix_lib.router import Lease

#: How many of those who cannot be admitted a step looks at, at most.
LOOKAHEAD = 128


class Scheduler:
    """Serves requests over one model, several in each step.

    A step computes at most `token_budget` tokens, of at most `max_running` requests,
    and at most `chunk_tokens` of one: where these are None, the budget is the only
    limit. `order` is one of `ORDERS`; a request that
    `patience` later ones have passed is next, whatever the order. With `prefill_first`
    answers wait while there are prompts to compute (SGLang's default). With
    `share_in_batch` a request waits while a neighbour computes a prefix of its own.
    Under lpm more than `lpm_fallback` waiting requests are served as they came.
    """

    def __init__(
        self,
        model: Model,
        *,
        token_budget: int = 256,
        max_running: int | None = None,
        chunk_tokens: int | None = None,
        order: str = "fcfs",
        patience: int = 256,
        prefill_first: bool = False,
        share_in_batch: bool = True,
        lpm_fallback: int | None = None,
        ratio: NewTokenRatio | None = None,
    ):
        if order not in ORDERS:
            raise ValueError(f"no order {order!r}: choose from {', '.join(ORDERS)}")
        self.max_running = token_budget if max_running is None else max_running
        if not 1 <= self.max_running <= token_budget:
            raise ValueError(
                f"max_running={max_running}, token_budget={token_budget}: at least one "
                "request runs, and in each step all that run may get a token"
            )
        self.chunk_tokens = token_budget if chunk_tokens is None else chunk_tokens
        if self.chunk_tokens < 1 or patience < 1:
            raise ValueError(
                f"chunk_tokens={chunk_tokens}, patience={patience}: both are at least 1"
            )
        self.model = model
        self.router = model.router
        self.token_budget = token_budget
        self.order = order
        self.patience = patience
        self.prefill_first = prefill_first
        self.share_in_batch = share_in_batch
        self.lpm_fallback = math.inf if lpm_fallback is None else lpm_fallback
        self.pages = PageBudget(model.router, ratio or NewTokenRatio())
        self.numbers = count()
        self.inbox: deque[Request] = deque()  # new, or cancelled, since the last step
        self.unfinished: dict[int, Request] = {}  # by number
        self.waiting: list[Request] = []  # by number, too
        self.running: dict[Request, None] = {}  # a set, in order of admission
        self.priorities: set[int] = set()  # all that were ever heard of
        self.n_heard = 0  # requests, up to now
        self.n_prefilled = 0  # tokens
        self.n_steps = 0

    # ── Requests ──────────────────────────────────────────────────────────────────────

    def submit(
        self,
        prompt: Any,
        max_new_tokens: int = 32,
        *,
        namespace: Hashable = None,
        priority: int = 0,
        **sampling: Any,
    ) -> Request:
        """Put a request into the queue; `sampling` as the model's `sampler` takes it.

        Raises ValueError for one that could never be served.
        """
        key = self.router.checked_key(self.model.encode(prompt))
        if max_new_tokens < 1:
            raise ValueError(f"max_new_tokens is at least 1, not {max_new_tokens}")
        self.router._pages_for(len(key) // TOKEN_BYTES, max_new_tokens)
        sampler = self.model.sampler(**sampling)
        number = next(self.numbers)
        request = Request(
            self, number, key, max_new_tokens, namespace, priority, sampler
        )
        self.inbox.append(request)
        return request

    @property
    def n_unfinished(self) -> int:
        """How many requests are not over, or still hold pages."""
        return len(self.unfinished) + len(self.inbox)

    def run(self, progress: Callable[[Step], Any] | None = None) -> None:
        """Take steps until nothing is left to do, and show each to `progress`."""
        while self.n_unfinished:
            step = self.advance()
            if progress:
                progress(step)

    def advance(self) -> Step:
        """Take a step. Raises RuntimeError if nothing can ever come of it."""
        step = self.step()
        if self.waiting and not (step.computed or step.retracted or step.cancelled):
            raise RuntimeError(
                f"requests waiting: {len(self.waiting)}, running: none. Leases outside "
                "this scheduler hold the pages: finish or cancel those"
            )
        return step

    # ── One step ──────────────────────────────────────────────────────────────────────

    def step(self) -> Step:
        """Let each running request, and those admitted now, catch up by some tokens."""
        leases_before = self.router.leases.copy()
        try:
            usage, now = self.router.usage(), self.model.clock()
            step = Step(self.n_steps, self.token_budget, usage, now)
            self._hear(step)
            self._plan(step)
            self._compute(step)
            step.usage = self.router.usage()
            self.n_steps += 1
        except BaseException:
            self._recover(leases_before)
            raise
        return step

    def _hear(self, step: Step) -> None:
        """Take in what was said since the last step: who is new, who is cancelled."""
        while self.inbox:
            request = self.inbox[0]
            if request.outcome and request.ended_at is None:
                self._end(request)
                step.cancelled.append(request)
            elif not request.outcome and request.number not in self.unfinished:
                self.unfinished[request.number] = request
                self.priorities.add(request.priority)
                insort(self.waiting, request, key=attrgetter("number"))
                self.n_heard = request.number + 1
            self.inbox.popleft()

    def _plan(self, step: Step) -> None:
        """Say who computes how many tokens: those who run first, then new ones."""
        if self.prefill_first:
            self._prefill(step)
            self._admit(step)
            if not step.prefilled:
                self._decode(step)
        else:
            self._decode(step)
            self._prefill(step)
            self._admit(step)

    def _decode(self, step: Step) -> None:
        """One token for all who lag by one; where pages run out, some are retracted."""
        self._make_room(step)
        for request in self.running:
            if request.is_decoding:
                self._catch_up(request)
                step.decoded.append(request)
                step.budget -= 1

    def _prefill(self, step: Step) -> None:
        """Go on with those who lag by more."""
        for request in self.running:
            if not request.is_decoding:
                self._take_chunk(request, step)

    def _take_chunk(self, request: Request, step: Step) -> None:
        n_tokens = min(request.n_pending, self.chunk_tokens, step.budget)
        if n_tokens:
            step.prefilled[request] = n_tokens
            step.budget -= n_tokens

    def _catch_up(self, request: Request) -> None:
        """Tell the lease of the token that the answer has got, and find room for it."""
        lease = request.lease
        assert lease is not None
        if lease.n_tokens < request.n_tokens:
            if len(lease.page_table) * self.router.page_size < request.n_tokens:
                self.router.grow(lease)
            lease.append(*unpack_tokens(request.key[len(lease.key) :]))

    # ── Pages: a reserve, and retraction where it was too small ───────────────────────

    def _make_room(self, step: Step) -> None:
        """Retract requests until all others can have the pages that they need now."""
        while self.pages.n_due(self.running) > self.pages.n_available:
            victim = min(self.running, key=first_to_retract)
            self._retract(victim)
            step.retracted.append(victim)
        if step.retracted:
            self.pages.ratio.rise(self.running)
        else:
            self.pages.ratio.fall()

    def _retract(self, request: Request) -> None:
        """Send a running request back to its place in the queue.

        What it has computed goes to the tree, so it resumes from a hit, unless others
        have pushed that out by then. Its answer so far stays: no token is chosen twice.
        """
        assert request.lease is not None
        self.router.finish(request.lease)
        request.lease = None
        request.n_retractions += 1
        del self.running[request]
        insort(self.waiting, request, key=attrgetter("number"))

    # ── Admission ─────────────────────────────────────────────────────────────────────

    def _admit(self, step: Step) -> None:
        """Admit those who wait while there are budget, places and pages."""
        if step.retracted or not self.waiting or not self._has_place(step):
            return
        n_promised = self.pages.n_promised(self.running)
        coming = Coming(self.running, self.router.page_size)
        for request in self._candidates():
            n_passed_over = len(step.refused) + len(step.shared)
            if not self._has_place(step) or n_passed_over >= LOOKAHEAD:
                break
            if n_promised >= self.pages.n_available:
                break
            if self.share_in_batch and coming.has_part_of(request):
                step.shared.append(request)
            elif not self._fits(request, n_promised, step):
                step.refused.append(request)
            else:
                self._start(request, step)
                n_promised += self.pages.n_promised([request])
                coming.add(request)

    def _has_place(self, step: Step) -> bool:
        return step.budget > 0 and len(self.running) < self.max_running

    def _candidates(self) -> Iterator[Request]:
        """Those who wait, in the order in which to try them.

        Whoever was passed `patience` times is next, and nobody passes it any more.
        """
        while self.waiting and self._n_passed(self.waiting[0]) >= self.patience:
            oldest = self.waiting[0]
            yield oldest
            if oldest.lease is None:
                return
        many = self.order == "lpm" and len(self.waiting) > self.lpm_fallback
        in_order = ORDERS["fcfs" if many else self.order]
        ordered = in_order(self.waiting, self.router.cache)
        if len(self.priorities) > 1:
            ordered.sort(key=lambda request: -request.priority)
        yield from ordered

    def _n_passed(self, oldest: Request) -> int:
        """How many requests that came after the oldest one have left the queue."""
        n_later = self.n_heard - oldest.number - 1
        return n_later - (len(self.waiting) - 1)

    def _fits(self, request: Request, n_promised: int, step: Step) -> bool:
        """Whether there is room for a request, besides what the others are to get.

        Only the first that has to wait is worth a look into the tree; others pass it
        if they fit with nothing cached.
        """
        if self.pages.fits_cold(request, n_promised):
            return True
        return not step.refused and self.pages.fits(request, n_promised)

    def _start(self, request: Request, step: Step) -> None:
        """Admit a request: what is cached of it is locked, and it gets its pages."""
        lease = self.router.admit(request.key, request.namespace)
        if not (request.n_retractions or request.n_output):  # for the first time
            request.admitted_at = step.began_at
            request.n_cached = lease.n_cached
        request.lease = lease
        self.waiting.remove(request)
        self.running[request] = None
        step.admitted.append(request)
        self._take_chunk(request, step)

    # ── The forward, and what comes of it ─────────────────────────────────────────────

    def _compute(self, step: Step) -> None:
        """Run the model once over all that was planned, and choose the next tokens."""
        computed = step.computed
        try:
            rows = self._forward(computed)
        except Exception as error:
            for request in computed:
                self._fail(request, error, step)
            rows = []
        step.ended_at = self.model.clock()
        self.n_prefilled += sum(step.prefilled.values())
        for request in step.prefilled:
            if request.lease:
                self.router.commit(request.lease)  # from here on others find it
        for request, row in zip(computed, rows, strict=False):
            self._choose(request, row, step)

    def _forward(self, computed: dict[Request, int]) -> Iterable[Any]:
        if not computed:
            return []
        leases = [request.lease for request in computed if request.lease]
        return self.model.step(leases, list(computed.values()))

    def _choose(self, request: Request, row: Any, step: Step) -> None:
        """The next token of a request that has caught up; with the last, its end."""
        if request.outcome or request.n_pending:
            return
        try:
            request.append(request.sampler.choose(row, request.n_output))
        except Exception as error:
            self._fail(request, error, step)
            return
        if request.first_token_at is None:
            request.first_token_at = step.ended_at
        if request.is_complete:
            request.outcome = "finished"
            self._end(request)
            step.finished.append(request)

    def _fail(self, request: Request, error: Exception, step: Step) -> None:
        request.error = error
        request.outcome = "failed"
        self._end(request)
        step.failed.append(request)

    def _end(self, request: Request) -> None:
        """Give back what a request holds. Done twice, it does nothing more."""
        if request.lease in self.router.leases:
            end = self.router.cancel
            if request.outcome == "finished":
                end = self.router.finish
            end(request.lease)
        request.lease = None
        request.ended_at = self.model.clock()
        if request in self.running:
            del self.running[request]
        elif request in self.waiting:
            self.waiting.remove(request)
        self.unfinished.pop(request.number, None)

    def _recover(self, leases_before: dict[Lease, None]) -> None:
        """After an interrupt, work out anew all that follows from what is true."""
        held = {request.lease for request in self.unfinished.values()}
        for lease in list(self.router.leases):
            if lease not in held and lease not in leases_before:
                self.router.cancel(lease)
        for request in list(self.unfinished.values()):
            self._settle(request)
        everyone = [self.unfinished[number] for number in sorted(self.unfinished)]
        self.waiting = [request for request in everyone if not request.lease]
        self.running = {request: None for request in everyone if request.lease}

    def _settle(self, request: Request) -> None:
        """Bring one request to where it may go on, or to its end."""
        if request.is_complete and not request.outcome:
            request.outcome = "finished"
        if request.outcome:
            self._end(request)
        elif request.lease not in self.router.leases:
            request.lease = None
        elif not request.n_pending:  # what the model said of its next token is lost
            self.router.finish(request.lease)
            request.lease = None
            request.n_retractions += 1
