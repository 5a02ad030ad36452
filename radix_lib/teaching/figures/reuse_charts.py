"""Chapter 01: keys that turn with their position, who looks at whom, what stays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike

from radix_lib.teaching.figures import theme
from radix_lib.teaching.figures.chart import Chart, beside, look_of


def draw_turned_key(
    turned: ArrayLike, degrees: Mapping[int, Sequence[float]], caption: str
) -> Chart:
    """One key at positions 0, 1, …: pairs of its numbers as arrows that turn.

    `turned` is [positions, head_dim]; the numbers of pair `j` are those at `j` and at
    `j + head_dim / 2`. `degrees` has the pairs to draw, and how far each is turned at
    each position, for the table.
    """
    keys = np.asarray(turned)
    half = keys.shape[1] // 2

    def paint(axes: Axes) -> None:
        looks = zip(degrees, theme.LINES, strict=False)
        for at, (pair, (color, *_)) in enumerate(looks):
            tips = keys[:, [pair, pair + half]].tolist()
            _paint_arrows(axes, 4 * at, tips, color)
            name = f"pair {pair}"
            axes.text(4 * at, -2.3, name, color=color, ha="center", fontweight="bold")
        axes.set_xlim(-2, 4 * len(degrees) - 2)
        axes.set_ylim(-2.5, 2)
        axes.set_aspect("equal")
        axes.axis("off")

    first, *others = degrees
    head = ["position", f"pair {first} turned by (degrees)"]
    head += [f"pair {pair}" for pair in others]
    rows = [
        [position, *(round(turn) for turn in turns)]
        for position, turns in enumerate(zip(*degrees.values(), strict=True))
    ]
    return Chart(paint, caption, [head, *rows])


def _paint_arrows(axes: Axes, x: float, tips: list[list[float]], color: str) -> None:
    """Arrows from (x, 0), numbered; where they lie close, the first and the last."""
    look = {"color": color, "arrowstyle": "->", "linewidth": 1.5}
    spread = max(abs(dx - tips[0][0]) + abs(dy - tips[0][1]) for dx, dy in tips)
    for position, (dx, dy) in enumerate(tips):
        axes.annotate("", (x + dx, dy), (x, 0), arrowprops=look)
        if spread > 1 or position in (0, len(tips) - 1):
            place = (x + 1.15 * dx, 1.15 * dy)
            axes.text(*place, str(position), fontsize=9, ha="center", va="center")


def draw_attention(weights: ArrayLike, names: Sequence[str], caption: str) -> Chart:
    """The weights of attention, [queries, keys]: a row is a token that looks."""
    sees = np.tri(len(names), dtype=bool)
    shown = np.where(sees, np.asarray(weights), np.nan)

    def paint(axes: Axes) -> None:
        axes.set_facecolor(theme.STATES["free"].fill)  # what no token may see
        image = axes.imshow(shown, cmap="Blues", vmin=0, vmax=1)
        axes.figure.colorbar(image, label="weight", shrink=0.8)
        _name_columns(axes, names)
        axes.set_yticks(range(len(names)), names)
        axes.grid(visible=False)

    most = np.nanargmax(shown, axis=-1).tolist()
    rows = [[name, i + 1, names[most[i]]] for i, name in enumerate(names)]
    head = ["token", "may see", "looks most at"]
    return Chart(paint, caption, [head, *rows], height=4.6, shaded=True)


def _name_columns(axes: Axes, names: Sequence[str]) -> None:
    slanted: dict[str, Any] = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
    axes.set_xticks(range(len(names)), names, **slanted)


def draw_same(grid: ArrayLike, names: Sequence[str], caption: str) -> Chart:
    """Where the K/V of two prompts are the same: [layers, tokens], True if they are."""
    same = np.asarray(grid)
    n_layers, n_tokens = same.shape

    def paint(axes: Axes) -> None:
        for equal, state, label in (
            (True, "hit", "the same"),
            (False, "new", "different, +"),
        ):
            layers, tokens = np.nonzero(same == equal)
            look: dict[str, Any] = {**look_of(state), "hatch": "", "linewidth": 0.4}
            axes.barh(layers, 0.92, 0.84, tokens - 0.46, label=label, **look)
        layers, tokens = np.nonzero(~same)
        axes.scatter(tokens, layers, s=14, marker="+", color=theme.LINE, linewidth=0.8)
        _name_columns(axes, names)
        axes.set_yticks([*range(0, n_layers - 5, 10), n_layers - 1])
        axes.set_ylabel("layer")
        axes.set_xlim(-0.6, n_tokens - 0.4)
        axes.set_ylim(-0.8, n_layers - 0.2)
        axes.grid(visible=False)
        beside(axes)

    drawn = ["".join("=" if equal else "+" for equal in row) for row in same]
    table = [["layers", "= same, + not"]]
    for row, group in groupby(range(n_layers), drawn.__getitem__):
        first, *others = group
        last = others[-1] if others else first
        table.append([f"{first} to {last}", row])
    return Chart(paint, caption, table, height=4)
