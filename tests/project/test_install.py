"""A package that works where it is installed: editable, and from a wheel elsewhere.

The environments here are empty but for links to the packages named, and to what those
need: nothing is downloaded, and what the library does not ask for is not there.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from collections.abc import Sequence
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.course import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
NEEDED = [Requirement(spec).name for spec in PROJECT["project"]["dependencies"]]


def run(*command: object, folder: Path, status: int = 0) -> str:
    """What a command prints, in `folder` and without this checkout in sight."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    done = subprocess.run(
        [str(word) for word in command],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout


def with_what_they_need(names: Sequence[str]) -> set[str]:
    """The distributions named, and those that they need, and so on."""
    found: set[str] = set()
    waiting = [canonicalize_name(name) for name in names]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        for spec in distribution(name).requires or []:
            needed = Requirement(spec)
            if needed.marker is None or needed.marker.evaluate({"extra": ""}):
                waiting.append(canonicalize_name(needed.name))
    return found


def environment(folder: Path, *seen: str) -> Path:
    """The Python of a new environment that sees these packages and what they need."""
    venv.create(folder, with_pip=False)
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    (site,) = folder.rglob("site-packages")
    for name in with_what_they_need(seen):
        there = distribution(name)
        for top in {Path(file).parts[0] for file in there.files or []} - {".."}:
            target = Path(str(there.locate_file(top)))
            if not (site / top).exists() and target.exists():
                (site / top).symlink_to(target)
    return python


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that git knows or would add, as they are now."""
    folder = tmp_path_factory.mktemp("clone")
    if not (ROOT / ".git").exists():
        pytest.skip("not a clone")
    listed = run("git", "ls-files", "-z", "-co", "--exclude-standard", folder=ROOT)
    for name in listed.split("\0"):
        if name and (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def wheel(clone: Path) -> Path:
    """The wheel of the clone."""
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", folder=clone)
    (built,) = (clone / "dist").glob("*.whl")
    return built


def install(python: Path, *what: object, folder: Path) -> None:
    pip = (sys.executable, "-m", "pip", "--python", python, "install", "--no-index")
    run(*pip, "--no-deps", "--no-build-isolation", *what, folder=folder)


CONTROL_PLANE = """
import importlib.util, sys
import radix_lib
from radix_lib import PageManager, RadixCache, Router
from radix_lib.texts import few_shot_prompts, read_asset, workload

router = Router(RadixCache(PageManager(8, 4)))
for expected in (0, 8):
    with router.admit(range(10)) as lease:
        assert lease.n_cached == expected, lease
        lease.advance(len(lease.pending))
router.check_integrity()
assert len(few_shot_prompts()) == 2
assert workload("agent")
assert read_asset("chapters")
assert importlib.util.find_spec("torch") is None
print(radix_lib.__file__)
"""


def test_a_wheel_brings_the_control_plane_where_there_is_only_numpy(
    wheel: Path, tmp_path: Path
) -> None:
    python = environment(tmp_path / "env", "numpy")
    install(python, wheel, folder=tmp_path)
    lies_in = Path(run(python, "-c", CONTROL_PLANE, folder=tmp_path).strip())
    assert tmp_path / "env" in lies_in.parents


def test_an_editable_install_is_the_clone_itself(clone: Path, tmp_path: Path) -> None:
    python = environment(tmp_path / "env", "numpy", "hatchling")
    install(python, "--editable", clone, folder=tmp_path)
    lies_in = Path(run(python, "-c", CONTROL_PLANE, folder=tmp_path).strip())
    assert lies_in == clone / "radix_lib" / "__init__.py"
    assert not list((tmp_path / "env").rglob("radix_lib")), "a copy that would grow old"


def test_the_command_runs_with_what_the_library_asks_for(
    wheel: Path, tmp_path: Path
) -> None:
    python = environment(tmp_path / "env", *NEEDED)
    install(python, wheel, folder=tmp_path)
    run(python, "-c", "import matplotlib", folder=tmp_path, status=1)
    said = run(python, "-m", "radix_lib", "--max-new-tokens", "2", folder=tmp_path)
    assert "Same tokens as Hugging Face's generate in 2 of 2 requests." in said


def test_the_wheel_carries_the_texts_and_says_that_it_is_typed(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    texts = {path.name for path in (ROOT / "assets").glob("*.json")}
    assert texts
    assert {f"radix_lib/assets/{name}" for name in texts} <= names
    assert "radix_lib/py.typed" in names
    assert not any(name.startswith(("tests/", "notebooks/")) for name in names)


TYPED = """
from radix_lib import Rooter
from radix_lib import Router
from radix_lib.teaching import draw_treee
from radix_lib.teaching import draw_tree
reveal_type(Router)
reveal_type(draw_tree)
"""


def test_a_type_checker_knows_the_names(wheel: Path, tmp_path: Path) -> None:
    python = environment(tmp_path / "env", "numpy")
    install(python, wheel, folder=tmp_path)
    mypy = (sys.executable, "-m", "mypy", "--python-executable", python)
    said = run(*mypy, "-c", TYPED, folder=tmp_path, status=1).splitlines()
    errors = [line for line in said if ": error:" in line]
    assert [line.split(":")[1] for line in errors] == ["2", "4"]
    assert '"radix_lib" has no attribute "Rooter"' in errors[0]
    assert '"radix_lib.teaching" has no attribute "draw_treee"' in errors[1]
    shown = [line for line in said if "Revealed type" in line]
    assert "-> radix_lib.router.Router" in shown[0]
    assert "-> radix_lib.teaching.figures" in shown[1]
