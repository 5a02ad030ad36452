"""The widgets without a browser: set a value, press a button, read what they say."""

from __future__ import annotations

import base64
import random
from collections.abc import Callable
from typing import Any

import ipywidgets
import pytest

from radix_lib.teaching import (
    EvictionLab,
    FleetLab,
    Lab,
    PageExplorer,
    RouterWalk,
    SchedulerLab,
    Stepper,
    TreeExplorer,
    WorkloadLab,
)
from radix_lib.teaching.figures.bar_charts import draw_tokens
from radix_lib.teaching.figures.chart import Chart
from radix_lib.teaching.films.recorder import Recorder
from radix_lib.workloads import report
from tests.support.scenes import new_router, run


def shape(cache: Any) -> list[object]:
    nodes = [(node.key, node.pages.tolist(), node.lock_ref) for node in cache.nodes()]
    return [nodes, cache.page_manager.ref_counts.tolist()]


def controls(lab: Lab) -> list[Any]:
    boxes = [box for box in lab.box.children if isinstance(box, ipywidgets.Box)]
    return [control for box in boxes for control in box.children]


# --------------------------------------------------------------------------------------

MAKERS: dict[str, Callable[[], Lab]] = {
    "TreeExplorer": TreeExplorer,
    "PageExplorer": PageExplorer,
    "EvictionLab": EvictionLab,
    "RouterWalk": RouterWalk,
    "SchedulerLab": SchedulerLab,
    "WorkloadLab": WorkloadLab,
}


@pytest.mark.parametrize("name", MAKERS)
def test_a_widget_shows_itself_and_a_static_figure(name: str):
    lab = MAKERS[name]()
    bundle = lab._repr_mimebundle_()
    assert bundle["text/plain"] == f"{name}: run this cell to play with it"
    assert "application/vnd.jupyter.widget-view+json" in bundle
    assert lab.figure.html in lab._picture.value
    assert 'role="status"' in lab._message.value
    static = lab.static()
    assert static.alt
    assert static.html == MAKERS[name]().static().html


def test_a_widget_may_show_a_chart():
    class Bars(Lab):
        def draw(self) -> Chart:
            return draw_tokens(
                {"R1": {"reused": 3, "computed": 5}}, caption='<So> "far"'
            )

    lab = Bars([])
    lab.act(lambda: "")
    shown = lab._picture.value
    assert (
        'alt="Chart: &lt;So&gt; &quot;far&quot;. tokens, reused, computed; R1, 3, 5."'
        in shown
    )
    assert f"data:image/png;base64,{base64.b64encode(lab.figure.png).decode()}" in shown


@pytest.mark.parametrize("name", MAKERS)
def test_every_control_has_a_label(name: str):
    for control in controls(MAKERS[name]()):
        if not isinstance(control, ipywidgets.Play):
            assert control.description
        if isinstance(control, ipywidgets.Button):
            assert control.tooltip


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("seed", range(3))
def test_whatever_is_pressed_nothing_breaks(name: str, seed: int):
    """Random clicks and values; `act` checks every invariant after each."""
    lab = MAKERS[name]()
    chance = random.Random(seed)
    for _ in range(25):
        control = chance.choice(controls(lab))
        match control:
            case ipywidgets.Button():
                control.click()
            case ipywidgets.Text():
                control.value = chance.choice(
                    ["", "a", "You are", "é" * 9, "x y z " * 40]
                )
            case ipywidgets.Dropdown() | ipywidgets.SelectionSlider():
                if control.options:
                    control.value = chance.choice(control.options)
            case ipywidgets.Checkbox():
                control.value = not control.value
            case ipywidgets.IntSlider() | ipywidgets.BoundedIntText():
                control.value = chance.randint(control.min, control.max)
        lab.check()
        assert lab.figure.html in lab._picture.value
        assert lab.refused == ("Not done" in lab._message.value)


def test_what_the_reader_types_is_shown_as_text():
    lab = TreeExplorer()
    lab.text.value = "<b>bold</b> & more"
    lab.buttons["insert"].click()
    assert "<b>bold" not in lab._picture.value + lab._code.value
    assert "&lt;b&gt;bold" in lab._code.value


