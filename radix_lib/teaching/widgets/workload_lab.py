"""Chapter 09: what a workload leaves to be reused, and what a small cache finds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from zlib import crc32

import ipywidgets as widgets

from radix_lib.eviction import POLICIES
from radix_lib.page_manager import PageManager
from radix_lib.radix_cache import RadixCache
from radix_lib.radix_tree import unpack_tokens
from radix_lib.router import Router
from radix_lib.scheduler import Scheduler
from radix_lib.teaching.figures.chart import Chart
from radix_lib.teaching.figures.workload_figure import draw_cached_tree
from radix_lib.teaching.widgets.base import Lab, labelled
from radix_lib.token_time import TokenTime, play
from radix_lib.traces import (
    distinct_blocks,
    recorded,
    replay,
    replay_through,
    replay_with_foresight,
)
from radix_lib.workloads import WORKLOADS, Words, ask


def a_token_a_word(text: str) -> Sequence[int]:
    """Enough of a tokenizer to tell texts apart, and it needs no model."""
    return [crc32(text.encode()) % 50_000]


class WorkloadLab(Lab):
    """Choose a workload, a capacity, a policy and a page size: what is found, and left?

    All users come at once and are served one by one. `found`, `optimum` and `ceiling`
    are shares of the pages that they ask for.
    """

    def __init__(self) -> None:
        self.workload = labelled(
            widgets.Dropdown,
            "workload",
            "min(320px, 100%)",
            options=list(WORKLOADS),
            value="shared prefixes, by Zipf",
        )
        self.policy = labelled(
            widgets.Dropdown, "policy", "140px", options=list(POLICIES)
        )
        self.page_size = labelled(
            widgets.Dropdown, "page size", "160px", options=[1, 4, 16, 64], value=16
        )
        self.capacity = labelled(
            widgets.IntSlider,
            "capacity in tokens",
            "min(360px, 100%)",
            min=1024,
            max=16_384,
            step=1024,
            value=4096,
            continuous_update=False,
        )
        controls = [self.workload, self.policy, self.page_size, self.capacity]
        super().__init__(rows=[controls])
        for control in controls:
            control.observe(lambda _: self.act(self.run), "value")
        self.act(self.run)

    def run(self) -> str:
        """Replay the workload, with the policy, with foresight and without a limit."""
        workload = WORKLOADS[self.workload.value](Words(a_token_a_word))
        model: Any = TokenTime(8192)
        came = play(Scheduler(model), workload)
        in_order = [ask(request.prompt, request.output) for request in came]
        self.trace = recorded(in_order, self.page_size.value)
        n_pages = self.capacity.value // self.page_size.value
        manager = PageManager(n_pages, page_size=1)
        self.router = Router(RadixCache(manager, self.policy.value))
        self.found = replay_through(self.router, self.trace).hit_rate
        self.optimum = replay_with_foresight(self.trace, n_pages).hit_rate
        self.ceiling = replay(self.trace, distinct_blocks(self.trace)).hit_rate
        return (
            f"Of the pages asked for, {self.policy.value} finds {self.found:.1%} with "
            f"{n_pages} pages; with foresight {self.optimum:.1%}, with unlimited "
            f"memory {self.ceiling:.1%}."
        )

    def draw(self) -> Chart:
        """The workload's tree, and what of it is cached now."""
        cached = {
            block
            for node in self.router.cache.nodes()
            for block in unpack_tokens(node.key)
        }
        caption = f"{self.workload.value}: what is left in the cache at the end"
        prompts = [request.blocks for request in self.trace]
        return draw_cached_tree(prompts, cached, caption, unit="pages")

    def check(self) -> None:
        """The books add up, and nobody beats the ceiling."""
        self.router.check_integrity()
        assert self.found <= self.ceiling
        assert self.optimum <= self.ceiling
