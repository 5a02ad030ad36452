"""Chapter 05: one request through match, lock, allocate, compute, insert, unlock."""

from __future__ import annotations

import ipywidgets as widgets

from radix_lib.page_manager import PageManager
from radix_lib.radix_cache import RadixCache
from radix_lib.router import Router
from radix_lib.teaching.figures.labels import count
from radix_lib.teaching.films.recorder import Recorder
from radix_lib.teaching.widgets.base import Stepper, button, decode, encode, labelled

BEFORE = ("You are a helpful assistant. Hi!", "Tell me a story.")
PROMPT = "You are a helpful assistant. Bye!"


class RouterWalk(Stepper):
    """Send a request to a router whose cache has seen others, and step through what it
    does.

    A byte is a token. Nothing is computed: the place where a model would run is a step.
    """

    def __init__(self, *, n_pages: int = 13, page_size: int = 4):
        self.n_pages, self.page_size = n_pages, page_size
        self.text = labelled(
            widgets.Text,
            "request",
            "min(420px, 100%)",
            value=PROMPT,
            continuous_update=False,
        )
        self.send = button(
            "send", "send the request to the router", lambda: self.act(self.request)
        )
        self.restart = button(
            "start again",
            "with the cache and the request of the beginning",
            lambda: self.act(self.begin),
        )
        super().__init__(rows=[[self.text, self.send, self.restart]])
        self.act(self.begin)

    def begin(self) -> str:
        """Start with the cache and the request as they were at first."""
        self.text.value = PROMPT
        manager = PageManager(self.n_pages, self.page_size)
        self.router = Router(RadixCache(manager))
        for text in BEFORE:
            with self.router.admit(encode(text)) as lease:
                lease.advance(len(lease.pending))
        self._recorder = Recorder(self.router, decode=decode, steps=True)
        return self.request()

    def request(self) -> str:
        """Send the text in the box. Raises ValueError, changing nothing."""
        if not self.text.value:
            raise ValueError("The request is empty: a request has at least one token.")
        self._recorder.frames.clear()
        self._recorder.note("before: what earlier requests left in the tree")
        with self.router.admit(encode(self.text.value)) as lease:
            n_computed = len(lease.pending)
            lease.advance(n_computed)
            self._recorder.note(
                f"compute: K/V of {count(n_computed, 'token')}, the executor's only work",
                new=lease.page_table[lease.n_shared :],
            )
        self.record(self._recorder.frames)
        self.slider.value = 1
        return (
            f"{lease.n_cached} of {count(lease.n_tokens, 'token')} reused, {n_computed} computed. "
            "Step through what the router did."
        )

    def check(self) -> None:
        """Raise AssertionError if tree, pages and leases do not add up."""
        self.router.check_integrity()
