"""The page strip, and page tables as rows with the same ids and colours."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import groupby

from radix_lib.teaching import theme
from radix_lib.teaching.canvas import MARGIN, Canvas, Part, compose
from radix_lib.teaching.figure import Figure
from radix_lib.teaching.labels import Decoder, count, id_ranges, shorten, token_text
from radix_lib.teaching.pool_view import Holder, PoolView, RequestView, Source, pool_view
from radix_lib.teaching.views import Marks

CELL, HEIGHT, PITCH = 46, 36, 50
IN_A_ROW = (theme.WIDTH - 2 * MARGIN + 4) // PITCH
NAME = 76  # width of the names of the rows
BARE = {"idle": "held once", "hit": "shared"}  # what states are called where there is no tree


def _paint_page(
    canvas: Canvas, x: float, y: float, view: PoolView, page: int, level: float, *notes: str
) -> None:
    look = theme.STATES[view.state(page)]
    border = "double" if page in view.locked else look.border
    rest = theme.STATES["free"].fill
    canvas.box(x, y, CELL, HEIGHT, look.fill, border=border, level=level, rest=rest)
    canvas.write(x + 5, y + 5, CELL - 10, str(page), bold=True)
    canvas.write(x + 5, y + 18, 12, look.mark, bold=True)
    for i, note in enumerate(notes):
        canvas.write(x + 14, y + 6 + 13.5 * i, CELL - 19, note, size=9, align="right")


def _marked(view: PoolView, page: int) -> str:
    return f"{theme.STATES[view.state(page)].mark}{page}"


def _owner(owner: str) -> str:
    """Who a page belongs to, in five letters: the first of several and how many more."""
    first, *others = owner.split()
    return f"{first} +{len(others)}" if len(owner) > 5 and others else shorten(owner, 5)


def strip_part(view: PoolView, limit: int = 5 * IN_A_ROW) -> Part:
    """All pages in the order of their ids. Beyond `limit`, pages that are alike are told as one."""

    def look(page: int) -> tuple[str, str, str, float]:
        held = view.counts[page]
        owner = view.owners.get(page, "held" if held else "free")
        return view.state(page), f"×{held}" * (held > 0), owner, view.levels.get(page, 1.0)

    cells: list[int | tuple[str, str]] = []  # pages, and words in place of some
    for (state, *_), run in groupby(range(len(view.counts)), look):
        pages = list(run)
        if len(view.counts) <= limit or len(pages) < 4:
            cells += pages
        elif state == "free":
            cells.append((f"{len(pages):,}", "free"))
        else:
            cells += [pages[0], ("…", f"+ {len(pages) - 2:,}"), pages[-1]]
    if len(cells) > limit:
        left = sum(isinstance(cell, int) for cell in cells[limit - 1 :])
        cells[limit - 1 :] = [(f"+ {left:,}", "pages")]
    shown = [cell for cell in cells if isinstance(cell, int)]

    def paint(canvas: Canvas, x: float, y: float) -> None:
        for i, cell in enumerate(cells):
            at = (x + i % IN_A_ROW * PITCH, y + i // IN_A_ROW * (HEIGHT + 6))
            if isinstance(cell, int):
                _, held, owner, level = look(cell)
                _paint_page(canvas, *at, view, cell, level, held, _owner(owner))
            else:
                canvas.write(at[0], at[1] + 6, CELL, "\n".join(cell), size=9.5, align="center")

    def words_of(cell: int | tuple[str, str]) -> tuple[str, str]:
        if isinstance(cell, tuple):
            return cell
        _, held, owner, level = look(cell)
        used = f" {level:.0%}" * (level < 1)
        return f"{_marked(view, cell)} {held}".strip(), shorten(owner, 7 - len(used)) + used

    lines, rule = [], "─" * 7
    for start in range(0, len(cells), 12):
        pairs = [words_of(cell) for cell in cells[start : start + 12]]
        over = [rule] * (12 - len(pairs)) if start else []  # cells of the row above that end here
        opens, between, closes = ("├", "┼", "┤") if start else ("┌", "┬", "┐")
        edge = opens + between.join([rule] * len(pairs))
        lines.append(f"{edge}┼{'┴'.join(over)}┘" if over else edge + closes)
        for texts in zip(*pairs, strict=True):
            lines.append("│" + "│".join(f"{text:^7}" for text in texts) + "│")
    lines.append("└" + "┴".join([rule] * len(pairs)) + "┘")

    n_pages, renamed = len(view.counts), {} if view.tree else BARE
    states = {view.state(page) for page in shown}
    size = f"{count(n_pages, 'page')} of {count(view.page_size, 'token')}"
    words = [f"A pool of {size}, {view.counts.count(0):,} free."]
    told = {"held more than once": [p for p, held in enumerate(view.counts) if held > 1]}
    for state in ("evicted", "new", "hit", "locked"):
        word = renamed.get(state, theme.STATES[state].word)
        told[word] = [page for page in range(n_pages) if view.state(page) == state]
    words += [f"{word.capitalize()}: {id_ranges(ids)}." for word, ids in told.items() if ids]
    return Part(
        "pages", min(len(cells), IN_A_ROW) * PITCH - 4, -(-len(cells) // IN_A_ROW) * (HEIGHT + 6),
        paint, states | {"locked" for page in shown if page in view.locked}, lines,
        " ".join(words), renamed,
    )  # fmt: skip


def rows_part(view: PoolView, decode: Decoder = None) -> Part:
    """The page table of each request, a row each."""

    def places(request: RequestView) -> list[int | None]:
        """Which places of the page table are shown; None stands for those left out."""
        n, room = len(request.pages), IN_A_ROW - 2
        return [*range(n)] if n <= room else [*range(room - 4), None, *range(n - 3, n)]

    def told(request: RequestView) -> str:
        parts = [token_text(request.tokens, 60, decode)] if request.tokens else []
        parts += [f"{request.n_cached} reused"] * bool(request.n_cached)
        if view.tree is not None:
            parts.append(f"{request.n_computed - request.n_cached} computed")
        room = len(request.pages) * view.page_size
        empty = f"{room - request.n_computed} of {room} places empty"
        return " · ".join(parts + [empty] * (room > request.n_computed))

    def paint(canvas: Canvas, x: float, y: float) -> None:
        for request in view.requests:
            canvas.write(x, y + 4, NAME - 6, shorten(request.name, 11), bold=True, size=12)
            canvas.write(x, y + 20, NAME - 6, count(request.n_tokens, "token"), size=9)
            for i, at in enumerate(places(request)):
                left = x + NAME + i * PITCH
                if at is None:
                    canvas.write(left, y + 10, CELL, "…", align="center")
                else:
                    level = request.level(at, view.page_size)
                    _paint_page(canvas, left, y, view, request.pages[at], level)
            below = y + HEIGHT + 2
            canvas.write(x + NAME, below, 600, told(request), size=9, color=theme.MUTED)
            y += HEIGHT + 22

    lines, words = [], []
    for request in view.requests:
        cells = [_marked(view, page) for page in request.pages]
        some = cells if len(cells) <= 15 else [*cells[:12], "…", *cells[-3:]]
        lines.append(f"{request.name}: pages {' '.join(some)}")
        lines += [shorten(f"    {told(request)}", 100)] * bool(told(request))
        facts = [f"{request.name} has pages {id_ranges(request.pages)}", told(request)]
        words.append("; ".join(filter(None, facts)) + ".")
    longest = max((len(places(request)) for request in view.requests), default=0)
    states = {view.state(page) for request in view.requests for page in request.pages}
    return Part(
        "requests and their page tables", NAME + longest * PITCH - 4,
        len(view.requests) * (HEIGHT + 22), paint, states, lines, " ".join(words),
    )  # fmt: skip


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
    rows = [rows_part(view, decode)] if view.requests else []
    return compose([strip_part(view), *rows], caption)
