"""What must hold of a scheduler between two steps."""

from __future__ import annotations

from radix_lib.request import Step
from radix_lib.scheduler import Scheduler
from tests.support.inspection import check_router


def check_scheduler(scheduler: Scheduler, step: Step | None = None) -> None:
    """Everyone is in one place, with a lease or without, and the router is whole."""
    router = scheduler.router
    check_router(router, getattr(scheduler.model, "memory", None))
    numbers = [request.number for request in scheduler.waiting]
    assert numbers == sorted(numbers)
    everyone = set(scheduler.unfinished.values())
    assert {*scheduler.waiting, *scheduler.running} == everyone
    assert not {*scheduler.waiting} & {*scheduler.running}
    leases = {request.lease for request in scheduler.running}
    assert leases <= {*router.leases}
    assert all(request.lease is None for request in scheduler.waiting)
    for request in everyone:
        state = "running" if request in scheduler.running else "waiting"
        assert request.state == (request.outcome or state)
        if request.lease:
            assert request.key.startswith(request.lease.key)
            assert request.n_pending > 0 or request.outcome
