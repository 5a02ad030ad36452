"""What may import what, how long a module may be, what starts without torch.

Whoever knows the course knows the library, as long as a chapter's modules need those of
earlier chapters only. `assets/chapters.json` says which chapter a module belongs to.
"""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.code_lines import code_lines
from tests.support.course import (
    COURSE,
    HOME,
    ROOT,
    earlier_modules,
    needed_by,
)
from tests.tools import generated

PACKAGE = ROOT / "radix_lib"

ENTRANCES = {"__init__", "__main__"}  # gather everything

MAX_LINES = 300  # of code: neither blank nor comment nor docstring


def name_of(path: Path) -> str:
    """`radix_tree`, or `teaching.figures`, or `__init__`."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


MODULES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}
CORE = [
    name
    for name in MODULES
    if name not in ENTRANCES and not name.startswith("teaching.")
]


def imported(source: str, package: str = "radix_lib") -> Iterator[str]:
    """The modules of radix_lib that a source imports, wherever it does so.

    >>> list(imported("import radix_lib.router as r, os"))
    ['router']
    >>> list(imported("from radix_lib import router, RadixTree"))
    ['router', 'RadixTree']
    >>> list(imported("def f():\\n    from .teaching.figures import draw"))
    ['teaching.figures.draw']
    >>> list(imported("from ..router import x", package="radix_lib.teaching"))
    ['router.x']
    >>> list(imported("import_module('radix_lib.fleet')"))
    ['fleet']
    >>> list(imported("import radix_lib"))
    ['__init__']
    """
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")
            home = base[: len(base) - node.level + 1] if node.level else []
            start = ".".join([*home, *([node.module] if node.module else [])])
            names = [f"{start}.{alias.name}" for alias in node.names]
        elif (
            isinstance(node, ast.Call)
            and node.args
            and isinstance(node.args[0], ast.Constant)
        ):
            function = ast.unparse(node.func)
            if function.endswith(("import_module", "__import__")):
                names = [str(node.args[0].value)]
        for name in names:
            if name == "radix_lib":
                yield "__init__"
            elif name.startswith("radix_lib."):
                yield name.removeprefix("radix_lib.")


def not_allowed(module: str, source: str) -> list[str]:
    """What `module` imports though its chapter does not need it."""
    found = [name.partition(".")[0] for name in imported(source)]
    return [name for name in found if name not in earlier_modules(module)]


@pytest.mark.parametrize("module", CORE)
def test_a_module_imports_earlier_chapters_only(module: str) -> None:
    assert module in HOME, (
        f"radix_lib/{module.replace('.', '/')}.py belongs to no chapter: "
        "give it one in assets/chapters.json, or put its contents where they belong"
    )
    wrong = not_allowed(module, MODULES[module].read_text(encoding="utf-8"))
    assert not wrong, (
        f"{module} (chapter {HOME[module].number}) imports {', '.join(wrong)}"
    )


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("radix_tree", "from radix_lib.page_manager import PageManager"),
        ("radix_tree", "def f():\n    import radix_lib.page_manager"),
        ("router", "from . import executor"),
        # through __init__: say where from
        ("router", "from radix_lib import AttentionExecutor"),
        ("router", "from radix_lib.teaching import figures"),
        (
            "router",
            "if TYPE_CHECKING:\n    from radix_lib.radix_model import RadixAttentionModel",
        ),
        ("executor", "importlib.import_module('radix_lib.batch_invariance')"),
        ("equality", "from .batch_invariance import batch_invariant"),
        ("equality", "from radix_lib.scheduler import Scheduler"),
        ("eviction", "from .radix_cache import RadixCache"),
        ("router", "import radix_lib"),
        ("router", "from radix_lib import *"),
    ],
)
def test_a_forbidden_import_is_found(module: str, source: str) -> None:
    assert not_allowed(module, source)


def test_the_modules_were_found() -> None:
    assert "radix_tree" in CORE


@pytest.mark.parametrize("module", MODULES)
def test_a_module_fits_in_a_head(module: str) -> None:
    n = code_lines(MODULES[module].read_text(encoding="utf-8"))
    assert n <= MAX_LINES, f"{n} lines of code; {MAX_LINES} at most"
    assert module.rpartition(".")[2] not in {"utils", "helpers"}, (
        "name it after what it does"
    )


# ── The manifest ──────────────────────────────────────────────────────────────────────


def test_chapters_are_numbered_in_order_and_need_earlier_ones() -> None:
    numbers = [chapter.number for chapter in COURSE]
    assert numbers == [f"{n:02}" for n in range(len(COURSE))]
    for n, chapter in enumerate(COURSE):
        assert set(chapter.needs) <= set(numbers[:n]), chapter.file
        assert bool(chapter.needs) == (n > 0), chapter.file


def test_what_is_not_optional_needs_nothing_optional() -> None:
    for chapter in COURSE:
        optional = {c.number for c in COURSE if c.optional}
        assert chapter.optional or not needed_by(chapter) & optional, chapter.file


def test_a_module_is_given_once_or_built() -> None:
    given = [module for chapter in COURSE for module in chapter.given]
    assert len(set(given)) == len(given)
    for chapter in COURSE:
        assert not set(given) & set(chapter.builds), chapter.file
        assert len(set(chapter.builds)) == len(chapter.builds), chapter.file


def test_every_module_of_a_written_chapter_is_there() -> None:
    for chapter in COURSE:
        if chapter.path.exists():
            assert set(chapter.modules) <= set(CORE), chapter.file


def test_every_numbered_notebook_is_in_the_manifest() -> None:
    folder = ROOT / "notebooks"
    found = {path.stem for path in folder.rglob("[0-9]*.ipynb")}
    assert found <= {chapter.file for chapter in COURSE}


def test_the_readme_lists_the_chapters_as_the_manifest_has_them() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert readme == generated.with_tables(readme), "out of date, run make refresh"
    for chapter in COURSE:
        builds = ", ".join(f"`{module}`" for module in chapter.builds) or "–"
        assert f" | {builds} | {chapter.outcome} |" in readme


# ── The doors ─────────────────────────────────────────────────────────────────────────


def homes_for_checkers(source: str, package: str) -> dict[str, str]:
    """What a door tells type checkers: each name and its module.

    >>> homes_for_checkers("if TYPE_CHECKING:\\n    from p.m import A as A", "p")
    {'A': 'm'}
    """
    found: dict[str, str] = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            for inner in node.body:
                assert isinstance(inner, ast.ImportFrom)
                module = str(inner.module).removeprefix(f"{package}.")
                for alias in inner.names:
                    assert alias.asname == alias.name, "not exported without `as`"
                    found[alias.name] = module
    return found


@pytest.mark.parametrize("package", ["radix_lib", "radix_lib.teaching"])
def test_a_door_leads_where_type_checkers_are_told(package: str) -> None:
    door = importlib.import_module(package)
    source = Path(str(door.__file__)).read_text(encoding="utf-8")
    assert homes_for_checkers(source, package) == door._HOME
    for name, module in door._HOME.items():
        path = PACKAGE.parent / f"{package}.{module}".replace(".", "/")
        tree = ast.parse(path.with_suffix(".py").read_text(encoding="utf-8"))
        assert name in set(_defined(tree)), f"{name} is not defined in {module}"


def _defined(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Assign):
            yield from (ast.unparse(target) for target in node.targets)
        elif isinstance(node, ast.AnnAssign):
            yield ast.unparse(node.target)


def test_the_doors_names_live_in_modules_of_the_manifest() -> None:
    import radix_lib

    assert set(radix_lib._HOME.values()) <= set(HOME)


# ── Without torch ─────────────────────────────────────────────────────────────────────


def fresh(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "use",
    [
        "import radix_lib; dir(radix_lib)",
        "from radix_lib import PageManager, RadixCache, RadixTree, Router",
        "from radix_lib import Scheduler, TokenTime",
        "import radix_lib.eviction",
    ],
)
def test_the_control_plane_starts_without_torch(use: str) -> None:
    heavy = ["torch", "transformers", "tokenizers", "matplotlib", "ipywidgets"]
    assert (
        fresh(f"import sys; {use}; print([m for m in {heavy} if m in sys.modules])")
        == "[]\n"
    )


NAMES = [
    "load_model",
    "RadixTree",
    "PageManager",
    "KVPool",
    "RadixCache",
    "Router",
    "AttentionExecutor",
    "RadixAttentionModel",
    "compare_logits",
    "batch_invariant",
]
LATER = {"Scheduler": "scheduler", "explain": "diagnosis"}
NAMES += [name for name, module in LATER.items() if module in MODULES]


@pytest.mark.parametrize("name", NAMES)
def test_the_names_that_stay_put(name: str) -> None:
    import radix_lib

    assert hasattr(radix_lib, name)
    assert name in radix_lib.__all__
    assert name in dir(radix_lib)


@pytest.mark.parametrize("name", ["RadixTree", "PageManager", "RadixCache", "Router"])
def test_each_structure_checks_itself(name: str) -> None:
    import radix_lib

    assert callable(getattr(radix_lib, name).check_integrity)
