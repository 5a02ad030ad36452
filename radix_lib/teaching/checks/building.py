"""A class of the library, built in a chapter method by method."""

from __future__ import annotations
import __future__

import ast
import inspect
import textwrap
from collections.abc import Callable
from types import FunctionType
from typing import Any


def method_of(cls: type) -> Callable[[Any], Any]:
    """Add the function below to a class, so that a class can grow from cell to cell.

    >>> class Box: pass
    >>> @method_of(Box)
    ... def double(self, n): return 2 * n
    >>> Box().double(3)
    6
    """

    def attach(member: Any) -> Any:
        # A property and a class method are wrappers around a function.
        function = getattr(member, "fget", None) or getattr(member, "__func__", member)
        bound = _with_super(function, cls)
        setattr(
            cls, function.__name__, bound if function is member else type(member)(bound)
        )
        return member

    return attach


def _with_super(function: FunctionType, cls: type) -> FunctionType:
    """The same function; where it says `super()`, compiled anew as if inside the class.

    `super()` reads a variable `__class__` of the scope around the function, which a
    function outside of a class statement does not have.
    """
    if "super" not in function.__code__.co_names:
        return function
    tree = ast.parse("def make(__class__):\n    return None")
    definition = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
    assert isinstance(definition, ast.FunctionDef) and isinstance(
        tree.body[0], ast.FunctionDef
    )
    definition.decorator_list = []
    ast.increment_lineno(definition, function.__code__.co_firstlineno - 1)
    result = ast.copy_location(
        ast.Return(ast.Name(function.__name__, ast.Load())), definition
    )
    tree.body[0].body = [definition, ast.fix_missing_locations(result)]
    flags = __future__.annotations.compiler_flag
    code = compile(
        tree, function.__code__.co_filename, "exec", flags, dont_inherit=True
    )
    scope: dict[str, Any] = {}
    exec(code, function.__globals__, scope)
    made: FunctionType = scope["make"](cls)
    return made
