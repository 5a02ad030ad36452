"""What two prompts share, cut down to whole pages of several sizes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from radix_lib.teaching.figures import theme
from radix_lib.teaching.figures.canvas import Canvas, Part, compose
from radix_lib.teaching.figures.figure import Figure
from radix_lib.teaching.figures.labels import count, visible

LETTER = 7.2  # px that a letter of fixed width takes at its size, 12
NAME = 70
ROW, HEIGHT = 38, 30  # from row to row, and of one
WORDS = {
    "hit": "reused",
    "new": "shared, and computed again",
    "idle": "its own",
    "free": "empty place",
}


class Run(NamedTuple):
    """Tokens of one page that are in one state; `text` is empty where no token is."""

    start: int
    text: str
    n_tokens: int
    state: str


def runs(text: str, n_shared: int, page_size: int) -> list[Run]:
    """A prompt of one letter a token, page by page, in runs of one state."""
    n_whole = n_shared // page_size * page_size
    room = -(-len(text) // page_size) * page_size
    borders = {*range(0, room + 1, page_size), n_shared, len(text)}
    ends = sorted(borders)
    found = []
    for start, end in pairwise(ends):
        if start < n_whole:
            state = "hit"
        elif start < n_shared:
            state = "new"
        else:
            state = "idle" if start < len(text) else "free"
        found.append(Run(start, text[start:end], end - start, state))
    return found


def draw_cut(
    first: str, second: str, page_sizes: Sequence[int], caption: str = ""
) -> Figure:
    """Draw what `second` reuses of `first`, a letter a token, for each page size.

    A row is `second`, cut into pages. What both have and no whole page holds is lit.
    """
    pairs = enumerate(zip(first, second, strict=False))
    shorter = min(len(first), len(second))
    n_shared = next((n for n, (a, b) in pairs if a != b), shorter)
    rows = {size: runs(second, n_shared, size) for size in page_sizes}
    told = {size: _told(n_shared, size) for size in page_sizes}

    def paint(canvas: Canvas, x: float, y: float) -> None:
        for size, row in rows.items():
            canvas.write(x, y + 8, NAME, f"pages of {size}")
            for run in row:
                _paint_run(canvas, x + NAME, y, run, size)
            end = x + NAME + (row[-1].start + row[-1].n_tokens) * LETTER
            canvas.write(end + 8, y + 8, 200, told[size], size=10)
            y += ROW

    lines: list[str] = []
    words: list[str] = []
    for size, row in rows.items():
        lines += [f"pages of {size}: {told[size]}", *_drawn(row, size)]
        words.append(f"With pages of {size}: {told[size]}.")
    wide = max(row[-1].start + row[-1].n_tokens for row in rows.values())
    part = Part(
        "pages",
        NAME + wide * LETTER + 8 + 5 * max(map(len, told.values())),
        ROW * len(rows) - 4,
        paint,
        {run.state for row in rows.values() for run in row},
        lines,
        " ".join([f"Two prompts share {count(n_shared, 'token')}.", *words]),
        WORDS,
    )
    return compose([part], caption)


def _told(n_shared: int, page_size: int) -> str:
    n_cut = n_shared % page_size
    return f"{n_shared - n_cut} reused, {n_cut} cut off"


def _paint_run(canvas: Canvas, x: float, y: float, run: Run, page_size: int) -> None:
    left = x + run.start * LETTER
    wide = run.n_tokens * LETTER
    look = theme.STATES[run.state]
    canvas.box(left, y, wide, HEIGHT, look.fill, border=look.border)
    canvas.write(left, y + 2, wide, visible(run.text), size=12, mono=True)
    mark = "" if run.state == "free" else look.mark
    canvas.write(left, y + 15, wide, mark, bold=True, align="center")
    if run.start % page_size == 0:  # a page begins
        canvas.line((left, y - 3), (left, y + HEIGHT + 3), width=2)


def _drawn(row: Sequence[Run], page_size: int) -> list[str]:
    marks = {"hit": "=", "new": "+", "idle": " "}
    letters = below = "    "
    for run in row:
        if run.start % page_size == 0:
            letters += "│"
            below += "│"
        letters += visible(run.text)
        below += marks.get(run.state, "") * len(run.text)
    return [letters, below.rstrip()]
