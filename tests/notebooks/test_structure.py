"""Every notebook keeps the rules; exercises are open, and their solutions are told."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest

from tests.notebooks.rules import RULES, Book, Rule, broken_links
from tests.support.course import COURSE, ROOT
from tests.tools import refresh

NOTEBOOKS: list[Path] = refresh.notebooks_under(ROOT / "notebooks")
WRITTEN = [chapter.path for chapter in COURSE if chapter.path.exists()]


def load(path: Path) -> Book:
    raw = path.read_bytes()
    return Book(path, nbformat.reads(raw.decode(), as_version=4), raw, WRITTEN)


def name_of(thing: Any) -> str:
    return thing.stem if isinstance(thing, Path) else thing.__name__


def test_there_are_notebooks() -> None:
    assert NOTEBOOKS, "no notebook under notebooks/"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name_of)
@pytest.mark.parametrize("check", RULES, ids=name_of)
def test_notebook(check: Rule, path: Path) -> None:
    complaints = list(check(load(path)))
    assert not complaints, "\n".join([str(path.relative_to(ROOT)), *complaints])


@pytest.mark.parametrize("path", sorted((ROOT / "assets").glob("*.png")), ids=name_of)
def test_a_picture_of_the_readme_is_one_of_a_notebook(path: Path) -> None:
    """None is drawn by hand, and none shows what the course has left behind."""
    drawn = [
        refresh.pictures(load(notebook).nb).get(path.stem) for notebook in NOTEBOOKS
    ]
    assert path.read_bytes() in drawn, (
        f"no cell tagged picture:{path.stem} shows it; make refresh writes it"
    )


def exercises(path: Path) -> dict[str, list[str]]:
    """What each `check("exercise …")` of a notebook printed, by exercise: ○, ✓ or ✗."""
    found: dict[str, list[str]] = {}
    for cell in load(path).code:
        for output in cell.outputs:
            for mark, name in re.findall(
                r"^([○✓✗]) (exercise \d+)\b", output.get("text", ""), re.M
            ):
                found.setdefault(name, []).append(mark)
    return found


def checks(path: Path) -> set[str]:
    """The calls `check("exercise …", …)` of a notebook."""
    calls = [
        node
        for cell in load(path).code
        for node in ast.walk(ast.parse(cell.source))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "check"
    ]
    return {
        ast.unparse(call) for call in calls if "exercise" in ast.unparse(call.args[0])
    }


CHAPTERS = [
    path for path in WRITTEN if (path.parent / "solutions" / path.name).exists()
]


@pytest.mark.parametrize("path", CHAPTERS, ids=name_of)
def test_exercises_are_open_and_their_solutions_told_from_wrong_answers(
    path: Path,
) -> None:
    """nbval runs both: a stub is not attempted, a solution passes, a mistake fails."""
    asked = exercises(path)
    assert len(asked) >= 4
    assert all(marks == ["○"] for marks in asked.values()), asked
    answered = exercises(path.parent / "solutions" / path.name)
    assert answered.keys() == asked.keys()
    for name, marks in answered.items():  # one solution, and one or more wrong answers
        assert (marks.count("✓"), set(marks)) == (1, {"✓", "✗"}), name
    assert checks(path.parent / "solutions" / path.name) >= checks(path)


def test_the_links_of_the_readme_resolve() -> None:
    readme = ROOT / "README.md"
    complaints = list(broken_links(readme.read_text(encoding="utf-8"), readme))
    assert not complaints, "\n".join(complaints)
