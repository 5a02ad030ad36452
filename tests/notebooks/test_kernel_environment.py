"""A user's own settings change no compared output, in `refresh` and under nbval."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from tests.support.course import ROOT
from tests.support.kernel_environment import kernel_environment
from tests.tools import refresh

#: What each prints where nobody has set anything.
CELLS = {
    "1\n2": "2",
    "import matplotlib\nmatplotlib.rcParams['font.size']": "10.0",
    "import warnings\nwarnings.filters[0][0] == 'error'": "False",
    "assert True, print('not optimised')\n__debug__": "True",
    "from transformers.utils import logging\nlogging.get_verbosity()": "30",
    "from tqdm import tqdm\ntqdm(range(0), file=open('/dev/null', 'w')).disable": "False",
    "import sys\n[m for m in sys.modules if m.startswith('started')]": "[]",
}


def ipython(folder: Path) -> dict[str, str]:
    startup = folder / "ipython" / "profile_default" / "startup"
    startup.mkdir(parents=True)
    (startup / "hello.py").write_text("print('hello')\nimport started_by_ipython")
    (startup / "started_by_ipython.py").touch()
    (startup.parent / "ipython_config.py").write_text(
        "c.InteractiveShell.ast_node_interactivity = 'all'"
    )
    return {"IPYTHONDIR": str(folder / "ipython")}


def python(folder: Path) -> dict[str, str]:
    (folder / "startup.py").write_text("print('hello')")
    return {"PYTHONSTARTUP": str(folder / "startup.py"), "PYTHONWARNINGS": "error"}


def optimised(folder: Path) -> dict[str, str]:
    return {"PYTHONOPTIMIZE": "1"}


def matplotlib_style(folder: Path) -> dict[str, str]:
    (folder / "matplotlibrc").write_text("font.size: 30")
    return {"MATPLOTLIBRC": str(folder / "matplotlibrc"), "MPLBACKEND": "template"}


def matplotlib_unwritable(folder: Path) -> dict[str, str]:
    (folder / "file").touch()
    return {"MPLCONFIGDIR": str(folder / "file" / "matplotlib")}


def verbosity(folder: Path) -> dict[str, str]:
    return {"TRANSFORMERS_VERBOSITY": "info", "TQDM_DISABLE": "1"}


SETTINGS: list[Callable[[Path], dict[str, str]]] = [
    ipython,
    python,
    optimised,
    matplotlib_style,
    matplotlib_unwritable,
    verbosity,
]


@pytest.fixture(scope="module")
def story() -> nbformat.NotebookNode:
    """The cells, run where nobody has set anything."""
    cells = [new_code_cell(source) for source in CELLS]
    ran = refresh.execute(new_notebook(cells=cells), ROOT, timeout=60)
    shown = [cell.outputs[-1].data["text/plain"] for cell in ran.cells]
    assert shown == list(CELLS.values())
    return ran


@pytest.mark.parametrize("settings", SETTINGS)
def test_a_kernel_of_refresh_does_not_see_them(
    settings: Callable[[Path], dict[str, str]],
    story: nbformat.NotebookNode,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in settings(tmp_path).items():
        monkeypatch.setenv(name, value)
    again = refresh.execute(story, ROOT, timeout=60)
    assert [cell.outputs for cell in again.cells] == [
        cell.outputs for cell in story.cells
    ]


def test_a_kernel_of_nbval_does_not_see_them(
    story: nbformat.NotebookNode, tmp_path: Path
) -> None:
    folder = tmp_path / "notebooks"
    folder.mkdir()
    shutil.copy(ROOT / "notebooks" / "conftest.py", folder)
    nbformat.write(refresh.normalise(story), folder / "story.ipynb")
    hostile = {"PYTHONPATH": str(ROOT)}
    for settings in (ipython, matplotlib_style, verbosity):
        hostile |= settings(tmp_path)
    pytest_nbval = [sys.executable, "-m", "pytest", "--nbval", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*pytest_nbval, f"--rootdir={tmp_path}", folder],
        cwd=ROOT,
        env=os.environ | hostile,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert f"{len(CELLS)} passed" in done.stdout


def test_what_says_where_things_lie_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = {
        "PYTHONPATH": str(ROOT),
        "RADIX_LIB_CACHE": "/a/folder",
        "OMP_NUM_THREADS": "1",
        "HF_HOME": "/another",
    }
    for name, value in kept.items():
        monkeypatch.setenv(name, value)
    found = kernel_environment()
    assert {name: found.get(name) for name in kept} == kept
