"""Chapter 08: what a step does, by hand; pages, priorities; bad input, bad models."""

from __future__ import annotations

from typing import Any

import pytest

from radix_lib.admission import NewTokenRatio
from radix_lib.request import RequestFailed
from radix_lib.router import Namespace
from radix_lib.scheduler import LOOKAHEAD
from tests.support.inspection import check_idle, snapshot
from tests.support.scheduling import (
    check_scheduler,
    prompt,
    scheduler_of,
    steps_of,
    told,
)

# ── Steps ─────────────────────────────────────────────────────────────────────────────


def test_a_timeline_worked_by_hand():
    """Eight tokens a step: answers first, chunks with what is left, then new ones."""
    scheduler = scheduler_of(token_budget=8, max_running=3)
    for n, start, room in [(5, 0, 3), (12, 100, 2), (2, 200, 1), (3, 300, 2)]:
        scheduler.submit(prompt(n, start), room)
    steps = steps_of(scheduler)
    assert [told(step) for step in steps] == [
        {"admitted": [0, 1], "prefilled": {0: 5, 1: 3}},
        {"decoded": [0], "prefilled": {1: 7}},
        {
            "decoded": [0],
            "prefilled": {1: 2, 2: 2},
            "admitted": [2],
            "finished": [0, 2],
        },
        {"decoded": [1], "prefilled": {3: 3}, "admitted": [3], "finished": [1]},
        {"decoded": [3], "finished": [3]},
    ]
    assert [step.budget for step in steps] == [0, 0, 3, 4, 7]
    assert [step.ended_at for step in steps] == [18, 36, 51, 65, 76]
    assert [step.began_at for step in steps] == [0, 18, 36, 51, 65]
    assert [step.number for step in steps] == [0, 1, 2, 3, 4]
    # two of each: 0 and 1 keep three and six whole pages, 2 one, 3 two
    assert steps[-1].usage == (64 - 12, 12, 0, 0)
    check_idle(scheduler.router)


def test_a_request_tells_what_has_come_of_it():
    scheduler = scheduler_of()
    first = scheduler.submit(prompt(5), 3)
    assert (first.state, first.number, first.prompt) == ("waiting", 0, prompt(5))
    scheduler.step()
    assert (first.state, first.n_output, first.n_pending) == ("running", 1, 1)
    scheduler.run()
    second = scheduler.submit([*prompt(5), *first.output], 1)
    scheduler.run()
    assert (first.state, first.n_output, first.n_cached) == ("finished", 3, 0)
    assert second.n_cached == 6, "the answer's last token was never computed"
    assert (first.submitted_at, first.admitted_at) == (0, 0)
    assert (first.first_token_at, first.ended_at) == (15, 37)
    assert (second.submitted_at, second.ended_at) == (37, 37 + 10 + 2)
    assert first.number < second.number
    assert first.lease is None


def test_with_prefill_first_answers_wait_while_there_are_prompts():
    scheduler = scheduler_of(token_budget=4, prefill_first=True)
    scheduler.submit(prompt(3), 3)
    scheduler.submit(prompt(7, 100), 2)
    steps = steps_of(scheduler)
    assert [told(step) for step in steps] == [
        {"admitted": [0, 1], "prefilled": {0: 3, 1: 1}},
        {"prefilled": {1: 4}},
        {"prefilled": {1: 2}},
        {"decoded": [0, 1], "finished": [1]},
        {"decoded": [0], "finished": [0]},
    ]


def test_a_chunk_is_no_larger_than_asked():
    scheduler = scheduler_of(token_budget=8, chunk_tokens=3)
    scheduler.submit(prompt(7), 1)
    scheduler.submit(prompt(4, 100), 1)
    assert [told(step).get("prefilled") for step in steps_of(scheduler)] == [
        {0: 3, 1: 3},
        {0: 3, 1: 1},
        {0: 1},
    ]


def test_an_answer_ends_at_a_stop_token():
    scheduler = scheduler_of()
    longest = scheduler.submit(prompt(5), 6).wait()
    assert len(longest) == 6
    stopped = scheduler.submit(prompt(5), 6, stop=[longest[2]])
    assert stopped.wait() == longest[:3]


