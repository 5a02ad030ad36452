"""What a chapter builds is what the library holds, definition by definition.

A cell tagged `builds:MODULE` holds final definitions only, of that module. They are
compared as syntax trees, so that docstrings and comments may differ and nothing else. A
module may be built in several chapters: each of its definitions is built, in exactly
one of them, and a chapter imports nothing of what it builds. Which chapter builds what
stands in `assets/chapters.json`.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import TypeGuard

import nbformat
import pytest

from tests.support.course import COURSE, HOME, ROOT, Chapter

WRITTEN = [chapter for chapter in COURSE if chapter.path.exists()]
PAIRS = [(chapter, module) for chapter in WRITTEN for module in chapter.builds]
MODULES = sorted({module for _, module in PAIRS})

Definitions = dict[str, str]


def definitions(statements: list[ast.stmt], module: str) -> Definitions:
    """Each definition as text without docstrings: `f`, `C`, `C.method`, `CONSTANT`."""
    found: Definitions = {}
    for statement in statements:
        for name, text in _of(statement):
            assert name not in found, f"{module} defines {name} twice"
            found[name] = text
    return found


def _of(statement: ast.stmt) -> Iterator[tuple[str, str]]:
    if isinstance(statement, ast.FunctionDef):
        yield _function(statement)
    elif isinstance(statement, ast.ClassDef):
        yield from _class(statement)
    elif isinstance(statement, ast.AnnAssign):
        yield ast.unparse(statement.target), ast.dump(statement)
    elif isinstance(statement, ast.Assign):
        target = statement.targets[0]
        if isinstance(target, ast.Attribute):  # C.other_name = C.method
            value = _value(statement).rpartition(".")[2]
            yield ast.unparse(target), f"alias of {value}"
        else:
            yield ast.unparse(target), ast.dump(statement)
    elif not isinstance(statement, ast.Import | ast.ImportFrom | ast.If):
        assert _is_docstring(statement), f"not a definition: {ast.unparse(statement)}"


def _function(function: ast.FunctionDef) -> tuple[str, str]:
    """A function, or a method with the class that `method_of` names."""
    owners = [d.args[0] for d in function.decorator_list if _is_method_of(d)]
    others = [d for d in function.decorator_list if not _is_method_of(d)]
    function.decorator_list = others
    parts = [*map(ast.unparse, owners), function.name]
    return ".".join(parts), _text(function)


def _class(statement: ast.ClassDef) -> Iterator[tuple[str, str]]:
    """Its methods, their other names, and what else it says."""
    methods = [s for s in statement.body if isinstance(s, ast.FunctionDef)]
    for method in methods:
        yield f"{statement.name}.{method.name}", _text(method)
    names = {method.name for method in methods}
    rest: list[ast.stmt] = []
    for inner in statement.body:
        if isinstance(inner, ast.Assign) and _value(inner) in names:
            other_name = f"{statement.name}.{ast.unparse(inner.targets[0])}"
            yield other_name, f"alias of {_value(inner)}"
        elif inner not in methods and not _is_docstring(inner):
            rest.append(inner)
    statement.body = rest
    yield statement.name, ast.dump(statement)


def _value(statement: ast.Assign) -> str:
    return ast.unparse(statement.value)


def _is_method_of(decorator: ast.expr) -> TypeGuard[ast.Call]:
    is_call = isinstance(decorator, ast.Call)
    return is_call and ast.unparse(decorator.func) == "method_of"


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


def code_cells(chapter: Chapter) -> list[tuple[list[str], str]]:
    """The tags and the source of each code cell."""
    nb = nbformat.read(chapter.path, as_version=4)
    return [
        (c.metadata.get("tags", []), c.source)
        for c in nb.cells
        if c.cell_type == "code"
    ]


def built(chapter: Chapter, module: str) -> Definitions:
    """The definitions in the cells of a chapter that build a module."""
    statements: list[ast.stmt] = []
    for tags, source in code_cells(chapter):
        if f"builds:{module}" in tags:
            statements += ast.parse(source).body
    return definitions(statements, chapter.file)


def union(parts: dict[str, Definitions]) -> Definitions:
    """What several chapters build together; each definition in one of them only."""
    found: Definitions = {}
    for chapter, part in parts.items():
        twice = found.keys() & part.keys()
        assert not twice, f"{chapter} builds {', '.join(sorted(twice))} once more"
        found |= part
    return found


def differences(built: Definitions, due: Definitions) -> list[str]:
    """What is not the library's, and what is not built."""
    wrong = [
        f"{name} is not the library's" for name in built if built[name] != due.get(name)
    ]
    return wrong + [f"{name} is not built" for name in due if name not in built]


@pytest.mark.parametrize("module", MODULES)
def test_the_chapters_build_the_library(module: str) -> None:
    chapters = [chapter for chapter, name in PAIRS if name == module]
    parts = {chapter.file: built(chapter, module) for chapter in chapters}
    wrong = differences(union(parts), library(module))
    if any(module in chapter.builds for chapter in COURSE if chapter not in WRITTEN):
        wrong = [what for what in wrong if not what.endswith("is not built")]
    assert not wrong


