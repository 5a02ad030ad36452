"""`make` sets up the environment without a detour, and tells what stands in its way.

Python is played by a script that notes what it is asked to do and answers as told, so
that nothing is installed. `uname` and `nvidia-smi` are played, too.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.course import ROOT

pytestmark = pytest.mark.skipif(
    not (shutil.which("make") and shutil.which("timeout")), reason="no make here"
)

PYTHON = """#!/bin/sh
echo "$@" >> asked
case "$*" in
  *"config list"*) echo "global.timeout='15'"; echo "$PIP_SAYS" ;;
  *"index versions"*) echo "$INDEX_SAYS"; test "$INDEX_SAYS" ;;
  *"--index-url"*"torch==2.13.0"*) exit ${DOWNLOAD_STATUS:-0} ;;
  "-P -E -c"*) test "$INSTALLED" != elsewhere ;;
  "-P -c"*) test -z "$PYTHONPATH" ;;
esac
"""
INDEX = "--index-url https://download.pytorch.org/whl/cpu"
TORCH = f"pip install --disable-pip-version-check --no-deps {INDEX} torch==2.13.0"
ALL = "pip install --disable-pip-version-check -e .[dev]"


class Checkout:
    """A folder with our Makefile, in which every program that it starts is played."""

    def __init__(self, folder: Path):
        self.folder = folder
        for name in ("Makefile", "pyproject.toml"):
            shutil.copy(ROOT / name, folder)
        self.plays("uname", "echo Linux")
        self.plays("nvidia-smi", "exit 9")
        (folder / ".venv" / "bin").mkdir(parents=True)
        python = folder / ".venv" / "bin" / "python"
        python.write_text(PYTHON)
        python.chmod(0o755)

    def plays(self, program: str, does: str) -> None:
        played = self.folder / "bin" / program
        played.parent.mkdir(exist_ok=True)
        played.write_text(f"#!/bin/sh\n{does}\n")
        played.chmod(0o755)

    def make(self, *arguments: str, **environment: str) -> tuple[list[str], str]:
        """What pip was asked to install, in order, and what was said.

        Of the `make` that runs the tests this one hears nothing: it would say so.
        """
        path = f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
        around = {k: v for k, v in os.environ.items() if not k.startswith("MAKE")}
        done = subprocess.run(
            ["make", *arguments],
            cwd=self.folder,
            env=around | {"PATH": path, "PYTHONPATH": ""} | environment,
            capture_output=True,
            text=True,
            check=False,
        )
        log = self.folder / "asked"
        asked = log.read_text().splitlines() if log.exists() else []
        installed = [line for line in asked if "pip install" in line]
        return [line.removeprefix("-m ") for line in installed], done.stdout


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


# ── Which torch ───────────────────────────────────────────────────────────────────────


def test_on_linux_without_a_gpu_torch_is_the_cpu_build(checkout: Checkout) -> None:
    installed, said = checkout.make("environment", INDEX_SAYS="torch (2.13.0+cpu)")
    assert installed == [TORCH, ALL]
    assert "asking https://download.pytorch.org/whl/cpu for torch==2.13.0" in said


@pytest.mark.parametrize("index", ["", "torch (2.12.1+cpu)"])
def test_an_index_that_is_silent_or_lacks_it_is_left_to_pip(
    checkout: Checkout, index: str
) -> None:
    installed, said = checkout.make("environment", INDEX_SAYS=index)
    assert installed == [ALL]
    assert "pip takes torch from where it looks by itself" in said


def test_a_download_that_breaks_off_is_left_to_pip(checkout: Checkout) -> None:
    installed, said = checkout.make(
        "environment", INDEX_SAYS="2.13.0+cpu", DOWNLOAD_STATUS="1"
    )
    assert installed == [TORCH, ALL]
    assert "pip takes torch from where it looks by itself" in said


@pytest.mark.parametrize(
    "told",
    [
        ":env:.index-url='https://mirror'",
        ":env:.extra-index-url='https://download.pytorch.org/whl/cu130'",
        "global.index-url='https://mirror'",
        ":env:.no-index='1'",
        ":env:.find-links='/wheels'",
    ],
)
def test_whoever_told_pip_where_to_look_is_obeyed(
    checkout: Checkout, told: str
) -> None:
    installed, said = checkout.make("environment", PIP_SAYS=told, INDEX_SAYS="2.13.0")
    assert installed == [ALL]
    assert "asking" not in said


@pytest.mark.parametrize(
    ("program", "does"), [("nvidia-smi", "echo GPU 0"), ("uname", "echo Darwin")]
)
def test_with_a_gpu_or_elsewhere_no_other_index_is_asked(
    checkout: Checkout, program: str, does: str
) -> None:
    checkout.plays(program, does)
    installed, said = checkout.make("environment", INDEX_SAYS="torch (2.13.0+cpu)")
    assert installed == [ALL]
    assert "asking" not in said


def test_into_an_environment_of_the_readers_nothing_is_installed(
    checkout: Checkout,
) -> None:
    python = str(checkout.folder / ".venv" / "bin" / "python")
    installed, said = checkout.make("environment", f"PYTHON={python}", INDEX_SAYS="x")
    assert installed == []
    assert said == ""


def test_pip_gives_up_on_an_index_out_of_reach_within_seconds() -> None:
    """The real pip, as the Makefile calls it, and an address where nobody listens."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (ask,) = (line for line in makefile.splitlines() if line.startswith("ASK = "))
    command = ask.removeprefix("ASK = ").replace('"$(PY)"', sys.executable)
    command = command.replace("$(CPU_BUILDS)", "http://127.0.0.1:9/whl/cpu")
    done = subprocess.run(
        command.split(),
        env={k: v for k, v in os.environ.items() if not k.startswith("PIP_")}
        | {"PIP_CONFIG_FILE": os.devnull},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "torch" not in done.stdout


# ── What stands in the way ────────────────────────────────────────────────────────────


@pytest.mark.parametrize("variant", [[], ["PYTHON=.venv/bin/python"]], ids=str)
def test_another_clone_on_pythonpath_is_named(
    checkout: Checkout, variant: list[str]
) -> None:
    _, said = checkout.make("environment", *variant, PYTHONPATH="/another/clone")
    assert "PYTHONPATH=/another/clone puts another radix_lib before" in said
    assert 'Run "unset PYTHONPATH"' in said
    assert "make clean" not in said


def test_a_folder_that_was_moved_is_named(checkout: Checkout) -> None:
    _, said = checkout.make("environment", INSTALLED="elsewhere", PYTHONPATH="/another")
    assert "This folder was moved" in said
    assert "PYTHONPATH" not in said


def test_a_real_python_tells_its_own_clone_from_another(tmp_path: Path) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (here,) = (line for line in makefile.splitlines() if line.startswith("HERE = "))

    def finds_this_clone(*options: str, path: Path) -> bool:
        command = [sys.executable, *options, "-c", here.removeprefix("HERE = ")]
        env = os.environ | {"PYTHONPATH": str(path)}
        return subprocess.run(command, cwd=ROOT, env=env, check=False).returncode == 0

    (tmp_path / "radix_lib").mkdir()
    (tmp_path / "radix_lib" / "__init__.py").touch()
    assert finds_this_clone("-P", path=ROOT)
    assert not finds_this_clone("-P", path=tmp_path)
    installed = finds_this_clone("-P", "-E", path=ROOT)
    assert finds_this_clone("-P", "-E", path=tmp_path) == installed


# ── How it is started ─────────────────────────────────────────────────────────────────


def test_what_runs_the_model_is_told_how_its_threads_wait(checkout: Checkout) -> None:
    """`python -m radix_lib._openmp` prints the settings: played, it prints nothing."""
    for target in ("lab", "test", "test-long", "verify", "refresh", "bench"):
        _, said = checkout.make("-n", target)
        (started,) = (line for line in said.splitlines() if line.startswith("env "))
        assert '`".venv/bin/python" -m radix_lib._openmp`' in started
