"""The course as its reader sees it: in JupyterLab, with mouse and keyboard."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from tests.browser.lab import Lab, Notebook, Widget

WIDGETS = [
    "Stepper",
    "TreeExplorer",
    "PageExplorer",
    "EvictionLab",
    "FleetLab",
    "RouterWalk",
    "SchedulerLab",
    "WorkloadLab",
    "LiveChat",
]


@pytest.fixture(autouse=True)
def quiet(request: pytest.FixtureRequest) -> Iterator[None]:
    """After each test: no cell has failed, and nothing was fetched from elsewhere."""
    yield
    if "gallery" in request.fixturenames:
        gallery: Notebook = request.getfixturevalue("gallery")
        assert gallery.errors() == []
        assert gallery.outside == []


def changed(widget: Widget, words: str) -> str:
    """Wait until the widget's figure says `words`, and return all that it says."""
    widget.wait_for(words)
    return widget.seen()


def test_the_first_notebook_runs_from_top_to_bottom(browser: Browser, lab: Lab):
    with lab.notebook(browser, "notebooks/00_start_here.ipynb") as notebook:
        n_cells = notebook.page.locator(".jp-CodeCell").count()
        notebook.run_all()
        assert n_cells > 10
        assert notebook.errors() == []
        assert notebook.outside == []
        figures = notebook.page.locator(".jp-RenderedSVG img").all()
        assert len(figures) > 5
        for figure in figures:
            shown, drawn = figure.evaluate("img => [img.width, img.naturalWidth]")
            assert drawn > 200, "a figure was not drawn"
            assert shown > 200


@pytest.mark.parametrize("wait_ms", [300, pytest.param(1700, marks=pytest.mark.long)])
def test_the_stop_button_leaves_nothing_half_done(
    browser: Browser, lab: Lab, wait_ms: int
):
    with lab.notebook(browser, "stopped.ipynb") as notebook:
        notebook.start("before")
        notebook.start("endless")
        notebook.wait_for_output("endless", "it has begun")
        notebook.page.wait_for_timeout(wait_ms)
        notebook.stop()
        notebook.wait_for_output("endless", "KeyboardInterrupt")
        notebook.wait_until_idle()  # what is asked for before is dropped with the error
        notebook.start("after")
        notebook.wait_for_output("after", "held:")
        said = notebook.output("after").splitlines()
        assert said == ["running: [True]", "the same bits: True", "held: 0"]


@pytest.mark.parametrize("name", WIDGETS)
def test_nothing_is_cut_off(gallery: Notebook, name: str):
    widget = gallery.widget(name).at
    widget.scroll_into_view_if_needed()
    too_wide = (
        "box => [box, ...box.querySelectorAll('button, label, .widget-readout')]"
        ".filter(e => e.offsetParent && e.scrollWidth > e.clientWidth + 1)"
        ".map(e => `${e.className} ${e.scrollWidth} > ${e.clientWidth}`)"
    )
    assert widget.evaluate(too_wide) == []
    controls = widget.locator("button, input, select, .noUi-target").all()
    boxes = [box for control in controls if (box := control.bounding_box())]
    for i, a in enumerate(boxes):
        for b in boxes[:i]:
            apart = (
                a["x"] + a["width"] <= b["x"] + 1
                or b["x"] + b["width"] <= a["x"] + 1
                or a["y"] + a["height"] <= b["y"] + 1
                or b["y"] + b["height"] <= a["y"] + 1
            )
            assert apart, (a, b)


@pytest.mark.parametrize("name", WIDGETS)
def test_text_can_be_read_on_the_page(gallery: Notebook, name: str):
    """The widget's own words contrast with the page, light or dark."""
    colors = (
        "box => { const brightness = color => color.match(/[\\d.]+/g).slice(0, 3)"
        ".reduce((sum, part, i) => sum + part / 255 * [0.2126, 0.7152, 0.0722][i], 0);"
        "const page = getComputedStyle(document.body).getPropertyValue('--jp-layout-color0');"
        "const probe = document.createElement('p'); probe.style.color = page;"
        "document.body.append(probe);"
        "const back = brightness(getComputedStyle(probe).color); probe.remove();"
        "return Math.abs(brightness(getComputedStyle(box).color) - back); }"
    )
    message = gallery.widget(name).at.locator("[role=status]")
    if message.count():
        assert message.evaluate(colors) > 0.5


def test_stepper(gallery: Notebook):
    widget = gallery.widget("Stepper")
    last = changed(widget, "finish: R3")
    picture = widget.svg.inner_html()
    widget.press("◀ back")
    assert changed(widget, "admit: R3") != last
    widget.at.locator(".noUi-handle").focus()
    for _ in range(2):
        gallery.page.keyboard.press("ArrowLeft")
    changed(widget, "admit: R2")
    assert widget.svg.inner_html() != picture
    widget.press("forward ▶")
    changed(widget, "finish: R2")
    widget.drag("step", 0)
    changed(widget, "admit: R1")
    widget.drag("step", 0.6)
    changed(widget, "finish: R2")
    widget.at.locator(".jupyter-button").nth(2).press("Enter")  # play
    assert changed(widget, "finish: R3") == last
    assert widget.svg.inner_html() == picture


