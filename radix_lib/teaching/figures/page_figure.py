"""The pages of a pool, and page tables as rows with the same ids and colours."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from radix_lib.teaching.figures import theme
from radix_lib.teaching.figures.canvas import Canvas, Part, compose
from radix_lib.teaching.figures.figure import Figure
from radix_lib.teaching.figures.labels import (
    Decoder,
    columns,
    count,
    pages_named,
    shorten,
    token_text,
)
from radix_lib.teaching.figures.page_strip import (
    CELL,
    HEIGHT,
    IN_A_ROW,
    PITCH,
    marked,
    paint_page,
    strip_part,
)
from radix_lib.teaching.figures.pool_snapshot import (
    Holder,
    PoolSnapshot,
    RequestSnapshot,
    Source,
    pool_snapshot,
)
from radix_lib.teaching.figures.tree_snapshot import Marks

NAME = 76  # px of the names of the rows
ROW = HEIGHT + 22


def rows_part(view: PoolSnapshot, decode: Decoder = None) -> Part:
    """The page table of each request, a row each."""
    facts = [_facts(view, request, decode) for request in view.requests]
    lines: list[str] = []
    words: list[str] = []
    widths = [0.0]
    for request, told in zip(view.requests, facts, strict=True):
        lines.append(_drawn(view, request))
        if told:
            lines.append(shorten(f"    {told}", 100))
        said = [f"{request.name} has {pages_named(request.pages)}", told]
        words.append("; ".join(filter(None, said)) + ".")
        n_places = len(_places(request))
        widths += [NAME + n_places * PITCH - 4, NAME + 4.6 * columns(told)]

    def paint(canvas: Canvas, x: float, y: float) -> None:
        for row, request in enumerate(view.requests):
            top = y + row * ROW
            _paint_row(canvas, x, top, view, request)
            below = top + HEIGHT + 2
            told = facts[row]
            canvas.write(x + NAME, below, 600, told, size=9, color=theme.MUTED)

    states = {view.state(page) for request in view.requests for page in request.pages}
    return Part(
        "requests and their page tables",
        max(widths),
        len(view.requests) * ROW,
        paint,
        states,
        lines,
        " ".join(words),
    )


def _places(request: RequestSnapshot) -> list[int | None]:
    """Which places of the page table are shown; None stands for those left out."""
    n_pages = len(request.pages)
    room = IN_A_ROW - 2
    if n_pages <= room:
        return list(range(n_pages))
    return [*range(room - 4), None, *range(n_pages - 3, n_pages)]


def _facts(view: PoolSnapshot, request: RequestSnapshot, decode: Decoder) -> str:
    """What a request asks, what of it was computed, how much of its pages is empty."""
    parts = []
    if request.tokens:
        parts.append(token_text(request.tokens, 60, decode))
    if request.n_cached:
        parts.append(f"{request.n_cached} reused")
    if view.tree is not None:
        parts.append(f"{request.n_computed - request.n_cached} computed")
    room = len(request.pages) * view.page_size
    if room > request.n_computed:
        parts.append(f"{room - request.n_computed} of {room} places empty")
    return " · ".join(parts)


def _paint_row(
    canvas: Canvas, x: float, y: float, view: PoolSnapshot, request: RequestSnapshot
) -> None:
    name = shorten(request.name, 11)
    canvas.write(x, y + 4, NAME - 6, name, bold=True, size=12)
    canvas.write(x, y + 20, NAME - 6, count(request.n_tokens, "token"), size=9)
    for i, place in enumerate(_places(request)):
        left = x + NAME + i * PITCH
        if place is None:
            canvas.write(left, y + 10, CELL, "…", align="center")
        else:
            level = request.level(place, view.page_size)
            paint_page(canvas, left, y, view, request.pages[place], level)


def _drawn(view: PoolSnapshot, request: RequestSnapshot) -> str:
    """The page table in a line of characters."""
    name = shorten(request.name, 24)
    pages = [marked(view, page) for page in request.pages]
    if not pages:
        return f"{name}: no page"
    if len(pages) > 15:
        pages = [*pages[:12], "…", *pages[-3:]]
    noun = "page" if len(pages) == 1 else "pages"
    return f"{name}: {noun} {' '.join(pages)}"


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
    """Draw the pages of a pool, and below them the page table of each request.

    `requests` maps a name to a lease, to page ids, or to page ids with the number of
    tokens in them; a router's live leases are R1, R2 … by themselves.
    """
    view = pool_snapshot(source, requests, Marks.of(hit, new, evicted))
    parts = [strip_part(view)]
    if view.requests:
        parts.append(rows_part(view, decode))
    return compose(parts, caption)
