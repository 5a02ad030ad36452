"""A pool of thousands of pages at one look."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.patches import Patch

from radix_lib.teaching.figures import theme
from radix_lib.teaching.figures.chart import Chart
from radix_lib.teaching.figures.pool_snapshot import (
    PoolSnapshot,
    Source,
    pool_snapshot,
)

#: What a page may be, and the state whose colour it has.
KINDS = {"free": "free", "in the tree": "idle", "locked": "locked", "private": "new"}
MOST_IN_A_ROW = 128


def draw_pool_map(source: Source, caption: str = "The pool, page by page") -> Chart:
    """Every page of a pool as a small square, and how many are in each state."""
    kinds = _kinds_of_pages(pool_snapshot(source))
    amounts = {kind: kinds.count(kind) for kind in KINDS}
    numbers = np.array([list(KINDS).index(kind) for kind in kinds])
    wide = min(MOST_IN_A_ROW, len(numbers))
    to_fill = -len(numbers) % wide
    grid = np.pad(numbers, (0, to_fill), constant_values=-1).reshape(-1, wide)

    def paint(axes: Axes) -> None:
        colors = ListedColormap([theme.STATES[state].fill for state in KINDS.values()])
        look: dict[str, Any] = {"edgecolors": theme.FAINT, "linewidth": 0.2}
        shown = np.ma.masked_less(grid, 0)
        axes.pcolormesh(shown, cmap=colors, vmin=0, vmax=len(KINDS) - 1, **look)
        axes.set(xlabel=f"page id, {wide} in a row", aspect="equal")
        rows = range(0, len(grid), len(grid) // 5 + 1)
        places = [row + 0.5 for row in rows]
        axes.set_yticks(places, [f"{row * wide:,}" for row in rows])
        axes.invert_yaxis()
        patches = [_patch(kind, n) for kind, n in amounts.items()]
        axes.figure.legend(handles=patches, loc="outside lower center", ncols=4)

    table: list[list[Any]] = [["", "pages"], *map(list, amounts.items())]
    return Chart(paint, caption, table, height=1.3 + 5.4 * len(grid) / wide)


def _kinds_of_pages(view: PoolSnapshot) -> list[str]:
    in_tree = {
        page for node in (view.tree.nodes if view.tree else ()) for page in node.pages
    }

    def kind(page: int) -> str:
        if not view.counts[page]:
            return "free"
        if page in view.locked:
            return "locked"
        return "in the tree" if page in in_tree else "private"

    return [kind(page) for page in range(len(view.counts))]


def _patch(kind: str, n_pages: int) -> Patch:
    fill = theme.STATES[KINDS[kind]].fill
    return Patch(label=f"{kind}: {n_pages:,}", facecolor=fill, edgecolor=theme.LINE)