def test_tree_explorer(gallery: Notebook):
    widget = gallery.widget("TreeExplorer")
    before = changed(widget, "match: 2 of 4 pages")
    widget.type("or type", "You are a helpful pirate.")
    widget.press("insert")
    changed(widget, "insert: 4 of 6 pages known")
    widget.at.locator("summary").click()
    code = widget.at.locator("pre").inner_text()
    assert "'You are a helpful pirate.'" in code
    assert "cache.insert(tokens, pages)" in code
    widget.press("lock")
    assert "locked 1" in changed(widget, "lock: the path to node")
    widget.press("undo")
    widget.press("undo")
    assert changed(widget, "match: 2 of 4 pages") == before
    widget.type("or type", "")
    widget.press("match")
    widget.wait_for("The text is empty")
    widget.control("pick").select_option("You are not alone.")
    widget.type("pages to evict", "3")
    widget.press("evict")
    changed(widget, "evict:")
    widget.press("undo")
    assert changed(widget, "match: 2 of 4 pages") == before


def test_page_explorer(gallery: Notebook):
    widget = gallery.widget("PageExplorer")
    changed(widget, "8 pages of 8 tokens instead of 12")
    widget.at.locator(".noUi-handle").focus()
    gallery.page.keyboard.press("ArrowRight")
    changed(widget, "pages of 16 tokens")
    widget.at.get_by_role("checkbox", name=re.compile("^C: ")).press("Space")
    assert "C has pages" in changed(widget, "pages of 16 tokens instead of 9")
    widget.press("fork")
    widget.wait_for("A2 has a copy of it")
    widget.wait_for("A2 has pages")
    widget.press("write a token")
    widget.wait_for("A wrote a token into page")
    widget.press("undo")
    widget.press("undo")
    widget.press("undo")
    widget.wait_for("There is no fork or write to undo")


def test_eviction_lab(gallery: Notebook):
    widget = gallery.widget("EvictionLab")
    changed(widget, "lru, request 10 of 10")
    widget.control("policy").select_option("mru")
    changed(widget, "mru, request 10 of 10")
    widget.control("workload").select_option("two chats in turns")
    changed(widget, "mru, request 8 of 8")
    widget.drag("capacity in pages", 0)
    changed(widget, "the pool is too small")


def test_router_walk(gallery: Notebook):
    widget = gallery.widget("RouterWalk")
    widget.type("request", "Tell me a story. Please!")
    widget.press("send")
    widget.wait_for("of 24 tokens reused")
    for words in ("match:", "lock:"):
        widget.press("forward ▶")
        changed(widget, words)
    widget.press("ask for too much")
    changed(widget, "refused: pages needed")
    widget.wait_for("nothing moved")
    widget.type("request", "too long for this pool " * 4)
    widget.press("send")
    widget.wait_for("Not done.")
    widget.press("start again")
    changed(widget, "before:")


def test_scheduler_lab(gallery: Notebook):
    widget = gallery.widget("SchedulerLab")
    whole = changed(widget, "step 15 of 15")
    widget.press("◀ back")
    widget.press("◀ back")
    assert changed(widget, "step 13 of 15") != whole
    widget.press("forward ▶")
    widget.press("forward ▶")
    assert changed(widget, "step 15 of 15") == whole
    widget.control("order").select_option("lpm")
    changed(widget, "three tasks in turns: lpm")
    widget.control("arrivals").select_option("six long answers at once")
    changed(widget, "six long answers at once: lpm")
    widget.drag("pages in the pool", 0)
    changed(widget, "16 pages")
    changed(widget, "retracted")
    widget.at.get_by_role("checkbox", name="prompts first").press("Space")
    changed(widget, "step 100 of 100")
    widget.control("arrivals").select_option("a long prompt among readers")
    widget.wait_for("Not done.")


def test_workload_lab(gallery: Notebook):
    widget = gallery.widget("WorkloadLab")
    widget.wait_for("lru finds")
    picture = widget.at.locator("img").get_attribute("src")
    widget.control("policy").select_option("mru")
    widget.wait_for("mru finds")
    widget.control("workload").select_option("agent with tools")
    widget.drag("capacity in tokens", 0)
    widget.wait_for("with 64 pages")
    widget.at.page.wait_for_function(
        "([box, before]) => box.querySelector('img').src !== before",
        arg=[widget.at.element_handle(), picture],
    )


def test_fleet_lab(gallery: Notebook):
    widget = gallery.widget("FleetLab")
    widget.wait_for("of the prompts' tokens found")
    picture = widget.at.locator("img").get_attribute("src")
    widget.control("policy").select_option("round robin")
    widget.wait_for("The busiest worker got 1.0 times its share")
    widget.at.page.wait_for_function(
        "([box, before]) => box.querySelector('img').src !== before",
        arg=[widget.at.element_handle(), picture],
    )


def test_live_chat(gallery: Notebook):
    widget = gallery.widget("LiveChat")
    box = widget.control("you")
    for turn in (1, 2):
        box.fill("Count from one to one hundred, please.")
        widget.press("send")
        widget.wait_for(f"Turn {turn}")
        widget.press("stop")
        widget.wait_for("Stopped:")
    widget.wait_for("= reused")
    widget.press("send")
    widget.wait_for("The box is empty")
    widget.press("stop")
    widget.wait_for("There is no answer to stop")
