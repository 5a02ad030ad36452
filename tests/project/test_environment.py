"""environment.yml and pyproject.toml say the same, and name whatever is imported.

The library asks for ranges; the course, whose outputs are compared, for exact versions.
"""

from __future__ import annotations

import ast
import json
import re
import sys
import tomllib
from importlib.metadata import packages_distributions, version
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from tests.support.course import COURSE, ROOT, Chapter

YML = (ROOT / "environment.yml").read_text(encoding="utf-8")
ENVIRONMENT = yaml.safe_load(YML)
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = PYPROJECT["project"]

CONDA = [line for line in ENVIRONMENT["dependencies"] if isinstance(line, str)]
(PIP,) = [part["pip"] for part in ENVIRONMENT["dependencies"] if isinstance(part, dict)]
PACKAGES = [line for line in PIP if not line.startswith("-")]

NEEDED = PROJECT["dependencies"]
PINNED = PROJECT["optional-dependencies"]["course"]
THE_COURSE, *DEV = PROJECT["optional-dependencies"]["dev"]

CHAPTERS = re.compile(r"^(\d\d)(?:-(\d\d))?$")


def by_name(specs: list[str]) -> dict[str, SpecifierSet]:
    requirements = [Requirement(spec) for spec in specs]
    assert len({canonicalize_name(r.name) for r in requirements}) == len(specs), (
        "named twice"
    )
    return {canonicalize_name(r.name): r.specifier for r in requirements}


# ── The two files ─────────────────────────────────────────────────────────────────────


def test_environment_yml_has_pyprojects_packages_and_versions() -> None:
    assert by_name(PACKAGES) == by_name(PINNED + DEV)


def test_what_checks_the_course_includes_the_course() -> None:
    assert THE_COURSE == "radix_lib[course]"
    assert not by_name(PINNED).keys() & by_name(DEV).keys()


def test_the_quick_checks_use_the_same_versions() -> None:
    quick = by_name(PYPROJECT["dependency-groups"]["quick"])
    assert quick.items() <= by_name(PINNED + DEV).items()


@pytest.mark.parametrize("spec", NEEDED)
def test_the_library_asks_for_a_range_that_holds_the_courses_pin(spec: str) -> None:
    needed = Requirement(spec)
    (pin,) = by_name(PINNED)[canonicalize_name(needed.name)]
    assert needed.specifier.contains(pin.version)
    assert "==" not in spec
    assert ">=" in spec, "no lower end"


@pytest.mark.parametrize("spec", PINNED + DEV)
def test_each_package_is_pinned(spec: str) -> None:
    (pin,) = Requirement(spec).specifier
    assert pin.operator == "=="
    assert "*" not in pin.version


@pytest.mark.parametrize("spec", PINNED + DEV)
def test_what_is_installed_here_is_what_is_pinned(spec: str) -> None:
    """Otherwise the committed outputs are compared with those of other versions."""
    requirement = Requirement(spec)
    assert requirement.specifier.contains(version(requirement.name))


def test_python_and_pip_come_from_conda_forge_and_python_fits() -> None:
    specs = by_name(CONDA)
    assert specs.keys() == {"python", "pip"}
    assert specs["python"] == SpecifierSet(PROJECT["requires-python"])
    assert ENVIRONMENT["channels"][0] == "conda-forge"
    assert ENVIRONMENT["name"]


def test_this_repository_comes_last_and_editable() -> None:
    assert PIP[-1] == "-e .[dev]"
    assert [line for line in PIP if line.startswith("-")] == PIP[-1:]
    assert isinstance(ENVIRONMENT["dependencies"][-1], dict), "pip runs after conda"


def test_the_makefile_asks_for_the_same_pythons() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    low, high = re.findall(
        r"\((\d, \d+)\)", re.findall(r"^FITS.*$", makefile, re.MULTILINE)[0]
    )
    wanted = f">={low},<{high}".replace(", ", ".")
    assert SpecifierSet(wanted) == SpecifierSet(PROJECT["requires-python"])


# ── The chapters that use a package ───────────────────────────────────────────────────


def chapters(comment: str) -> set[int]:
    """The chapters that a comment names before its colon.

    >>> sorted(chapters("00, 02-04: trees"))
    [0, 2, 3, 4]
    """
    named: set[int] = set()
    for part in comment.partition(":")[0].split(","):
        match = CHAPTERS.match(part.strip())
        assert match, f"{part.strip()!r} is no chapter (02) and no range (02-05)"
        first = int(match[1])
        last = int(match[2] or first)
        assert first <= last < len(COURSE), f"{part.strip()} is not in the manifest"
        named |= set(range(first, last + 1))
    return named


