"""Charts of plain numbers, in one style, each with the same numbers as a table of
text.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure as Plot
from matplotlib.patches import Patch

from radix_lib.teaching.figures import theme
from radix_lib.teaching.figures.figure import SHARPNESS, Picture, small_png
from radix_lib.teaching.figures.pool_snapshot import Holder, Source, pool_snapshot

Series = Mapping[str, Sequence[tuple[float, float]]]


class Chart(Picture):
    """A chart as PNG, and its numbers as text."""

    def __init__(
        self,
        paint: Callable[[Axes], None],
        caption: str,
        table: Sequence[Sequence[Any]],
        height: float = 3.4,
    ):
        with matplotlib.rc_context(cast(Any, theme.CHART_STYLE)):
            plot, raw = Plot(figsize=(6.6, height)), io.BytesIO()
            FigureCanvasAgg(plot)
            axes = plot.add_subplot()
            paint(axes)
            axes.set_title(caption)
            if len(axes.lines) > 1:
                axes.legend()
            plot.savefig(raw, format="png", dpi=100 * SHARPNESS)
        self.png = small_png(raw.getvalue())
        cells = [[_cell(value) for value in row] for row in table]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        rows = ["  ".join(map(str.rjust, row, widths)).rstrip() for row in cells]
        numbers = "; ".join(", ".join(filter(None, row)) for row in cells[:20])
        super().__init__("\n".join([caption, *rows]), f"Chart: {caption}. {numbers}.")


def _cell(value: Any) -> str:
    value = getattr(
        value, "item", lambda: value
    )()  # numpy's numbers look like Python's
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _table(x_name: str, series: Series) -> list[list[Any]]:
    columns = [dict(points) for points in series.values()]
    xs = sorted({x for column in columns for x in column})
    rows = [[x, *(column.get(x, "") for column in columns)] for x in xs]
    return [[x_name, *series], *rows]


def _lines(axes: Axes, series: Series, x: str, y: str, **looks: str) -> None:
    """A line a series, each with its own colour, dashes and marker, unless `looks` has
    others.
    """
    for (name, points), look in zip(series.items(), theme.LINES * 9, strict=False):
        xs, ys = [x for x, _ in sorted(points)], [y for _, y in sorted(points)]
        own = dict(zip(("color", "linestyle", "marker"), look, strict=True))
        axes.plot(xs, ys, label=name, **{**own, **looks})
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


def draw_time_to_first_token(
    measured: Sequence[tuple[int, float]],
    predicted: Sequence[tuple[int, float]] = (),
    caption: str = "Time to first token",
) -> Chart:
    """Seconds to the first token against how many tokens were cached: (tokens,
    seconds).
    """
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
    """Predictions against measurements: (measured, predicted). The line is where they
    agree.
    """
    most = 1.05 * max(
        value for points in series.values() for pair in points for value in pair
    )

    def paint(axes: Axes) -> None:
        axes.plot((0, most), (0, most), color=theme.FAINT, linewidth=1, label="equal")
        _lines(axes, series, f"measured ({unit})", f"predicted ({unit})", linestyle="")

    rows = [[name, *pair] for name, points in series.items() for pair in points]
    return Chart(paint, caption, [["", "measured", "predicted"], *rows])


def _bars(
    rows: Mapping[str, Mapping[str, float]],
    parts: Mapping[str, str],
    unit: str,
    caption: str,
) -> Chart:
    """A bar a row, stacked of parts that look like the state that each stands for."""
    parts = {
        p: state for p, state in parts.items() if any(p in row for row in rows.values())
    }

    def paint(axes: Axes) -> None:
        left = np.zeros(len(rows))
        for part, state in parts.items():
            width = np.array([row.get(part, 0) for row in rows.values()], float)
            axes.barh(list(rows), width, left=left, label=part, **_look(state))
            left += width
        axes.set_xlim(right=1.03 * max(left))
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.set_xlabel(unit)
        axes.xaxis.set_major_formatter("{x:,.10g}")
        axes.locator_params(axis="x", nbins=5)
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1))

    table = [
        [name, *(row.get(part, 0) for part in parts)] for name, row in rows.items()
    ]
    return Chart(
        paint, caption, [[unit, *parts], *table], height=1.3 + 0.42 * len(rows)
    )


def _look(state: str) -> dict[str, Any]:
    look = theme.STATES[state]
    return {
        "facecolor": look.fill,
        "hatch": look.hatch,
        "edgecolor": theme.LINE,
        "linewidth": 0.8,
    }


def draw_tokens(
    rows: Mapping[str, Mapping[str, int]], caption: str = "Tokens"
) -> Chart:
    """A bar a name: how many tokens were "reused", "computed" and "evicted"."""
    parts = {"reused": "hit", "computed": "new", "evicted": "evicted"}
    return _bars(rows, parts, "tokens", caption)


def draw_sharing(
    source: Source,
    bytes_per_token: int,
    requests: Mapping[str, Holder] | None = None,
    caption: str = "Memory shared and private",
) -> Chart:
    """The K and V that each request shares with others and has alone, in MiB, and the
    sums.
    """
    view = pool_snapshot(source, requests)
    page = view.page_size * bytes_per_token / 2**20
    rows: dict[str, dict[str, float]] = {}
    for request in view.requests:
        shared = sum(view.counts[p] > 1 for p in request.pages)
        alone = len(request.pages) - shared
        rows[request.name] = {"shared": shared * page, "alone": alone * page}
    tables = [p for request in view.requests for p in request.pages]
    rows["stored"] = {"sum": len(set(tables)) * page}
    rows["without sharing"] = {"sum": len(tables) * page}
    return _bars(rows, {"shared": "hit", "alone": "new", "sum": "free"}, "MiB", caption)


def draw_timeline(
    steps: Sequence[Mapping[str, tuple[str, int]]], caption: str = "What each step does"
) -> Chart:
    """A row a request, a column a step: ("reused", "prefill" or "decode", how many
    tokens).
    """
    kinds = {"reused": "hit", "prefill": "new", "decode": "idle"}
    names = list(dict.fromkeys(name for step in steps for name in step))

    def paint(axes: Axes) -> None:
        for i, step in enumerate(steps):
            for name, (kind, n) in step.items():
                look, row = _look(kinds[kind]), names.index(name)
                axes.barh(row, 0.94, left=i + 0.53, **look)
                back = {"facecolor": look["facecolor"], "edgecolor": "none", "pad": 1}
                axes.text(
                    i + 1,
                    row,
                    f"{n:,}",
                    ha="center",
                    va="center",
                    fontsize=9,
                    bbox=back,
                )
        axes.set_yticks(range(len(names)), names)
        axes.set_xticks(range(1, len(steps) + 1))
        axes.invert_yaxis()
        axes.set_xlabel("step; the number is how many tokens")
        axes.grid(visible=False)
        patches = [Patch(label=kind, **_look(state)) for kind, state in kinds.items()]
        axes.legend(handles=patches, loc="upper left", bbox_to_anchor=(1, 1))

    told = [
        ["{} {}".format(*step[n]) if n in step else "" for n in names] for step in steps
    ]
    table: list[Any] = [
        ["step", *names],
        *([i + 1, *row] for i, row in enumerate(told)),
    ]
    return Chart(paint, caption, table, height=1.3 + 0.42 * len(names))


def draw_pool_map(source: Source, caption: str = "The pool, page by page") -> Chart:
    """Every page of a pool of thousands as a small square, and how many are in each
    state.
    """
    view = pool_snapshot(source)
    kinds = {
        "free": "free",
        "in the tree": "idle",
        "locked": "locked",
        "private": "new",
    }
    in_tree = {
        page for node in (view.tree.nodes if view.tree else ()) for page in node.pages
    }
    cells = np.array(
        [
            0 if not held else 2 if page in view.locked else 1 if page in in_tree else 3
            for page, held in enumerate(view.counts)
        ]
    )
    wide = min(128, len(cells))
    grid = np.pad(cells, (0, -len(cells) % wide), constant_values=-1).reshape(-1, wide)
    amounts = dict(zip(kinds, np.bincount(cells, minlength=4).tolist(), strict=True))

    def paint(axes: Axes) -> None:
        colors = ListedColormap([theme.STATES[state].fill for state in kinds.values()])
        shown = np.ma.masked_less(grid, 0)
        axes.pcolormesh(
            shown, cmap=colors, vmin=0, vmax=3, edgecolors=theme.FAINT, linewidth=0.2
        )
        axes.set(xlabel=f"page id, {wide} in a row", aspect="equal")
        rows = range(0, len(grid), len(grid) // 5 + 1)
        axes.set_yticks(
            [row + 0.5 for row in rows], [f"{row * wide:,}" for row in rows]
        )
        axes.invert_yaxis()
        patches = [
            Patch(
                label=f"{kind}: {amounts[kind]:,}",
                facecolor=theme.STATES[state].fill,
                edgecolor=theme.LINE,
            )
            for kind, state in kinds.items()
        ]
        axes.figure.legend(handles=patches, loc="outside lower center", ncols=4)

    table: list[Any] = [["", "pages"], *amounts.items()]
    return Chart(paint, caption, table, height=1.3 + 5.4 * len(grid) / wide)