@pytest.mark.parametrize("chapter", WRITTEN, ids=lambda c: c.file)
def test_a_chapter_builds_the_modules_that_the_manifest_says(chapter: Chapter) -> None:
    tags = [tag for tags, _ in code_cells(chapter) for tag in tags]
    tagged = {tag.removeprefix("builds:") for tag in tags if tag.startswith("builds:")}
    assert tagged == set(chapter.builds)


@pytest.mark.parametrize(
    ("chapter", "module"), PAIRS, ids=lambda x: getattr(x, "file", x)
)
def test_a_chapter_imports_nothing_of_what_it_builds(
    chapter: Chapter, module: str
) -> None:
    assert not imported_though_built(
        code_cells(chapter), module, HOME[module] is chapter, set(library(module))
    )


@pytest.mark.parametrize("chapter", WRITTEN, ids=lambda c: c.file)
def test_the_source_that_a_chapter_shows_is_the_librarys(chapter: Chapter) -> None:
    library = "".join(p.read_text("utf-8") for p in (ROOT / "radix_lib").rglob("*.py"))
    for shown in sources_shown(chapter):
        assert shown in library, f"no longer so: refresh {chapter.file}\n{shown}"


def sources_shown(chapter: Chapter) -> list[str]:
    """What the outputs of `show_source` hold."""
    outputs = [
        output["data"].get("text/markdown", "")
        for cell in nbformat.read(chapter.path, as_version=4).cells
        if cell.cell_type == "code" and "show_source(" in cell.source
        for output in cell.outputs
        if "data" in output
    ]
    return [o.removeprefix("```python\n").removesuffix("```") for o in outputs if o]


def test_the_sources_shown_are_found() -> None:
    assert sum(len(sources_shown(chapter)) for chapter in WRITTEN) >= 5


def imported_though_built(
    cells: list[tuple[list[str], str]], module: str, is_home: bool, defined: set[str]
) -> list[str]:
    """What the cells import, or define in a cell without its tag, though they build it.

    In the module's home that is any name of the module; in a later chapter, which adds
    to it, only what it adds.
    """
    names = {name for name in defined if "." not in name}
    if not is_home:
        sources = [source for tags, source in cells if f"builds:{module}" in tags]
        body = [s for source in sources for s in ast.parse(source).body]
        names &= set(definitions(body, module))
    wrong: list[str] = []
    for tags, source in cells:
        tagged = f"builds:{module}" in tags
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ImportFrom):
                if is_home and node.module == f"radix_lib.{module}":
                    wrong.append(ast.unparse(node))
                elif node.module in ("radix_lib", f"radix_lib.{module}"):
                    wrong += [a.name for a in node.names if a.name in names]
            elif isinstance(node, ast.Import):
                paths = [alias.name for alias in node.names]
                if is_home and f"radix_lib.{module}" in paths:
                    wrong.append(ast.unparse(node))
            elif isinstance(node, ast.ClassDef | ast.FunctionDef) and not tagged:
                is_method = any(map(_is_method_of, node.decorator_list))
                if node.name in names and not is_method:
                    wrong.append(f"{node.name} in a cell without its tag")
    return wrong


HOME_CELL = (["builds:router"], "class Router: pass\ndef helper(): pass")
LATER_CELL = (["builds:router"], "@method_of(Router)\ndef grow(self): pass")
ROUTER = {"Router", "Router.grow", "helper"}


@pytest.mark.parametrize(
    ("cells", "is_home", "wrong"),
    [
        ([HOME_CELL, ([], "from radix_lib import RadixTree")], True, []),
        ([HOME_CELL, ([], "from radix_lib import Router")], True, ["Router"]),
        (
            [HOME_CELL, ([], "import radix_lib.router")],
            True,
            ["import radix_lib.router"],
        ),
        (
            [HOME_CELL, ([], "def helper(): pass")],
            True,
            ["helper in a cell without its tag"],
        ),
        ([LATER_CELL, ([], "from radix_lib import Router")], False, []),
        ([LATER_CELL, ([], "from radix_lib.router import Router")], False, []),
        ([HOME_CELL, ([], "from radix_lib import Router")], False, ["Router"]),
    ],
)
def test_an_import_of_what_is_built_is_found(
    cells: list[tuple[list[str], str]], is_home: bool, wrong: list[str]
) -> None:
    assert imported_though_built(cells, "router", is_home, ROUTER) == wrong


def test_a_definition_built_in_two_chapters_is_found() -> None:
    here = definitions(ast.parse("@method_of(A)\ndef f(self): pass").body, "one")
    there = definitions(ast.parse("@method_of(A)\ndef g(self): pass").body, "two")
    assert set(union({"one": here, "two": there})) == {"A.f", "A.g"}
    with pytest.raises(AssertionError, match=r"two builds A\.f once more"):
        union({"one": here, "two": here})


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
