"""What `assets/chapters.json` says of each chapter: the one manifest of the course.

`builds` are modules whose definitions stand in the chapter's cells; a module may be
built in several chapters, and its home is the first of them. `given` are modules that a
chapter hands out and builds in no cell. `needs` are the chapters to be read before.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]


class Chapter(NamedTuple):
    """An entry of the manifest."""

    file: str
    title: str
    question: str  # what the reader finds out
    outcome: str  # what the reader leaves with
    needs: list[str]
    builds: list[str]
    given: Sequence[str] = ()
    optional: bool = False

    @property
    def number(self) -> str:
        return self.file[:2]

    @property
    def path(self) -> Path:
        return ROOT / "notebooks" / f"{self.file}.ipynb"

    @property
    def modules(self) -> list[str]:
        return [*self.given, *self.builds]


COURSE = [
    Chapter(**entry)
    for entry in json.loads((ROOT / "assets/chapters.json").read_text(encoding="utf-8"))
]
BY_NUMBER = {chapter.number: chapter for chapter in COURSE}

#: Each module's home: the first chapter that gives or builds it.
HOME: dict[str, Chapter] = {}
for _chapter in COURSE:
    for _module in _chapter.modules:
        HOME.setdefault(_module, _chapter)


def needed_by(chapter: Chapter) -> set[str]:
    """The numbers of all chapters that come before it, directly or not."""
    before = set(chapter.needs)
    for number in chapter.needs:
        before |= needed_by(BY_NUMBER[number])
    return before


def earlier_modules(module: str) -> set[str]:
    """What a module may import.

    That is: the modules of the chapters that its home needs, and those that stand
    before it in its home. What a chapter hands out may rest on all that it builds.
    """
    home = HOME[module]
    before = needed_by(home)
    found = {name for name, chapter in HOME.items() if chapter.number in before}
    at_home = [name for name in home.modules if HOME[name] is home]
    if module in home.given:
        return found | set(at_home) - {module}
    return found | set(at_home[: at_home.index(module)])
