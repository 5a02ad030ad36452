"""A chart of plain numbers, in one style, with the same numbers as a table of text."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Plot

from radix_lib.teaching.figures import theme
from radix_lib.teaching.figures.figure import SHARPNESS, Picture, small_png

#: The points (x, y) of each line, by its name.
Series = Mapping[str, Sequence[tuple[float, float]]]


class Chart(Picture):
    """A chart as PNG, and its numbers as text.

    `height` is in hundreds of px; in a `shaded` one, colours stand for numbers.
    """

    def __init__(
        self,
        paint: Callable[[Axes], None],
        caption: str,
        table: Sequence[Sequence[Any]],
        height: float = 3.4,
        *,
        shaded: bool = False,
    ):
        raw = io.BytesIO()
        with matplotlib.rc_context(cast(Any, theme.CHART_STYLE)):
            plot = Plot(figsize=(6.6, height))
            FigureCanvasAgg(plot)
            axes = plot.add_subplot()
            paint(axes)
            axes.set_title(caption)
            if len(axes.lines) > 1:
                axes.legend()
            plot.savefig(raw, format="png", dpi=100 * SHARPNESS)
        self.png = small_png(raw.getvalue(), shaded=shaded)
        cells = [[_cell(value) for value in row] for row in table]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        rows = ["  ".join(map(str.rjust, row, widths)).rstrip() for row in cells]
        numbers = "; ".join(", ".join(filter(None, row)) for row in cells[:20])
        super().__init__("\n".join([caption, *rows]), f"Chart: {caption}. {numbers}.")


def _cell(value: Any) -> str:
    if hasattr(value, "item"):  # numpy's numbers look like Python's
        value = value.item()
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def look_of(state: str) -> dict[str, Any]:
    """How a surface that stands for a state looks: its colour and its hatch."""
    look = theme.STATES[state]
    return {
        "facecolor": look.fill,
        "hatch": look.hatch,
        "edgecolor": theme.LINE,
        "linewidth": 0.8,
    }


def beside(axes: Axes, **how: Any) -> None:
    """The legend, to the right of the chart."""
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), **how)
