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
from tests.support.inspection import shape_of
from tests.support.scenes import new_router, run


def controls(lab: Lab) -> list[Any]:
    boxes = [box for box in lab.box.children if isinstance(box, ipywidgets.Box)]
    return [control for box in boxes for control in box.children]


# ── Every widget ──────────────────────────────────────────────────────────────────────

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
@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(seed, marks=pytest.mark.long) for seed in (1, 2))]
)
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


# ── The stepper ───────────────────────────────────────────────────────────────────────


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


# ── The tree explorer ─────────────────────────────────────────────────────────────────


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
    assert shape_of(variables["cache"]) == shape_of(lab.cache)
    assert len(shape_of(lab.cache)[0]) > 2  # type: ignore[arg-type]


def test_undo_takes_operations_back_one_by_one():
    lab = TreeExplorer()
    shapes, operations = (
        [shape_of(lab.cache)],
        ["insert", "lock", "evict", "unlock", "match"],
    )
    lab.text.value = "You are a helpful pirate."
    for name in operations:
        press(lab, name)
        assert not lab.refused
        shapes.append(shape_of(lab.cache))
    for before in reversed(shapes[:-1]):
        lab.undo.click()
        assert shape_of(lab.cache) == before
    for _ in range(3):
        lab.undo.click()
    assert not lab.refused
    assert len(lab.frames) == 1
    lab.undo.click()
    assert lab.refused
    assert lab.message == "There is nothing to undo."


def test_stepping_back_changes_nothing():
    lab = TreeExplorer()
    before = shape_of(lab.cache)
    lab.slider.value = 1
    assert lab.figure.alt.startswith("an empty cache")
    assert shape_of(lab.cache) == before
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
    code, before = lab.code, shape_of(lab.cache)
    press(lab, names[-1])
    assert lab.refused
    assert words in lab.message
    assert (lab.code, shape_of(lab.cache)) == (code, before)


# ── The page explorer ─────────────────────────────────────────────────────────────────


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
