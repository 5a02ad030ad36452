"""The maps of the course, and the charts: numbers as text, pictures as PNG."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import radix_lib
from radix_lib import teaching
from radix_lib.page_manager import PageManager
from radix_lib.teaching import Chart, draw_pool_map, draw_sharing
from radix_lib.teaching.figures.course_map import (
    CHAPTERS,
    OPTIONAL,
    PARTS,
    chapter_map,
    course_map,
)
from tests.support.course import COURSE, HOME
from tests.support.scenes import new_router, run, two_requests


@pytest.mark.parametrize("here", [None, *range(len(COURSE))])
def test_the_map_lights_the_parts_of_its_chapter_and_no_other(here: int | None):
    figure = course_map(here)
    mine = [name for chapter, name, *_ in PARTS if chapter == here]
    assert figure.svg.count('stroke-width="3"') == len(mine)
    lit = [line for line in figure.text.splitlines() if line.startswith("►")]
    assert len(lit) == len(mine)
    for name in mine:
        assert f"{here:02} {name}" in "\n".join(lit)
        assert f"You are here: {' and '.join(mine)}." in figure.alt
    assert figure.png


def test_the_map_names_what_the_library_calls_so():
    names = {name for _, name, *_ in PARTS if name.isidentifier() and name[0].isupper()}
    assert names >= {"RadixTree", "PageManager", "KVPool", "RadixCache", "Router"}
    assert names - {"Scheduler"} <= set(radix_lib.__all__)


def test_the_map_and_the_manifest_agree():
    door = radix_lib._HOME
    for chapter, name, *_ in PARTS:
        assert chapter < len(COURSE)
        if name in door:
            assert f"{chapter:02}" == HOME[door[name]].number, name


def test_nothing_on_the_map_lies_on_anything_else():
    boxes = [(x, y, x + w, y + 44) for *_, x, y, w in PARTS]
    for i, (x0, y0, x1, y1) in enumerate(boxes):
        for a0, b0, a1, b1 in boxes[:i]:
            assert x1 <= a0 or a1 <= x0 or y1 <= b0 or b1 <= y0


def test_the_map_of_chapters():
    figure = chapter_map(here=5)
    assert figure.text.splitlines()[5] == "► 05 The router"
    assert figure.text.count("(optional)") == len(OPTIONAL)
    *_, ways = figure.text.splitlines()
    assert ways in figure.alt
    steps = [pairwise(way.split(" → ")) for way in ways.split("; ")]
    told = [(before, after) for way in steps for before, after in way]
    needs = [(before, c.number) for c in COURSE for before in c.needs]
    assert sorted(told) == sorted(needs)
    assert all(title in figure.svg for title in CHAPTERS)
    assert figure.svg.count('stroke-width="3"') == 1


def pool() -> Chart:
    router, _ = two_requests()
    return draw_pool_map(router)


def sharing() -> Chart:
    router, _ = two_requests()
    return draw_sharing(router, bytes_per_token=2**18)


CHARTS: dict[str, tuple[Callable[[], Chart], str]] = {
    "lines": (
        lambda: teaching.draw_lines(
            {"a": [(1, 2), (1000, 3)]}, "x", "y", "Lines", log=True
        ),
        "Lines\n    x  a\n    1  2\n1,000  3",
    ),
    "time to first token": (
        lambda: teaching.draw_time_to_first_token(
            [(0, 1.3), (960, 0.125)], [(0, 1.25)]
        ),
        "Time to first token\n"
        "tokens cached  measured (ms)  predicted (ms)\n"
        "            0          1,300           1,250\n"
        "          960            125",
    ),
    "hit rate": (
        lambda: teaching.draw_hit_rate(
            {"lru": [(9, 0.5), (4, 0.25)], "mru": [(9, 0.125)]}
        ),
        "Hit rate\n"
        "capacity in tokens   lru    mru\n"
        "                 4  0.25\n"
        "                 9   0.5  0.125",
    ),
    "tokens": (
        lambda: teaching.draw_tokens({"chat": {"reused": 5200, "evicted": 7}}),
        "Tokens\ntokens  reused  evicted\n  chat   5,200        7",
    ),
    "prediction": (
        lambda: teaching.draw_prediction(
            {"chat": [(1.5, 2.0)], "few-shot": [(3.0, 2.5)]}, "s"
        ),
        "Cost model and measurement\n"
        "          measured  predicted\n"
        "    chat       1.5          2\n"
        "few-shot         3        2.5",
    ),
    "page sizes": (
        lambda: teaching.draw_page_sizes(
            {"empty": [(1, 0), (16, 7.5)], "ids": [(1, 9)]}
        ),
        "What the size of a page costs\n"
        "tokens in a page  empty  ids\n"
        "               1      0    9\n"
        "              16    7.5",
    ),
    "damage": (
        lambda: teaching.draw_damage({"no mask": 4.0, "one bit": 2e-7}, 1e-3),
        "How far each fault moves a logit\n"
        "  fault  largest difference\n"
        "one bit               2e-07\n"
        "no mask                   4",
    ),
    "turned key": (
        lambda: teaching.draw_turned_key(
            np.array([[1, 1, 0, 0], [0, 0.98, 1, 0.17]]), {0: [0, 90], 1: [0, 10]}, "K"
        ),
        "K\n"
        "position  pair 0 turned by (degrees)  pair 1\n"
        "       0                           0       0\n"
        "       1                          90      10",
    ),
    "attention": (
        lambda: teaching.draw_attention(
            np.array([[1, 0], [0.3, 0.7]]), ["a", "b"], "Who looks at whom"
        ),
        "Who looks at whom\n"
        "token  may see  looks most at\n"
        "    a        1              a\n"
        "    b        2              b",
    ),
    "same": (
        lambda: teaching.draw_same(
            np.array([[True, False], [False, False]]), ["a", "b"], "Two prompts"
        ),
        "Two prompts\n"
        "layers  = same, + not\n"
        "0 to 0             =+\n"
        "1 to 1             ++",
    ),
    "tiles": (
        lambda: teaching.draw_tiles(2, 6, (2, 4)),
        "4 queries, 6 keys, in tiles\n"
        "queries  keys from 0  keys from 4\n"
        " from 2         some         none\n"
        " from 4          all         some",
    ),
    "pool": (
        pool,
        "The pool, page by page\n"
        "             pages\n"
        "       free     26\n"
        "in the tree      1\n"
        "     locked      9\n"
        "    private      4",
    ),
    "sharing": (
        sharing,
        "Memory shared and private\n"
        "            MiB  shared  alone  sum\n"
        "             R1       9      4    0\n"
        "         stored       0      0   13\n"
        "without sharing       0      0   13",
    ),
}


@pytest.mark.parametrize("name", CHARTS)
def test_a_chart_is_a_picture_and_its_numbers(name: str):
    draw, text = CHARTS[name]
    chart = draw()
    assert chart.text == text
    data, metadata = chart._repr_mimebundle_()
    assert set(data) == {"image/png", "text/plain"}
    assert metadata["image/png"]["width"] == 660
    assert metadata["alt"].startswith(f"Chart: {text.splitlines()[0]}. ")
    assert all(word in chart.alt for word in text.split()[-2:])
    image = Image.open(io.BytesIO(chart.png)).convert("RGBA")
    # painted, so dark pages do no harm
    assert image.getpixel((1, 1)) == (
        255,
        255,
        255,
        255,
    )
    assert len(image.getcolors(2**24) or []) > 5
    assert draw().png == chart.png


def test_a_map_of_thousands_of_pages():
    router = new_router(6001)
    for i in range(40):
        run(router, f"{i} " * 150)
    chart = draw_pool_map(router)
    numbers = [
        int(n.replace(",", ""))
        for n in re.findall(r"([\d,]+)$", chart.text, re.MULTILINE)
    ]
    assert sum(numbers) == 6001
    assert len(chart.png) < 40_000
    assert draw_pool_map(PageManager(3, 1)).text.endswith("private      0")


def test_pictures_of_trees_need_neither_matplotlib_nor_torch():
    code = (
        "import sys; from radix_lib.teaching import draw_scene, course_map; "
        "print([m for m in ('torch', 'matplotlib', 'transformers') if m in sys.modules])"
    )
    command = [sys.executable, "-c", code]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, check=True)
    assert done.stdout.strip() == "[]"
