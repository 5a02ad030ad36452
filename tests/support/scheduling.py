"""Schedulers in token time, what a step of them did, and what must hold between two."""

from __future__ import annotations

from typing import Any

from radix_lib.request import Step
from radix_lib.scheduler import Scheduler
from radix_lib.token_time import Cost, TokenTime
from tests.support.inspection import check_router


def check_scheduler(scheduler: Scheduler, step: Step | None = None) -> None:
    """The router is whole, and so is the queue."""
    check_router(scheduler.router, getattr(scheduler.model, "memory", None))
    check_queue(scheduler)


def check_queue(scheduler: Scheduler) -> None:
    """Everyone is in one place, with a lease or without."""
    numbers = [request.number for request in scheduler.waiting]
    assert numbers == sorted(numbers)
    everyone = set(scheduler.unfinished.values())
    assert {*scheduler.waiting, *scheduler.running} == everyone
    assert not {*scheduler.waiting} & {*scheduler.running}
    leases = {request.lease for request in scheduler.running}
    assert leases <= {*scheduler.router.leases}
    assert all(request.lease is None for request in scheduler.waiting)
    for request in everyone:
        state = "running" if request in scheduler.running else "waiting"
        assert request.state == (request.outcome or state)
        if request.lease:
            assert request.key.startswith(request.lease.key)
            assert request.n_pending > 0 or request.outcome


def scheduler_of(n_pages: int = 64, page_size: int = 2, **settings: Any) -> Scheduler:
    model = TokenTime(n_pages, page_size, cost=Cost(a=10, b=1, c=0))
    return Scheduler(model, **settings)


def prompt(n: int, start: int = 0) -> list[int]:
    return list(range(start, start + n))


def told(step: Step) -> dict[str, Any]:
    """A step by the numbers of its requests, without what did not happen."""
    lists = "decoded admitted refused shared retracted finished cancelled failed"
    found: dict[str, Any] = {
        name: [request.number for request in getattr(step, name)]
        for name in lists.split()
    }
    found["prefilled"] = {r.number: n for r, n in step.prefilled.items()}
    return {name: what for name, what in found.items() if what}


def steps_of(scheduler: Scheduler) -> list[Step]:
    steps: list[Step] = []
    scheduler.run(steps.append)
    return steps
