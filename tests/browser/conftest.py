"""One JupyterLab and one browser for all tests here; none without a browser."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook
from playwright.sync_api import Browser, sync_playwright

from tests.browser.lab import Lab, Notebook, find_browser, launch, running_lab

ROOT = Path(__file__).resolve().parents[2]

#: The cells of the widget gallery. The comment is the name by which tests find the
#: widget.
GALLERY = [
    """# imports
from radix_lib import PageManager, RadixAttentionModel, RadixCache, Router
from radix_lib.teaching.films.recorder import Recorder
from radix_lib.teaching import *""",
    """# Stepper
router = Router(RadixCache(PageManager(12, 4)))
film = Recorder(router)
for tokens in (range(10), range(14), range(20, 30)):
    with router.admit(tokens) as lease:
        lease.advance(len(lease.pending))
Stepper(film.frames)""",
    "# TreeExplorer\nTreeExplorer()",
    "# PageExplorer\nPageExplorer()",
    "# EvictionLab\nEvictionLab()",
    "# WorkloadLab\nWorkloadLab()",
    "# FleetLab\nFleetLab()",
    "# RouterWalk\nRouterWalk()",
    "# SchedulerLab\nSchedulerLab()",
    "# LiveChat\nLiveChat(RadixAttentionModel.from_pretrained(), max_new_tokens=300)",
]


#: A notebook whose second cell runs until somebody stops it: in a forward, in a call of
#: the router, or between two.
STOPPED = [
    """# before
from radix_lib import RadixAttentionModel, batch_invariant
from radix_lib.teaching import tiny_model

class Numbers:
    def decode(self, tokens, skip_special_tokens):
        return " ".join(map(str, tokens))

model = RadixAttentionModel(tiny_model(), Numbers(), page_size=4, n_pages=40)
prompt = [*range(3, 30)]
with batch_invariant():
    running, due = model.prefill(prompt)""",
    """# endless
print("it has begun")
with batch_invariant():
    while True:
        for seed in range(64):
            model.sample([seed] * 20 + prompt, 2, 6, temperature=1.0)""",
    """# after
model.router.check_integrity()
print("running:", [lease is running for lease in model.router.leases])
model.router.finish(running)
with batch_invariant():
    lease, logits = model.prefill([*prompt])
model.router.finish(lease)
print("the same bits:", bool((logits == due).all()))
print("held:", model.stats().pages.private + model.stats().pages.locked)""",
]


# Of the module, not the session: while Playwright is open its event loop is this
# thread's, and no test elsewhere could call asyncio.run.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """The system's Chromium. In CI it has to be there."""
    path = find_browser()
    if path is None and not os.environ.get("CI"):
        pytest.skip(
            "no Chromium here: install your system's package, chromium on Debian"
        )
    assert path is not None, (
        "CI is set, and there is no Chromium: .ci/run should install it"
    )
    with sync_playwright() as playwright:
        started = launch(playwright, path)
        yield started
        started.close()


@pytest.fixture(scope="module")
def lab(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A server of a copy of the notebooks, with the widget gallery beside them."""
    root, private = (
        tmp_path_factory.mktemp("served"),
        tmp_path_factory.mktemp("private"),
    )
    shutil.copytree(ROOT / "notebooks", root / "notebooks")
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    for name, sources in [("gallery", GALLERY), ("stopped", STOPPED)]:
        cells = [new_code_cell(source) for source in sources]
        book = new_notebook(cells=cells, metadata={"kernelspec": kernel})
        nbformat.write(book, root / f"{name}.ipynb")
    with running_lab(root, private) as started:
        yield started


@pytest.fixture(
    scope="module",
    params=[(1280, False), (700, True)],
    ids=["normal, light", "narrow, dark"],
)
def gallery(
    browser: Browser, lab: Lab, request: pytest.FixtureRequest
) -> Iterator[Notebook]:
    """The gallery, run from top to bottom."""
    width, dark = request.param
    with lab.notebook(browser, "gallery.ipynb", width, dark) as notebook:
        notebook.run_all()
        yield notebook
