"""The environment of a kernel that runs notebooks: the course's, not the user's.

Outputs are compared, so nothing that a user has set for their own sessions may show in
them: a profile of IPython, a style of matplotlib, warnings, verbosity. What says where
things lie stays: PYTHONPATH, HOME, the cache folders, the threads of torch.
"""

from __future__ import annotations

import atexit
import os
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

from radix_lib._openmp import waiting_briefly

PYTHONS_OWN = ("PYTHONPATH", "PYTHONHOME", "PYTHONNOUSERSITE")
SETTINGS = (
    "PYTHON",  # a hash seed, too: the order of a set must not look stable
    "IPYTHON",
    "MPL",
    "MATPLOTLIB",
    "TRANSFORMERS_VERBOSITY",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS",
    "HF_HUB_VERBOSITY",
    "HF_HUB_DISABLE_PROGRESS_BARS",
    "TQDM_",
    "TORCH_LOGS",
    "FORCE_COLOR",
    "NO_COLOR",
)


def kernel_environment() -> dict[str, str]:
    """This process's environment without the user's settings."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name in PYTHONS_OWN or not name.startswith(SETTINGS)
    }
    return kept | waiting_briefly(kept) | _empty_folders()


@cache
def _empty_folders() -> dict[str, str]:
    """Folders for the settings of IPython and matplotlib, until this process ends.

    matplotlib looks through all fonts once, and says so if that takes long: it is done
    here, where no cell shows it.
    """
    folder = Path(tempfile.mkdtemp(prefix="radix_lib-kernel-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    folders = {"IPYTHONDIR": "ipython", "MPLCONFIGDIR": "matplotlib"}
    for name in folders.values():
        (folder / name).mkdir()
    found = {variable: str(folder / name) for variable, name in folders.items()}
    subprocess.run(
        [sys.executable, "-c", "import matplotlib.font_manager"],
        env=os.environ | found,
        capture_output=True,
        check=True,
    )
    return found
