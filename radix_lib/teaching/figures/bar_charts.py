"""Charts of bars: tokens and memory by what became of them, faults by their size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from radix_lib.teaching.figures import theme
from radix_lib.teaching.figures.chart import Chart, beside, look_of
from radix_lib.teaching.figures.pool_snapshot import Holder, Source, pool_snapshot


def _bars(
    rows: Mapping[str, Mapping[str, float]],
    parts: Mapping[str, str],
    unit: str,
    caption: str,
) -> Chart:
    """A bar a row, stacked of parts that look like the state that each stands for."""
    shown = {
        part: state
        for part, state in parts.items()
        if any(part in row for row in rows.values())
    }

    def paint(axes: Axes) -> None:
        left = np.zeros(len(rows))
        for part, state in shown.items():
            width = np.array([row.get(part, 0) for row in rows.values()], float)
            axes.barh(list(rows), width, left=left, label=part, **look_of(state))
            left += width
        axes.set_xlim(right=1.03 * max(left))
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.set_xlabel(unit)
        axes.xaxis.set_major_formatter("{x:,.10g}")
        axes.locator_params(axis="x", nbins=5)
        beside(axes)

    head = [unit, *shown]
    body = [[name, *(row.get(part, 0) for part in shown)] for name, row in rows.items()]
    return Chart(paint, caption, [head, *body], height=1.3 + 0.42 * len(rows))


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
    """The K/V that each request shares and has alone, in MiB, and the sums."""
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


def draw_damage(
    damage: Mapping[str, float],
    tolerance: float,
    caption: str = "How far each fault moves a logit",
) -> Chart:
    """A bar a fault: the largest difference that it makes, on a scale of powers of ten.

    Those below the tolerance, which a comparison lets pass, are hatched.
    """
    in_order = sorted(damage.items(), key=lambda item: item[1])

    def paint(axes: Axes) -> None:
        for name, size in in_order:
            axes.barh(name, size, **look_of("evicted" if size <= tolerance else "hit"))
        axes.axvline(tolerance, color=theme.TEXT, linestyle="--")
        axes.set_xscale("log")
        axes.set_xlim(in_order[0][1] / 10, in_order[-1][1] * 10)
        axes.set_xlabel("largest difference of a logit; hatched: below the tolerance")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.grid(visible=False, axis="y")

    table: list[list[Any]] = [["fault", "largest difference"]]
    table += [[name, size] for name, size in in_order]
    return Chart(paint, caption, table, height=1.2 + 0.26 * len(in_order))
