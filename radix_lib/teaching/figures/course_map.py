"""The parts of the course: how they work together, and which chapter needs which."""

from __future__ import annotations

from radix_lib.teaching.figures import theme
from radix_lib.teaching.figures.canvas import MARGIN, Canvas
from radix_lib.teaching.figures.figure import Figure
from radix_lib.texts import read_asset

_COURSE = read_asset("chapters")
CHAPTERS = [chapter["title"] for chapter in _COURSE]
OPTIONAL = {number for number, chapter in enumerate(_COURSE) if chapter.get("optional")}

#: Chapter, name, what it does; left, top, width in px. All are 44 px high.
PARTS: list[tuple[int, str, str, int, int, int]] = [
    (9, "workloads", "prompts sharing prefixes", 12, 62, 164),
    (10, "fleet", "which worker gets it?", 12, 142, 164),
    (8, "Scheduler", "who runs next?", 12, 222, 164),
    (7, "RadixAttentionModel", "generates, token by token", 12, 302, 164),
    (5, "Router", "the life of a request", 252, 62, 168),
    (6, "AttentionExecutor", "computes the suffix alone", 252, 262, 168),
    (0, "the model", "SmolLM2, on your machine", 252, 342, 168),
    (4, "RadixCache", "locks and evicts", 512, 62, 168),
    (2, "RadixTree", "finds the longest prefix", 512, 106, 168),
    (3, "PageManager", "counts who holds a page", 512, 182, 168),
    (3, "KVPool", "K and V of every page", 512, 262, 168),
    (1, "K and V of a prefix", "why they can be reused", 512, 342, 168),
    (11, "logits equality", "not one bit differs", 12, 382, 164),
]
#: Lines through points, with a label and its place.
FLOWS: list[tuple[list[tuple[int, int]], str, int, int]] = [
    ([(94, 106), (94, 142)], "a prompt", 100, 117),
    ([(94, 186), (94, 222)], "one worker's", 100, 197),
    ([(94, 266), (94, 302)], "a batch", 100, 277),
    ([(176, 324), (214, 324), (214, 84), (252, 84)], "admit", 218, 68),
    ([(336, 106), (336, 262)], "a lease: page table,\nlocked path", 342, 150),
    ([(420, 84), (512, 84)], "match, insert", 430, 69),
    ([(596, 150), (596, 182)], "page ids", 602, 159),
    ([(420, 284), (512, 284)], "write, gather", 430, 269),
    ([(336, 306), (336, 342)], "layer by layer", 342, 317),
    ([(596, 342), (596, 306)], "", 602, 317),
    ([(252, 364), (214, 364), (214, 404), (176, 404)], "logits", 219, 385),
]


def course_map(here: int | None = None) -> Figure:
    """Draw how the parts work together, with the parts of chapter `here` lit.

    Parts of earlier chapters are drawn in black, those still to come in grey.
    """
    canvas = Canvas()
    places = " and ".join(name for chapter, name, *_ in PARTS if chapter == here)
    title = f"You are here: {places}" if places else "The parts of the course"
    canvas.write(MARGIN, MARGIN, 600, title, bold=True, size=12)
    canvas.line((232, 242), (680, 242), style="dashed", width=0.8)
    canvas.write(428, 229, 200, "CONTROL PLANE: page ids", size=9, color=theme.MUTED)
    canvas.write(428, 245, 200, "DATA PLANE: tensors", size=9, color=theme.MUTED)
    for points, label, x, y in FLOWS:
        canvas.line(*points, width=1, arrow=True)
        canvas.write(x, y, 110, label, size=9, color=theme.MUTED)
    for chapter, name, what, x, y, w in PARTS:
        _paint_box(canvas, x, y, w, 44, chapter, here)
        color = theme.MUTED if here is not None and chapter > here else theme.TEXT
        canvas.write(x + 7, y + 15, 20, f"{chapter:02}", bold=True, color=color)
        canvas.write(x + 28, y + 8, w - 30, name, bold=True, color=color)
        canvas.write(x + 28, y + 24, w - 30, what, size=10, color=color)
    lines = [
        f"{'►' if chapter == here else ' '} {chapter:02} {name:19}  {what}"
        for chapter, name, what, *_ in sorted(PARTS)
    ]
    flow = (
        "prompt → Scheduler → Router → RadixCache → pages; a lease → executor → model"
    )
    alt = (
        f"{title}. A prompt comes through fleet, Scheduler and RadixAttentionModel to the Router. "
        "It asks RadixCache and RadixTree for a cached prefix, and the PageManager for pages. The "
        "AttentionExecutor runs the model on the suffix, and reads and writes the KVPool."
    )
    return canvas.figure(692, 438, "\n".join([title, *lines, flow]), alt)


def _paint_box(
    canvas: Canvas,
    x: float,
    y: float,
    w: float,
    h: float,
    chapter: int,
    here: int | None,
) -> None:
    border = "dashed" if chapter in OPTIONAL else "solid"
    if here is not None and chapter > here:
        border = "faint"
    fill, width = (theme.LIT, 3.0) if chapter == here else (theme.PAPER, 1.0)
    canvas.box(x, y, w, h, fill, border=border, width=width)


def chapter_map(here: int | None = None) -> Figure:
    """Draw which chapter needs which; dashed ones are optional."""
    canvas, w, h, dx, dy = Canvas(), 128, 40, 176, 64
    places = {n: (MARGIN + n % 4 * dx, MARGIN + n // 4 * dy) for n in range(12)}
    for a, b in [*((n, n + 1) for n in range(7)), (7, 11), (7, 8), (8, 9), (9, 10)]:
        (x, y), (to_x, to_y) = (
            (left + w / 2, top + h / 2) for left, top in (places[a], places[b])
        )
        bend = [(x, (y + to_y) / 2), (to_x, (y + to_y) / 2)] if x != to_x else []
        canvas.line(
            (x, y), *bend, (to_x, to_y), style="dashed" if b in OPTIONAL else "solid"
        )
    for n, (x, y) in places.items():
        _paint_box(canvas, x, y, w, h, n, here)
        canvas.write(x, y + 6, w, f"{n:02}", bold=True, align="center")
        canvas.write(x, y + 20, w, CHAPTERS[n], align="center")
    lines = [
        f"{'►' if n == here else ' '} {n:02} {title}" + " (optional)" * (n in OPTIONAL)
        for n, title in enumerate(CHAPTERS)
    ]
    lines.append("00 → 01 → 02 → 03 → 04 → 05 → 06 → 07 → 11; 07 → 08 → 09 → 10")
    alt = (
        "The chapters: 00 to 07 one after another; then 11 closes the course. "
        "08, 09 and 10 follow 07 and are optional."
    )
    return canvas.figure(
        2 * MARGIN + 3 * dx + w, 2 * MARGIN + 2 * dy + h, "\n".join(lines), alt
    )
