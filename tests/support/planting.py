"""Faults planted in the library, to see that a test finds them."""

from __future__ import annotations

import inspect
import textwrap
from typing import Any, NamedTuple

import pytest


class Fault(NamedTuple):
    """One small change to the library: in a method, `right` becomes `wrong`."""

    owner: type
    method: str
    right: str
    wrong: str

    def plant(self, patch: pytest.MonkeyPatch) -> None:
        method: Any = inspect.unwrap(vars(self.owner)[self.method])
        source = textwrap.dedent(inspect.getsource(method))
        assert source.count(self.right) == 1, "the library has changed"
        # Inside a function with a variable `__class__`, as `super()` wants it.
        lines = [
            "from __future__ import annotations",
            "def made(__class__):",
            textwrap.indent(source.replace(self.right, self.wrong), "    "),
            f"    return {self.method}",
        ]
        scope: dict[str, Any] = {}
        exec("\n".join(lines), method.__globals__, scope)
        patch.setattr(self.owner, self.method, scope["made"](self.owner))