def test_a_request_whose_prefix_a_neighbour_computes_waits_for_it():
    scheduler = scheduler_of(token_budget=64)
    requests = [scheduler.submit([*prompt(10), 100 + i], 1) for i in range(3)]
    first, second = steps_of(scheduler)
    assert told(first)["prefilled"] == {0: 11}
    assert told(first)["shared"] == [1, 2]
    assert told(second)["prefilled"] == {1: 1, 2: 1}
    assert [request.n_cached for request in requests] == [0, 10, 10]


def test_sharing_can_be_left_to_chance():
    scheduler = scheduler_of(token_budget=64, share_in_batch=False)
    for i in range(3):
        scheduler.submit([*prompt(10), 100 + i], 1)
    (only,) = steps_of(scheduler)
    assert told(only)["prefilled"] == {0: 11, 1: 11, 2: 11}


def test_nobody_waits_for_a_neighbour_of_another_namespace():
    scheduler = scheduler_of(token_budget=64)
    for salt in ("a", "b"):
        scheduler.submit(prompt(11), 1, namespace=Namespace(salt))
    assert told(scheduler.step())["prefilled"] == {0: 11, 1: 11}


def test_a_request_finds_what_its_own_namespace_has_and_nothing_else():
    scheduler = scheduler_of()
    n_cached = []
    for salt in ("a", "b", "a"):
        request = scheduler.submit(prompt(11), 1, namespace=Namespace(salt))
        scheduler.run()
        n_cached.append(request.n_cached)
    assert n_cached == [0, 0, 10]


# ── Pages ─────────────────────────────────────────────────────────────────────────────


def test_a_lease_grows_with_the_answer():
    scheduler = scheduler_of(ratio=NewTokenRatio(0, 0))
    scheduler.submit(prompt(3), 6)
    used = [64 - step.usage.free for step in steps_of(scheduler)]
    assert used == [2, 2, 3, 3, 4, 4], "the last step gives half a page back"


def test_all_is_reserved_if_so_asked():
    """Three that need five pages each in the end, in a pool of eleven."""
    scheduler = scheduler_of(n_pages=11, ratio=NewTokenRatio(1, 1))
    for i in range(3):
        scheduler.submit(prompt(3, 100 * i), 7)
    steps = steps_of(scheduler)
    assert told(steps[0]) == {
        "admitted": [0, 1],
        "prefilled": {0: 3, 1: 3},
        "refused": [2],
    }
    assert not any(step.retracted for step in steps)


def test_where_pages_run_out_the_one_with_fewest_outputs_goes_back():
    """Seven pages; each has two at first, and asks for a third, a fourth, a fifth."""
    scheduler = scheduler_of(n_pages=7, token_budget=9, ratio=NewTokenRatio(0, 0))
    for i in range(3):
        scheduler.submit(prompt(3, 100 * i), 7)
    steps = steps_of(scheduler)
    retracting = [step for step in steps if step.retracted]
    victims = [request.number for request in retracting[0].retracted]
    assert victims == [2], "it came last and has fewest outputs"
    assert not retracting[0].admitted, "nobody is admitted in such a step"
    requests = {r.number: r for step in steps for r in step.finished}
    assert [requests[i].n_output for i in range(3)] == [7, 7, 7]
    assert requests[2].n_retractions > 0
    back = [step for step in steps if requests[2] in step.admitted]
    assert len(back) == 1 + requests[2].n_retractions


def test_nobody_who_waits_is_looked_at_in_a_step_in_which_somebody_is_retracted():
    scheduler = scheduler_of(n_pages=6, ratio=NewTokenRatio(0, 0))
    _, second = (scheduler.submit(prompt(6, 100 * i), 4) for i in range(2))
    scheduler.step()
    scheduler.submit(prompt(2, 900), 1)
    assert told(scheduler.step()) == {"retracted": [1], "decoded": [0]}
    assert second.lease is None


def test_where_every_page_is_promised_nobody_is_looked_at():
    scheduler = scheduler_of(n_pages=4, ratio=NewTokenRatio(1, 1))
    scheduler.submit(prompt(3), 5)
    scheduler.submit(prompt(1, 100), 1)
    assert told(scheduler.step()) == {"admitted": [0], "prefilled": {0: 3}}
    assert told(scheduler.step()) == {"decoded": [0]}


def test_those_who_wait_for_a_neighbour_are_looked_at_up_to_a_number():
    scheduler = scheduler_of()
    for _ in range(LOOKAHEAD + 2):
        scheduler.submit(prompt(8), 1)
    assert len(scheduler.step().shared) == LOOKAHEAD


