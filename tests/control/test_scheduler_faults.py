"""An interrupt between any two lines of a step leaves nothing half done.

Every request is where it was or one step on, no page is lost, and the scheduler goes on
to the answers that it would have given.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from typing import Any

import pytest

from radix_lib import (
    admission,
    eviction,
    orders,
    page_manager,
    radix_cache,
    radix_tree,
    request as request_module,
    router,
    scheduler,
    token_time,
)
from radix_lib.admission import NewTokenRatio
from radix_lib.request import Request
from radix_lib.scheduler import Scheduler
from radix_lib.teaching.checks.schedules import RememberingModel, alone
from tests.support.inspection import check_idle
from tests.support.interrupts import interrupted_everywhere
from tests.support.scheduling import check_scheduler, prompt, scheduler_of

pytestmark = pytest.mark.usefixtures("no_collector")

OWN = {module.__file__ for module in (scheduler, request_module, admission, orders)}
ALL = OWN | {
    module.__file__
    for module in (eviction, page_manager, radix_cache, radix_tree, router, token_time)
}


class World:
    """Six requests in a small pool, some steps on their way.

    In most of their steps somebody decodes, somebody is in the middle of a prompt and
    somebody waits; in some a request ends, is cancelled, retracted or admitted.
    """

    def __init__(self, order: str, n_steps: int):
        self.model = RememberingModel(n_pages=11, page_size=2)
        self.scheduler = Scheduler(
            self.model,
            token_budget=7,
            chunk_tokens=5,
            order=order,
            patience=2,
            ratio=NewTokenRatio(0, 0, decay=1),
        )
        self.requests = [self.submit(n, room) for n, room in [(5, 6), (8, 4), (3, 9)]]
        for number in range(n_steps):
            self.talk(number)
            self.scheduler.step()
        self.talk(n_steps)

    def submit(self, n_tokens: int, max_new_tokens: int) -> Request:
        tokens = [1, 2, 3, *range(20 + n_tokens, 20 + 2 * n_tokens)][:n_tokens]
        return self.scheduler.submit(tokens, max_new_tokens)

    def talk(self, number: int) -> None:
        """What is said to the scheduler before a step."""
        if number in (2, 3, 4):
            self.requests.append(self.submit(4 + number, 5))
        if number == 5:
            self.requests[1].cancel()
        if number == 6:
            self.requests[4].cancel()

    def check_aftermath(self) -> None:
        """Whatever happened, everyone has the right answer in the end."""
        check_scheduler(self.scheduler)
        self.scheduler.run(lambda step: check_scheduler(self.scheduler, step))
        for request in self.requests:
            due = alone(self.model, request)
            if request.state == "cancelled":
                due = due[: request.n_output]
            assert request.output == due
            assert request.n_cached <= request.n_prompt - 1
            assert request.admitted_at is not None or request.state == "cancelled"
            assert request.ended_at is not None
            assert request.outcome in ("finished", "cancelled")
        assert not self.scheduler.n_unfinished
        check_idle(self.model.router)


def interrupt_everywhere(
    order: str, n_steps: int, files: Collection[str | None]
) -> int:
    """Interrupt a step at each place in turn; returns how many there were."""
    n_places = 0
    for world in interrupted_everywhere(
        partial(World, order, n_steps), lambda world: world.scheduler.step(), files
    ):
        n_places += 1
        world.check_aftermath()
    return n_places


STEPS = range(10)
TELLING = [1, 4, 5, 6]  # in these, all happens that happens in any


def test_the_steps_are_worth_interrupting():
    happened: set[str] = set()
    for n_steps in TELLING:
        step = World("fcfs", n_steps).scheduler.step()
        lists = "decoded prefilled admitted refused retracted finished cancelled"
        happened |= {name for name in lists.split() if getattr(step, name)}
    assert len(happened) == 7, happened


@pytest.mark.parametrize("n_steps", TELLING)
def test_ctrl_c_anywhere_in_a_step_leaves_nothing_half_done(n_steps: int):
    assert interrupt_everywhere("fcfs", n_steps, OWN) > 30


@pytest.mark.long
@pytest.mark.parametrize("n_steps", STEPS)
@pytest.mark.parametrize("order", ["fcfs", "lpm"])
def test_ctrl_c_anywhere_below_a_step_leaves_nothing_half_done(
    order: str, n_steps: int
):
    assert interrupt_everywhere(order, n_steps, ALL) > 200


def test_ctrl_c_in_submit_leaves_a_request_or_none():
    n_places = 0
    for world in interrupted_everywhere(
        partial(World, "fcfs", 3), lambda world: world.submit(5, 3), OWN
    ):
        n_places += 1
        world.check_aftermath()
    assert n_places > 4


def test_ctrl_c_in_the_model_computes_the_step_once_more(
    monkeypatch: pytest.MonkeyPatch,
):
    for advanced in (0, 1, 2):
        world = World("fcfs", 3)
        step = world.model.step

        def stopped(leases: Any, counts: Any, n: int = advanced, step: Any = step):
            if n:
                step(leases[:n], counts[:n])
            raise KeyboardInterrupt

        monkeypatch.setattr(world.model, "step", stopped)
        with pytest.raises(KeyboardInterrupt):
            world.scheduler.step()
        monkeypatch.undo()
        world.check_aftermath()


def test_what_the_model_said_and_nobody_heard_is_asked_again_as_after_a_retraction(
    monkeypatch: pytest.MonkeyPatch,
):
    scheduler = scheduler_of()
    outside = scheduler.router.admit(prompt(3, 500))
    request = scheduler.submit(prompt(5), 2)
    step = scheduler.model.step

    def stopped(leases: Any, counts: Any):
        list(step(leases, counts))
        raise KeyboardInterrupt

    for n_times in (1, 2):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(scheduler.model, "step", stopped)
            scheduler.step()
        assert (request.n_retractions, request.state) == (n_times, "waiting")
        assert list(scheduler.router.leases) == [outside], "it is not the scheduler's"
    assert len(request.wait()) == 2


def test_an_answer_whose_last_token_was_just_chosen_is_finished(
    monkeypatch: pytest.MonkeyPatch,
):
    scheduler = scheduler_of()
    request = scheduler.submit(prompt(5), 1)
    append = request.append

    def stopped(token: int):
        append(token)
        raise KeyboardInterrupt

    monkeypatch.setattr(request, "append", stopped)
    with pytest.raises(KeyboardInterrupt):
        scheduler.step()
    assert (request.outcome, request.n_output) == ("finished", 1)
    assert request.lease is None
    assert len(request.wait()) == 1
    check_idle(scheduler.router)
