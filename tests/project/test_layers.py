"""What a module may import, how long it may be, and what starts without torch.

Whoever knows the course knows the library, as long as a chapter's module needs earlier
ones only.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.code_lines import code_lines

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "radix_lib"

# Each module and its chapter, in the order of the course. 08 to 10 are optional: 11
# does without.
CHAPTER = {
    "_door": 0,
    "texts": 0,
    "supported_models": 0,
    "progress": 0,
    "default_model": 0,
    "model_loader": 0,
    "radix_tree": 2,
    "page_manager": 3,
    "eviction": 4,
    "radix_cache": 4,
    "router": 5,
    "executor": 6,
    "radix_model": 7,
    "scheduler": 8,
    "workloads": 9,
    "fleet": 10,
    "equality": 11,
    "batch_invariance": 11,
}
ORDER = list(CHAPTER)
OPTIONAL = {"scheduler", "workloads", "fleet"}
# a context manager around the others, which must not notice
KNOWN_BY_NONE = {"batch_invariance"}
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
    """The modules of radix_lib that a source imports: at the top, in a function, for
    types only.

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
    """What `module` imports though its chapter comes too early for it."""
    earlier = set(ORDER[: ORDER.index(module)]) - KNOWN_BY_NONE
    if CHAPTER[module] == 11:
        earlier -= OPTIONAL
    found = [name.partition(".")[0] for name in imported(source)]
    return [name for name in found if name not in earlier]


@pytest.mark.parametrize("module", CORE)
def test_a_module_imports_earlier_chapters_only(module: str) -> None:
    assert module in CHAPTER, (
        f"radix_lib/{module.replace('.', '/')}.py belongs to no chapter: "
        f"give it one in {Path(__file__).name}, or put its contents where they belong"
    )
    wrong = not_allowed(module, MODULES[module].read_text(encoding="utf-8"))
    assert not wrong, (
        f"{module} (chapter {CHAPTER[module]:02}) imports {', '.join(wrong)}"
    )


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("radix_tree", "from radix_lib.page_manager import PageManager"),
        ("radix_tree", "def f():\n    import radix_lib.page_manager"),
        ("router", "from . import executor"),
        (
            "router",
            "from radix_lib import AttentionExecutor",
        ),  # through __init__: say where from
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
        "import radix_lib.eviction",
    ],
)
def test_the_control_plane_starts_without_torch(use: str) -> None:
    heavy = ["torch", "transformers", "tokenizers", "matplotlib", "ipywidgets"]
    assert (
        fresh(f"import sys; {use}; print([m for m in {heavy} if m in sys.modules])")
        == "[]\n"
    )


PUBLIC = {
    "load_model": "model_loader",
    "RadixTree": "radix_tree",
    "PageManager": "page_manager",
    "KVPool": "page_manager",
    "RadixCache": "radix_cache",
    "Router": "router",
    "AttentionExecutor": "executor",
    "RadixAttentionModel": "radix_model",
    "compare_logits": "equality",
    "batch_invariant": "batch_invariance",
}
LATER = {"Scheduler": "scheduler"}


@pytest.mark.parametrize(
    "name", [*PUBLIC, *(n for n, module in LATER.items() if module in CORE)]
)
def test_the_names_that_stay_put(name: str) -> None:
    import radix_lib

    assert hasattr(radix_lib, name)
    assert name in radix_lib.__all__
    assert name in dir(radix_lib)


@pytest.mark.parametrize("name", ["RadixTree", "PageManager", "RadixCache", "Router"])
def test_each_structure_checks_itself(name: str) -> None:
    import radix_lib

    assert callable(getattr(radix_lib, name).check_integrity)
