"""The labs without a browser: choose, press, read what they say."""

from __future__ import annotations

import pytest

from radix_lib.teaching import (
    EvictionLab,
    FleetLab,
    RouterWalk,
    SchedulerLab,
    WorkloadLab,
)
from radix_lib.workloads import report

# ── The eviction lab ──────────────────────────────────────────────────────────────────
from tests.support.inspection import shape_of


def test_no_policy_is_best_everywhere():
    lab = EvictionLab()
    rates = {}
    for workload in lab.workload.options:
        lab.workload.value = workload
        rates[workload] = dict(lab.rates)
    hot, round_, _ = rates.values()
    assert hot["lru"] > hot["mru"]
    assert round_["mru"] > round_["lru"] == 0


def test_more_memory_finds_more_and_evicts_less():
    lab = EvictionLab()
    lab.capacity.value = 32
    assert len(set(lab.rates.values())) == 1
    assert not any(frame.marks.evicted for frame in lab.frames)
    lab.capacity.value = 12
    assert any(frame.marks.evicted for frame in lab.frames)
    assert lab.rates["lru"] == pytest.approx(64 / 190, abs=0.01)
    assert "lru 34%" in lab.message


def test_nobody_beats_the_ceiling_whatever_the_workload():
    lab = WorkloadLab()
    for workload in lab.workload.options:
        lab.workload.value = workload
        assert 0 <= lab.found <= lab.ceiling, workload
        assert not lab.refused
    lab.workload.value = "nothing shared"
    assert lab.ceiling == 0


def test_the_picture_shows_what_the_cache_holds_at_the_end():
    lab = WorkloadLab()
    usage = lab.router.usage()
    n_cached = usage.unlocked + usage.locked
    assert n_cached == 256
    assert f"in the tree    {n_cached}" in lab.figure.text
    lab.capacity.value = 16_384
    assert lab.found == lab.ceiling == lab.optimum
    assert "gone      0" in lab.figure.text.replace("gone     0", "gone      0")


def test_larger_pages_find_no_more_tokens():
    lab = WorkloadLab()
    lab.capacity.value = 16_384
    found = {}
    for size in (1, 4, 16, 64):
        lab.page_size.value = size
        blocks = sum(len(request.blocks) for request in lab.trace)
        found[size] = lab.ceiling * blocks * size
    assert found[1] >= found[4] >= found[16] >= found[64]


def test_a_request_too_large_for_the_pool_is_told():
    lab = EvictionLab()
    lab.capacity.value = 4
    assert "the pool is too small for it" in lab.figure.alt
    assert len(lab.frames) == 10


# ── The router walk ───────────────────────────────────────────────────────────────────


def test_the_walk_goes_from_match_to_finish():
    lab = RouterWalk()
    assert [frame.words.partition(":")[0] for frame in lab.frames] == [
        "before",
        "match",
        "lock",
        "evict",
        "allocate",
        "admit",
        "compute",
        "insert",
        "unlock",
        "finish",
    ]
    assert lab.slider.value == 1
    assert "28 of 33 tokens reused, 5 computed" in lab.message
    lab.send.click()
    assert "32 of 33 tokens reused, 1 computed" in lab.message


def test_a_request_that_cannot_run_is_told():
    lab = RouterWalk()
    before = shape_of(lab.router.cache)
    for text, words in (("", "empty"), ("x" * 53, "at most 52")):
        lab.text.value = text
        lab.send.click()
        assert lab.refused
        assert words in lab.message
        assert shape_of(lab.router.cache) == before
        assert len(lab.frames) == 10
    lab.restart.click()
    assert not lab.refused


@pytest.mark.parametrize("text", ["Who are you? And why?", "x" * 52, "You are"])
def test_a_refusal_is_shown_to_have_moved_nothing(text: str):
    lab = RouterWalk()
    lab.text.value = text
    lab.ask_too_much.click()
    before, after = lab.frames
    assert after.words.startswith("refused: pages needed")
    assert before.pool == after.pool and before.tree == after.tree
    assert lab.slider.value == 2
    assert "nothing moved" in lab.message and not lab.refused
    assert not lab.router.leases
    lab.send.click()  # and the walk goes on
    assert len(lab.frames) > 2


