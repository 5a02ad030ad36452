"""The page strip: all pages of a pool in the order of their ids."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

from radix_lib.teaching.figures import theme
from radix_lib.teaching.figures.canvas import MARGIN, Canvas, Part
from radix_lib.teaching.figures.labels import columns, count, id_ranges, shorten
from radix_lib.teaching.figures.pool_snapshot import PoolSnapshot

CELL, HEIGHT = 46, 36  # px of a page
PITCH = CELL + 4
IN_A_ROW = (theme.WIDTH - 2 * MARGIN + 4) // PITCH
ROW = HEIGHT + 6
# what states are called where there is no tree
BARE = {
    "idle": "held once",
    "hit": "shared",
}


class Look(NamedTuple):
    """What is seen of a page; pages of the same look may be told as one."""

    state: str
    holders: str  # how many: "×2", or nothing
    owners: tuple[str, ...]  # its node, or the requests that hold it
    level: float  # how full it is, from 0 to 1


class Cell(NamedTuple):
    """A place of the strip: a page, or two words in place of several."""

    page: int | None
    end: int  # the page after those that it tells of
    words: tuple[str, str] = ("", "")


def look_of(view: PoolSnapshot, page: int) -> Look:
    """What is seen of a page."""
    held = view.counts[page]
    return Look(
        view.state(page),
        f"×{held}" if held else "",
        tuple(view.owners.get(page, ["held" if held else "free"])),
        view.levels.get(page, 1.0),
    )


def marked(view: PoolSnapshot, page: int) -> str:
    """A page id with the mark of its state."""
    return f"{theme.STATES[view.state(page)].mark}{page}"


def paint_page(
    canvas: Canvas,
    x: float,
    y: float,
    view: PoolSnapshot,
    page: int,
    level: float,
    *notes: str,
) -> None:
    """Paint a page, filled to `level`, with notes on its right."""
    look = theme.STATES[view.state(page)]
    border = "double" if page in view.locked else look.border
    rest = theme.STATES["free"].fill
    canvas.box(x, y, CELL, HEIGHT, look.fill, border=border, level=level, rest=rest)
    beside = notes[0] if notes else ""  # both stand in one line
    size = 11 if len(f"{page}{beside}") < 7 else 8
    canvas.write(x + 5, y + 5, CELL - 10, str(page), bold=True, size=size)
    canvas.write(x + 5, y + 18, 12, look.mark, bold=True)
    for i, note in enumerate(notes):
        canvas.write(x + 14, y + 6 + 13.5 * i, CELL - 19, note, size=9, align="right")


def strip_part(view: PoolSnapshot, limit: int = 5 * IN_A_ROW) -> Part:
    """All pages; of more than `limit`, those that are alike are told as one."""
    cells = _cells(view, limit)
    shown = [cell.page for cell in cells if cell.page is not None]
    states = {view.state(page) for page in shown}
    if view.locked.intersection(shown):
        states.add("locked")

    def paint(canvas: Canvas, x: float, y: float) -> None:
        for i, cell in enumerate(cells):
            left = x + i % IN_A_ROW * PITCH
            _paint_cell(canvas, left, y + i // IN_A_ROW * ROW, view, cell)

    return Part(
        "pages",
        min(len(cells), IN_A_ROW) * PITCH - 4,
        -(-len(cells) // IN_A_ROW) * ROW,
        paint,
        states,
        _table([_drawn(view, cell) for cell in cells]),
        _words(view),
        {} if view.tree else BARE,
    )


def _cells(view: PoolSnapshot, limit: int) -> list[Cell]:
    n_pages = len(view.counts)
    cells: list[Cell] = []
    for look, run in groupby(range(n_pages), lambda page: look_of(view, page)):
        pages = list(run)
        first = pages[0]
        last = pages[-1]
        if n_pages <= limit or len(pages) < 4:
            cells += [Cell(page, page + 1) for page in pages]
        elif look.state == "free":
            cells.append(Cell(None, last + 1, (f"{len(pages):,}", "free")))
        else:
            between = Cell(None, last, ("…", f"+ {len(pages) - 2:,}"))
            cells += [Cell(first, first + 1), between, Cell(last, last + 1)]
    if len(cells) > limit:
        n_left = n_pages - cells[limit - 2].end
        cells[limit - 1 :] = [Cell(None, n_pages, (f"+ {n_left:,}", "pages"))]
    return cells


def _paint_cell(
    canvas: Canvas, x: float, y: float, view: PoolSnapshot, cell: Cell
) -> None:
    if cell.page is None:
        words = "\n".join(cell.words)
        canvas.write(x, y + 6, CELL, words, size=9.5, align="center")
    else:
        look = look_of(view, cell.page)
        notes = (look.holders, _owner(look.owners))
        paint_page(canvas, x, y, view, cell.page, look.level, *notes)


def _owner(owners: Sequence[str], width: int = 5) -> str:
    """Who a page belongs to, in `width` letters: the first, and how many more."""
    if columns(" ".join(owners)) > width and len(owners) > 1:
        return f"{shorten(owners[0], width - 2)} +{len(owners) - 1}"
    return shorten(" ".join(owners), width)


def _drawn(view: PoolSnapshot, cell: Cell) -> tuple[str, str]:
    """The two lines of a cell in the drawing with characters."""
    if cell.page is None:
        return cell.words
    look = look_of(view, cell.page)
    used = f" {look.level:.0%}" if look.level < 1 else ""
    name = shorten(" ".join(look.owners), 7 - len(used))
    return f"{marked(view, cell.page)} {look.holders}".strip(), name + used


def _table(cells: Sequence[tuple[str, str]]) -> list[str]:
    """Boxes of two lines each, drawn with characters, in rows of 99 columns."""
    wide = max(7, *(columns(text) for cell in cells for text in cell))
    rule = "─" * wide
    in_a_row = 99 // (wide + 1)
    lines = []
    for start in range(0, len(cells), in_a_row):
        row = cells[start : start + in_a_row]
        opens, between, closes = ("├", "┼", "┤") if start else ("┌", "┬", "┐")
        edge = opens + between.join([rule] * len(row))
        n_over = in_a_row - len(row) if start else 0
        if n_over:  # more cells of the row above end here
            lines.append(f"{edge}┼{'┴'.join([rule] * n_over)}┘")
        else:
            lines.append(edge + closes)
        for texts in zip(*row, strict=True):
            fitted = [f"{text:^{wide - columns(text) + len(text)}}" for text in texts]
            lines.append("│" + "│".join(fitted) + "│")
    lines.append("└" + "┴".join([rule] * len(row)) + "┘")
    return lines


def _words(view: PoolSnapshot) -> str:
    """What the strip shows, for who does not see it."""
    n_pages = len(view.counts)
    size = f"{count(n_pages, 'page')} of {count(view.page_size, 'token')}"
    words = [f"A pool of {size}, {view.counts.count(0):,} free."]
    told: dict[str, list[int]] = {}
    if view.tree:  # without one, this is what "shared" says
        several = [page for page, held in enumerate(view.counts) if held > 1]
        told["held more than once"] = several
    renamed = {} if view.tree else BARE
    for state in ("evicted", "new", "hit", "locked"):
        word = renamed.get(state, theme.STATES[state].word)
        told[word] = [page for page in range(n_pages) if view.state(page) == state]
    for word, pages in told.items():
        if pages:
            words.append(f"{word.capitalize()}: {id_ranges(pages)}.")
    return " ".join(words)
