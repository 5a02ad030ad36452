"""Chapter 11: functions of rows whose bits do not depend on the rows beside them.

A fast kernel chooses the order of its sums by the shape of its input, so a row can come
out with other last bits when there are more rows beside it. The careful way computes
`ROWS` rows a call, whatever the input. A call for the whole input takes its place only
where it gave the very bits of the careful way, in a test on random numbers of just that
shape.

Left out here: which functions a model needs (`batch_invariance`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

ROWS = 16  # rows of a tile
SAMPLES = 64  # random rows that a test is made of

#: A function of rows: `left` is [items, rows, a] and the result [items, rows, b]. What
#: rows share, `right`, is None, a matrix for all items, or [items, …], one for each.
Function = Callable[[Tensor, Any], Tensor]


class NotInvariant(RuntimeError):
    """A row comes out with other bits each time, even when it is computed alone."""


# ── The careful way ───────────────────────────────────────────────────────────────────


def tile_by_tile(function: Function, n_rows: int, left: Tensor, right: Any) -> Tensor:
    """`function`, one call for `n_rows` rows of an item; the last ones are padded."""
    outputs = []
    for item in range(len(left)):
        tiles = torch.split(left[item : item + 1], n_rows, 1)
        own = right[item : item + 1] if is_one_each(right) else right
        rows = [function(padded(t, n_rows), own)[:, : t.shape[1]] for t in tiles]
        outputs.append(torch.cat(rows, 1))
    return torch.cat(outputs)


def is_one_each(right: Any) -> bool:
    """Whether each item has a matrix of its own."""
    return right is not None and right.ndim == 3


def padded(left: Tensor, n_rows: int) -> Tensor:
    """A copy of `left` with rows of zeros below it, [items, n_rows, a]."""
    output = left.new_zeros(len(left), n_rows, left.shape[2])
    output[:, : left.shape[1]] = left
    return output


# ── One call for the whole input, where it agrees ─────────────────────────────────────


class Way(NamedTuple):
    """How inputs of one shape are computed."""

    function: Function
    tile: int  # rows of a call in the careful way
    width: int  # rows of a call for the whole input, padded; 0 where none agrees


_ways: dict[Any, Way] = {}
_careful_ways: dict[Any, tuple[Function, int]] = {}


def in_any_batch(
    functions: tuple[Function, ...], left: Tensor, right: Any = None
) -> Tensor:
    """`function(left, right)`, with bits that depend on no other row and no other item.

    It is the first of `functions` that is invariant in tiles. Where a call for the
    whole input does not agree with the tiles, it is tried for each half. Raises
    NotInvariant where nothing is invariant. `left` may be overwritten.
    """
    if left.data_ptr() % 64 or not left.is_contiguous():
        left = left.clone(memory_format=torch.contiguous_format)  # as new memory begins
    layout = (None, None) if right is None else (right.shape, right.stride())
    shape = functions, left.shape, *layout, setting_of(left)
    way = _ways.get(shape)
    if way is None:
        way = _ways[shape] = find_way(functions, left, right)
    n_rows = left.shape[1]
    if way.width == n_rows:
        return way.function(left, right)
    if way.width:
        return way.function(padded(left, way.width), right)[:, :n_rows]
    return _in_halves(functions, way, left, right)


def setting_of(left: Tensor) -> tuple[Any, ...]:
    """What else torch chooses a kernel by: under another setting all is asked anew."""
    return (
        left.dtype,
        left.device,
        torch.get_num_threads(),
        torch.get_float32_matmul_precision(),
        torch.backends.mkldnn.enabled,
    )


def _in_halves(
    functions: tuple[Function, ...], way: Way, left: Tensor, right: Any
) -> Tensor:
    """Half of the rows, then the other half; half of the items; at last, one tile."""
    n_items, n_rows, _ = left.shape
    if n_rows > way.tile:
        half = way.tile * -(-n_rows // (2 * way.tile))
        rows = torch.split(left, half, 1)
        return torch.cat([in_any_batch(functions, part, right) for part in rows], 1)
    if n_items > 1:
        half = -(-n_items // 2)
        rights = torch.split(right, half) if is_one_each(right) else (right, right)
        items = zip(torch.split(left, half), rights, strict=True)
        return torch.cat([in_any_batch(functions, *part) for part in items])
    return tile_by_tile(way.function, way.tile, left, right)


# ── The test ──────────────────────────────────────────────────────────────────────────


@torch.no_grad()
def find_way(functions: tuple[Function, ...], left: Tensor, right: Any) -> Way:
    """The way to compute inputs of this shape, by tests on random numbers."""
    trial = Trial(functions, left, right)
    if trial.case not in _careful_ways:
        _careful_ways[trial.case] = trial.careful_way()
    function, tile = _careful_ways[trial.case]
    n_items, n_rows, _ = left.shape
    for multiple in (1, 2, 4, 8, ROWS):
        width = multiple * -(-n_rows // multiple)
        if trial.agrees(function, tile, n_items, width):
            return Way(function, tile, width)
    return Way(function, tile, 0)


class Trial:
    """Random numbers in the layout of an input, and what is asked with them."""

    def __init__(self, functions: tuple[Function, ...], left: Tensor, right: Any):
        random = torch.Generator().manual_seed(0)
        rows = _normal(random, 1, SAMPLES, left.shape[2])
        self.functions = functions
        self.rights: Any = None
        if right is not None:
            self.rights = _random_like(right, rows, random)
        elif functions[0](rows.to(left, copy=True), None).shape == rows.shape:
            rows = _numbers_to_ask(functions[0], left).view(rows.shape)
        else:
            _cancel(rows, None, -1, random)
        self.rows = rows.to(left)
        first = self.right_of(1)
        layout = None if first is None else (first.shape, first.stride())
        self.case = functions, left.shape[2], layout, setting_of(left)

    def right_of(self, n_items: int) -> Any:
        """What so many items have on their right, in the layout of the input's."""
        rights = self.rights
        if not is_one_each(rights):
            return rights
        chosen = torch.arange(n_items) % len(rights)
        return rights[chosen] if rights.stride(-1) == 1 else rights.mT[chosen].mT

    def careful_way(self) -> tuple[Function, int]:
        """The first function that is invariant in tiles, or else row by row."""
        for tile in (ROWS, 1):
            for function in self.functions:
                if self.is_invariant(function, tile):
                    return function, tile
        dtype, device, n_threads, *_ = self.case[-1]
        raise NotInvariant(
            f"{dtype} on {device} with {n_threads} threads: a row that is computed "
            "alone has other bits each time; try float32, or one thread"
        )

    def is_invariant(self, function: Function, tile: int) -> bool:
        """Whether a row of a tile has the same bits at any place, beside any others."""
        right = self.right_of(1)
        once = tile_by_tile(function, tile, self.rows, right)
        order = torch.arange(SAMPLES) * 37 % SAMPLES
        shuffled = tile_by_tile(function, tile, self.rows[:, order], right)
        place = tile // 5
        alone = torch.zeros_like(self.rows[:, :tile])
        alone[:, place] = self.rows[:, -1]
        among_zeros = function(alone, right)[:, place]
        return same_bits(shuffled, once[:, order]) and same_bits(
            among_zeros, once[:, -1]
        )

    def agrees(self, function: Function, tile: int, n_items: int, n_rows: int) -> bool:
        """Whether one call for so many items and rows gives the bits of the tiles."""
        n_kinds = min(n_items, 4)
        of_kinds = self.rows.repeat(n_kinds, 1, 1)
        tiles = tile_by_tile(function, tile, of_kinds, self.right_of(n_kinds))
        expected = tiles[torch.arange(n_items) % n_kinds]
        rows = self.rows[:, torch.arange(n_rows) % SAMPLES]
        whole = function(rows.repeat(n_items, 1, 1), self.right_of(n_items))
        parts = torch.split(whole, SAMPLES, 1)
        return all(same_bits(part, expected[:, : part.shape[1]]) for part in parts)