@pytest.mark.parametrize(
    ("asked", "victim"),
    [
        # priority, tokens of the prompt, outputs when pages run out
        ([(0, 3, 3), (0, 3, 2), (0, 3, 3)], 1),  # fewest outputs
        ([(0, 3, 2), (0, 5, 2), (0, 4, 2)], 1),  # the longest prompt
        ([(0, 3, 2), (0, 3, 2), (0, 3, 2)], 2),  # the newest
        ([(1, 3, 1), (0, 3, 3), (1, 3, 2)], 1),  # the least important
    ],
)
def test_who_is_retracted(asked: list[tuple[int, int, int]], victim: int):
    from radix_lib.admission import first_to_retract

    scheduler = scheduler_of()
    requests = []
    for priority, n_prompt, n_output in asked:
        request = scheduler.submit(prompt(n_prompt), 9, priority=priority)
        for token in range(n_output):
            request.append(token)
        requests.append(request)
    assert min(requests, key=first_to_retract) is requests[victim]


def test_what_a_retracted_request_has_computed_is_found_again():
    scheduler = scheduler_of(n_pages=12, ratio=NewTokenRatio(0, 0))
    first, second = (scheduler.submit(prompt(8, 100 * i), 9) for i in range(2))
    while not second.n_retractions:
        scheduler.step()
    assert second.state == "waiting"
    n_computed = second.n_tokens - 1
    found = scheduler.router.match_prefix(second.key, second.namespace)
    assert len(found.pages) >= n_computed // 2 - 1, "the other has taken a page of it"
    while second.state == "waiting":
        step = scheduler.step()
    assert step.prefilled[second] < second.n_tokens, "not all of it is computed again"
    assert second.n_cached == 0, "this is about its prompt, at first"
    scheduler.run()
    assert (first.n_output, second.n_output) == (9, 9)


def test_the_first_admission_counts_however_often_a_request_comes_back():
    scheduler = scheduler_of(token_budget=4)
    request = scheduler.submit(prompt(12), 2)
    scheduler.step()
    first = request.admitted_at, request.n_cached
    scheduler._retract(request)  # in the middle of its prompt
    scheduler.step()
    assert request.state == "running"
    assert request.lease.n_cached > 0
    assert (request.admitted_at, request.n_cached) == first


def test_a_retracted_request_keeps_its_place_in_the_queue():
    scheduler = scheduler_of(n_pages=12, max_running=2, ratio=NewTokenRatio(0, 0))
    first, second, third = (scheduler.submit(prompt(8, 100 * i), 9) for i in range(3))
    steps = steps_of(scheduler)
    admissions = [request for step in steps for request in step.admitted]
    assert admissions == [first, second, second, third]


def test_the_share_reserved_falls_step_by_step_and_rises_with_a_retraction():
    ratio = NewTokenRatio(0.5, 0.2, decay=0.1)
    for value in (0.4, 0.3, 0.2, 0.2):
        ratio.fall()
        assert ratio.value == pytest.approx(value)
    scheduler = scheduler_of()
    requests = [scheduler.submit(prompt(3), 100) for _ in range(2)]
    for request in requests:
        for token in range(10):
            request.append(token)
    ratio.rise(requests)
    assert ratio.value == pytest.approx((10 + 10 + 2 * 20) / (200 + 1))
    ratio.rise([])
    assert ratio.value == pytest.approx(60 / 201), "it does not fall by rising"
    requests[0].max_new_tokens = requests[1].max_new_tokens = 11
    ratio.rise(requests)
    assert ratio.value == 1
    assert ratio.expected_tokens(requests[0]) == 13 + 1


def test_the_reserve_falls_in_steps_that_decode():
    scheduler = scheduler_of(token_budget=4)
    ratio = scheduler.pages.ratio
    scheduler.step()
    request = scheduler.submit(prompt(9), 3)
    while not request.n_output:
        scheduler.step()
        assert ratio.value == 0.7
    scheduler.run()
    assert ratio.value == pytest.approx(0.7 - 2 * 0.001)


