"""A sheet of paper for figures: boxes, words and lines at exact places.

It becomes a graph whose nodes are pinned, so that one engine draws all figures, and
nothing moves from one to the next unless it has a reason to.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import graphviz

from radix_lib.teaching.figures import theme
from radix_lib.teaching.figures.figure import Figure
from radix_lib.teaching.figures.labels import shorten

MARGIN = 12


class Canvas:
    """All places and sizes are px from the top left."""

    def __init__(self) -> None:
        self.graph = graphviz.Graph(
            graph_attr={
                "bgcolor": theme.PAPER,
                "pad": "0",
                "outputorder": "edgesfirst",
                "notranslate": "true",
            },
            node_attr={
                "shape": "box",
                "fixedsize": "true",
                "label": "",
                "margin": "0",
                "penwidth": "1",
                "fontname": theme.SANS,
                "fontsize": str(theme.FONT_SIZE),
                "fontcolor": theme.TEXT,
                "color": theme.LINE,
            },
            edge_attr={"color": theme.LINE},
        )
        self._n = 0

    def _place(self, x: float, y: float, w: float, h: float, **look: str) -> None:
        self._n += 1
        size = {"width": f"{w / 72:.4f}", "height": f"{h / 72:.4f}"}
        self.graph.node(
            f"n{self._n}", pos=f"{x + w / 2:.5g},{-(y + h / 2):.5g}", **size, **look
        )

    def box(
        self,
        x: float,
        y: float,
        w: float,
        h: float,
        fill: str = theme.PAPER,
        *,
        border: str = "solid",
        level: float = 1.0,
        rest: str = theme.PAPER,
        width: float = 1.0,
    ) -> None:
        """A rectangle, filled from the left up to `level`; what is left has `rest`."""
        if level < 1:
            self._place(x, y, w, h, color="transparent", style="filled", fillcolor=rest)
            self._place(
                x, y, w * level, h, color="transparent", style="filled", fillcolor=fill
            )
        self._place(
            x,
            y,
            w,
            h,
            color=theme.FAINT if border == "faint" else theme.LINE,
            penwidth=f"{width:g}",
            style="filled,dashed" if border == "dashed" else "filled",
            fillcolor=fill if level >= 1 else "transparent",
        )
        if border == "double":
            self._place(x + 2.5, y + 2.5, w - 5, h - 5, penwidth="0.8")

    def write(
        self,
        x: float,
        y: float,
        w: float,
        text: str,
        *,
        size: float = theme.FONT_SIZE,
        mono: bool = False,
        bold: bool = False,
        align: str = "left",
        color: str = theme.TEXT,
    ) -> None:
        """Words in lines from the top at `y`, inside the width `w`."""
        if not text:
            return
        lines = [
            graphviz.escape(line).replace("&", "&amp;") for line in text.split("\n")
        ]
        end = {"left": r"\l", "center": r"\n", "right": r"\r"}[align]
        # the engine takes every byte for a letter, and shifts what seems long
        if align == "left":
            w = max(w, size * max(len(line.encode()) for line in lines))
        self._place(
            x,
            y,
            w,
            len(lines) * size * 1.2,
            shape="none",
            style="",
            label=graphviz.nohtml(end.join(lines) + end),
            fontsize=f"{size:g}",
            fontcolor=color,
            fontname=_font(mono, bold),
        )

    def line(
        self,
        *points: tuple[float, float],
        width: float = 1.2,
        style: str = "solid",
        arrow: bool = False,
    ) -> None:
        """A line through points, with an arrow at its end if asked for."""
        path = ""
        if arrow:
            *start, (x0, y0), (x, y) = points
            path = f"e,{x:.5g},{-y:.5g} "
            # the line ends where the arrow begins
            back = 8 / math.hypot(x - x0, y - y0)
            points = (*start, (x0, y0), (x - (x - x0) * back, y - (y - y0) * back))
        at = [f"{x:.5g},{-y:.5g}" for x, y in points]
        path += at[0] + "".join(f" {a} {b} {b}" for a, b in pairwise(at))
        look = {
            "dir": "forward" if arrow else "none",
            "arrowsize": "0.7",
            "style": style,
        }
        self.graph.edge("sheet", "sheet", pos=path, penwidth=f"{width:g}", **look)

    def heading(self, width: float, caption: str, gap: float = 8) -> float:
        """The caption of a figure, in bold lines at its top. Returns where it ends."""
        if not caption:
            return MARGIN
        lines = textwrap.wrap(caption, int(width / 6.2))
        self.write(MARGIN, MARGIN, width, "\n".join(lines), size=12, bold=True)
        return MARGIN + 14.4 * len(lines) + gap

    def legend(
        self, x: float, y: float, states: Iterable[str], renamed: dict[str, str]
    ) -> float:
        """What the colours of `states` mean. Returns where it ends on the right."""
        for name in [name for name in theme.STATES if name in states]:
            state = theme.STATES[name]
            word = renamed.get(name, state.word)
            self.box(x, y, 18, 14, state.fill, border=state.border)
            self.write(x, y + 0.5, 18, state.mark, align="center", bold=True)
            self.write(x + 23, y + 1, 120, word, size=10)
            x += 37 + len(word) * 5.6
        return x

    def figure(self, width: float, height: float, text: str, alt: str) -> Figure:
        """The finished figure, `width` × `height` px."""
        w = math.ceil(width)
        h = math.ceil(height)
        self.graph.node("sheet", pos="0,0", width="0", height="0", style="invis")
        self.graph.graph_attr["viewport"] = f"{w},{h},1,{w / 2},{-h / 2}"
        return Figure(self.graph.source, text, alt)


def _font(mono: bool, bold: bool) -> str:
    name = theme.MONO if mono else theme.SANS
    return f"{name}-Bold" if bold else name


@dataclass
class Part:
    """A part of a figure; `paint` draws it with its top left corner at `x`, `y`."""

    title: str
    width: float
    height: float
    paint: Callable[[Canvas, float, float], None]
    states: set[str]  # that it shows, for the legend
    lines: list[str]  # it drawn with characters, as a rule at most 100 columns wide
    words: str  # what is to be seen, for who does not see it
    # states that have another word here
    renamed: dict[str, str] = field(default_factory=dict)


def compose(parts: Sequence[Part], caption: str = "", counters: str = "") -> Figure:
    """One figure of several parts, one below the other, each with its title."""
    canvas = Canvas()
    has_titles = len(parts) > 1
    room = theme.WIDTH - 2 * MARGIN
    wide = max(*(part.width for part in parts), min(7 * len(caption), room))
    if has_titles:
        wide = max(wide, 480)
    y = canvas.heading(wide, caption)
    if counters:
        canvas.write(MARGIN, y, wide, counters, size=12)
        y += 24
    for part in parts:
        if has_titles:
            canvas.line((MARGIN, y), (MARGIN + wide, y), width=0.6)
            title = part.title.upper()
            canvas.write(MARGIN, y + 5, 200, title, size=10, color=theme.MUTED)
            y += 21
        part.paint(canvas, MARGIN, y)
        y += part.height + 10
    states = set().union(*(part.states for part in parts))
    if states - {"idle"}:
        renamed = {
            state: word for part in parts for state, word in part.renamed.items()
        }
        wide = max(wide, canvas.legend(MARGIN, y, states, renamed) - MARGIN)
        y += 24
    lines = [text for text in (caption, counters) if text]
    said = [f"{text.rstrip('.')}." for text in lines]
    alt = " ".join([*said, *(part.words for part in parts)])
    text = "\n".join(lines + [line for part in parts for line in part.lines])
    return canvas.figure(wide + 2 * MARGIN, y + 2, text, shorten(alt, 2000))
