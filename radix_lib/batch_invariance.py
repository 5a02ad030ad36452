"""Chapter 11: arithmetic in which a token's logits do not depend on what is computed
with it.

A fast kernel chooses the order of its sums by the shape of its input, so a row of a
matrix product can come out with other last bits when there are more rows beside it.
Inside `batch_invariant` every product has the same shape, whatever the input: linear
layers run in tiles of 16 rows, attention in tiles of 16 queries by 64 keys with a
running softmax. Everything else in a Llama-shaped model (norms, rotary embedding,
activations) works row by row already.

Left out here: other layers, left-padded batches (padding moves keys to other tiles),
training.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

ROWS = 16  # rows of a tile
KEYS = 64  # keys of a tile, counted from the sequence's first

# [n, ROWS, a] and [n or 1, a, b] → [n, ROWS, b]
Product = Callable[[Tensor, Tensor], Tensor]


class NotInvariant(RuntimeError):
    """No way of computing passes the test: on this device, in this dtype, with these
    threads.
    """


class batch_invariant(TorchFunctionMode):
    """A `with` block in which `F.linear` and `F.scaled_dot_product_attention` are
    batch-invariant.

    It holds for whatever runs inside, Hugging Face's forward and `generate` as well as
    ours. Every shape of product is tested when it is first met: a way of computing that
    does not pass is not used, and if none does, NotInvariant is raised.

    >>> x, w = torch.randn(40, 32), torch.randn(8, 32)
    >>> with batch_invariant():
    ...     torch.equal(F.linear(x, w)[7:9], F.linear(x[7:9], w))
    True
    """

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: Any = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Called by torch in place of `func`."""
        if func is F.linear:
            return linear(*args, **kwargs or {})
        if func is F.scaled_dot_product_attention:
            return attention(*args, **kwargs or {})
        return func(*args, **kwargs or {})


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.linear`, [..., in] to [..., out], in tiles of `ROWS` rows, the last one
    padded.
    """
    if not input.numel():
        return F.linear(input, weight, bias)  # no row, no sum
    rows = input.reshape(-1, input.shape[-1])
    tiles = _padded(rows, 0, ROWS).view(-1, ROWS, rows.shape[1])
    by_column = weight.t()[None]
    output = _product_for(tiles, by_column)(tiles, by_column).flatten(0, 1)[: len(rows)]
    output = output.view(*input.shape[:-1], len(weight))
    return output if bias is None else output + bias


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
    """`F.scaled_dot_product_attention`, tile by tile.

    `query` is [batch, heads, queries, head_dim], `key` and `value` [batch, kv_heads,
    keys, head_dim]. A query's tile and its place there make no difference, but its keys
    are always cut at multiples of `KEYS`. A tile of keys that it may not look at adds
    exactly nothing.
    """
    if dropout_p or (is_causal and attn_mask is not None):
        raise ValueError(
            "no dropout here (call model.eval()), and no mask beside is_causal"
        )
    n_batch, n_heads, n_queries, head_dim = query.shape
    kv_heads, n_keys = key.shape[1:3]
    # sums of bfloat16 are kept in float32
    wide = torch.promote_types(query.dtype, torch.float32)
    if attn_mask is None:
        attn_mask = torch.ones(n_queries, n_keys, dtype=torch.bool, device=query.device)
        attn_mask = attn_mask.tril() if is_causal else attn_mask
    if attn_mask.dtype == torch.bool:
        attn_mask = torch.zeros_like(attn_mask, dtype=wide).masked_fill(
            ~attn_mask, -math.inf
        )
    # The query heads that share a K/V head become rows of one tile, token by token.
    group = n_heads // kv_heads
    by_group = query.to(wide).reshape(n_batch, kv_heads, group, n_queries, head_dim)
    rows = by_group.transpose(2, 3).flatten(2, 3)
    rows = _padded(rows * (head_dim**-0.5 if scale is None else scale), -2, ROWS)
    bias = attn_mask.to(wide)[(None,) * (4 - attn_mask.ndim)].expand(
        -1, -1, n_queries, n_keys
    )
    bias = _padded(
        _padded(bias.repeat_interleave(group, 2), -2, ROWS), -1, KEYS, -math.inf
    )
    keys, values = (_padded(x.to(wide), -2, KEYS) for x in (key, value))

    queries = rows.reshape(n_batch, kv_heads, -1, ROWS, head_dim)
    bias = bias.reshape(*bias.shape[:2], -1, ROWS, bias.shape[-1])
    total = torch.zeros_like(queries)  # Σ exp(score - top) · value, so far
    weight = queries.new_zeros(*queries.shape[:-1], 1)  # Σ exp(score - top)
    top = torch.full_like(weight, -math.inf)  # the largest score
    for start in range(0, keys.shape[2], KEYS):
        at = slice(start, start + KEYS)
        seen = (
            (bias[..., at] > -math.inf)
            .flatten(3)
            .any(-1)
            .flatten(0, 1)
            .any(0)
            .nonzero()
        )
        if not len(seen):
            continue
        # in earlier tiles, no query may look at these keys
        now = slice(int(seen[0]), None)
        scores = _tile_product(queries[:, :, now], keys[:, :, at].mT).add_(
            bias[:, :, now, :, at]
        )
        new_top = torch.maximum(top[:, :, now], scores.amax(-1, keepdim=True))
        # of a query that has seen no key yet
        base = new_top.masked_fill(new_top == -math.inf, 0)
        fade = torch.exp(top[:, :, now] - base)
        parts = scores.sub_(base).exp_()
        weight[:, :, now] = weight[:, :, now] * fade + parts.sum(-1, keepdim=True)
        total[:, :, now] = total[:, :, now] * fade + _tile_product(
            parts, values[:, :, at]
        )
        top[:, :, now] = new_top
    # a query that sees no key attends to nothing
    weight = weight.masked_fill(weight == 0, 1)
    attended = (total / weight).flatten(2, 3)[:, :, : n_queries * group]
    attended = attended.reshape(n_batch, kv_heads, n_queries, group, head_dim)
    return attended.transpose(2, 3).flatten(1, 2).to(query.dtype)


def _tile_product(tiles: Tensor, other: Tensor) -> Tensor:
    """[batch, heads, tiles, ROWS, a] times [batch, heads, a, b], the same for each
    tile.
    """
    left, right = tiles.flatten(0, 1), other.flatten(0, 1)
    if left.shape[1] == 1:
        product = _product_for(left[:, 0], right)(left[:, 0], right)
    else:  # a call a head, since a matrix cannot be shared among some items of a batch only
        product = torch.stack(
            [
                _product_for(a, b[None])(a, b[None])
                for a, b in zip(left, right, strict=True)
            ]
        )
    return product.view(*tiles.shape[:-1], other.shape[-1])


def _padded(x: Tensor, dim: int, multiple: int, value: float = 0.0) -> Tensor:
    missing = -x.shape[dim] % multiple
    if not missing:
        return x
    shape = list(x.shape)
    shape[dim] = missing
    return torch.cat([x, x.new_full(shape, value)], dim)


# ── Ways to compute a product, and the test that each has to pass ─────────────────────


def _all_at_once(left: Tensor, right: Tensor) -> Tensor:
    return torch.bmm(left, right.expand(len(left), -1, -1))


def _tile_by_tile(left: Tensor, right: Tensor) -> Tensor:
    return torch.stack(
        [a @ b for a, b in zip(left, right.expand(len(left), -1, -1), strict=True)]
    )


def _row_by_row(left: Tensor, right: Tensor) -> Tensor:
    pairs = zip(left, right.expand(len(left), -1, -1), strict=True)
    return torch.stack([torch.cat([row[None] @ b for row in a]) for a, b in pairs])


_WAYS: dict[torch.dtype, list[Product]] = {
    torch.float32: [_all_at_once, _tile_by_tile, _row_by_row]
}
# batched, bfloat16 is many times slower
_OTHER_WAYS: list[Product] = [
    _tile_by_tile,
    _row_by_row,
]
_chosen: dict[tuple[Any, ...], Product] = {}


def _product_for(left: Tensor, right: Tensor) -> Product:
    """The first way of computing this shape of product that passes the test on this
    machine.
    """
    setting = left.device, left.dtype, torch.get_num_threads()
    case = (*setting, *right.shape[1:], right.stride()[1:], len(right) == 1)
    if case not in _chosen:
        for way in _WAYS.get(left.dtype, _OTHER_WAYS):
            if _is_invariant(way, left, right[:1]):
                _chosen[case] = way
                break
        else:
            raise NotInvariant(
                f"products of {left.dtype} on {left.device} with {setting[2]} threads depend on "
                "what is computed beside them, even row by row: try float32, or one thread"
            )
    return _chosen[case]


def _is_invariant(way: Product, like: Tensor, right: Tensor) -> bool:
    """Do a row's bits stay the same, alone or among others, wherever it stands?"""
    random = torch.Generator(device=like.device).manual_seed(0)
    left = torch.randn(
        5,
        ROWS,
        like.shape[2],
        generator=random,
        dtype=torch.float32,
        device=like.device,
    ).to(like.dtype)
    whole = way(left, right)
    order = torch.randperm(5 * ROWS, generator=random, device=like.device)
    shuffled = left.flatten(0, 1)[order].view_as(left)
    alone = torch.zeros_like(left[:1])
    alone[0, 3] = left[2, 7]
    return (
        all(torch.equal(way(left[i : i + 1], right)[0], whole[i]) for i in range(5))
        and torch.equal(way(shuffled, right).flatten(0, 1), whole.flatten(0, 1)[order])
        and torch.equal(way(alone, right)[0, 3], whole[2, 7])
    )
