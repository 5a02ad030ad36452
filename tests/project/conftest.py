"""What a run of these tests says at its end: how long the library is."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.code_lines import code_lines

PACKAGE = Path(__file__).resolve().parents[2] / "radix_lib"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    teaching = sorted((PACKAGE / "teaching").rglob("*.py"))
    core = sorted(set(PACKAGE.rglob("*.py")) - set(teaching))
    terminalreporter.section("lines of code")
    for part, modules in (("radix_lib", core), ("radix_lib/teaching", teaching)):
        total = sum(code_lines(path.read_text(encoding="utf-8")) for path in modules)
        terminalreporter.line(f"{total:6,}  {part}, {len(modules)} modules")
