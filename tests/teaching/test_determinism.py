"""The same state gives the same bytes, in every process."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

from radix_lib.router import Namespace
from radix_lib.teaching.figures.course_map import chapter_map, course_map
from radix_lib.teaching.figures.figure import Figure
from radix_lib.teaching.figures.page_figure import draw_pages
from radix_lib.teaching.figures.scene import draw_scene
from radix_lib.teaching.figures.tree_figure import draw_tree
from tests.support.scenes import SYSTEM, admit, decode, run, two_requests

ROOT = Path(__file__).parents[2]


def figures() -> list[Figure]:
    router, _ = two_requests()
    for namespace in ("b", "a", Namespace("c", "d")):
        run(router, "A prompt of another.", namespace)
    admit(router, SYSTEM + "Who wrote Faust?")
    everything = [draw_tree(router.cache, decode=decode, last_use=True)]
    evicted = router.cache.evict(3)
    everything += [
        draw_tree(router.cache, evicted=evicted, hit=[0, 1], new=[2]),
        draw_pages(router, evicted=evicted),
        draw_scene(router, decode=decode, evicted=evicted, caption="Déjà vu — “twice”"),
        course_map(4),
        chapter_map(),
    ]
    return everything


def digest() -> str:
    parts = [
        p
        for f in figures()
        for p in (f.svg.encode(), f.png, f.text.encode(), f.alt.encode())
    ]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def test_twice_in_one_process():
    assert digest() == digest()


def test_in_processes_that_hash_otherwise():
    def elsewhere(seed: str) -> str:
        code = "from tests.teaching.test_determinism import digest; print(digest())"
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            cwd=ROOT,
            check=True,
            env={
                **os.environ,
                "PYTHONHASHSEED": seed,
                "LC_ALL": "C",
                "TZ": "Asia/Tokyo",
            },
        )
        return done.stdout.strip()

    assert elsewhere("1") == elsewhere("2") == digest()
