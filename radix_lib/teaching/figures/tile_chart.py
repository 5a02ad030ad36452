"""Chapter 11: the tiles in which attention is computed."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Patch, Rectangle
from numpy.typing import NDArray

from radix_lib.teaching.figures import theme
from radix_lib.teaching.figures.chart import Chart, beside, look_of

#: How much of a tile its queries may see, and the state whose colour it has.
SEEN = {"all": "hit", "some": "new", "none": "idle"}


def draw_tiles(start: int, n_keys: int, tile: tuple[int, int]) -> Chart:
    """The tiles of attention of the queries from `start` on; `tile` is (queries, keys).

    A square is one query and one key; the diagonal is the last key that a query sees.
    """
    n_rows, n_columns = tile
    mask = np.tri(n_keys, dtype=bool)[start:]
    rows = range(0, len(mask), n_rows)
    columns = range(0, n_keys, n_columns)
    tiles = {
        (top, left): mask[top : top + n_rows, left : left + n_columns]
        for top in rows
        for left in columns
    }

    def paint(axes: Axes) -> None:
        for (top, left), part in tiles.items():
            height, width = part.shape
            look = look_of(SEEN[_seen(part)])
            axes.add_patch(Rectangle((left, start + top), width, height, **look))
        axes.plot([start, n_keys], [start, n_keys], color=theme.TEXT)
        axes.set_xlim(0, n_keys)
        axes.set_ylim(n_keys, start)
        axes.set(xlabel="key", ylabel="query")
        axes.set_xticks(columns)
        axes.set_yticks([start + top for top in rows])
        patches = [
            Patch(label=f"{word} are seen", **look_of(state))
            for word, state in SEEN.items()
        ]
        beside(axes, handles=patches)

    table: list[list[Any]] = [["queries", *(f"keys from {left}" for left in columns)]]
    for top in rows:
        words = [_seen(tiles[top, left]) for left in columns]
        table.append([f"from {start + top}", *words])
    return Chart(paint, f"{len(mask)} queries, {n_keys} keys, in tiles", table)


def _seen(part: NDArray[np.bool_]) -> str:
    if part.all():
        return "all"
    return "some" if part.any() else "none"
