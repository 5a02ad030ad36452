"""A film of what a tree, a cache or a router does: every operation becomes a frame.

The operations are the real ones, on the real object, wherever they are called from. A frame keeps
the state after its operation; film strips and steppers show it later.
"""

from __future__ import annotations

import functools
import inspect
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from radix_lib.page_manager import PageManager
from radix_lib.radix_cache import RadixCache
from radix_lib.radix_tree import Match, RadixTree
from radix_lib.router import Router
from radix_lib.teaching import theme
from radix_lib.teaching.canvas import MARGIN, Canvas, Part, compose
from radix_lib.teaching.figure import Figure
from radix_lib.teaching.labels import Decoder, count, shorten
from radix_lib.teaching.narration import Narrator, pages_of
from radix_lib.teaching.page_figure import IN_A_ROW, rows_part, strip_part
from radix_lib.teaching.pool_view import PoolView, names_of, pool_view
from radix_lib.teaching.tree_figure import ROOM, tree_part
from radix_lib.teaching.views import Marks, NodeView, TreeView, letters_of

MARKS = ("hit", "new", "evicted")
GAP = 24  # between the frames of a strip

OPERATIONS: dict[type, tuple[str, ...]] = {
    Router: ("admit", "commit", "fork", "finish", "cancel"),
    RadixCache: ("match", "insert", "lock", "unlock", "evict"),
    RadixTree: ("match", "insert"),
    PageManager: ("allocate",),
}


@dataclass(frozen=True)
class Frame:
    """What happened, in words, and what tree and pages looked like then."""

    words: str
    tree: TreeView
    pool: PoolView | None  # None for a `RadixTree`, which has no pages of its own
    marks: Marks
    ghosts: tuple[NodeView, ...]  # what was evicted, where it stood
    decode: Decoder = None

    def figure(self, frames: Sequence[Frame] = ()) -> Figure:
        """The frame alone: tree, pages, requests. Nodes stand where they stand in `frames`."""
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
        others = [node for frame in frames for node in (*frame.tree.nodes, *frame.ghosts)]
        return tree_part(
            self.tree, self.marks, ghosts=self.ghosts, decode=self.decode, others=others, room=room
        )


class Recorder:
    """Makes a frame in `frames` of every operation on `target` from now on.

    With `steps`, a router's frames also show what its cache and its page manager do inside each
    operation. What an operation raises passes through, and leaves no frame.

    >>> cache = RadixCache(PageManager(n_pages=4, page_size=2))
    >>> film = Recorder(cache)
    >>> pages = cache.page_manager.allocate(2)
    >>> _ = cache.insert([1, 2, 3, 4], pages), cache.match([1, 2, 5, 6])
    >>> film.frames[-1].words
    'match: 1 of 2 pages found; node A is split, B is its upper part'
    """

    def __init__(self, target: RadixTree | Router, *, decode: Decoder = None, steps: bool = False):
        self.target, self.decode = target, decode
        self.tree = target.cache if isinstance(target, Router) else target
        self.frames: list[Frame] = []
        self._open: list[object] = []  # whose operation is under way
        inside: list[Any] = [target]
        if steps and isinstance(target, Router):
            inside += [target.cache, target.page_manager]
        for part in inside:
            kind = next(kind for kind in OPERATIONS if isinstance(part, kind))
            for name in OPERATIONS[kind]:
                setattr(part, name, self._recorded(part, name, steps))
        self._look()  # now each node has a letter, and each live request a name
        self._requests()

    def _recorded(self, part: object, name: str, steps: bool) -> Any:
        operation = getattr(part, name)
        parameters = inspect.signature(operation)

        @functools.wraps(operation)
        def recorded(*args: Any, **kwargs: Any) -> Any:
            if part in self._open:  # the operation of the same object is one step
                return operation(*args, **kwargs)
            n_frames, before, requests = len(self.frames), self._look(), self._requests()
            self._open.append(part)
            try:
                result = operation(*args, **kwargs)
            except BaseException:
                del self.frames[n_frames:]
                raise
            finally:
                self._open.remove(part)
            given = parameters.bind(*args, **kwargs).arguments
            after = self._look()
            told = Narrator(
                given, result, (before[0], after[0]), (before[1], after[1]),
                requests | self._requests(),
            )  # fmt: skip
            # With steps, what was split and evicted on the way has been told.
            alone = not steps or part is not self.target
            hit = result.pages if isinstance(result, Match) else ()
            new = result if name == "allocate" else told.came
            self.note(told.tell(name, alone), hit=hit, new=new, evicted=told.gone if alone else ())
            return result

        return recorded

    def note(
        self, words: str, *, hit: Iterable[object] = (), new: Iterable[object] = (),
        evicted: Iterable[object] = (),
    ) -> None:  # fmt: skip
        """Make a frame of the state as it is now, for what happens outside tree and router."""
        given = Marks.of(hit, new, evicted)
        tree, pool = self._look(given)
        marks = pool.marks if pool else given
        ghosts = tuple(letters_of(self.tree).ghosts(marks.evicted, tree))
        self.frames.append(Frame(words, tree, pool, marks, ghosts, self.decode))

    def merge(self, n_frames: int, words: str = "") -> None:
        """Make one frame of all but the first `n_frames`, with the state as it is now."""
        last = self.frames[n_frames:]
        del self.frames[n_frames:]
        states = ([page for f in last for page in getattr(f.marks, s)] for s in MARKS)
        hit, new, evicted = states
        words = words or "; ".join(frame.words for frame in last)
        self.note(words, hit=hit, new=new, evicted=evicted)

    def _look(self, given: Marks | None = None) -> tuple[TreeView, PoolView | None]:
        if isinstance(self.target, RadixCache | Router):
            pool = pool_view(self.target, given=given)
            assert pool.tree is not None
            return pool.tree, pool
        return letters_of(self.tree).view(self.tree), None

    def _requests(self) -> dict[Any, str]:
        leases = names_of(self.target) if isinstance(self.target, Router) else {}
        return {lease: name for name, lease in leases.items()}


def film_strip(frames: Sequence[Frame], columns: int = 2, caption: str = "") -> Figure:
    """The frames as one figure, each with its number and its words; at most `columns` in a row.

    A node stands at the same place in all of them. Wide trees get fewer columns.
    """
    if not frames or columns < 1:
        raise ValueError(f"{len(frames)} frames in {columns} columns: there is nothing to show")
    room = (theme.WIDTH - 2 * MARGIN - GAP * (columns - 1)) / columns
    parts = [frame.tree_part(frames, room) for frame in frames]
    wide = max(room, *(part.width for part in parts))
    columns = max(1, min(columns, len(frames), int(1.5 * theme.WIDTH / wide)))
    words = [f"{i + 1}  {frame.words}" for i, frame in enumerate(frames)]
    heads = [textwrap.wrap(text, int(wide / 5.4)) for text in words]
    canvas = Canvas()
    canvas.write(MARGIN, MARGIN, theme.WIDTH, caption, size=12, bold=True)
    y = MARGIN + 22.0 * bool(caption)
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
    told = [f"Film strip of {count(len(frames), 'frame')}. {caption}".strip()]
    alt = " ".join([*told, *(f"{text}." for text in words), f"At last: {parts[-1].words}"])
    pairs = zip(words, parts, strict=True)
    lines = [line for text, part in pairs for line in (text, *part.lines)]
    width = columns * (wide + GAP) - GAP + 2 * MARGIN
    return canvas.figure(width, y + 24, "\n".join(lines), shorten(alt, 2000))
