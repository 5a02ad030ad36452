"""The page strip, and page tables as rows with the same ids and colours."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import groupby

from radix_lib.teaching import theme
from radix_lib.teaching.canvas import MARGIN, Canvas, compose
from radix_lib.teaching.figure import Figure
from radix_lib.teaching.labels import Decoder, count, id_ranges, shorten, token_text
from radix_lib.teaching.pool_view import Holder, PoolView, RequestView, Source, pool_view
from radix_lib.teaching.views import Marks

CELL, HEIGHT, PITCH = 46, 36, 50
IN_A_ROW = (theme.WIDTH - 2 * MARGIN + 4) // PITCH
NAME = 76  # width of the names of the rows


class PagesPart:
    """What the strip and the rows have in common."""

    title = "pages"

    def __init__(self, view: PoolView):
        self.view = view
        self.renamed = {} if view.tree else {"idle": "held once", "hit": "shared"}

    def paint_page(
        self, canvas: Canvas, x: float, y: float, page: int, level: float, *notes: str
    ) -> None:
        """One page, filled as far as it is used. Notes stand at its right."""
        state = self.view.state(page)
        look = theme.STATES[state]
        border = "double" if page in self.view.locked else look.border
        rest = theme.STATES["free"].fill
        canvas.box(x, y, CELL, HEIGHT, look.fill, border=border, level=level, rest=rest)
        canvas.write(x + 5, y + 5, CELL - 10, str(page), bold=True)
        canvas.write(x + 5, y + 18, 12, look.mark, bold=True)
        for i, note in enumerate(notes):
            canvas.write(x + 14, y + 6 + 13.5 * i, CELL - 19, note, size=9, align="right")

    def mark(self, page: int) -> str:
        """A page in a drawing of characters."""
        return f"{theme.STATES[self.view.state(page)].mark}{page}"


class StripPart(PagesPart):
    """All pages in the order of their ids. Beyond `limit`, pages that are alike are told as one."""

    def __init__(self, view: PoolView, limit: int = 5 * IN_A_ROW):
        super().__init__(view)
        self.cells: list[int | tuple[str, str]] = []  # pages, and words in place of some
        for (state, *_), run in groupby(range(len(view.counts)), self._look):
            pages = list(run)
            if len(view.counts) <= limit or len(pages) < 4:
                self.cells += pages
            elif state == "free":
                self.cells.append((f"{len(pages):,}", "free"))
            else:
                self.cells += [pages[0], ("…", f"+ {len(pages) - 2:,}"), pages[-1]]
        if len(self.cells) > limit:
            left = sum(isinstance(cell, int) for cell in self.cells[limit - 1 :])
            self.cells[limit - 1 :] = [(f"+ {left:,}", "pages")]
        self.pages = [cell for cell in self.cells if isinstance(cell, int)]
        self.width: float = min(len(self.cells), IN_A_ROW) * PITCH - 4
        self.height: float = -(-len(self.cells) // IN_A_ROW) * (HEIGHT + 6) - 6

    def _look(self, page: int) -> tuple[str, str, str, float]:
        return self.view.state(page), *self._notes(page), self.view.levels.get(page, 1.0)

    def _notes(self, page: int) -> tuple[str, str]:
        held = self.view.counts[page]
        return f"×{held}" * (held > 0), self.view.owners.get(page, "held" if held else "free")

    def paint(self, canvas: Canvas, x: float, y: float) -> None:
        """Draw it, with its top left corner at `x`, `y`."""
        for i, cell in enumerate(self.cells):
            row, column = divmod(i, IN_A_ROW)
            at_x, at_y = x + column * PITCH, y + row * (HEIGHT + 6)
            if isinstance(cell, tuple):
                canvas.write(at_x, at_y + 6, CELL, "\n".join(cell), size=9.5, align="center")
                continue
            holders, owner = self._notes(cell)
            level = self.view.levels.get(cell, 1.0)
            self.paint_page(canvas, at_x, at_y, cell, level, holders, shorten(owner, 5))

    def states(self) -> set[str]:
        """The states that it shows, for the legend."""
        locked = {"locked" for page in self.pages if page in self.view.locked}
        return locked | {self.view.state(page) for page in self.pages}

    def lines(self) -> list[str]:
        """It drawn with characters, at most 100 columns wide."""
        lines, wide = [], min(12, len(self.cells))
        for start in range(0, len(self.cells), 12):
            pairs = [self._words(cell) for cell in self.cells[start : start + 12]]
            for texts in zip(*pairs, strict=True):
                lines.append("│" + "│".join(f"{text:^7}" for text in texts) + "│")
            lines.append("├" + "┼".join(["─" * 7] * len(pairs)) + "┤")
        end = lines.pop().translate(str.maketrans("├┼┤", "└┴┘"))
        return ["┌" + "┬".join(["─" * 7] * wide) + "┐", *lines, end]

    def _words(self, cell: int | tuple[str, str]) -> tuple[str, str]:
        if isinstance(cell, tuple):
            return cell
        holders, owner = self._notes(cell)
        level = self.view.levels.get(cell, 1.0)
        used = f" {level:.0%}" * (level < 1)
        return f"{self.mark(cell)} {holders}".strip(), shorten(owner, 7 - len(used)) + used

    def words(self) -> str:
        """What is to be seen, for who does not see it."""
        counts = self.view.counts
        size = f"{count(len(counts), 'page')} of {count(self.view.page_size, 'token')}"
        words = [f"A pool of {size}, {counts.count(0):,} free."]
        shared = [page for page, held in enumerate(counts) if held > 1]
        words += [f"Held more than once: {id_ranges(shared)}."] * bool(shared)
        for state in ("evicted", "new", "hit", "locked"):
            pages = [page for page in range(len(counts)) if self.view.state(page) == state]
            word = self.renamed.get(state, theme.STATES[state].word).capitalize()
            words += [f"{word}: {id_ranges(pages)}."] * bool(pages)
        return " ".join(words)


class RowsPart(PagesPart):
    """The page table of each request, a row each."""

    title = "requests and their page tables"

    def __init__(self, view: PoolView, decode: Decoder = None):
        super().__init__(view)
        self.decode = decode
        longest = max((len(self._cells(request)) for request in view.requests), default=0)
        self.width: float = NAME + longest * PITCH - 4
        self.height: float = len(view.requests) * (HEIGHT + 22) - 6

    def _cells(self, request: RequestView) -> list[int | None]:
        """Places in the page table that are shown; None stands for those left out."""
        n, room = len(request.pages), IN_A_ROW - 2
        return [*range(n)] if n <= room else [*range(room - 4), None, *range(n - 3, n)]

    def paint(self, canvas: Canvas, x: float, y: float) -> None:
        """Draw it, with its top left corner at `x`, `y`."""
        for request in self.view.requests:
            canvas.write(x, y + 4, NAME - 6, shorten(request.name, 11), bold=True, size=12)
            canvas.write(x, y + 20, NAME - 6, count(request.n_tokens, "token"), size=9)
            for i, cell in enumerate(self._cells(request)):
                at_x = x + NAME + i * PITCH
                if cell is None:
                    canvas.write(at_x, y + 10, CELL, "…", align="center")
                else:
                    level = request.level(cell, self.view.page_size)
                    self.paint_page(canvas, at_x, y, request.pages[cell], level)
            told = self._told(request)
            canvas.write(x + NAME, y + HEIGHT + 2, 600, told, size=9, color=theme.MUTED)
            y += HEIGHT + 22

    def _told(self, request: RequestView) -> str:
        parts = [token_text(request.tokens, 60, self.decode)] if request.tokens else []
        parts += [f"{request.n_cached} reused"] * bool(request.n_cached)
        if self.view.tree is not None:
            parts.append(f"{request.n_computed - request.n_cached} computed")
        places = len(request.pages) * self.view.page_size
        parts += [f"{places - request.n_computed} of {places} places empty"] * (
            places > request.n_computed
        )
        return " · ".join(parts)

    def states(self) -> set[str]:
        """The states that it shows, for the legend."""
        return {self.view.state(page) for request in self.view.requests for page in request.pages}

    def lines(self) -> list[str]:
        """It drawn with characters, at most 100 columns wide."""
        lines = []
        for request in self.view.requests:
            cells = [self.mark(page) for page in request.pages]
            more = ["…", *cells[-3:]] if len(cells) > 15 else cells[12:]
            lines.append(f"{request.name}: pages {' '.join(cells[:12] + more)}")
            lines.append(shorten(f"    {self._told(request)}", 100))
        return lines

    def words(self) -> str:
        """What is to be seen, for who does not see it."""
        return " ".join(
            f"{request.name} has pages {id_ranges(request.pages)}; {self._told(request)}."
            for request in self.view.requests
        )


def draw_pages(
    source: Source, requests: Mapping[str, Holder] | None = None, *, decode: Decoder = None,
    hit: Iterable[object] = (), new: Iterable[object] = (), evicted: Iterable[object] = (),
    caption: str = "",
) -> Figure:  # fmt: skip
    """Draw the pages of a pool, and below them a row with the page table of each request.

    `requests` maps a name to a lease, to page ids, or to page ids with the number of tokens in
    them; a router's live leases are R1, R2 … by themselves.
    """
    view = pool_view(source, requests, Marks.of(hit, new, evicted))
    rows = [RowsPart(view, decode)] if view.requests else []
    return compose([StripPart(view), *rows], caption)
