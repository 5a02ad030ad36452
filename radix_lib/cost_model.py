"""Chapter 09: a cost model. What will a schedule cost, from three measured steps?

    seconds of a step = a + b · new tokens + c · context

`measure` times a step of a model, `fit` finds the `Cost`, and `TokenTime` plays a
schedule with it. What comes out is a prediction, to be laid beside a measurement.

Left out here: a device on which a step of few tokens takes as long as one of many.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

import numpy as np

from radix_lib.request import Model
from radix_lib.token_time import Cost
from radix_lib.workloads import Report


class Point(NamedTuple):
    """A step that was timed."""

    n_new: int  # tokens computed
    n_context: int  # tokens attended to: those, and all before them
    seconds: float


def measure(model: Model, n_before: int, n_new: int, n_runs: int = 5) -> Point:
    """Time the step of a request that has `n_before` computed tokens: `n_new` more.

    The median of `n_runs`; nothing stays in the cache. Raises what `Router.admit`
    raises.
    """
    seconds = []
    for _ in range(n_runs):
        tokens = [1 + place % 97 for place in range(n_before + n_new)]
        nobody = object()  # a namespace in which nothing is cached
        lease = model.router.admit(tokens, namespace=nobody)
        try:
            if n_before:
                model.step([lease], [n_before])
            began = model.clock()
            model.step([lease], [n_new])
            seconds.append(model.clock() - began)
        finally:
            model.router.cancel(lease)
    return Point(n_new, n_before + n_new, median(seconds))


def fit(points: Sequence[Point]) -> Cost:
    """The cost that steps of these sizes have; of more than three, the nearest one.

    Raises ValueError for points that leave one of the three numbers open.

    >>> cost = fit([Point(1, 1, 21.5), Point(100, 100, 170), Point(1, 1001, 521.5)])
    >>> [round(number, 6) for number in cost]
    [20.0, 1.0, 0.5]
    """
    sizes = np.array([(1, point.n_new, point.n_context) for point in points], float)
    if len(points) < 3 or np.linalg.matrix_rank(sizes) < 3:
        raise ValueError(
            f"{len(points)} points do not fix three numbers: measure three steps, of "
            "which two differ in their new tokens and two in their context alone"
        )
    seconds = np.array([point.seconds for point in points])
    found, *_ = np.linalg.lstsq(sizes, seconds, rcond=None)
    return Cost(*map(float, found))


class Beside(NamedTuple):
    """A number that was predicted, and the same one measured."""

    predicted: float
    measured: float

    @property
    def error(self) -> float:
        """How far the prediction is off, as a share of what was measured."""
        return abs(self.predicted - self.measured) / self.measured


def beside(predicted: Report, measured: Report) -> dict[str, Beside]:
    """Time to first token and throughput of two reports on the same requests."""
    return {
        "first token, median": Beside(
            predicted.first_token.median, measured.first_token.median
        ),
        "first token, 90th": Beside(
            predicted.first_token.p90, measured.first_token.p90
        ),
        "tokens a second": Beside(predicted.throughput, measured.throughput),
    }