def test_what_a_request_would_lock_is_not_counted_as_room_for_it():
    """The pool is full of the request's own prefix: to evict that would be no help.

    Ten pages: eight cached ones that nobody uses, two free. The request has nine pages
    cached or to be cached, and needs four of its own. Twelve seem to be available; once
    it has locked its eight there are two.
    """
    scheduler = scheduler_of(n_pages=10, ratio=NewTokenRatio(1, 1))
    scheduler.submit(prompt(16), 1).wait()
    usage = scheduler.router.usage()
    assert (usage.free, usage.unlocked) == (2, 8)
    holder = scheduler.router.admit([900], max_new_tokens=0)
    big = scheduler.submit([*prompt(16), 50, 51], 2)
    assert told(scheduler.step())["refused"] == [big.number]
    assert scheduler.router.usage() == (1, 8, 0, 1), "nothing was evicted for it"
    scheduler.router.cancel(holder)
    scheduler.run()
    assert big.n_cached == 16


def test_a_big_one_that_waits_does_not_block_small_ones():
    scheduler = scheduler_of(n_pages=10, ratio=NewTokenRatio(1, 1))
    scheduler.submit(prompt(8), 4)
    big = scheduler.submit(prompt(14, 100), 2)
    small = [scheduler.submit(prompt(2, 200 + 10 * i), 2) for i in range(2)]
    first = scheduler.step()
    assert told(first)["admitted"] == [0, 2, 3]
    assert told(first)["refused"] == [1]
    scheduler.run()
    assert big.state == "finished"
    assert all(request.ended_at < big.admitted_at for request in small)


def test_a_big_one_is_passed_so_often_and_no_more():
    """Small ones come for ever, and would always fit."""
    scheduler = scheduler_of(
        n_pages=10, patience=3, max_running=8, ratio=NewTokenRatio(1, 1)
    )
    scheduler.submit(prompt(8), 8)
    big = scheduler.submit(prompt(14, 100), 2)
    n_passed = 0
    for i in range(40):
        scheduler.submit(prompt(2, 200 + 10 * i), 2)
        step = scheduler.step()
        if big in step.admitted:
            break
        n_passed += len([r for r in step.admitted if r.number > big.number])
    assert n_passed == 3
    scheduler.run()


# ── Priorities ────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("order", ["fcfs", "lpm", "dfs-weight", "hrrn", "random"])
def test_the_more_important_go_first_in_every_order(order: str):
    scheduler = scheduler_of(token_budget=4, max_running=1, order=order)
    requests = [
        scheduler.submit(prompt(3, 10 * i), 1, priority=[0, 2, 1][i % 3])
        for i in range(6)
    ]
    admissions = [r for step in steps_of(scheduler) for r in step.admitted]
    assert [r.priority for r in admissions] == [2, 2, 1, 1, 0, 0]
    assert sorted(r.number for r in admissions) == [r.number for r in requests]


def test_the_less_important_are_not_passed_for_ever():
    scheduler = scheduler_of(token_budget=4, max_running=1, patience=5)
    humble = scheduler.submit(prompt(3), 1)
    for i in range(20):
        scheduler.submit(prompt(3, 10 * i + 10), 1, priority=1)
    admissions = [r for step in steps_of(scheduler) for r in step.admitted]
    assert admissions.index(humble) == 5


# ── Bad input ─────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("arguments", "options", "says"),
    [
        (([],), {}, "at least one token is due"),
        (([1, -1],), {}, "-1"),
        (([1, 2.5],), {}, "2.5"),
        (([50_000],), {}, "50000 is not below"),
        ((prompt(3), 0), {}, "max_new_tokens"),
        ((prompt(3), -4), {}, "max_new_tokens"),
        ((prompt(3), 2.5), {}, "max_new_tokens is a whole number"),
        (
            (prompt(30), 3),
            {},
            "a prompt of 30 tokens, max_new_tokens=3: at least one token is due, and at "
            "most 32 in all",
        ),
        ((prompt(33), 1), {}, "at most 32 in all"),
        ((prompt(3), 4), {"namespace": [1]}, "a namespace is"),
        ((prompt(3), 4), {"priority": "high"}, "priority is a whole number"),
        ((prompt(3), 4), {"stop": [50_000]}, "50000 is not below"),
    ],
)
def test_a_request_that_could_never_be_served_is_refused(
    arguments: tuple, options: dict, says: str
):
    scheduler = scheduler_of(n_pages=16)
    before = snapshot(scheduler.router)
    with pytest.raises(ValueError, match=says):
        scheduler.submit(*arguments, **options)
    assert (scheduler.n_unfinished, snapshot(scheduler.router)) == (0, before)
    assert scheduler.submit(prompt(3), 1).number == 0


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"order": "lifo"}, "no order 'lifo': choose from fcfs, lpm"),
        ({"token_budget": 0}, "token_budget is a whole number from 1, not 0"),
        ({"token_budget": 2.5}, "token_budget is a whole number from 1, not 2.5"),
        ({"max_running": 0}, "max_running is a whole number from 1, not 0"),
        (
            {"token_budget": 4, "max_running": 5},
            "max_running=5, token_budget=4: in a step all that run may get a token, so "
            "the budget is not the smaller one$",
        ),
        ({"chunk_tokens": 0}, "chunk_tokens is a whole number from 1, not 0"),
        ({"patience": 0}, "patience is a whole number from 1, not 0"),
        ({"lpm_fallback": -1}, "lpm_fallback is a whole number from 0, not -1"),
    ],
)
def test_bad_settings_are_refused_by_name(settings: dict[str, Any], says: str):
    with pytest.raises(ValueError, match=says):
        scheduler_of(**settings)