def test_too_much_is_refused_whatever_was_sent_before():
    lab = RouterWalk()
    lab.text.value = "Who are you? And who wrote this?"
    lab.send.click()
    lab.ask_too_much.click()
    assert "nothing moved" in lab.message
    assert not lab.router.leases


def test_a_refusal_that_moves_something_is_not_called_harmless(monkeypatch):
    lab = RouterWalk()
    admit = lab.router.admit

    def careless(tokens, namespace=None, max_new_tokens=0):
        if max_new_tokens:
            lab.router.cache.evict(1)
        return admit(tokens, namespace, max_new_tokens)

    monkeypatch.setattr(lab.router, "admit", careless)
    with pytest.raises(AssertionError, match="moved something"):
        lab.be_refused()


def test_a_request_that_cannot_run_cannot_refuse_another():
    lab = RouterWalk()
    for text in ("", "x" * 53):
        lab.text.value = text
        lab.ask_too_much.click()
        assert lab.refused
        assert not lab.router.leases


# ── The scheduler lab ─────────────────────────────────────────────────────────────────


def test_the_scheduler_lab_steps_back_and_forth_through_a_run():
    lab = SchedulerLab()
    n_steps = len(lab.timeline.moments)
    assert lab.slider.value == n_steps == lab.slider.max
    last = lab.figure.text
    lab.back.click()
    assert lab.slider.value == n_steps - 1
    assert lab.figure.text != last
    lab.forward.click()
    assert lab.figure.text == last
    lab.slider.value = 1
    assert "R2" not in lab.figure.text


def test_the_static_figure_of_the_scheduler_lab_is_the_whole_run():
    lab = SchedulerLab()
    whole = lab.static().text
    lab.slider.value = 2
    assert lab.static().text == whole


def test_every_order_is_played_and_answers_each_request_with_the_same_tokens():
    lab = SchedulerLab()
    for name in lab.arrivals.options:
        lab.arrivals.value = name
        answers = set()
        for order in lab.order.options:
            lab.order.value = order
            assert f"{name}: {order}" in lab.figure.text
            outputs = {tuple(r.prompt): tuple(r.output) for r in lab.requests}
            answers.add(tuple(sorted(outputs.items())))
        assert len(answers) == 1


def test_prompts_first_makes_readers_wait_in_the_scheduler_lab():
    lab = SchedulerLab()
    lab.arrivals.value = "a long prompt among readers"
    assert not held(lab)
    lab.prefill_first.value = True
    assert held(lab)


def held(lab: SchedulerLab) -> bool:
    moments = lab.timeline.moments
    return any(mark.what == "holds" for m in moments for mark in m.marks.values())


def test_a_pool_too_small_retracts_and_one_that_can_never_do_is_refused():
    lab = SchedulerLab()
    lab.arrivals.value = "six long answers at once"
    lab.pool.value = 24
    assert "Retractions: 0" not in lab.message
    lab.arrivals.value = "a long prompt among readers"
    shown = lab.figure.text
    lab.pool.value = 16
    assert lab.refused
    assert "at most 64 in all" in lab.message
    assert lab.figure.text == shown


# ── The fleet lab ─────────────────────────────────────────────────────────────────────


def test_a_fleet_that_looks_at_caches_finds_more():
    lab = FleetLab()
    aware = report(lab.done.requests).hit_rate
    lab.policy.value = "round robin"
    assert report(lab.done.requests).hit_rate < aware - 0.1
    assert lab.done.spread == 1
    assert "round robin" in lab.figure.alt


@pytest.mark.long
def test_every_policy_of_the_fleet_lab_can_be_chosen():
    lab = FleetLab()
    lab.workers.value = 2
    lab.pages.value = 60
    for policy in lab.policy.options:
        lab.policy.value = policy
        assert not lab.refused
        assert len(lab.done.requests) == 200


def test_skew_sends_most_requests_to_the_first_group():
    lab = FleetLab()
    lab.policy.value = "consistent hashing"
    even = lab.done.spread
    lab.skew.value = 2
    assert lab.done.spread > even