COMMENTED = {
    match[1]: match[2]
    for match in re.finditer(r"^ +- (?!pip:)(.*?)(?:\s+#\s*(.*))?$", YML, re.MULTILINE)
    if match[1] not in ENVIRONMENT["channels"]
}


def test_every_package_was_seen() -> None:
    assert list(COMMENTED) == CONDA + PIP


@pytest.mark.parametrize("spec", CONDA + PIP)
def test_a_comment_says_which_chapters_use_the_package(spec: str) -> None:
    assert COMMENTED[spec], "no comment"
    assert chapters(COMMENTED[spec])


# ── Imports ───────────────────────────────────────────────────────────────────────────


def third_party(source: str) -> set[str]:
    """Top-level names of what is imported and is neither Python's nor ours."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(str(node.module))
    top = {name.partition(".")[0] for name in names}
    return top - set(sys.stdlib_module_names) - OURS


def python_of(path: Path) -> str:
    """A file's source; of a notebook, that of its code cells, without magics."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".ipynb":
        return text
    cells = [c for c in json.loads(text)["cells"] if c["cell_type"] == "code"]
    lines = [line for c in cells for line in "".join(c["source"]).splitlines()]
    return "\n".join(
        "pass" if line.lstrip().startswith(("%", "!")) else line for line in lines
    )


def files(*folders: str) -> list[Path]:
    found = [path for folder in folders for path in sorted((ROOT / folder).rglob("*"))]
    found = [path for path in found if ".ipynb_checkpoints" not in path.parts]
    return [path for path in found if path.suffix in (".py", ".ipynb")]


OURS = (
    {"radix_lib", "tests"}
    | {path.stem for path in files("tests")}
    | {path.name for path in (ROOT / "tests").rglob("*") if path.is_dir()}
)
PROVIDED_BY = packages_distributions()


def missing(path: Path, named: set[str]) -> list[str]:
    return [
        module
        for module in sorted(third_party(python_of(path)))
        if not {canonicalize_name(d) for d in PROVIDED_BY.get(module, [])} & named
    ]


TEACHING = files("radix_lib/teaching")
FLEET = [
    ROOT / f"radix_lib/{name}.py"
    for name in ("protocol", "worker", "fleet", "real_server")
]
FLEET = [path for path in FLEET if path.exists()]  # what only they need is an extra
CORE = [path for path in files("radix_lib") if path not in TEACHING + FLEET]
TESTS = [*files("tests"), ROOT / "notebooks" / "conftest.py"]
SOURCES = [
    *TEACHING,
    *FLEET,
    *(path for path in files("notebooks") if path not in TESTS),
]


@pytest.mark.parametrize("path", CORE, ids=lambda p: p.stem)
def test_the_library_imports_what_it_asks_for(path: Path) -> None:
    assert not missing(path, set(by_name(NEEDED))), "not among the dependencies"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.stem)
def test_the_course_imports_what_pyproject_names(path: Path) -> None:
    assert not missing(path, set(by_name(PINNED))), "not in the extra `course`"


@pytest.mark.parametrize("path", TESTS, ids=lambda p: p.stem)
def test_the_tests_import_what_pyproject_names(path: Path) -> None:
    assert not missing(path, set(by_name(PINNED + DEV))), "not in pyproject.toml"


USES = [(chapter, chapter.path) for chapter in COURSE if chapter.path.exists()]
USES += [
    (chapter, ROOT / "radix_lib" / f"{module}.py")
    for chapter, _ in USES
    for module in chapter.modules
]


@pytest.mark.parametrize(
    ("chapter", "path"), USES, ids=lambda x: getattr(x, "stem", "")
)
def test_the_comments_name_the_chapters_that_import_a_package(
    chapter: Chapter, path: Path
) -> None:
    """A chapter's own cells, and its modules."""
    for module in third_party(python_of(path)):
        names = {canonicalize_name(name) for name in PROVIDED_BY.get(module, [])}
        for spec in PACKAGES:
            if canonicalize_name(Requirement(spec).name) in names:
                assert int(chapter.number) in chapters(COMMENTED[spec]), (
                    f"{spec} is used in {chapter.number}"
                )
