"""A story told in moments: the tree, the pages and the page tables side by side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

from radix_lib.radix_cache import RadixCache
from radix_lib.teaching.figures import theme
from radix_lib.teaching.figures.canvas import MARGIN, Canvas, Part
from radix_lib.teaching.figures.figure import Figure
from radix_lib.teaching.figures.labels import Decoder, shorten
from radix_lib.teaching.figures.pool_snapshot import (
    Holder,
    PoolSnapshot,
    pool_snapshot,
)
from radix_lib.teaching.figures.tree_figure import tree_part
from radix_lib.teaching.figures.tree_snapshot import Marks

TREE = 230  # width that the tree has, unless it needs more
CELL, HEIGHT = 46, 36  # of a page
IN_A_ROW = 4
GAP = 18  # between the columns
NAME = 30  # of the names of the tables
COLUMNS = ("tree", "pages and their counts", "page tables")


class _Moment(NamedTuple):
    words: str
    view: PoolSnapshot
    marks: Marks

    def state(self, page: int) -> str:
        return self.marks.of_page(page, self.view.counts[page] > 0, locked=False)

    def due(self) -> Counter[int]:
        """How many lists name each page: nodes of the tree, and page tables."""
        assert self.view.tree is not None
        lists = [node.pages for node in self.view.tree.nodes]
        lists += [request.pages for request in self.view.requests]
        return Counter(page for pages in lists for page in pages)

    def counts(self) -> list[str]:
        """The count of each page; where it is wrong, what it should be as well."""
        due = self.due()
        return [
            f"×{count}" if count == due[page] else f"×{count}≠{due[page]}"
            for page, count in enumerate(self.view.counts)
        ]


class SideBySide:
    """Keeps a cache and some page tables as they are at each `note`; `draw` shows all.

    A page that tree and tables share is blue, one that only tables name is yellow. A
    count that is not the number of lists that name the page is shown beside what it
    should be: ×1≠2.
    """

    def __init__(self, decode: Decoder = None):
        self.decode = decode
        self._moments: list[_Moment] = []

    def note(self, words: str, cache: RadixCache, tables: Mapping[str, Holder]) -> None:
        """Keep tree, pages and tables as they are now; `words` say what was done."""
        view = pool_snapshot(cache, tables)
        assert view.tree is not None
        in_tree = {page for node in view.tree.nodes for page in node.pages}
        named = {page for request in view.requests for page in request.pages}
        marks = Marks.of(named & in_tree, named - in_tree, ())
        self._moments.append(_Moment(words, view, marks))

    def draw(self, caption: str = "") -> Figure:
        """All moments, one below the other. Raises ValueError if there are none."""
        if not self._moments:
            raise ValueError("nothing was noted: there is nothing to draw")
        trees = self._trees()
        n_pages = max(len(moment.view.counts) for moment in self._moments)
        longest = max(
            (len(r.pages) for m in self._moments for r in m.view.requests), default=0
        )
        at_pages = max(tree.width for tree in trees) + GAP
        at_tables = at_pages + min(n_pages, IN_A_ROW) * (CELL + 4) + GAP
        width = at_tables + NAME + max(longest, 2) * (CELL + 4)

        canvas = Canvas()
        y = canvas.heading(width, caption)
        for at, name in zip((0, at_pages, at_tables), COLUMNS, strict=True):
            title = name.upper()
            canvas.write(MARGIN + at, y, 200, title, size=9, color=theme.MUTED)
        y += 18
        for number, (moment, tree) in enumerate(
            zip(self._moments, trees, strict=True), 1
        ):
            canvas.line((MARGIN, y), (MARGIN + width, y), width=0.6)
            canvas.write(MARGIN, y + 5, width, f"{number}  {moment.words}")
            y += 28
            tree.paint(canvas, MARGIN, y)
            high_pages = _paint_pages(canvas, MARGIN + at_pages, y, moment)
            high_tables = _paint_tables(canvas, MARGIN + at_tables, y, moment)
            y += max(tree.height, high_pages, high_tables) + 10
        states = {
            moment.state(page)
            for moment in self._moments
            for page in range(len(moment.view.counts))
        }
        renamed = {"hit": "in the tree and in a table", "new": "in tables only"}
        right = canvas.legend(MARGIN, y, states, renamed)
        text = "\n".join([caption, *self._lines(trees)]).lstrip()
        said = [f"{caption}."] if caption else []
        alt = " ".join([*said, *self._words()])
        right = max(MARGIN + width, right)
        return canvas.figure(right + MARGIN, y + 26, text, shorten(alt, 2000))

    def _trees(self) -> list[Part]:
        snapshots = [moment.view.tree for moment in self._moments]
        others = [node for tree in snapshots if tree for node in tree.nodes]
        return [
            tree_part(
                moment.view.tree,
                moment.marks,
                decode=self.decode,
                others=others,
                room=TREE,
            )
            for moment in self._moments
            if moment.view.tree
        ]

    def _lines(self, trees: list[Part]) -> list[str]:
        lines = []
        for number, (moment, tree) in enumerate(
            zip(self._moments, trees, strict=True), 1
        ):
            lines += [f"{number}  {moment.words}", *tree.lines, _pages_told(moment)]
            lines += _tables_told(moment)
        return lines

    def _words(self) -> list[str]:
        return [
            f"{number}. {moment.words}: {_pages_told(moment)}; "
            f"{'; '.join(_tables_told(moment))}."
            for number, moment in enumerate(self._moments, 1)
        ]


def _pages_told(moment: _Moment) -> str:
    pages = " ".join(f"{page}{count}" for page, count in enumerate(moment.counts()))
    return f"pages {pages}"


def _tables_told(moment: _Moment) -> list[str]:
    return [
        f"{request.name}: {' '.join(map(str, request.pages))}"
        for request in moment.view.requests
    ]


def _paint_page(
    canvas: Canvas, x: float, y: float, page: int, state: str, note: str
) -> None:
    look = theme.STATES[state]
    wrong = "≠" in note
    border, width = ("solid", 2.6) if wrong else (look.border, 1.0)
    canvas.box(x, y, CELL, HEIGHT, look.fill, border=border, width=width)
    canvas.write(x + 5, y + 5, CELL - 10, f"{look.mark}{page}", bold=True)
    canvas.write(x + 3, y + 20, CELL - 6, note, size=9, align="right", bold=wrong)


def _paint_pages(canvas: Canvas, x: float, y: float, moment: _Moment) -> float:
    """Paint the strip, in rows of four. Returns how high it is."""
    for page, note in enumerate(moment.counts()):
        left = x + page % IN_A_ROW * (CELL + 4)
        top = y + page // IN_A_ROW * (HEIGHT + 4)
        _paint_page(canvas, left, top, page, moment.state(page), note)
    return -(-len(moment.view.counts) // IN_A_ROW) * (HEIGHT + 4)


def _paint_tables(canvas: Canvas, x: float, y: float, moment: _Moment) -> float:
    """Paint a row a page table. Returns how high all are."""
    for row, request in enumerate(moment.view.requests):
        top = y + row * 28
        canvas.write(x, top + 6, NAME, request.name, bold=True)
        for i, page in enumerate(request.pages):
            look = theme.STATES[moment.state(page)]
            left = x + NAME + i * (CELL + 4)
            canvas.box(left, top, CELL, 24, look.fill, border=look.border)
            canvas.write(left, top + 6, CELL, f"{look.mark}{page}", align="center")
    return len(moment.view.requests) * 28