# --------------------------------------------------------------------------------------


def test_stepper_goes_through_recorded_frames():
    router = new_router()
    film = Recorder(router)
    run(router, "one")
    run(router, "one and two")
    stepper = Stepper(film.frames)
    assert stepper.slider.value == 4
    assert stepper.figure.alt.startswith("finish: R2")
    stepper.back.click()
    assert stepper.figure.alt.startswith("admit: R2")
    stepper.slider.value = 1
    stepper.back.click()
    assert stepper.slider.value == 1
    assert stepper.figure.alt.startswith("admit: R1")
    stepper.play.value = 3  # as the browser does when it plays
    assert stepper.slider.value == 3
    stepper.forward.click()
    stepper.forward.click()
    assert stepper.slider.value == 4
    assert stepper.static().alt.startswith("Film strip of 4 frames")


def test_stepper_without_frames_is_refused():
    with pytest.raises(ValueError, match="no frames"):
        Stepper([])


# ---------------------------------------------------------------------------------- Tre


def press(lab: TreeExplorer, *names: str) -> TreeExplorer:
    for name in names:
        lab.buttons[name].click()
    return lab


def test_explorer_begins_with_a_story():
    lab = TreeExplorer()
    assert [frame.words.partition(":")[0] for frame in lab.frames] == [
        "an empty cache",
        "insert",
        "insert",
        "match",
    ]
    assert not lab.refused


def test_the_code_of_the_explorer_gives_the_same_tree():
    lab = TreeExplorer()
    lab.text.value = "A quote \" and a ' and a \\ and a \n line"
    press(lab, "insert", "lock", "match", "evict")
    lab.pick.value = lab.pick.options[2]
    assert lab.text.value == lab.pick.value
    press(lab, "insert", "lock", "evict", "evict", "unlock", "match")
    variables: dict[str, Any] = {}
    exec(lab.code, variables)
    assert shape(variables["cache"]) == shape(lab.cache)
    assert len(shape(lab.cache)[0]) > 2  # type: ignore[arg-type]


def test_undo_takes_operations_back_one_by_one():
    lab = TreeExplorer()
    shapes, operations = (
        [shape(lab.cache)],
        ["insert", "lock", "evict", "unlock", "match"],
    )
    lab.text.value = "You are a helpful pirate."
    for name in operations:
        press(lab, name)
        assert not lab.refused
        shapes.append(shape(lab.cache))
    for before in reversed(shapes[:-1]):
        lab.undo.click()
        assert shape(lab.cache) == before
    for _ in range(3):
        lab.undo.click()
    assert not lab.refused
    assert len(lab.frames) == 1
    lab.undo.click()
    assert lab.refused
    assert lab.message == "There is nothing to undo."


def test_stepping_back_changes_nothing():
    lab = TreeExplorer()
    before = shape(lab.cache)
    lab.slider.value = 1
    assert lab.figure.alt.startswith("an empty cache")
    assert shape(lab.cache) == before
    press(lab, "match")
    assert lab.slider.value == 5


@pytest.mark.parametrize(
    ("text", "names", "words"),
    [
        ("", ["match"], "The text is empty"),
        ("abc", ["insert"], "shorter than a page"),
        (
            "x" * 100,
            ["insert"],
            "25 pages needed and 16 free: evict some first (8 can be evicted)",
        ),
        ("not there", ["lock"], "No page of this text is in the tree"),
        ("You are", ["unlock"], "This text is not locked"),
        ("You are", ["lock", "lock"], "This text is locked already"),
        (
            "You are a helpful assistant.",
            ["lock", *["evict"] * 5],
            "1 page can be evicted now",
        ),
    ],
)
def test_what_the_explorer_cannot_do_it_says(text: str, names: list[str], words: str):
    lab = TreeExplorer()
    lab.text.value = text
    press(lab, *names[:-1])
    code, before = lab.code, shape(lab.cache)
    press(lab, names[-1])
    assert lab.refused
    assert words in lab.message
    assert (lab.code, shape(lab.cache)) == (code, before)


