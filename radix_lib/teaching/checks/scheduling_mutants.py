"""Chapter 08: broken on purpose. Schedulers that change an answer, or lose a page.

Every fault is one small change to a part that is right. `examine_scheduling` plays
drawn schedules with it, on a stand-in that remembers what was written where, until
something is found.
"""

# ruff: noqa: D102  (a broken class says in its own docstring what is wrong)

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from radix_lib.request import Request, Step
from radix_lib.router import Lease, Router
from radix_lib.scheduler import Scheduler
from radix_lib.teaching.checks.schedules import (
    Drawn,
    RememberingModel,
    check_answers,
    draw_schedule,
    play_schedule,
)


class KeepsTheUncomputed(Scheduler):
    """A retracted request leaves K/V of tokens in the tree that were never computed."""

    def _retract(self, request: Request) -> None:
        assert request.lease is not None
        request.lease.advance(request.lease.n_tokens - request.lease.n_computed)
        super()._retract(request)


class SkipsOneToken(Scheduler):
    """After a retraction the first chunk starts one token too late."""

    def _start(self, request: Request, step: Step) -> bool:
        started = super()._start(request, step)
        if request.lease and request.n_retractions and request.n_pending > 1:
            request.lease.advance(1)
        return started


class CountsTheLastToken(Scheduler):
    """The last token of an answer enters the tree, though nobody computed its K/V."""

    def _end(self, request: Request) -> None:
        lease = request.lease
        if request.outcome == "finished" and lease is not None:
            room = len(lease.page_table) * self.router.page_size
            if lease.n_tokens < room:
                lease.append(request.output[-1])
                lease.advance(1)
        super()._end(request)


class CancelsAtOnce(Scheduler):
    """A cancelled request's pages are given to others while its step is in flight."""

    def _admit(self, step: Step) -> None:
        while self.inbox and self.inbox[-1].outcome:
            self._end(self.inbox.pop())
        super()._admit(step)


class MixesUpRows(Scheduler):
    """Where prompts and answers run in one step, they get each other's logits."""

    def _forward(self, computed: dict[Request, int]) -> Sequence[Any]:
        rows = list(super()._forward(computed))
        decoding = [request for request in computed if request.n_output]
        return rows[::-1] if 0 < len(decoding) < len(computed) else rows


class ForgetsTheNamespace(Scheduler):
    """A retracted request comes back into everybody's namespace."""

    def _retract(self, request: Request) -> None:
        super()._retract(request)
        request.namespace = None


class KeepsAnAbortedLease(Scheduler):
    """A request that is cancelled while it runs keeps its pages."""

    def _end(self, request: Request) -> None:
        if request.outcome == "cancelled":
            request.lease = None
        super()._end(request)


class GivesAPageTwice(Router):
    """Two requests that grow in one step are given the same page."""

    given: Any = None

    def grow(self, lease: Lease, n_tokens: int = 1) -> None:
        n_before = len(lease.page_table)
        super().grow(lease, n_tokens)
        if len(lease.page_table) > n_before:
            taken, lender = self.given or (0, None)
            if lender in self.leases and lender is not lease:
                lease.page_table[-1] = taken
            self.given = (lease.page_table[-1], lease)


class GrowsOverTheTree(Router):
    """A lease grows by pages that the tree still lists."""

    def grow(self, lease: Lease, n_tokens: int = 1) -> None:
        n_before = len(lease.page_table)
        super().grow(lease, n_tokens)
        for node in self.cache.nodes():
            if len(lease.page_table) > n_before and node.lock_ref == 0:
                lease.page_table[-1] = node.pages[-1]
                return


class SchedulingMutant(NamedTuple):
    """One fault: what is wrong, in a sentence, and the class that has it."""

    what: str
    part: type[Scheduler] | type[Router]


#: All of them: "keeps the uncomputed", "skips one token", …
SCHEDULING_MUTANTS: dict[str, SchedulingMutant] = {
    re.sub(r"\B(?=[A-Z])", " ", broken.__name__).lower(): SchedulingMutant(
        str(broken.__doc__), broken
    )
    for broken in (
        KeepsTheUncomputed,
        SkipsOneToken,
        CountsTheLastToken,
        CancelsAtOnce,
        MixesUpRows,
        ForgetsTheNamespace,
        KeepsAnAbortedLease,
        GivesAPageTwice,
        GrowsOverTheTree,
    )
}


def examine_scheduling(
    part: type[Scheduler] | type[Router] = Scheduler, seeds: Iterable[int] = range(60)
) -> str:
    """What is wrong with a scheduler, or with one on such a router; "" if nothing is.

    Schedules are played one after another, up to the first that goes wrong.
    """
    for seed in seeds:
        if found := _fault_in(draw_schedule(seed), part):
            return f"schedule {seed}: {found}"
    return ""


def _fault_in(drawn: Drawn, part: type[Scheduler] | type[Router]) -> str:
    scheduler_type = part if issubclass(part, Scheduler) else Scheduler
    router_type = part if issubclass(part, Router) else Router
    model_type: Any = type("Model", (RememberingModel,), {"router_type": router_type})
    model = model_type(drawn.n_pages, drawn.page_size)
    try:
        check_answers(model, play_schedule(drawn, model, scheduler_type))
    except Exception as error:  # whatever is raised, something is wrong
        return f"{type(error).__name__}: {error}"
    return ""
