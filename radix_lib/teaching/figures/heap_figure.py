"""The heap of evictable leaves below its tree: what goes next, and what is stale."""

from __future__ import annotations

from typing import Any, NamedTuple

from radix_lib.radix_cache import CacheNode, RadixCache
from radix_lib.teaching.figures import theme
from radix_lib.teaching.figures.canvas import Canvas, Part, compose
from radix_lib.teaching.figures.figure import Figure
from radix_lib.teaching.figures.labels import Decoder
from radix_lib.teaching.figures.tree_figure import tree_part
from radix_lib.teaching.figures.tree_snapshot import Marks, letters_of

CELL, HEIGHT = 106, 38  # px of an entry
GAP = 6
IN_A_ROW = 6


class Entry(NamedTuple):
    """One entry of the heap; `stale` says why it does not count, "" if it does."""

    letter: str  # of its node, "–" if that is gone
    priority: Any
    serial: int
    stale: str


def entries_of(cache: RadixCache, letters: dict[CacheNode, str]) -> list[Entry]:
    """All entries of a cache's heap, in the order in which they would surface."""
    newest: dict[CacheNode, int] = {}
    for _, serial, node in cache._heap._entries:
        newest[node] = max(serial, newest.get(node, 0))
    found = []
    for priority, serial, node in sorted(cache._heap._entries, key=lambda e: e[:2]):
        if node.entry == serial:
            stale = ""
        elif serial < newest[node]:
            stale = "used again"
        elif node not in letters:
            stale = "gone"
        else:
            stale = "locked" if node.lock_ref else "no leaf now"
        found.append(Entry(letters.get(node, "–"), priority, serial, stale))
    return found


def _heap_part(entries: list[Entry]) -> Part:
    def paint(canvas: Canvas, x: float, y: float) -> None:
        for i, entry in enumerate(entries):
            left = x + i % IN_A_ROW * (CELL + GAP)
            top = y + i // IN_A_ROW * (HEIGHT + GAP)
            color = theme.MUTED if entry.stale else theme.TEXT
            border = "dashed" if entry.stale else "solid"
            # lines lie under boxes, and one is to be seen through this
            canvas.box(left, top, CELL, HEIGHT, "transparent", border=border)
            canvas.write(left + 6, top + 4, 22, entry.letter, bold=True, color=color)
            words = f"priority {entry.priority}"
            canvas.write(left + 26, top + 5, CELL - 30, words, size=9, color=color)
            below = f"entry {entry.serial}"
            if entry.stale:
                below += f", {entry.stale}"
            canvas.write(left + 6, top + 21, CELL - 10, below, size=9, color=color)
            if entry.stale:
                level = top + 11
                canvas.line((left + 22, level), (left + CELL - 4, level), width=1.4)

    n_rows = -(-len(entries) // IN_A_ROW)
    told = []
    for entry in entries:
        facts = [entry.letter, f"priority {entry.priority}", f"entry {entry.serial}"]
        if entry.stale:
            facts.append(f"stale: {entry.stale}")
        told.append(", ".join(facts))
    n_stale = sum(bool(entry.stale) for entry in entries)
    noun = "entry" if len(entries) == 1 else "entries"
    summary = f"heap: {len(entries)} {noun}, {n_stale} of them stale"
    return Part(
        "heap, in the order in which entries surface",
        min(max(len(entries), 1), IN_A_ROW) * (CELL + GAP) - GAP,
        n_rows * (HEIGHT + GAP),
        paint,
        set(),
        [summary, *(f"    {line}" for line in told)],
        f"{summary.capitalize()}. {'; '.join(told)}.",
    )


def draw_heap(
    cache: RadixCache, *, decode: Decoder = None, caption: str = ""
) -> Figure:
    """Draw a cache's tree, and below it every entry of its heap; stale ones are struck.

    An entry is stale when its node has a newer one, is locked, is no leaf any more, or
    was evicted. A node has the same letter in both parts.
    """
    view = letters_of(cache).view(cache)
    nodes = zip(cache.nodes(), view.nodes, strict=True)
    letters = {node: snapshot.letter for node, snapshot in nodes}
    tree = tree_part(view, Marks(), decode=decode, last_use=True)
    return compose([tree, _heap_part(entries_of(cache, letters))], caption)
