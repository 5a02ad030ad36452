"""The library's own code, shown where a chapter talks of it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
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