# ---------------------------------------------------------------------------------- Pag


def test_pages_are_shared_by_whole_pages_only():
    lab = PageExplorer()
    seen = {}
    for size in lab.page_size.options:
        lab.page_size.value = size
        a, b = (lab.requests[name][0].tolist() for name in "AB")
        seen[size] = len(set(a) & set(b)) * size
    assert seen == {1: 33, 2: 32, 4: 32, 8: 32, 16: 32, 32: 32}
    assert lab.manager.page_size == 32


def test_tail_waste_grows_with_the_page():
    lab = PageExplorer()
    lab.page_size.value = 1
    assert "0 of their 51 places are empty" in lab.figure.alt
    lab.page_size.value = 16
    assert "12 of their 64 places are empty" in lab.figure.alt


def test_a_fork_shares_what_is_full_and_copies_what_is_not():
    lab = PageExplorer()
    lab.target.value = "B"
    lab.fork.click()
    assert "B2 shares 5 full pages with B; page" in lab.message
    b, fork = (lab.requests[name][0].tolist() for name in ("B", "B2"))
    assert b[:-1] == fork[:-1]
    assert fork[-1] not in b
    lab.write.click()
    assert f"B wrote a token into page {b[-1]}, which it alone holds." in lab.message
    for _ in range(6):
        lab.write.click()
    assert "which it alone holds" in lab.message
    lab.write.click()
    assert "begins page" in lab.message
    assert lab.requests["B2"][0].tolist() == fork
    for _ in range(9):
        lab.undo.click()
    assert lab.requests["B"][0].tolist() == b
    assert "B2" not in lab.requests


def test_a_fork_at_the_end_of_a_page_copies_nothing():
    lab = PageExplorer()
    lab.page_size.value = 1
    n_free = lab.manager.n_free
    lab.fork.click()
    assert lab.message.endswith("nothing had to be copied.")
    assert lab.manager.n_free == n_free


def test_a_pool_that_is_too_small_is_told():
    lab = PageExplorer()
    lab.page_size.value = 32
    for pick in lab.picks.values():
        pick.value = True
    assert lab.refused
    assert lab.message.startswith("The pool is full, pages needed: ")
    assert "take a request out" in lab.message
    assert len(lab.requests) < 4
    lab.page_size.value = 4
    assert not lab.refused
    assert len(lab.requests) == 4


def test_a_fork_that_does_not_fit_is_not_kept():
    lab = PageExplorer()
    lab.page_size.value = 16
    while not lab.refused:
        before = {name: pages.tolist() for name, (pages, _) in lab.requests.items()}
        lab.fork.click()
    assert {name: pages.tolist() for name, (pages, _) in lab.requests.items()} == before
    lab.undo.click()
    assert lab.message == "The last step was taken back."
    assert len(lab.requests) == len(before) - 1


def test_no_request_no_fork_and_nothing_to_undo():
    lab = PageExplorer()
    lab.undo.click()
    assert lab.message == "There is no fork or write to undo."
    for pick in lab.picks.values():
        pick.value = False
    lab.fork.click()
    assert lab.message == "Pick a request first."
    assert lab.refused


# ----------------------------------------------------------------------------------- Ev


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


# ------------------------------------------------------------------------------------ R


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
    before = shape(lab.router.cache)
    for text, words in (("", "empty"), ("x" * 53, "at most 52")):
        lab.text.value = text
        lab.send.click()
        assert lab.refused
        assert words in lab.message
        assert shape(lab.router.cache) == before
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


# ------------------------------------------------------------------------------------ S


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


# ----------------------------------------------------------------------------------- Fl


def test_a_fleet_that_looks_at_caches_finds_more():
    lab = FleetLab()
    aware = report(lab.done.requests).hit_rate
    lab.policy.value = "round robin"
    assert report(lab.done.requests).hit_rate < aware - 0.1
    assert lab.done.spread == 1
    assert "round robin" in lab.figure.alt


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
