"""Chapter 08: a request is streamed, awaited and cancelled, from any thread."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from radix_lib.request import Request, RequestFailed, Step
from tests.support.inspection import check_idle
from tests.support.scheduling import (
    check_scheduler,
    prompt,
    scheduler_of,
    steps_of,
    told,
)


def test_a_stream_gives_tokens_as_they_come_and_others_run_along():
    scheduler = scheduler_of()
    mine, other = (scheduler.submit(prompt(4, 10 * i), 5) for i in range(2))
    tokens = []
    for token in mine:
        tokens.append(token)
        assert mine.n_output == len(tokens), "no step is ahead of the reader"
    assert tokens == mine.output
    assert other.state == "finished"
    assert list(mine) == tokens, "it can be read again"


def test_requests_are_awaited_together():
    scheduler = scheduler_of()

    async def ask(i: int) -> list[int]:
        return await scheduler.submit(prompt(4, 10 * i), 2 + i)

    async def ask_all() -> list[list[int]]:
        return await asyncio.gather(*(ask(i) for i in range(4)))

    answers = asyncio.run(ask_all())
    assert [len(answer) for answer in answers] == [2, 3, 4, 5]
    assert scheduler.n_steps < 10, "they shared their steps"
    check_idle(scheduler.router)


def test_a_request_cancelled_while_it_waits_is_gone_with_the_next_step():
    scheduler = scheduler_of(max_running=1)
    first, second = (scheduler.submit(prompt(4, 10 * i), 2) for i in range(2))
    scheduler.step()
    second.cancel()
    second.cancel()
    assert second.state == "cancelled"
    assert told(scheduler.step()) == {"decoded": [0], "finished": [0], "cancelled": [1]}
    assert scheduler.n_unfinished == 0
    assert first.state == "finished"


def test_a_request_cancelled_while_it_runs_gives_its_pages_back_with_the_next_step():
    scheduler = scheduler_of(token_budget=4)
    request = scheduler.submit(prompt(9), 5)
    scheduler.step()
    held = scheduler.router.usage()
    assert (held.locked, held.private) == (2, 3)
    request.cancel()
    assert scheduler.router.usage() == held, "a step may be in flight"
    assert told(scheduler.step()) == {"cancelled": [0]}
    usage = scheduler.router.usage()
    assert (usage.locked, usage.private) == (0, 0)
    assert usage.unlocked == 2, "what was shared already stays"
    check_idle(scheduler.router)


def test_a_request_cancelled_before_any_step_holds_nothing():
    scheduler = scheduler_of()
    request = scheduler.submit(prompt(4), 2)
    request.cancel()
    assert [told(step) for step in steps_of(scheduler)] == [{"cancelled": [0]}]
    assert request.ended_at is not None


def test_a_request_counts_once_until_it_is_over_and_its_pages_are_free():
    scheduler = scheduler_of()
    running = scheduler.submit(prompt(4), 2)
    assert scheduler.n_unfinished == 1
    scheduler.step()
    running.cancel()
    assert scheduler.n_unfinished == 1
    scheduler.submit(prompt(4), 2).cancel()
    assert scheduler.n_unfinished == 2
    scheduler.step()
    assert scheduler.n_unfinished == 0


def test_a_request_that_is_over_cannot_be_cancelled():
    scheduler = scheduler_of()
    request = scheduler.submit(prompt(4), 2)
    answer = request.wait()
    request.cancel()
    assert (request.state, request.wait()) == ("finished", answer)
    assert scheduler.n_unfinished == 0


def test_who_waits_for_a_cancelled_request_is_told():
    scheduler = scheduler_of()
    request = scheduler.submit(prompt(4), 9)
    tokens = []
    with pytest.raises(RequestFailed, match="request 0 was cancelled"):
        for token in request:
            tokens.append(token)
            if len(tokens) == 2:
                request.cancel()
    assert tokens == request.output
    with pytest.raises(RequestFailed, match="cancelled"):
        asyncio.run(as_coroutine(request))


async def as_coroutine(request: Request) -> list[int]:
    return await request


def test_a_progress_callback_sees_every_step_and_may_submit_and_cancel():
    scheduler = scheduler_of()
    requests = [scheduler.submit(prompt(4), 4)]
    numbers = []

    def progress(step: Step) -> None:
        numbers.append(step.number)
        check_scheduler(scheduler)
        if step.number == 1:
            requests.append(scheduler.submit(prompt(4, 50), 9))
        if step.number == 3:
            requests[1].cancel()

    scheduler.run(progress)
    assert numbers == list(range(5))
    assert [request.state for request in requests] == ["finished", "cancelled"]


def test_threads_that_wait_for_their_own_request_take_turns():
    scheduler = scheduler_of(token_budget=8)
    requests = [scheduler.submit(prompt(5, 10 * i), 20) for i in range(6)]
    threads = [threading.Thread(target=request.wait) for request in requests]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [request.n_output for request in requests] == [20] * 6
    check_idle(scheduler.router)


def test_a_step_in_the_middle_of_a_step_is_refused():
    scheduler = scheduler_of()
    inner, outer = (scheduler.submit(prompt(3, 10 * i), 1) for i in range(2))

    class Impatient:
        ends = ()

        def choose(self, row: Any, place: int) -> int:
            return inner.wait()[0]

    outer.sampler = Impatient()
    scheduler.run()
    assert (inner.state, outer.state) == ("finished", "finished")
    inner = scheduler.submit(prompt(3), 2)
    outer = scheduler.submit(prompt(3, 10), 1)
    outer.sampler = Impatient()
    scheduler.run()
    assert (inner.state, outer.state) == ("finished", "failed")
    assert "in the middle of another" in str(outer.error)


def test_one_that_another_thread_was_quicker_than_waits(
    monkeypatch: pytest.MonkeyPatch,
):
    scheduler = scheduler_of(n_pages=8)
    lease = scheduler.router.admit(prompt(10))
    request = scheduler.submit(prompt(8, 100), 2)
    monkeypatch.setattr(scheduler.pages, "fits_cold", lambda *_: True)
    assert told(scheduler.step()) == {"refused": [0]}
    assert request.state == "waiting"
    check_scheduler(scheduler)
    scheduler.router.cancel(lease)
    assert len(request.wait()) == 2


def test_requests_may_come_from_another_thread():
    scheduler = scheduler_of(token_budget=8)
    requests: list[Request] = []
    ready = threading.Event()

    def submit_many() -> None:
        for i in range(200):
            requests.append(scheduler.submit(prompt(3, 5 * i), 1 + i % 3))
            if i % 7 == 0:
                requests[-1].cancel()
        ready.set()

    thread = threading.Thread(target=submit_many)
    thread.start()
    while not ready.is_set() or scheduler.n_unfinished:
        scheduler.step()
    thread.join()
    states = [request.state for request in requests]
    assert states == ["finished" if i % 7 else "cancelled" for i in range(200)]
    check_idle(scheduler.router)
