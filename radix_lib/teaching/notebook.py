"""What a chapter needs beside pictures: to show code, to build a class, to check what was built."""

from __future__ import annotations
import __future__

import ast
import functools
import inspect
import textwrap
from collections.abc import Callable
from types import FunctionType
from typing import Any


class Source:
    """The source code of a definition, as it stands in the library."""

    def __init__(self, definition: Callable[..., Any] | type):
        self.text = inspect.getsource(definition)

    def __repr__(self) -> str:
        return self.text

    def _repr_markdown_(self) -> str:
        return f"```python\n{self.text}```"


def show_source(definition: Callable[..., Any] | type) -> Source:
    """Show the source code of a class, a function or a method of the library."""
    return Source(definition)


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
        setattr(cls, function.__name__, bound if function is member else type(member)(bound))
        return member

    return attach


def _with_super(function: FunctionType, cls: type) -> FunctionType:
    """The same function; where it says `super()`, compiled anew as if inside the class.

    `super()` reads a variable `__class__` of the scope around the function, which a function
    outside of a class statement does not have.
    """
    if "super" not in function.__code__.co_names:
        return function
    tree = ast.parse("def make(__class__):\n    return None")
    definition = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
    assert isinstance(definition, ast.FunctionDef) and isinstance(tree.body[0], ast.FunctionDef)
    definition.decorator_list = []
    ast.increment_lineno(definition, function.__code__.co_firstlineno - 1)
    result = ast.copy_location(ast.Return(ast.Name(function.__name__, ast.Load())), definition)
    tree.body[0].body = [definition, ast.fix_missing_locations(result)]
    flags = __future__.annotations.compiler_flag
    code = compile(tree, function.__code__.co_filename, "exec", flags, dont_inherit=True)
    scope: dict[str, Any] = {}
    exec(code, function.__globals__, scope)
    made: FunctionType = scope["make"](cls)
    return made


class NotAttempted(Exception):
    """An exercise was left as it stands: `...`, or a function that returns it."""


def check(what: str, contract: Callable[..., object] | bool, *subjects: Any) -> None:
    """Print whether `contract(*subjects)` holds; never raise.

    ✓ it holds; ✗ what it returned is false, or it raised, and why; ○ a subject is still `...`, or
    is a function that returned `...`: an exercise not attempted.

    >>> check("sorted", [1, 2] == sorted([2, 1]))
    ✓ sorted
    >>> check("exercise 1", lambda answer: answer == 4, ...)
    ○ exercise 1: not attempted
    >>> check("exercise 1", lambda answer: answer == 4, 5)
    ✗ exercise 1: not yet
    """
    try:
        if any(subject is ... for subject in subjects):
            raise NotAttempted
        watched = map(_watched, subjects)
        holds = contract(*watched) if callable(contract) else contract
        fails = holds is not None and not holds  # numpy's and torch's False count, too
    except NotAttempted:
        print(f"○ {what}: not attempted")
    except AssertionError as error:
        print(f"✗ {what}: {error}" if str(error) else f"✗ {what}: not yet")
    except Exception as error:
        print(f"✗ {what}: {type(error).__name__}: {error}")
    else:
        print(f"✗ {what}: not yet" if fails else f"✓ {what}")


def _watched(subject: Any) -> Any:
    if not isinstance(subject, FunctionType):
        return subject

    @functools.wraps(subject)
    def call(*args: Any, **kwargs: Any) -> Any:
        result = subject(*args, **kwargs)
        if result is ...:
            raise NotAttempted
        return result

    return call


def cases(*pairs: tuple[tuple[Any, ...], Any]) -> Callable[[Callable[..., Any]], None]:
    """A contract: the function gives these results, each written as (arguments, result).

    >>> check("doubles", cases(((2,), 4), ((3,), 6)), lambda n: n + 2)
    ✗ doubles: f(3) is 5, not 6
    """

    def contract(function: Callable[..., Any]) -> None:
        name = function.__name__ if function.__name__ != "<lambda>" else "f"
        for arguments, expected in pairs:
            found = function(*arguments)
            shown = ", ".join(map(repr, arguments))
            if found != expected:
                raise AssertionError(f"{name}({shown}) is {found!r}, not {expected!r}")

    return contract
