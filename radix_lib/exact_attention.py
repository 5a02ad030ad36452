"""Chapter 11: attention in tiles, with bits that do not depend on what is beside.

Keys are cut at every `KEYS` keys, counted from the sequence's first. Each tile gives
sums of its own, by products of one inner length, and these are added in the order of
the tiles. So a query has the same bits alone, later, or among others: a tile of keys
that it may not look at adds exactly nothing, as long as its values are finite.

Left out here: keys that lie in pages (`shared_tiles`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from radix_lib.invariant_rows import in_any_batch

KEYS = 64  # keys of a tile, queries of a block


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """`F.scaled_dot_product_attention`, one block of queries after the other.

    `query` is [batch, heads, queries, head_dim], `key` and `value` are [batch,
    kv_heads, keys, head_dim]. Raises ValueError for dropout, and for a mask beside
    `is_causal`.
    """
    if dropout_p or (is_causal and attn_mask is not None):
        raise ValueError(
            "no dropout here (call model.eval()), and no mask beside is_causal"
        )
    n_batch, n_heads, n_queries, _ = query.shape
    kv_heads, n_keys = key.shape[1:3]
    group = n_heads // kv_heads
    scaled = scaled_query(query, scale)
    queries = scaled.reshape(n_batch * kv_heads, group, n_queries, -1).transpose(1, 2)
    keys, values = (_in_tiles(x.to(queries.dtype)) for x in (key, value))
    bias = None
    if attn_mask is not None:
        shape = n_batch, n_heads, n_queries, n_keys
        bias = _bias(attn_mask, shape, kv_heads, queries.dtype)
    blocks = []
    for start in range(0, n_queries, KEYS):
        block = queries[:, start : start + KEYS]
        n_seen = min(start + KEYS, n_keys) if is_causal else n_keys
        n_tiles = -(-n_seen // KEYS)
        scores = _scores(block, keys[:n_tiles])
        if bias is None:
            _hide(
                scores[-1], (n_tiles - 1) * KEYS, n_keys, start if is_causal else None
            )
        else:
            by_batch = torch.unflatten(scores, 1, (n_batch, kv_heads))
            by_batch += bias[..., start : start + KEYS, :, :]
        blocks.append(_weighted(scores, values[:n_tiles]))
    attended = torch.cat(blocks, 1).transpose(1, 2)
    return attended.reshape(n_batch, n_heads, n_queries, -1).to(query.dtype)


def scaled_query(query: Tensor, scale: float | None) -> Tensor:
    """The queries, scaled, in float32 at least: all sums are kept in it."""
    wide = query.to(torch.promote_types(query.dtype, torch.float32))
    return wide * (query.shape[-1] ** -0.5 if scale is None else scale)


def _in_tiles(x: Tensor) -> Tensor:
    """[batch, kv_heads, keys, size] to [tiles, batch × kv_heads, KEYS, size]."""
    n_batch, kv_heads, n_keys, head_dim = x.shape
    n_tiles = -(-n_keys // KEYS)
    tiles = x.new_zeros(n_tiles, n_batch * kv_heads, KEYS, head_dim)
    for i, part in enumerate(torch.split(x.flatten(0, 1), KEYS, 1)):
        tiles[i, :, : part.shape[1]] = part
    return tiles


def _scores(queries: Tensor, keys: Tensor) -> Tensor:
    """Scores of all queries in all tiles, [tiles, n, queries, group, KEYS].

    `queries` are [n, queries, group, head_dim], `keys` [tiles, n, KEYS, head_dim].
    """
    rows = queries.flatten(1, 2).expand(len(keys), -1, -1, -1).flatten(0, 1)
    scores = in_any_batch((torch.bmm,), rows, keys.flatten(0, 1).mT)
    return scores.view(len(keys), *queries.shape[:3], KEYS)


def _hide(scores: Tensor, first: int, n_keys: int, start: int | None) -> None:
    """Hide padding in the last tile, and the future of queries that begin at `start`.

    `scores` are the tile's, [n, queries, group, KEYS], and its first key is `first`.
    """
    keys = torch.arange(first, first + KEYS, device=scores.device)
    hidden = (keys >= n_keys)[None]
    if start is not None:
        end = start + scores.shape[1]
        positions = torch.arange(start, end, device=scores.device)
        hidden = hidden | (keys > positions[:, None])
    scores.masked_fill_(hidden[:, None], -math.inf)


def _bias(
    mask: Tensor, shape: tuple[int, ...], kv_heads: int, dtype: torch.dtype
) -> Tensor:
    """A mask of any shape that fits, cut into tiles, to be added to scores.

    Returns [tiles, batch, kv_heads, queries, group, KEYS]; the second, third and fifth
    may be 1.
    """
    if mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, -math.inf)
    mask = mask.to(dtype).expand(*mask.shape[:-2], *shape[2:])
    mask = mask[(None,) * (4 - mask.ndim)]
    n_tiles = -(-shape[3] // KEYS)
    tiles = mask.new_full((*mask.shape[:3], n_tiles * KEYS), -math.inf)
    tiles[..., : shape[3]] = mask
    heads = (1, 1) if mask.shape[1] == 1 else (kv_heads, -1)
    by_head = torch.unflatten(torch.unflatten(tiles, -1, (n_tiles, KEYS)), 1, heads)
    return by_head.permute(4, 0, 1, 3, 2, 5)


def _weighted(scores: Tensor, values: Tensor) -> Tensor:
    """Values weighted by the softmax of all tiles' scores, which are overwritten.

    `scores` are [tiles, n, queries, group, KEYS], `values` [tiles, n, KEYS, head_dim];
    returns [n, queries, group, head_dim].
    """
    top = scores.amax(-1).amax(0)
    top.masked_fill_(top == -math.inf, 0)  # of a query that may look at no key
    scores -= top[..., None]
    shares, weights = shares_of(scores)
    rows = shares.flatten(2, 3).flatten(0, 1)
    sums = in_any_batch((torch.bmm,), rows, values.flatten(0, 1))
    total = in_order(sums.view(*scores.shape[:-1], -1).unbind())
    weight = in_order(weights.unbind())
    return total / weight.masked_fill_(weight == 0, 1)


def shares_of(scores: Tensor) -> tuple[Tensor, Tensor]:
    """exp(score), [..., KEYS], in place of the scores, and their sums, [..., 1]."""
    shares = in_any_batch((_exp,), scores.reshape(1, -1, KEYS))
    weights = in_any_batch((_sum,), shares)
    return shares.view_as(scores), weights.view(*scores.shape[:-1], 1)


def _exp(left: Tensor, right: Any) -> Tensor:
    return left.exp_()


def _sum(left: Tensor, right: Any) -> Tensor:
    return left.sum(-1, keepdim=True)


def in_order(tiles: Sequence[Tensor]) -> Tensor:
    """The sum of `tiles`, [rows, …], from the first on; others may lack last rows."""
    total = tiles[0] + 0.0  # -0.0 becomes 0.0: it would become so beside a hidden tile
    for tile in tiles[1:]:
        total[: len(tile)] += tile
    return total
