"""Each rule finds its fault in a notebook that is broken on purpose, and no other."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from tests.notebooks.rules import MAX_BYTES, RULES, Book
from tests.tools import refresh

PNG = "image/png"
SVG = "image/svg+xml"


def figure(data: dict[str, str], **metadata: Any) -> NotebookNode:
    return new_output("display_data", data, metadata=metadata)


def sound() -> NotebookNode:
    """A small notebook with which no rule finds fault: chapter b of a, b, c."""
    drawing = figure({PNG: "cG5n", SVG: "<svg/>", "text/plain": "a -> b"}, alt="A tree")
    chart = figure(
        {PNG: "cG5n", "text/plain": "time: 1 2 4"}, **{PNG: {"alt": "Times"}}
    )
    error = new_output(
        "error", ename="ValueError", evalue="no", traceback=["ValueError: no"]
    )
    cells = [
        new_markdown_cell(
            "# Title\n\n`# no heading`\n\n```\n### nor this [x](nowhere)\n```"
        ),
        new_markdown_cell(
            "## What you need\n\n![A lit drawing](drawing.svg) [up](#Title)"
        ),
        new_code_cell("draw()", outputs=[drawing], execution_count=1),
        new_code_cell("chart()", outputs=[chart], execution_count=2),
        new_code_cell("raise ValueError('no')", outputs=[error], execution_count=3),
        new_markdown_cell(
            "[previous](a.ipynb) · [contents](b.ipynb#Title) · [next](c.ipynb)"
        ),
    ]
    cells[4].metadata["tags"] = ["raises-exception"]
    return refresh.normalise(new_notebook(cells=cells))


def fault_found_by(nb: NotebookNode, folder: Path) -> set[str]:
    course = [folder / name for name in ("a.ipynb", "b.ipynb", "c.ipynb")]
    for path in (*course, folder / "drawing.svg"):
        path.touch()
    raw = refresh.to_bytes(nb)
    course[1].write_bytes(raw)
    return {
        check.__name__
        for check in RULES
        if list(check(Book(course[1], nb, raw, course)))
    }


def test_no_rule_finds_fault_with_a_sound_notebook(tmp_path: Path) -> None:
    assert fault_found_by(sound(), tmp_path) == set()


def edit(cell: int, **changes: Any) -> Callable[[NotebookNode], None]:
    return lambda nb: nb.cells[cell].update(changes)


def retag(cell: int, *tags: str) -> Callable[[NotebookNode], None]:
    return lambda nb: nb.cells[cell].metadata.update(tags=list(tags))


def show(cell: int, output: NotebookNode) -> Callable[[NotebookNode], None]:
    return lambda nb: nb.cells[cell].outputs.append(output)


def more_cells(source: str, n: int, *tags: str) -> Callable[[NotebookNode], None]:
    def change(nb: NotebookNode) -> None:
        for i in range(n):
            cell = new_code_cell(source, id=f"more-{i}", execution_count=4 + i)
            cell.metadata["tags"] = list(tags)
            nb.cells.insert(5 + i, cell)

    return change


WIDGET_VIEW = new_output(
    "display_data",
    {"application/vnd.jupyter.widget-view+json": {}, "text/plain": "IntSlider()"},
)
BROKEN: list[tuple[str, Callable[[NotebookNode], object]]] = [
    ("is_valid", edit(2, execution_count="one")),
    (
        "is_in_normal_form",
        lambda nb: nb.metadata.language_info.update(version="3.11.7"),
    ),
    ("is_in_normal_form", lambda nb: nb.metadata.update(widgets={"state": {}})),
    ("is_in_normal_form", lambda nb: nb.cells[2].metadata.update(execution={})),
    (
        "is_in_normal_form",
        show(2, new_output("stream", text="<A object at 0x7f52a07bdc10>")),
    ),
    ("is_small", edit(1, source="## " + "x" * MAX_BYTES)),
    ("has_no_machine_path", edit(2, source="open('/home/me/x')")),
    ("has_no_machine_path", show(2, new_output("stream", text="at C:\\Users\\me"))),
    ("has_no_machine_path", show(2, figure({"text/html": "<i>/tmp/x</i>"}))),
    ("was_run_in_order", edit(3, execution_count=None)),
    ("was_run_in_order", edit(3, execution_count=7)),
    ("was_run_in_order", lambda nb: nb.update(cells=nb.cells[:2])),
    ("outputs_are_clean", retag(4)),
    ("outputs_are_clean", retag(3, "raises-exception")),
    (
        "outputs_are_clean",
        show(2, new_output("stream", name="stderr", text="a warning")),
    ),
    ("outputs_are_clean", show(2, WIDGET_VIEW)),
    ("nearly_every_cell_is_compared", more_cells("t()", 4, "nbval-ignore-output")),
    (
        "nearly_every_cell_is_compared",
        edit(2, source="draw()  \n# NBVAL_IGNORE_OUTPUT"),
    ),
    ("nearly_every_cell_is_compared", retag(2, "nbval-skip")),
    ("figures_show_everywhere", lambda nb: nb.cells[2].outputs[0].data.pop(PNG)),
    (
        "figures_show_everywhere",
        lambda nb: nb.cells[2].outputs[0].data.pop("text/plain"),
    ),
    ("figures_show_everywhere", lambda nb: nb.cells[2].outputs[0].metadata.clear()),
    (
        "figures_show_everywhere",
        lambda nb: nb.cells[3].outputs[0].metadata[PNG].update(alt=" "),
    ),
    (
        "figures_show_everywhere",
        show(2, figure({PNG: "x", "text/plain": "<Figure>"}, alt="A")),
    ),
    ("headings_are_in_order", edit(0, source="## Title")),
    ("headings_are_in_order", edit(1, source="# Title again")),
    ("headings_are_in_order", edit(1, source="### Too deep")),
    (
        "headings_are_in_order",
        lambda nb: nb.cells.insert(0, new_markdown_cell("Hello", id="x")),
    ),
    ("headings_are_in_order", lambda nb: nb.cells.insert(0, nb.cells.pop(2))),
    ("links_resolve", edit(1, source="[x](nowhere.md)")),
    ("links_resolve", edit(1, source="[x](#nowhere)")),
    ("links_resolve", edit(1, source="[**x**](b.ipynb#nowhere)")),
    ("links_resolve", edit(1, source="<a href='nowhere.md'>x</a>")),
    ("links_resolve", edit(1, source="![](drawing.svg)")),
    ("links_resolve", edit(1, source="[![](drawing.svg)](b.ipynb)")),
    ("links_resolve", edit(1, source="<img src='drawing.svg'>")),
    ("ends_with_the_way_on", edit(5, source="[previous](a.ipynb), contents")),
    ("ends_with_the_way_on", edit(5, source="[next](c.ipynb), contents")),
    ("ends_with_the_way_on", edit(5, source="[previous](a.ipynb) [next](c.ipynb)")),
    ("generated_parts_are_current", retag(1, "generated:glossary")),
]


@pytest.mark.parametrize(("named", "harm"), BROKEN)
def test_the_rule_finds_the_fault(
    named: str, harm: Callable[[NotebookNode], object], tmp_path: Path
) -> None:
    nb = deepcopy(sound())
    harm(nb)
    assert named in fault_found_by(nb, tmp_path)


def test_each_rule_has_been_seen_to_complain() -> None:
    assert {check.__name__ for check in RULES} == {named for named, _ in BROKEN}
