"""Does it hold? One line of output a check, and never an exception."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import FunctionType
from typing import Any


class NotAttempted(Exception):
    """An exercise was left as it stands: `...`, or a function that returns it."""


def check(what: str, contract: Callable[..., object] | bool, *subjects: Any) -> None:
    """Print whether `contract(*subjects)` holds; never raise.

    ✓ it holds; ✗ what it returned is false, or it raised, and why; ○ a subject is still
    `...`, or is a function that returned `...`: an exercise not attempted.

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
    """A contract: the function gives these results, each (arguments, result).

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
