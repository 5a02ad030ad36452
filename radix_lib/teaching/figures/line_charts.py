"""Charts of lines through points: what something costs, or how often it helps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes

from radix_lib.teaching.figures import theme
from radix_lib.teaching.figures.chart import Chart, Series


def _table(x_name: str, series: Series) -> list[list[Any]]:
    columns = [dict(points) for points in series.values()]
    xs = sorted({x for column in columns for x in column})
    rows = [[x, *(column.get(x, "") for column in columns)] for x in xs]
    return [[x_name, *series], *rows]


def _lines(axes: Axes, series: Series, x: str, y: str, **looks: str) -> None:
    """A line a series, with a look of its own; `looks` are the same for all."""
    for (name, points), look in zip(series.items(), theme.LINES * 9, strict=False):
        color, linestyle, marker = look
        own = {"color": color, "linestyle": linestyle, "marker": marker, **looks}
        in_order = sorted(points)
        xs = [point[0] for point in in_order]
        ys = [point[1] for point in in_order]
        axes.plot(xs, ys, label=name, **own)
    axes.set(xlabel=x, ylabel=y)
    axes.xaxis.set_major_formatter("{x:,.10g}")


def draw_lines(
    series: Series, x: str, y: str, caption: str, *, log: bool = False
) -> Chart:
    """A line a series, of (x, y) points; with `log`, both axes in powers of ten."""

    def paint(axes: Axes) -> None:
        _lines(axes, series, x, y)
        if log:
            axes.set(xscale="log", yscale="log")
            for axis in (axes.xaxis, axes.yaxis):
                axis.set_major_formatter("{x:,.10g}")

    return Chart(paint, caption, _table(x, series))


def draw_page_sizes(
    series: Series,
    y: str = "a request, on average",
    caption: str = "What the size of a page costs",
) -> Chart:
    """What each page size costs: (tokens in a page, cost). Sizes are powers of two."""
    x = "tokens in a page"

    def paint(axes: Axes) -> None:
        _lines(axes, series, x, y)
        sizes = sorted({size for points in series.values() for size, _ in points})
        axes.set_xscale("log", base=2)
        axes.set_xticks(sizes, [f"{size:g}" for size in sizes])
        axes.set_ylim(bottom=0)

    return Chart(paint, caption, _table(x, series))


def draw_time_to_first_token(
    measured: Sequence[tuple[int, float]],
    predicted: Sequence[tuple[int, float]] = (),
    caption: str = "Time to first token",
) -> Chart:
    """Time to the first token against the tokens cached: (tokens, seconds)."""
    names = {"measured (ms)": measured, "predicted (ms)": predicted}
    series = {
        name: [(n, 1e3 * s) for n, s in points]
        for name, points in names.items()
        if points
    }

    def paint(axes: Axes) -> None:
        _lines(axes, series, "tokens found in the cache", "time to first token (ms)")
        for line in axes.lines[1:]:
            line.set_marker("")  # no point was measured there
        axes.set_ylim(bottom=0)

    return Chart(paint, caption, _table("tokens cached", series))


def draw_hit_rate(
    series: Series, caption: str = "Hit rate", capacity: str = "capacity in tokens"
) -> Chart:
    """The share of tokens reused against capacity: (capacity, share from 0 to 1)."""

    def paint(axes: Axes) -> None:
        _lines(axes, series, capacity, "share of tokens reused")
        axes.set_ylim(0, 1)
        axes.yaxis.set_major_formatter("{x:.0%}")

    return Chart(paint, caption, _table(capacity, series))


def draw_prediction(
    series: Series, unit: str, caption: str = "Cost model and measurement"
) -> Chart:
    """Predictions against measurements, and a line where both are equal.

    Points are (measured, predicted).
    """
    values = [value for points in series.values() for pair in points for value in pair]
    most = 1.05 * max(values)

    def paint(axes: Axes) -> None:
        axes.plot((0, most), (0, most), color=theme.FAINT, linewidth=1, label="equal")
        _lines(axes, series, f"measured ({unit})", f"predicted ({unit})", linestyle="")

    rows = [[name, *pair] for name, points in series.items() for pair in points]
    return Chart(paint, caption, [["", "measured", "predicted"], *rows])
