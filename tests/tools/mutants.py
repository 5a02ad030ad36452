"""Mutation testing: which changes of the control plane do its tests not notice?

python -m tests.tools.mutants              all modules: an hour or so on two cores
python -m tests.tools.mutants eviction     one

mutmut (`pip install --group mutants`; where a process can fork) changes one operator,
number, string or argument at a time, and runs the tests that come by there until one
fails. It leaves alone what has a decorator, and what stands outside functions. Beside
this file, `equivalent_mutants.txt` names the changes that nobody can tell from the
original, each with its reason. Only news are listed, and make the command fail: other
survivors, and names that no longer apply.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / "build" / "mutants"
EQUIVALENT = Path(__file__).with_name("equivalent_mutants.txt")

#: The tests that are to notice a change: few and fast, since each mutant runs them.
TESTS = {
    "eviction": "eviction radix_cache radix_cache_oracle",
    "page_manager": "page_manager",
    "radix_tree": "radix_tree radix_cache_input router_input",
    "radix_cache": "radix_cache radix_cache_input radix_cache_oracle eviction",
    "lease": "router router_input growing_leases",
    "router": "router router_input router_oracle growing_leases",
    "admission": "orders scheduler scheduled_requests",
    "orders": "orders scheduler scheduled_requests",
    "scheduler": "orders scheduler scheduled_requests scheduler_bugs",
}
#: And those that what survives the first has to survive, too: they take their time.
SLOW_TESTS = {
    "lease": "finalisers interrupts",
    "router": "faults finalisers",
    "scheduler": "scheduler_faults schedules",
}

CONFIG = """
[tool.pytest.ini_options]
addopts = ["--import-mode=importlib", "-m=not long", "-pno:cacheprovider"]
markers = ["long: takes more than half a minute"]
[tool.mutmut]
source_paths = ["radix_lib"]
only_mutate = ["radix_lib/{module}.py"]
also_copy = ["radix_lib", "assets"]
pytest_add_cli_args_test_selection = {tests}
timeout_multiplier = 3.0
timeout_constant = 5.0
"""
#: Added to `tests/support/strategies.py` of the copy: a failure is not made smaller.
NO_SHRINKING = """
from hypothesis import Phase
QUICK = settings(QUICK, max_examples=100, phases=[Phase.generate])
"""
#: The tests of `KVPool` need torch, which would be forked with every mutant.
WITHOUT_TORCH = (
    "import sys; sys.modules['torch'] = None; from mutmut.__main__ import cli; cli()"
)


def main(modules: list[str]) -> int:
    if find_spec("mutmut") is None:
        raise SystemExit("mutmut is not installed: pip install --group mutants")
    known = equivalents()
    news: list[str] = []
    print(f"{'module':<14}{'mutants':>8}{'killed':>8}{'timeout':>8}", end="")
    print(f"{'equivalent':>11}{'survived':>9}")
    for module in modules or TESTS:
        states = mutate(module)
        alive = {described(module, name) for name in survivors(states)}
        named = {mutant for mutant in known if mutant.startswith(f"{module}.")}
        counts = Counter(states.values())
        print(f"{module:<14}{len(states):>8}{counts['killed']:>8}", end="")
        print(f"{counts['timeout']:>8}{len(alive & named):>11}{len(alive - named):>9}")
        news += [f"survived: {mutant}" for mutant in sorted(alive - named)]
        news += [f"no longer: {mutant}" for mutant in sorted(named - alive)]
    print(*news, sep="\n")
    return 1 if news else 0


def equivalents() -> dict[str, str]:
    """The mutants that are known to be equivalent, each with its reason."""
    text = EQUIVALENT.read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line and line[0] != "#"]
    return dict(zip(lines[::2], lines[1::2], strict=True))


def mutate(module: str) -> dict[str, str]:
    """Run mutmut on a copy: what became of each mutant of a module."""
    folder = WORK / module
    shutil.rmtree(folder, ignore_errors=True)
    for part in ("radix_lib", "assets", "tests"):
        shutil.copytree(ROOT / part, folder / part)
    with (folder / "tests/support/strategies.py").open("a") as strategies:
        strategies.write(NO_SHRINKING)
    tests = TESTS[module]
    states = run(module, tests)
    alive = survivors(states)
    if alive and module in SLOW_TESTS:
        again = run(module, f"{tests} {SLOW_TESTS[module]}", alive)
        states |= {name: again[name] for name in alive}
    return states


def run(module: str, tests: str, mutants: Iterable[str] = ()) -> dict[str, str]:
    """What becomes of the mutants of a module under some tests; () stands for all."""
    files = [f"tests/control/test_{name}.py" for name in tests.split()]
    config = CONFIG.format(module=module, tests=files)
    for folder in (WORK / module, WORK / module / "mutants"):
        if folder.exists():
            (folder / "pyproject.toml").write_text(config, encoding="utf-8")
    mutmut(module, "run", *mutants)
    results = mutmut(module, "results", "--all", "true")
    return dict(
        line.strip().rsplit(": ", 1)
        for line in results.splitlines()
        if "KVPool" not in line
    )


def survivors(states: dict[str, str]) -> list[str]:
    return [
        name for name, state in states.items() if state not in ("killed", "timeout")
    ]


def described(module: str, name: str) -> str:
    """A mutant as module, function, and the line it changes, before and after."""
    diff = mutmut(module, "show", name).splitlines()
    before = " ".join(line[1:].strip() for line in diff if re.match(r"-(?!--)", line))
    after = " ".join(line[1:].strip() for line in diff if re.match(r"\+(?!\+\+)", line))
    function = name.split(".")[-1].rsplit("__mutmut_", 1)[0]
    function = function.removeprefix("x").strip("ǁ_").replace("ǁ", ".")
    return f"{module}.{function}: {before} → {after}"


def mutmut(module: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, *arguments],
        cwd=WORK / module,
        env=os.environ | {"PYTHONPATH": "", "PYTHONHASHSEED": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        lines = (done.stdout + done.stderr).splitlines()
        raise SystemExit("\n".join(lines[-40:]))
    return done.stdout


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
