"""What a chapter builds is what the library holds: the two are compared definition by
definition.

A cell tagged `builds:MODULE` holds final definitions only, of that module. They are
compared as syntax trees, so that docstrings and comments may differ and nothing else.
Every definition of the module is built, and a chapter imports nothing of what it
builds.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[2]

BUILDS = {
    "02_radix_tree": ["radix_tree"],
    "03_page_manager": ["page_manager"],
    "04_radix_cache": ["eviction", "radix_cache"],
    "05_router": ["router"],
    "06_executor": ["executor"],
    "07_generation": ["radix_model"],
    "11_logits_equality": ["equality", "batch_invariance"],
}
WRITTEN = {name for name in BUILDS if (ROOT / f"notebooks/{name}.ipynb").exists()}
PAIRS = [(name, module) for name, modules in BUILDS.items() for module in modules]
PAIRS = [pair for pair in PAIRS if pair[0] in WRITTEN]

Definitions = dict[str, str]


def definitions(statements: list[ast.stmt], module: str) -> Definitions:
    """Each definition by its name, as text without docstrings: `f`, `C`, `C.method`,
    `CONSTANT`.
    """
    found: Definitions = {}
    for statement in statements:
        for name, text in _of(statement):
            assert name not in found, f"{module} defines {name} twice"
            found[name] = text
    return found


def _of(statement: ast.stmt) -> Iterator[tuple[str, str]]:
    if isinstance(statement, ast.FunctionDef):
        owner = next(
            (d.args[0] for d in statement.decorator_list if _is_method_of(d)), None
        )
        statement.decorator_list = [
            d for d in statement.decorator_list if not _is_method_of(d)
        ]
        prefix = f"{ast.unparse(owner)}." if owner is not None else ""
        yield prefix + statement.name, _text(statement)
    elif isinstance(statement, ast.ClassDef):
        methods = [s for s in statement.body if isinstance(s, ast.FunctionDef)]
        for method in methods:
            yield f"{statement.name}.{method.name}", _text(method)
        names = {method.name for method in methods}
        aliases = [
            s
            for s in statement.body
            if isinstance(s, ast.Assign) and _value(s) in names
        ]
        for alias in aliases:
            yield (
                f"{statement.name}.{ast.unparse(alias.targets[0])}",
                f"alias of {_value(alias)}",
            )
        rest = [*methods, *aliases]
        statement.body = [
            s for s in statement.body if s not in rest and not _is_docstring(s)
        ]
        yield statement.name, ast.dump(statement)
    elif isinstance(statement, ast.Assign) and isinstance(
        statement.targets[0], ast.Attribute
    ):
        value = _value(statement).rpartition(".")[2]  # C.other_name = C.method
        yield ast.unparse(statement.targets[0]), f"alias of {value}"
    elif isinstance(statement, ast.Assign | ast.AnnAssign):
        target = (
            statement.targets[0]
            if isinstance(statement, ast.Assign)
            else statement.target
        )
        yield ast.unparse(target), ast.dump(statement)
    elif not (
        isinstance(statement, ast.Import | ast.ImportFrom | ast.If)
        or _is_docstring(statement)
    ):
        raise AssertionError(f"not a definition: {ast.unparse(statement)}")


def _value(statement: ast.Assign) -> str:
    return ast.unparse(statement.value)


def _is_method_of(decorator: ast.expr) -> bool:
    return (
        isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "method_of"
    )


def _is_docstring(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def _text(function: ast.FunctionDef) -> str:
    for inner in ast.walk(function):
        if isinstance(inner, ast.FunctionDef | ast.ClassDef) and _is_docstring(
            inner.body[0]
        ):
            inner.body = inner.body[1:] or [ast.Pass()]
    return ast.dump(function)


def library(module: str) -> Definitions:
    """The definitions of a module of radix_lib. TYPE_CHECKING imports do not count."""
    source = (ROOT / f"radix_lib/{module}.py").read_text(encoding="utf-8")
    return definitions(ast.parse(source).body, module)


def code_cells(chapter: str) -> list[tuple[list[str], str]]:
    nb = nbformat.read(ROOT / f"notebooks/{chapter}.ipynb", as_version=4)
    return [
        (c.metadata.get("tags", []), c.source)
        for c in nb.cells
        if c.cell_type == "code"
    ]


def differences(built: Definitions, due: Definitions) -> list[str]:
    """What is not the library's, and what is not built."""
    wrong = [
        f"{name} is not the library's" for name in built if built[name] != due.get(name)
    ]
    return wrong + [f"{name} is not built" for name in due if name not in built]


@pytest.mark.parametrize(("chapter", "module"), PAIRS)
def test_a_chapter_builds_the_library(chapter: str, module: str) -> None:
    sources = [
        source for tags, source in code_cells(chapter) if f"builds:{module}" in tags
    ]
    built = definitions(
        [s for source in sources for s in ast.parse(source).body], chapter
    )
    assert not differences(built, library(module))


@pytest.mark.parametrize(("chapter", "module"), PAIRS)
def test_a_chapter_imports_nothing_of_what_it_builds(chapter: str, module: str) -> None:
    names = {name.partition(".")[0] for name in library(module)}
    for tags, source in code_cells(chapter):
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ImportFrom) and node.module == "radix_lib":
                assert not names & {alias.name for alias in node.names}, source
            if isinstance(node, ast.ImportFrom | ast.Import):
                modules = [
                    getattr(node, "module", None),
                    *(alias.name for alias in node.names),
                ]
                assert f"radix_lib.{module}" not in modules, source
            if (
                isinstance(node, ast.ClassDef | ast.FunctionDef)
                and f"builds:{module}" not in tags
            ):
                is_method = getattr(
                    node, "decorator_list", []
                ) and "method_of" in ast.dump(node)
                assert is_method or node.name not in names, (
                    f"{node.name} in a cell without its tag"
                )


ALIAS = "class A:\n    x = 1\n    def f(self): return 1\n    g = f"
TWO = "class A:\n    '''Doc.'''\n    x = 1\n    def f(self):\n        '''Doc.'''\n        return 1\n"


@pytest.mark.parametrize(
    ("cell", "wrong"),
    [
        ("class A:\n    x = 1\n@method_of(A)\ndef f(self):\n    return 1  # why", []),
        (
            "class A:\n    x = 1\n@method_of(A)\ndef f(self):\n    return 2",
            ["A.f is not the lib"],
        ),
        (
            "class A:\n    x = 2\n    def f(self):\n        return 1",
            ["A is not the library's"],
        ),
        ("class A:\n    x = 1", ["A.f is not built"]),
        (TWO + "def g(): pass", ["g is not the library's"]),
    ],
)
def test_a_difference_is_found(cell: str, wrong: list[str]) -> None:
    due = definitions(ast.parse(TWO).body, "library")
    found = differences(definitions(ast.parse(cell).body, "cell"), due)
    assert len(found) == len(wrong)
    assert all(a.startswith(b) for a, b in zip(found, wrong, strict=True))


def test_another_name_of_a_method() -> None:
    cell = "class A:\n    x = 1\n@method_of(A)\ndef f(self): return 1\nA.g = A.f"
    due = definitions(ast.parse(ALIAS).body, "library")
    assert not differences(definitions(ast.parse(cell).body, "cell"), due)
    wrong = definitions(ast.parse(cell.replace("A.g = A.f", "A.g = A.x")).body, "cell")
    assert differences(wrong, due) == ["A.g is not the library's"]


def test_what_is_no_definition_is_refused() -> None:
    with pytest.raises(AssertionError, match="not a definition"):
        definitions(ast.parse("print(1)").body, "cell")
