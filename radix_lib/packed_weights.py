"""Chapter 11: weights packed once, in the layout that oneDNN multiplies fastest.

torch has no public name for it. `onednn` holds the private ones, tries them, and says
where they are missing; nobody else knows them. A packed weight is a second copy: all
those of the default model take about 0.5 GB.

Left out here: whether a product with packed weights depends on the batch
(`invariant_rows` asks).
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

HINT = 16  # rows that the layout is chosen for
SAMPLED = 16  # numbers of a weight that are compared at each use


class OneDNN(NamedTuple):
    """What packed weights need of oneDNN."""

    in_layout: Callable[[Tensor], Tensor]  # [out, in] → something opaque
    multiply: Callable[[Tensor, Tensor], Tensor]  # [..., in] and that → [..., out]
    is_on: Callable[[], bool]


@cache
def onednn(dtype: torch.dtype) -> OneDNN | None:
    """What oneDNN does, or None where this torch or this processor cannot do it."""
    try:
        reorder = torch.ops.mkldnn._reorder_linear_weight.default
        pointwise = torch.ops.mkldnn._linear_pointwise.default
        is_on = torch._C._get_mkldnn_enabled

        def in_layout(weight: Tensor) -> Tensor:
            packed: Tensor = reorder(weight, HINT)
            return packed

        def multiply(rows: Tensor, packed: Tensor) -> Tensor:
            output: Tensor = pointwise(rows, packed, None, "none", [], "")
            return output

        rows = torch.arange(6.0).view(2, 3).to(dtype)
        weight = torch.arange(12.0).view(4, 3).to(dtype)
        works = torch.equal(multiply(rows, in_layout(weight)), F.linear(rows, weight))
    except (AttributeError, RuntimeError, TypeError):
        return None
    return OneDNN(in_layout, multiply, is_on) if works else None


def can_pack(weight: Tensor) -> bool:
    """Whether oneDNN can pack this weight, and is switched on."""
    operations = onednn(weight.dtype) if weight.device.type == "cpu" else None
    return operations is not None and operations.is_on()


def linear_packed(rows: Tensor, weight: Tensor) -> Tensor:
    """`F.linear(rows, weight)` with the weight packed; ask `can_pack` first."""
    entry = packed(weight)
    return entry.multiply(rows, entry.packed)


# ── Packed once, and forgotten in time ────────────────────────────────────────────────


class Packed(NamedTuple):
    """A packed weight, and what tells whether its weight is still the same."""

    weight: weakref.ref[Tensor]
    version: int  # torch's count of changes in place
    address: int
    numbers: Tensor  # a few of the weight's numbers as they are now ...
    former: Tensor  # ... and as they were: torch does not count edits of `.data`
    packed: Tensor
    multiply: Callable[[Tensor, Tensor], Tensor]


_packed: dict[int, Packed] = {}  # by the id of the weight


def packed(weight: Tensor) -> Packed:
    """`weight` as oneDNN multiplies it, packed anew if it has changed.

    It is kept as long as the weight lives. A change of `.data`, or through NumPy, is
    one that torch does not count: it is seen if it meets one of `SAMPLED` numbers, and
    otherwise has to be told by `torch.autograd.graph.increment_version(weight)`. A
    tensor that was made in `torch.inference_mode` has no count, and is packed at each
    call.
    """
    if weight.is_inference():
        return pack(weight, version=0)
    entry = _packed.get(id(weight))
    if entry is None or not _is_current(entry, weight):
        entry = _packed[id(weight)] = pack(weight, weight._version)
    return entry


def _is_current(entry: Packed, weight: Tensor) -> bool:
    return (
        entry.weight() is weight
        and entry.version == weight._version
        and entry.address == weight.data_ptr()
        and entry.packed.shape == weight.shape
        and torch.equal(entry.numbers, entry.former)
    )


def pack(weight: Tensor, version: int) -> Packed:
    """Pack a weight, and note what it is now."""
    operations = onednn(weight.dtype)
    assert operations is not None, "ask can_pack first"
    key = id(weight)
    step = -(-weight.numel() // SAMPLED)
    with torch.inference_mode(False), torch.no_grad():
        now = weight.detach()
        numbers = now.as_strided((-(-weight.numel() // step),), (step,))
        return Packed(
            weight=weakref.ref(weight, lambda _: _packed.pop(key, None)),
            version=version,
            address=weight.data_ptr(),
            numbers=numbers,
            former=numbers.clone(),
            packed=operations.in_layout(now),
            multiply=operations.multiply,
        )
