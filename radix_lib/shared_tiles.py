"""Chapter 11: attention over pages, in tiles that sequences with the same pages share.

Tiles are counted from a sequence's first token, so sequences that begin with the same
pages have their first tiles in common. Each of these is read once, and the queries of
all of them stand in one product: a row's bits do not depend on its neighbours.
Elsewhere this is called cascade or prefix-aware attention, and bits change; here none.

Left out here: reading pages where they lie, as a kernel of one's own would.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from itertools import zip_longest
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from radix_lib.exact_attention import KEYS, in_order, scaled_query, shares_of
from radix_lib.executor import CachedChunks, Chunk
from radix_lib.invariant_rows import in_any_batch
from radix_lib.page_manager import KVPool

Integers = NDArray[np.int64]

ITEMS = 64  # tiles, of a head each, that are multiplied while the processor holds them


# ── Who looks at what ─────────────────────────────────────────────────────────────────


class Piece(NamedTuple):
    """Queries of one sequence that lie in the same tile, the last that they look at."""

    queries: Integers  # which of the batch's
    positions: Integers
    tiles: Integers  # [tiles, KEYS], the slots of the keys


class Tiles(NamedTuple):
    """Tiles that equally many queries look at."""

    keys: tuple[Tensor, ...]  # which rows of the pool, ITEMS tiles of a head at a time
    values: tuple[Tensor, ...]
    queries: Tensor  # [tiles × width], which of the batch's look at each tile
    places: Tensor  # [tiles × width], where these stand in their wave
    width: int
    # [open tiles, 1, width, 1, KEYS]: keys in the future; open tiles are the last
    hidden: Tensor


class Wave(NamedTuple):
    """Queries that are computed together, those with the most tiles first.

    A look is a query at a tile. Looks are numbered in the order of `tiles`.
    """

    tiles: list[Tiles]
    # [depth, queries], at their first tile, second, …; or the first again
    looks: Tensor
    in_order: Tensor  # all looks, those at first tiles, at second tiles, …
    counts: list[int]  # how many of each


class Plan(NamedTuple):
    """What a batch looks at, the same in all layers."""

    waves: list[Wave]
    back: Tensor  # [queries], from the order of the waves to the batch's


def make_plan(chunks: Sequence[Chunk], pool: KVPool) -> Plan:
    """Cut the queries of `chunks` where keys are cut, and find the tiles they share.

    The first pieces of all chunks make one wave, the second pieces another.
    """
    pieces = _pieces(chunks, pool.page_size)
    waves = []
    queries: list[Integers] = []
    for together in zip_longest(*pieces):
        wave = [piece for piece in together if piece is not None]
        wave.sort(key=lambda piece: -len(piece.tiles))
        waves.append(_wave(wave, pool))
        queries += [piece.queries for piece in wave]
    return Plan(waves, _tensor(np.argsort(np.concatenate(queries)), pool))


def _pieces(chunks: Sequence[Chunk], page_size: int) -> list[list[Piece]]:
    pieces = []
    first = 0
    for chunk in chunks:
        end = chunk.start + len(chunk.tokens)
        keys = np.arange(-(-end // KEYS) * KEYS)
        keys[end:] = 0  # hidden: any that is written
        slots = chunk.page_table[keys // page_size] * page_size + keys % page_size
        tiles = slots.reshape(-1, KEYS)
        own = []
        for tile in range(chunk.start // KEYS, len(tiles)):
            start = max(chunk.start, tile * KEYS)
            positions = np.arange(start, min(end, (tile + 1) * KEYS))
            queries = positions - chunk.start + first
            own.append(Piece(queries, positions, tiles[: tile + 1]))
        pieces.append(own)
        first += len(chunk.tokens)
    return pieces


def _wave(pieces: list[Piece], pool: KVPool) -> Wave:
    ends = np.cumsum([len(piece.queries) for piece in pieces])
    places = np.split(np.arange(ends[-1]), ends[:-1])
    looks = np.full((len(pieces[0].tiles), ends[-1]), -1)
    n_looks = 0
    tiles = []
    for shared in _by_width(pieces):
        at = np.array([np.concatenate([places[i] for i in x.pieces]) for x in shared])
        depths = np.array([[tile.depth] for tile in shared])
        looks[depths, at] = n_looks + np.arange(at.size).reshape(at.shape)
        n_looks += at.size
        tiles.append(_tiles(shared, at, pieces, pool))
    real = looks >= 0
    return Wave(
        tiles=tiles,
        looks=_tensor(np.where(real, looks, looks[0]), pool),
        in_order=_tensor(looks[real], pool),
        counts=real.sum(1).tolist(),
    )


class SharedTile(NamedTuple):
    """A tile of keys, and the pieces that look at it."""

    depth: int  # 0 for the first of a sequence, 1 for the second, …
    slots: Integers
    pieces: list[int]


def _by_width(pieces: list[Piece]) -> list[list[SharedTile]]:
    """Distinct tiles, apart by the number of queries that look; open ones are last."""
    distinct: dict[object, SharedTile] = {}
    for i, piece in enumerate(pieces):
        for depth, slots in enumerate(piece.tiles):
            name = _name(depth, slots)
            if name not in distinct:
                distinct[name] = SharedTile(depth, slots, [])
            distinct[name].pieces.append(i)
    groups: dict[int, list[SharedTile]] = defaultdict(list)
    for tile in distinct.values():
        groups[sum(len(pieces[i].queries) for i in tile.pieces)].append(tile)
    for group in groups.values():
        group.sort(key=lambda tile: _is_open(tile, pieces))
    return list(groups.values())


def _name(depth: int, slots: Integers) -> tuple[int, bytes]:
    """The same for tiles in which the same keys lie, and for no others."""
    return depth, slots.tobytes()


def _is_open(tile: SharedTile, pieces: list[Piece]) -> bool:
    return any(tile.depth == len(pieces[i].tiles) - 1 for i in tile.pieces)


def _tiles(
    shared: list[SharedTile], places: Integers, pieces: list[Piece], pool: KVPool
) -> Tiles:
    """Tensors that say what `shared` tiles need; `places` is [tiles, width]."""
    kv_heads = pool.data.shape[4]
    width = places.shape[1]
    slots = np.stack([tile.slots for tile in shared])
    kinds = np.arange(2)[:, None, None, None]
    heads = np.arange(kv_heads)[:, None]
    numbers = (slots[:, None] * 2 + kinds) * kv_heads + heads
    queries = [np.concatenate([pieces[i].queries for i in x.pieces]) for x in shared]
    hidden = [_hidden(tile, pieces) for tile in shared if _is_open(tile, pieces)]
    keys, values = _tensor(numbers.reshape(2, -1), pool)
    return Tiles(
        keys=torch.split(keys, ITEMS * KEYS),
        values=torch.split(values, ITEMS * KEYS),
        queries=_tensor(np.concatenate(queries), pool),
        places=_tensor(places.ravel(), pool),
        width=width,
        hidden=_tensor(np.array(hidden).reshape(-1, 1, width, 1, KEYS), pool),
    )


def _hidden(tile: SharedTile, pieces: list[Piece]) -> NDArray[np.bool_]:
    """Which keys of the tile lie in the future of each query, [width, KEYS]."""
    positions = np.concatenate([pieces[i].positions for i in tile.pieces])
    return tile.depth * KEYS + np.arange(KEYS) > positions[:, None]


def _tensor(values: NDArray[Any], pool: KVPool) -> Tensor:
    return torch.as_tensor(values, device=pool.data.device)


# ── Attention ─────────────────────────────────────────────────────────────────────────

_plans: WeakKeyDictionary[CachedChunks, Plan] = WeakKeyDictionary()


def attention_over_shared_tiles(
    query: Tensor, module: Any, pool: KVPool, layer: int, cached: CachedChunks
) -> Tensor:
    """What `attention_over_pages` gives, with bits that depend on nothing beside."""
    plan = _plans.get(cached)
    if plan is None:
        plan = _plans[cached] = make_plan(cached.chunks, pool)
    waves, back = plan
    kv_heads, head_dim = pool.data.shape[4:]
    by_token = scaled_query(query, module.scaling)[0].transpose(0, 1)
    queries = by_token.reshape(len(by_token), kv_heads, -1, head_dim)
    numbers = pool.data[layer].view(-1, head_dim)
    attended = _cat([_attend(queries, numbers, wave) for wave in waves])
    return attended.index_select(0, back).view(1, len(back), -1).to(query.dtype)


def _attend(queries: Tensor, numbers: Tensor, wave: Wave) -> Tensor:
    """Attention of a wave in its order, [queries, kv_heads, group, head_dim].

    `queries` are the batch's, in the same shape. `numbers` are the pool's in one layer,
    a row for each K or V of a head at a slot.
    """
    scores = [_tile_scores(queries, numbers, tiles) for tiles in wave.tiles]
    # of each look the largest score, and of each query the largest of all its looks
    tops = _cat([_by_look(score.amax(-1)) for score in scores])
    top = tops.index_select(0, wave.looks.flatten())
    top = top.view(*wave.looks.shape, *top.shape[1:]).amax(0)
    sums = []
    for tiles, score in zip(wave.tiles, scores, strict=True):
        own = top.index_select(0, tiles.places).view(-1, tiles.width, *top.shape[1:])
        score -= own.transpose(1, 2)[..., None]
        sums.append(_by_look(_tile_sums(score, numbers, tiles)))
    by_depth = _cat(sums).index_select(0, wave.in_order)
    total = in_order(torch.split(by_depth, wave.counts))
    return total[..., :-1] / total[..., -1:]


def _tile_scores(queries: Tensor, numbers: Tensor, tiles: Tiles) -> Tensor:
    """Of the queries that look at each tile, [tiles, kv_heads, width, group, KEYS]."""
    _, kv_heads, group, head_dim = queries.shape
    rows = queries.index_select(0, tiles.queries)
    by_tile = rows.view(-1, tiles.width, kv_heads, group * head_dim).transpose(1, 2)
    left = by_tile.reshape(-1, tiles.width * group, head_dim)
    products = [
        in_any_batch((torch.bmm,), part, _gathered(numbers, keys, part).mT)
        for part, keys in zip(torch.split(left, ITEMS), tiles.keys, strict=True)
    ]
    scores = _cat(products).view(-1, kv_heads, tiles.width, group, KEYS)
    n_open = len(tiles.hidden)
    if n_open:
        scores[-n_open:].masked_fill_(tiles.hidden, -math.inf)
    return scores


def _tile_sums(scores: Tensor, numbers: Tensor, tiles: Tiles) -> Tensor:
    """Of each look Σ exp(score) · value and, behind it, Σ exp(score).

    Returns [tiles, kv_heads, width, group, head_dim + 1].
    """
    shares, weights = shares_of(scores)
    left = shares.view(-1, tiles.width * scores.shape[3], KEYS)
    products = [
        in_any_batch((torch.bmm,), part, _gathered(numbers, values, part))
        for part, values in zip(torch.split(left, ITEMS), tiles.values, strict=True)
    ]
    weighted = _cat(products).view(*scores.shape[:-1], -1)
    return torch.cat([weighted, weights], -1)


def _gathered(numbers: Tensor, rows: Tensor, like: Tensor) -> Tensor:
    """K or V of some tiles, [items, KEYS, head_dim]."""
    return numbers.index_select(0, rows).view(len(like), KEYS, -1).to(like.dtype)


def _by_look(x: Tensor) -> Tensor:
    """[tiles, kv_heads, width, …] to [looks, kv_heads, …]."""
    return x.transpose(1, 2).flatten(0, 1)


def _cat(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)
