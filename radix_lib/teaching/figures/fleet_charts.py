"""Charts of a fleet: what policies find, and how evenly they spread the work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes

from radix_lib.dispatch import Dispatched
from radix_lib.teaching.figures.bar_charts import draw_tokens
from radix_lib.teaching.figures.chart import Chart, look_of
from radix_lib.workloads import report


def draw_workers(done: Dispatched, caption: str) -> Chart:
    """A bar a worker: tokens of prompts that it reused, and that it computed."""
    rows = {
        f"worker {number}": {"reused": 0, "computed": 0}
        for number in range(done.n_workers)
    }
    for request, number in zip(done.requests, done.workers, strict=True):
        row = rows[f"worker {number}"]
        row["reused"] += request.n_cached
        row["computed"] += request.n_prompt - request.n_cached
    return draw_tokens(rows, caption)


def draw_policies(results: Mapping[str, Dispatched], caption: str) -> Chart:
    """A bar a policy: the share of prompt tokens found; beside it what it costs.

    The table has spread (most requests of a worker ÷ the mean) and the 99th percentile
    of the time to the first token, in ticks.
    """
    reports = {name: report(done.requests) for name, done in results.items()}
    rows: Sequence[Sequence[object]] = [
        [
            name,
            f"{reports[name].hit_rate:.1%}",
            f"{done.spread:.2f}",
            f"{reports[name].first_token.p99:,.0f}",
        ]
        for name, done in results.items()
    ]

    def paint(axes: Axes) -> None:
        rates = [found.hit_rate for found in reports.values()]
        axes.barh(list(reports), rates, **look_of("hit"))
        for at, (_, rate, spread, wait) in enumerate(rows):
            axes.text(0.02, at, f"{rate}, spread {spread}, p99 {wait}", va="center")
        axes.set(xlim=(0, 1), xlabel="tokens of prompts found in a cache")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")

    head = ["policy", "hit rate", "spread", "p99 wait"]
    return Chart(
        paint, caption, [head, *map(list, rows)], height=1.2 + 0.42 * len(rows)
    )
