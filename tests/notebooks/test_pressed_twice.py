"""A cell may be pressed twice: it neither fails nor spoils what comes after it.

Every code cell of a notebook is run twice in a row, and so on to the end. None raises,
and every check says what it says in the committed outputs.
"""

from __future__ import annotations

import re
from copy import deepcopy
from pathlib import Path

import pytest
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_notebook

from tests.tools import refresh

ROOT = Path(__file__).resolve().parents[2]
WITHOUT_A_MODEL = ("02", "03", "04", "05")
VERDICT = re.compile(r"^[✓✗○].*", re.MULTILINE)


def pressed_twice(notebook: NotebookNode) -> NotebookNode:
    """A copy in which each code cell stands twice, and a failure stops nothing."""
    cells: list[NotebookNode] = []
    for cell in notebook.cells:
        if cell.cell_type == "code":
            first, again = deepcopy(cell), deepcopy(cell)
            again.id = f"{cell.id}-2"
            cells += [first, again]
    for cell in cells:
        cell.metadata["tags"] = [*refresh.tags(cell), "raises-exception"]
    return new_notebook(cells=cells, metadata=deepcopy(notebook.metadata))


def verdicts(cell: NotebookNode) -> list[str]:
    """The lines that `check` printed, and the name of what was raised."""
    lines = []
    for output in cell.outputs:
        lines += VERDICT.findall(output.get("text", ""))
        lines += [output.ename] if output.output_type == "error" else []
    return lines


def changed_verdicts(notebook: NotebookNode, folder: Path) -> list[str]:
    """Run every cell of a notebook twice: where does it end otherwise than before?"""
    before = pressed_twice(notebook)
    after = refresh.execute(before, folder, timeout=300)
    complaints = []
    for n, (old, new) in enumerate(zip(before.cells, after.cells, strict=True)):
        if verdicts(old) != verdicts(new):
            when = "pressed again" if n % 2 else "after cells that were pressed twice"
            head = new.source.strip().splitlines()[0]
            complaints.append(f"{head!r}, {when}: {verdicts(new)}, not {verdicts(old)}")
    return complaints


def books() -> list[pytest.param]:
    found = []
    for path in refresh.notebooks_under(ROOT / "notebooks"):
        name = str(path.relative_to(ROOT / "notebooks").with_suffix(""))
        marks = []
        if not path.name.startswith(WITHOUT_A_MODEL):
            marks.append(pytest.mark.long)
        found.append(pytest.param(path, id=name, marks=marks))
    return found


@pytest.mark.parametrize("path", books())
def test_every_cell_of_a_notebook_may_be_pressed_twice(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RADIX_LIB_MODEL", raising=False)
    notebook = refresh.parse(path.read_text(encoding="utf-8"))
    complaints = changed_verdicts(notebook, path.parent)
    assert not complaints, "\n".join(complaints)


def book(*sources: str) -> NotebookNode:
    """A notebook with the outputs of pressing each cell once."""
    cells = [new_code_cell(source) for source in sources]
    return refresh.execute(new_notebook(cells=cells), ROOT, timeout=60)


SPOILED_LATER = ["n = 1", "n += 1", "print('✓' if n == 2 else '✗', 'n is two')"]
SPOILED_ITSELF = ["n = 1", "n += 1\nprint('✓' if n == 2 else '✗', 'n is two')"]


@pytest.mark.parametrize(
    ("sources", "wrong"),
    [
        (["n = 1\nn += 1\nprint('✓ n is', n)"], []),
        (SPOILED_LATER, ["after cells that were pressed twice", "pressed again"]),
        (SPOILED_ITSELF, ["pressed again"]),
    ],
)
def test_a_check_that_says_something_else_is_found(
    sources: list[str], wrong: list[str]
) -> None:
    complaints = changed_verdicts(book(*sources), ROOT)
    assert len(complaints) == len(wrong)
    assert all(b in a for a, b in zip(complaints, wrong, strict=True)), complaints


def test_a_cell_that_fails_the_second_time_is_found() -> None:
    (complaint,) = changed_verdicts(book("d = {1: 2}", "d.pop(1)"), ROOT)
    assert complaint == "'d.pop(1)', pressed again: ['KeyError'], not []"
