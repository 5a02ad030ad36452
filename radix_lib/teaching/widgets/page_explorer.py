"""Chapter 03: which pages requests share, what the last page wastes, copy-on-write."""

from __future__ import annotations

import ipywidgets as widgets
import numpy as np

from radix_lib.page_manager import OutOfPages, PageManager
from radix_lib.radix_tree import Pages, RadixTree
from radix_lib.teaching.figures.figure import Figure
from radix_lib.teaching.figures.labels import count
from radix_lib.teaching.figures.page_figure import draw_pages
from radix_lib.teaching.widgets.base import Lab, button, encode, labelled

PROMPTS = (
    "Summarise this letter: Dear Sir, thank you.",
    "Summarise this letter: Dear Sir, goodbye.",
    "Summarise this poem: Roses are red.",
    "What is the time?",
)
POOL_TOKENS = 160


class PageExplorer(Lab):
    """Pick requests and a page size; fork a request, and write to it.

    A byte is a token. Everything is done again, in the same order, whenever a control
    moves. A fork shares the full pages and gets a copy of the last one, if tokens are
    to be added there: both requests are about to write to it.
    """

    def __init__(self) -> None:
        self.prompts = dict(zip("ABCD", PROMPTS, strict=True))
        self.picks = {
            name: labelled(
                widgets.Checkbox, f"{name}: {text}", value=i < 2, indent=False
            )
            for i, (name, text) in enumerate(self.prompts.items())
        }
        self.page_size = labelled(
            widgets.SelectionSlider,
            "page size in tokens",
            "min(360px, 100%)",
            options=[1, 2, 4, 8, 16, 32],
            value=8,
        )
        self.target = labelled(widgets.Dropdown, "request", "150px", options=[])
        self.fork = button(
            "fork", "a second request on the same pages", lambda: self._try("fork")
        )
        self.write = button(
            "write a token", "add one token to the request", lambda: self._try("write")
        )
        self.undo = self.button("undo", "take the last fork or write back", self._pop)
        actions = [self.target, self.fork, self.write, self.undo]
        super().__init__([[*self.picks.values()], [self.page_size], actions])
        self._done: list[tuple[str, str]] = []  # forks and writes, and to which request
        for control in (*self.picks.values(), self.page_size):
            control.observe(lambda _: self.act(self.build), "value")
        self.act(self.build)

    def build(self) -> str:
        """Do everything picked and done so far again, with the page size chosen."""
        page_size = self.page_size.value
        self.manager = PageManager(POOL_TOKENS // page_size, page_size)
        # page table and number of tokens
        self.requests: dict[str, tuple[Pages, int]] = {}
        tree = RadixTree(page_size)
        words = ""
        try:
            for name, pick in self.picks.items():
                if pick.value:
                    self._admit(tree, name)
            for operation, name in self._done:
                if name in self.requests:  # it was picked when this was done
                    words = getattr(self, f"_{operation}")(name)
        except OutOfPages as error:
            raise RuntimeError(
                f"The pool is full, pages needed: {error.needed}, free: {error.free}. What is "
                "shown fits: undo a step, take a request out, or choose another page size."
            ) from error
        finally:
            self._offer_requests()
        return words

    def _offer_requests(self) -> None:
        """Let the reader choose among the requests that there are now."""
        chosen = self.target.value
        self.target.options = list(self.requests)
        if chosen in self.requests:
            self.target.value = chosen
        elif self.requests:
            self.target.value = next(iter(self.requests))

    def _try(self, operation: str) -> None:
        def attempt() -> str:
            if self.target.value is None:
                raise ValueError("Pick a request first.")
            name = self.target.value
            self._done.append((operation, name))
            try:
                return self.build()
            except RuntimeError:
                self._done.pop()
                self.build()
                raise

        self.act(attempt)

    def _pop(self) -> str:
        if not self._done:
            raise ValueError("There is no fork or write to undo.")
        self._done.pop()
        self.build()
        return "The last step was taken back."

    def _admit(self, tree: RadixTree, name: str) -> None:
        tokens = encode(self.prompts[name])
        shared = tree.match(tokens).pages
        n_pages = self.manager.pages_for(len(tokens)) - len(shared)
        own = self.manager.allocate(n_pages)
        self.manager.retain(shared)
        pages = np.concatenate((shared, own))
        tree.insert(tokens, pages)
        self.requests[name] = (pages, len(tokens))

    def _fork(self, name: str) -> str:
        pages, n_tokens = self.requests[name]
        names = (f"{name}{i}" for i in range(2, 99))
        fork = next(new for new in names if new not in self.requests)
        n_full = n_tokens // self.manager.page_size
        own = self.manager.allocate(len(pages) - n_full)
        self.manager.retain(pages[:n_full])
        self.requests[fork] = (np.concatenate((pages[:n_full], own)), n_tokens)
        words = f"{fork} shares {count(n_full, 'full page')} with {name}"
        if not len(own):
            return f"{words}; nothing had to be copied."
        return f"{words}; page {pages[-1]} has room, so {fork} has a copy of it, page {own[0]}."

    def _write(self, name: str) -> str:
        pages, n_tokens = self.requests[name]
        was_full = n_tokens % self.manager.page_size == 0
        if was_full:
            pages = np.append(pages, self.manager.allocate(1))
        self.requests[name] = (pages, n_tokens + 1)
        if was_full:
            return (
                f"The last page of {name} was full: the token begins page {pages[-1]}."
            )
        return f"{name} wrote a token into page {pages[-1]}, which it alone holds."

    def _waste(self) -> str:
        if not self.requests:
            return "No request is picked."
        size = self.manager.page_size
        n_pages = self.manager.n_pages - self.manager.n_free
        alone = sum(len(pages) for pages, _ in self.requests.values())
        # by the last page, which several requests may share
        tails = {pages[-1]: -n % size for pages, n in self.requests.values()}
        n_empty = sum(tails.values())
        verb = "is" if n_empty == 1 else "are"
        return (
            f"{count(n_pages, 'page')} of {count(size, 'token')} instead of {alone} "
            f"without sharing; {n_empty} of their {n_pages * size} places {verb} empty."
        )

    def draw(self) -> Figure:
        """The pages, and a row for the page table of each request."""
        rows = {name: (pages.tolist(), n) for name, (pages, n) in self.requests.items()}
        return draw_pages(self.manager, rows, caption=self._waste())

    def check(self) -> None:
        """Raise AssertionError if a page's count is not how many requests hold it."""
        self.manager.check_integrity()
        held = np.zeros(self.manager.n_pages, np.int32)
        for pages, _ in self.requests.values():
            held[pages] += 1
        same = (held == self.manager.ref_counts).all()
        assert same, "a page's count is not its holders' number"
