"""Moments of a pool, one below the other: which pages are held, and by whom."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from radix_lib.teaching.figures.canvas import Part
from radix_lib.teaching.figures.page_strip import strip_part
from radix_lib.teaching.figures.pool_snapshot import Holder, Source, pool_snapshot
from radix_lib.teaching.figures.tree_snapshot import Marks


def pool_moment(
    title: str,
    source: Source,
    requests: Mapping[str, Holder],
    new: Iterable[int] = (),
) -> Part:
    """A pool as it is now, for `compose`; the pages in `new` are marked."""
    part = strip_part(pool_snapshot(source, requests, Marks.of((), new, ())))
    return replace(
        part,
        title=title,
        lines=[title, *part.lines],
        words=f"{title}. {part.words}",
    )


def arena_moment(title: str, owners: Sequence[str | None]) -> Part:
    """Memory without pages, for `compose`: the owner of each place, or None."""
    places: dict[str, list[int]] = {}
    for place, owner in enumerate(owners):
        if owner is not None:
            places.setdefault(owner, []).append(place)
    held = np.array([owner is not None for owner in owners], int)
    arena = SimpleNamespace(page_size=1, ref_counts=held)
    return pool_moment(title, cast("Any", arena), places)
