"""The page strip, and page tables as rows with the same ids and colours."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby

from radix_lib.teaching.figures import theme
from radix_lib.teaching.figures.canvas import MARGIN, Canvas, Part, compose
from radix_lib.teaching.figures.figure import Figure
from radix_lib.teaching.figures.labels import (
    Decoder,
    columns,
    count,
    id_ranges,
    pages_named,
    shorten,
    token_text,
)
from radix_lib.teaching.figures.pool_snapshot import (
    Holder,
    PoolSnapshot,
    RequestSnapshot,
    Source,
    pool_snapshot,
)
from radix_lib.teaching.figures.tree_snapshot import Marks

CELL, HEIGHT, PITCH = 46, 36, 50
IN_A_ROW = (theme.WIDTH - 2 * MARGIN + 4) // PITCH
NAME = 76  # width of the names of the rows
# what states are called where there is no tree
BARE = {
    "idle": "held once",
    "hit": "shared",
}


def _paint_page(
    canvas: Canvas,
    x: float,
    y: float,
    view: PoolSnapshot,
    page: int,
    level: float,
    *notes: str,
) -> None:
    look = theme.STATES[view.state(page)]
    border = "double" if page in view.locked else look.border
    rest = theme.STATES["free"].fill
    canvas.box(x, y, CELL, HEIGHT, look.fill, border=border, level=level, rest=rest)
    # both stand in one line
    size = 11 if len(f"{page}{notes[0] if notes else ''}") < 7 else 8
    canvas.write(x + 5, y + 5, CELL - 10, str(page), bold=True, size=size)
    canvas.write(x + 5, y + 18, 12, look.mark, bold=True)
    for i, note in enumerate(notes):
        canvas.write(x + 14, y + 6 + 13.5 * i, CELL - 19, note, size=9, align="right")


def _marked(view: PoolSnapshot, page: int) -> str:
    return f"{theme.STATES[view.state(page)].mark}{page}"


def _owner(owners: Sequence[str], width: int = 5) -> str:
    """Who a page belongs to, in about five letters: the first of several and how many
    more.
    """
    if columns(" ".join(owners)) > width and len(owners) > 1:
        return f"{shorten(owners[0], width - 2)} +{len(owners) - 1}"
    return shorten(" ".join(owners), width)


def strip_part(view: PoolSnapshot, limit: int = 5 * IN_A_ROW) -> Part:
    """All pages in the order of their ids. Beyond `limit`, pages that are alike are
    told as one.
    """

    def look(page: int) -> tuple[str, str, list[str], float]:
        held = view.counts[page]
        owner = view.owners.get(page, ["held" if held else "free"])
        return (
            view.state(page),
            f"×{held}" * (held > 0),
            owner,
            view.levels.get(page, 1.0),
        )

    cells: list[int | tuple[str, str]] = []  # pages, and words in place of some
    ends: list[int] = []  # how many pages are told with each
    for (state, *_), run in groupby(range(len(view.counts)), look):
        pages = list(run)
        if len(view.counts) <= limit or len(pages) < 4:
            cells += pages
            ends += [page + 1 for page in pages]
        elif state == "free":
            cells.append((f"{len(pages):,}", "free"))
            ends.append(pages[-1] + 1)
        else:
            cells += [pages[0], ("…", f"+ {len(pages) - 2:,}"), pages[-1]]
            ends += [pages[0] + 1, pages[-1], pages[-1] + 1]
    if len(cells) > limit:
        cells[limit - 1 :] = [(f"+ {len(view.counts) - ends[limit - 2]:,}", "pages")]
    shown = [cell for cell in cells if isinstance(cell, int)]

    def paint(canvas: Canvas, x: float, y: float) -> None:
        for i, cell in enumerate(cells):
            at = (x + i % IN_A_ROW * PITCH, y + i // IN_A_ROW * (HEIGHT + 6))
            if isinstance(cell, int):
                _, held, owner, level = look(cell)
                _paint_page(canvas, *at, view, cell, level, held, _owner(owner))
            else:
                canvas.write(
                    at[0], at[1] + 6, CELL, "\n".join(cell), size=9.5, align="center"
                )

    def words_of(cell: int | tuple[str, str]) -> tuple[str, str]:
        if isinstance(cell, tuple):
            return cell
        _, held, owner, level = look(cell)
        used = f" {level:.0%}" * (level < 1)
        name = shorten(" ".join(owner), 7 - len(used))
        return f"{_marked(view, cell)} {held}".strip(), name + used

    told_cells = [words_of(cell) for cell in cells]
    wide = max([7, *(columns(text) for pair in told_cells for text in pair)])
    lines, rule, n_row = [], "─" * wide, 99 // (wide + 1)
    for start in range(0, len(cells), n_row):
        pairs = told_cells[start : start + n_row]
        # cells of the row above end here
        over = [rule] * (n_row - len(pairs)) if start else []
        opens, between, closes = ("├", "┼", "┤") if start else ("┌", "┬", "┐")
        edge = opens + between.join([rule] * len(pairs))
        lines.append(f"{edge}┼{'┴'.join(over)}┘" if over else edge + closes)
        for texts in zip(*pairs, strict=True):
            fitted = (f"{text:^{wide - columns(text) + len(text)}}" for text in texts)
            lines.append("│" + "│".join(fitted) + "│")
    lines.append("└" + "┴".join([rule] * len(pairs)) + "┘")

    n_pages, renamed = len(view.counts), {} if view.tree else BARE
    states = {view.state(page) for page in shown}
    size = f"{count(n_pages, 'page')} of {count(view.page_size, 'token')}"
    words = [f"A pool of {size}, {view.counts.count(0):,} free."]
    several = [p for p, held in enumerate(view.counts) if held > 1]
    # else this is what "shared" says
    told = {"held more than once": several} if view.tree else {}
    for state in ("evicted", "new", "hit", "locked"):
        word = renamed.get(state, theme.STATES[state].word)
        told[word] = [page for page in range(n_pages) if view.state(page) == state]
    words += [
        f"{word.capitalize()}: {id_ranges(ids)}." for word, ids in told.items() if ids
    ]
    return Part(
        "pages",
        min(len(cells), IN_A_ROW) * PITCH - 4,
        -(-len(cells) // IN_A_ROW) * (HEIGHT + 6),
        paint,
        states | {"locked" for page in shown if page in view.locked},
        lines,
        " ".join(words),
        renamed,
    )


def rows_part(view: PoolSnapshot, decode: Decoder = None) -> Part:
    """The page table of each request, a row each."""

    def places(request: RequestSnapshot) -> list[int | None]:
        """Which places of the page table are shown; None stands for those left out."""
        n, room = len(request.pages), IN_A_ROW - 2
        return [*range(n)] if n <= room else [*range(room - 4), None, *range(n - 3, n)]

    def told(request: RequestSnapshot) -> str:
        parts = [token_text(request.tokens, 60, decode)] if request.tokens else []
        parts += [f"{request.n_cached} reused"] * bool(request.n_cached)
        if view.tree is not None:
            parts.append(f"{request.n_computed - request.n_cached} computed")
        room = len(request.pages) * view.page_size
        empty = f"{room - request.n_computed} of {room} places empty"
        return " · ".join(parts + [empty] * (room > request.n_computed))

    def paint(canvas: Canvas, x: float, y: float) -> None:
        for request in view.requests:
            canvas.write(
                x, y + 4, NAME - 6, shorten(request.name, 11), bold=True, size=12
            )
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
        noun = "page" if len(cells) == 1 else "pages" if cells else "no page"
        lines.append(f"{shorten(request.name, 24)}: {noun} {' '.join(some)}".rstrip())
        lines += [shorten(f"    {told(request)}", 100)] * bool(told(request))
        facts = [f"{request.name} has {pages_named(request.pages)}", told(request)]
        words.append("; ".join(filter(None, facts)) + ".")
    longest = max((len(places(request)) for request in view.requests), default=0)
    below = max(
        (NAME + 4.6 * columns(told(request)) for request in view.requests), default=0
    )
    states = {view.state(page) for request in view.requests for page in request.pages}
    return Part(
        "requests and their page tables",
        max(NAME + longest * PITCH - 4, below),
        len(view.requests) * (HEIGHT + 22),
        paint,
        states,
        lines,
        " ".join(words),
    )


def draw_pages(
    source: Source,
    requests: Mapping[str, Holder] | None = None,
    *,
    decode: Decoder = None,
    hit: Iterable[object] = (),
    new: Iterable[object] = (),
    evicted: Iterable[object] = (),
    caption: str = "",
) -> Figure:
    """Draw the pages of a pool, and below them a row with the page table of each
    request.

    `requests` maps a name to a lease, to page ids, or to page ids with the number of
    tokens in them; a router's live leases are R1, R2 … by themselves.
    """
    view = pool_snapshot(source, requests, Marks.of(hit, new, evicted))
    rows = [rows_part(view, decode)] if view.requests else []
    return compose([strip_part(view), *rows], caption)
