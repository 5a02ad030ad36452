"""Frames of what a tree, a cache or a router did, and the film strips made of them."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from radix_lib.teaching.figures import theme
from radix_lib.teaching.figures.canvas import MARGIN, Canvas, Part, compose
from radix_lib.teaching.figures.figure import Figure
from radix_lib.teaching.figures.labels import Decoder, count, shorten
from radix_lib.teaching.figures.page_figure import rows_part
from radix_lib.teaching.figures.page_strip import IN_A_ROW, strip_part
from radix_lib.teaching.figures.pool_snapshot import PoolSnapshot
from radix_lib.teaching.figures.tree_figure import ROOM, tree_part
from radix_lib.teaching.figures.tree_snapshot import Marks, NodeSnapshot, TreeSnapshot
from radix_lib.teaching.films.narration import pages_of

GAP = 24  # between the frames of a strip


@dataclass(frozen=True)
class Frame:
    """What happened, in words, and what tree and pages looked like then."""

    words: str
    tree: TreeSnapshot
    pool: PoolSnapshot | None  # None for a `RadixTree`, which has no pages of its own
    marks: Marks
    ghosts: tuple[NodeSnapshot, ...]  # what was evicted, where it stood
    decode: Decoder = None

    def figure(self, frames: Sequence[Frame] = ()) -> Figure:
        """The frame alone: tree, pages, requests. Nodes stand where they stand in
        `frames`.
        """
        parts, counters = [self.tree_part(frames)], ""
        if self.pool is not None:
            parts.append(strip_part(self.pool, limit=3 * IN_A_ROW))
            parts += [rows_part(self.pool, self.decode)] if self.pool.requests else []
            counts, n_tree = self.pool.counts, len(pages_of(self.tree))
            n_free, n_locked = counts.count(0), len(self.pool.locked)
            counters = (
                f"{count(len(counts), 'page')}: {n_free} free + {n_tree - n_locked} unlocked + "
                f"{n_locked} locked + {len(counts) - n_free - n_tree} private"
            )
        return compose(parts, self.words, counters)

    def tree_part(self, frames: Sequence[Frame], room: float = ROOM) -> Part:
        """The tree, with the places of all nodes in `frames` kept free."""
        others = [
            node for frame in frames for node in (*frame.tree.nodes, *frame.ghosts)
        ]
        return tree_part(
            self.tree,
            self.marks,
            ghosts=self.ghosts,
            decode=self.decode,
            others=others,
            room=room,
        )


def film_strip(frames: Sequence[Frame], columns: int = 2, caption: str = "") -> Figure:
    """The frames as one figure, each with its number and its words; at most `columns`
    in a row.

    A node stands at the same place in all of them. Wide trees get fewer columns.
    """
    if not frames or columns < 1:
        raise ValueError(
            f"{len(frames)} frames in {columns} columns: there is nothing to show"
        )
    room = (theme.WIDTH - 2 * MARGIN - GAP * (columns - 1)) / columns
    parts = [frame.tree_part(frames, room) for frame in frames]
    wide = max(room, *(part.width for part in parts))
    columns = max(1, min(columns, len(frames), int(1.5 * theme.WIDTH / wide)))
    words = [f"{i + 1}  {frame.words}" for i, frame in enumerate(frames)]
    heads = [textwrap.wrap(text, int(wide / 5.8)) for text in words]
    canvas = Canvas()
    width = columns * (wide + GAP) - GAP
    heading = textwrap.wrap(caption, int(width / 6.2))
    canvas.write(MARGIN, MARGIN, width, "\n".join(heading), size=12, bold=True)
    y = MARGIN + 14.4 * len(heading) + 7.6 * bool(heading)
    for start in range(0, len(frames), columns):
        row = range(start, min(start + columns, len(frames)))
        head = max(len(heads[i]) for i in row) * 13.2 + 6
        for i in row:
            x = MARGIN + (i - start) * (wide + GAP)
            canvas.line((x, y), (x + wide, y), width=0.6)
            canvas.write(x, y + 5, wide, "\n".join(heads[i]))
            parts[i].paint(canvas, x, y + 5 + head)
        y += head + max(parts[i].height for i in row) + 16
    states = set().union(*(part.states for part in parts))
    canvas.legend(MARGIN, y, states, {})
    told = [
        f"Film strip of {count(len(frames), 'frame')}.",
        *([f"{caption}."] * bool(caption)),
    ]
    alt = " ".join(
        [*told, *(f"{text}." for text in words), f"At last: {parts[-1].words}"]
    )
    pairs = zip(words, parts, strict=True)
    lines = [caption] * bool(caption)
    lines += [
        line
        for text, part in pairs
        for line in (*textwrap.wrap(text, 100), *part.lines)
    ]
    return canvas.figure(
        width + 2 * MARGIN, y + 24, "\n".join(lines), shorten(alt, 2000)
    )
