"""The linked scene: tree, pages and requests, with the same ids and colours."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from radix_lib.router import Router
from radix_lib.teaching.figures.canvas import compose
from radix_lib.teaching.figures.figure import Figure
from radix_lib.teaching.figures.labels import Decoder
from radix_lib.teaching.figures.page_figure import rows_part
from radix_lib.teaching.figures.page_strip import IN_A_ROW, strip_part
from radix_lib.teaching.figures.pool_snapshot import Holder, pool_snapshot
from radix_lib.teaching.figures.tree_figure import tree_part
from radix_lib.teaching.figures.tree_snapshot import Marks, letters_of


def draw_scene(
    router: Router,
    requests: Mapping[str, Holder] | None = None,
    *,
    decode: Decoder = None,
    hit: Iterable[object] = (),
    new: Iterable[object] = (),
    evicted: Iterable[object] = (),
    counters: Mapping[str, object] | None = None,
    caption: str = "",
) -> Figure:
    """Draw tree, page strip and request rows of a `Router` in one picture.

    What live requests reuse is blue and what is theirs alone is yellow, by itself;
    `hit`, `new` and `evicted` mark more pages. `counters` are shown beside the tokens
    reused and pages free.
    """
    pool = pool_snapshot(router, requests, Marks.of(hit, new, evicted))
    assert pool.tree is not None
    letters = letters_of(router.cache)
    ghosts = letters.ghosts(pool.marks.evicted, pool.tree)
    others = letters.before if ghosts else ()
    tree = tree_part(
        pool.tree, pool.marks, ghosts=ghosts, decode=decode, limit=16, others=others
    )
    parts = [tree, strip_part(pool, limit=3 * IN_A_ROW)]
    if pool.requests:
        parts.append(rows_part(pool, decode))
    told = {
        "tokens reused": f"{sum(request.n_cached for request in pool.requests):,}",
        "pages free": f"{pool.counts.count(0):,} of {len(pool.counts):,}",
        **(counters or {}),
    }
    running = " · ".join(f"{name} {value}" for name, value in told.items())
    return compose(parts, caption, running)
