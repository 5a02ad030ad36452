"""The parts of the course: how they work together, and which chapter needs which."""

from __future__ import annotations

from radix_lib.teaching.figures import theme
from radix_lib.teaching.figures.canvas import MARGIN, Canvas
from radix_lib.teaching.figures.figure import Figure
from radix_lib.texts import read_asset

_COURSE = read_asset("chapters")
CHAPTERS = [chapter["title"] for chapter in _COURSE]
OPTIONAL = {number for number, chapter in enumerate(_COURSE) if chapter.get("optional")}
#: Pairs of chapters: the second needs the first.
NEEDS = [
    (int(before), number)
    for number, chapter in enumerate(_COURSE)
    for before in chapter["needs"]
]

# The map of the chapters: px of a box, and from one to the next.
CHAPTER_BOX = (128, 40)
CHAPTER_STEP = (176, 64)
IN_A_ROW = 4

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
    if chapter == here:
        canvas.box(x, y, w, h, theme.LIT, border=border, width=3)
    else:
        canvas.box(x, y, w, h, border=border)


def chapter_map(here: int | None = None) -> Figure:
    """Draw which chapter needs which; dashed ones are optional."""
    canvas = Canvas()
    w, h = CHAPTER_BOX
    dx, dy = CHAPTER_STEP
    places = [
        (MARGIN + n % IN_A_ROW * dx, MARGIN + n // IN_A_ROW * dy)
        for n in range(len(CHAPTERS))
    ]
    middles = [(x + w / 2, y + h / 2) for x, y in places]
    for before, after in NEEDS:
        x, y = middles[before]
        to_x, to_y = middles[after]
        turn = (y + to_y) / 2
        bend = [(x, turn), (to_x, turn)] if x != to_x else []
        style = "dashed" if after in OPTIONAL else "solid"
        canvas.line((x, y), *bend, (to_x, to_y), style=style)
    for n, (x, y) in enumerate(places):
        _paint_box(canvas, x, y, w, h, n, here)
        canvas.write(x, y + 6, w, f"{n:02}", bold=True, align="center")
        canvas.write(x, y + 20, w, CHAPTERS[n], align="center")
    lines = []
    for n, title in enumerate(CHAPTERS):
        sign = "►" if n == here else " "
        note = " (optional)" if n in OPTIONAL else ""
        lines.append(f"{sign} {n:02} {title}{note}")
    ways = "; ".join(" → ".join(f"{n:02}" for n in way) for way in _ways())
    aside = ", ".join(f"{n:02}" for n in sorted(OPTIONAL))
    alt = f"The chapters, each after those that it needs: {ways}. Optional: {aside}."
    height = places[-1][1] + h + MARGIN
    width = 2 * MARGIN + (IN_A_ROW - 1) * dx + w
    return canvas.figure(width, height, "\n".join([*lines, ways]), alt)


def _ways() -> list[list[int]]:
    """Chapters one after another: first those that all read, then the asides."""
    ways: list[list[int]] = []
    for before, after in sorted(NEEDS, key=lambda pair: pair[1] in OPTIONAL):
        way = next((way for way in ways if way[-1] == before), None)
        if way is None:
            ways.append([before, after])
        else:
            way.append(after)
    return ways
