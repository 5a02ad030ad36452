"""Chapter 04: what a policy throws out, and what that costs."""

from __future__ import annotations

import ipywidgets as widgets

from radix_lib.eviction import POLICIES
from radix_lib.page_manager import OutOfPages, PageManager
from radix_lib.radix_cache import RadixCache
from radix_lib.router import Router
from radix_lib.teaching.films.recorder import Recorder
from radix_lib.teaching.widgets.base import Stepper, decode, encode, labelled


def _chats() -> list[str]:
    """Two conversations in turns; a turn begins with all that was said before."""
    said = ["Ann: hello!", "Bob: morning"]
    turns = list(said)
    for more in (" How are you?", " And now?", " Bye."):
        said = [text + more for text in said]
        turns += said
    return turns


#: Workloads that fit on a screen, a byte a token; `radix_lib.workloads` has others.
TINY_WORKLOADS: dict[str, list[str]] = {
    "one hot prompt, many strangers": [
        text
        for name in ("Alma", "Boris", "Chen", "Dora", "Emil")
        for text in ("You are helpful. Hi", f"{name} asks something")
    ],
    "the same round again and again": [
        f"{name} wants the news"
        for _ in range(3)
        for name in ("Alma", "Boris", "Chen", "Dora")
    ],
    "two chats in turns": _chats(),
}
PAGE_SIZE = 4


class EvictionLab(Stepper):
    """Run a workload with a capacity and a policy; step through its requests.

    A byte is a token, a page has four. `rates` has the share of tokens reused, by
    policy.
    """

    def __init__(self) -> None:
        self.workload = labelled(
            widgets.Dropdown,
            "workload",
            "min(360px, 100%)",
            options=list(TINY_WORKLOADS),
        )
        self.policy = labelled(
            widgets.Dropdown, "policy", "140px", options=list(POLICIES)
        )
        self.capacity = labelled(
            widgets.IntSlider,
            "capacity in pages",
            "min(360px, 100%)",
            min=4,
            max=32,
            value=12,
            continuous_update=False,
        )
        controls = [self.workload, self.policy, self.capacity]
        super().__init__(rows=[controls])
        for control in controls:
            control.observe(lambda _: self.act(self.run), "value")
        self.act(self.run)

    def run(self) -> str:
        """Run the workload with each policy, and record it with the chosen one."""
        self.rates = {policy: self._run(policy) for policy in POLICIES}
        unlimited = self._run(self.policy.value, n_pages=1000)
        self.record(self._film.frames)
        rates = [f"{policy} {rate:.0%}" for policy, rate in self.rates.items()]
        told = " · ".join(rates)
        return f"Tokens reused: {told}; with unlimited memory {unlimited:.0%}."

    def _run(self, policy: str, n_pages: int = 0) -> float:
        """The share of tokens reused. The run of policy and capacity chosen is filmed.

        `n_pages` are another capacity than the chosen one.
        """
        manager = PageManager(n_pages or self.capacity.value, PAGE_SIZE)
        router = Router(RadixCache(manager, policy))
        film = None
        if policy == self.policy.value and not n_pages:
            film = self._film = Recorder(router, decode=decode)
        texts = TINY_WORKLOADS[self.workload.value]
        n_reused = 0
        for i, text in enumerate(texts):
            try:
                with router.admit(encode(text)) as lease:
                    lease.advance(len(lease.pending))
            except (ValueError, OutOfPages):
                end = "refused, the pool is too small for it"
            else:
                n_reused += lease.n_cached
                end = f"{lease.n_cached} of {lease.n_tokens} tokens reused"
            router.check_integrity()
            if film:
                request = f"request {i + 1} of {len(texts)}"
                film.merge(i, f"{policy}, {request}: {text} – {end}")
        return n_reused / sum(len(encode(text)) for text in texts)
