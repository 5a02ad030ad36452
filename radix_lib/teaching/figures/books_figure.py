"""The books of a router at several moments: where each page is, in a bar a moment."""

from __future__ import annotations

from collections.abc import Mapping

from radix_lib.router import Router
from radix_lib.teaching.figures import theme
from radix_lib.teaching.figures.canvas import MARGIN, Canvas
from radix_lib.teaching.figures.figure import Figure
from radix_lib.teaching.figures.labels import id_ranges, shorten
from radix_lib.teaching.figures.pool_snapshot import PoolSnapshot, pool_snapshot

NAME = 96  # px of the names of the moments
SUM = 118  # px of their sums
CELL, HEIGHT = 40, 24  # px of a page, at most
#: The four places of a page, and the state that each looks like.
PLACES = {"free": "free", "unlocked": "idle", "locked": "locked", "private": "new"}

Books = dict[str, list[int]]  # place → page ids


def books_of(view: PoolSnapshot) -> Books:
    """The pages of a pool, each in the one of four places where it is."""
    assert view.tree is not None
    in_tree = {page for node in view.tree.nodes for page in node.pages}
    books: Books = {place: [] for place in PLACES}
    for page, count in enumerate(view.counts):
        if page in view.locked:
            books["locked"].append(page)
        elif page in in_tree:
            books["unlocked"].append(page)
        elif count:
            books["private"].append(page)
        else:
            books["free"].append(page)
    return books


def _sum(books: Books) -> str:
    sizes = [len(pages) for pages in books.values()]
    return f"{' + '.join(map(str, sizes))} = {sum(sizes)}"


def _told(name: str, books: Books) -> str:
    places = [f"{place} {id_ranges(ids)}" for place, ids in books.items() if ids]
    return f"{name}: {'; '.join(places)}. {_sum(books)}"


def draw_books(moments: Mapping[str, Router], caption: str = "") -> Figure:
    """Draw a bar for each moment: a cell a page, in the order free to private.

    `moments` maps a name to a router as it was then: routers that were stopped there,
    since a router does not remember. Bars of one pool are equally long, whatever
    happens: free + unlocked + locked + private = pool.
    """
    books = {name: books_of(pool_snapshot(router)) for name, router in moments.items()}
    most = max(sum(map(len, places.values())) for places in books.values())
    cell = min(CELL, (theme.WIDTH - 2 * MARGIN - NAME - SUM - 10) / most)
    width = NAME + cell * most + 10 + SUM
    canvas = Canvas()
    y = canvas.heading(width, caption)
    identity = " + ".join(PLACES)
    for name, places in books.items():
        canvas.write(MARGIN, y + 6, NAME - 6, shorten(name, 14), bold=True)
        x: float = MARGIN + NAME
        for place, ids in places.items():
            look = theme.STATES[PLACES[place]]
            for page in ids:
                canvas.box(x, y, cell, HEIGHT, look.fill, border=look.border)
                label = f"{look.mark}{page}" if cell >= 18 else ""
                canvas.write(x, y + 6, cell, label, size=10, align="center")
                x += cell
        canvas.write(x + 10, y + 6, SUM, _sum(places))
        y += HEIGHT + 8
    renamed = {"idle": "in the tree, unlocked", "new": "private"}
    right = canvas.legend(MARGIN, y + 2, set(PLACES.values()), renamed)
    alt = " ".join(f"{_told(name, places)}." for name, places in books.items())
    lines = [caption, f"{identity} = pool"]
    lines += [_told(name, places) for name, places in books.items()]
    text = "\n".join(line for line in lines if line)
    told = f"Where each page is, {identity}. {alt}"
    if caption:
        told = f"{caption}. {told}"
    right = max(width + MARGIN, right)
    return canvas.figure(right + MARGIN, y + 26, text, shorten(told, 2000))
