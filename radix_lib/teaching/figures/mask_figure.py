"""Chapter 06: the mask of attention, a square a query and a key."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from radix_lib.teaching.figures import theme
from radix_lib.teaching.figures.canvas import MARGIN, Canvas
from radix_lib.teaching.figures.figure import Figure

SIDE = 23  # px of a square
NAMES = 66  # px of the names of the queries
TOP = 52
WORDS = {"hit": "cached key", "new": "new key", "free": "hidden by the mask"}


def draw_mask(
    mask: ArrayLike, cached: Sequence[int], caption: str, names: Sequence[str] = ()
) -> Figure:
    """Draw a mask, [queries, keys], True where a query looks.

    Row `i` has `cached[i]` keys of the cache; it is called `names[i]`, or else by the
    position of its query.
    """
    canvas = Canvas()
    canvas.write(MARGIN, MARGIN, 600, caption, bold=True, size=12)
    rows = np.asarray(mask).tolist()
    left = MARGIN + NAMES
    n_keys = len(rows[0])
    for j in range(n_keys):
        canvas.write(left + j * SIDE, 38, SIDE, str(j), size=9, align="center")
    lines = []
    told = []
    for i, row in enumerate(rows):
        name = names[i] if names else f"query {cached[i] + i}"
        kinds = [_kind(looks, j < cached[i]) for j, looks in enumerate(row)]
        y = TOP + i * SIDE
        canvas.write(MARGIN, y + 5, NAMES - 4, name, size=10)
        _paint_row(canvas, left, y, kinds)
        marks = " ".join(theme.STATES[kind].mark or "." for kind in kinds)
        lines.append(f"{name:>10}  {marks}")
        seen = f"{kinds.count('hit')} cached and {kinds.count('new')} new keys"
        told.append(f"{name} looks at {seen}")
    end = TOP + len(rows) * SIDE + 8
    canvas.legend(MARGIN, end, WORDS, WORDS)
    width = max(left + n_keys * SIDE + MARGIN, 420)
    alt = f"{caption}. " + "; ".join(told)
    return canvas.figure(width, end + 26, "\n".join([caption, *lines]), alt)


def _kind(looks: bool, is_cached: bool) -> str:
    if not looks:
        return "free"
    return "hit" if is_cached else "new"


def _paint_row(canvas: Canvas, x: float, y: float, kinds: Sequence[str]) -> None:
    for j, kind in enumerate(kinds):
        look = theme.STATES[kind]
        at = x + j * SIDE
        canvas.box(at, y, SIDE - 2, SIDE - 2, look.fill, border=look.border)
        canvas.write(at, y + 4, SIDE - 2, look.mark, align="center", bold=True)
