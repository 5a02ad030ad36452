"""Chapter 10: a fleet to play with, in token time."""

from __future__ import annotations

from collections.abc import Callable

import ipywidgets as widgets

from radix_lib.dispatch import (
    AtRandom,
    CacheAware,
    ConsistentHashing,
    Dispatched,
    FewestBlocks,
    Policy,
    PrefixMinusLoad,
    RoundRobin,
    dispatch,
)
from radix_lib.teaching.figures.chart import Chart
from radix_lib.teaching.figures.fleet_charts import draw_workers
from radix_lib.teaching.widgets.base import Lab, encode, labelled
from radix_lib.workloads import Words, poisson, report, shared_prefixes

POLICIES: dict[str, Callable[[], Policy]] = {
    "cache aware": CacheAware,
    "cache aware, uneven above 4": lambda: CacheAware(balance_abs=4),
    "cache aware, told by events": lambda: CacheAware(exact=True),
    "round robin": RoundRobin,
    "random": AtRandom,
    "consistent hashing": ConsistentHashing,
    "prefix minus load": PrefixMinusLoad,
    "fewest blocks": FewestBlocks,
}
GAP = 150  # ticks from one request to the next, in the mean


class FleetLab(Lab):
    """200 requests of 16 groups, by Zipf's law, to a fleet of your choice.

    `done` is what came of it; `skew` 0 asks all groups alike, 2 mostly the first.
    """

    def __init__(self) -> None:
        self.policy = labelled(
            widgets.Dropdown, "policy", "min(360px, 100%)", options=list(POLICIES)
        )
        self.workers = self._slider("workers", 1, 12, 4)
        self.pages = self._slider("pages of each", 60, 600, 200, step=20)
        self.skew = labelled(
            widgets.FloatSlider,
            "skew",
            "min(300px, 100%)",
            min=0,
            max=2,
            step=0.5,
            value=1,
            continuous_update=False,
        )
        controls = [self.policy, self.workers, self.pages, self.skew]
        super().__init__([controls[:2], controls[2:]])
        for control in controls:
            control.observe(lambda _: self.act(self.run), "value")
        self.act(self.run)

    def _slider(
        self, label: str, least: int, most: int, value: int, step: int = 1
    ) -> widgets.IntSlider:
        return labelled(
            widgets.IntSlider,
            label,
            "min(300px, 100%)",
            min=least,
            max=most,
            value=value,
            step=step,
            continuous_update=False,
        )

    def run(self) -> str:
        """Play the requests, and say what came of them."""
        words = Words(lambda text: encode(text))
        requests = poisson(shared_prefixes(words, 200, self.skew.value), GAP)
        self.done: Dispatched = dispatch(
            requests,
            POLICIES[self.policy.value](),
            self.workers.value,
            n_pages=self.pages.value,
        )
        found = report(self.done.requests)
        wait = found.first_token
        return (
            f"{found.hit_rate:.0%} of the prompts' tokens found. First token after "
            f"{wait.median:,.0f} ticks at the median, {wait.p99:,.0f} at the 99th "
            f"percentile. The busiest worker got {self.done.spread:.1f} times its share."
        )

    def draw(self) -> Chart:
        """What each worker reused and computed."""
        return draw_workers(self.done, f"{self.policy.value}: tokens of each worker")
