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

import sys
from collections import deque
from collections.abc import Callable, Hashable, Iterable
from itertools import count
from typing import Any

from radix_lib.admission import Coming, NewTokenRatio, PageBudget, first_to_retract
from radix_lib.guard import Guarded
from radix_lib.orders import Queue
from radix_lib.page_manager import OutOfPages
from radix_lib.radix_tree import (
    TOKEN_BYTES,
    check_namespace,
    unpack_tokens,
    whole_number,
)
from radix_lib.request import Model, Request, Step

#: How many of those who cannot be admitted a step looks at, at most.
LOOKAHEAD = 128


class Scheduler(Guarded):
    """Serves requests over one model, several in each step.

    A step computes at most `token_budget` tokens, of at most `max_running` requests,
    and at most `chunk_tokens` of one: where these are None, the budget is the only
    limit. `order`, `patience` and `lpm_fallback` are the `Queue`'s, `ratio` says how
    much is kept back for answers. With `prefill_first` answers wait while there are
    prompts to compute (SGLang's default). With `share_in_batch` a request waits while a
    neighbour computes a prefix of its own.
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
        super().__init__()
        self.model = model
        self.router = model.router
        self.token_budget = whole_number(token_budget, "token_budget", least=1)
        self.max_running = self.chunk_tokens = self.token_budget
        if max_running is not None:
            self.max_running = whole_number(max_running, "max_running", least=1)
        if chunk_tokens is not None:
            self.chunk_tokens = whole_number(chunk_tokens, "chunk_tokens", least=1)
        if self.max_running > self.token_budget:
            raise ValueError(
                f"max_running={max_running}, token_budget={token_budget}: in a step all "
                "that run may get a token, so the budget is not the smaller one"
            )
        self.prefill_first = prefill_first
        self.share_in_batch = share_in_batch
        self.pages = PageBudget(model.router, ratio or NewTokenRatio())
        self.numbers = count()
        self.inbox: deque[Request] = deque()  # new, or cancelled, since the last step
        self.unfinished: dict[int, Request] = {}  # by number
        self.waiting = Queue(order, patience, lpm_fallback)
        self.running: dict[Request, None] = {}  # a set, in order of admission
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

        Any thread may call it. Raises ValueError for one that could never be served.
        """
        key = self.router.checked_key(self.model.encode(prompt))
        n_prompt = len(key) // TOKEN_BYTES
        max_new_tokens = whole_number(max_new_tokens, "max_new_tokens", least=1)
        if n_prompt < 1 or n_prompt + max_new_tokens > self.router.max_tokens:
            raise ValueError(
                f"a prompt of {n_prompt} tokens, max_new_tokens={max_new_tokens}: at "
                f"least one token is due, and at most {self.router.max_tokens} in all"
            )
        check_namespace(namespace)
        priority = whole_number(priority, "priority", least=-sys.maxsize)
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
        heard = self.unfinished
        # a copy: another thread may add to the inbox meanwhile
        new = {request for request in tuple(self.inbox) if request.number not in heard}
        return len(heard) + len(new)

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
        """Let each running request, and those admitted now, catch up by some tokens.

        One at a time: another thread waits until it is over.
        """
        return self._alone(self._step)

    def _step(self) -> Step:
        try:
            usage, now = self.router.usage(), self.model.clock()
            step = Step(self.n_steps, self.token_budget, usage, now)
            self._hear(step)
            self._plan(step)
            self._compute(step)
            step.usage = self.router.usage()
            self.n_steps += 1
        except BaseException:
            self._recover()
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
                self.waiting.add(request)
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
        for request in list(self.running):
            while self._lacks_a_page(request):
                self._grow_or_retract(request, step)
        for request in self.running:
            if request.is_decoding:
                self._pass_on(request)
                step.decoded.append(request)
                step.budget -= 1
        if step.retracted:
            self.pages.ratio.rise(self.running)
        elif step.decoded:
            self.pages.ratio.fall()

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

    def _pass_on(self, request: Request) -> None:
        """Tell the lease of the token that the answer has got."""
        lease = request.lease
        assert lease is not None
        if lease.n_tokens < request.n_tokens:
            lease.append(*unpack_tokens(request.key[len(lease.key) :]))

    # ── Pages: where they run out, somebody goes back ─────────────────────────────────

    def _lacks_a_page(self, request: Request) -> bool:
        """Whether the token that a request is to compute has no place in its pages."""
        if request.lease is None or not request.is_decoding:
            return False
        room = len(request.lease.page_table) * self.router.page_size
        return room < request.n_tokens

    def _grow_or_retract(self, request: Request, step: Step) -> None:
        """Give a request one page more; if there is none, retract somebody, or it."""
        assert request.lease is not None
        try:
            self.router.grow(request.lease)
        except OutOfPages:
            victim = min(self.running, key=first_to_retract)
            self._retract(victim)
            step.retracted.append(victim)

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
        self.waiting.add(request)

    # ── Admission ─────────────────────────────────────────────────────────────────────

    def _admit(self, step: Step) -> None:
        """Admit those who wait while there are budget, places and pages."""
        if step.retracted or not self.waiting or not self._has_place(step):
            return
        n_promised = self.pages.n_promised(self.running)
        coming = Coming(self.running, self.router.page_size)
        for request in self.waiting.candidates(self.router.cache):
            n_passed_over = len(step.refused) + len(step.shared)
            if not self._has_place(step) or n_passed_over >= LOOKAHEAD:
                break
            if n_promised >= self.pages.n_available:
                break
            if self.share_in_batch and coming.has_part_of(request):
                step.shared.append(request)
            elif self._fits(request, n_promised, step) and self._start(request, step):
                n_promised += self.pages.n_promised([request])
                coming.add(request)
            else:
                step.refused.append(request)

    def _has_place(self, step: Step) -> bool:
        return step.budget > 0 and len(self.running) < self.max_running

    def _fits(self, request: Request, n_promised: int, step: Step) -> bool:
        """Whether there is room for a request, besides what the others are to get.

        Only the first that has to wait is worth a look into the tree; others pass it
        if they fit with nothing cached.
        """
        if self.pages.fits_cold(request, n_promised):
            return True
        return not step.refused and self.pages.fits(request, n_promised)

    def _start(self, request: Request, step: Step) -> bool:
        """Admit a request: what is cached of it is locked, and it gets its pages.

        False if that fails: another thread may have taken pages since it was to fit.
        """
        try:
            lease = self.router.admit(request.key, request.namespace)
        except OutOfPages:
            return False
        if not (request.n_retractions or request.n_output):  # for the first time
            request.admitted_at = step.began_at
            request.n_cached = lease.n_cached
        request.lease = lease
        self.waiting.remove(request)
        self.running[request] = None
        step.admitted.append(request)
        self._take_chunk(request, step)
        return True

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

    def _recover(self) -> None:
        """After an interrupt, work out anew all that follows from what is true."""
        held = {request.lease for request in self.unfinished.values()}
        keys = {id(request.key) for request in self.unfinished.values()}
        for lease in list(self.router.leases):
            if id(lease.key) in keys and lease not in held:
                self.router.cancel(lease)  # it was on its way to its request
        for request in list(self.unfinished.values()):
            self._settle(request)
        everyone = [self.unfinished[number] for number in sorted(self.unfinished)]
        self.waiting.replace(request for request in everyone if not request.lease)
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
