"""Chapter 05: one request through match, lock, allocate, compute, insert, unlock."""

from __future__ import annotations

import ipywidgets as widgets

from radix_lib.page_manager import OutOfPages, PageManager
from radix_lib.radix_cache import RadixCache
from radix_lib.router import Router
from radix_lib.teaching.figures.labels import count
from radix_lib.teaching.films.recorder import Recorder
from radix_lib.teaching.widgets.base import Stepper, decode, encode, labelled

BEFORE = ("You are a helpful assistant. Hi!", "Tell me a story.")
PROMPT = "You are a helpful assistant. Bye!"
STRANGER = "Who are you?"


class RouterWalk(Stepper):
    """Send a request to a router that has seen others, and step through what it does.

    A byte is a token. Nothing is computed: the place where a model would run is a step.
    """

    def __init__(self, *, n_pages: int = 13, page_size: int = 4):
        self.n_pages = n_pages
        self.page_size = page_size
        self.text = labelled(
            widgets.Text,
            "request",
            "min(420px, 100%)",
            value=PROMPT,
            continuous_update=False,
        )
        self.send = self.button("send", "send the request to the router", self.request)
        self.restart = self.button(
            "start again", "with the cache and the request of the beginning", self.begin
        )
        self.ask_too_much = self.button(
            "ask for too much",
            "while the request runs, send another for which there are too few pages",
            self.be_refused,
        )
        row = [self.text, self.send, self.ask_too_much, self.restart]
        super().__init__(rows=[row])
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
        tokens = self._tokens()
        self._recorder.frames.clear()
        self._recorder.note("before: what earlier requests left in the tree")
        with self.router.admit(tokens) as lease:
            n_computed = len(lease.pending)
            lease.advance(n_computed)
            work = f"K/V of {count(n_computed, 'token')}, the executor's only work"
            own = lease.page_table[lease.n_shared :]
            self._recorder.note(f"compute: {work}", new=own)
        self.record(self._recorder.frames)
        self.slider.value = 1
        n_reused = f"{lease.n_cached} of {count(lease.n_tokens, 'token')} reused"
        did = "Step through what the router did."
        return f"{n_reused}, {n_computed} computed. {did}"

    def be_refused(self) -> str:
        """While the request in the box runs, ask for one page more than can be had.

        Raises ValueError, changing nothing, if that request cannot run itself, and
        AssertionError if the refusal moved anything.
        """
        with self.router.admit(self._tokens()) as lease:
            self._recorder.frames.clear()
            self._recorder.note("before: the request in the box runs")
            words = self._refusal()
            self._recorder.note(f"refused: {words}")
            before, *_, after = self._recorder.frames
            self.router.cancel(lease)
        same = (before.tree, before.pool) == (after.tree, after.pool)
        assert same, "a request that was refused moved something"
        self.record([before, after])
        return f"{words}. Go back and forth: nothing moved."

    def _refusal(self) -> str:
        """Ask for one page more than is free or evictable; why it is refused."""
        n_pages = self.router.page_manager.n_free + self.router.cache.n_evictable + 1
        tokens = encode(STRANGER)[: n_pages * self.page_size]
        room = n_pages * self.page_size - len(tokens)
        try:
            # in a namespace of its own, where nothing of it is cached
            self.router.admit(tokens, STRANGER, max_new_tokens=room)
        except OutOfPages as error:
            return str(error)
        raise AssertionError("a request was admitted for which there are no pages")

    def _tokens(self) -> list[int]:
        if not self.text.value:
            raise ValueError("The request is empty: a request has at least one token.")
        return encode(self.text.value)

    def check(self) -> None:
        """Raise AssertionError if tree, pages and leases do not add up."""
        self.router.check_integrity()
