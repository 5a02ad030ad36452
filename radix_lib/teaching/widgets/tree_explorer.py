"""Chapters 02 and 04: a radix cache to play with, and code that does it again."""

from __future__ import annotations

import html
from functools import partial
from typing import Any

import ipywidgets as widgets

from radix_lib.radix_cache import RadixCache
from radix_lib.teaching.figures.labels import count
from radix_lib.teaching.films.recorder import Recorder
from radix_lib.teaching.widgets.base import (
    TEXT,
    Stepper,
    button,
    decode,
    encode,
    labelled,
)

PROMPTS = (
    "You are a helpful assistant.",
    "You are a helpful poet.",
    "You are not alone.",
    "Translate to French: cheese",
)

SETUP = """\
from radix_lib import PageManager, RadixCache

manager = PageManager(n_pages=24, page_size=4)
cache = RadixCache(manager)
locks = {}


def encode(text):
    return list(text.encode())  # a byte a token
"""

# a click selects all of it
CODE_STYLE = "white-space:pre;overflow-x:auto;user-select:all"

#: What each button does. This very code is run.
CODE = {
    "match": "cache.match(encode({text!r}))",
    "insert": """\
tokens = encode({text!r})
pages = manager.allocate(len(tokens) // manager.page_size)
cache.insert(tokens, pages)
manager.release(pages)  # the tree holds what it took""",
    "lock": """\
locks[{text!r}] = cache.match(encode({text!r})).node
cache.lock(locks[{text!r}])""",
    "unlock": "cache.unlock(locks.pop({text!r}))",
    "evict": "cache.evict({n_pages})",
}


class TreeExplorer(Stepper):
    """Match, insert, lock, unlock and evict; step back through what was done; undo.

    A byte is a token, so that the tree can be read. `code` repeats everything done so
    far.
    """

    def __init__(self) -> None:
        self.pick = labelled(
            widgets.Dropdown, "pick", "min(260px, 100%)", options=PROMPTS
        )
        self.text = labelled(
            widgets.Text,
            "or type",
            "min(320px, 100%)",
            value=PROMPTS[0],
            continuous_update=False,
        )
        self.n_pages = labelled(
            widgets.BoundedIntText, "pages to evict", "150px", value=2, min=1, max=24
        )
        widgets.dlink((self.pick, "value"), (self.text, "value"))
        tooltips = {
            "match": "find the longest prefix of the text that is in the tree",
            "insert": "allocate pages for the text and insert it",
            "lock": "match the text and lock the node where the match ends",
            "unlock": "take back the lock of this text",
            "evict": "throw out the pages that were not used for longest",
        }
        self.buttons = {
            name: button(name, tooltip, partial(self.act, self.do, name))
            for name, tooltip in tooltips.items()
        }
        self.undo = self.button("undo", "take the last operation back", self.take_back)
        self._code = widgets.HTML()
        *on_text, evict = self.buttons.values()
        rows = [[self.pick, self.text], [*on_text, self.n_pages, evict, self.undo]]
        super().__init__(rows=rows)
        self.box.children += (self._code,)
        story = zip(("insert", "insert", "match"), PROMPTS, strict=False)
        self._done = [CODE[name].format(text=text) for name, text in story]
        self.act(self._replay)

    @property
    def code(self) -> str:
        """Python that gives the same tree."""
        return "\n".join([SETUP, *self._done])

    def do(self, name: str) -> str:
        """Run one operation on the text in the box. Raises ValueError for a refusal."""
        text = self.text.value
        n_pages = self.n_pages.value
        self._expect(name, text, n_pages)
        code = CODE[name].format(text=text, n_pages=n_pages)
        self._run(code)
        self._done.append(code)
        return self._told()

    def _expect(self, name: str, text: str, n_pages: int) -> None:
        """Raise ValueError where an operation would be refused, or would do nothing."""
        trouble = self._trouble(name, text, n_pages)
        if trouble:
            raise ValueError(trouble)

    def _trouble(self, name: str, text: str, n_pages: int) -> str:
        tokens = encode(text)
        evictable = self.cache.n_evictable
        if name == "evict":
            if n_pages <= evictable:
                return ""
            able = count(evictable, "page")
            return f"{able} can be evicted now: the others are free already, or locked."
        if not text:
            return "The text is empty: type something, or pick a prompt."
        is_locked = text in self._variables["locks"]
        if name == "insert":
            return self._trouble_of_insert(len(tokens) // self.cache.page_size)
        if name == "lock" and not any(True for _ in self.cache.walk(tokens)):
            return "No page of this text is in the tree: insert it first."
        if name == "lock" and is_locked:
            return "This text is locked already: unlock it first."
        if name == "unlock" and not is_locked:
            return "This text is not locked."
        return ""

    def _trouble_of_insert(self, n_needed: int) -> str:
        if not n_needed:
            page = f"a page of {self.cache.page_size} tokens"
            return f"The text is shorter than {page}: only whole pages enter the tree."
        n_free = self.cache.page_manager.n_free
        if n_needed <= n_free:
            return ""
        needed = f"{count(n_needed, 'page')} needed and {n_free} free"
        return f"{needed}: evict some first ({self.cache.n_evictable} can be evicted)."

    def take_back(self) -> str:
        """Undo the last operation: everything before it is done again, from nothing."""
        if not self._done:
            raise ValueError("There is nothing to undo.")
        self._done.pop()
        return self._replay()

    def _replay(self) -> str:
        self._variables: dict[str, Any] = {}
        exec(SETUP, self._variables)
        self.cache: RadixCache = self._variables["cache"]
        self._recorder = Recorder(self.cache, decode=decode)
        self._recorder.note("an empty cache")
        for code in self._done:
            self._run(code)
        return self._told()

    def _run(self, code: str) -> None:
        n_frames = len(self._recorder.frames)
        exec(code, self._variables)
        self._recorder.merge(n_frames)

    def _told(self) -> str:
        self.record(self._recorder.frames)
        summary = f"The {count(len(self._done), 'operation')} so far as code"
        code = html.escape(self.code)
        self._code.value = (
            f'<details style="{TEXT}"><summary>{summary}</summary>'
            f"<pre tabindex=0 style='{CODE_STYLE};{TEXT}'>{code}</pre></details>"
        )
        return ""

    def check(self) -> None:
        """Raise AssertionError if the cache is broken."""
        self.cache.check_integrity()
        self.cache.page_manager.check_integrity()
