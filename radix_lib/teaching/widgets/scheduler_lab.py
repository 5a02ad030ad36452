"""Chapter 08: a queue, a budget, a pool and an order, and what comes of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ipywidgets as widgets

from radix_lib.orders import ORDERS
from radix_lib.request import Request
from radix_lib.scheduler import Scheduler
from radix_lib.teaching.figures.figure import Figure
from radix_lib.teaching.figures.schedule_figure import draw_schedule
from radix_lib.teaching.figures.schedule_timeline import Timeline
from radix_lib.teaching.widgets.base import Stepper, labelled
from radix_lib.token_time import Arrival, Cost, TokenTime, play

PAGE_SIZE = 4
MAX_RUNNING = 6
SHOWN = 32  # steps at once
COST = Cost(a=20, b=1, c=0)


def _prompt(*parts: tuple[int, int]) -> list[int]:
    """Parts of a prompt, (name, tokens): equal parts are equal tokens."""
    return [100 * name + i for name, n_tokens in parts for i in range(n_tokens)]


def _tasks() -> list[Arrival]:
    """Questions on three tasks, one of each in turn."""
    return [
        Arrival(30 * k, _prompt((k % 3, 24), (10 + k, 6)), 5 + k % 4) for k in range(9)
    ]


ARRIVALS: dict[str, list[Arrival]] = {
    "three tasks in turns": _tasks(),
    "a long prompt among readers": [
        *(Arrival(0, _prompt((k, 8)), 16) for k in range(3)),
        Arrival(100, _prompt((5, 99)), 4),
        Arrival(120, _prompt((6, 8)), 8),
    ],
    "one hot prompt, two strangers": [
        *(Arrival(40 * k, _prompt((0, 24), (10 + k, 4)), 4) for k in range(10)),
        *(Arrival(60 + 90 * k, _prompt((30 + k, 30)), 4) for k in range(2)),
    ],
    "six long answers at once": [
        Arrival(0, _prompt((k, 12)), 30 - 3 * k) for k in range(6)
    ],
}


class SchedulerLab(Stepper):
    """Play arrivals with an order, a budget and a pool; step through what happened.

    All in token time. `requests` are those of the last run, `timeline` has its steps.
    """

    def __init__(self) -> None:
        self.arrivals = labelled(
            widgets.Dropdown, "arrivals", "min(360px, 100%)", options=list(ARRIVALS)
        )
        self.order = labelled(widgets.Dropdown, "order", "180px", options=list(ORDERS))
        self.prefill_first = labelled(widgets.Checkbox, "prompts first", value=False)
        slider = {"continuous_update": False}
        self.budget = labelled(
            widgets.IntSlider,
            "token budget",
            "min(360px, 100%)",
            min=MAX_RUNNING,
            max=64,
            value=32,
            **slider,
        )
        self.pool = labelled(
            widgets.IntSlider,
            "pages in the pool",
            "min(360px, 100%)",
            min=16,
            max=64,
            value=40,
            **slider,
        )
        first = [self.arrivals, self.order, self.prefill_first]
        second = [self.budget, self.pool]
        super().__init__(rows=[first, second])
        for control in (*first, *second):
            control.observe(lambda _: self.act(self.run), "value")
        self.act(self.run)

    def run(self) -> str:
        """Play the arrivals as chosen, and say what came of them."""
        model: Any = TokenTime(self.pool.value, PAGE_SIZE, cost=COST)
        scheduler = Scheduler(
            model,
            token_budget=self.budget.value,
            max_running=MAX_RUNNING,
            order=self.order.value,
            prefill_first=self.prefill_first.value,
        )
        timeline = Timeline(scheduler)
        self.requests = play(scheduler, ARRIVALS[self.arrivals.value], timeline)
        self.scheduler = scheduler
        self.timeline = timeline
        self._drawn: dict[int, Figure] = {}
        self._caption = (
            f"{self.arrivals.value}: {self.order.value}, {self.budget.value} tokens a "
            f"step, {self.pool.value} pages"
        )
        self.reach(len(timeline.moments))
        return told(self.requests, model.clock())

    def check(self) -> None:
        """Raise AssertionError if the books of the router do not add up."""
        self.scheduler.router.check_integrity()

    def draw(self) -> Figure:
        """The steps up to the one at which the slider stands."""
        last = self.slider.value
        if last not in self._drawn:
            caption = f"{self._caption}; step {last} of {self.slider.max}"
            first = max(1, last - SHOWN + 1)
            self._drawn[last] = draw_schedule(
                self.timeline, caption, first=first, last=last
            )
        return self._drawn[last]

    def static(self) -> Figure:
        """The whole run in one figure."""
        return draw_schedule(self.timeline, self._caption)


def told(requests: Sequence[Request], ticks: float) -> str:
    """What requests had to wait for, and what they found in the cache."""
    waits = [(r.first_token_at or 0) - r.submitted_at for r in requests]
    n_tokens = sum(request.n_prompt for request in requests)
    hit_rate = sum(request.n_cached for request in requests) / n_tokens
    n_retracted = sum(request.n_retractions for request in requests)
    return (
        f"{ticks:,.0f} ticks. First tokens after {sum(waits) / len(waits):.0f} ticks on "
        f"average, {max(waits):.0f} at most. {hit_rate:.0%} of the prompts' tokens were "
        f"reused. Retractions: {n_retracted}."
    )
