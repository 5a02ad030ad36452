"""What README and CONTRIBUTING name is there: links, commands, hours, versions."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from tests.support.course import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
CONTRIBUTING = ROOT / ".github" / "CONTRIBUTING.md"
DOCUMENTS = [ROOT / "README.md", CONTRIBUTING]
HOURS = re.compile(
    r"about (\d+) hours to read and run, and the exercises (\d+) more\. "
    r"The short way is \*\*([\d, ]+)\*\*, about (\d+) hours and (\d+)"
)


def one_line(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.stem)
def test_a_command_that_is_named_is_a_target_of_the_makefile(path: Path) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (phony,) = re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    text = path.read_text(encoding="utf-8")
    named = set(re.findall(r"(?:`|^|[A-Z]\w* )make ([a-z-]+)", text, re.MULTILINE))
    assert named
    assert named <= set(phony.split())


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.stem)
def test_a_link_leads_to_a_file(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", path.read_text(encoding="utf-8")):
        assert "://" in target or (path.parent / target).exists(), target


def test_a_file_that_contributing_names_is_there() -> None:
    named = re.findall(r"`([\w./]+/[\w.]*)`", CONTRIBUTING.read_text(encoding="utf-8"))
    assert len(named) > 10
    for name in set(named) - {"build/gallery/index.html"}:
        assert (ROOT / name).exists(), name


def test_the_readme_names_the_hours_that_chapter_00_names() -> None:
    book = json.loads((ROOT / "notebooks/00_start_here.ipynb").read_text("utf-8"))
    cells = "\n".join("".join(cell["source"]) for cell in book["cells"])
    in_00 = HOURS.search(one_line(cells))
    in_readme = HOURS.search(one_line(README))
    assert in_00 is not None
    assert in_readme is not None
    assert in_readme.groups() == in_00.groups()


def test_the_hooks_use_the_versions_of_make_quick() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text("utf-8"))
    (repository,) = hooks["repos"]
    needed = {
        hook["id"]: hook["additional_dependencies"] for hook in repository["hooks"]
    }
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for hook in ("ruff-check", "ruff-format"):
        (pin,) = needed[hook]
        assert f'"{pin}"' in pyproject