def test_what_is_not_asked_for_is_as_the_signatures_say():
    scheduler = scheduler_of()
    assert (scheduler.token_budget, scheduler.waiting.patience) == (256, 256)
    assert scheduler.submit(prompt(1)).max_new_tokens == 32
    assert scheduler.submit(prompt(1), priority=-1).priority == -1


@pytest.mark.parametrize(
    "values", [(0.2, 0.5), (1.5, 0), (0.5, -0.1), (0.5, 0.1, -1), (float("nan"), 0)]
)
def test_a_bad_share_is_refused(values: tuple[float, ...]):
    words = r"shares, 0 ≤ floor ≤ start ≤ 1, and decay is not negative$"
    with pytest.raises(ValueError, match=words):
        NewTokenRatio(*values)


def test_a_share_may_stay_what_it_is():
    ratio = NewTokenRatio(0.5, 0.1, decay=0)
    ratio.fall()
    assert ratio.value == 0.5


# ── A model that fails ────────────────────────────────────────────────────────────────


def test_a_model_that_raises_fails_the_requests_of_that_step_and_no_others():
    scheduler = scheduler_of(token_budget=4, max_running=2)
    done = scheduler.submit(prompt(2), 1)
    requests = [scheduler.submit(prompt(3, 10 * i), 3) for i in range(1, 5)]
    scheduler.step()
    assert done.state == "finished"
    right = scheduler.model.step

    def wrong(*_: Any) -> Any:
        raise MemoryError("no room for the logits")

    scheduler.model.step = wrong
    failed = scheduler.step().failed
    scheduler.model.step = right
    check_scheduler(scheduler)
    assert failed == requests[:2]
    scheduler.run()
    assert [r.state for r in requests] == ["failed", "failed", "finished", "finished"]
    with pytest.raises(RequestFailed, match=r"request 1 was failed.*no room") as caught:
        requests[0].wait()
    assert isinstance(caught.value.__cause__, MemoryError)
    check_idle(scheduler.router)


def test_a_sampler_that_raises_fails_its_own_request_alone():
    scheduler = scheduler_of()
    bad, good = (scheduler.submit(prompt(3, 10 * i), 3) for i in range(2))

    class Broken:
        ends = ()

        def choose(self, row: Any, place: int) -> int:
            if place == 1:
                raise ZeroDivisionError
            return 7

    bad.sampler = Broken()
    scheduler.run()
    assert (bad.state, bad.output) == ("failed", [7])
    assert isinstance(bad.error, ZeroDivisionError)
    assert good.state == "finished"
    check_idle(scheduler.router)


def test_who_holds_the_pages_outside_is_named_in_place_of_an_endless_loop():
    scheduler = scheduler_of(n_pages=8)
    lease = scheduler.router.admit(prompt(10))
    request = scheduler.submit(prompt(8, 100), 2)
    with pytest.raises(RuntimeError) as caught:
        scheduler.run()
    assert str(caught.value) == (
        "requests waiting: 1, running: none. Leases outside this scheduler hold the "
        "pages: finish or cancel those"
    )
    scheduler.submit(prompt(8, 200), 2).cancel()
    assert told(scheduler.advance()) == {"cancelled": [1], "refused": [0]}
    scheduler.router.cancel(lease)
    assert len(request.wait()) == 2
