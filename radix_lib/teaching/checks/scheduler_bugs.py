"""Chapter 08: five bugs that schedulers in the field have had, each to be run.

Each has a scheduler whose mending is taken out, a scene in token time that measures
what the bug does, and the most that a mended scheduler may show there.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, NamedTuple

from radix_lib.admission import NewTokenRatio
from radix_lib.page_manager import OutOfPages
from radix_lib.radix_tree import TOKEN_BYTES
from radix_lib.request import Request, Step
from radix_lib.scheduler import Scheduler
from radix_lib.token_time import Cost, TokenTime

SchedulerType = Callable[..., Scheduler]


def _prompt(number: int, n_tokens: int) -> list[int]:
    """Tokens that no other number's prompt begins with."""
    return [100 * number + i % 100 for i in range(n_tokens)]


# ── Longest prefix first starves who has none ─────────────────────────────────────────


class NeverAges(Scheduler):
    """Longest prefix first, however often somebody is passed."""

    def __init__(self, *args: Any, **settings: Any):
        super().__init__(*args, **settings)
        self.waiting.patience = sys.maxsize


def times_passed(scheduler_type: SchedulerType) -> float:
    """How many that came later go before a cold request, while warm ones keep coming.

    The pool has room for two at a time; each warm request has its prefix in the tree.
    """
    model = TokenTime(n_pages=40, page_size=4)
    scheduler = scheduler_type(model, order="lpm", patience=8, max_running=2)
    warm = _prompt(1, 40)
    scheduler.submit(warm, 1).wait()
    cold = scheduler.submit(_prompt(2, 40), 2)
    n_passed = 0
    for number in range(100):
        scheduler.submit([*warm, number], 2)
        scheduler.submit([*warm, number, 1], 2)
        step = scheduler.step()
        if cold in step.admitted:
            break
        n_passed += len(step.admitted)
    return n_passed


# ── Prefills starve answers ───────────────────────────────────────────────────────────


class PromptsFirst(Scheduler):
    """Answers wait as long as there is a prompt to compute."""

    def _plan(self, step: Step) -> None:
        self._prefill(step)
        self._admit(step)
        if not step.prefilled:
            self._decode(step)


def longest_silence(scheduler_type: SchedulerType) -> float:
    """The ticks between two tokens of an answer, at most, while prompts keep coming."""
    model = TokenTime(n_pages=400, page_size=4, cost=Cost(a=10, b=1, c=0))
    scheduler = scheduler_type(model, token_budget=32)
    answer = scheduler.submit(_prompt(0, 8), 20)
    scheduler.step()
    silence, spoke_at = 0.0, model.clock()
    for number in range(1, 40):
        scheduler.submit(_prompt(number, 30), 2)
        n_output = answer.n_output
        scheduler.step()
        silence = max(silence, model.clock() - spoke_at)
        if answer.n_output > n_output:
            spoke_at = model.clock()
        if answer.outcome:
            break
    return silence


# ── Chunks are admitted of a prompt that cannot fit ───────────────────────────────────


class AdmitsChunks(Scheduler):
    """A prompt is admitted when its first chunk fits, and asks for pages as it goes."""

    def _fits(self, request: Request, n_promised: int, step: Step) -> bool:
        n_tokens = min(request.n_tokens, self.chunk_tokens)
        return self.router.page_manager.pages_for(n_tokens) <= self.pages.n_available

    def _start(self, request: Request, step: Step) -> bool:
        whole = request.key
        request.key = whole[: self.chunk_tokens * TOKEN_BYTES]
        started = super()._start(request, step)
        request.key = whole
        return started

    def _prefill(self, step: Step) -> None:
        for request in list(self.running):
            lease = request.lease
            if lease is not None and not request.is_decoding:
                missing = request.key[len(lease.key) :][
                    : self.chunk_tokens * TOKEN_BYTES
                ]
                n_missing = len(missing) // TOKEN_BYTES
                try:
                    self.router.grow(lease, n_missing)
                except OutOfPages:
                    self._retract(request)
                    continue
                lease.key += missing
                self._take_chunk(request, step)


def tokens_computed_again(scheduler_type: SchedulerType) -> float:
    """The share of tokens computed more than once, of four prompts that fill the pool.

    Any of them fits alone, no two do.
    """
    model = TokenTime(n_pages=24, page_size=4)
    scheduler = scheduler_type(model, token_budget=32, chunk_tokens=8)
    requests = [scheduler.submit(_prompt(number, 60), 4) for number in range(4)]
    for _ in range(400):
        if scheduler.n_unfinished:
            scheduler.advance()
    due = sum(request.n_prompt for request in requests)
    return scheduler.n_prefilled / due - 1


# ── Who is retracted comes back too early, and is retracted again ─────────────────────


class ComesBackAtOnce(Scheduler):
    """A retraction teaches nothing: the reserve stays what it was."""

    def _decode(self, step: Step) -> None:
        value = self.pages.ratio.value
        super()._decode(step)
        self.pages.ratio.value = value


def retractions_a_request(scheduler_type: SchedulerType) -> float:
    """How often a request is retracted, on average, where answers are long."""
    model = TokenTime(n_pages=60, page_size=4)
    scheduler = scheduler_type(model, ratio=NewTokenRatio(0.05, 0.0))
    requests = [scheduler.submit(_prompt(number, 12), 80) for number in range(20)]
    scheduler.run()
    return sum(request.n_retractions for request in requests) / len(requests)


# ── An abort leaks ────────────────────────────────────────────────────────────────────


class LeaksOnAbort(Scheduler):
    """A request that is cancelled between two of its chunks keeps its pages."""

    def _end(self, request: Request) -> None:
        if request.outcome == "cancelled" and request.n_pending > 1:
            request.lease = None
        super()._end(request)


def pages_leaked(scheduler_type: SchedulerType) -> float:
    """How many pages are held when everyone is gone, of ten that were cancelled."""
    model = TokenTime(n_pages=200, page_size=4)
    scheduler = scheduler_type(model, token_budget=16)
    for number in range(10):
        request = scheduler.submit(_prompt(number, 40), 4)
        scheduler.step()
        request.cancel()
    scheduler.run()
    usage = model.router.usage()
    return usage.locked + usage.private


class FieldBug(NamedTuple):
    """A bug: where it was met, a scheduler that has it, and how it shows."""

    source: str
    unmended: type[Scheduler]
    measure: Callable[[SchedulerType], float]
    limit: float  # a mended scheduler measures at most this


FIELD_BUGS: dict[str, FieldBug] = {
    "longest prefix first starves who has none": FieldBug(
        "sglang #31954", NeverAges, times_passed, 8
    ),
    "prefills starve answers": FieldBug(
        "sglang #32549", PromptsFirst, longest_silence, 42
    ),
    "chunks of a prompt that cannot fit": FieldBug(
        "vLLM PR #21809", AdmitsChunks, tokens_computed_again, 0
    ),
    "retracted again and again": FieldBug(
        "sglang #26248", ComesBackAtOnce, retractions_a_request, 1
    ),
    "an abort leaks": FieldBug("sglang PR #12693", LeaksOnAbort, pages_leaked, 0),
}
