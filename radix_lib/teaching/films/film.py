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
        """The frame alone. Nodes stand where they stand in `frames`."""
        parts = [self.tree_part(frames)]
        if self.pool is None:
            return compose(parts, self.words)
        parts.append(strip_part(self.pool, limit=3 * IN_A_ROW))
        if self.pool.requests:
            parts.append(rows_part(self.pool, self.decode))
        return compose(parts, self.words, self._counters(self.pool))

    def _counters(self, pool: PoolSnapshot) -> str:
        """The sum of four that is the pool."""
        n_pages = len(pool.counts)
        n_free = pool.counts.count(0)
        n_locked = len(pool.locked)
        n_unlocked = len(pages_of(self.tree)) - n_locked
        n_private = n_pages - n_free - n_unlocked - n_locked
        return (
            f"{count(n_pages, 'page')}: {n_free} free + {n_unlocked} unlocked + "
            f"{n_locked} locked + {n_private} private"
        )

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
    """The frames as one figure, each with its number and its words.

    At most `columns` stand in a row, fewer if the tree is wide. A node stands at the
    same place in all of them. Raises ValueError if there is nothing to show.
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
    canvas = Canvas()
    width = columns * (wide + GAP) - GAP
    y = canvas.heading(width, caption, gap=7.6)
    for start in range(0, len(frames), columns):
        row = slice(start, start + columns)
        y = _paint_frames(canvas, y, words[row], parts[row], wide)
    states = set().union(*(part.states for part in parts))
    canvas.legend(MARGIN, y, states, {})
    lines = [caption] if caption else []
    told = [f"Film strip of {count(len(frames), 'frame')}."]
    told += [f"{text}." for text in [*lines, *words]]
    told.append(f"At last: {parts[-1].words}")
    for text, part in zip(words, parts, strict=True):
        lines += [*textwrap.wrap(text, 100), *part.lines]
    drawn = "\n".join(lines)
    alt = shorten(" ".join(told), 2000)
    return canvas.figure(width + 2 * MARGIN, y + 24, drawn, alt)


def _paint_frames(
    canvas: Canvas, y: float, words: list[str], parts: list[Part], wide: float
) -> float:
    """Paint frames side by side, under their words. Returns where they end."""
    heads = [textwrap.wrap(text, int(wide / 5.8)) for text in words]
    high = max(map(len, heads)) * 13.2 + 6
    for i, part in enumerate(parts):
        x = MARGIN + i * (wide + GAP)
        canvas.line((x, y), (x + wide, y), width=0.6)
        canvas.write(x, y + 5, wide, "\n".join(heads[i]))
        part.paint(canvas, x, y + 5 + high)
    return y + high + max(part.height for part in parts) + 16
