"""The time that a reader is told matches the length of what there is to read."""

from __future__ import annotations

import json
import re
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parents[2]
CHAPTERS = sorted((ROOT / "notebooks").glob("[01][0-9]_*.ipynb"))
# Prose that is thought about, code that is read and run. With these, chapter 04 takes
# the 70 minutes that a first reader needed.
WORDS_A_MINUTE, LINES_A_MINUTE = 130, 15
EXERCISE = re.compile(r"^### Exercise .*?(\d+) minutes?$", re.MULTILINE)


def parts(notebook: NotebookNode) -> tuple[list[NotebookNode], list[NotebookNode]]:
    """The cells that are read, and those of the exercises."""
    read, exercises = [], []
    inside = False
    for cell in notebook.cells:
        tags = cell.metadata.get("tags", [])
        if cell.cell_type == "markdown" and not any("generated" in tag for tag in tags):
            inside = "## Exercises" in cell.source or inside
            inside = inside and not re.search(
                r"^## (Questions|Recap)", cell.source, re.MULTILINE
            )
        (exercises if inside else read).append(cell)
    return read, exercises


def minutes(notebook: NotebookNode) -> float:
    """How long a chapter takes without its exercises."""
    words = lines = 0
    for cell in parts(notebook)[0]:
        if any("generated" in tag for tag in cell.metadata.get("tags", [])):
            continue
        if cell.cell_type == "markdown":
            words += len(re.sub(r"<[^>]*>", " ", cell.source).split())
        else:
            lines += sum(bool(line.strip()) for line in cell.source.splitlines())
    return words / WORDS_A_MINUTE + lines / LINES_A_MINUTE


def stated(notebook: NotebookNode) -> int:
    """The minutes that the chapter's first cell names for reading."""
    found = re.search(r"\*\*Time\*\* (\d+) minutes", notebook.cells[0].source)
    assert found is not None, "the first cell names no time: **Time** 40 minutes, …"
    return int(found[1])


def of_exercises(notebook: NotebookNode) -> int:
    """The minutes that the headings of the exercises name, together."""
    sources = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    return sum(int(n) for source in sources for n in EXERCISE.findall(source))


def load(path: Path) -> NotebookNode:
    return nbformat.read(path, as_version=4)


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_the_time_for_a_chapter_matches_its_length(path: Path) -> None:
    told, due = stated(load(path)), minutes(load(path))
    assert 0.75 * due < told < 1.25 * due, f"{told} minutes are told; {due:.0f} fit"


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_the_time_for_the_exercises_is_the_sum_of_theirs(path: Path) -> None:
    notebook = load(path)
    found = re.search(r"the exercises (\d+) more", notebook.cells[0].source)
    assert found is not None, "the first cell says: the exercises 45 more"
    assert abs(int(found[1]) - of_exercises(notebook)) <= 5


def test_the_hours_of_the_course_are_the_sums_of_the_chapters() -> None:
    text = "\n".join(cell.source for cell in load(CHAPTERS[0]).cells)
    told = re.search(
        r"about (\d+) hours to read and run, and the exercises (\d+) more\. "
        r"The short way is \*\*([\d, ]+)\*\*, about (\d+) hours and (\d+)",
        text,
    )
    assert told is not None
    manifest = json.loads((ROOT / "assets/chapters.json").read_text(encoding="utf-8"))
    needed = [c["file"][:2] for c in manifest if not c.get("optional")]
    for way, reading, exercises in (
        (needed, told[1], told[2]),
        (told[3].split(", "), told[4], told[5]),
    ):
        books = [load(path) for path in CHAPTERS if path.stem[:2] in way]
        assert len(books) == len(way)
        assert int(reading) == round(sum(map(stated, books)) / 60)
        assert int(exercises) == round(sum(map(of_exercises, books)) / 60)