def _normal(random: torch.Generator, *shape: int) -> Tensor:
    """Random numbers with as many bits as any dtype has."""
    return torch.randn(*shape, generator=random, dtype=torch.float64)


def _random_like(right: Tensor, rows: Tensor, random: torch.Generator) -> Tensor:
    """A matrix like `right`, or four where each item has its own, for these `rows`.

    One of many rows repeats them, since random numbers take time.
    """
    if is_one_each(right):
        matrix = _normal(random, 4, *right.shape[1:])
        _cancel(rows, matrix, -2, random)
        matrix = matrix.to(right)
    else:
        few = _normal(random, min(len(right), SAMPLES), right.shape[1])
        _cancel(rows, few, -1, random)
        matrix = few.to(right)[torch.arange(len(right)) % SAMPLES]
    return matrix if right.stride(-1) == 1 else matrix.mT.contiguous().mT


def _cancel(
    rows: Tensor, matrix: Tensor | None, summed: int, random: torch.Generator
) -> None:
    """Make every sum one that is 0 but for its rounding errors.

    Numbers come in pairs, x and -x, against two that are alike in the dimension that is
    `summed`, and the pairs are of all sizes. Another order of adding shows then in all
    bits: even bfloat16 cannot round it away.
    """
    n = rows.shape[-1]
    one, other, last = torch.randperm(n, generator=random).tensor_split(
        [n // 2, n // 2 * 2]
    )
    rows *= 2.0 ** torch.randint(-12, 13, (n,), generator=random)
    rows[..., other] = -rows[..., one]
    rows[..., last] = 0
    if matrix is not None:
        matrix.index_copy_(summed, other, matrix.index_select(summed, one))


def _numbers_to_ask(function: Function, left: Tensor) -> Tensor:
    """Numbers for a row of each sample: telling ones, or else any."""
    numbers, telling = telling_numbers(function, left.dtype, left.device)
    chosen = numbers[telling] if telling.any() else numbers
    return chosen[torch.arange(SAMPLES * left.shape[2]) % len(chosen)]


@cache
def telling_numbers(
    function: Function, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Numbers of all sizes, and for which of them a short row gives other bits.

    A kernel may take the last few numbers of its input otherwise than all before; for
    most numbers that makes no difference, and for many functions at none.
    """
    random = torch.Generator().manual_seed(0)
    sizes = 4.0 ** torch.randint(-3, 7, (2**15,), generator=random)
    numbers = (_normal(random, 2**15) * sizes).to(device, dtype)
    together = function(numbers.clone().view(1, -1, SAMPLES), None).flatten()
    few = [x.clone().view(1, 1, -1) for x in torch.split(numbers, 7)]
    apart = torch.cat([function(x, None).flatten() for x in few])
    return numbers, (together != apart) & ~(together.isnan() & apart.isnan())


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are the same bit by bit; any NaN is like any other."""
    bits = [x.masked_fill(x.isnan(), 1.0).view(torch.uint8) for x in (a, b)]
    return torch.equal(*bits)
