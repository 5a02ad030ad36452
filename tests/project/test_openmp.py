"""Waiting threads sleep soon wherever the course starts Python; the user may differ."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from radix_lib._openmp import ROUNDS, waiting_briefly
from tests.support.course import ROOT
from tests.support.kernel_environment import kernel_environment

BRIEFLY = {"GOMP_SPINCOUNT": ROUNDS}
CHOICES = [{"OMP_WAIT_POLICY": "passive"}, {"GOMP_SPINCOUNT": "3"}]


def python(*arguments: str, **chosen: str) -> subprocess.CompletedProcess[str]:
    """Run Python here as a user does, who has set nothing but what is `chosen`."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("OMP", "GOMP"))}
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=env | chosen,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done


def test_nothing_is_set_for_a_user_who_has_set_nothing_else() -> None:
    assert waiting_briefly({"OMP_NUM_THREADS": "2"}) == BRIEFLY


@pytest.mark.parametrize("chosen", CHOICES, ids=lambda chosen: next(iter(chosen)))
def test_what_the_user_chose_stays(chosen: dict[str, str]) -> None:
    assert waiting_briefly(chosen) == {}
    assert python("-m", "radix_lib._openmp", **chosen).stdout == "\n"


def test_a_shell_can_ask_for_the_settings() -> None:
    said = python("-m", "radix_lib._openmp").stdout
    assert dict(word.split("=") for word in said.split()) == BRIEFLY


def test_importing_the_library_sets_nothing() -> None:
    code = "import os, radix_lib; radix_lib.load_model; print(sorted(os.environ))"
    names = python("-c", code).stdout
    assert "GOMP_SPINCOUNT" not in names


@pytest.mark.parametrize("chosen", [{}, {"OMP_WAIT_POLICY": "passive"}], ids=str)
def test_the_command_sets_them_before_openmp_reads_them(chosen: dict[str, str]) -> None:
    shown = python("-m", "radix_lib", "--help", OMP_DISPLAY_ENV="verbose", **chosen)
    rounds = re.findall(r"GOMP_SPINCOUNT = '(\d+)'", shown.stderr)
    if not rounds:
        pytest.skip("torch runs on another OpenMP than GNU's here")
    assert set(rounds) == {"0" if chosen else ROUNDS}


@pytest.mark.parametrize("chosen", [{}, *CHOICES], ids=str)
def test_a_kernel_of_the_tests_waits_briefly(
    chosen: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in chosen.items():
        monkeypatch.setenv(name, value)
    expected = chosen or BRIEFLY
    found = kernel_environment()
    assert {name: found[name] for name in expected} == expected
    assert not set(BRIEFLY) - expected.keys() & found.keys()
